"""The entropy coder: integers to bytes and back, by models that are integers themselves.

Every code is written once, as a function of a coder and of the value, and runs in both directions:
an `Encoder` takes the value and returns it, a `Decoder` ignores what it is given (0, or None for a
list) and returns what the bytes say. So the two cannot disagree about the order or the model of
anything.

Both also count the work of a decoder, in microseconds of one slow core or so. A few bytes can name
sets and sizes that nobody waits for, so a decoder that knows how long its file is stops at
`most_work` of it.

The bytes are those of constriction's asymmetric numeral systems. A symbol of integer frequency f
out of 2ᴾ is coded with uniform models alone: of its f slots, the one that the bits already on the
stack name is pushed, which takes P − log₂ f bits. No probability is ever a floating-point number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

PRECISION = 12  # P: frequencies of a symbol model sum to 2ᴾ
_TOTAL = 1 << PRECISION
_SLOTS = constriction.stream.model.Uniform(_TOTAL)
# Larger uniform choices are made digit by digit: constriction's own resolution is 2²⁴.
_DIGIT = 16
# Work that a file may ask for: without a byte, and for each.
BASE_WORK, WORK_PER_BYTE = 8e5, 600.0
# Of a symbol, of each of its frequencies, and of a digit.
_SYMBOL, _FREQUENCY, _DIGIT_WORK = 6.0, 0.2, 4.0

# Symbols of an adaptive model; more would leave too few of its slots to learn with.
MAX_SYMBOLS = 512


class DamagedError(ValueError):
    """Bytes that no encoder wrote."""


class Coder(Protocol):
    """What a code sees of either direction."""

    def symbol(self, value: int, frequencies: Sequence[int]) -> int:
        """A symbol 0 … len(frequencies) − 1; the frequencies are ≥ 1 and sum to 2ᴾ."""
        ...

    def digit(self, value: int, size: int) -> int:
        """An integer 0 … size − 1, each as likely as the others; 1 ≤ size ≤ 2¹⁶."""
        ...

    def spend(self, work: float) -> None:
        """Counts work, before it is done."""
        ...


def most_work(num_bytes: int) -> float:
    """The work that a coded part of this length may ask for."""
    return BASE_WORK + WORK_PER_BYTE * num_bytes


class Encoder:
    """Collects symbols.

    `bits` is the length so far, without the coder's own overhead, and `work` that of a decoder.
    """

    def __init__(self) -> None:
        self.bits = self.work = 0.0
        self._pushes: list[tuple[int, int, bool]] = []

    def spend(self, work: float) -> None:
        self.work += work

    def symbol(self, value: int, frequencies: Sequence[int]) -> int:
        self.work += _SYMBOL + _FREQUENCY * len(frequencies)
        frequency = frequencies[value]
        if frequency != _TOTAL:
            self._pushes.append((sum(frequencies[:value]), frequency, True))
            self.bits += PRECISION - math.log2(frequency)
        return value

    def digit(self, value: int, size: int) -> int:
        self.work += _DIGIT_WORK
        if size > 1:
            self._pushes.append((value, size, False))
            self.bits += math.log2(size)
        return value

    def getvalue(self) -> bytes:
        """The bytes of all symbols. The stack is read from its top, so they go on in reverse."""
        ans = constriction.stream.stack.AnsCoder()
        uniform = constriction.stream.model.Uniform
        for first, size, has_slots in reversed(self._pushes):
            if has_slots:
                slot = int(ans.decode(uniform(size))) if size > 1 else 0
                ans.encode_reverse(first + slot, _SLOTS)
            else:
                ans.encode_reverse(first, uniform(size))
        words = ans.get_compressed()
        return words.astype("<u4").tobytes().rstrip(b"\0")


class Decoder:
    """Reads what an `Encoder` wrote.

    Raises:
      DamagedError: the bytes cannot be an encoder's, or ask for more work than `most_work`.
    """

    def __init__(self, payload: bytes) -> None:
        self._left = most_work(len(payload))
        if payload.endswith(b"\0"):
            raise DamagedError("its coded part ends in a zero byte, which none does")
        padded = payload + b"\0" * (-len(payload) % 4)
        words = np.frombuffer(padded, "<u4").astype(np.uint32)
        self._ans = constriction.stream.stack.AnsCoder(words)

    def spend(self, work: float) -> None:
        self._left -= work
        if self._left < 0:
            raise DamagedError("it asks for more work than a network of its length is worth")

    def symbol(self, value: int, frequencies: Sequence[int]) -> int:
        self.spend(_SYMBOL + _FREQUENCY * len(frequencies))
        if len(frequencies) == 1:
            return 0
        slot = int(self._ans.decode(_SLOTS))
        found, first = 0, 0
        while slot >= first + frequencies[found]:
            first += frequencies[found]
            found += 1
        if frequencies[found] > 1:
            size = constriction.stream.model.Uniform(frequencies[found])
            self._ans.encode_reverse(slot - first, size)
        return found

    def digit(self, value: int, size: int) -> int:
        self.spend(_DIGIT_WORK)
        return int(self._ans.decode(constriction.stream.model.Uniform(size))) if size > 1 else 0

    def finish(self) -> None:
        """Raises DamagedError unless every bit was used."""
        if not self._ans.is_empty():
            raise DamagedError("its coded part is longer than the network it describes")


class Adaptive:
    """Symbols coded with the frequencies seen so far, each counted half a time to begin with.

    Krichevsky and Trofimov, "The performance of universal encoding", 1981.
    """

    def __init__(self, size: int):
        if not 1 <= size <= MAX_SYMBOLS:
            raise ValueError(f"an adaptive model has 1 to {MAX_SYMBOLS} symbols, got {size}")
        self._weights = [1] * size
        self._sum = size

    def code(self, coder: Coder, value: int) -> int:
        value = coder.symbol(value, self._frequencies())
        self._weights[value] += 2
        self._sum += 2
        return value

    def _frequencies(self) -> list[int]:
        spare = _TOTAL - len(self._weights)
        frequencies = [1 + spare * weight // self._sum for weight in self._weights]
        frequencies[self._weights.index(max(self._weights))] += _TOTAL - sum(frequencies)
        return frequencies


def uniform(coder: Coder, value: int, size: int) -> int:
    """An integer 0 … size − 1 of any size, each as likely as the others to within 2⁻⁸."""
    if size < 1:
        raise DamagedError("it chooses among nothing")
    coder.spend(4e-6 * size.bit_length() ** 2)
    # The first digit has 2⁸ to 2¹⁶ values, so that rounding it up to a whole one costs little.
    shift = max(0, -(-(size.bit_length() - _DIGIT) // 8) * 8)
    result = coder.digit(value >> shift, (size - 1 >> shift) + 1)
    while shift:
        width = min(_DIGIT, shift)
        shift -= width
        result = result << width | coder.digit(value >> shift & (1 << width) - 1, 1 << width)
    if result >= size:
        raise DamagedError("it holds a number out of range")
    return result


def natural(coder: Coder, value: int) -> int:
    """An integer ≥ 0: its number of binary digits as one of 16 (15 stands for more), then these.

    0 takes 4 bits, 28 takes 8, 784 takes 13.
    """
    length = coder.digit(min(value.bit_length(), 15), 16)
    if length == 15:
        length += natural(coder, value.bit_length() - 15)
    if length > 1 << 20:
        raise DamagedError("it holds a number of more than a million digits")
    if length < 2:
        return length
    top = 1 << length - 1
    return top + uniform(coder, value - top, top)


def integers(coder: Coder, values: Sequence[int] | None, count: int) -> list[int]:
    """Signed integers: each one's number of binary digits adaptively, then sign and digits."""
    given = values or [0] * count
    longest = natural(coder, max((abs(value).bit_length() for value in given), default=0))
    if longest >= MAX_SYMBOLS:
        raise ValueError(f"an integer of {longest} binary digits; at most {MAX_SYMBOLS - 1}")
    lengths, result = Adaptive(longest + 1), []
    for value in given:
        length = lengths.code(coder, abs(value).bit_length())
        if length:
            negative = coder.digit(int(value < 0), 2)
            top = 1 << length - 1
            size = top + uniform(coder, abs(value) - top, top)
            value = -size if negative else size
        else:
            value = 0
        result.append(value)
    return result


