"""Images a second through AutoAugment: compiled, against Pillow on one process for each core.

Both do the same: what is drawn for each image is drawn once, beforehand for Pillow, whose processes
hold their images and keep the results. `agree` is the share of pixels, over all channels, that are
within one grey level of Pillow's after the whole policy. Colour images are three of Fashion-MNIST,
one for each channel, in a frame of zeros.

    python -m benchmarks.autoaugment --json
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, pillow_operations
from lconv_jax import data
from lconv_jax.data.augmentation import operations, policies

SHAPES = {"28 × 28 × 1": (28, 28, 1), "32 × 32 × 3": (32, 32, 3)}
_HELD: list[Any] = []  # what a process for Pillow works on


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints, and returns what --json writes."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--policy", default="autoaugment", help="as config.data.augment")
        parser.add_argument("--batch", type=int, default=512, help="images of a compiled batch")
        parser.add_argument("--batches", type=int, default=16, help="batches of a turn")

    args = common.parse(__doc__, argv, name="autoaugment", rounds=9, add=add)
    if args.toy:
        args.batch, args.batches = 32, 2
    rows = {name: _measure(shape, args) for name, shape in SHAPES.items()}
    result = common.result_of(args, rows, "pillow") | {"policy": args.policy}
    common.show(f"{args.policy}, batch {args.batch}", rows, result["machine"])
    common.write_json(args.json, result)
    return result


def _measure(shape: tuple[int, int, int], args: argparse.Namespace) -> dict[str, Any]:
    policy = policies.load(args.policy)
    count = args.batch * args.batches
    images = _images(shape, count)
    batches = jax.device_put(images.reshape(args.batches, args.batch, *shape))
    key = jax.random.key(0)

    def one(index: Any, batches: Any) -> Any:
        return policies.augment(jax.random.fold_in(key, index), batches[index], policy)

    compiled = jax.jit(one).lower(jnp.int32(0), batches).compile()
    drawn = [
        jax.device_get(policies.draw(jax.random.fold_in(key, index), (args.batch, *shape), policy))
        for index in range(args.batches)
    ]
    # [images, T]
    operation, level, place = (
        np.concatenate([np.swapaxes(each[part], 0, 1) for each in drawn]) for part in range(3)
    )
    parts = np.array_split(np.arange(count), common.cores())
    held = [(images[part], operation[part], level[part], place[part]) for part in parts]
    # Each has its own images, so each is a pool of one.
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, spawn, _hold, (each,)) for each in held]
    try:
        times = common.interleave(
            {
                "jax": lambda: [one_of(compiled, index, batches) for index in range(args.batches)],
                "pillow": lambda: _all(pools, "count"),
            },
            args.rounds,
        )
        by_pillow = np.concatenate(_all(pools, "images"))
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)
    results = np.concatenate([one_of(compiled, index, batches) for index in range(args.batches)])
    agree = np.mean(abs(results.astype(np.int16) - by_pillow) <= 1)
    return {
        "jax images/s": count / times.median("jax"),
        "Pillow images/s": count / times.median("pillow"),
        "jax / Pillow": times.ratio("pillow", "jax"),
        "processes": len(pools),
        "agree": float(agree),
    }


def one_of(compiled: Any, index: int, batches: Any) -> Any:
    """The augmented batch of this index."""
    return compiled(jnp.int32(index), batches)


def _images(shape: tuple[int, int, int], count: int) -> np.ndarray:
    stored = data.load("fashion_mnist_small").train.images[..., 0]
    H, W, C = shape
    rows, columns = H - stored.shape[1], W - stored.shape[2]
    chosen = stored[np.arange(count * C) % len(stored)].reshape(count, C, *stored.shape[1:])
    frame = ((0, 0), (0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    return np.ascontiguousarray(np.moveaxis(np.pad(chosen, frame), 1, -1))


def _all(pools: Sequence[ProcessPoolExecutor], wanted: str) -> list[Any]:
    return [waiting.result() for waiting in [pool.submit(_work, wanted) for pool in pools]]


def _hold(held: tuple[np.ndarray, ...]) -> None:
    _HELD.append(held)


def _work(wanted: str) -> Any:
    """The policy by Pillow on the images that this process holds."""
    (held,) = _HELD
    results = [_augment(*each) for each in zip(*held, strict=True)]
    return len(results) if wanted == "count" else np.stack(results)


def _augment(
    image: np.ndarray, operation: np.ndarray, level: np.ndarray, place: np.ndarray
) -> np.ndarray:
    grey = image.shape[-1] == 1
    picture = pillow_operations.Image.fromarray(image[..., 0] if grey else image)
    for index, value, centre in zip(operation, level, place, strict=True):
        if index >= 0:
            name = operations.NAMES[index]
            picture = pillow_operations.on_picture(name, picture, float(value), tuple(centre))
    return np.asarray(picture).reshape(image.shape)


if __name__ == "__main__":
    main()
