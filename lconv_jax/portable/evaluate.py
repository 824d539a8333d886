"""Evaluates a network's .npz file with NumPy alone.

Nothing else of the package is needed: this file may be copied to where there is no JAX.

    network = read("net.npz")
    classes = logits(network, images).argmax(1)
"""

import json
import os
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The number of the format, which a file says first.
FORMAT = 1
# Examples that are evaluated at a time.
_BATCH = 256
# Errors that NumPy raises for a file that is no archive, or a damaged one.
_DAMAGE = (EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Network(NamedTuple):
    """The contents of a file: the text in JSON, and the arrays by name."""

    text: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def read(path: str | os.PathLike[str]) -> Network:
    """The network of a file.

    Raises:
      ValueError: the file is none of this format, or damaged.
      OSError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text = json.loads(str(arrays.pop("network")))
        found = text["format"]
    except (*_DAMAGE, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a network's .npz, or is damaged ({error!r})") from error
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}; this program reads {FORMAT}")
    return Network(text, arrays)


def logits(network: Network, images: Any) -> NDArray[np.float32]:
    """The outputs [N, classes] for stored examples [N, *shape]; the largest is the class.

    Raises:
      ValueError: the examples are of another shape or type.
    """
    examples = network.text["input"]
    images, shape = np.asarray(images), tuple(examples["shape"])
    is_bytes = images.dtype == np.uint8
    if images.shape[1:] != shape or is_bytes != (examples["dtype"] == "uint8"):
        raise ValueError(
            f"examples of type {images.dtype} and shape {images.shape}; this network takes "
            f"{examples['dtype']} of shape [N, {', '.join(map(str, shape))}]"
        )
    starts = range(0, max(1, len(images)), _BATCH)
    return np.concatenate([_logits(network, images[at : at + _BATCH]) for at in starts])


def _logits(network: Network, images: NDArray[Any]) -> NDArray[np.float32]:
    text, arrays = network
    examples = text["input"]
    x = images.astype(np.float32) * np.float32(examples["scale"]) + np.float32(examples["offset"])
    if "order" in examples:  # of pixels; the channels of each stay together
        by_pixel = x.reshape(len(x), -1, x.shape[-1])
        x = by_pixel[:, arrays[examples["order"]]].reshape(x.shape)
    outputs = [x]  # of the input, and of each layer
    for layer in text["layers"]:
        y = arrays[layer["bias"]] + sum(
            _apply(term["kind"], arrays[term["kernel"]], term["stride"], outputs[term["source"]])
            for term in layer["terms"]
        )
        if layer["relu"]:
            y = np.maximum(y, 0)
        if layer["pool"]:
            y = y.sum(tuple(range(1, y.ndim - 1)))
        outputs.append(y)
    return outputs[-1]


def _apply(kind: str, kernel: NDArray[Any], stride: int, x: NDArray[Any]) -> Any:
    if kind == "dense":
        return x.reshape(len(x), -1) @ kernel
    rank = x.ndim - 2
    windows = _windows(x, kernel.shape[-2 - rank : -2], stride)  # [B, *positions, taps · channels]
    if kind == "conv":
        return windows @ kernel.reshape(windows.shape[-1], -1)
    by_position = kernel.reshape(*windows.shape[1:], -1)
    return np.einsum("b...i,...io->b...o", windows, by_position, optimize=True)


def _windows(x: NDArray[Any], window: tuple[int, ...], stride: int) -> NDArray[Any]:
    """The window around each position, with zeros beyond the border, flattened."""
    rank = len(window)
    pads = [(0, 0)]
    for side, size in zip(x.shape[1:-1], window, strict=True):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, [*pads, (0, 0)])
    views = np.lib.stride_tricks.sliding_window_view(padded, window, tuple(range(1, rank + 1)))
    views = views[(slice(None), *[slice(None, None, stride)] * rank)]
    views = np.moveaxis(views, rank + 1, -1)  # [B, *positions, *window, channels]
    return views.reshape(*views.shape[: rank + 1], -1)
