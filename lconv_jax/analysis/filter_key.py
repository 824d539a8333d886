"""The key below a picture of filters: which colour stands for which weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.colours import diverging, tints

IMAGE, SIGNAL = "image", "signal"
_SCALE = "Each filter is divided by its largest magnitude."
_RULES = {
    "one": "Red is positive, white zero, blue negative.",
    "colour": "Grey is zero. A weight adds to its colour or takes from it.",
    "bars": "Bars up, red: positive. Bars down, blue: negative. None: zero.",
}
# Pixels: the bars of colour, what is between things, the height of a line of text.
_BAR, _GAP, _LINE = (120, 12), 10, 18
_INK, _WHITE = (40, 40, 40), (255, 255, 255)


def rule(kind: str, channels: int) -> str:
    """What the colours of filters mean, in a sentence or two.

    Args:
      kind: IMAGE or SIGNAL.
      channels: of the filters.
    """
    return f"{_RULES[_scheme(kind, channels)]} {_SCALE}"


def below(picture: NDArray[np.uint8], kind: str, channels: int) -> NDArray[np.uint8]:
    """An RGB picture [H, W, 3] on white, with the key of its colours below it.

    Args:
      picture: of filters.
      kind, channels: as in `rule`.
    """
    # Here, so that importing the analysis loads no plotting.
    from PIL import Image, ImageDraw, ImageFont

    scheme = _scheme(kind, channels)
    bars = _bars(scheme)
    font = ImageFont.load_default(13)
    words = (_RULES[scheme], _SCALE)
    width = max(
        picture.shape[1],
        _GAP + len(bars) * (_BAR[0] + 3 * _GAP),
        *(2 * _GAP + round(font.getlength(line)) for line in words),
    )
    top = picture.shape[0] + _GAP
    height = top + len(words) * _LINE + (_BAR[1] + _LINE if bars else 0) + _GAP
    whole = Image.new("RGB", (width, height), _WHITE)
    whole.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(whole)
    for line in words:
        draw.text((_GAP, top), line, _INK, font)
        top += _LINE
    for number, (name, bar) in enumerate(bars.items()):
        left = 2 * _GAP + number * (_BAR[0] + 3 * _GAP)
        whole.paste(Image.fromarray(bar), (left, top + 2))
        draw.rectangle((left - 1, top + 1, left + _BAR[0], top + 2 + _BAR[1]), outline=_INK)
        for share, label in ((0.0, "-1"), (0.5, name), (1.0, "+1")):
            place = (left + share * _BAR[0], top + _BAR[1] + 4)
            draw.text(place, label, _INK, font, anchor="ma")
    return np.asarray(whole)


def _scheme(kind: str, channels: int) -> str:
    if kind == SIGNAL:
        return "bars" if channels == 1 else "one"
    return "colour" if channels == 3 else "one"


def _bars(scheme: str) -> dict[str, NDArray[np.uint8]]:
    """Bars from −1 to +1, by the label of their middle; none where heights say what colours do."""
    ramp = np.broadcast_to(np.linspace(-1, 1, _BAR[0])[None, :, None], (_BAR[1], _BAR[0], 1))
    if scheme == "colour":
        shown = {
            name: tints(ramp * np.eye(3)[channel])
            for channel, name in enumerate(("red", "green", "blue"))
        }
    else:
        shown = {"0": diverging(ramp)} if scheme == "one" else {}
    return {name: (255 * bar).astype(np.uint8) for name, bar in shown.items()}
