"""What a wide s_fc needs on many devices: memory, communication, arithmetic; without the devices.

    python -m benchmarks.scaling [--out=benchmarks/scaling.json]

The training program is compiled, never run, for meshes of 1, 8 and 256 virtual CPU devices, each
in a process of its own. Bytes of memory are the compiled program's own account
(`memory_analysis`), for one device; bytes sent are read off its text (`benchmarks.collectives`);
arithmetic is counted: six operations a weight and example, four in the first layer. The CPU's
compiler made them: another one may overlap, fuse or lay out differently, and sums the same arrays.

The last columns are no measurements. They divide by an assumed speed of arithmetic and of the
links between devices (--teraflops, --gigabytes), with no overlap of the two.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import collectives
from lconv_jax import config as config_lib
from lconv_jax import data, models, train

_OUT = flags.DEFINE_string("out", None, "JSON file for the result.")
_ALPHA = flags.DEFINE_integer("alpha", 345, "Base channels of s_fc; 345 makes a billion weights.")
_TERAFLOPS = flags.DEFINE_float("teraflops", 400.0, "Assumed arithmetic of a device, 10¹²/s.")
_GIGABYTES = flags.DEFINE_float("gigabytes", 50.0, "Assumed 10⁹ bytes/s that a device sends.")
_ONE = flags.DEFINE_string("one", None, "data,model,batch: compile this one and print it as JSON.")

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
    return train.prepare(config, data.Dataset("none", 10, split, empty, split))


def measure(alpha: int, data_devices: int, model_devices: int, batch: int) -> dict[str, Any]:
    """One row: what one device holds, sends and computes in a step."""
    experiment = make_experiment(alpha, data_devices, model_devices, batch)
    sizes = [kernel.size for kernel in models.kernels(experiment.state_shapes.params).values()]
    begun = time.perf_counter()
    program = train.compile_train_steps(experiment)
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


def _in_process(case: tuple[int, int, int]) -> dict[str, Any]:
    """`measure`, in a process with as many virtual devices as it takes."""
    devices = case[0] * case[1]
    environ = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-m", "benchmarks.scaling", f"--alpha={_ALPHA.value}"]
    command.append(f"--one={','.join(map(str, case))}")
    run = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def _assumed_seconds(row: dict[str, Any]) -> tuple[float, float]:
    """(of arithmetic, of communication), one after the other, at the assumed speeds."""
    return row["flops"] / (_TERAFLOPS.value * 1e12), row["sent_bytes"] / (_GIGABYTES.value * 1e9)


def main(argv: list[str]) -> None:
    del argv
    if _ONE.value:
        print(json.dumps(measure(_ALPHA.value, *map(int, _ONE.value.split(",")))))
        return
    hardware = f"compiled for virtual CPU devices by {platform.machine()}, jax {jax.__version__}"
    head = "data × model  batch   state  temporary     sent   compute"
    print(f"s_fc, alpha {_ALPHA.value}, images {IMAGE_SHAPE}; {hardware}; per device and step")
    print(f"{head}   at {_TERAFLOPS.value:g} TFLOP/s  at {_GIGABYTES.value:g} GB/s (both assumed)")
    print("                         GiB        GiB       MB   TFLOP          ms           ms")
    rows = []
    for case in CASES:
        row = _in_process(case)
        compute, send = _assumed_seconds(row)
        row["assumed"] = {"compute_seconds": compute, "send_seconds": send}
        rows.append(row)
        print(
            f"{row['data']:4} × {row['model']:<4} {row['batch']:7}"
            f"{row['state_bytes'] / 2**30:8.3f}"
            f"{row['temporary_bytes'] / 2**30:11.3f}{row['sent_bytes'] / 1e6:9.1f}"
            f"{row['flops'] / 1e12:8.3f}{compute * 1e3:12.2f}{send * 1e3:13.2f}",
            flush=True,
        )
    result = {
        "device": hardware,
        "jax": jax.__version__,
        "alpha": _ALPHA.value,
        "assumed_teraflops": _TERAFLOPS.value,
        "assumed_gigabytes_per_second": _GIGABYTES.value,
        "rows": rows,
    }
    if _OUT.value:
        with open(_OUT.value, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    app.run(main)
