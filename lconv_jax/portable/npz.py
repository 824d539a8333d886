"""A network as a compressed .npz file: plain arrays, and a text in JSON that says how they act.

`lconv_jax/portable/evaluate.py` reads it with NumPy alone; docs/export.md has the format.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from lconv_jax.portable.evaluate import FORMAT
from lconv_jax.portable.network import Portable


def to_bytes(portable: Portable) -> bytes:
    """The contents of the file. Weights are rounded to float32; equal networks give equal bytes."""
    arrays: dict[str, Any] = {}
    layers = []
    last = len(portable.network.layers) - 1
    for number, (layer, names) in enumerate(
        zip(portable.network.layers, portable.names, strict=True)
    ):
        terms = []
        for term, name in zip(layer.terms, names, strict=True):
            arrays[f"{name}/kernel"] = np.asarray(term.kernel, np.float32)
            terms.append(
                {
                    "kind": term.kind,
                    "source": term.source,
                    "stride": term.stride,
                    "kernel": f"{name}/kernel",
                }
            )
        arrays[f"{names[0]}/bias"] = np.asarray(layer.bias, np.float32)
        layers.append(
            {
                "terms": terms,
                "bias": f"{names[0]}/bias",
                "relu": number < last,
                "pool": layer.pool,
            }
        )
    examples = {
        "shape": list(portable.network.input_shape),
        "dtype": portable.dtype,
        "scale": portable.scale,
        "offset": portable.offset,
    }
    if portable.order is not None:
        arrays["input/order"] = np.asarray(portable.order, np.int64)
        examples["order"] = "input/order"
    text = {"format": FORMAT, "about": portable.about, "input": examples, "layers": layers}
    stream = io.BytesIO()
    np.savez_compressed(stream, network=np.array(json.dumps(text)), **arrays)
    return stream.getvalue()
