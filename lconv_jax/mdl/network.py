"""A network as plain numbers, batch normalisation folded in, and its exact integer evaluation.

The same type holds a trained network's floating-point weights (`lconv_jax.export`) and the integer
network that a file describes. An integer network has no scale anywhere: ReLU and argmax do not
change when a layer is multiplied by a positive number, so its weights, biases and activations are
integers, and every machine computes the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

KINDS = ("dense", "conv", "local")

# Below this, float64 holds every integer, so that sums of products in any order are exact.
_EXACT = 2**53


class Term(NamedTuple):
    """One linear map of an earlier array into a layer's sums.

    kind: one of KINDS. A conv or a local layer is SAME-padded with zeros.
    source: 0 for the input, i for the output of layer i, counted from 1.
    stride: of conv and local, along every spatial axis; 1 for dense.
    kernel: dense [inputs, units], the inputs in row-major [*sides, channel] order;
      conv [*window, channels, units]; local [*positions, *window, channels, units].
    """

    kind: str
    source: int
    stride: int
    kernel: NDArray[Any]


class Layer(NamedTuple):
    """ReLU(sum of the terms + bias) >> shift; the last layer has neither ReLU nor shift.

    terms: at least one, all of one output shape.
    bias: [units], the same at every position.
    shift: bits dropped after ReLU (rounding down), so that deep integer networks stay in range.
    pool: the output is summed over its positions.
    """

    terms: tuple[Term, ...]
    bias: NDArray[Any]
    shift: int = 0
    pool: bool = False


class Network(NamedTuple):
    """A feed-forward network; the class with the largest output wins, the lowest one on a tie.

    input_shape: [*sides, channels], one or two sides.
    input_code: a key of INPUTS, how stored examples become integers.
    """

    input_shape: tuple[int, ...]
    input_code: str
    layers: tuple[Layer, ...]


# From stored examples to integers. Constants, the same for every data set; × is to the integers
# that a floating-point network's input is multiplied by to become them. "centred" is what the
# models are trained on, (x / 255 − 0.5) / 0.25 times 127.5, whose zero padding is mid-grey; with
# "black" a sparse unit on a dark background needs no bias.
INPUTS: dict[str, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    "centred": lambda x: 2.0 * x - 255.0,
    "black": lambda x: x.astype(np.float64),
    "fixed": lambda x: np.floor(np.clip(x.astype(np.float64), -32768, 32767) * 256.0 + 0.5),
}
INPUT_SCALE = {"centred": 127.5, "black": 63.75, "fixed": 256.0}
_INPUT_PEAK = {"centred": 255, "black": 255, "fixed": 2**23}


def output_shapes(network: Network) -> list[tuple[int, ...]]:
    """[*sides, channels] of the input and of every layer's output; dense and pooled: [units].

    Raises:
      ValueError: the shapes of the network do not fit together.
    """
    shapes: list[tuple[int, ...]] = [tuple(network.input_shape)]
    if not network.layers:
        raise ValueError("a network needs at least one layer, got none")
    if network.input_code not in INPUTS:
        raise ValueError(f"input_code = {network.input_code!r} must be one of {', '.join(INPUTS)}")
    for number, layer in enumerate(network.layers, 1):
        shapes.append(layer_output(layer, shapes, f"layer {number}: "))
    if len(shapes[-1]) != 1:
        raise ValueError(f"the last layer's output has shape {shapes[-1]}; it must be [classes]")
    return shapes


def layer_output(
    layer: Layer, shapes: Sequence[tuple[int, ...]], where: str = ""
) -> tuple[int, ...]:
    """The output shape of a layer, given those of the input and the layers before it."""
    found = {term_output(term, shapes, where) for term in layer.terms}
    if len(found) != 1:
        raise ValueError(f"{where}its terms have outputs of shapes {sorted(found)}")
    shape = found.pop()
    if np.shape(layer.bias) != shape[-1:]:
        raise ValueError(f"{where}bias of shape {np.shape(layer.bias)} for {shape[-1]} units")
    if layer.shift < 0:
        raise ValueError(f"{where}shift = {layer.shift} must be ≥ 0")
    return shape[-1:] if layer.pool else shape


def term_output(term: Term, shapes: Sequence[tuple[int, ...]], where: str = "") -> tuple[int, ...]:
    """The output shape of a term, given those of the input and the layers before it."""
    if not 0 <= term.source < len(shapes):
        raise ValueError(f"{where}source {term.source} is not before it")
    shape, kernel = shapes[term.source], term.kernel
    if term.kind == "dense":
        if kernel.ndim != 2 or kernel.shape[0] != math.prod(shape):
            raise ValueError(
                f"{where}a dense kernel of shape {kernel.shape} on inputs of shape {shape}"
            )
        return (kernel.shape[1],)
    if term.stride < 1:
        raise ValueError(f"{where}stride = {term.stride} must be ≥ 1")
    rank = len(shape) - 1
    positions = output_sides(shape[:-1], term.stride) if term.kind == "local" else ()
    fits = (
        term.kind in KINDS
        and rank >= 1
        and kernel.ndim == len(positions) + rank + 2
        and kernel.shape[: len(positions)] == positions
        and kernel.shape[-2] == shape[-1]
    )
    if not fits:
        raise ValueError(
            f"{where}a {term.kind} kernel of shape {kernel.shape}, stride {term.stride}, on "
            f"inputs of shape {shape}"
        )
    return (*output_sides(shape[:-1], term.stride), kernel.shape[-1])


def output_sides(sides: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """The sides of a SAME-padded layer's output: ceil(side / stride)."""
    return tuple(-(-side // stride) for side in sides)


def count_weights(network: Network) -> tuple[int, int, int]:
    """(all weights n, non-zero weights ‖w‖₀, distinct values k with zero among them).

    Biases are not counted.
    """
    kernels = [term.kernel for layer in network.layers for term in layer.terms]
    values = {0}.union(*(np.unique(kernel).tolist() for kernel in kernels))
    nonzeros = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
    return sum(kernel.size for kernel in kernels), nonzeros, len(values)


def peaks(network: Network) -> list[int]:
    """A bound on the magnitude of every sum inside each layer, terms and bias included."""
    shapes: list[tuple[int, ...]] = [tuple(network.input_shape)]
    outputs, sums = [_INPUT_PEAK[network.input_code]], []
    for number, layer in enumerate(network.layers, 1):
        shapes.append(layer_output(layer, shapes, f"layer {number}: "))
        total = np.array([abs(int(value)) for value in layer.bias], object)
        for term in layer.terms:
            column = _magnitudes(term)
            total = total + column * outputs[term.source]
        sums.append(int(max(total, default=0)))
        positions = 1
        if layer.pool:
            positions = math.prod(term_output(layer.terms[0], shapes)[:-1])
        shift = layer.shift if number < len(network.layers) else 0
        outputs.append((sums[-1] >> shift) * positions)
    return [max(total, output) for total, output in zip(sums, outputs[1:], strict=True)]


def _magnitudes(term: Term) -> NDArray[Any]:
    """For each unit, the largest sum of its weights' magnitudes at one position, exactly."""
    kernel = term.kernel
    largest = max(abs(int(kernel.max(initial=0))), abs(int(kernel.min(initial=0))))
    exact = np.abs(kernel.astype(object if largest * kernel.size >= 2**62 else np.int64))
    if term.kind == "local":
        taps = (kernel.ndim - 2) // 2 + 1
        sums = exact.reshape(-1, math.prod(kernel.shape[-1 - taps : -1]), kernel.shape[-1]).sum(1)
        return sums.max(0).astype(object)
    return exact.sum(tuple(range(exact.ndim - 1))).astype(object)


def evaluate(network: Network, examples: NDArray[Any], batch_size: int = 2000) -> NDArray[Any]:
    """The outputs [N, classes] of an integer network on stored examples [N, *input_shape].

    Exact whatever the weights: in float64 where no sum can reach 2⁵³, in Python's integers where
    one could. The result is the same on every machine.

    Raises:
      ValueError: the network is not made of integers, or the examples do not fit it.
    """
    check_integers(network)
    output_shapes(network)
    if tuple(examples.shape[1:]) != tuple(network.input_shape):
        raise ValueError(
            f"examples of shape {examples.shape[1:]}; this network takes {network.input_shape}"
        )
    stored_as_bytes = examples.dtype == np.uint8
    if stored_as_bytes != (network.input_code != "fixed"):
        raise ValueError(
            f"examples of type {examples.dtype}; this network takes "
            + ("floating-point signals" if stored_as_bytes else "uint8 images")
        )
    if not stored_as_bytes and np.isnan(examples).any():
        raise ValueError("the examples hold NaN, which no integer stands for")
    dtype = np.float64 if max(peaks(network)) < _EXACT else object
    batches = range(0, len(examples), batch_size)
    rows = [_outputs(network, examples[at : at + batch_size], dtype) for at in batches]
    if not rows:
        return np.zeros((0, len(network.layers[-1].bias)), np.int64)
    result = np.concatenate(rows)
    return result.astype(np.int64) if dtype is np.float64 else result


def predict(network: Network, examples: NDArray[Any]) -> NDArray[np.int64]:
    """The class of each example; the lowest of those that tie."""
    outputs = evaluate(network, examples)
    if outputs.dtype == object:  # NumPy's argmax of Python integers is not documented for ties
        return np.array([max(range(len(row)), key=lambda c: (row[c], -c)) for row in outputs])
    return outputs.argmax(1)


def count_errors(network: Network, examples: NDArray[Any], labels: NDArray[Any]) -> int:
    """The number of examples that the network gets wrong."""
    return int(np.count_nonzero(predict(network, examples) != labels))


def check_integers(network: Network) -> None:
    """Raises ValueError unless every weight and bias is an integer."""
    for layer in network.layers:
        for array in (layer.bias, *(term.kernel for term in layer.terms)):
            if not np.issubdtype(array.dtype, np.integer):
                raise ValueError(
                    f"an integer network is needed, got weights of {array.dtype}; quantise first"
                )


def _outputs(network: Network, examples: NDArray[Any], dtype: Any) -> NDArray[Any]:
    arrays: list[Any] = [INPUTS[network.input_code](examples)]
    if dtype is object:
        arrays = [arrays[0].astype(np.int64).astype(object)]
    for number, layer in enumerate(network.layers, 1):
        total = sum(_apply(term, arrays[term.source], dtype) for term in layer.terms)
        total = total + layer.bias.astype(dtype)
        if number < len(network.layers):
            total = np.maximum(total, 0)
            if layer.shift:
                exact = dtype is object
                total = total >> layer.shift if exact else np.floor(np.ldexp(total, -layer.shift))
        arrays.append(total.sum(tuple(range(1, total.ndim - 1))) if layer.pool else total)
    return arrays[-1]


def _apply(term: Term, x: NDArray[Any], dtype: Any) -> NDArray[Any]:
    kernel = term.kernel.astype(dtype)
    if term.kind == "dense":
        return x.reshape(len(x), -1) @ kernel
    rank = x.ndim - 2
    window = kernel.shape[-2 - rank : -2]
    windows = unfold(x, window, term.stride)  # [B, *positions, taps · channels]
    if term.kind == "conv":
        return windows @ kernel.reshape(windows.shape[-1], kernel.shape[-1])
    sides = windows.shape[1:-1]
    by_position = windows.reshape(len(x), -1, windows.shape[-1]).swapaxes(0, 1)
    y = by_position @ kernel.reshape(len(by_position), windows.shape[-1], kernel.shape[-1])
    return y.swapaxes(0, 1).reshape(len(x), *sides, kernel.shape[-1])


def unfold(x: NDArray[Any], window: tuple[int, ...], stride: int) -> NDArray[Any]:
    """The SAME-padded window around every output position, flattened in [*window, C] order."""
    sides = x.shape[1:-1]
    totals, inside = [], []
    for side, size, out in zip(sides, window, output_sides(sides, stride), strict=True):
        total = max((out - 1) * stride + size - side, 0)
        totals.append(side + total)
        inside.append(slice(total // 2, total // 2 + side))
    axes = tuple(range(1, x.ndim - 1))
    # Not np.pad: it pads an array of Python's integers with int64 zeros, whose sums overflow.
    padded = np.zeros((len(x), *totals, x.shape[-1]), x.dtype)
    padded[(slice(None), *inside)] = x
    views = np.lib.stride_tricks.sliding_window_view(padded, window, axes)
    views = views[(slice(None), *[slice(None, None, stride)] * len(axes))]
    # [B, *positions, C, *window] → [B, *positions, *window, C]
    views = np.moveaxis(views, len(axes) + 1, -1)
    return views.reshape(*views.shape[: len(axes) + 1], -1)
