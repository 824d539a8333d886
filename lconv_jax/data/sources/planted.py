"""Signals whose labels a hidden random network gives: what a method should find is known.

    planted                                     local teacher, independent inputs
    planted:kind=conv,correlation=3,seed=1      any options, comma-separated, in any order

The teacher is score(x) = Σ_u a_u · relu(w_u · x / σ_u), where each unit u reads `window` of the
inputs, a_u is 1 or −1, and σ_u is the standard deviation of w_u · x; the label is whether the score
is above its median. `kind` says which inputs:

    local   `units` windows of neighbours, at random places of equal parts of the line, each with
            weights of its own
    conv    `units` filters of neighbours, each a unit at every place with the same weights
    sparse  `units` sets of inputs, drawn at random from all places

Options and their defaults:

    kind=local       local, conv or sparse
    length=64        L, inputs of a signal
    units=8          units of the teacher; of conv, its filters
    window=5         inputs that a unit reads
    correlation=0.0  length ξ of the inputs' correlation exp(−|i − j| / ξ); 0: independent
    margin=0.2       share of signals, those with scores nearest to the median, that are left out
    examples=10000   signals of the training set
    test=2000        signals of the test set
    seed=0           of teacher and signals

Signals are float32 [N, L, 1], each value of mean 0 and variance 1, without a unit; half of each
set are of either class. Training and test set are drawn independently. No file is read; the data
follow from the seed, so they have no licence of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import dataset, options
from lconv_jax.errors import DataError

DEFAULTS: dict[str, Any] = {
    "kind": "local",
    "length": 64,
    "units": 8,
    "window": 5,
    "correlation": 0.0,
    "margin": 0.2,
    "examples": 10_000,
    "test": 2000,
    "seed": 0,
}
KINDS = ("local", "conv", "sparse")

# What a stream of random numbers is for.
_TEACHER, _CALIBRATION, _TRAIN, _TEST = range(4)
# Signals that the median and the margin are estimated from.
_CALIBRATION_SIZE = 65_536
_BLOCK = 4096
# Within these a teacher takes a minute or so: inputs times units, and the covariance's products.
_MOST_WEIGHTS, _MOST_PRODUCTS = 2**22, 2**33
# Of more left out, there is hardly a signal to be found.
_MOST_MARGIN = 0.99


class Teacher(NamedTuple):
    """The hidden network: a signal's class is score(x) > threshold.

    kind: one of KINDS.
    weights: float64 [L, units], for inputs of variance 1 scaled so that a unit's input has
      variance 1; with kind conv there is a unit for every filter and place.
    readout: float64 [units].
    filters: int [units], which filter a unit has; without weight sharing each has its own.
    threshold: median of the score.
    margin: distance from the threshold within which signals are left out.
    """

    kind: str
    weights: NDArray[np.float64]
    readout: NDArray[np.float64]
    filters: NDArray[np.int64]
    threshold: float
    margin: float

    @property
    def support(self) -> NDArray[np.bool_]:
        """Which inputs each unit reads, bool [L, units]."""
        return self.weights != 0

    def score(self, signals: NDArray[Any]) -> NDArray[np.float64]:
        """The scores [N] of signals [N, L, 1]."""
        blocks = np.split(signals[..., 0], range(_BLOCK, len(signals), _BLOCK))
        return np.concatenate(
            [
                np.maximum(np.asarray(block, np.float64) @ self.weights, 0) @ self.readout
                for block in blocks
            ]
        )


def read(name: str, data_dir: str | os.PathLike[str] | None = None) -> dataset.Source:
    """The data set `name`, as this module's docstring says; `data_dir` is not used.

    Raises:
      DataError: an option is unknown, of another type or out of range.
    """
    del data_dir
    found = _options(name)
    hidden = teacher(name)
    splits = [
        _examples(found, hidden, stream, found[key])
        for stream, key in ((_TRAIN, "examples"), (_TEST, "test"))
    ]
    return dataset.Source(
        name=f"planted_{found['kind']}",
        num_classes=2,
        train=splits[0],
        test=splits[1],
        train_file=name,
        test_file=name,
    )


def teacher(name: str) -> Teacher:
    """The hidden network of the data set `name`: what its labels follow from.

    Raises:
      DataError: as in `read`.
    """
    found = _options(name)
    hidden = _without_threshold(found)
    signals = _signals(found, _Random(found["seed"], _CALIBRATION), _CALIBRATION_SIZE)
    scores = hidden.score(signals)
    threshold = float(np.median(scores))
    margin = float(np.quantile(np.abs(scores - threshold), found["margin"]))
    # Units that are off for many signals, or cancel, leave many scores equal to the median.
    if (found["margin"] and not margin) or not (scores > threshold).any():
        equal = np.mean(scores == threshold)
        raise DataError(
            f"data.name = {name!r}: {equal:.0%} of the signals have the median score, and no clear "
            "label; raise units or window, or margin above that share, or take another seed"
        )
    return hidden._replace(threshold=threshold, margin=margin if found["margin"] else 0.0)


def _without_threshold(found: dict[str, Any]) -> Teacher:
    """The hidden network with threshold and margin 0."""
    length, window, kind = found["length"], found["window"], found["kind"]
    places, random = length - window + 1, _Random(found["seed"], _TEACHER)
    units = found["units"]
    filters = np.arange(units)
    if kind == "sparse":
        inputs = [np.argsort(random.uniform(length))[:window] for _ in range(units)]
        weights = _placed(length, inputs, random.weights(units, window))
    elif kind == "local":
        # One in each part, so that they overlap little.
        starts = (np.arange(units) + random.uniform(units)) / units * places
        inputs = [start + np.arange(window) for start in starts.astype(np.int64)]
        weights = _placed(length, inputs, random.weights(units, window))
    else:
        filters = np.repeat(filters, places)
        inputs = [start + np.arange(window) for start in np.tile(np.arange(places), units)]
        weights = _placed(length, inputs, random.weights(units, window)[filters])
    deviation = np.sqrt(np.einsum("iu,ij,ju->u", weights, _covariance(found), weights))
    # As many of either sign, so that the classes are told apart by more than a common level.
    signs = np.where(np.arange(units) % 2 == 0, 1.0, -1.0)
    return Teacher(
        kind,
        weights / deviation,
        signs[filters],
        filters,
        threshold=0.0,
        margin=0.0,
    )


class _Random:
    """Uniform and normal numbers from raw output of PCG64, which NumPy keeps the same (NEP 19)."""

    def __init__(self, seed: int, stream: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream,)))

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """In (0, 1)."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        upper = np.asarray(raw >> np.uint64(12), np.float64)  # with 53 bits a half would be lost
        return ((upper + 0.5) * 2.0**-52).reshape(shape)

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """Gaussian, of mean 0 and variance 1, by inversion."""
        from scipy.special import ndtri

        return ndtri(self.uniform(*shape))

    def weights(self, *shape: int) -> NDArray[np.float64]:
        """Of either sign, with magnitudes in ½ … 1, so that no input hardly matters."""
        signs = np.where(self.uniform(*shape) < 0.5, -1.0, 1.0)
        return signs * (1 + self.uniform(*shape)) / 2


