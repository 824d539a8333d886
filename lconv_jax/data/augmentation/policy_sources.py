"""Published augmentation policies, as tables and as what their levels mean.

A policy is a list of sub-policies, each a sequence of `Step`s. Levels are in the units of
`operations`, but those of translations and cutout are fractions of the side.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np

from lconv_jax.data.augmentation import operations


class Step(NamedTuple):
    """With this probability, an operation at `level` + or − `spread`, the sign drawn anew."""

    operation: str
    probability: float
    level: float = 0.0
    spread: float = 0.0


SubPolicies = list[list[Step]]

# Cubuk et al., "AutoAugment", 2019, appendix: (operation, probability, magnitude 0 … 9) twice.
CIFAR10 = (
    "invert .1 7 contrast .2 6",
    "rotate .7 2 translate_x .3 9",
    "sharpness .8 1 sharpness .9 3",
    "shear_y .5 8 translate_y .7 9",
    "auto_contrast .5 8 equalize .9 2",
    "shear_y .2 7 posterize .3 7",
    "color .4 3 brightness .6 7",
    "sharpness .3 9 brightness .7 9",
    "equalize .6 5 equalize .5 1",
    "contrast .6 7 sharpness .6 5",
    "color .7 7 translate_x .5 8",
    "equalize .3 7 auto_contrast .4 8",
    "translate_y .4 3 sharpness .2 6",
    "brightness .9 6 color .2 8",
    "solarize .5 2 invert .0 3",
    "equalize .2 0 auto_contrast .6 0",
    "equalize .2 8 equalize .6 4",
    "color .9 9 equalize .6 6",
    "auto_contrast .8 4 solarize .2 8",
    "brightness .1 3 color .7 0",
    "solarize .4 5 auto_contrast .9 3",
    "translate_y .9 9 translate_y .7 9",
    "auto_contrast .9 2 solarize .8 3",
    "equalize .8 8 invert .1 3",
    "translate_y .7 9 auto_contrast .9 1",
)
SVHN = (
    "shear_x .9 4 invert .2 3",
    "shear_y .9 8 invert .7 5",
    "equalize .6 5 solarize .6 6",
    "invert .9 3 equalize .6 3",
    "equalize .6 1 rotate .9 3",
    "shear_x .9 4 auto_contrast .8 3",
    "shear_y .9 8 invert .4 5",
    "shear_y .9 5 solarize .2 6",
    "invert .9 6 auto_contrast .8 1",
    "equalize .6 3 rotate .9 3",
    "shear_x .9 4 solarize .3 3",
    "shear_y .8 8 invert .7 4",
    "equalize .9 5 translate_y .6 6",
    "invert .9 4 equalize .6 7",
    "contrast .3 3 rotate .8 4",
    "invert .8 5 translate_y .0 2",
    "shear_y .7 6 solarize .4 8",
    "invert .6 4 rotate .8 4",
    "shear_y .3 7 translate_x .9 3",
    "shear_x .1 6 invert .6 5",
    "solarize .7 2 translate_y .6 7",
    "shear_y .8 4 invert .8 8",
    "shear_x .7 9 translate_y .8 3",
    "shear_y .8 5 auto_contrast .7 3",
    "shear_x .7 2 invert .1 5",
)

FACTORS = frozenset({"contrast", "color", "brightness", "sharpness"})
# The paper's translations are of up to 150 pixels in images of 331.
_AUTOAUGMENT_END = {
    **dict.fromkeys(("shear_x", "shear_y"), 0.3),
    **dict.fromkeys(("translate_x", "translate_y"), 150 / 331),
    "rotate": 30.0,
}
# 32 pixels of 32; 2 bits are left of 8.
_WIDE_END = {
    **dict.fromkeys(("shear_x", "shear_y"), 0.99),
    **dict.fromkeys(("translate_x", "translate_y"), 1.0),
    "rotate": 135.0,
}
# Without invert and cutout, and with "identity".
_RANDAUGMENT = tuple(name for name in operations.NAMES if name not in ("invert", "cutout"))
RANDAUGMENT_BINS = 31

# What the policies that Fast AutoAugment publishes were found on.
PUBLISHED = ("cifar10", "svhn", "imagenet")
# Of Fast AutoAugment: the ends of an operation's range, and whether a sign is drawn.
FAST_AUTOAUGMENT = {
    "ShearX": ("shear_x", -0.3, 0.3, True),
    "ShearY": ("shear_y", -0.3, 0.3, True),
    "TranslateX": ("translate_x", -0.45, 0.45, True),
    "TranslateY": ("translate_y", -0.45, 0.45, True),
    "Rotate": ("rotate", -30.0, 30.0, True),
    "AutoContrast": ("auto_contrast", 0.0, 1.0, False),
    "Invert": ("invert", 0.0, 1.0, False),
    "Equalize": ("equalize", 0.0, 1.0, False),
    "Solarize": ("solarize", 0.0, 256.0, False),
    "Posterize": ("posterize", 4.0, 8.0, False),
    "Contrast": ("contrast", 0.1, 1.9, False),
    "Color": ("color", 0.1, 1.9, False),
    "Brightness": ("brightness", 0.1, 1.9, False),
    "Sharpness": ("sharpness", 0.1, 1.9, False),
    "Cutout": ("cutout", 0.0, 0.2, False),
}


def autoaugment(table: tuple[str, ...]) -> SubPolicies:
    """A table of AutoAugment, with the ten magnitudes evenly spaced over the paper's ranges.

    Shear 0 … 0.3, translation 0 … 150 / 331 of the side and rotation 0 … 30°, each to either side;
    solarize 256 … 0; posterize 8 … 4 bits; contrast, color, brightness and sharpness 0.1 … 1.9.
    """
    return [
        [_autoaugment_step(*fields[first : first + 3]) for first in range(0, len(fields), 3)]
        for fields in map(str.split, table)
    ]


def _autoaugment_step(operation: str, probability: str, magnitude: str) -> Step:
    strength = int(magnitude) / 9
    if operation in FACTORS:
        return Step(operation, float(probability), 0.1 + 1.8 * strength)
    return _step(operation, float(probability), strength, _AUTOAUGMENT_END, bits=4, factor=0.0)


def _step(
    operation: str,
    probability: float,
    strength: float,
    end: dict[str, float],
    bits: int,
    factor: float,
) -> Step:
    """An operation at a strength of 0 … 1, with `bits` lost and a factor of 1 ± `factor` at 1."""
    if operation in end:
        return Step(operation, probability, 0.0, end[operation] * strength)
    if operation in FACTORS:
        return Step(operation, probability, 1.0, factor * strength)
    if operation == "solarize":
        return Step(operation, probability, 256 * (1 - strength))
    if operation == "posterize":
        return Step(operation, probability, float(8 - np.round(bits * strength)))
    return Step(operation, probability)


def randaugment(magnitude: int) -> SubPolicies:
    """The sub-policies of one operation that RandAugment draws each of its operations from.

    Cubuk et al., "RandAugment", 2020, with its 14 operations, one of which does nothing, and the
    ranges of AutoAugment: factors are 1 − 0.9 … 1 + 0.9. `magnitude` is 0 … 30, as in torchvision.
    """
    strength = magnitude / (RANDAUGMENT_BINS - 1)
    steps = [
        [_step(name, 1.0, strength, _AUTOAUGMENT_END, bits=4, factor=0.9)] for name in _RANDAUGMENT
    ]
    return [[], *steps]


def trivialaugment() -> SubPolicies:
    """All that TrivialAugment (Wide) draws from: 14 operations at 31 strengths.

    Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", 2021.
    """
    nothing: SubPolicies = [[]] * RANDAUGMENT_BINS
    return nothing + [
        [_step(name, 1.0, strength, _WIDE_END, bits=6, factor=0.99)]
        for name in _RANDAUGMENT
        for strength in np.linspace(0, 1, RANDAUGMENT_BINS).tolist()
    ]


def published(name: str) -> str:
    """One of Fast AutoAugment's published policies, as JSON: `name` is one of PUBLISHED."""
    folder = resources.files("lconv_jax.data") / "fast_autoaugment"
    return (folder / f"{name}.json").read_text("utf-8")


def fast_autoaugment_step(operation: str, probability: float, level: float) -> Step:
    """A step of Fast AutoAugment (Lim et al., 2019), whose levels are 0 … 1 over each range.

    Geometric operations have a range that is symmetric about 0 and draw a sign besides.
    """
    name, low, high, signed = FAST_AUTOAUGMENT[operation]
    value = low + level * (high - low)
    return Step(name, probability, 0.0, value) if signed else Step(name, probability, value)
