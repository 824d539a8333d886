"""What a wide s_fc needs on many devices: memory, communication, arithmetic; without the devices.

    python -m benchmarks.scaling [--json]

The training program is compiled, never run, for meshes of 1, 8 and 256 virtual CPU devices, each
in a process of its own. Bytes of memory are the compiled program's own account
(`memory_analysis`), for one device; bytes sent are read off its text (`benchmarks.collectives`);
arithmetic is counted: six operations a weight and example, four in the first layer. The CPU's
compiler made them: another one may overlap, fuse or lay out differently, and sums the same arrays.

The last columns are no measurements. They divide by an assumed speed of arithmetic and of the
links between devices (--teraflops, --gigabytes), with no overlap of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import collectives, common
from lconv_jax import config as config_lib
from lconv_jax import data, models
from lconv_jax.training import programs
from lconv_jax.training.setup import prepare

IMAGE_SHAPE, EXAMPLES = (32, 32, 3), 50_000
# (data, model, batch): the batch of the paper on one and on eight devices; on 256 also a large one.
CASES = (
    *((1, 1, 512), (8, 1, 512), (4, 2, 512), (2, 4, 512), (1, 8, 512)),
    *((256, 1, 512), (32, 8, 512), (8, 32, 512), (1, 256, 512)),
    *((256, 1, 8192), (32, 8, 8192), (8, 32, 8192), (1, 256, 8192)),
)


def make_experiment(alpha: int, data_devices: int, model_devices: int, batch: int) -> Any:
    """s_fc on images that are not there: their shapes are all that compiling takes."""
    config = config_lib.paper_config("cifar10", "s_fc", alpha)
    config.data.augment = ""  # not what is counted here
    config.model.dtype = "float32"  # the CPU has no sums of bfloat16, and would convert
    config.optimizer.momentum = 0.9
    config.train.batch_size = batch
    config.sharding.data, config.sharding.model = data_devices, model_devices
    images = np.broadcast_to(np.uint8(0), (EXAMPLES, *IMAGE_SHAPE))
    split = data.Split(images, np.zeros(EXAMPLES, np.int32))
    empty = data.Split(images[:0], split.labels[:0])
    dataset = data.Dataset("none", 10, split, empty, split)
    return prepare(config, dataset, must_fit=False)


def measure(alpha: int, data_devices: int, model_devices: int, batch: int) -> dict[str, Any]:
    """One row: what one device holds, sends and computes in a step."""
    experiment = make_experiment(alpha, data_devices, model_devices, batch)
    sizes = [kernel.size for kernel in models.kernels(experiment.state_shapes.params).values()]
    begun = time.perf_counter()
    program = programs.compile_train_steps(experiment)
    seconds = time.perf_counter() - begun
    memory = program.memory_analysis()
    found = [each for each in collectives.read(program.as_text()) if each.every_step]
    across = {"data": data_devices, "model": model_devices}
    by_kind: dict[str, int] = {}
    for each in found:
        by_kind[each.kind] = by_kind.get(each.kind, 0) + each.bytes
    shapes = experiment.state_shapes
    params, optimizer = (
        sum(map(leaf_bytes, jax.tree.leaves(tree))) for tree in (shapes.params, shapes.opt_state)
    )
    return {
        "data": data_devices,
        "model": model_devices,
        "batch": batch,
        "weights": sum(sizes),
        "parameter_bytes": params,
        "optimizer_bytes": optimizer,
        "state_bytes": memory.alias_size_in_bytes,
        "input_bytes": memory.argument_size_in_bytes - memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "collective_bytes": by_kind,
        "sent_bytes": sum(each.sent for each in found),
        "sent_bytes_by_axis": {
            axis: sum(each.sent for each in found if size > 1 and each.devices == size)
            for axis, size in across.items()
        },
        "flops": batch * (6 * sum(sizes) - 2 * sizes[0]) / (data_devices * model_devices),
        "compile_seconds": seconds,
    }


def leaf_bytes(leaf: Any) -> int:
    """Bytes of an array, or a shape with a sharding, on one device."""
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize


def _in_process(alpha: int, case: tuple[int, int, int]) -> dict[str, Any]:
    """`measure`, in a process with as many virtual devices as it takes."""
    devices = case[0] * case[1]
    environ = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-m", "benchmarks.scaling", f"--alpha={alpha}"]
    command.append(f"--one={','.join(map(str, case))}")
    run = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Prints the table and returns what --json writes."""

    def add(parser: argparse.ArgumentParser) -> None:
        number: Any = parser.add_argument
        number("--alpha", type=int, default=345, help="of s_fc; 345 makes a billion weights")
        number("--teraflops", type=float, default=400.0, help="assumed, 10¹²/s of a device")
        number("--gigabytes", type=float, default=50.0, help="assumed, 10⁹ bytes/s of a device")
        number("--one", help="data,model,batch: compile this one and print it as JSON")

    args = common.parse(__doc__, argv, name="scaling", add=add)
    if args.one:
        print(json.dumps(measure(args.alpha, *map(int, args.one.split(",")))))
        return None
    if args.toy:
        args.alpha = 8
    rows = {}
    for case in CASES[:2] if args.toy else CASES:
        row = _in_process(args.alpha, case)
        row["compute, ms"] = row["flops"] / (args.teraflops * 1e9)
        row["send, ms"] = row["sent_bytes"] / (args.gigabytes * 1e6)
        rows[f"{case[0]} × {case[1]}, batch {case[2]}"] = row
    result = common.result_of(args, rows) | {
        "alpha": args.alpha,
        "assumed_teraflops": args.teraflops,
        "assumed_gigabytes_per_second": args.gigabytes,
    }
    result["machine"]["hardware"] = f"compiled for virtual CPU devices by {platform.machine()}"
    shown = {
        name: {
            "state, GiB": row["state_bytes"] / 2**30,
            "temporary, GiB": row["temporary_bytes"] / 2**30,
            "sent, MB": row["sent_bytes"] / 1e6,
            "TFLOP": row["flops"] / 1e12,
            "compute, ms": row["compute, ms"],
            "send, ms": row["send, ms"],
        }
        for name, row in rows.items()
    }
    title = f"s_fc, alpha {args.alpha}, images {IMAGE_SHAPE}; data × model; per device and step"
    common.show(title, shown, result["machine"])
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
