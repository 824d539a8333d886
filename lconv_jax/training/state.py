"""The contents of a checkpoint: all that a run needs to go on, and nothing it can recompute."""

from typing import Any

import jax
from flax import struct


@struct.dataclass
class TrainState:
    """Parameters, running BN statistics and optimizer state after `step` updates.

    A stored state of a run that shrinks has, for each dense hidden layer, bool [units] in `kept`:
    the units that the network had. While a network trains, all units it has are kept: None.
    """

    step: jax.Array  # int32 scalar
    params: Any
    batch_stats: Any
    opt_state: Any
    kept: Any = None
