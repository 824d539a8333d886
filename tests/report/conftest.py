"""One tiny run for all tests of the report, and a browser."""

import shutil

import pytest

from lconv_jax import train
from tests import tiny_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run with examples held out: (directory, config, summary). It is not changed."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_config.get_config()
    config.data.validation = 100
    return directory, config, train.train_and_evaluate(config, directory)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(finished[0], tmp_path / "tiny")


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine (Debian's package: chromium)")
    with playwright.sync_playwright() as driver:
        # The sandbox of Chromium refuses to start for root, as which containers run tests.
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
