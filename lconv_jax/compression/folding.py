"""A trained model as plain numbers: batch normalisation folded in, ready to prune and quantise.

`fold` makes an `mdl.network.Network` of floating-point weights, `apply` evaluates it in JAX, and
`weights` with `with_weights` hand its arrays to whatever trains or changes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import ArrayLike, NDArray

from lconv_jax.mdl.network import INPUTS, Layer, Network, Term, output_sides
from lconv_jax.models.families import ConvFamily
from lconv_jax.models.layers import convolve, local_convolve
from lconv_jax.models.resnet import ResNet18
from lconv_jax.models.three_fc import ThreeFC

# Of every normalisation in `lconv_jax.models`.
_EPSILON = 1e-5
# Blocks of a ResNet-18 that double the channels and halve the sides.
_WIDENING = (3, 5, 7)


def fold(
    model: nn.Module,
    variables: Mapping[str, Any],
    image_shape: tuple[int, ...],
    *,
    input_code: str = "centred",
) -> Network:
    """The network that computes what `model` does in evaluation mode, as float64 NumPy arrays.

    A normalised layer's kernel is multiplied by γ / √(var + ε), unit by unit, and its bias is
    β − mean · γ / √(var + ε). Nothing is rounded and every shift is 0. A residual block's last
    layer has two terms, its second convolution and its shortcut, which is a 1×1 convolution with
    an identity kernel where the model just adds. Average pooling is a sum over positions, and the
    division is in the kernel that follows.

    Args:
        model: made by `models.create`.
        variables: {"params", "batch_stats"} of `model`.
        image_shape: (H, W, C) of the images or (L, C) of the signals.
        input_code: a key of `mdl.network.INPUTS`. "centred" and "fixed" networks take the inputs
            [B, *image_shape] of the model. A "black" one takes x / 63.75 for a stored byte x,
            where the model takes x / 63.75 − 2; the difference goes into the first bias.

    Raises:
        ValueError: a model of another kind, variables of another model or image shape, an unknown
            code, or "black" for a model that starts with a convolution or a local layer.
    """
    if input_code not in INPUTS:
        raise ValueError(f"input_code must be one of {', '.join(INPUTS)}, got {input_code!r}")
    make: dict[type, Callable[..., list[Layer]]] = {
        ConvFamily: _conv_family,
        ThreeFC: _three_fc,
        ResNet18: _resnet18,
    }
    if type(model) not in make:
        raise ValueError(f"model must be made by models.create, got {type(model).__name__}")
    variables = {key: variables.get(key, {}) for key in ("params", "batch_stats")}
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    expected = _shapes(jax.eval_shape(model.init, jax.random.key(0), x))
    if differ := dict(expected.items() ^ _shapes(variables).items()):
        raise ValueError(
            f"the variables are not those of this {type(model).__name__} for inputs of shape "
            f"{image_shape}; they differ in {', '.join(sorted(differ))}"
        )
    network = Network(image_shape, input_code, tuple(make[type(model)](model, variables, x.shape)))
    if input_code != "black":
        return network
    reason = 'in the code "black" its padding would be black, and the model was trained with grey'
    first, *rest = _with_dense_input(network, reason).layers
    bias = first.bias - 2 * first.terms[0].kernel.sum(0)
    return network._replace(layers=(first._replace(bias=bias), *rest))


def apply(network: Network, inputs: ArrayLike) -> jax.Array:
    """The outputs [B, classes] of a floating-point network, differentiable in all its arrays.

    Shifts scale by 2^−shift and do not round. Under `jit` or `grad`, trace the arrays of `weights`
    and keep the structure: `lambda tree, x: apply(with_weights(network, tree), x)`.

    Args:
        network: its arrays may be NumPy's or JAX's; integers are taken as floats.
        inputs: [B, *input_shape], as `fold` says for the network's code.

    Raises:
        ValueError: the inputs have another shape.
    """
    x = jnp.asarray(inputs)
    if x.shape[1:] != tuple(network.input_shape):
        raise ValueError(f"inputs must be [B, *{tuple(network.input_shape)}], got {x.shape}")
    arrays = [x]
    for number, layer in enumerate(network.layers, 1):
        terms = [_apply_term(term, arrays[term.source]) for term in layer.terms]
        total = sum(terms[1:], terms[0]) + layer.bias
        if number < len(network.layers):
            total = nn.relu(total) * 2.0**-layer.shift
        arrays.append(total.sum(range(1, total.ndim - 1)) if layer.pool else total)
    return arrays[-1]


def weights(network: Network) -> list[dict[str, Any]]:
    """The arrays of a network as a pytree: for each layer its "kernels", one a term, and "bias"."""
    return [
        {"kernels": [term.kernel for term in layer.terms], "bias": layer.bias}
        for layer in network.layers
    ]


def with_weights(network: Network, tree: Sequence[Mapping[str, Any]]) -> Network:
    """The network with the arrays of `tree`, a pytree like that of `weights`.

    Raises:
        ValueError: the tree has another number of layers, or of kernels in a layer.
    """
    layers = []
    for layer, arrays in zip(network.layers, tree, strict=True):
        pairs = zip(layer.terms, arrays["kernels"], strict=True)
        terms = tuple(term._replace(kernel=kernel) for term, kernel in pairs)
        layers.append(layer._replace(terms=terms, bias=arrays["bias"]))
    return network._replace(layers=tuple(layers))


def layer_names(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """For each layer of a folded model the names of its terms: those of the model's own layers.

    A residual block's identity shortcut, which has no layer in the model, is "blockN/identity".

    Raises:
        ValueError: a model of another kind.
    """
    if isinstance(model, ConvFamily):
        convs = [(f"conv{number}",) for number in range(1, len(model.convs) + 1)]
        return (*convs, ("fc1",), ("fc2",))
    if isinstance(model, ThreeFC):
        return ("fc1",), ("fc2",), ("fc3",)
    if isinstance(model, ResNet18):
        blocks = []
        for number in range(1, 9):
            block = f"block{number}"
            shortcut = "conv_shortcut" if number in _WIDENING else "identity"
            blocks += [(f"{block}/conv1",), (f"{block}/conv2", f"{block}/{shortcut}")]
        return (("conv1",), *blocks, ("fc1",))
    raise ValueError(f"model must be made by models.create, got {type(model).__name__}")


def unpermute(network: Network, order: NDArray[Any]) -> Network:
    """The network for images as they are, from one trained on images with shuffled pixels.

    Args:
        network: one whose layers that read the input are dense.
        order: [pixels]; pixel i of a shuffled image is pixel order[i] of the image. Channels
            stay together. `steps.permutation` gives it for a run with `data.permute`.

    Raises:
        ValueError: `order` is not a permutation of the pixels, or a convolution or a local layer
            reads the input.
    """
    pixels, channels = math.prod(network.input_shape[:-1]), network.input_shape[-1]
    if not np.array_equal(np.sort(order), np.arange(pixels)):
        raise ValueError(f"order must be a permutation of 0 … {pixels - 1}")
    reason = "windows of shuffled pixels are not windows of the image"
    back = np.argsort(order)

    def rows(kernel: Any) -> Any:
        return kernel.reshape(pixels, channels, -1)[back].reshape(kernel.shape)

    return _with_dense_input(network, reason, rows)


def _with_dense_input(
    network: Network, reason: str, change: Callable[[Any], Any] = lambda kernel: kernel
) -> Network:
    """The network with `change` applied to every kernel that reads the input, all of them dense."""
    tree = weights(network)
    for number, (layer, arrays) in enumerate(zip(network.layers, tree, strict=True), 1):
        for index, term in enumerate(layer.terms):
            if term.source == 0 and term.kind != "dense":
                raise ValueError(
                    f"layer {number} reads the input and is {term.kind}, not dense: {reason}"
                )
            if term.source == 0:
                arrays["kernels"][index] = change(term.kernel)
    return with_weights(network, tree)


def _apply_term(term: Term, x: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(jnp.result_type(x, term.kernel), jnp.float32)
    x, kernel = x.astype(dtype), jnp.asarray(term.kernel, dtype)
    if term.kind == "dense":
        return x.reshape(x.shape[0], -1) @ kernel
    return (convolve if term.kind == "conv" else local_convolve)(x, kernel, term.stride)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}


def _float64(array: Any) -> NDArray[np.float64]:
    return np.asarray(array, np.float64)


def _folded(
    variables: Mapping[str, Any], name: str, block: str | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A layer's kernel and bias with its normalisation, `bn_<name>`, folded in."""
    params, stats = variables["params"], variables["batch_stats"]
    if block is not None:
        params, stats = params[block], stats[block]
    norm = {key: _float64(value) for key, value in params[f"bn_{name}"].items()}
    mean, var = (_float64(stats[f"bn_{name}"][key]) for key in ("mean", "var"))
    factor = norm["scale"] / np.sqrt(var + _EPSILON)
    return _float64(params[name]["kernel"]) * factor, norm["bias"] - mean * factor


