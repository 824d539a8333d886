"""What a compiled program sends between devices, read off its text.

Sizes are those of the arrays of one device; `sent` is what each device sends with the usual
algorithms, which need no more than this: of n bytes among k devices, (k − 1) / k · n to gather or
exchange them and twice that to sum them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
_OPERATION = re.compile(rf"= (?P<result>.+?) (?P<kind>{_KINDS})\(")
_ARRAY = re.compile(r"(?P<type>[a-z]+\d*(?:e\d+m\d+\w*)?)\[(?P<shape>[\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|branch_computations)=\{?(%[\w.\-, %]+)")


class Collective(NamedTuple):
    """One operation: `arrays` are the (type, shape) of its results on one device."""

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    devices: int  # that take part together
    every_step: bool  # in the loop over steps, or once a call
    source: str  # the operation of the program that it comes from

    @property
    def bytes(self) -> int:
        return sum(_width(kind) * math.prod(shape) for kind, shape in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that each device sends."""
        if self.kind == "collective-permute":
            return self.bytes
        share = (self.devices - 1) / self.devices
        if self.kind == "all-reduce":
            return 2 * share * self.bytes
        # A scattered sum's result is the part of one device.
        return share * self.bytes * (self.devices if self.kind == "reduce-scatter" else 1)


def read(text: str) -> list[Collective]:
    """The collective operations in the text of a compiled program, `compiled.as_text()`."""
    looped = _in_loops(text)
    found = []
    for name, line in _lines(text):
        operation = _OPERATION.search(line)
        if operation is None:
            continue
        arrays = tuple(
            (array["type"], tuple(int(n) for n in array["shape"].split(",") if n))
            for array in _ARRAY.finditer(operation["result"])
        )
        source = re.search(r'op_name="([^"]*)"', line)
        found.append(
            Collective(
                operation["kind"],
                arrays,
                _group_size(line),
                name in looped,
                source[1] if source else "",
            )
        )
    return found


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Each line of a computation, with the computation's name."""
    name = ""
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            name = start["name"]
        else:
            yield name, line


def _in_loops(text: str) -> set[str]:
    """The computations that bodies of loops are made of."""
    calls: dict[str, set[str]] = {}
    bodies = set()
    for name, line in _lines(text):
        for group in _CALLED.findall(line):
            calls.setdefault(name, set()).update(re.findall(r"%([\w.\-]+)", group))
        bodies.update(re.findall(r"body=%([\w.\-]+)", line))
    waiting = list(bodies)
    while waiting:
        for called in calls.get(waiting.pop(), set()) - bodies:
            bodies.add(called)
            waiting.append(called)
    return bodies


def _group_size(line: str) -> int:
    """How many devices take part together, in any of the notations of replica_groups."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", line)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    grid = re.search(r"replica_groups=\[([\d,]+)\]<=", line)
    if grid:
        return int(grid[1].split(",")[-1])
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", line)
    if listed:
        return len(listed[1].split(","))
    raise ValueError(f"no groups of devices in {line.strip()[:200]}")


def _width(kind: str) -> int:
    """Bytes of one number."""
    digits = re.search(r"\d+", kind)
    return max(1, int(digits[0]) // 8) if digits else 1
