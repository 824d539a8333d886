"""A network as an ONNX model, from the table of its layers: by the `onnx` package.

Convolutions are ONNX's own and see channels first. ONNX has no layer without weight sharing: the
windows of a local layer are gathered, and each position has a matrix product of its own.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import lax
from numpy.typing import NDArray

from lconv_jax.errors import ConfigError
from lconv_jax.mdl.network import Term, output_shapes
from lconv_jax.models import window_taps
from lconv_jax.portable.network import Portable

if TYPE_CHECKING:
    import onnx

# Of 2022, so that runtimes of these years read it.
OPSET, IR_VERSION = 17, 8
# Protocol buffers hold less than 2 GiB.
_MOST_BYTES = 2**31 - 2**20


def check_installed() -> None:
    """Raises ConfigError unless the `onnx` package can be imported."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"writing .onnx needs the package onnx ({error}); "
            'install it with pip install "lconv_jax[onnx]", or write .npz'
        ) from None


def to_model(portable: Portable) -> onnx.ModelProto:
    """The model, checked, with one input "images" [N, *shape] and one output "logits" [N, classes].

    Images are taken as they are stored, in bytes or in float32, channels last. All else is
    float32. N is free.

    Raises:
      ConfigError: `onnx` is not installed, or the weights are larger than an ONNX file may be.
    """
    check_installed()
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = _graph(portable)
    if sum(array.nbytes for array in constants.values()) > _MOST_BYTES:
        raise ConfigError("the network takes more than the 2 GiB of an ONNX file; write .npz")
    stored = TensorProto.UINT8 if portable.dtype == "uint8" else TensorProto.FLOAT
    network = portable.network
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [out], out, **rest) for op, inputs, out, rest in nodes],
        "lconv_jax",
        [helper.make_tensor_value_info("images", stored, ["N", *network.input_shape])],
        [
            helper.make_tensor_value_info(
                "logits", TensorProto.FLOAT, ["N", len(network.layers[-1].bias)]
            )
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="lconv_jax",
        producer_version=str(portable.about.get("lconv_jax", "")),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(
        model,
        {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in portable.about.items()
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _graph(portable: Portable) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """The nodes (operator, inputs, output, attributes) in order, and the constants by name."""
    network, shapes = portable.network, output_shapes(portable.network)
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}

    def constant(name: str, value: Any) -> str:
        array = np.asarray(value)
        constants[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append((op, inputs, output, attributes))
        return output

    def reshape(x: str, output: str, *shape: int) -> str:
        """To [N, *shape]."""
        return node("Reshape", [x, constant(f"{output}/shape", np.array([0, *shape]))], output)

    # The input, and the output of each layer, with channels last or first, as far as needed.
    last = {0: _input(portable, constant, node, reshape)}
    first: dict[int, str] = {}

    def channels_last(source: int) -> str:
        if source not in last:
            perm = [0, *range(2, len(shapes[source]) + 1), 1]
            output = f"{first[source]}/channels_last"
            last[source] = node("Transpose", [first[source]], output, perm=perm)
        return last[source]

    def channels_first(source: int) -> str:
        if source not in first:
            rank = len(shapes[source])
            perm = [0, rank, *range(1, rank)]
            output = f"{last[source]}/channels_first"
            first[source] = node("Transpose", [last[source]], output, perm=perm)
        return first[source]

    def apply(term: Term, name: str) -> str:
        """The sums of a term: of a convolution with channels first, else last."""
        shape = shapes[term.source]
        if term.kind == "dense":
            x = channels_last(term.source)
            if len(shape) > 1:
                x = reshape(x, f"{name}/flat", math.prod(shape))
            return node("MatMul", [x, constant(f"{name}/kernel", term.kernel)], f"{name}/product")
        sides, channels = shape[:-1], shape[-1]
        window = term.kernel.shape[-2 - len(sides) : -2]
        if term.kind == "conv":
            pads = lax.padtype_to_pads(sides, window, (term.stride,) * len(sides), "SAME")
            kernel = np.moveaxis(term.kernel, (-1, -2), (0, 1))
            inputs = [channels_first(term.source), constant(f"{name}/kernel", kernel)]
            return node(
                "Conv",
                inputs,
                f"{name}/product",
                strides=[term.stride] * len(sides),
                pads=[low for low, _ in pads] + [high for _, high in pads],
            )
        pixels, taps = math.prod(sides), window_taps(sides, window, term.stride)
        kernel = term.kernel.reshape(len(taps), -1, term.kernel.shape[-1])
        # A row of zeros behind the pixels is what taps on the padding read.
        x = reshape(channels_last(term.source), f"{name}/pixels", pixels, channels)
        row = constant(f"{name}/row", np.array([0, 0, 0, 0, 1, 0]))
        x = node("Pad", [x, row], f"{name}/padded")
        index = constant(f"{name}/taps", np.where(taps < 0, pixels, taps).astype(np.int64))
        x = node("Gather", [x, index], f"{name}/windows", axis=1)
        x = reshape(x, f"{name}/by_example", len(taps), kernel.shape[1])
        x = node("Transpose", [x], f"{name}/by_position", perm=[1, 0, 2])
        x = node("MatMul", [x, constant(f"{name}/kernel", kernel)], f"{name}/products")
        x = node("Transpose", [x], f"{name}/sums", perm=[1, 0, 2])
        positions = term.kernel.shape[: len(sides)]
        return reshape(x, f"{name}/product", *positions, kernel.shape[-1])

    end = len(network.layers)
    for number, (layer, names) in enumerate(zip(network.layers, portable.names, strict=True), 1):
        kinds = {term.kind for term in layer.terms}
        if layer.shift or len(kinds) > 1:
            raise ValueError(f"layer {number}: neither shifts nor terms of several kinds are known")
        name, rank = names[0], len(shapes[layer.terms[0].source]) - 1
        sums = [apply(term, each) for term, each in zip(layer.terms, names, strict=True)]
        total = sums[0]
        for each in sums[1:]:
            total = node("Add", [total, each], f"{name}/sum")
        is_first = kinds == {"conv"}
        bias = layer.bias.reshape(-1, *(1,) * rank) if is_first else layer.bias
        total = node(
            "Add",
            [total, constant(f"{name}/bias", bias)],
            "logits" if number == end else f"{name}/biased",
        )
        if number < end:
            total = node("Relu", [total], f"{name}/output")
        if layer.pool:
            axes = range(2, 2 + rank) if is_first else range(1, 1 + rank)
            inputs = [total, constant(f"{name}/axes", np.array(axes))]
            total = node("ReduceSum", inputs, f"{name}/pooled", keepdims=0)
        (first if is_first and not layer.pool else last)[number] = total
    return nodes, constants


def _input(portable: Portable, constant: Any, node: Any, reshape: Any) -> str:
    """The network's input, of the model's input "images"."""
    shape, x = portable.network.input_shape, "images"
    if portable.dtype == "uint8":
        x = node("Cast", [x], "input/float", to=1)  # TensorProto.FLOAT
        x = node("Mul", [x, constant("input/scale", portable.scale)], "input/scaled")
        x = node("Add", [x, constant("input/offset", portable.offset)], "input/normalised")
    if portable.order is not None:
        x = reshape(x, "input/pixels", math.prod(shape[:-1]), shape[-1])
        order = constant("input/order", np.asarray(portable.order, np.int64))
        x = node("Gather", [x, order], "input/permuted", axis=1)
        x = reshape(x, "input/images", *shape)
    return x
