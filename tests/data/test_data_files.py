"""Files of data: what is opened and how, and what they and options may ask of the memory."""

import gzip
import os
import pathlib
import time

import numpy as np
import pytest

from lconv_jax import data
from lconv_jax.data import dataset, files, options
from lconv_jax.data.sources import registry
from lconv_jax.host import memory


def test_a_guard_says_where_and_passes_on_what_is_said_already():
    says = r"^file: cannot be read \(KeyError: 'x'\)\. Do it again$"
    with pytest.raises(data.DataError, match=says), files.reading("file", "Do it again"):
        raise KeyError("x")
    with pytest.raises(data.DataError, match=r"^said$"), files.reading("file"):
        raise data.DataError("said")
    with pytest.raises(KeyboardInterrupt), files.reading("file"):
        raise KeyboardInterrupt


def test_memory_that_is_not_there_is_a_data_error():
    with pytest.raises(data.DataError, match="file: cannot be read"), files.reading("file"):
        np.empty(2**60, np.uint8)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "nothing", "loop"])
def test_only_regular_files_are_opened_and_none_is_waited_for(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    before = time.monotonic()
    with pytest.raises(data.DataError, match="file: "):
        files.read_bytes(path)
    assert time.monotonic() - before < 5
    assert files.is_regular(path) is False


def test_gzip_is_known_by_its_first_bytes(tmp_path):
    path = tmp_path / "file"
    for content in (b"", b"\x1f", b"plain", bytes(10**5)):
        path.write_bytes(content)
        assert files.read_bytes(path) == content
        path.write_bytes(gzip.compress(content))
        assert files.read_bytes(path) == content


def test_what_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "host_bytes", lambda: 2**20)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(bytes(2**22)))
    with pytest.raises(data.DataError, match="file: its content would take"):
        files.read_bytes(path)


@pytest.mark.parametrize("name", ["~nobody_of_this_name/x", "a\0b", "\ud800"])
def test_what_is_no_path(name):
    with pytest.raises(data.DataError):
        data.load(f"{name}.npz")
    for source in ("dna", "words", "spoken_digits", "fashion_mnist", "cifar10"):
        with pytest.raises(data.DataError):
            data.load(source, name)


def test_a_set_larger_than_the_memory_is_not_read_whole(monkeypatch):
    digits = data.load("digits", stream="always")
    monkeypatch.setattr(memory, "host_bytes", lambda: 1000)
    with pytest.raises(data.DataError, match=r"would take .* GiB of memory.*data\.stream=auto"):
        dataset.read_all(digits.train)


@pytest.mark.parametrize(
    "name",
    [
        *("nlgp:length=99999999999", "gp_2d:side=9999999", "nlgp:examples=999999999999"),
        *("gp:test=18446744073709551615", "planted:length=999999999", "planted:units=999999999"),
        *("planted:length=10000000,window=10000000", "planted:examples=1000000000000"),
        *("planted:kind=conv,length=100000", "mnist1d:examples=1000000000,test=1000"),
        *("dna_motifs:length=999999999999", "dna_motifs:examples=999999999999"),
        *("dna_motifs:length=999999999999,motif=999999999999",),
    ],
)
def test_options_that_ask_for_the_world_are_refused_at_once(name):
    before = time.monotonic()
    with pytest.raises(data.DataError, match=r"would take .* GiB of memory; at most .* Lower"):
        data.load(name)
    assert time.monotonic() - before < 5


def test_a_teacher_that_would_take_hours_is_refused_at_once():
    with pytest.raises(data.DataError, match=r"20000 units and places.*Lower length or units"):
        data.load("planted:kind=conv,units=20,length=1004")


def test_integers_beyond_all_use_are_refused():
    for value in (2**64, -(2**64), 10**400):
        with pytest.raises(data.DataError, match=r"n = .* must be within"):
            options.parse(f"some:n={value}", {"n": 1})
    assert options.parse(f"some:n={2**64 - 1}", {"n": 1}) == {"n": 2**64 - 1}


def test_what_no_reader_foresaw_is_a_data_error_too(monkeypatch):
    monkeypatch.undo()  # the net is off in the other tests
    monkeypatch.setattr(registry, "_read", lambda name, folder: {}["missing"])
    with pytest.raises(data.DataError, match=r"data\.name = 'some'.*KeyError: 'missing'"):
        data.load("some")


def test_listing_a_folder_that_is_none(tmp_path):
    with pytest.raises(data.DataError, match=r"none: cannot be read .*Do it"):
        files.listed(tmp_path / "none", "Do it")
    assert files.listed(pathlib.Path(tmp_path), "Do it") == []
