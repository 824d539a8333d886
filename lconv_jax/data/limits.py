"""What data may take of the memory: asked before anything is allocated."""

from __future__ import annotations

from lconv_jax.errors import DataError
from lconv_jax.host import memory

# What a data set that is made to order, and making it, may take: far more than any is meant for.
MADE_BYTES = 8 * 2**30


def require(what: str, needed: float, remedy: str, most: int | None = None) -> None:
    """Refuses what needs more memory than there is.

    Args:
      what: what would take it, as a sentence begins.
      needed: bytes.
      remedy: what to do, as a sentence.
      most: bytes that are accepted; the machine's memory is an upper bound in any case.

    Raises:
      DataError: it needs more.
    """
    there = memory.host_bytes()
    accepted = there if most is None else min(there, most)
    if needed > accepted:
        raise DataError(
            f"{what} would take {needed / 2**30:.3g} GiB of memory; at most "
            f"{accepted / 2**30:.3g} GiB are accepted here. {remedy}"
        )
