"""Draws examples of a data set, and beside each what augmentation makes of it.

    python -m lconv_jax.preview --name=fashion_mnist_small --augment=autoaugment

The first column is the examples as they are stored; each further one has draws of its own. Images
are shown in grey or colour; signals [L, C] as curves, one for each channel, or, where there are
more than four channels, as strips, one below the other, light where the signal is high.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lconv_jax import config as config_lib
from lconv_jax import data
from lconv_jax.training import inputs, rng

# Pixels of the sheet.
_SIDE, _GAP, _BAND, _HEADER = 72, 4, 14, 22
_SIGNAL_WIDTH, _SIGNAL_HEIGHT = 144, 60
_MOST_CURVES = 4
_WHITE, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (225, 225, 225)
_CURVES = ((31, 90, 160), (200, 80, 30), (60, 140, 60), (130, 70, 150))


def augmented(config: Any, examples: NDArray[Any], columns: int) -> list[NDArray[Any]]:
    """The examples [N, …] and `columns` augmented versions of them by a configuration's keys.

    Raises:
      DataError: an augmentation that the examples do not allow.
    """
    augment = jax.jit(inputs.make_augment(config))
    keys = [rng.key_for(config.seed, rng.AUGMENT, column) for column in range(columns)]
    return [examples, *(np.asarray(augment(key, examples)) for key in keys)]


def sheet(columns: Sequence[NDArray[Any]], title: str) -> Image.Image:
    """A picture with one array [N, H, W, C] or [N, L, C] in each column, the first one set apart.

    What is not uint8 is scaled alike for all: from the 0.5th to the 99.5th percentile of the first.
    """
    first = columns[0]
    low, high = (0.0, 255.0)
    if first.dtype != np.uint8:
        low, high = (float(each) for each in np.percentile(first, (0.5, 99.5)))
    span = max(high - low, 1e-12)
    tiles = [
        [_tile((example.astype(np.float64) - low) / span) for example in column]
        for column in columns
    ]
    width, height = tiles[0][0].size
    across = len(columns) * (width + _GAP) + _GAP + _BAND
    down = len(first) * (height + _GAP) + _GAP + _HEADER
    picture = Image.new("RGB", (across, down), _WHITE)
    for number, column in enumerate(tiles):
        left = _GAP + number * (width + _GAP) + (_BAND if number else 0)
        for row, tile in enumerate(column):
            picture.paste(tile, (left, _HEADER + _GAP + row * (height + _GAP)))
    draw = ImageDraw.Draw(picture)
    line = _GAP + width + (_GAP + _BAND) // 2
    draw.line((line, _GAP, line, down - _GAP), (170, 170, 170))
    font = ImageFont.load_default(13)
    for left, text, most in (
        (_GAP, "stored", width),
        (_GAP + width + _GAP + _BAND, title, across - width - 3 * _GAP - _BAND),
    ):
        draw.text((left, 5), _fitting(text, font, most), _INK, font)
    grey = all(tile.mode == "L" for column in tiles for tile in column)
    return picture.convert("L") if grey else picture


def _fitting(text: str, font: Any, most: int) -> str:
    """The text, or as much of its beginning as is not wider than `most` pixels."""
    if font.getlength(text) <= most:
        return text
    while text and font.getlength(text + "…") > most:
        text = text[:-1]
    return text + "…"


def _tile(example: NDArray[np.float64]) -> Image.Image:
    """One example, of which 0 … 1 is shown, as a picture."""
    if example.ndim == 2:
        few = example.shape[1] <= _MOST_CURVES
        return _curves(example) if few else _strips(example)
    pixels = np.round(np.clip(example, 0, 1) * 255).astype(np.uint8)
    if example.shape[-1] not in (1, 3):
        pixels = np.round(pixels.mean(-1, keepdims=True)).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    scale = max(1, round(_SIDE / max(picture.size)))
    larger = (picture.width * scale, picture.height * scale)
    return picture.resize(larger, Image.Resampling.NEAREST)


def _curves(signal: NDArray[np.float64]) -> Image.Image:
    # Drawn four times as large, so that lines are smooth.
    factor, margin = 4, 0.12
    width, height = _SIGNAL_WIDTH * factor, _SIGNAL_HEIGHT * factor
    picture = Image.new("RGB", (width, height), (248, 248, 248))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width - 1, height - 1), outline=_FAINT, width=factor)
    x = (np.arange(len(signal)) + 0.5) / len(signal) * width
    for channel, color in zip(range(signal.shape[1]), _CURVES, strict=False):
        inside = np.clip(signal[:, channel], -margin, 1 + margin)
        y = (1 + margin - inside) / (1 + 2 * margin) * height
        points = list(zip(x.tolist(), y.tolist(), strict=True))
        draw.line(points if len(points) > 1 else points * 2, color, 5, "curve")
    return picture.resize((_SIGNAL_WIDTH, _SIGNAL_HEIGHT), Image.Resampling.LANCZOS)


def _strips(signal: NDArray[np.float64]) -> Image.Image:
    grey = np.round(np.clip(signal.T, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(grey).resize(
        (_SIGNAL_WIDTH, max(_SIGNAL_HEIGHT, len(grey))), Image.Resampling.NEAREST
    )


def write(
    out: str | os.PathLike[str],
    *,
    name: str = "fashion_mnist_small",
    data_dir: str = "",
    augment: str = "",
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    seed: int = 0,
    rows: int = 8,
    columns: int = 9,
    size: int = 0,
    channels: int = 0,
) -> int:
    """Writes the sheet of `rows` training examples, chosen by `seed`, as the PNG file `out`.

    The other arguments are as in the configuration's group `data`.

    Returns:
      How many examples are shown, fewer than `rows` if there are no more.

    Raises:
      ConfigError, DataError: what the arguments name is not there, or not for these data.
    """
    config = config_lib.base_config()
    config.optimizer.name = "sgd"  # β-lasso would ask for its λ
    config.seed = seed
    config.data.name, config.data.data_dir, config.data.augment = name, data_dir, augment
    config.data.crop, config.data.flip, config.data.cutout = crop, flip, cutout
    config.data.size, config.data.channels = size, channels
    config_lib.validate(config)
    train = data.load(name, data_dir or None, stream="auto", size=size, channels=channels).train
    chosen = np.random.default_rng(seed).permutation(len(train.labels))[:rows]
    examples = np.asarray(data.read(train, chosen).images)
    title = [augment or "no policy"]
    title += [f"crop {crop}"] * bool(crop) + ["flip"] * flip + [f"cutout {cutout}"] * bool(cutout)
    picture = sheet(augmented(config, examples, columns), ", ".join(title))
    picture.save(out, "PNG", optimize=True)
    return len(examples)


def define_flags() -> None:
    """The command's flags: not when this is imported, as other commands have some of the names."""
    flags.DEFINE_string("name", "fashion_mnist_small", "The data set, as config.data.name.")
    flags.DEFINE_string("data_dir", "", "Folder of the data, as config.data.data_dir.")
    flags.DEFINE_string("augment", "", "The policy, as config.data.augment.")
    flags.DEFINE_integer("crop", 0, "As config.data.crop.")
    flags.DEFINE_boolean("flip", False, "As config.data.flip.")
    flags.DEFINE_integer("cutout", 0, "As config.data.cutout.")
    flags.DEFINE_integer("seed", 0, "Decides which examples are shown, and all draws.")
    flags.DEFINE_integer("rows", 8, "Examples, one below the other.", 1)
    flags.DEFINE_integer("columns", 9, "Augmented versions of each.", 1)
    flags.DEFINE_integer("size", 0, "As config.data.size.")
    flags.DEFINE_integer("channels", 0, "As config.data.channels.")
    flags.DEFINE_string("out", "sheet.png", "The PNG file to write.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    names = inspect.signature(write).parameters
    arguments: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    try:
        shown = write(**arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{shown} training examples of {flags.FLAGS.name}: {flags.FLAGS.out}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
