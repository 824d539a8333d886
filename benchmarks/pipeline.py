"""What the input costs beside training: in memory as a share of a step, and streamed.

    python -m benchmarks.pipeline [--steps=64] [--ways] [--json]

The input of a step is the order of the epoch, the gather, shift and flip, and scaling, written as
float32, alone in a loop. Streamed are the same steps with their batches read ahead, from the host's
memory and from a set that TFDS prepared, of PNG images; the start of the threads and the wait for
the first chunk are counted. All programs take turns in one process, so that the machine's speed,
which drifts, is the same for all; times are medians, and ratios are medians of each turn's ratio.
With --ways the augmentation is also written in other ways, for `data.augment`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax

from benchmarks import common
from lconv_jax import config as config_lib
from lconv_jax import data
from lconv_jax.parallel import sharding
from lconv_jax.training import programs, rng, streaming
from lconv_jax.training.inputs import make_augment, make_preprocess
from lconv_jax.training.setup import prepare

SHAPES = ((28, 28, 1), (32, 32, 3))
EXAMPLES, CLASSES, CROP = 10_000, 10, 4
STEP = "training step"
_PACKAGES = ("grain", "array-record", "tensorflow-datasets", "pillow")


def get_config() -> Any:
    """s_fc with α = 8 under β-lasso, with shift and flip."""
    config = config_lib.base_config()
    config.data.crop, config.data.flip = CROP, True
    config.optimizer.l1.conv = config.optimizer.l1.fc = 1e-5
    return config


def make_splits(shape: tuple[int, ...]) -> dict[str, data.Split]:
    """Smooth random images with some noise, so that PNG files of them are of a usual size."""
    rng = np.random.default_rng(0)
    height, width, channels = shape
    splits = {}
    for name, count in (("train", EXAMPLES), ("test", 1000)):
        coarse = rng.uniform(0, 230, (count, height // 4, width // 4, channels))
        images = coarse.repeat(4, 1).repeat(4, 2) + rng.uniform(0, 25, (count, *shape))
        labels = rng.integers(0, CLASSES, count, dtype=np.int32)
        splits[name] = data.Split(images.astype(np.uint8), labels)
    return splits


def prepare_tfds(splits: dict[str, data.Split], folder: str) -> data.Dataset:
    """The splits as TFDS writes them, streamed."""
    tfds = importlib.import_module("tensorflow_datasets")
    made = importlib.import_module("tests.data.tfds_made")
    tfds.disable_progress_bar()
    features = {
        "image": tfds.features.Image(shape=splits["train"].images.shape[1:]),
        "label": tfds.features.ClassLabel(num_classes=CLASSES),
    }
    examples = {
        name: [
            {"image": made.png(image.squeeze()), "label": int(label)}
            for image, label in zip(*split, strict=True)
        ]
        for name, split in splits.items()
    }
    with contextlib.redirect_stdout(io.StringIO()):
        made.make(folder, features, examples)
    return data.load("made_set", folder, stream="always")


def input_program(
    config: Any, shape: tuple[int, ...], augment: Any, count: int
) -> Callable[..., jax.Array]:
    """The compiled (train) -> last batch of `count` steps' inputs, made one after another."""
    size, preprocess = config.train.batch_size, make_preprocess(config, shape)
    per_epoch = EXAMPLES // size

    @jax.jit
    def run(train_split: data.Split) -> jax.Array:
        def epoch(number: Any, inputs: jax.Array) -> jax.Array:
            order = rng.epoch_order(config.seed, number, EXAMPLES)

            def step(index: Any, inputs: jax.Array) -> jax.Array:
                chosen = lax.dynamic_slice(order, (index * size,), (size,))
                key = rng.key_for(config.seed, rng.AUGMENT, number * per_epoch + index)
                return preprocess(augment(key, train_split.images[chosen]))

            left = count - number * per_epoch
            return lax.fori_loop(0, jnp.minimum(left, per_epoch), step, inputs)

        inputs = jnp.zeros((size, *shape), jnp.float32)
        return lax.fori_loop(0, -(-count // per_epoch), epoch, inputs)

    return run


def training_program(config: Any, dataset: data.Dataset, count: int) -> Callable[[], Any]:
    """The function that takes `count` training steps from step 0, as a run does."""
    experiment = prepare(config, dataset)
    plan, mesh = experiment.plan, experiment.mesh
    run_steps = programs.compile_train_steps(experiment)
    states = [programs.initial_state(experiment)]
    split = dataset.train
    if not data.is_streamed(split):
        split = jax.device_put(split, sharding.replicated(mesh))

    def run() -> Any:
        state = dataclasses.replace(states[0], step=jnp.zeros((), jnp.int32))
        step, rows = 0, None
        with streaming.training_feed(config, split, plan.total_steps, mesh, 0) as feed:
            while step < count:
                batches, most = feed(step)
                to_epoch_end = plan.steps_per_epoch - step % plan.steps_per_epoch
                several = min(to_epoch_end, most, count - step)
                state, rows = run_steps(state, batches, jnp.int32(several))
                jax.block_until_ready(rows)
                step += several
        states[0] = state
        return rows

    return run


def reading_program(config: Any, split: data.Split, count: int) -> Callable[[], Any]:
    """The function that reads the batches of `count` steps onto the device, and no more."""
    mesh, size = sharding.make_mesh(), config.train.batch_size
    rows = sharding.local_rows(mesh, size)
    length = streaming.chunk_steps(split, size, count)

    def run() -> Any:
        batches = streaming.training_batches(split, config.seed, size, count, rows)
        with streaming.prefetched(batches, mesh, size, length) as chunks:
            return [jax.block_until_ready(chunk.labels) for chunk in chunks]

    return run


def measure(
    shape: tuple[int, ...], folder: str, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """A row for each program: seconds a step, and as a share of the step in memory."""
    config, splits = get_config(), make_splits(shape)
    none = splits["train"]._replace(
        images=splits["train"].images[:0], labels=splits["train"].labels[:0]
    )
    in_memory = data.Dataset("made", CLASSES, splits["train"], none, splits["test"])
    from_host = dataclasses.replace(
        in_memory,
        train=data.stream_arrays(in_memory.train),
        validation=data.stream_arrays(none),
        test=data.stream_arrays(in_memory.test),
    )
    from_disk = prepare_tfds(splits, folder)
    resident = jax.device_put(in_memory.train)
    ways = {"input alone": make_augment(config)}
    ways |= {f"input, {way.__name__.replace('_', ' ')}": way for way in WAYS if args.ways}

    def making(augment: Any) -> Callable[[], Any]:
        run = input_program(config, shape, augment, args.steps)
        return lambda: run(resident)

    timed = {
        STEP: training_program(config, in_memory, args.steps),
        **{name: making(augment) for name, augment in ways.items()},
        f"{STEP}, streamed from memory": training_program(config, from_host, args.steps),
        f"{STEP}, streamed from disk": training_program(config, from_disk, args.steps),
        "reading alone, from memory": reading_program(config, from_host.train, args.steps),
        "reading alone, from disk": reading_program(config, from_disk.train, args.steps),
    }
    times = common.interleave(timed, args.rounds, clock=args.clock)
    return {
        f"{name}, {'×'.join(map(str, shape))}": {
            "ms": 1e3 * times.median(name) / args.steps,
            "of a step": times.ratio(name, STEP),
            "examples/s": args.steps * config.train.batch_size / times.median(name),
        }
        for name in timed
    }


def _draw(key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    bits = jax.random.bits(key, (3, batch), jnp.uint32)
    shifts = ((bits[:2] >> 16) * jnp.uint32(2 * CROP + 1) >> 16).astype(jnp.int32)
    return shifts[0], shifts[1], (bits[2] >> 31).astype(bool)


def _pad(images: jax.Array) -> jax.Array:
    return jnp.pad(images, ((0, 0), (CROP, CROP), (CROP, CROP), (0, 0)))


def _mirror(images: jax.Array, flip: jax.Array) -> jax.Array:
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def _sources(images: jax.Array, rows: jax.Array, columns: jax.Array, flip: jax.Array) -> Any:
    height, width = images.shape[1:3]
    column = jnp.arange(width)[None]
    column = jnp.where(flip[:, None], width - 1 - column, column)
    return jnp.arange(height)[None] + rows[:, None], column + columns[:, None]


def nothing(key: jax.Array, images: jax.Array) -> jax.Array:
    return images


def per_image_map(key: jax.Array, images: jax.Array) -> jax.Array:
    def one(args: Any) -> jax.Array:
        image, row, column, flip = args
        image = jnp.where(flip, image[:, ::-1], image)
        padded = jnp.pad(image, ((CROP, CROP), (CROP, CROP), (0, 0)))
        return lax.dynamic_slice(padded, (row, column, 0), image.shape)

    return lax.map(one, (images, *_draw(key, len(images))))


def take_along_axes(key: jax.Array, images: jax.Array) -> jax.Array:
    row, column = _sources(images, *_draw(key, len(images)))
    mode = "promise_in_bounds"
    taken = jnp.take_along_axis(_pad(images), row[:, :, None, None], 1, mode=mode)
    return jnp.take_along_axis(taken, column[:, None, :, None], 2, mode=mode)


def one_hot(key: jax.Array, images: jax.Array) -> jax.Array:
    row, column = _sources(images, *_draw(key, len(images)))
    height, width = images.shape[1:3]
    rows = (row[:, :, None] - CROP == jnp.arange(height)).astype(jnp.float32)
    columns = (column[:, :, None] - CROP == jnp.arange(width)).astype(jnp.float32)
    taken = jnp.einsum("bhi,biwc->bhwc", rows, images.astype(jnp.float32))
    return jnp.einsum("bwj,bhjc->bhwc", columns, taken).astype(images.dtype)


def vmap_slice(key: jax.Array, images: jax.Array) -> jax.Array:
    rows, columns, flip = _draw(key, len(images))
    cut = jax.vmap(lambda i, r, c: lax.dynamic_slice(i, (r, c, 0), images.shape[1:]))
    return _mirror(cut(_pad(images), rows, columns), flip)


def select(key: jax.Array, images: jax.Array) -> jax.Array:
    rows, columns, flip = _draw(key, len(images))
    out = _pad(_mirror(images, flip))
    for axis, shift in ((1, rows), (2, columns)):
        size = images.shape[axis]
        chosen = lax.slice_in_dim(out, 0, size, axis=axis)
        for step in range(1, 2 * CROP + 1):
            moved = lax.slice_in_dim(out, step, step + size, axis=axis)
            chosen = jnp.where((shift == step)[:, None, None, None], moved, chosen)
        out = chosen
    return out


def dm_pix_vmap(key: jax.Array, images: jax.Array) -> jax.Array:
    pix = importlib.import_module("dm_pix")

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        crop, flip = jax.random.split(key)
        return pix.random_flip_left_right(flip, pix.random_crop(crop, image, images.shape[1:]))

    return jax.vmap(one)(jax.random.split(key, len(images)), _pad(images))


WAYS = [nothing, per_image_map, take_along_axes, one_hot, vmap_slice, select]
if importlib.util.find_spec("dm_pix"):
    WAYS.append(dm_pix_vmap)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what --json writes."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--steps", type=int, default=64, help="steps of a turn (default 64)")
        parser.add_argument("--ways", action="store_true", help="time other ways to augment, too")

    args = common.parse(__doc__, argv, name="pipeline", rounds=5, add=add)
    logging.set_verbosity(logging.WARNING)
    if args.toy:
        args.steps = 2
    rows: dict[str, Any] = {}
    for shape in SHAPES[:1] if args.toy else SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            rows |= measure(shape, folder, args)
    result = common.result_of(args, rows, *_PACKAGES)
    common.show(f"Input, batch {get_config().train.batch_size}", rows, result["machine"])
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
