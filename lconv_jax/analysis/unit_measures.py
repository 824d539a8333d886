"""Is a unit's field local? All measures of single units at once, and against chance."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.extent import clumps, energy_window, neighbour_distance, sampling
from lconv_jax.analysis.nulls import Contrast, check_null, contrast
from lconv_jax.analysis.spectrum import opponency, tuning
from lconv_jax.analysis.spread import participation, unit_spread
from lconv_jax.analysis.units import MAX_UNITS, check_weights, chunks, live_units


class Fields(NamedTuple):
    """Of each unit, float64 [units], NaN where a measure is not defined.

    A unit without weights has 0 weights and 0 clumps, and nothing else. A unit of one place has no
    neighbour, frequency, orientation or selectivity. A signal has no orientation or selectivity.
    """

    weights: NDArray[Any]  # that are not zero
    ipr: NDArray[Any]  # `participation`
    spread: NDArray[Any]  # `unit_spread`, in positions
    window: NDArray[Any]  # side of `energy_window`, in positions
    filled: NDArray[Any]  # share of the window's places that have a weight
    neighbour: NDArray[Any]  # `neighbour_distance`, in positions
    evenness: NDArray[Any]  # the same in the window / of random places there (`sampling`)
    clumps: NDArray[Any]  # `clumps`
    frequency: NDArray[Any]  # `tuning`, cycles per position
    orientation: NDArray[Any]  # `tuning`, radians in [0, π)
    selectivity: NDArray[Any]  # `tuning`
    opponency: NDArray[Any]  # `opponency`


# Measures that a shuffle can change, and that have a mean: an angle has none.
_COMPARED = tuple(name for name in Fields._fields if name not in ("weights", "ipr", "orientation"))


def fields(
    kernel: Any, image_shape: tuple[int, ...], *, share: float = 0.9, periodic: bool = False
) -> Fields:
    """Measures of every unit of a dense first layer.

    None depends on the sign or the scale of a unit's weights.

    Args:
      kernel: weights [inputs, units], the inputs in the row-major order of `image_shape`.
      image_shape: [*spatial, channels] of the input, one or two spatial axes.
      share: of a unit's energy that its window holds, in (0, 1].
      periodic: whether the data have no border, so that distances are along a ring or torus.

    Raises:
      ValueError: if the kernel's rows are not the inputs of `image_shape`, if that has not one or
        two spatial axes, if a weight is not finite, or if `share` is out of range.

    Examples:
      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> signals = np.zeros((12, 2))
      >>> signals[[3, 5, 7], 0] = 1.0, -2.0, 1.0
      >>> found = analysis.fields(signals, (12, 1), share=1.0)
      >>> found.window.tolist(), found.neighbour.tolist(), found.clumps.tolist()
      ([5.0, nan], [2.0, nan], [3.0, 0.0])
    """
    kernel = check_weights(kernel, image_shape)
    found = np.full((len(Fields._fields), kernel.shape[1]), np.nan)
    found[Fields._fields.index("weights")] = np.count_nonzero(kernel, axis=0)
    found[Fields._fields.index("clumps")] = 0
    for part in chunks(kernel):
        live = part.start + np.flatnonzero(kernel[:, part].any(0))
        if live.size:
            weights = np.asarray(kernel[:, live], np.float64)
            found[:, live] = _measures(weights, image_shape, share, periodic)
    return Fields(*found)


def compare_fields(
    kernel: Any,
    image_shape: tuple[int, ...],
    *,
    null: str = "margins",
    share: float = 0.9,
    periodic: bool = False,
    min_nonzeros: int = 2,
    shuffles: int = 10,
    seed: int = 0,
) -> dict[str, Contrast]:
    """The measures of `fields` against the measures of shuffled weights, by name.

    Left out are the number of weights and the participation ratio, which no shuffle changes, and
    the orientation, which is an angle.

    Args:
      kernel: weights [inputs, units], as in `fields`.
      image_shape: [*spatial, channels] of the input.
      share: of a unit's energy that its window holds.
      periodic: whether the data have no border.
      null: a key of `NULLS`. "margins" keeps the number of weights of each unit and of each input,
        so a preference of the whole layer for some inputs is no locality. "counts" keeps only that
        of each unit.
      min_nonzeros: units with fewer weights are left out.
      shuffles: kernels that the null is a mean over, two or more.
      seed: of the shuffles, and of the choice of units where there are more than `MAX_UNITS`.

    Raises:
      ValueError: as `fields`, or if `null` is unknown, or if there are fewer than two shuffles.

    Examples:
      Units that read four neighbours each, and the same against random places:

      >>> import numpy as np
      >>> from lconv_jax import analysis
      >>> kernel = sum(np.roll(np.eye(32), step, 0) for step in range(4))
      >>> found = analysis.compare_fields(kernel, (32, 1), null="counts", periodic=True)
      >>> found["window"].mean, found["window"].null_mean > 10, found["window"].z < -10
      (4.0, True, True)
    """
    kernel = check_weights(kernel, image_shape)
    draw, rng = check_null(null), np.random.default_rng(seed)
    _, chosen = live_units(kernel, min_nonzeros, MAX_UNITS, rng)
    kernel = kernel[:, chosen]
    mine = fields(kernel, image_shape, share=share, periodic=periodic)
    nulls = [
        fields(draw(kernel, rng), image_shape, share=share, periodic=periodic)
        for _ in range(shuffles)
    ]
    return {
        name: contrast(getattr(mine, name), np.array([getattr(each, name) for each in nulls]))
        for name in _COMPARED
    }


def _measures(
    weights: NDArray[np.float64], image_shape: tuple[int, ...], share: float, periodic: bool
) -> NDArray[np.float64]:
    """Fields as an array [measures, units], of units with at least one weight."""
    support = weights != 0
    window = energy_window(weights, image_shape, share=share, periodic=periodic)
    filled, evenness = sampling(support, image_shape, window)
    tuned = tuning(weights, image_shape)
    return np.array(
        Fields(
            weights=support.sum(0),
            ipr=participation(weights),
            spread=unit_spread(weights, image_shape, periodic=periodic),
            window=window.side,
            filled=filled,
            neighbour=neighbour_distance(support, image_shape, periodic=periodic),
            evenness=evenness,
            clumps=clumps(support, image_shape, periodic=periodic),
            frequency=tuned.frequency,
            orientation=tuned.orientation,
            selectivity=tuned.selectivity,
            opponency=opponency(weights, image_shape),
        )
    )
