"""Description length: what a network costs in bits, and what that says about its test error."""

from lconv_jax.mdl.bounds import occam_bound, theorem2_bits

__all__ = ["occam_bound", "theorem2_bits"]
