"""How much memory a training program takes, as a multiple of its parameters.

    python -m benchmarks.memory [--models=s_fc_8,s_fc_16m] [--dtype=bfloat16] [--json]

From the compiled program's own account, so nothing is run and a program need not fit: what goes
in (state and training set), what comes out, how much of that is the same memory (the state is
donated), and what is held meanwhile. The images are those of one call of the loop; "peak" leaves
them out, as their number is the data set's and not the model's. Where the device says how much
was in use at most, a step is taken and that is printed as well: of the process so far, so that it
is the model's own where one is named or those before it are smaller; it includes the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import cases, common
from lconv_jax.training import programs


def measure(case: cases.Case, dtype: str) -> dict[str, Any]:
    """One row of the table; MiB, and multiples of the float32 parameters."""
    experiment = cases.make_experiment(case, dtype=dtype)
    program = programs.compile_train_steps(experiment)
    used = program.memory_analysis()
    parameters = _bytes(experiment.state_shapes.params)
    images = _bytes(experiment.dataset.train)
    peak = (
        used.argument_size_in_bytes
        + used.output_size_in_bytes
        - used.alias_size_in_bytes
        + used.temp_size_in_bytes
        - images
    )
    row = {
        "alpha": case.channels(),
        "images": "×".join(map(str, case.image_shape)),
        "batch": case.batch,
        "dtype": dtype,
        "parameters MiB": parameters / 2**20,
        "state MiB": _bytes(experiment.state_shapes) / 2**20,
        "arguments MiB": used.argument_size_in_bytes / 2**20,
        "outputs MiB": used.output_size_in_bytes / 2**20,
        "aliased MiB": used.alias_size_in_bytes / 2**20,
        "temporaries MiB": used.temp_size_in_bytes / 2**20,
        "peak / parameters": peak / parameters,
        "temporaries / parameters": used.temp_size_in_bytes / parameters,
    }
    device = jax.devices()[0]
    if device.memory_stats() is not None:
        split = jax.device_put(experiment.dataset.train)
        state, _ = program(programs.initial_state(experiment), split, jnp.int32(1))
        jax.block_until_ready(state)
        row["device peak MiB"] = device.memory_stats()["peak_bytes_in_use"] / 2**20
    return row


def _bytes(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what --json writes."""

    def add(parser: Any) -> None:
        parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")

    args = common.parse(__doc__, argv, name="memory", rounds=1, models=cases.CASES, add=add)
    rows = {}
    for name in args.models:
        case = cases.CASES[name].toy() if args.toy else cases.CASES[name]
        rows[name] = measure(case, args.dtype)
    result = common.result_of(args, rows)
    common.show("Memory of the training program", rows, result["machine"])
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
