"""How convolution-like a first layer is, in bits: the saving by codes that know windows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lconv_jax.analysis.locality import shuffle_support
from lconv_jax.analysis.units import check_kernel
from lconv_jax.mdl.coder import Encoder
from lconv_jax.mdl.supports import as_grid, code_support, make_plan

# The position-free code first, then those that know neighbourhoods, or that they repeat.
STRUCTURE_CODES = ("unit", "local", "near", "shared")


class Structure(NamedTuple):
    """Bits of a support in one code, and the mean over its shuffles."""

    code: str
    bits: float
    null_bits: float


def structure(
    kernel: Any, image_shape: tuple[int, ...], *, shuffles: int = 5, seed: int = 0
) -> list[Structure]:
    """Bits of a dense first layer's support in each of STRUCTURE_CODES, and of shuffled supports.

    `shuffle_support` keeps the count of each unit and of each input. So it keeps the importance of
    the inputs, and destroys the grouping of inputs within a unit. A code's saving over `unit`
    measures structure as far as it exceeds the saving on shuffled supports.

    Args:
      kernel: [inputs, units], the inputs in the row-major order of `image_shape`.
      image_shape: [*spatial, channels].
      shuffles: supports that the null is a mean over.
      seed: of the shuffles.

    Raises:
      ValueError: if the kernel's rows are not the inputs of `image_shape`.
    """
    support = check_kernel(kernel, image_shape) != 0
    support = support[:, support.any(0)]
    rng = np.random.default_rng(seed)
    nulls = [shuffle_support(support, rng) for _ in range(shuffles)]
    return [
        Structure(
            code,
            support_bits(support, image_shape, code),
            float(np.mean([support_bits(null, image_shape, code) for null in nulls])),
        )
        for code in STRUCTURE_CODES
    ]


def support_bits(support: Any, image_shape: tuple[int, ...], code: str) -> float:
    """Bits of a support [inputs, units] in one of `mdl.supports.SUPPORTS`, the units unordered."""
    grid, found = as_grid(image_shape), []
    for mask in (False, True) if code in ("unit", "local") else (False,):
        plan = make_plan(support, grid, code, True, mask, support.astype(np.int64))
        encoder = Encoder()
        code_support(encoder, plan, support[:, plan.order], grid, support.shape[1], code, True)
        found.append(encoder.bits)
    return min(found)
