"""Subsets and validation splits, digits, and the digest."""

import dataclasses

import numpy as np
import pytest
import sklearn.datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import data
from lconv_jax.data import dataset


def make_source(labels, num_classes=3):
    """Each image's one pixel pair holds the example's index, so that examples can be followed."""
    labels = np.asarray(labels, np.int32)
    indices = np.arange(len(labels))
    images = np.stack([indices // 256, indices % 256], -1).astype(np.uint8).reshape(-1, 2, 1, 1)
    split = dataset.Split(images, labels)
    return dataset.Source("some", num_classes, split, split, "train file", "test file")


def indices_of(split):
    pixels = split.images.reshape(-1, 2).astype(int)
    return pixels[:, 0] * 256 + pixels[:, 1]


LABELS = np.random.RandomState(0).permutation(np.repeat([0, 1, 2], [30, 40, 50]))


@settings(max_examples=40, deadline=None)
@given(
    per_class=st.integers(0, 29),
    kept_per_class=st.one_of(st.just(0), st.integers(30, 30)),
    seed=st.integers(0, 2**32),
)
def test_validation_is_disjoint_balanced_and_in_file_order(per_class, kept_per_class, seed):
    divided = dataset.divide(
        make_source(LABELS), validation=3 * per_class, examples=3 * kept_per_class, seed=seed
    )
    train, held_out = indices_of(divided.train), indices_of(divided.validation)
    before = np.arange(120) if not kept_per_class else dataset.first_per_class(LABELS, 3, 30)
    assert sorted([*train, *held_out]) == before.tolist()
    assert np.bincount(divided.validation.labels, minlength=3).tolist() == [per_class] * 3
    np.testing.assert_array_equal(divided.train.labels, LABELS[train])
    np.testing.assert_array_equal(divided.validation.labels, LABELS[held_out])
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    np.testing.assert_array_equal(divided.test.labels, LABELS)


def test_validation_is_a_function_of_the_seed():
    source = make_source(LABELS)
    first, again, other = (
        indices_of(dataset.divide(source, validation=30, examples=0, seed=seed).validation)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_validation_never_changes_between_versions():
    # The draw of seed 0, written down: runs of the past must keep their split.
    divided = dataset.divide(make_source(LABELS), validation=9, examples=0, seed=0)
    assert indices_of(divided.validation).tolist() == [3, 11, 13, 20, 53, 59, 92, 111, 113]


def test_each_example_is_held_out_about_equally_often():
    counts = np.zeros(120)
    for seed in range(400):
        divided = dataset.divide(make_source(LABELS), validation=30, examples=0, seed=seed)
        counts[indices_of(divided.validation)] += 1
    expected = 400 * 10 / np.array([30, 40, 50])[LABELS]
    deviation = np.sqrt(expected * (1 - expected / 400))
    assert (abs(counts - expected) < 4.5 * deviation).all()


def test_a_subset_is_the_head_of_each_class():
    divided = dataset.divide(make_source(LABELS), validation=0, examples=12, seed=9)
    expected = sorted(np.concatenate([np.flatnonzero(c == LABELS)[:4] for c in range(3)]))
    assert indices_of(divided.train).tolist() == expected


IMBALANCED = np.random.RandomState(1).permutation(np.repeat([0, 1, 2], [390, 7, 3]))


@pytest.mark.parametrize(
    ("key", "value", "each"),
    [
        ("validation", 40, [39, 1, 0]),  # of 389, 6 and 2 that the classes can spare
        ("validation", 100, [98, 2, 0]),
        ("validation", 397, [389, 6, 2]),
        ("validation", 6, [2, 2, 2]),
        ("examples", 40, [37, 2, 1]),
        ("examples", 400, [390, 7, 3]),
        ("examples", 3, [1, 1, 1]),
    ],
)
def test_what_cannot_be_balanced_is_in_proportion(key, value, each):
    arguments = {"validation": 0, "examples": 0, key: value}
    divided = dataset.divide(make_source(IMBALANCED), seed=0, **arguments)
    chosen = divided.validation if key == "validation" else divided.train
    assert np.bincount(chosen.labels, minlength=3).tolist() == each
    if key == "validation":
        assert np.bincount(divided.train.labels).tolist() == [
            390 - each[0],
            7 - each[1],
            3 - each[2],
        ]
        assert not set(indices_of(divided.train)) & set(indices_of(chosen))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=2, max_size=5),
    key=st.sampled_from(["data.validation", "data.examples"]),
    share=st.floats(0, 1),
)
def test_numbers_of_classes_add_up_and_are_in_proportion(sizes, key, share):
    labels, sizes = np.repeat(np.arange(len(sizes)), sizes), np.array(sizes)
    present = np.minimum(sizes, 1)
    low = present.sum() if key == "data.examples" else 0
    high = sizes.sum() - (0 if key == "data.examples" else present.sum())
    value = max(1, int(low + share * (high - low)))
    if value > high:
        return
    each = dataset.apportion(key, value, labels, len(sizes), "some")
    assert each.sum() == value
    kept = each if key == "data.examples" else sizes - each
    assert (kept >= present).all()
    assert (kept <= sizes).all()
    assert (each >= 0).all()
    if (each != each[0]).any():
        larger = np.argsort(sizes, kind="stable")
        assert (np.diff(each[larger]) >= -1).all()


@pytest.mark.parametrize(
    ("key", "value", "accepts"),
    [
        ("examples", -3, "0, or 3 … 120"),
        ("examples", 2, "0, or 3 … 120"),
        ("examples", 121, "0, or 3 … 120"),
        ("examples", 3.0, "integer"),
        ("validation", -3, "0, or 1 … 117"),
        ("validation", 118, "0, or 1 … 117"),
        ("validation", True, "integer"),
    ],
)
def test_impossible_divisions_are_refused(key, value, accepts):
    arguments = {"validation": 0, "examples": 0, key: value}
    with pytest.raises(ValueError, match=f"data.{key} = {value}.*{accepts}"):
        dataset.divide(make_source(LABELS), seed=0, **arguments)


def test_a_validation_split_must_fit_in_the_subset():
    with pytest.raises(data.DataError, match=r"data\.validation = 12: .* 1 … 9"):
        dataset.divide(make_source(LABELS), validation=12, examples=12, seed=0)


def test_a_validation_split_of_its_own_is_used_unless_another_is_asked_for():
    source = make_source(LABELS)
    own = dataset.Split(source.test.images[:5], source.test.labels[:5])
    source = source._replace(validation=own, validation_file="own file")
    divided = dataset.divide(source, validation=0, examples=0, seed=0)
    assert indices_of(divided.validation).tolist() == [0, 1, 2, 3, 4]
    assert len(divided.train.labels) == 120
    divided = dataset.divide(source, validation=9, examples=0, seed=0)
    assert (len(divided.validation.labels), len(divided.train.labels)) == (9, 111)
    wrong = source._replace(validation=dataset.Split(own.images, own.labels + 2))
    with pytest.raises(data.DataError, match="own file: label 3 of example"):
        dataset.divide(wrong, validation=0, examples=0, seed=0)


def test_one_class_is_refused_for_every_source():
    with pytest.raises(data.DataError, match="train file: every label is 1; two classes"):
        dataset.divide(make_source(np.ones(5)), validation=0, examples=0, seed=0)


def test_digits_are_those_of_scikit_learn():
    digits = data.load("digits")
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    assert digits.image_shape == (8, 8, 1)
    assert (digits.train.images.dtype, digits.train.images.max()) == (np.uint8, 255)
    both = [np.concatenate(parts) for parts in zip(digits.train, digits.test, strict=True)]
    np.testing.assert_array_equal(both[1], labels)
    np.testing.assert_array_equal(np.round(both[0].reshape(-1, 64) * (16 / 255)), images)


def test_the_digest_sees_every_part():
    original = data.load("digits", validation=10)
    changes = [
        dataclasses.replace(original, name="other"),
        dataclasses.replace(original, num_classes=11),
        dataclasses.replace(original, validation=original.train, train=original.validation),
        data.load("digits", validation=10, seed=1),
        data.load("digits", validation=10, examples=1000),
    ]
    for split in ("train", "validation", "test"):
        images, labels = (array.copy() for array in getattr(original, split))
        images[-1, -1, -1, -1] ^= 1
        changes.append(dataclasses.replace(original, **{split: data.Split(images, labels)}))
        images, labels = (array.copy() for array in getattr(original, split))
        labels[-1] = (labels[-1] + 1) % 10
        changes.append(dataclasses.replace(original, **{split: data.Split(images, labels)}))
    digests = {data.digest(change) for change in [original, *changes]}
    assert len(digests) == 1 + len(changes)
    assert data.digest(original) == data.digest(data.load("digits", validation=10))


def test_the_digest_does_not_see_memory_layout():
    original = data.load("digits")
    images, labels = original.train
    train = data.Split(np.asfortranarray(images), labels.astype(labels.dtype.newbyteorder(">")))
    moved = dataclasses.replace(original, train=train)
    assert moved.train.labels.dtype.byteorder != original.train.labels.dtype.byteorder
    assert data.digest(moved) == data.digest(original)


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_must_be_a_name(name):
    with pytest.raises(data.DataError, match=r"data\.name"):
        data.load(name)
