"""Batches that are read as they are needed: by number, on threads, ahead of the device.

The contents of batch t are a function of the seed and t, and records are read at random places. So
a run may begin at any step, and no position is saved. Every process reads its own rows of each
batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from lconv_jax import data
from lconv_jax.parallel import sharding
from lconv_jax.training import rng

# A chunk, the batches that go to the devices together, is bounded to this, and to this many. Four
# chunks are on the devices at most: the last one, the one in use, one waiting and one on the way.
CHUNK_BYTES, MOST_STEPS = 2**26, 32
# Batches that the threads hold in the host's memory are bounded to this, beside two chunks.
HOST_BYTES, MOST_THREADS = 2**29, 16


class Batches:
    """Batches of a split by number: a source of random access, as Grain takes it.

    Args:
      split: where the examples are read.
      count: how many batches there are.
      index: from a batch's number to the examples of the whole batch, [B]; pure.
      rows: those of the B that are read here.
    """

    def __init__(
        self,
        split: data.Split,
        count: int,
        index: Callable[[int], NDArray[Any]],
        rows: NDArray[Any],
    ):
        self._split, self._count, self._index, self._rows = split, count, index, rows

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Of one batch, as far as it is read here."""
        return len(self._rows) * example_bytes(self._split)

    def __getitem__(self, number: int) -> data.Split:
        try:
            return data.read(self._split, self._index(number)[self._rows])
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise
            # Grain takes a StopIteration for the end of the data. Its threads die silently of
            # errors that are not an `Exception`, and the other threads wait for them.
            raise data.DataError(f"batch {number} cannot be read ({error!r})") from error


def example_bytes(split: data.Split) -> int:
    """The bytes of one example in memory."""
    return data.nbytes(split) // max(1, len(split.labels))


