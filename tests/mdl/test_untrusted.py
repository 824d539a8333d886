"""Files that a few bytes make huge are refused; what predictions hold in memory is bounded."""

import numpy as np
import pytest
from hypothesis import given, settings

from lconv_jax import mdl
from lconv_jax.mdl import evaluation, network, untrusted
from lconv_jax.mdl.coder import DamagedError
from tests.mdl.networks_made import crafted, dense_network, make_examples, networks


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        crafted("full", units=2**24),
        pytest.param(crafted("raw", 2**33), marks=pytest.mark.slow),
        pytest.param(crafted("theorem2", 2**31), marks=pytest.mark.slow),
        pytest.param(crafted("layer", shape=(2**14, 2**14, 1), units=2), marks=pytest.mark.slow),
    ],
)
def test_a_few_bytes_that_ask_for_gigabytes_are_refused(file):
    assert len(file) < 20
    with pytest.raises(DamagedError, match=r"^a: it takes more than 1024 MiB to read; .* --trust"):
        untrusted.decode({"a": file})


@pytest.mark.slow
@pytest.mark.parametrize("file", [crafted("near", units=2**24), crafted("raw", 2**20)])
def test_a_few_bytes_that_take_for_ever_are_refused(file):
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
