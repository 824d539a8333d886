"""Random DNA with one planted motif; which motif it is, is the class.

    dna_motifs                                   all options at their defaults
    dna_motifs:classes=2,jitter=-1,conserved=0.9 others

Generated; nothing is read, and there is no licence. The background is independent and uniform over
A, C, G, T. Class k has a motif, a position weight matrix of `motif` columns: its consensus base has
the probability `conserved` and the three others share the rest. Every example has one instance of
its class's motif, whose bases are drawn from the columns, written over the background.

All consensus sequences are permutations of the same bases, each base as often as the others (to
one). So how often the bases occur is the same for all classes, but for what is left over, and
counting them classifies no better than guessing: what is learned is order. A first-layer unit that
is a motif detector looks at `motif` neighbouring places.

Signals are float32 [N, length, 4], channels A C G T, 1 where the base stands, else 0. Classes come
in turn. Training and test set are drawn independently; the same options give the same bytes.

Options (and defaults):
  length (64), motif (8): bases of a sequence, and of a motif.
  classes (4): motifs, at most 1000.
  examples (8000), test (2000): in all.
  conserved (0.9): probability of the consensus base, above 1/4, at most 1.
  jitter (4): the motif's start is uniform within this many places of its class's centre; −1:
    uniform over all places.
  apart (0): places from one class's centre to the next; 0: all have the middle.
  seed (0): of motifs, backgrounds and places.

`planted` returns the motifs and where they are, `bayes_accuracy` what the best classifier gets.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import dataset
from lconv_jax.data.options import at_least, parse, require, require_memory
from lconv_jax.data.sources.dna import BASES
from lconv_jax.errors import DataError

DEFAULTS = {
    "length": 64,
    "motif": 8,
    "classes": 4,
    "examples": 8_000,
    "test": 2_000,
    "conserved": 0.9,
    "jitter": 4,
    "apart": 0,
    "seed": 0,
}
_MOST_CLASSES = 1000
_MOTIFS, _TRAIN, _TEST = range(3)  # independent streams of one seed


class Planted(NamedTuple):
    """What was planted, and where.

    matrices: float64 [classes, motif, 4], probabilities of the bases A C G T.
    allowed: for each class, the first start and the number of starts, int [classes, 2].
    train_starts, test_starts: int64 [N], the place of each motif's first base.
    """

    matrices: NDArray[np.float64]
    allowed: NDArray[np.int64]
    train_starts: NDArray[np.int64]
    test_starts: NDArray[np.int64]


def read(name: str, data_dir: str | os.PathLike[str] | None = None) -> dataset.Source:
    """The generated set; see this module's docstring.

    Args:
      name: "dna_motifs", with options behind it.
      data_dir: not used.

    Raises:
      DataError: an option is out of range, or the motifs do not fit.
    """
    source, _ = _generate(name)
    return source


def planted(name: str) -> Planted:
    """The motifs of `data.name` and the place of each example's."""
    return _generate(name)[1]


def bayes_accuracy(name: str) -> float:
    """Test accuracy, 0 … 1, of the classifier that knows matrices and starts' distribution.

    The likelihood ratio of class k to the background is the mean over its allowed starts s of
    Π_i matrix_k[i, base(s + i)] / (1/4); the largest is chosen.
    """
    source, truth = _generate(name)
    images, labels = source.test
    scores = []
    for matrix, (first, count) in zip(truth.matrices, truth.allowed, strict=True):
        with np.errstate(divide="ignore"):
            weights = np.maximum(np.log(4 * matrix), -1e9)
        windows = np.lib.stride_tricks.sliding_window_view(images, len(matrix), axis=1)
        at_start = np.einsum("nsci,ic->ns", windows[:, first : first + count], weights)
        scores.append(np.logaddexp.reduce(at_start, axis=1) - np.log(count))
    return float((np.argmax(scores, axis=0) == labels).mean())


def _generate(name: str) -> tuple[dataset.Source, Planted]:
    options = parse(name, DEFAULTS)
    _check(name, options)
    matrices, allowed = _matrices(name, options), _allowed(name, options)
    (train, train_starts), (test, test_starts) = (
        _draw(options[key], options, matrices, allowed, stream)
        for key, stream in (("examples", _TRAIN), ("test", _TEST))
    )
    source = dataset.Source("dna_motifs", options["classes"], train, test, name, name)
    return source, Planted(matrices, allowed, train_starts, test_starts)


