"""Locations are checked before anything is done there."""

import os

import pytest

from lconv_jax import config
from lconv_jax.config import with_overrides
from lconv_jax.errors import ConfigError
from lconv_jax.host import cache, places
from lconv_jax.rundir import directory as rundir
from lconv_jax.training import loop
from tests import tiny_config

ELSEWHERE = (
    "s3://b/r",
    "s3:/b/r",  # what pathlib makes of it
    "gs://b/r",
    "file:///tmp/r",
    "https://host/r",
    "",
    "a\0b",
    "~no_such_user/r",
)


@pytest.mark.parametrize("place", ELSEWHERE)
def test_what_cannot_be_a_place_is_refused_and_not_made(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: places.local(place, "--workdir"),
        lambda: rundir.check_workdir(place, tiny_config.get_config(), ""),
        lambda: loop.train_and_evaluate(tiny_config.get_config(), place),
    ):
        with pytest.raises(ConfigError, match="--workdir"):
            use()
    assert not os.listdir(tmp_path)


def test_a_place_is_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert places.local("~/a", "x") == "/home/someone/a"
    assert places.local("a/../b", "x") == str(tmp_path / "b")
    assert places.folder("odd:/b", "x") == str(tmp_path / "odd:" / "b")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/in/it"):
        with pytest.raises(ConfigError, match=f"--workdir={tmp_path}/{name}: .*/file is no folder"):
            places.folder(tmp_path / name, "--workdir")
    with pytest.raises(ConfigError, match="there is no folder"):
        places.output(tmp_path / "none" / "out", "--out")
    with pytest.raises(ConfigError, match="is a folder"):
        places.output(tmp_path, "--out")


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("data.data_dir", "gs://b"),
        ("data.name", "s3://b/set.npz"),
        ("data.name", "~no_such_user/x"),
    ],
)
def test_data_are_not_looked_for_where_nothing_is_read(key, place):
    with pytest.raises(ConfigError, match=f"config.{key}={place}"):
        config.validate(with_overrides(tiny_config.get_config(), {key: place}))


def test_without_a_home_nothing_compiled_is_kept_and_no_folder_is_made(tmp_path, monkeypatch):
    kept = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jax.config.update", kept.__setitem__)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no HOME, no entry of the user
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    warnings = []
    monkeypatch.setattr("absl.logging.warning", lambda *args: warnings.append(args))
    cache.enable(None)
    assert kept["jax_compilation_cache_dir"] is None
    assert "no such home directory" in str(warnings[0][1])
    assert not os.listdir(tmp_path)
    with pytest.raises(ConfigError, match="--compilation_cache=s3://b is an address"):
        cache.enable("s3://b")
    cache.enable(str(tmp_path / "cache"))
    assert kept["jax_compilation_cache_dir"] == str(tmp_path / "cache")
