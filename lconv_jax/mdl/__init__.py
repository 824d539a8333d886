"""Description length: what a network costs in bits, and what that says about its test error."""

from lconv_jax.mdl.bounds import (
    kl_bound,
    kraft_bound,
    occam_bound,
    theorem2_bits,
    theorem2_bound,
)
from lconv_jax.mdl.canonical import canonical
from lconv_jax.mdl.coder import DamagedError
from lconv_jax.mdl.codes import decode, encode
from lconv_jax.mdl.evaluation import count_errors, predict
from lconv_jax.mdl.language import CODES
from lconv_jax.mdl.network import Layer, Network, Term, count_weights, evaluate

__all__ = [
    "CODES",
    "DamagedError",
    "Layer",
    "Network",
    "Term",
    "canonical",
    "count_errors",
    "count_weights",
    "decode",
    "encode",
    "evaluate",
    "kl_bound",
    "kraft_bound",
    "occam_bound",
    "predict",
    "theorem2_bits",
    "theorem2_bound",
]