def _check(name: str, options: dict[str, Any]) -> None:
    length = options["length"]
    lowest = {"motif": 1, "classes": 2, "seed": 0}
    lowest |= {"length": options["motif"], "examples": options["classes"], "test": 1}
    accepted = at_least(options, lowest)
    for key, low in (("jitter", -1), ("apart", 0)):
        accepted[key] = (low <= options[key] <= length, f"in {low} … length, which is {length}")
    accepted["conserved"] = (0.25 < options["conserved"] <= 1, "above 0.25 and at most 1")
    anywhere = options["jitter"] == -1
    if anywhere:
        accepted["apart"] = (not options["apart"], "0 with jitter=-1, anywhere")
    require(name, options, accepted)
    few = options["classes"] <= _MOST_CLASSES
    require(name, options, {"classes": (few, f"≤ {_MOST_CLASSES}")})
    examples, bases = options["examples"] + options["test"], len(BASES)
    # Of each base a draw, its code and float32 [4]; of each motif's base a draw and its steps.
    needed = examples * (length * (24.0 + 4 * bases) + options["motif"] * 64.0)
    needed += options["classes"] * options["motif"] * 128.0
    require_memory(name, needed, "length, motif, classes, examples or test")


def _uniform(generator: np.random.PCG64, *shape: int) -> NDArray[np.float64]:
    """In [0, 1), from raw output, which stays the same in all versions of NumPy (NEP 19)."""
    return (generator.random_raw(shape) >> 11).astype(np.float64) * 2.0**-53


def _matrices(name: str, options: dict[str, Any]) -> NDArray[np.float64]:
    generator = np.random.PCG64([options["seed"], _MOTIFS])
    bases = np.arange(options["motif"]) % len(BASES)
    found: dict[tuple[int, ...], None] = {}
    # Of short motifs there may not be enough different ones.
    for _ in range(100 * options["classes"]):
        order = np.argsort(_uniform(generator, options["motif"]), kind="stable")
        found[tuple(bases[order].tolist())] = None
        if len(found) == options["classes"]:
            break
    else:
        raise DataError(
            f"data.name = {name!r}: there are not {options['classes']} different motifs of "
            f"{options['motif']} bases. Raise motif or lower classes"
        )
    rest = (1 - options["conserved"]) / (len(BASES) - 1)
    consensus = np.array(list(found))[..., None] == np.arange(len(BASES))
    return np.where(consensus, float(options["conserved"]), rest)


def _allowed(name: str, options: dict[str, Any]) -> NDArray[np.int64]:
    places = options["length"] - options["motif"] + 1
    jitter, classes = options["jitter"], options["classes"]
    if jitter < 0:
        return np.tile([0, places], (classes, 1)).astype(np.int64)
    centres = (places - 1) // 2 + (2 * np.arange(classes) - (classes - 1)) * options["apart"] // 2
    first = centres - jitter
    if first.min() < 0 or first.max() + 2 * jitter >= places:
        raise DataError(
            f"data.name = {name!r}: motifs would lie outside of {options['length']} bases. Raise "
            "length, or lower jitter or apart"
        )
    return np.stack([first, np.full(classes, 2 * jitter + 1)], axis=1).astype(np.int64)


def _draw(
    count: int,
    options: dict[str, Any],
    matrices: NDArray[np.float64],
    allowed: NDArray[np.int64],
    stream: int,
) -> tuple[dataset.Split, NDArray[np.int64]]:
    generator = np.random.PCG64([options["seed"], stream])
    labels = np.arange(count) % options["classes"]
    bases = (_uniform(generator, count, options["length"]) * len(BASES)).astype(np.int64)
    first, number = allowed[labels].T
    starts = first + (_uniform(generator, count) * number).astype(np.int64)
    draws = _uniform(generator, count, options["motif"])
    # The base is the number of cumulative probabilities that the draw reaches.
    steps = np.cumsum(matrices, axis=-1)[labels, :, :-1]
    motifs = (draws[..., None] >= steps).sum(-1)
    bases[np.arange(count)[:, None], starts[:, None] + np.arange(options["motif"])] = motifs
    signals = np.eye(len(BASES), dtype=np.float32)[bases]
    return dataset.Split(signals, labels.astype(np.int32)), starts
