"""Writes a run's network for other programs: `python -m lconv_jax.export RUN_DIR --out=net.onnx`.

The ending of --out says the format: .onnx, or .npz for NumPy alone. The network takes examples as
they are stored, in bytes where the data set has bytes: scaling and batch normalisation are inside.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from numpy.typing import NDArray

from lconv_jax import data
from lconv_jax.errors import ConfigError
from lconv_jax.host import places
from lconv_jax.host.files import write_atomically
from lconv_jax.parallel import distributed
from lconv_jax.portable import evaluate, network, npz, to_onnx
from lconv_jax.saved_run import SavedRun, load_run
from lconv_jax.terminal import commands

ENDINGS = (".npz", ".onnx")
# Test images that the file's outputs are compared on.
_COMPARED = 256


def export(run: SavedRun, out: str | os.PathLike[str]) -> network.Portable:
    """Writes the network of a run to a file that ends in .npz or .onnx, and returns it.

    Raises:
      ConfigError: the path has another ending, or `onnx` is needed and not installed.
      ConfigError, CheckpointError, DataError: as `SavedRun.batch_stats`.
      OSError: the file cannot be written.
    """
    path = places.output(out, "--out")
    ending = _ending(path)
    portable = network.from_run(run)
    if ending == ".onnx":
        contents = to_onnx.to_model(portable).SerializeToString(deterministic=True)
    else:
        contents = npz.to_bytes(portable)
    write_atomically(path, contents)
    return portable


def _ending(path: str) -> str:
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise ConfigError(
            f"--out={path} must end in {' or '.join(ENDINGS)}, because the suffix chooses the "
            "format; `python -m lconv_jax.describe` writes .lconv"
        )
    if ending == ".onnx":
        to_onnx.check_installed()
    return ending


def evaluator(path: str) -> Callable[[NDArray[Any]], NDArray[np.float32]] | None:
    """The function from stored images to logits of a file, or None where nothing here runs it."""
    if path.lower().endswith(".npz"):
        read = evaluate.read(path)
        return lambda images: evaluate.logits(read, images)
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


def comparison(run: SavedRun, path: str) -> str:
    """A line that compares the outputs of a file and of its run on test images."""
    run_file = evaluator(path)
    if run_file is None:
        return "not compared with the run: onnxruntime is not installed"
    test = run.dataset.test
    images = np.asarray(data.read(test, slice(0, _COMPARED)).images)
    ours, theirs = run.logits(images), run_file(images)
    same = int(np.count_nonzero(ours.argmax(1) == theirs.argmax(1)))
    return (
        f"the same class as the run for {same:,} of {len(images):,} test images; "
        f"logits, of up to {np.abs(ours).max():.3g}, differ by at most "
        f"{np.abs(ours - theirs).max():.1e}"
    )


def define_flags() -> None:
    flags.DEFINE_string("out", None, "The file to write; it ends in .onnx or .npz.")
    flags.DEFINE_integer("step", None, "Which checkpoint, by its step; the newest by default.")
    flags.mark_flag_as_required("out")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("one RUN_DIR is needed: python -m lconv_jax.export RUN_DIR --out=FILE")
    given = flags.FLAGS
    out = places.output(given.out, "--out")
    _ending(out)
    run = load_run(argv[1], step=given.step)
    distributed.initialize()
    portable = export(run, out)
    shape = " × ".join(map(str, portable.network.input_shape))
    commands.say(
        f"network: {run.config.model.name} of step {run.step}; input {portable.dtype} "
        f"[N × {shape}], output {len(portable.network.layers[-1].bias)} logits"
    )
    commands.say(f"compared: {comparison(run, out)}")
    commands.say(f"file: {given.out}, {os.path.getsize(out):,} bytes")


if __name__ == "__main__":
    commands.launch(main, define_flags)
