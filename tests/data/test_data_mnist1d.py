"""MNIST-1D is what its package makes, and making it leaves no trace."""

import os
import random
import socket
import sys

import numpy as np
import pytest

from lconv_jax import data


@pytest.mark.slow
def test_it_is_the_package_s_own_set():
    from mnist1d.data import get_dataset_args, make_dataset

    state = np.random.get_state()
    made = make_dataset(get_dataset_args())
    np.random.set_state(state)
    found = data.load("mnist1d")
    assert found.train.images.shape == (4000, 40, 1)
    assert found.test.images.shape == (1000, 40, 1)
    assert found.train.images.dtype == np.float32
    assert found.num_classes == 10
    np.testing.assert_array_equal(found.train.images[..., 0], made["x"].astype(np.float32))
    np.testing.assert_array_equal(found.test.images[..., 0], made["x_test"].astype(np.float32))
    np.testing.assert_array_equal(found.train.labels, made["y"])
    np.testing.assert_array_equal(found.test.labels, made["y_test"])


@pytest.mark.slow
def test_same_seed_same_bytes_and_sizes_as_asked():
    name = "mnist1d:examples=137,test=63,seed=5"
    one, two = data.load(name), data.load(name)
    assert data.digest(one) == data.digest(two)
    assert data.digest(one) != data.digest(data.load(name.replace("seed=5", "seed=6")))
    assert (len(one.train.labels), len(one.test.labels)) == (137, 63)
    both = np.concatenate([one.train.labels, one.test.labels])
    np.testing.assert_array_equal(np.bincount(both), np.full(10, 20))
    signals = np.concatenate([one.train.images, one.test.images])
    assert signals.mean() == pytest.approx(0, abs=1e-5)
    assert signals.std() == pytest.approx(1, abs=1e-5)


def test_it_needs_no_network_writes_no_file_and_keeps_global_random_state(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.chdir(tmp_path)
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.rand()
    random.seed(3)
    np.random.seed(3)
    data.load("mnist1d:examples=40,test=10")
    assert (random.random(), np.random.rand()) == expected
    assert os.listdir(tmp_path) == []


def test_without_the_package_it_says_what_to_install(monkeypatch):
    for module in ("mnist1d", "mnist1d.data"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(data.DataError, match="pip install mnist1d"):
        data.load("mnist1d")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("examples=4001", "multiple of 10"),
        ("test=0", "must be 1 or more"),
        ("seed=-1", "seed = -1 must be in"),
        ("example=10", "not an option of mnist1d"),
        ("seed=a", "must be of type int"),
    ],
)
def test_an_option_that_cannot_be_is_named(options, says):
    with pytest.raises(data.DataError, match=says):
        data.load(f"mnist1d:{options}")


def test_more_than_a_minute_or_two_of_making_is_refused():
    with pytest.raises(
        data.DataError, match="examples = 1000000 must be at most 200,000 with test"
    ):
        data.load("mnist1d:examples=1000000,test=10")
