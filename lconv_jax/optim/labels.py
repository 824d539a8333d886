"""Which parameters are regularised, and how strongly: a label for each leaf of a tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

# The label of what is always left alone.
NONE = "none"

# Leaves that are no weights, whatever their number of dimensions: a locally connected layer has
# a bias of three.
_NOT_WEIGHTS = frozenset({"bias", "scale"})


def layer_labels(params: Any) -> Any:
    """Labels each leaf "conv", "fc" or "none" by the name of its layer.

    The component of a leaf's path that is nearest to it and starts with "conv", "fc" or "bn"
    decides: "conv" and "fc" label the weights of layers that stand where a convolution or a fully
    connected layer would be, whether the layer itself is convolutional, locally connected or
    dense. Weights are leaves of two or more dimensions that are not called "bias" or "scale".
    All else is "none": biases, normalisation, and layers with other names.

    Only paths and numbers of dimensions are read, so `params` may hold arrays, tracers or
    `jax.ShapeDtypeStruct`, in any container that JAX knows as a pytree: nested dictionaries,
    Flax's `FrozenDict` and `nnx.State`, dataclasses.

    Args:
      params: a pytree of parameters.

    Returns:
      A pytree of strings with the structure of `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> from lconv_jax import layer_labels
      >>> layer_labels({
      ...     "conv1": {"kernel": jnp.ones((27, 8)), "bias": jnp.ones(8)},
      ...     "bn1": {"scale": jnp.ones(8)},
      ...     "fc1": {"kernel": jnp.ones((8, 4))},
      ... })
      {'bn1': {'scale': 'none'}, 'conv1': {'bias': 'none', 'kernel': 'conv'}, 'fc1': {'kernel': 'fc'}}
    """  # noqa: E501  (the example's output)
    return jax.tree_util.tree_map_with_path(_layer_label, params)


def _layer_label(path: tuple[Any, ...], leaf: Any) -> str:
    # A component is a DictKey or FlattenedIndexKey (.key), a GetAttrKey (.name) or a SequenceKey.
    names = [getattr(entry, "key", getattr(entry, "name", None)) for entry in path]
    if getattr(leaf, "ndim", 0) < 2 or not _NOT_WEIGHTS.isdisjoint(names):
        return NONE
    for name in reversed(names):
        for prefix, label in (("conv", "conv"), ("fc", "fc"), ("bn", NONE)):
            if isinstance(name, str) and name.startswith(prefix):
                return label
    return NONE


def weight_labels(params: Any) -> Any:
    """Labels leaves of two or more dimensions "weight" and all others "none"."""
    return jax.tree.map(lambda leaf: "weight" if getattr(leaf, "ndim", 0) >= 2 else NONE, params)


def resolve_labels(labels: Any | Callable[[Any], Any] | None, values: Any, params: Any) -> Any:
    """A tree of strings with the structure of `params`, from what a user gave as `labels`.

    Args:
      labels: a pytree of strings that is a prefix of `params`; a function from `params` to one;
        or None for `layer_labels` where `values` is a mapping, `weight_labels` where it is not.
      values: what the labels will be looked up in.
      params: the parameters.

    Raises:
      ValueError: if the labels are not strings, or not a prefix of `params`.
    """
    if labels is None:
        labels = layer_labels if isinstance(values, Mapping) else weight_labels
    if callable(labels):
        labels = labels(params)
    for label in jax.tree.leaves(labels):
        if not isinstance(label, str):
            raise ValueError(f"labels must be a pytree of strings; it holds {label!r}")
    try:
        return jax.tree.map(
            lambda label, subtree: jax.tree.map(lambda _: label, subtree), labels, params
        )
    except ValueError as error:
        raise ValueError(
            "labels must be a pytree prefix of the parameters, or a function of the parameters "
            f"that returns one: {error}"
        ) from error
