"""Runs the tests under `sharded/` with eight devices, each file in a process of its own."""

import pytest

from tests import processes

FILES = sorted((processes.ROOT / "tests" / "sharded").glob("test_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_sharded(file):
    arguments = "-p", "no:cacheprovider", "-n0", file
    environ = {"LCONV_TEST_DEVICES": "8"}
    status, out, err = processes.run("pytest", *arguments, platform="cpu", environ=environ)
    assert status == 0, f"{out}\n{err}"
    assert " passed" in out
