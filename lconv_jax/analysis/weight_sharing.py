"""Is weight sharing learned? How alike units are when one may be moved over the image.

A unit of a convolution is a stencil at a place. At the border the image cuts part of it off, so a
unit is compared with the remainder of another unit after a move.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.nulls import Contrast, check_null, contrast
from lconv_jax.analysis.units import check_weights, live_units

# A stencil is not moved so far that less than this share of its energy stays on the image: of a
# 9 × 9 stencil in the corner of the paper's network, 0.31 stays.
LEAST_LEFT = 0.25


class Similarity(NamedTuple):
    """Of each unit and each stencil, at the stencil's best place."""

    cosine: NDArray[np.float64]  # [units, stencils]
    shift: NDArray[np.int64]  # [units, stencils, spatial axes], in positions


class Sharing(NamedTuple):
    """How alike a layer's units are up to a move."""

    units: int  # with at least `min_nonzeros` weights
    compared: NDArray[np.int64]  # indices of the units that were matched, ascending
    best: NDArray[np.float64]  # of each of them, the cosine with the unit most like it
    partner: NDArray[np.int64]  # the index of that unit
    contrasts: dict[str, Contrast]  # of `best` with the same of shuffled weights, by null


def similarity(
    kernel: Any,
    stencils: Any,
    image_shape: tuple[int, ...],
    *,
    periodic: bool = False,
    signed: bool = False,
) -> Similarity:
    """The cosine of each unit with each stencil, at the shift where its magnitude is largest.

        max over d of |⟨w, T_d s⟩| / (‖w‖ ‖T_d s‖),  (T_d s)(p) = s(p − d) on the image

    Its square is the share of the unit's energy that the stencil explains, at the best place and
    scale. The numerator is a cross-correlation, computed by Fourier transforms. Shifts that leave
    less than `LEAST_LEFT` of the stencil's energy on the image do not count.

    Args:
      kernel: weights [inputs, units], the inputs in the row-major order of `image_shape`. A unit
        without weights has cosine 0.
      stencils: [inputs, stencils], each on an image of the same shape. They may be units too.
      image_shape: [*spatial, channels] of the input, one or two spatial axes.
      periodic: whether stencils move on over the border, so that nothing is cut off.
      signed: whether a stencil and its negative differ. Then the largest cosine is taken, and it
        may be negative.

    Raises:
      ValueError: if the rows are not the inputs of `image_shape`, if that has not one or two
        spatial axes, or if a weight is not finite.

    Examples:
      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> unit, stencil = np.zeros((8, 1)), np.zeros((8, 1))
      >>> unit[5:8, 0], stencil[1:4, 0] = [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]
      >>> found = analysis.similarity(unit, stencil, (8, 1))
      >>> round(found.cosine.item(), 6), found.shift.item()
      (1.0, 4)
    """
    units, stencils = (
        _normalised(check_weights(each, image_shape), image_shape) for each in (kernel, stencils)
    )
    sides, axes = image_shape[:-1], tuple(range(2, len(image_shape) + 1))
    lengths = list(sides) if periodic else [_fast_length(2 * side - 1) for side in sides]
    of_units = np.fft.rfftn(units, lengths, axes)
    of_stencils = np.fft.rfftn(stencils, lengths, axes).conj()
    if not periodic:
        # How much of each stencil stays on the image, as a correlation with ones.
        energy = np.square(stencils).sum(1, keepdims=True)
        image = np.fft.rfftn(np.ones((1, 1, *sides), np.float32), lengths, axes)
        left = np.fft.irfftn(image * np.fft.rfftn(energy, lengths, axes).conj(), lengths, axes)[
            :, 0
        ]
        # Near 0 the root is not taken of rounding.
        factor = np.where(left >= LEAST_LEFT, 1 / np.sqrt(np.maximum(left, LEAST_LEFT)), 0)
    shape = (len(units), len(stencils))
    cosine, shift = np.zeros(shape), np.zeros((*shape, len(sides)), int)
    for index, transform in enumerate(of_stencils):
        product = (of_units * transform).sum(1)
        at = np.fft.irfftn(product, lengths, [axis - 1 for axis in axes])
        if not periodic:
            at *= factor[index]
        at = at.reshape(len(units), -1)
        found = (at if signed else np.abs(at)).argmax(1)
        cosine[:, index] = np.take_along_axis(at, found[:, None], 1)[:, 0]
        shift[:, index] = np.stack(np.unravel_index(found, lengths), 1)
    wrapped = np.array(lengths)
    shift = np.where(shift > (wrapped - 1) // 2, shift - wrapped, shift)
    return Similarity(np.clip(cosine if signed else np.abs(cosine), -1, 1), shift)


def sharing(
    kernel: Any,
    image_shape: tuple[int, ...],
    *,
    periodic: bool = False,
    signed: bool = False,
    nulls: tuple[str, ...] = ("values", "margins"),
    min_nonzeros: int = 5,
    max_units: int = 512,
    queries: int = 64,
    shuffles: int = 5,
    seed: int = 0,
) -> Sharing:
    """How like its best match each unit is, the match moved to where it fits best, and by chance.

    A unit's best match is more like it the more units there are, and the fewer weights it has. So
    the numbers mean something beside their nulls, which have as many units and weights.

    Args:
      kernel: weights [inputs, units], the inputs in the row-major order of `image_shape`.
      image_shape: [*spatial, channels] of the input, one or two spatial axes.
      periodic: whether stencils move on over the border.
      signed: whether a stencil and its negative differ.
      nulls: keys of `NULLS`. "values" keeps each unit's support and lets its weights trade places:
        are values shared, beyond shapes? "margins" and "counts" shuffle supports too.
      min_nonzeros: units with fewer weights are left out. Any two units of one weight are alike.
      max_units: matches are looked for among so many units, drawn at random if there are more. A
        convolution of more channels than this would have few of each.
      queries: units of these for which a match is looked for, drawn at random if there are more.
        Time grows with the product of both: 64 × 512 pairs of 32 × 32 × 3 take 3 to 4 seconds.
      shuffles: kernels that each null is a mean over, two or more.
      seed: of the shuffles, and of the choice of units.

    Returns:
      With fewer than two units, no matches, and contrasts of NaN.

    Raises:
      ValueError: as `similarity`, or if a null is unknown, or if there are fewer than two shuffles.

    Examples:
      A convolution, written as a dense layer:

      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> stencil = np.zeros(32)
      >>> stencil[:6] = 1.0, -2.0, 3.0, 1.0, -1.0, 0.5
      >>> kernel = np.stack([np.roll(stencil, place) for place in range(27)], 1)
      >>> found = analysis.sharing(kernel, (32, 1))
      >>> round(float(found.best.min()), 4), found.contrasts["values"].effect > 2
      (1.0, True)
    """
    kernel = check_weights(kernel, image_shape)
    draws = {null: check_null(null) for null in nulls}
    rng = np.random.default_rng(seed)
    live, chosen = live_units(kernel, min_nonzeros, max_units, rng)
    if live < 2:
        chosen = chosen[:0]
    kernel = kernel[:, chosen]
    asked = np.sort(rng.permutation(chosen.size)[:queries])

    def best(kernel: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        if not kernel.size:
            return np.zeros(0), np.zeros(0, int)
        found = similarity(
            *(kernel[:, asked], kernel, image_shape), periodic=periodic, signed=signed
        ).cosine
        found[np.arange(asked.size), asked] = -math.inf
        return found.max(1), found.argmax(1)

    mine, partner = best(kernel)
    contrasts = {
        null: contrast(mine, np.array([best(draw(kernel, rng))[0] for _ in range(shuffles)]))
        for null, draw in draws.items()
    }
    return Sharing(live, chosen[asked], mine, chosen[partner], contrasts)


def _normalised(kernel: NDArray[Any], image_shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Units of norm 1, or 0, as [units, channels, *spatial]."""
    peak = np.abs(kernel).max(0, initial=0)
    scaled = kernel.astype(np.float64) / np.where(peak > 0, peak, 1)
    norm = np.sqrt(np.square(scaled).sum(0))
    scaled = (scaled / np.where(norm > 0, norm, 1)).T.reshape(-1, *image_shape)
    return np.moveaxis(scaled, -1, 1).astype(np.float32)


def _fast_length(least: int) -> int:
    from scipy import fft  # here, so that importing the analysis loads it for nothing else

    return fft.next_fast_len(least, real=True)
