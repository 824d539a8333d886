"""Untrusted files: reading and evaluating them has bounded cost.

`codes.decode` refuses a file that asks for more work than its length is worth. A long file may
still ask for much, so it is read in a process of its own first, with limits on memory and time that
the system keeps.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping

from lconv_jax.mdl import codes
from lconv_jax.mdl.coder import DamagedError
from lconv_jax.mdl.evaluation import example_work
from lconv_jax.mdl.network import Network

# Bytes, and seconds of one core, that reading a file may take. The densest networks that this
# package's own tools write, of 1.5 million weights, take 5 s and 0.1 GB.
_MOST_BYTES, _MOST_SECONDS = 1 << 30, 20
# Multiply-adds of an evaluation: a minute or so of one core.
_MOST_WORK = 3e11
_TRUST = "if you know who wrote it, read it with --trust of lconv_jax.predict"


def decode(files: Mapping[str, bytes]) -> dict[str, Network]:
    """The networks of files, by name: `codes.decode` of each, within bounds on memory and time.

    Raises:
      DamagedError: that names the first file that is damaged, or asks for more.
    """
    search_path = os.pathsep.join(path for path in (os.getcwd(), *sys.path) if path)
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=b"".join(len(file).to_bytes(8, "little") + file for file in files.values()),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": search_path},
    )
    if child.returncode == 0:
        return {name: codes.decode(file) for name, file in files.items()}
    said = child.stderr.decode(errors="replace").strip().splitlines()
    reason = said[-1] if said else f"reading it ended with status {child.returncode}"
    if child.returncode == -signal.SIGXCPU:
        reason = f"it takes more than {_MOST_SECONDS} s to read; {_TRUST}"
    # A line was written for each file that was begun.
    name = list(files)[max(0, child.stdout.count(b"\n") - 1)]
    raise DamagedError(f"{name}: {reason}")


def check_work(name: str, network: Network, num_examples: int) -> None:
    """Raises ValueError for a file whose network takes more than a minute or so to evaluate."""
    work = num_examples * example_work(network)
    if work > _MOST_WORK:
        raise ValueError(
            f"{name}: its network takes {work:.2g} multiply-adds on {num_examples:,} examples, and "
            f"{_MOST_WORK:.2g} are done for a file of unknown origin; {_TRUST}"
        )


def _limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _in_use() -> int:
    """Bytes of address space that this process has already, if the system says."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _main() -> None:
    """Reads files from standard input within the limits; says what is wrong with one, if any."""
    _limit(resource.RLIMIT_AS, _in_use() + _MOST_BYTES)
    while head := sys.stdin.buffer.read(8):
        file = sys.stdin.buffer.read(int.from_bytes(head, "little"))
        print(flush=True)
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _limit(resource.RLIMIT_CPU, math.ceil(used) + _MOST_SECONDS)
        try:
            codes.decode(file)
        except DamagedError as error:
            if isinstance(error.__context__, MemoryError):
                sys.exit(f"it takes more than {_MOST_BYTES >> 20} MiB to read; {_TRUST}")
            sys.exit(str(error))


if __name__ == "__main__":
    _main()
