"""Which parameters are regularised, and how strongly: a label for each leaf of a tree."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# The label of parameters that are never regularised.
NONE = "none"

# Words in the names of leaves that decide whether a leaf is a weight.
_NOT_WEIGHT = re.compile("b|bias(es)?|scales?|offsets?|shift|gain|gamma|beta|slope")
_WEIGHT = re.compile("w|kernels?|embeddings?|lora")
# Words in the names of layers. The second pattern counts only at the end of a name: "norm_proj" is
# a projection, and "conv_norm" is a normalisation.
_NORM = re.compile("[a-z]*norms?|bn|gn|ln|rms|normali[sz]ation")
_OTHER_LAYER = re.compile("conv|dense|embed(ding)?|fc|linear|modulation|proj(ection)?|transpose")


class _Leaf(NamedTuple):
    """What a leaf and its layer are called; None where nothing has a name."""

    name: str | None
    layer: str | None
    layer_class: str  # of the container that holds the leaf, as "dict" or "LayerNorm"
    is_array: bool  # of real or complex numbers
    ndim: int


def layer_labels(params: Any) -> Any:
    """Labels each weight "conv" or "fc" by the name of its layer, and all else "none".

    "conv" and "fc" label the weights of layers whose names start so, where a convolution or a fully
    connected layer would stand: the layer itself may be convolutional, locally connected or dense.
    All else is "none": biases, normalisation, and layers with other names. Only a leaf's own name
    and that of its layer count, never those of the containers around it.

    A leaf is no weight if its own name says so ("bias", "b", "scale", "offset", …), or if the class
    or the name of its layer says that it normalises ("LayerNorm", "bn1", "ln_f", …). It is a weight
    if its own name says so ("kernel", "w", "embedding"). Any other leaf, such as "weight" or one
    without a name, is a weight if it has two or more dimensions.

    Only paths, types and numbers of dimensions are read, so `params` may hold arrays, tracers or
    `jax.ShapeDtypeStruct`, in any container that JAX knows as a pytree: nested dictionaries,
    Flax's `FrozenDict` and `nnx.State`, dataclasses, Equinox's modules.

    Args:
      params: a pytree of parameters.

    Returns:
      A pytree of strings with the structure of `params`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from lconv_jax import layer_labels
      >>> layer_labels({
      ...     "conv1": {"kernel": jnp.ones((27, 8)), "bias": jnp.ones(8)},
      ...     "bn1": {"scale": jnp.ones(8)},
      ...     "fc1": {"kernel": jnp.ones((8, 4))},
      ... })
      {'bn1': {'scale': 'none'}, 'conv1': {'bias': 'none', 'kernel': 'conv'}, 'fc1': {'kernel': 'fc'}}
    """  # noqa: E501  (the example's output)

    def label(leaf: _Leaf) -> str:
        for name in filter(None, (leaf.name, leaf.layer)):
            for prefix in ("conv", "fc"):
                if name.startswith(prefix):
                    return prefix if _is_weight(leaf) else NONE
        return NONE

    return _map_leaves(label, params)


def weight_labels(params: Any) -> Any:
    """The label "weight" for the weights that `layer_labels` finds, and "none" for the rest."""
    return _map_leaves(lambda leaf: "weight" if _is_weight(leaf) else NONE, params)


def _is_weight(leaf: _Leaf) -> bool:
    # An element of a list goes by the list's name, as its layer does.
    says = _says_weight(leaf.name or leaf.layer)
    if not leaf.is_array or says is False or _is_norm(leaf.name):
        return False
    in_norm = _is_norm(leaf.layer_class)
    if _is_norm(leaf.layer) if in_norm is None else in_norm:
        return False
    return says or leaf.ndim >= 2


def _says_weight(name: str | None) -> bool | None:
    """Whether a leaf of this name is a weight; None if the name does not tell."""
    words = _words(name)
    # The last word tells, as in "kernel_scale", but for "b_out" or "w_b".
    for word in words if words[:1] in (("b",), ("w",), ("lora",)) else reversed(words):
        if _NOT_WEIGHT.fullmatch(word):
            return False
        if _WEIGHT.fullmatch(word):
            return True
    return None


def _is_norm(name: str | None) -> bool | None:
    """Whether a layer or class of this name normalises; None if the name does not tell."""
    words = [word for word in _words(name) if len(word) > 1]  # "Conv2d" is a "conv"
    if words and words[0] != "bn" and _OTHER_LAYER.fullmatch(words[-1]):
        return False
    return any(map(_NORM.fullmatch, words)) or None


@functools.lru_cache
def _words(name: str | None) -> tuple[str, ...]:
    """The words of "RMSNorm_0" are "rms" and "norm", that of "W1" is "w"."""
    words = re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name or "")
    # B is a matrix, as A is.
    return tuple(word if word == "B" else word.lower() for word in words)


def _map_leaves(fn: Callable[[_Leaf], str], params: Any) -> Any:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    described = [
        fn(_describe(path, around, leaf))
        for (path, leaf), around in zip(leaves, _containers(treedef), strict=True)
    ]
    return jax.tree.unflatten(treedef, described)


def _containers(
    treedef: Any, around: tuple[tuple[type, int], ...] = ()
) -> Iterator[tuple[tuple[type, int], ...]]:
    """For each leaf the types and sizes of the containers around it, the outermost first."""
    node = treedef.node_data()
    if node is None:
        yield around
    children = treedef.children()
    for child in children:
        yield from _containers(child, (*around, (node[0], len(children))))


def _describe(path: tuple[Any, ...], around: tuple[tuple[type, int], ...], leaf: Any) -> _Leaf:
    # `nnx.Param` and `nn.Partitioned` are boxes around a leaf, which is called as they are.
    while path[1:] and getattr(path[-1], "name", None) == "value" and around[-1][1] == 1:
        path, around = path[:-1], around[:-1]
    # A component is a DictKey or FlattenedIndexKey (.key), a GetAttrKey (.name) or a SequenceKey.
    keys = [getattr(entry, "key", getattr(entry, "name", None)) for entry in path]
    names = [part for key in keys for part in _parts(key)]
    name = names[-1] if names else None
    layer = next(filter(None, reversed(names[:-1])), None)
    layer_class = around[-1][0].__name__ if around else ""
    dtype = getattr(leaf, "dtype", type(leaf))
    is_array = dtype in (float, complex) or jnp.issubdtype(dtype, jnp.inexact)
    return _Leaf(name, layer, layer_class, is_array, getattr(leaf, "ndim", 0))


def _parts(key: Any) -> list[str | None]:
    """The names in one key: Haiku's "net/~/linear", or a key of a flattened dictionary.

    An index is None.
    """
    if isinstance(key, tuple):
        return [part for inner in key for part in _parts(inner)]
    if not isinstance(key, str):
        return [None]
    parts = [part for part in re.split("[/.]", key) if part and not part.startswith("~")]
    return [None if part.isdigit() else part for part in parts]


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
            'labels must have a label for every parameter, or for a part of the tree; "none" '
            "leaves a part alone. (They are a pytree prefix of the parameters, as in "
            'params["Dense_0"], or a function of them.) '
            f"{error}"
        ) from error