def _normalised(variables: Any, name: str, kind: str, source: int, stride: int = 1) -> Layer:
    kernel, bias = _folded(variables, name)
    return Layer((Term(kind, source, stride, kernel),), bias)


def _logits(variables: Any, name: str, source: int, divisor: int = 1) -> Layer:
    layer = variables["params"][name]
    kernel = _float64(layer["kernel"]) / divisor
    return Layer((Term("dense", source, 1, kernel),), _float64(layer["bias"]))


def _conv_family(model: ConvFamily, variables: Any, shape: tuple[int, ...]) -> list[Layer]:
    layers = []
    for source, conv in enumerate(model.convs):
        kind, stride = ("dense", 1) if model.kind == "fc" else (model.kind, conv.stride)
        layers.append(_normalised(variables, f"conv{source + 1}", kind, source, stride))
    layers.append(_normalised(variables, "fc1", "dense", len(layers)))
    return [*layers, _logits(variables, "fc2", len(layers))]


def _three_fc(model: ThreeFC, variables: Any, shape: tuple[int, ...]) -> list[Layer]:
    hidden = [_normalised(variables, f"fc{i + 1}", "dense", i) for i in range(2)]
    return [*hidden, _logits(variables, "fc3", 2)]


def _resnet18(model: ResNet18, variables: Any, shape: tuple[int, ...]) -> list[Layer]:
    sides, layers = shape[1:-1], [_normalised(variables, "conv1", "conv", 0)]
    for number in range(1, 9):
        block, source = f"block{number}", len(layers)
        stride = 2 if number in _WIDENING else 1
        kernel, bias = _folded(variables, "conv1", block)
        layers.append(Layer((Term("conv", source, stride, kernel),), bias))
        kernel, bias = _folded(variables, "conv2", block)
        if "conv_shortcut" in variables["params"][block]:
            shortcut, shortcut_bias = _folded(variables, "conv_shortcut", block)
            bias = bias + shortcut_bias
        else:
            shortcut = np.eye(len(bias)).reshape(*(1,) * len(sides), len(bias), len(bias))
        terms = Term("conv", source + 1, 1, kernel), Term("conv", source, stride, shortcut)
        layers.append(Layer(terms, bias, pool=number == 8))
        sides = output_sides(sides, stride)
    return [*layers, _logits(variables, "fc1", len(layers), math.prod(sides))]
