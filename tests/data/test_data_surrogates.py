"""A surrogate removes what it says, and keeps the rest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lconv_jax import config as config_lib
from lconv_jax import data
from lconv_jax.data import surrogates
from lconv_jax.training import lanes, setup
from tests.tiny_config import get_config


def made(images, labels, text):
    """The surrogate of a set whose test examples are its training examples."""
    whole = data.from_arrays((images, labels), (images, labels), signals=images.ndim == 3)
    return data.given(whole, surrogate=text)


def random_images(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, shape, np.uint8), np.arange(shape[0]) % 2


def test_gaussian_twins_have_the_moments_of_their_class_and_no_more():
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) % 2
    mixing = rng.normal(size=(2, 4, 4))
    signs = rng.choice([-1.0, 1.0], size=(20_000, 4))
    flat = np.einsum("np,npq->nq", signs, mixing[labels]) + 5 * labels[:, None]
    found = made(flat.reshape(-1, 2, 2, 1), labels, "gaussian")
    for split in (found.train, found.test):
        twins = np.asarray(split.images).reshape(-1, 4)
        for label in (0, 1):
            of_class = twins[labels == label]
            np.testing.assert_allclose(of_class.mean(0), flat[labels == label].mean(0), atol=0.1)
            expected = np.cov(flat[labels == label].T)
            np.testing.assert_allclose(np.cov(of_class.T), expected, atol=0.05 * expected.max())
            # The signs that were mixed have a kurtosis of 1.
            unmixed = (of_class - of_class.mean(0)) @ np.linalg.inv(mixing[label])
            kurtosis = (unmixed**4).mean(0) / (unmixed**2).mean(0) ** 2
            np.testing.assert_allclose(kurtosis, 3, atol=0.25)
    assert not np.array_equal(found.train.images, found.test.images)


def test_gaussian_twins_of_few_images_lie_in_their_span_in_the_units_of_the_input():
    images, labels = random_images((8, 4, 5, 3))
    found = made(images, labels, "gaussian")
    assert found.train.images.dtype == np.float32
    # Black is 0, and a unit is that of the normalised image.
    units = np.asarray(data.normalize(images)) - np.asarray(data.normalize(np.zeros(1, np.uint8)))
    for label in (0, 1):
        basis = units[labels == label].reshape(4, -1)
        span = (basis - basis.mean(0)).T
        twins = found.train.images[labels == label].reshape(4, -1) - basis.mean(0)
        left = twins.T - span @ np.linalg.lstsq(span, twins.T)[0]
        np.testing.assert_allclose(left, 0, atol=1e-4)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(2, 9), st.integers(2, 9), st.sampled_from([1, 3])),
    side=st.integers(2, 5),
)
def test_scrambling_moves_places_within_their_blocks_only(shape, side):
    images, labels = random_images((6, *shape))
    found = np.asarray(made(images, labels, f"scrambled:block={side}").train.images)
    for row in range(0, shape[0], side):
        for column in range(0, shape[1], side):
            here = (slice(None), slice(row, row + side), slice(column, column + side))
            for before, after in zip(images[here], found[here], strict=True):
                places = [
                    sorted(map(tuple, each.reshape(-1, shape[2]))) for each in (before, after)
                ]
                assert places[0] == places[1]


def test_every_image_is_scrambled_in_its_own_way():
    images = np.broadcast_to(np.arange(64, dtype=np.uint8).reshape(8, 8), (20, 8, 8))
    found = np.asarray(made(images, np.arange(20) % 2, "scrambled:block=8").train.images)
    assert len({each.tobytes() for each in found}) == 20


def test_signals_are_scrambled():
    signals = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
    found = np.asarray(made(signals, np.arange(6) % 2, "scrambled:block=3").train.images)
    assert not np.array_equal(found, signals)
    blocks = [each.reshape(6, 3, 3, 2) for each in (signals, found)]
    np.testing.assert_array_equal(*(np.sort(each, 2)[..., 0] for each in blocks))


def test_shifts_are_random_and_go_round_the_border():
    images, labels = random_images((300, 3, 4, 1))
    found = np.asarray(made(images, labels, "shifted").train.images)
    shifts = []
    for before, after in zip(images, found, strict=True):
        fits = [
            (down, right)
            for down in range(3)
            for right in range(4)
            if np.array_equal(np.roll(before, (down, right), (0, 1)), after)
        ]
        shifts.append(fits[0])
    counts = np.zeros((3, 4))
    np.add.at(counts, tuple(np.transpose(shifts)), 1)
    assert 8 < counts.min() <= counts.max() < 50  # 25 on average


def test_centring_moves_a_blob_to_the_middle_and_leaves_it_there():
    images = np.zeros((6, 9, 11, 1), np.uint8)
    for index, (row, column) in enumerate([(1, 1), (7, 9), (4, 5), (1, 9), (7, 1), (2, 5)]):
        images[index, row - 1 : row + 2, column - 1 : column + 2] = 200
    labels = np.arange(6) % 2
    found = np.asarray(made(images, labels, "centred").train.images)
    expected = np.zeros((9, 11, 1), np.uint8)
    expected[3:6, 4:7] = 200
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))
    black = np.zeros_like(images)
    np.testing.assert_array_equal(made(black, labels, "centred").train.images, black)


def test_only_training_labels_are_shuffled():
    images, labels = random_images((40, 3, 3, 1))
    found = made(images, labels, "labels")
    np.testing.assert_array_equal(found.train.images, images)
    np.testing.assert_array_equal(found.test.labels, labels)
    assert sorted(found.train.labels) == sorted(labels)
    assert not np.array_equal(found.train.labels, labels)


def test_a_share_of_the_labels_is_shuffled_among_themselves():
    images = np.zeros((1000, 2, 2, 1), np.uint8)
    labels = np.arange(1000) % 10
    found = np.asarray(made(images, labels, "labels:share=0.3").train.labels)
    np.testing.assert_array_equal(np.sort(found), np.sort(labels))
    # A tenth of them keep their class.
    assert np.mean(found != labels) == pytest.approx(0.27, abs=0.02)


@pytest.mark.parametrize("kind", [kind for kind, found in surrogates.KINDS.items() if found])
def test_the_seed_decides(kind):
    images, labels = random_images((20, 4, 4, 1))
    first, again, other = (
        made(images, labels, text).train for text in (kind, f"{kind}:seed=0", f"{kind}:seed=1")
    )
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phase", "must be gaussian, scrambled, shifted, centred or labels"),
        ("scrambled:block=1", "block = 1 must be ≥ 2"),
        ("labels:seed=-1", "seed = -1 must be ≥ 0"),
        ("labels:share=1.5", r"share = 1.5 must be in \(0, 1\]"),
        ("labels:share=nan", "share = nan must be in"),
        ("centred:seed=1", "not an option of centred; .*: none"),
        ("scrambled:side=4", "not an option of scrambled; .* block=4, seed=0"),
        ("gaussian:seed=x", "seed = 'x' must be of type int"),
    ],
)
def test_what_is_no_surrogate_is_refused(text, message):
    config = config_lib.with_overrides(get_config(), {"data.surrogate": text})
    with pytest.raises(config_lib.ConfigError, match=f"config.data.surrogate = .*{message}"):
        config_lib.validate(config)


def test_runs_and_sweeps_see_the_same_surrogate():
    config = config_lib.with_overrides(get_config(), {"data.surrogate": "shifted:seed=2"})
    alone, together = setup.load(config), lanes.load_whole(config)
    plain = setup.load(get_config())
    np.testing.assert_array_equal(alone.train.images, together.train.images)
    assert not np.array_equal(alone.train.images, plain.train.images)
    assert alone.name == "digits, shifted:seed=2"
