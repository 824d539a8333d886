"""What a training step costs alone and inside a compiled loop, for each way to convolve.

    python -m benchmarks.conv_in_loop > benchmarks/conv_in_loop.md

`lconv_jax.models.layers` chooses its convolutions by this table. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest import mock

import flax
import jax
import jax.numpy as jnp
import jaxlib
from jax import lax

from benchmarks import common
from lconv_jax import models
from lconv_jax.models import layers


def flax_local_convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`layers.local_convolve` by what `flax.linen.ConvLocal` calls."""
    rank = x.ndim - 2
    outputs, window, features = kernel.shape[:rank], kernel.shape[rank:-2], kernel.shape[-1]
    # XLA's patches have the channel before the window.
    kernel = jnp.moveaxis(kernel, -2, rank).reshape(*outputs, -1, features)
    numbers = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC")}[rank]
    return lax.conv_general_dilated_local(
        x, kernel, (stride,) * rank, "SAME", window, dimension_numbers=numbers
    )


# What stands in for which function of `layers`, for which kind of model.
CANDIDATES: dict[str, tuple[tuple[str, str, Callable], ...]] = {
    "conv": (
        ("lax.conv", "convolve", layers.lax_convolve),
        ("unfold, matmul", "convolve", layers.unfolded_convolve),
        ("layers.convolve", "convolve", layers.convolve),
    ),
    "local": (
        ("lax.conv_local (flax)", "local_convolve", flax_local_convolve),
        ("layers.local_convolve", "local_convolve", layers.local_convolve),
    ),
}


def measure(name: str, shape: tuple[int, ...], batch: int, steps: int, repeats: int):
    """(lone step, step inside a scan of `steps`) in seconds, forward and backward."""
    model = models.create(name, alpha=8, num_classes=10)
    images = jax.random.normal(jax.random.key(0), (steps, batch, *shape))
    labels = jnp.arange(steps * batch).reshape(steps, batch) % 10
    variables = jax.jit(model.init)(jax.random.key(1), images[0])

    def step(variables, example):
        def loss(params):
            logits, updated = model.apply(
                {**variables, "params": params}, example[0], train=True, mutable=["batch_stats"]
            )
            log_p = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(log_p, example[1][:, None], 1).mean(), updated

        gradient, updated = jax.grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], gradient)
        return {"params": params, **updated}, None

    lone = jax.jit(lambda v, x, y: step(v, (x, y))[0])
    loop = jax.jit(lambda v, x, y: lax.scan(step, v, (x, y))[0])
    times = common.interleave(
        {
            "lone": lambda: lone(variables, images[0], labels[0]),
            "loop": lambda: loop(variables, images, labels),
        },
        repeats,
    )
    return times.median("lone"), times.median("loop") / steps


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3, help="steps inside the loop")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    print(
        f"One training step, α = 8, batch {args.batch}, float32: alone, and inside a scan of "
        f"{args.steps} steps (median of {args.repeats}). {common.hardware()}; "
        f"jax {jax.__version__}, jaxlib {jaxlib.__version__}, flax {flax.__version__}.\n\n"
        "| model | images | convolution by | alone (ms) | in a loop (ms) | loop / alone |\n"
        "|---|---|---|---|---|---|"
    )
    for name in ("s_conv", "d_conv", "s_local", "d_local"):
        for shape in ((28, 28, 1), (32, 32, 3)):
            for label, target, function in CANDIDATES[name.partition("_")[2]]:
                with mock.patch.object(layers, target, function):
                    lone, loop = measure(name, shape, args.batch, args.steps, args.repeats)
                print(
                    f"| {name} | {'×'.join(map(str, shape))} | {label} | {1e3 * lone:.0f} "
                    f"| {1e3 * loop:.0f} | {loop / lone:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
