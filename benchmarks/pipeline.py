"""What the input costs beside training: in memory as a share of a step, and streamed.

    python -m benchmarks.pipeline [--ways] --out=benchmarks/pipeline.json

The input of a step is the order of the epoch, the gather, shift and flip, and scaling, written as
float32, alone in a loop. Streamed are the same steps with their batches read ahead, from the host's
memory and from a set that TFDS prepared, of PNG images; the start of the threads and the wait for
the first chunk are counted. All programs take turns in one process, so that the machine's speed,
which drifts, is the same for all; times are medians, and ratios are medians of each turn's ratio.
With --ways the augmentation is also written in other ways, for `data.augment`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import lax
from rich import box, console, table

from benchmarks.common import hardware
from lconv_jax import config as config_lib
from lconv_jax import data, sharding, steps, stream, train

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns that each program takes.", lower_bound=1)
_CALLS = flags.DEFINE_integer("steps", 256, "Steps of a turn.", lower_bound=1)
_WAYS = flags.DEFINE_bool("ways", False, "Time other ways to write the augmentation, too.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the result.")

SHAPES = ((28, 28, 1), (32, 32, 3))
EXAMPLES, CLASSES, CROP = 10_000, 10, 4
_PACKAGES = ("jax", "jaxlib", "numpy", "grain", "array-record", "tensorflow-datasets", "pillow")


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


def input_program(config: Any, shape: tuple[int, ...], augment: Any) -> Callable[..., jax.Array]:
    """The compiled (train) -> last batch of `--steps` steps' inputs, made one after another."""
    size, arrange = config.train.batch_size, steps.make_arrange(config, shape)
    per_epoch = EXAMPLES // size

    @jax.jit
    def run(train_split: data.Split) -> jax.Array:
        def epoch(number: Any, inputs: jax.Array) -> jax.Array:
            order = steps.epoch_order(config.seed, number, EXAMPLES)

            def step(index: Any, inputs: jax.Array) -> jax.Array:
                chosen = lax.dynamic_slice(order, (index * size,), (size,))
                key = steps.key_for(config.seed, steps.AUGMENT, number * per_epoch + index)
                return arrange(augment(key, train_split.images[chosen]))

            left = _CALLS.value - number * per_epoch
            return lax.fori_loop(0, jnp.minimum(left, per_epoch), step, inputs)

        inputs = jnp.zeros((size, *shape), jnp.float32)
        return lax.fori_loop(0, -(-_CALLS.value // per_epoch), epoch, inputs)

    return run


def training_program(config: Any, dataset: data.Dataset) -> Callable[[], Any]:
    """The function that takes `--steps` training steps from step 0, as `lconv_jax.train` does."""
    experiment = train.prepare(config, dataset)
    plan, mesh = experiment.plan, experiment.mesh
    run_steps = train.compile_train_steps(experiment)
    states = [train.initial_state(experiment)]
    split = dataset.train
    if not data.is_streamed(split):
        split = jax.device_put(split, sharding.replicated(mesh))

    def run() -> Any:
        state = dataclasses.replace(states[0], step=jnp.zeros((), jnp.int32))
        step, rows = 0, None
        with stream.training_feed(config, split, plan.total_steps, mesh, 0) as feed:
            while step < _CALLS.value:
                batches, most = feed(step)
                count = min(plan.steps_per_epoch - step % plan.steps_per_epoch, most)
                count = min(count, _CALLS.value - step)
                state, rows = run_steps(state, batches, jnp.int32(count))
                jax.block_until_ready(rows)
                step += count
        states[0] = state
        return rows

    return run


def reading_program(config: Any, split: data.Split) -> Callable[[], Any]:
    """The function that reads the batches of `--steps` steps onto the device, and no more."""
    mesh, size = sharding.make_mesh(), config.train.batch_size
    rows = sharding.local_rows(mesh, size)
    length = stream.chunk_steps(split, size, _CALLS.value)

    def run() -> Any:
        batches = stream.training_batches(split, config.seed, size, _CALLS.value, rows)
        with stream.prefetched(batches, mesh, size, length) as chunks:
            return [jax.block_until_ready(chunk.labels) for chunk in chunks]

    return run


def measure(shape: tuple[int, ...], folder: str) -> list[dict[str, Any]]:
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
    programs: dict[str, Callable[[], Any]] = {"training step": training_program(config, in_memory)}

    def add(name: str, augment: Any) -> None:
        run = input_program(config, shape, augment)
        programs[name] = lambda: run(resident)

    add("input alone", steps.make_augment(config))
    if _WAYS.value:
        for way in WAYS:
            add(f"input, {way.__name__.replace('_', ' ')}", way)
    programs["training step, streamed from the host's memory"] = training_program(config, from_host)
    programs["training step, streamed from ArrayRecord"] = training_program(config, from_disk)
    programs["reading alone, from the host's memory"] = reading_program(config, from_host.train)
    programs["reading alone, from ArrayRecord"] = reading_program(config, from_disk.train)

    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(_ROUNDS.value + 1):  # one turn of warm-up
        for name, program in programs.items():
            begun = time.perf_counter()
            jax.block_until_ready(program())
            if turn:
                seconds[name].append((time.perf_counter() - begun) / _CALLS.value)
    whole = seconds["training step"]
    return [
        {
            "program": name,
            "shape": list(shape),
            "ms a step": 1e3 * statistics.median(times),
            "of a training step": statistics.median(
                a / b for a, b in zip(times, whole, strict=True)
            ),
            "examples a second": config.train.batch_size / statistics.median(times),
        }
        for name, times in seconds.items()
    ]


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


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    rows = []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(shape, folder)
    versions = {name: metadata.version(name) for name in _PACKAGES}
    versions["python"] = platform.python_version()
    grid = table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        grid.add_column(name, justify="left" if name in ("program", "shape") else "right")
    for row in rows:
        size, ms, share, rate = list(row.values())[1:]
        side = " × ".join(map(str, size))
        grid.add_row(row["program"], side, f"{ms:.2f}", f"{share:.3f}", f"{rate:,.0f}")
    out = console.Console(width=None if sys.stdout.isatty() else 110)
    out.print(grid)
    print(f"batch 512, {_CALLS.value} steps a turn, {_ROUNDS.value} turns; {hardware()}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if _OUT.value:
        about = {"steps": _CALLS.value, "turns": _ROUNDS.value, "hardware": hardware()}
        result = about | {"versions": versions, "rows": rows}
        with open(_OUT.value, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    app.run(main)