def training_batches(
    train: data.Split, seed: int, batch_size: int, total_steps: int, rows: NDArray[Any]
) -> Batches:
    """The batches of a run by step, each a function of seed and step, as `steps` picks them."""
    size = len(train.labels)
    per_epoch = size // batch_size
    lock = threading.Lock()

    # Threads may be at work on as many epochs at once, where epochs are short.
    @functools.lru_cache(maxsize=2 + MOST_THREADS // per_epoch)
    def order(epoch: int) -> NDArray[np.int32]:
        # On the CPU: on an accelerator it would wait for the training that it is to run ahead of.
        with _on_cpu():
            return np.asarray(rng.epoch_order(seed, epoch, size))

    def index(step: int) -> NDArray[np.int32]:
        epoch, place = divmod(step, per_epoch)
        with lock:
            chosen = order(epoch)
        return chosen[place * batch_size : (place + 1) * batch_size]

    return Batches(train, total_steps, index, rows)


def _on_cpu() -> contextlib.AbstractContextManager[Any]:
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return contextlib.nullcontext()


def chunk_steps(split: data.Split, batch_size: int, count: int) -> int:
    """How many of `count` batches go to the devices together."""
    return max(1, min(CHUNK_BYTES // (batch_size * example_bytes(split)), MOST_STEPS, count))


@contextlib.contextmanager
def prefetched(
    batches: Batches, mesh: jax.sharding.Mesh, batch_size: int, length: int, start: int = 0
) -> Iterator[Iterator[data.Split]]:
    """Yields an iterator of [length, batch_size, …] splits on the devices, from batch `start` on.

    Threads read ahead, and one moves chunks to the devices ahead. The last chunk is filled up with
    copies of the last batch.

    Args:
      batches: the rows that this process reads.
      mesh: the devices that each batch is split over, if it divides; else each holds all.
      batch_size: of whole batches, over all processes.
      length: batches in a chunk.
      start: number of the first.
    """
    import grain

    divides = batch_size % mesh.shape["data"] == 0
    where = sharding.chunk_sharding(mesh) if divides else sharding.replicated(mesh)

    def stack(parts: Sequence[data.Split]) -> data.Split:
        parts = [*parts, *[parts[-1]] * (length - len(parts))]
        return data.Split(*map(np.stack, zip(*parts, strict=True)))

    def place(chunk: data.Split) -> data.Split:
        return data.Split(
            *(
                jax.make_array_from_process_local_data(
                    where, array, (length, batch_size, *array.shape[2:])
                )
                for array in chunk
            )
        )

    most = HOST_BYTES // max(1, batches.nbytes)
    threads = max(1, min(MOST_THREADS, os.cpu_count() or 1, most))
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    chunks = grain.MapDataset.source(batches)[start:].to_iter_dataset(reading)
    chunks = chunks.batch(length, batch_fn=stack).map(place)
    iterator = iter(grain.experimental.ThreadPrefetchIterDataset(chunks, prefetch_buffer_size=1))
    try:
        yield iterator
    finally:
        iterator.close()


def in_order(
    split: data.Split, batch_size: int, mesh: jax.sharding.Mesh
) -> Iterator[tuple[data.Split, NDArray[np.bool_]]]:
    """All examples, in chunks of batches on the devices, with bool [K, B]: which are real.

    The others fill up the last batch and the last chunk.
    """
    count = len(split.labels)
    number = -(-count // batch_size)
    length = chunk_steps(split, batch_size, number)
    places = np.arange(number * batch_size).reshape(number, batch_size)
    batches = Batches(
        split,
        number,
        lambda batch: np.minimum(places[batch], count - 1),
        sharding.local_rows(mesh, batch_size),
    )
    with prefetched(batches, mesh, batch_size, length) as chunks:
        for first, chunk in zip(range(0, number, length), chunks, strict=True):
            real = np.arange(length * batch_size) + first * batch_size < count
            yield chunk, real.reshape(length, batch_size)


def gather(images: data.Column, index_KxB: NDArray[Any], mesh: jax.sharding.Mesh) -> jax.Array:
    """Images [K, B, …] of a streamed split, on the devices, by their indices."""
    number, size = index_KxB.shape
    rows = np.arange(size)
    if size % mesh.shape["data"] == 0:
        rows = sharding.local_rows(mesh, size)
    split = data.Split(images, dataclasses.replace(images, what="labels"))
    batches = Batches(split, number, lambda batch: index_KxB[batch], rows)
    with prefetched(batches, mesh, size, number) as chunks:
        return next(chunks).images


@contextlib.contextmanager
def training_feed(
    config: Any, train: data.Split, total_steps: int, mesh: jax.sharding.Mesh, start: int
) -> Iterator[Callable[[int], tuple[Any, int]]]:
    """Yields feed(step) -> (`train` for the compiled steps, number of steps possible with it).

    Steps must not go back. A split on the device serves any step; of a streamed one the feed gives
    chunks.

    Args:
      config: of the run.
      train: its training set.
      total_steps: of the run.
      mesh: of the run.
      start: the first step that will be asked for.
    """
    if not data.is_streamed(train):
        yield lambda step: (train, total_steps)
        return
    size = config.train.batch_size
    count = chunk_steps(train, size, total_steps)
    rows = sharding.local_rows(mesh, size)
    batches = training_batches(train, config.seed, size, total_steps, rows)
    first = start - start % count
    chunk: data.Chunk | None = None
    with prefetched(batches, mesh, size, count, first) as chunks:

        def feed(step: int) -> tuple[data.Chunk, int]:
            nonlocal chunk
            while chunk is None or step >= chunk.first + count:
                at = first if chunk is None else chunk.first + count
                chunk = data.Chunk(np.int32(at), *next(chunks))
            return chunk, int(chunk.first) + count - step

        yield feed


def train_shapes(
    config: Any, train: data.Split, total_steps: int, mesh: jax.sharding.Mesh
) -> data.Split | data.Chunk:
    """Shapes, with shardings, of the `train` that `training_feed` gives."""
    replicated = sharding.replicated(mesh)
    if not data.is_streamed(train):
        return data.Split(
            *(jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated) for a in train)
        )
    size = config.train.batch_size
    leading = (chunk_steps(train, size, total_steps), size)
    where = sharding.chunk_sharding(mesh)
    return data.Chunk(
        jax.ShapeDtypeStruct((), np.int32, sharding=replicated),
        *(jax.ShapeDtypeStruct(leading + a.shape[1:], a.dtype, sharding=where) for a in train),
    )
