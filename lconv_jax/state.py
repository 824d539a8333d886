"""What a checkpoint holds: all that a run needs to go on, and nothing it can recompute."""

from typing import Any

import jax
from flax import struct


@struct.dataclass
class TrainState:
    """Parameters, running BN statistics and optimizer state after `step` updates."""

    step: jax.Array  # int32 scalar
    params: Any
    batch_stats: Any
    opt_state: Any
