"""Translation-invariant signals and images: a non-linear Gaussian process, and its Gaussian clone.

The data models of Ingrosso and Goldt, "Data-driven emergence of convolutional structure in neural
networks", PNAS 2022. z is a Gaussian field on a ring (or torus) with unit variance and covariance

    C(d) = exp(−(d / ξ)^power),  d the distance around the ring, in positions,

whose correlation length ξ is one of two, the class. An example of

    nlgp, nlgp_2d  is x = erf(gain · z) / Z, with Z² = (2/π) arcsin(2 gain² / (1 + 2 gain²)) the
                   variance of erf(gain · z), so that x has unit variance: a field with edges;
    gp, gp_2d      is a Gaussian field of the same covariance per class,
                   K(d) = arcsin(2 gain² C(d) / (1 + 2 gain²)) / arcsin(2 gain² / (1 + 2 gain²)).

The two differ in their higher moments only. Mean 0, variance 1 at every position, in every class.

Origin: generated here, from the seed; nothing is read. There is no licence to observe, and no
option needs a package that is not installed with this one. Signals [N, length, 1] and images
[N, side, side, 1], float32; labels int32: 0 for ξ = xi1, 1 for ξ = xi2, in alternation. Training
and test set are independent draws. With one seed, nlgp and gp filter the same white noise.

Options: length or side, gain, power, xi1 and xi2 (in positions), the numbers of examples and of
test examples, and seed; the defaults are below.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import dataset, options

# The options behind the name, and their defaults.
_COMMON = {"gain": 10.0, "power": 2.0, "examples": 100_000, "test": 10_000, "seed": 0}
SIGNALS: dict[str, Any] = {"length": 40, "xi1": 1.0, "xi2": 2.0, **_COMMON}
IMAGES: dict[str, Any] = {"side": 10, "xi1": 1.0, "xi2": 1.5, **_COMMON}

_POSITIVE = "positive, and at most 1e6, at least 1e-6"
# Fields that are made at a time.
_BLOCK = 1024
# What clipping negative eigenvalues may change a covariance by.
_TOLERANCE = 1e-4


def read(name: str, data_dir: str | os.PathLike[str] | None) -> dataset.Source:
    """The data set `name`: nlgp, gp, nlgp_2d or gp_2d, with options behind a colon.

    Raises:
      DataError: an option that there is not, or a value that makes no such field.
    """
    del data_dir
    base = name.partition(":")[0]
    given = options.parse(name, IMAGES if base.endswith("_2d") else SIGNALS)
    _check(name, given)
    size = float(given["side"] ** 2 if "side" in given else given["length"])
    # The arrays, float32; and a block while it is drawn and filtered, complex128 with copies.
    needed = size * (4 * (given["examples"] + given["test"]) + 64 * (_BLOCK + 2))
    options.require_memory(name, needed, "length or side, examples or test")
    return dataset.Source(
        name=name,
        num_classes=2,
        train=_split(name, given, 0, given["examples"]),
        test=_split(name, given, 1, given["test"]),
        train_file=f"{name} (training)",
        test_file=f"{name} (test)",
    )


def covariance(
    shape: tuple[int, ...], xi: float, power: float, gain: float = 0.0
) -> NDArray[np.float64]:
    """The covariance of a field's position 0 with every position.

    Args:
      shape: the sides of the ring or torus; distance is Euclidean, around the shorter way.
      xi: correlation length, in positions.
      power: of d / ξ in the exponent: 1 or 2, or between.
      gain: 0 for z itself; else for erf(gain · z) / Z (Williams, "Computing with infinite
        networks", 1997, equation 11).

    Returns:
      float64 of shape `shape`, 1 at position 0.
    """
    sides = np.meshgrid(*(np.minimum(i := np.arange(n), n - i) for n in shape), indexing="ij")
    distance = np.sqrt(sum(side.astype(np.float64) ** 2 for side in sides))
    C = np.exp(-((distance / xi) ** power))
    if not gain:
        return C
    share = 2 * gain**2 / (1 + 2 * gain**2)
    return np.arcsin(share * C) / np.arcsin(share)


def _split(name: str, given: Mapping[str, Any], stream: int, count: int) -> dataset.Split:
    from scipy import special  # here, so that importing the package loads it for no other set

    base = name.partition(":")[0]
    shape = (given["side"],) * 2 if base.endswith("_2d") else (given["length"],)
    gain, squashed = given["gain"], base.startswith("nlgp")
    # The symmetric square root of a circulant matrix is a filter.
    filters = np.sqrt(
        [
            _spectrum(name, covariance(shape, given[xi], given["power"], 0 if squashed else gain))
            for xi in ("xi1", "xi2")
        ]
    )
    scale = np.sqrt(2 / np.pi * np.arcsin(2 * gain**2 / (1 + 2 * gain**2)))
    labels = (np.arange(count) % 2).astype(np.int32)
    images = np.empty((count, *shape, 1), np.float32)
    # Raw output, which NumPy keeps the same in all versions, unlike its normal draws.
    bits = np.random.Philox(key=np.array([given["seed"], stream], np.uint64))
    axes = tuple(range(1, len(shape) + 1))
    for start in range(0, count, _BLOCK):
        which = labels[start : start + _BLOCK]
        raw = bits.random_raw(len(which) * int(np.prod(shape))).reshape(-1, *shape)
        white = special.ndtri(((raw >> 11) + 0.5) * 2.0**-53)
        field = np.fft.ifftn(np.fft.fftn(white, axes=axes) * filters[which], axes=axes).real
        images[start : start + _BLOCK, ..., 0] = (
            special.erf(gain * field) / scale if squashed else field
        )
    return dataset.Split(images, labels)


def _spectrum(name: str, C: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvalues of a circulant covariance; those that are negative by little become zero."""
    eigenvalues = np.fft.fftn(C).real
    if -eigenvalues.clip(max=0).mean() > _TOLERANCE:
        raise dataset.DataError(
            f"data.name = {name!r}: no Gaussian field on a ring of shape {C.shape} has this "
            "covariance (an eigenvalue is negative); take a shorter xi1 or xi2, or power=1"
        )
    return eigenvalues.clip(min=0)


def _check(name: str, given: Mapping[str, Any]) -> None:
    side = "side" if "side" in given else "length"
    accepted = {
        side: (given[side] >= 2, "at least 2"),
        "gain": (1e-6 <= given["gain"] <= 1e6, _POSITIVE),
        "power": (0 < given["power"] <= 2, "in (0, 2]"),
        "xi1": (1e-6 <= given["xi1"] <= 1e6, _POSITIVE),
        "xi2": (1e-6 <= given["xi2"] <= 1e6, _POSITIVE),
        "examples": (given["examples"] >= 2, "at least 2, one of each class"),
        "test": (given["test"] >= 2, "at least 2, one of each class"),
        "seed": (0 <= given["seed"] < 2**64, "in 0 … 2⁶⁴ − 1"),
    }
    options.require(name, given, accepted)