class Counts:
    """Small counts 0 … most: the number of binary digits adaptively, then the digits."""

    def __init__(self, most: int):
        self._most = most
        self._lengths = Adaptive(most.bit_length() + 1)

    def code(self, coder: Coder, value: int) -> int:
        length = self._lengths.code(coder, value.bit_length())
        if length < 2:
            return length
        top = 1 << length - 1
        return top + uniform(coder, value - top, min(top, self._most - top + 1))


def subset(coder: Coder, members: NDArray[Any] | None, size: int, count: int) -> NDArray[np.int64]:
    """`count` of 0 … size − 1, ascending, every such set as likely as the others (enumerative).

    Cover, "Enumerative source coding", 1973.
    """
    coder.spend(comb_work(size, count) + unrank_work(size, count))
    rank = 0 if members is None else subset_rank(members, size, count)
    rank = uniform(coder, rank, math.comb(size, count))
    return subset_unrank(rank, size, count) if members is None else np.asarray(members, np.int64)


def subset_bits(size: int, count: int) -> float:
    """Binary digits of the number of sets of `count` of `size`, or a little more."""
    least = min(count, size - count)
    return 1 + least * math.log2(math.e * size / least) if least > 0 else 1.0


def comb_work(size: int, count: int) -> float:
    """Of computing the number of sets."""
    return 1 + 8e-5 * subset_bits(size, count) ** 2


def unrank_work(size: int, count: int) -> float:
    """Of `subset_unrank`."""
    return size * (0.4 + 1.1e-4 * subset_bits(size, count))


def subset_rank(members: NDArray[Any], size: int, count: int) -> int:
    """The number of a set among those of `count` of 0 … size − 1, in lexicographic order."""
    chosen = np.zeros(size, bool)
    chosen[members] = True
    rank, total, left = 0, math.comb(size, count), count
    for index, member in enumerate(chosen.tolist()):
        if not left:
            break
        having = total * left // (size - index)  # sets that have this element
        if member:
            total, left = having, left - 1
        else:
            rank, total = rank + having, total - having
    return rank


def subset_unrank(rank: int, size: int, count: int) -> NDArray[np.int64]:
    """The inverse of `subset_rank`."""
    members, total, left = [], math.comb(size, count), count
    for index in range(size):
        if not left:
            break
        having = total * left // (size - index)
        if rank < having:
            members.append(index)
            total, left = having, left - 1
        else:
            rank, total = rank - having, total - having
    return np.asarray(members, np.int64)
