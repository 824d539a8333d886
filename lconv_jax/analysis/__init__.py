"""What a trained network's weights look like: functions of arrays."""

from lconv_jax.analysis.dictionary import Stencils, stencils
from lconv_jax.analysis.extent import Window, clumps, energy_window, neighbour_distance, sampling
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
from lconv_jax.analysis.locality import Locality, locality, shuffle_support, window_share
from lconv_jax.analysis.moves import (
    Equivariance,
    Partners,
    equivariance,
    move,
    moved_partners,
)
from lconv_jax.analysis.nulls import NULLS, Contrast, contrast
from lconv_jax.analysis.recovery import Match, Recovery, cut, partners, recovery
from lconv_jax.analysis.spectrum import Tuning, opponency, tuning
from lconv_jax.analysis.spread import (
    Localisation,
    localisation,
    participation,
    shuffle_weights,
    unit_spread,
)
from lconv_jax.analysis.structure import Structure, structure, support_bits
from lconv_jax.analysis.unit_measures import Fields, compare_fields, fields
from lconv_jax.analysis.weight_sharing import Sharing, Similarity, sharing, similarity

__all__ = [
    "NULLS",
    "Contrast",
    "Equivariance",
    "Fields",
    "Localisation",
    "Locality",
    "Match",
    "Partners",
    "Recovery",
    "Sharing",
    "Similarity",
    "Stencils",
    "Structure",
    "Tuning",
    "Window",
    "choose_filters",
    "choose_units",
    "clumps",
    "compare_fields",
    "contrast",
    "cut",
    "draw_signals",
    "energy_window",
    "equivariance",
    "fields",
    "first_layer_filters",
    "inference_flops",
    "localisation",
    "locality",
    "move",
    "moved_partners",
    "neighbour_distance",
    "opponency",
    "participation",
    "partners",
    "picture",
    "recovery",
    "sampling",
    "save_filters",
    "sharing",
    "shuffle_support",
    "shuffle_weights",
    "similarity",
    "stencils",
    "structure",
    "support_bits",
    "tile",
    "training_flops",
    "tuning",
    "unit_spread",
    "unpermuted_rows",
    "window_share",
]
