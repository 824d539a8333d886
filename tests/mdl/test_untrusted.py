"""Files that a few bytes make huge are refused; what predictions hold in memory is bounded."""

import contextlib
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import mdl
from lconv_jax.mdl import codes, evaluation, network, untrusted
from lconv_jax.mdl.coder import DamagedError
from tests.mdl.networks_made import crafted, dense_network, make_array, make_examples, networks


@pytest.mark.slow
def test_sound_files_are_read_and_a_damaged_one_is_named():
    kernels = [np.arange(12).reshape(4, 3), np.eye(2, dtype=int)]
    files = {str(index): mdl.encode(dense_network(kernel)) for index, kernel in enumerate(kernels)}
    found = untrusted.decode(files)
    assert {name: mdl.encode(network) for name, network in found.items()} == files
    file = files["1"]
    damaged = bytes([*file[:-1], file[-1] ^ 1])
    with pytest.raises(DamagedError, match=r"^1: .* its checksum is not that of its contents"):
        untrusted.decode(files | {"1": damaged, "2": b""})


# A billion weights, integers of gigabytes, sets that take minutes to count, and of no cost each.
FEW_BYTES = {
    "full": crafted("full", units=2**24),
    "raw": crafted("raw", 2**33),
    "wide": crafted("raw", 2**20),
    "theorem2": crafted("theorem2", 2**31),
    "theorem2, wide": crafted("theorem2", 9, 2**35),
    "layer": crafted("layer", shape=(2**14, 2**14, 1), units=2),
    "layer, no units": crafted("layer", shape=(2**20, 2**10, 1), units=0),
    "near": crafted("near", shape=(2**10, 2**10, 1), units=1),
    "units": crafted("unit", shape=(1, 1), units=2**23),
    "local": crafted("local", shape=(2**9, 2**9, 1), units=3, tail=20),
    "shared": crafted("shared", 200, shape=(2**9, 2**9, 1), units=3, tail=20),
}


@pytest.mark.parametrize("name", FEW_BYTES)
def test_a_few_bytes_take_neither_seconds_nor_gigabytes(name):
    assert len(FEW_BYTES[name]) < 50
    begun = time.process_time()
    with pytest.raises(DamagedError, match="it asks for more work than a network of its length"):
        mdl.decode(FEW_BYTES[name])
    assert time.process_time() - begun < 3
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            mdl.decode(FEW_BYTES[name])
        assert tracemalloc.get_traced_memory()[1] < 2e8
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.binary(min_size=1, max_size=60).filter(lambda coded: not coded.endswith(b"\0")))
def test_whatever_is_under_a_good_checksum_is_read_or_refused_at_once(coded):
    body = bytes([codes.VERSION, len(coded)]) + coded
    begun = time.process_time()
    with contextlib.suppress(DamagedError):
        mdl.decode(body + zlib.crc32(body).to_bytes(4, "little"))
    assert time.process_time() - begun < 3


@pytest.mark.slow
def test_a_long_file_that_asks_for_gigabytes_is_refused():
    file = crafted("full", units=2**24, tail=2_000_000)
    with pytest.raises(DamagedError, match=r"^a: it takes more than 1024 MiB to read; .* --trust"):
        untrusted.decode({"a": file})


@pytest.mark.slow
def test_a_file_that_takes_too_long_is_refused(monkeypatch):
    run = subprocess.run
    first = "from lconv_jax.mdl import untrusted; untrusted._MOST_SECONDS = 1; untrusted._main()"
    monkeypatch.setattr(
        subprocess, "run", lambda _, **how: run([sys.executable, "-c", first], **how)
    )
    random = np.random.default_rng(0)
    kernels = [make_array(random, (784, 900), 0.02, 3), np.ones((900, 1), np.int64)]
    file = mdl.encode(dense_network(*kernels), "near")
    with pytest.raises(DamagedError, match=r"^a: it takes more than 20 s to read; .* --trust"):
        untrusted.decode({"a": file})


def test_a_network_that_is_small_to_write_and_slow_to_evaluate_is_refused():
    zeros = np.zeros((2**10, 2**12), np.int64)
    large = dense_network(zeros, np.zeros((2**12, 2), np.int64))
    assert len(mdl.encode(large, "layer")) < 100
    untrusted.check_work("a", large, 10_000)
    with pytest.raises(ValueError, match=r"^a: its network takes 4.2e\+11 multiply-adds on 1"):
        untrusted.check_work("a", large, 100_000)


@settings(deadline=None, max_examples=40)
@given(networks())
def test_predictions_do_not_depend_on_the_slices(made):
    examples = make_examples(made)
    whole = network.predict(made, examples)
    for size in (1, evaluation._SLICE_BYTES):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluation, "_SLICE_BYTES", size)
            np.testing.assert_array_equal(evaluation.predict(made, examples), whole)
    none = evaluation.predict(made, examples[:0])
    assert none.shape == (0,)


def test_multiply_adds_are_counted():
    conv = network.Term("conv", 0, 2, np.ones((3, 3, 1, 4), np.int64))
    local = network.Term("local", 1, 1, np.ones((3, 2, 1, 1, 4, 5), np.int64))
    dense = network.Term("dense", 2, 1, np.ones((30, 2), np.int64))
    layers = [network.Layer((t,), np.zeros(t.kernel.shape[-1])) for t in (conv, local, dense)]
    made = network.Network((6, 4, 1), "black", tuple(layers))
    # 3 × 2 positions of the convolution; every weight once of the others.
    assert evaluation.example_work(made) == 6 * 36 + 6 * 20 + 60
