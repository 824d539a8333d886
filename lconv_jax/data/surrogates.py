"""Surrogate data: a set in which one property of the images is removed, or one alone is kept.

What a network still learns from a surrogate does not come from the property that was removed.

    gaussian   each example is a draw from the normal distribution that has the mean and the
               covariance of its class in the training set: nothing is kept beyond second moments.
               float32, uint8 images in the units of a network's input, with black at 0
    scrambled  in each example, the places of every block of `block` on a side are shuffled: what is
               nearer than that is removed, what is farther is kept
    shifted    each example is moved round its borders by a random shift: every place has the same
               statistics
    centred    each example is moved round its borders until its centre of mass is in the middle
    labels     the labels of the training set are shuffled, or a random `share` of them

Every example is drawn once, not anew in every epoch. Options stand behind the name, as in
`scrambled:block=7,seed=3`. The word is that of Theiler et al., "Testing for nonlinearity in time
series: the method of surrogate data", Physica D 1992.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import dataset, options

# The options of each kind, and their defaults.
KINDS: dict[str, Mapping[str, Any]] = {
    "gaussian": {"seed": 0},
    "scrambled": {"block": 4, "seed": 0},
    "shifted": {"seed": 0},
    "centred": {},
    "labels": {"share": 1.0, "seed": 0},
}
ACCEPTED = " or ".join([", ".join([*KINDS][:-1]), [*KINDS][-1]]) + ", with options behind a colon"
_LEAST = {"seed": 0, "block": 2}
_KEY = "data.surrogate"
# Examples that are drawn at a time.
_BLOCK = 1024
# Of uint8 images, one unit of a network's input (see `augmentation.shifts.normalize`).
_UNIT = np.float32(255 * 0.25)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The kind of a surrogate and its options.

    Raises:
      DataError: it is no kind of surrogate, or has other options.
    """
    kind = text.partition(":")[0]
    if kind not in KINDS:
        raise dataset.DataError(f"{_KEY} = {text!r}: must be {ACCEPTED}")
    found = options.parse(text, KINDS[kind], _KEY)
    accepted = options.at_least(found, {name: low for name, low in _LEAST.items() if name in found})
    if "share" in found:
        accepted["share"] = (0 < found["share"] <= 1, "in (0, 1]")
    options.require(text, found, accepted, _KEY)
    return kind, found


def make(source: dataset.Source, text: str) -> dataset.Source:
    """The surrogate of a data set: splits in memory, of as many examples.

    Args:
      source: what a reader returned.
      text: kind and options.

    Raises:
      DataError: there is no such surrogate, or the set is too large to be held.
    """
    kind, found = parse(text)
    splits = {name: dataset.read_all(split) for name, (split, _) in source.splits().items()}
    train = splits["train"]
    made = {}
    for number, (name, split) in enumerate(splits.items()):
        # A stream of its own for each split.
        rng = np.random.default_rng([found.get("seed", 0), number])
        images, labels = np.asarray(split.images), np.asarray(split.labels)
        if kind == "gaussian":
            images = _gaussian(rng, train, labels, source.num_classes)
        elif kind == "scrambled":
            images = _scrambled(rng, images, found["block"])
        elif kind == "shifted":
            spatial = images.shape[1:-1]
            images = _rolled(images, rng.integers(0, spatial, (len(images), len(spatial))))
        elif kind == "centred":
            images = _rolled(images, _to_the_middle(images))
        elif name != "test":
            chosen = rng.permutation(len(labels))[: round(found["share"] * len(labels))]
            labels = labels.copy()
            labels[chosen] = labels[rng.permutation(chosen)]
        made[name] = dataset.Split(images, labels)
    return source._replace(
        name=f"{source.name}, {text}",
        train=made["train"],
        test=made["test"],
        validation=made.get("validation"),
    )


def _gaussian(
    rng: np.random.Generator, train: dataset.Split, labels: NDArray[Any], num_classes: int
) -> NDArray[np.float32]:
    """A draw for each label: of μ + z R, where RᵀR is the covariance of the label's class."""
    shape = train.images.shape[1:]
    unit = _UNIT if train.images.dtype == np.uint8 else np.float32(1)
    drawn = np.empty((len(labels), *shape), np.float32)
    for label in range(num_classes):
        (rows,) = np.nonzero(labels == label)
        members = train.images[train.labels == label].reshape(-1, np.prod(shape)) / unit
        mean = members.mean(0, dtype=np.float64).astype(np.float32)
        root = np.linalg.qr(members - mean, mode="r") / np.sqrt(max(1, len(members) - 1))
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            noise = rng.standard_normal((len(block), len(root)), np.float32)
            drawn[block] = (mean + noise @ root).reshape(-1, *shape)
    return drawn


def _scrambled(rng: np.random.Generator, images: NDArray[Any], side: int) -> NDArray[Any]:
    """Images whose places are shuffled within blocks; those at the far borders may be smaller."""
    spatial = images.shape[1:-1]
    index = np.indices(spatial) // side
    blocks = np.ravel_multi_index(tuple(index), spatial).ravel()
    into = np.argsort(blocks, kind="stable")
    flat = images.reshape(len(images), len(blocks), -1)
    shuffled = np.empty_like(flat)
    for row, image in enumerate(flat):
        shuffled[row, into] = image[np.lexsort((rng.random(len(blocks)), blocks))]
    return shuffled.reshape(images.shape)


def _rolled(images: NDArray[Any], shifts: NDArray[np.int64]) -> NDArray[Any]:
    """Each image moved round its borders by its shift [N, axes]."""
    axes = tuple(range(images.ndim - 2))
    rolled = [np.roll(image, shift, axes) for image, shift in zip(images, shifts, strict=True)]
    return np.stack(rolled)


def _to_the_middle(images: NDArray[Any]) -> NDArray[np.int64]:
    """The shifts [N, axes] that take the centres of mass of |images| to the middle, rounded."""
    mass = np.abs(images, dtype=np.float64).sum(-1)
    axes = range(1, mass.ndim)
    shifts = []
    for axis in axes:
        along = mass.sum(tuple(other for other in axes if other != axis))
        total = along.sum(1)
        places = np.arange(along.shape[1])
        middle = (len(places) - 1) / 2
        # A black image stays where it is.
        centre = np.where(total > 0, along @ places / np.where(total > 0, total, 1), middle)
        shifts.append(np.rint(middle - centre).astype(np.int64))
    return np.stack(shifts, 1)
