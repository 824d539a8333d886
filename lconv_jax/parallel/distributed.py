"""Several processes that train one network: how they start, agree, and see each other's arrays.

Every process runs the same program on the same data; the first one writes the run directory. With
one process, the functions here do nothing special.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from lconv_jax.errors import ConfigError, first_line
from lconv_jax.parallel import rendezvous

_T = TypeVar("_T")


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    detect: bool = False,
    timeout: int = 300,
) -> None:
    """Joins the other processes; to be called before anything else of JAX is.

    Args:
      coordinator_address: host:port of process 0, where it listens and the others connect.
      num_processes: how many processes there are.
      process_id: which of them this is, from 0.
      detect: take all three from the environment, as on Cloud TPU, Slurm and Open MPI.
      timeout: seconds to wait for the others.

    Raises:
      ConfigError: if the arguments contradict each other, the processes do not find together, or
        there is no device of the kind that JAX is told to use.
    """
    given = (coordinator_address, num_processes, process_id)
    if detect and any(value is not None for value in given):
        raise ConfigError(
            "--distributed finds the other processes by itself; leave out --coordinator_address, "
            "--num_processes and --process_id, or --distributed"
        )
    if not detect:
        _check(coordinator_address, num_processes, process_id)
        if coordinator_address is None or num_processes is None or process_id is None:
            _check_devices()
            return
        rendezvous.meet(coordinator_address, num_processes, process_id, timeout)
    # The transport between the CPU's processes; other devices have their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*given, initialization_timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes could not connect ({first_line(error)}). Without Cloud TPU, Slurm or "
            "Open MPI, give --coordinator_address, --num_processes and --process_id to each process"
        ) from error
    _check_devices()


def _check_devices() -> None:
    """Raises ConfigError unless JAX finds the devices that it is told to use."""
    try:
        jax.devices()
    except Exception as error:  # of many kinds, where a platform is missing
        chosen = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({first_line(error)})" if str(error) else ""
        raise ConfigError(
            f"JAX finds no device with JAX_PLATFORMS={chosen}{reason}; "
            "unset it, set it to cpu, or install JAX for the device that is there"
        ) from error


def _check(address: str | None, num_processes: int | None, process_id: int | None) -> None:
    if address is None and num_processes is None and process_id is None:
        return
    if address is None or num_processes is None or process_id is None:
        raise ConfigError(
            "--coordinator_address, --num_processes and --process_id belong together: give all "
            "three flags or none of them"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator_address={address} must be host:port of process 0")
    if num_processes < 1:
        raise ConfigError(f"--num_processes={num_processes} must be ≥ 1")
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process_id={process_id} must be in 0 … {num_processes - 1}, as "
            f"--num_processes={num_processes}"
        )


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def together(function: Callable[[], _T]) -> _T:
    """function() on every process, or an error on every process.

    Raises:
      ValueError, OSError: this process's own; or a ConfigError with that of another.
    """
    result: _T | None = None
    error: ValueError | OSError | None = None
    try:
        result = function()
    except (ValueError, OSError) as raised:
        error = raised
    messages = gather_texts((str(error) or repr(error)) if error else "")
    if error:
        raise error
    for process, message in enumerate(messages):
        if message:
            raise ConfigError(f"process {process}: {message}")
    return result  # type: ignore[return-value]


def gather_texts(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    if jax.process_count() == 1:
        return [text]
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(encoded.size))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: encoded.size] = encoded
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, lengths, strict=True)]


def from_first(text: str) -> str:
    """The text of process 0, on every process."""
    return gather_texts(text)[0]


def check_same(what: str, text: str) -> None:
    """Raises ConfigError unless all processes give the same text."""
    texts = gather_texts(text)
    other = [str(process) for process, each in enumerate(texts) if each != texts[0]]
    if other:
        raise ConfigError(
            f"process {', '.join(other)} has another {what} than process 0; start all processes "
            "with the same configuration, overrides and data"
        )


def highest(*values: float) -> tuple[float, ...]:
    """The largest of each value among the processes, in float32."""
    if jax.process_count() == 1:
        return values
    rows = multihost_utils.process_allgather(np.asarray(values, np.float32))
    return tuple(float(value) for value in rows.max(axis=0))


def put(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Arrays that every process holds, laid out over the devices of all."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
        tree,
    )


def fetch(tree: Any) -> Any:
    """NumPy arrays of a tree, whole, on every process; one leaf at a time is on each device."""

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def is_lost(error: Exception) -> bool:
    """Whether an error of JAX is that another process no longer answers, on any kind of device."""
    words = ("gloo", "nccl", "coordination", "peer", "connection", "heartbeat")
    text = str(error).lower()
    return jax.process_count() > 1 and any(word in text for word in words)


def leave(status: int) -> None:
    """Ends the process; the others end too, and do not wait for it."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
