"""How a density is distributed over layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

from lconv_jax.optim.strengths import Labels, check_labels, is_gap, leaf_values

# A number for all weights together, or a mapping from labels to numbers.
Density: TypeAlias = float | Mapping[str, float]
DISTRIBUTIONS = ("uniform", "erdos_renyi", "erdos_renyi_kernel")
# One ranking over all layers, where weights have scores that can be compared.
GLOBAL = "global"


def check_density(density: Density, distribution: str, *, scored: bool) -> None:
    """Raises a ValueError for densities outside (0, 1] and for unknown distributions."""
    for name, value in density.items() if isinstance(density, Mapping) else [("", density)]:
        where = f"density[{name!r}]" if name else "density"
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1
        if not fits:
            raise ValueError(f"{where} must be a number above 0 and at most 1, got {value!r}")
    known = (*DISTRIBUTIONS, GLOBAL) if scored else DISTRIBUTIONS
    if distribution not in known:
        raise ValueError(f"distribution must be one of {', '.join(known)}, got {distribution!r}")


def layer_densities(
    params: Any,
    density: Density,
    distribution: str = "erdos_renyi_kernel",
    labels: Labels = None,
) -> Any:
    """The density of each weight matrix, so that all together have the wanted one.

    - "uniform": every layer has the same density.
    - "erdos_renyi": proportional to (n_in + n_out) / (n_in n_out), of input and output channels.
    - "erdos_renyi_kernel": proportional to the sum of a kernel's sides by their product.

    Layers whose density would be above 1 are dense, and the others share the rest. At each of its
    positions a locally connected kernel [*positions, *window, in, out] is a kernel [*window, in,
    out], as for `group_soft_threshold`: kernels of six and more dimensions, if their number is
    even, count as such.

    Args:
      params: the parameters, or their shapes.
      density: of all labelled weights together; or a mapping from labels to the density of each
        layer that has the label, and then the distribution does not matter.
      distribution: as above.
      labels: which leaf has which label, see `add_l1_subgradient`. By default, for a number, all
        weights by their names; for a mapping, the labels are those of `layer_labels`.

    Returns:
      A pytree like `params` of floats, with an `optax.MaskedNode` in place of other parameters.

    Raises:
      ValueError: a density outside (0, 1], an unknown distribution; nothing is labelled, or a key
        of the mapping is no leaf's label.

    Examples:
      >>> import jax
      >>> from lconv_jax.optim import layer_densities
      >>> shapes = {"fc1": {"kernel": jax.ShapeDtypeStruct((784, 300), "float32")},
      ...           "fc2": {"kernel": jax.ShapeDtypeStruct((300, 10), "float32")}}
      >>> found = layer_densities(shapes, 0.05)
      >>> {name: round(layer["kernel"], 3) for name, layer in found.items()}
      {'fc1': 0.039, 'fc2': 0.883}

    Reference:
      Evci et al., [Rigging the Lottery](https://arxiv.org/abs/1911.11134), ICML 2020, Section 3;
      Mocanu et al., [Scalable training of artificial neural networks with adaptive sparse
      connectivity](https://doi.org/10.1038/s41467-018-04316-3), 2018
    """
    check_density(density, distribution, scored=False)
    check_labels("density", density, labels, params)
    wanted = leaf_values(density, labels, params)
    if isinstance(density, Mapping) or distribution == "uniform":
        return wanted
    shapes = jax.tree.map(
        lambda value, leaf: value if is_gap(value) else tuple(leaf.shape),
        wanted,
        params,
        is_leaf=is_gap,
    )
    flat, treedef = jax.tree.flatten(
        shapes, is_leaf=lambda node: isinstance(node, tuple) and not is_gap(node)
    )
    sizes = [math.prod(shape) for shape in flat]
    raw = [_raw(shape, distribution) for shape in flat]
    dense: set[int] = set()
    while True:
        rest = [index for index in range(len(flat)) if index not in dense]
        left = density * sum(sizes) - sum(sizes[index] for index in dense)
        scale = left / sum(raw[index] * sizes[index] for index in rest) if rest else 0.0
        above = {index for index in rest if scale * raw[index] > 1}
        if not above:
            break
        dense |= above
    found = [1.0 if index in dense else scale * raw[index] for index in range(len(flat))]
    return jax.tree.unflatten(treedef, found)


def is_local(shape: tuple[int, ...]) -> bool:
    """Whether a kernel of this shape counts as locally connected."""
    return len(shape) >= 6 and len(shape) % 2 == 0


def _raw(shape: tuple[int, ...], distribution: str) -> float:
    if is_local(shape):
        shape = shape[(len(shape) - 2) // 2 :]
    sides = shape if distribution == "erdos_renyi_kernel" else shape[-2:]
    return sum(sides) / math.prod(sides)
