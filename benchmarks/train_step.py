"""How near a training step comes to a bare matrix product, and what per-step metrics cost.

    python -m benchmarks.train_step [--config=configs/sfc_fashion_mnist.py] [--out=FILE.json]

The step is the whole of it: gather, augmentation, both passes, BN, β-lasso, metrics. Its rate
counts only the multiplications and additions of its matrix products: forward, and backward to the
weights and (beyond the first layer) to the inputs. All programs run in one process and take turns,
so that the machine's speed, which drifts, is the same for all; medians are printed.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from lconv_jax import models, train

_CONFIG = config_flags.DEFINE_config_file("config", "configs/sfc_fashion_mnist.py")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Turns that each program takes.", lower_bound=3)
_SIDE = flags.DEFINE_integer("side", 2048, "Side of the bare float32 matrix product.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the result.")


def step_flops(config: Any, experiment: train.Experiment) -> int:
    """Floating-point operations of one step's matrix products, for a fully connected net."""
    sizes = [kernel.size for kernel in models.kernels(experiment.state_shapes.params).values()]
    return config.train.batch_size * (6 * sum(sizes) - 2 * sizes[0])


def measure(config: Any, rounds: int, side: int) -> dict[str, Any]:
    """Medians over `rounds` turns, in seconds and GFLOP/s."""
    experiment = train.prepare(config)
    split = jax.device_put(experiment.dataset.train)
    count = jnp.int32(min(10, experiment.plan.steps_per_epoch))
    matrix = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    states = {}
    programs: dict[str, Callable[[], Any]] = {"product": lambda: product(matrix, matrix)}

    def stepper(name: str, **options: Any) -> Callable[[], Any]:
        run = train.compile_train_steps(experiment, **options)
        states[name] = train.initial_state(experiment)

        def advance() -> Any:
            # The state goes back to step 0, so that no call leads past the end of an epoch.
            state = dataclasses.replace(states[name], step=jnp.zeros((), jnp.int32))
            states[name], rows = run(state, split, count)
            return rows

        return advance

    programs["step"] = stepper("step")
    programs["step without metrics"] = stepper("step without metrics", with_metrics=False)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 2):  # two turns of warm-up
        for name, program in programs.items():
            begun = time.perf_counter()
            jax.block_until_ready(program())
            if turn >= 2:
                seconds[name].append(time.perf_counter() - begun)
    steps = int(count)
    with_metrics, without = seconds["step"], seconds["step without metrics"]
    product_rate = 2 * side**3 / statistics.median(seconds["product"]) / 1e9
    step_seconds = statistics.median(with_metrics) / steps
    step_rate = step_flops(config, experiment) / step_seconds / 1e9
    cost = statistics.median(a / b for a, b in zip(with_metrics, without, strict=True)) - 1
    return {
        "bare product, GFLOP/s": product_rate,
        "training step, GFLOP/s": step_rate,
        "training step, ms": step_seconds * 1e3,
        "share of the bare product": step_rate / product_rate,
        "cost of per-step metrics": cost,
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}, {platform.machine()}",
        "jax": jax.__version__,
    }


def main(argv: list[str]) -> None:
    del argv
    result = measure(_CONFIG.value, _ROUNDS.value, _SIDE.value)
    for name, value in result.items():
        print(f"{name:28} {value:.3f}" if isinstance(value, float) else f"{name:28} {value}")
    if _OUT.value:
        with open(_OUT.value, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    app.run(main)
