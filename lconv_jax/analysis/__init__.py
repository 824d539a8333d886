"""What a trained network's weights look like: functions of arrays."""

from lconv_jax.analysis.filters import choose_filters, first_layer_filters, save_filters, tile
from lconv_jax.analysis.locality import Locality, locality, shuffle_support, window_share
from lconv_jax.analysis.recovery import Match, Recovery, partners, recovery
from lconv_jax.analysis.structure import Structure, structure, support_bits

__all__ = [
    "Locality",
    "Match",
    "Recovery",
    "Structure",
    "choose_filters",
    "first_layer_filters",
    "locality",
    "partners",
    "recovery",
    "save_filters",
    "shuffle_support",
    "structure",
    "support_bits",
    "tile",
    "window_share",
]
