"""WAV files: what their headers state is checked against what is there, then SciPy decodes.

A file is chunks of a name, a size and so many bytes; of them "fmt " says what the samples are, and
"data" has them. A program that writes to a pipe cannot know the sizes, and states 0xFFFFFFFF: such
a chunk goes on to the end of the file. RF64 is the same with sizes of 64 bits in a chunk "ds64".
"""

from __future__ import annotations

import io
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.data import files

# Samples a second: from the telephone's, with room below, to what records bats, with room above.
RATES = (1_000, 1_000_000)
REMEDY = "Record or copy it again, or remove it"
_OPEN_END = 0xFFFFFFFF
_PROBLEM = "damaged or not a WAV file of PCM or floating-point samples"


class _Content(NamedTuple):
    order: str  # of bytes, as `struct` has it
    format: bytes
    samples: bytes


def read(path: pathlib.Path) -> tuple[int, NDArray[Any]]:
    """Samples a second, and the samples [n] or [n, channels] as they are stored.

    PCM of up to 64 bits, of which 8 bits or less are unsigned, and floating point of 32 or 64.

    Raises:
      DataError: the file cannot be read, is no such WAV file, is shorter than a size in it states,
        or has a rate beyond `RATES`.
    """
    raw = files.read_bytes(path, REMEDY)
    with files.reading(path, REMEDY, _PROBLEM):
        order, form, samples = _content(raw)
        channels, rate, _, block, bits = struct.unpack(f"{order}HIIHH", form[2:16])
        low, high = RATES
        if not low <= rate <= high:
            raise ValueError(f"{rate} samples a second; {low} … {high} are accepted")
        if not channels or block % channels or not 1 <= block // channels <= 8:
            raise ValueError(f"{block} bytes for a sample of {channels} channels")
        if not 1 <= bits <= 8 * (block // channels):
            raise ValueError(f"samples of {bits} bits in {block // channels} bytes")
        samples = samples[: len(samples) // block * block]
        if not samples:
            raise ValueError("no samples")
        return _decoded(order, form, samples)


def _content(raw: bytes) -> _Content:
    """The chunks that matter of a file's bytes; a ValueError if they are not there whole."""
    kind = raw[:4]
    if kind not in (b"RIFF", b"RIFX", b"RF64") or raw[8:12] != b"WAVE":
        raise ValueError(f"begins with {raw[:12]!r}")
    order = ">" if kind == b"RIFX" else "<"
    (size,) = struct.unpack(f"{order}I", raw[4:8])
    if size != _OPEN_END:
        _require_there("the file", size + 8, len(raw))
    form, wide, at = b"", None, 12
    while at + 8 <= len(raw):
        name, (size,) = raw[at : at + 4], struct.unpack(f"{order}I", raw[at + 4 : at + 8])
        at += 8
        left = len(raw) - at
        if name == b"data":
            if len(form) < 16:
                raise ValueError("no format before the samples")
            if size == _OPEN_END:
                size = left if wide is None else wide
            if not size and left:
                raise ValueError("states 0 bytes of samples: its header was never finished")
            _require_there("the samples", size, left)
            return _Content(order, form, raw[at : at + size])
        _require_there(f"the chunk {name!r}", size, left)
        if name == b"fmt ":
            form = raw[at : at + size]
        elif name == b"ds64":
            size_of_file, wide = struct.unpack("<QQ", raw[at : at + 16])
            _require_there("the file", size_of_file + 8, len(raw))
        at += size + size % 2
    raise ValueError("no samples")


def _require_there(what: str, stated: int, there: int) -> None:
    if stated > there:
        raise ValueError(f"{what} should have {stated} bytes, of which {there} are there")


def _decoded(order: str, form: bytes, samples: bytes) -> tuple[int, NDArray[Any]]:
    """What SciPy reads from a file of nothing but this."""
    import scipy.io.wavfile

    body = b"WAVE" + b"".join(
        name + struct.pack(f"{order}I", len(chunk)) + chunk + b"\0" * (len(chunk) % 2)
        for name, chunk in ((b"fmt ", form), (b"data", samples))
    )
    kind = b"RIFX" if order == ">" else b"RIFF"
    file = io.BytesIO(kind + struct.pack(f"{order}I", len(body)) + body)
    rate, decoded = scipy.io.wavfile.read(file)
    return int(rate), np.asarray(decoded)
