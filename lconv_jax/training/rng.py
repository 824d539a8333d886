"""Random keys: each a function of the run's seed, of what it is for, and of the epoch or step.

So a run that was stopped anywhere continues as if it had not been.
"""

from __future__ import annotations

from typing import Any

import jax

# What a random key is for; a number, once given, keeps its meaning.
INIT, ORDER, AUGMENT, DROPOUT, STATISTICS, PERMUTATION = range(6)


def key_for(seed: int, purpose: int, index: Any = 0) -> jax.Array:
    """The random key of (seed, purpose, epoch or step)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), index)


def epoch_order(seed: Any, epoch: Any, size: int) -> jax.Array:
    """The order of the training examples in an epoch, int32 [size]; all may be traced but size."""
    return jax.random.permutation(key_for(seed, ORDER, epoch), size)
