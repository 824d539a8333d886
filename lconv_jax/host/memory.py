"""What a machine's memory is, and what a state takes of it."""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import jax

# Bytes that a container may use.
_CONTAINER_LIMIT = "/sys/fs/cgroup/memory.max"


def device_bytes() -> int | None:
    """The memory of a device of its own, or None for one that computes in the host's."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


@functools.cache
def host_bytes() -> int:
    """The memory of the host, or of the container that this runs in."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open(_CONTAINER_LIMIT, encoding="utf-8") as file:
            return min(host, int(file.read()))
    except (OSError, ValueError):
        return host  # no container, or one without a limit


def largest_share(tree: Any) -> int:
    """Bytes of a tree of `jax.ShapeDtypeStruct` with shardings, in the memory of which most lies.

    That is the memory of one device, or of all of a host's where they have none of their own.
    """
    devices = 1 if device_bytes() is not None else jax.local_device_count()
    shards = (
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
    return devices * sum(shards)
