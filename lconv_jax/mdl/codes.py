"""A network as bytes and back: the description whose length the bounds charge.

A file holds the number of the language's version, the length of the coded part, the coded part and
a CRC-32, so that its end is known without an end of file: files are a prefix-free language. All
that a prediction needs is inside. The modules that `decoder_digest` reads are the language, fixed
before it was used on the data that bounds are given for; how an encoder searches in it is free.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lconv_jax.mdl.canonical import canonical, reorder
from lconv_jax.mdl.coder import (
    BASE_WORK,
    WORK_PER_BYTE,
    DamagedError,
    Decoder,
    Encoder,
    most_work,
)
from lconv_jax.mdl.language import (
    CODES,
    Choice,
    as_matrix,
    code_header,
    code_layer,
    code_matrix,
    matrix_grid,
    may_sort,
)
from lconv_jax.mdl.network import (
    Layer,
    Network,
    Term,
    check_integers,
    layer_output,
    output_shapes,
)
from lconv_jax.mdl.supports import SUPPORTS, Grid, make_plan
from lconv_jax.mdl.values import VALUES, code_values, fits, nearest_before

# Each language that was ever run on the data of a bound has a number, which every file starts with,
# and the digests of its modules. Later modules of one number read the same files as the same
# networks, and may refuse more of them, which takes nothing from a bound.
LANGUAGES = {
    1: (
        "82519e49e16fd440dd4acad90f50eae00cc6631f0309ab92577a2e55e9867e43",
        "733a6a0c708366ad1fe6e4343786a0db703bb72cfd3461008d88e28887cf7234",
    ),
}
VERSION = max(LANGUAGES)

# `layer` numbers the sets of a whole matrix, in time of cells × digits.
_MOST_WORK = 4e10
# `near` asks about every weight, a million in about ten seconds.
_MOST_CELLS = 2**21
# Of fewer weights than this every code is tried.
_SMALL = 2**14
# Codes are compared on about this many weights that are not zero, for tenths of seconds each.
_MANY = 4096
# Tables of values send the steps between them, which must fit 64 bits; `digits` has no such limit.
_MOST_IN_TABLE = 1 << 62
# More layers than this are taken for damage, and so are larger shifts, which leave nothing.
_MOST_LAYERS = 1 << 16
_MOST_SHIFT = 1 << 16


def encode(network: Network, code: str = "shortest") -> bytes:
    """The file of an integer network.

    Args:
      network: made of integers of 64 bits; at most two terms a layer.
      code: one of CODES for every layer, or "shortest": the best one for each. With "raw" and
        "theorem2" every weight of the network is described; the others describe its `canonical`
        form, whose hidden units come in an order of the code's own.

    Returns:
      The file's bytes. 8 · len is the length of the description in bits.

    Raises:
      ValueError: the network is not made of integers, its shapes do not fit or are none that a file
        holds, or a code is unknown or would take too long to write ("layer" on millions of weights)
        or to read ("near" on millions of weights with few that are not zero).
    """
    if code not in (*CODES, "shortest"):
        raise ValueError(f"code = {code!r} must be one of {', '.join(CODES)} or shortest")
    _check_describable(network)
    if code not in ("raw", "theorem2"):
        network = canonical(network)
    shapes, count = output_shapes(network), len(network.layers)
    encoder = Encoder()
    code_header(encoder, network)
    for number in range(1, count + 1):
        layer, last = network.layers[number - 1], number == count
        sortable = may_sort(layer, last)
        choices = [_choose(term, shapes[term.source], code, sortable) for term in layer.terms]
        if sortable and choices[0].plan is not None:
            network = reorder(network, number, choices[0].plan.order)
        code_layer(encoder, network.layers[number - 1], choices, shapes[:number], last)
    payload = encoder.getvalue()
    if encoder.work > most_work(len(payload)):
        raise ValueError(
            f"code = {code!r} makes a file of {len(payload)} bytes that takes too long to read for "
            "one of its length; choose another"
        )
    body = bytes([VERSION]) + _varint(len(payload)) + payload
    return body + zlib.crc32(body).to_bytes(4, "little")


def decode(file: bytes) -> Network:
    """The network of a file.

    It takes a second or so, and 200 MB, beside what a file has bytes for; one that asks for more is
    refused.

    Raises:
      DamagedError: a ValueError that says how the bytes differ from what `encode` writes.
    """
    if not file:
        raise DamagedError("the file is empty")
    if file[0] != VERSION:
        raise DamagedError(
            f"the file starts with {file[0]}, and this is version {VERSION} of the code: it is no "
            "description of a network, or was written by another version of lconv_jax"
        )
    length, start = _read_varint(file, 1)
    end = start + length + 4
    if len(file) < end:
        raise DamagedError(f"the file is cut short: {len(file)} bytes of {end}")
    if len(file) > end:
        raise DamagedError(f"the file is longer than it says: {len(file)} bytes, not {end}")
    if zlib.crc32(file[: end - 4]) != int.from_bytes(file[end - 4 :], "little"):
        raise DamagedError("the file is damaged: its checksum is not that of its contents")
    try:
        return _decode_payload(file[start : end - 4])
    except DamagedError as error:
        raise DamagedError(f"the file is damaged: {error}") from None
    except (ValueError, OverflowError, IndexError, MemoryError, RecursionError) as error:
        raise DamagedError(f"the file is damaged: it holds no network ({error})") from None


def decoder_digest() -> str:
    """SHA-256 (hex) of the modules that give a file its meaning."""
    sha = hashlib.sha256()
    for name in ("network", "coder", "supports", "values", "language"):
        sha.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return sha.hexdigest()


def _check_describable(network: Network) -> None:
    """Raises ValueError for a network that a file does not hold."""
    check_integers(network)
    output_shapes(network)
    shape, layers = network.input_shape, network.layers
    if not 2 <= len(shape) <= 3 or min(shape) < 1:
        raise ValueError(f"input_shape = {shape} must be [*sides, channels] with 1 or 2 sides")
    if len(layers) > _MOST_LAYERS:
        raise ValueError(f"the network has {len(layers)} layers; a file holds {_MOST_LAYERS}")
    if not len(layers[-1].bias):
        raise ValueError("the network has no class: its last layer has no units")
    for number, layer in enumerate(layers, 1):
        if layer.shift > _MOST_SHIFT:
            raise ValueError(f"layer {number} has a shift of {layer.shift}, over {_MOST_SHIFT}")
        if len(layer.terms) > 2:
            raise ValueError(f"layer {number} has {len(layer.terms)} terms; a file holds 1 or 2")
        for array in (layer.bias, *(term.kernel for term in layer.terms)):
            if array.max(initial=0) >= 1 << 63:
                raise ValueError(f"layer {number} has integers of more than 64 bits, with sign")
    if layers[-1].pool and layers[-1].terms[0].kind != "dense":
        raise ValueError("the last layer is pooled; in a file, a dense layer comes after pooling")


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow (LEB128)."""
    groups = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _read_varint(file: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(file[at : at + 9]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            if index and not byte:
                raise DamagedError("the file is damaged: its length has an empty digit")
            return value, at + index + 1
    raise DamagedError("the file is cut short: its length has no end")


def _decode_payload(payload: bytes) -> Network:
    decoder = Decoder(payload)
    network, count = code_header(decoder, None)
    if count > _MOST_LAYERS:
        raise DamagedError(f"it has more than {_MOST_LAYERS} layers")
    shapes = [network.input_shape]
    layers: list[Layer] = []
    for number in range(1, count + 1):
        layers.append(code_layer(decoder, None, None, shapes, number == count))
        shapes.append(layer_output(layers[-1], shapes))
    network = network._replace(layers=tuple(layers))
    _check_describable(network)
    decoder.finish()
    return network


def _choose(term: Term, shape: tuple[int, ...], code: str, sortable: bool) -> Choice:
    """The cheapest way to code a term that reads an array of this shape, within a code or any.

    Of many weights the ways are tried on some of the units, evenly spread, and the best two on all.
    """
    if code in ("raw", "theorem2"):
        return Choice(code, VALUES[0], None)
    grid, matrix = matrix_grid(term, shape), as_matrix(term)
    if code == "layer" and _layer_work(matrix) > _MOST_WORK:
        raise ValueError(
            f"code = 'layer' would take minutes on {matrix.size} weights; choose another"
        )
    tried = matrix
    if np.count_nonzero(matrix) > _MANY:
        # The same units whatever their order is, which shall leave no trace.
        order = np.lexsort(matrix) if sortable else np.arange(matrix.shape[1])
        tried = matrix[:, order[:: 1 + np.count_nonzero(matrix) // _MANY]]
    options = []
    for mode in _modes(matrix) if code == "shortest" else (code,):
        if mode in ("raw", "theorem2"):
            options.append((Choice(mode, VALUES[0], None), False))
            continue
        fitting = _fitting(matrix, mode == "full")
        for mask in (False, True) if mode in ("unit", "local") else (False,):
            plan = make_plan(tried != 0, grid, mode, sortable, mask, tried)
            values = _choose_values(tried[:, plan.order], grid, fitting, mode == "full")
            options.append((Choice(mode, values, plan), mask))

    def best(choices: list[Choice], weights: NDArray[np.int64]) -> list[int]:
        """The choices by what they make of these weights, the shortest first."""

        def cost(number: int) -> tuple[bool, float]:
            plan, encoder = choices[number].plan, Encoder()
            ordered = weights if plan is None else weights[:, plan.order]
            code_matrix(encoder, choices[number], ordered, grid, weights.shape[1], sortable)
            # Several terms share the work that a file may ask for without a byte.
            slow = encoder.work > BASE_WORK / 10 + WORK_PER_BYTE / 8 * encoder.bits
            return slow and code == "shortest", encoder.bits

        numbers = range(len(choices))
        return sorted(numbers, key=cost) if len(choices) > 1 else list(numbers)

    ranked = best([choice for choice, _ in options], tried)
    if tried is matrix:
        return options[ranked[0]][0]
    finalists = []
    for choice, mask in (options[number] for number in ranked[:2]):
        if choice.plan is not None:
            plan = make_plan(matrix != 0, grid, choice.code, sortable, mask, matrix)
            choice = choice._replace(plan=plan)
        finalists.append(choice)
    return finalists[best(finalists, matrix)[0]]


def _modes(matrix: NDArray[np.int64]) -> list[str]:
    """The codes of the weights [inputs, units] of a term that may be the shortest, in turn."""
    small = matrix.size <= _SMALL
    density = np.count_nonzero(matrix) / max(1, matrix.size)
    modes = ["raw"] if small or density > 0.5 else []
    modes += ["theorem2"] if small else []
    modes += [mode for mode in SUPPORTS if mode != "full" or density > 0.1 or small]
    if _layer_work(matrix) > _MOST_WORK:
        modes.remove("layer")
    if matrix.size > _MOST_CELLS:
        modes.remove("near")
    return modes


def _fitting(matrix: NDArray[np.int64], with_zero: bool) -> list[str]:
    """The codes that can hold the values of these weights."""
    values = matrix if with_zero else matrix[matrix != 0]
    if max(int(values.max(initial=0)), -int(values.min(initial=0))) >= _MOST_IN_TABLE:
        return ["digits"]
    return [mode for mode in VALUES if fits(values, mode, with_zero)]


def _choose_values(matrix: NDArray[np.int64], grid: Grid, modes: list[str], with_zero: bool) -> str:
    """The code of `modes` that makes the values of these weights shortest."""
    support = np.ones_like(matrix, bool) if with_zero else matrix != 0
    values, neighbours = matrix.T[support.T], nearest_before(support, grid)

    def bits(mode: str) -> float:
        encoder = Encoder()
        code_values(encoder, values, neighbours, mode, with_zero)
        return encoder.bits

    return min(modes, key=bits)


def _layer_work(matrix: NDArray[np.int64]) -> float:
    """Cells times the binary digits of the number of sets."""
    cells, nonzeros = matrix.size, np.count_nonzero(matrix)
    share = nonzeros / max(1, cells)
    if not 0 < share < 1:
        return 0.0
    return cells * cells * -(share * math.log2(share) + (1 - share) * math.log2(1 - share))