def _placed(
    length: int, inputs: list[NDArray[np.int64]], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights [length, units] with values[u] at inputs[u]."""
    weights = np.zeros((length, len(inputs)))
    for unit, (at, value) in enumerate(zip(inputs, values, strict=True)):
        weights[at, unit] = value
    return weights


def _covariance(found: dict[str, Any]) -> NDArray[np.float64]:
    distance = np.abs(np.subtract.outer(np.arange(found["length"]), np.arange(found["length"])))
    return np.asarray(_decay(found) ** distance, np.float64)


def _decay(found: dict[str, Any]) -> float:
    """Correlation of neighbours."""
    return float(np.exp(-1 / found["correlation"])) if found["correlation"] else 0.0


def _signals(found: dict[str, Any], random: _Random, count: int) -> NDArray[np.float32]:
    """Stationary Gaussian signals [count, L, 1]: an autoregressive process of order 1."""
    noise, decay = random.normal(count, found["length"]), _decay(found)
    signals = noise.copy()
    for place in range(1, found["length"] if decay else 0):
        signals[:, place] = decay * signals[:, place - 1] + (1 - decay**2) ** 0.5 * noise[:, place]
    return signals.astype(np.float32)[..., None]


def _labelled(
    found: dict[str, Any], hidden: Teacher, stream: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Signals outside the margin, and whether they are above the threshold, block by block."""
    random = _Random(found["seed"], stream)
    while True:
        signals = _signals(found, random, _BLOCK)
        above = hidden.score(signals) - hidden.threshold
        clear = np.abs(above) >= hidden.margin
        yield signals[clear], above[clear] > 0


def _examples(found: dict[str, Any], hidden: Teacher, stream: int, count: int) -> dataset.Split:
    """`count` signals, half of either class: the first of each, in the order they are drawn."""
    half = count // 2
    signals, labels, numbers = [], [], np.zeros(2, np.int64)
    for block, above in _labelled(found, hidden, stream):
        # The how-manieth of its class each signal is.
        rank = np.where(above, np.cumsum(above), np.cumsum(~above)) + numbers[above.astype(int)]
        kept = rank <= half
        signals.append(block[kept])
        labels.append(above[kept].astype(np.int32))
        numbers += np.bincount(above, minlength=2)
        if numbers.min() >= half:
            break
    return dataset.Split(np.concatenate(signals), np.concatenate(labels))


def _options(name: str) -> dict[str, Any]:
    found = options.parse(name, DEFAULTS)
    length, window = found["length"], found["window"]
    checks = {
        "kind": (found["kind"] in KINDS, f"one of {', '.join(KINDS)}"),
        "length": (length >= 1, "≥ 1"),
        "units": (found["units"] >= 2, "≥ 2"),
        "window": (1 <= window <= length, f"1 … length, which is {length}"),
        "correlation": (0 <= found["correlation"] < np.inf, "≥ 0"),
        "margin": (0 <= found["margin"] <= _MOST_MARGIN, f"in [0, 1), at most {_MOST_MARGIN}"),
        "examples": (found["examples"] >= 2 and found["examples"] % 2 == 0, "even and ≥ 2"),
        "test": (found["test"] >= 2 and found["test"] % 2 == 0, "even and ≥ 2"),
        "seed": (0 <= found["seed"] < 2**32, "0 … 2³² − 1"),
    }
    options.require(name, found, checks)
    units = found["units"] * (length - window + 1 if found["kind"] == "conv" else 1)
    # Weights and what they are computed from; the inputs' covariance; scores of a block; signals
    # with their noise, float64, of which the calibration's are all there at once.
    needed = 8.0 * (3 * length * units + 3 * length**2 + 2 * _BLOCK * units)
    needed += 24.0 * length * _CALIBRATION_SIZE + 8.0 * length * (found["examples"] + found["test"])
    options.require_memory(name, needed, "length, units, examples or test")
    if length * units > _MOST_WEIGHTS or float(length) ** 2 * units > _MOST_PRODUCTS:
        raise DataError(
            f"data.name = {name!r}: a hidden network of {units} units and places, each over "
            f"{length} inputs, would take hours. Lower length or units"
        )
    return found
