"""Data sets made of arrays: what is accepted, what is refused, and what is written as a file."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from lconv_jax import data
from lconv_jax.data import arrays
from lconv_jax.errors import ConfigError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 6, 5), dtype=np.uint8)
LABELS = np.arange(12) % 3
NAMES = ("ant", "bee", "cat")


def made(**changes):
    given = {"train": (IMAGES, LABELS), "test": (IMAGES[:5], LABELS[:5])} | changes
    return data.from_arrays(given.pop("train"), given.pop("test"), **given)


def test_arrays_become_splits():
    dataset = made(validation=(IMAGES[5:8], LABELS[5:8]), name="pets", class_names=NAMES)
    assert (dataset.name, dataset.num_classes, dataset.image_shape) == ("pets", 3, (6, 5, 1))
    assert dataset.class_names == NAMES
    np.testing.assert_array_equal(dataset.train.images[..., 0], IMAGES)
    np.testing.assert_array_equal(dataset.validation.labels, LABELS[5:8])
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32
    assert np.shares_memory(dataset.train.images, IMAGES)
    assert len(made().validation.labels) == 0


def test_lists_and_arrays_of_jax_are_arrays_too():
    expected = data.digest(made())
    lists = made(train=(jnp.asarray(IMAGES), LABELS.tolist()), test=[IMAGES[:5], LABELS[:5, None]])
    assert data.digest(lists) == expected


def test_signals_have_one_axis():
    signals = RNG.normal(size=(12, 9)).astype(np.float64)
    dataset = made(train=(signals, LABELS), test=(signals[:5], LABELS[:5]), signals=True)
    assert dataset.image_shape == (9, 1)
    np.testing.assert_array_equal(dataset.train.images[..., 0], signals.astype(np.float32))


def test_the_digest_covers_values_and_not_the_names_of_classes():
    changed = IMAGES.copy()
    changed[3, 2, 1] ^= 1
    first = data.digest(made())
    assert data.digest(made(class_names=NAMES)) == first
    assert data.digest(made(train=(changed, LABELS))) != first
    assert data.digest(made(name="others")) != first


def nan():
    images = IMAGES.astype(np.float32)
    images[4, 1, 2] = np.nan
    return images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (IMAGES.astype(int), LABELS)}, r"train images has type int64.*uint8"),
        ({"train": (IMAGES[0], LABELS)}, r"train images has shape \(6, 5\)"),
        ({"train": (IMAGES.reshape(12, 3, 10, 1)[..., [0] * 9], LABELS)}, r"Channels must be last"),
        ({"train": (nan(), LABELS)}, r"train images has NaN .* first in example 4"),
        ({"train": (IMAGES, LABELS / 2)}, r"train labels has type float64.*integers"),
        ({"train": (IMAGES, LABELS[:7])}, r"12 images but 7 labels"),
        ({"train": (IMAGES, LABELS * 2)}, r"largest label is 4, but class 1 has no example"),
        ({"train": (IMAGES, LABELS * 0)}, r"every label is 0; two classes"),
        ({"train": (IMAGES[:0], LABELS[:0])}, r"train\): holds no example"),
        ({"train": IMAGES}, r"train must be a pair of arrays"),
        ({"train": 3}, r"train must be a pair of arrays"),
        ({"train": ([[[1, 2]], [[1]]], LABELS)}, r"train must be a pair of arrays"),
        ({"test": (IMAGES[:5, :4], LABELS[:5])}, r"test\): images of shape \(4, 5, 1\)"),
        ({"test": (IMAGES[:5], LABELS[:5] + 1)}, r"test\): label 3 of example 2 is out of range"),
        ({"validation": (nan(), LABELS)}, r"validation images has NaN"),
        ({"class_names": ("ant", "bee")}, r"2 class_names for 3 classes"),
        ({"class_names": "abc"}, r"class_names must be a list of texts"),
        ({"class_names": (1, 2, 3)}, r"class_names must be a list of texts"),
        ({"name": ""}, r"name = ''"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(data.DataError, match=message):
        made(**changes)


def test_a_data_set_made_by_hand_is_checked():
    dataset = made()
    train = data.Split(nan()[..., None], dataset.train.labels)
    for wrong, message in (
        (dataclasses.replace(dataset, train=train), "train images has NaN"),
        (dataclasses.replace(dataset, num_classes=2), "label 2 of example 2 is out of range"),
        (dataclasses.replace(dataset, class_names=("ant",)), "1 class_names for 3 classes"),
        ({"train": 3}, r"dataset = dict: must be a lconv_jax\.data\.Dataset"),
    ):
        with pytest.raises(data.DataError, match=message):
            data.given(wrong)


@pytest.mark.parametrize("stream", ["never", "always"])
def test_a_given_set_is_divided_as_one_that_is_read(stream):
    whole = data.load("digits")
    read = data.load("digits", validation=100, examples=500, seed=3)
    given = data.given(whole, validation=100, examples=500, seed=3, stream=stream)
    assert data.is_streamed(given.train) == (stream == "always")
    assert data.digest(given) == data.digest(read)
    # What is streamed may be given, too.
    assert data.digest(data.given(given)) == data.digest(read)


@pytest.mark.parametrize("signals", [False, True])
def test_what_is_saved_is_loaded(tmp_path, signals):
    images = RNG.normal(size=(12, 9)) if signals else IMAGES
    dataset = made(
        train=(images, LABELS),
        test=(images[:5], LABELS[:5]),
        validation=(images[5:8], LABELS[5:8]),
        signals=signals,
        name="pets",
        class_names=("ant", "bee", "Käfer"),
    )
    data.save(dataset, tmp_path / "pets.npz")
    loaded = data.load("pets.npz", tmp_path)
    assert data.digest(loaded) == data.digest(dataset)
    assert loaded.class_names == ("ant", "bee", "Käfer")
    assert [path.name for path in tmp_path.iterdir()] == ["pets.npz"]


def test_where_nothing_can_be_saved(tmp_path):
    with pytest.raises(data.DataError, match=r"pets\.npy: .*ends in \.npz"):
        data.save(made(), tmp_path / "pets.npy")
    with pytest.raises(ConfigError, match="there is no folder"):
        data.save(made(), tmp_path / "nowhere" / "pets.npz")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["ant", "bee"]), "2 class_names for 3 classes"),
        (np.arange(3), "class_names has type int64"),
        (np.array(["ant", "bee", 3], object), "class_names has type object"),
    ],
)
def test_names_in_a_file_that_are_none(tmp_path, names, message):
    pair = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
    np.savez(tmp_path / "set.npz", **pair, class_names=names)
    with pytest.raises(data.DataError, match=rf"set\.npz: .*{message}"):
        data.load("set.npz", tmp_path)


def test_the_sets_that_come_with_names():
    assert data.load("fashion_mnist_small").class_names[8] == "Bag"
    assert arrays.source(data.load("fashion_mnist_small")).class_names[-1] == "Ankle boot"
    assert data.load("digits").class_names == ()
