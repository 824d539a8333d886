"""What a trained network's weights look like: functions of arrays."""

from lconv_jax.analysis.filters import choose_filters, first_layer_filters, save_filters, tile
from lconv_jax.analysis.localisation import (
    Localisation,
    localisation,
    participation,
    shuffle_weights,
    unit_spread,
)
from lconv_jax.analysis.locality import Locality, locality, shuffle_support, window_share
from lconv_jax.analysis.structure import Structure, structure, support_bits

__all__ = [
    "Localisation",
    "Locality",
    "Structure",
    "choose_filters",
    "first_layer_filters",
    "localisation",
    "locality",
    "participation",
    "save_filters",
    "shuffle_support",
    "shuffle_weights",
    "structure",
    "support_bits",
    "tile",
    "unit_spread",
    "window_share",
]
