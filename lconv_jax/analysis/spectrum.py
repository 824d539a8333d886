"""The stripes and colours that a unit's weights respond to.

Frequency and orientation are read off the power spectrum, the squared magnitude of the discrete
Fourier transform, summed over channels. It does not change when weights are moved, over the border
or not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Powers are equal if they differ by no more than rounding in the transform.
_ROUNDING = 1e-9


class Tuning(NamedTuple):
    """Of each unit, [units]; NaN for a unit with weights at fewer than two places."""

    frequency: NDArray[np.float64]  # cycles per position at the peak of the spectrum; 0: a blob
    orientation: NDArray[np.float64]  # of the stripes at the peak, radians in [0, π)
    selectivity: NDArray[np.float64]  # 0: power in all directions alike, 1: in one


def tuning(weights: NDArray[np.floating[Any]], image_shape: tuple[int, ...]) -> Tuning:
    """Preferred frequency and orientation of each unit, and how selective it is.

    P(f) is the power at the frequency f = (f_row, f_column), in cycles per position. θ(f) is the
    direction of the stripes of f: 0 for horizontal stripes, π/2 for vertical stripes, π/4 for
    stripes that rise to the right in a picture whose rows run downwards.

        frequency = |f*|,  orientation = θ(f*),  f* = argmax P, of equals the lowest
        selectivity = |Σ P(f) exp(2iθ(f))| / Σ P(f),  over f ≠ 0

    If the peak is at f = 0, weights of one sign prevail: a blob, without orientation. The frequency
    is known up to half a step of the spectrum along each axis, 1 / (2 · side).

    Args:
      weights: [inputs, units], every unit with at least one non-zero.
      image_shape: [*spatial, channels]. A signal has no orientation, and no selectivity.

    Examples:
      Vertical stripes, four positions wide:

      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> stripes = np.tile(np.sin(2 * np.pi * np.arange(16) / 8), (16, 1))
      >>> found = analysis.tuning(stripes.reshape(-1, 1), (16, 16, 1))
      >>> tuple(round(float(value[0]), 6) for value in found)
      (0.125, 1.570796, 1.0)
    """
    *sides, channels = image_shape
    images = (weights.astype(np.float64) / np.abs(weights).max(0)).reshape(*sides, channels, -1)
    spectrum = np.fft.rfftn(images, axes=tuple(range(len(sides))))
    power = (np.square(spectrum.real) + np.square(spectrum.imag)).sum(len(sides))
    along = [np.fft.fftfreq(side) for side in sides[:-1]] + [np.fft.rfftfreq(sides[-1])]
    # Of a real image, half of the spectrum is enough: f and −f have equal power. On the last axis
    # the frequencies strictly between 0 and ½ stand for both.
    both = np.where((along[-1] > 0) & (along[-1] < 0.5), 2.0, 1.0)
    *rows, columns = np.meshgrid(*along, indexing="ij")
    flat = power.reshape(-1, power.shape[-1])
    length = np.hypot(columns, rows[0] if rows else 0).ravel()
    # Of frequencies with equal power the lowest, whatever rounding says.
    highest = flat >= (1 - _ROUNDING) * flat.max(0)
    peak = np.where(highest, length[:, None], np.inf).argmin(0)
    one = np.count_nonzero(np.any(images, len(sides)).reshape(-1, images.shape[-1]), 0) < 2
    frequency = np.where(one, np.nan, length[peak])
    if not rows:
        none = np.full(frequency.shape, np.nan)
        return Tuning(frequency, none, none)
    # Stripes run across their frequency: a quarter turn on.
    angle = np.mod(np.arctan2(-rows[0], columns) + np.pi / 2, np.pi).ravel()
    orientation = np.where(one | (peak == 0), np.nan, angle[peak])
    square = np.where(length > 0, length, 1) ** 2
    twice_cos = (np.square(rows[0]) - np.square(columns)).ravel() / square
    # At ½ cycle a position f_row and −f_row are one frequency, with stripes in both directions.
    alias = (np.abs(rows[0]) == 0.5) | (columns == 0.5)
    twice_sin = np.where(alias, 0, 2 * rows[0] * columns).ravel() / square
    weight = np.broadcast_to(both, columns.shape).ravel() * (length > 0)
    total = weight @ flat
    vector = np.hypot((weight * twice_cos) @ flat, (weight * twice_sin) @ flat)
    defined = ~one & (total > 0)
    selectivity = np.where(defined, vector / np.where(defined, total, 1), np.nan)
    return Tuning(frequency, orientation, selectivity)


def opponency(
    weights: NDArray[np.floating[Any]], image_shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """For each unit, the share of its energy off the grey axis.

        1 − Σ_p C · m_p² / Σ_p Σ_c w_pc²,  m_p = mean of w_pc over the C channels

    It is 0 if the channels of every place have equal weights, and 1 if they sum to zero, as in
    red against green. Weights in one channel of three give 2/3, independent weights too.

    Args:
      weights: [inputs, units], every unit with at least one non-zero.
      image_shape: [*spatial, channels]. With one channel it is 0.

    Returns:
      [units], in [0, 1].

    Examples:
      Grey, and red against green:

      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> weights = np.array([[0.5, 0.5, 0.5, 1.0, -1.0, 0.0]]).T
      >>> analysis.opponency(weights[:3], (1, 3)).tolist()
      [0.0]
      >>> analysis.opponency(weights[3:], (1, 3)).tolist()
      [1.0]
    """
    channels = image_shape[-1]
    scaled = (weights.astype(np.float64) / np.abs(weights).max(0)).reshape(
        -1, channels, weights.shape[-1]
    )
    grey = channels * np.square(scaled.mean(1)).sum(0)
    return np.clip(1 - grey / np.square(scaled).sum((0, 1)), 0, 1)
