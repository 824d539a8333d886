"""Random keys: each is a function of the run's seed, of its purpose, and of the epoch or step.

So a run that was stopped anywhere continues as if it had not been.
"""

from __future__ import annotations

from typing import Any

import jax

# The purposes of random keys; a number, once given, keeps its meaning.
INIT, ORDER, AUGMENT, DROPOUT, STATISTICS, PERMUTATION, OPTIMIZER = range(7)


def key_for(seed: int, purpose: int, index: Any = 0) -> jax.Array:
    """The random key of (seed, purpose, epoch or step)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), index)


def seed_for(seed: Any, purpose: int) -> jax.Array:
    """The seed, uint32, of a part that makes its own keys from it."""
    return jax.random.bits(key_for(seed, purpose))


def epoch_order(seed: Any, epoch: Any, size: int) -> jax.Array:
    """The order of the training examples in an epoch, int32 [size]; all may be traced but size."""
    return jax.random.permutation(key_for(seed, ORDER, epoch), size)
