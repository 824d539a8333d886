"""What a trained network's weights look like: functions of arrays."""

from lconv_jax.analysis.filters import (
    choose_filters,
    choose_units,
    draw_signals,
    first_layer_filters,
    picture,
    save_filters,
    tile,
    unpermuted_rows,
)
from lconv_jax.analysis.flops import inference_flops, training_flops
from lconv_jax.analysis.localisation import (
    Localisation,
    localisation,
    participation,
    shuffle_weights,
    unit_spread,
)
from lconv_jax.analysis.locality import Locality, locality, shuffle_support, window_share
from lconv_jax.analysis.recovery import Match, Recovery, cut, partners, recovery
from lconv_jax.analysis.structure import Structure, structure, support_bits

__all__ = [
    "Localisation",
    "Locality",
    "Match",
    "Recovery",
    "Structure",
    "choose_filters",
    "choose_units",
    "cut",
    "draw_signals",
    "first_layer_filters",
    "inference_flops",
    "localisation",
    "locality",
    "participation",
    "partners",
    "picture",
    "recovery",
    "save_filters",
    "shuffle_support",
    "shuffle_weights",
    "structure",
    "support_bits",
    "tile",
    "training_flops",
    "unit_spread",
    "unpermuted_rows",
    "window_share",
]
