"""Trains one configuration: `python -m lconv_jax.main --config=FILE --workdir=DIRECTORY`.

With several processes each runs this command; docs/devices.md says how they find together.
"""

import os
from typing import Any

from absl import app, flags

from lconv_jax.errors import StoredError
from lconv_jax.host import cache, places
from lconv_jax.parallel import distributed
from lconv_jax.rundir import metrics
from lconv_jax.rundir.directory import SUMMARY_FILE
from lconv_jax.terminal import commands
from lconv_jax.terminal.ending import run_errors_in_a_line
from lconv_jax.training import loop

# The flags that describe the processes of a run.
PROCESS_FLAGS = ("coordinator_address", "num_processes", "process_id", "distributed")


def define_flags() -> None:
    commands.define_config()
    flags.DEFINE_string("workdir", None, "Run directory; a run found there is continued.")
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "Folder that compiled programs are kept in; empty: compile anew each time. Else "
        "$JAX_COMPILATION_CACHE_DIR, or one in the user's folder of caches.",
    )
    flags.DEFINE_string(
        "coordinator_address", None, "host:port of process 0, where several processes meet."
    )
    flags.DEFINE_integer("num_processes", None, "How many processes train together.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    flags.DEFINE_boolean(
        "distributed", False, "Find the other processes by Cloud TPU, Slurm or Open MPI."
    )
    flags.DEFINE_integer(
        "distributed_timeout", 300, "Seconds to wait for the other processes.", 1, 10**6
    )
    flags.mark_flag_as_required("workdir")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    with run_errors_in_a_line():
        places.folder(given.workdir, "--workdir")
        processes = given.coordinator_address, given.num_processes, given.process_id
        distributed.initialize(
            *processes, detect=given.distributed, timeout=given.distributed_timeout
        )
        cache.enable(given.compilation_cache)
        summary = loop.train_and_evaluate(given.config, given.workdir)
        try:
            text = report(summary, given.workdir)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            file = os.path.join(given.workdir, SUMMARY_FILE)
            raise StoredError(
                f"{file} lacks entries that this command prints ({error!r}); delete the file, and "
                "the same command writes it again from the last checkpoint"
            ) from error
    try:
        if distributed.is_first():
            commands.say(text)
    except commands.OutputError as error:
        raise OSError(f"{error}; the run is finished, and kept in {given.workdir}") from error


def report(summary: dict[str, Any], workdir: str) -> str:
    """The results of a run in a few lines, for the terminal."""
    last, weights = summary["metrics"], summary["weights"]
    layers = ", ".join(
        f"{name} {last[f'sparsity/{name}/nonzeros']:,} of {size:,}"
        for name, size in weights.items()
    )
    lines = [
        *(
            f"{split} accuracy: {last[f'{name}/accuracy']:.4f}"
            for split, name in metrics.PREFIXES.items()
            if f"{name}/accuracy" in last
        ),
        f"non-zero weights: {layers} (density {last['sparsity/density']:.4f})",
    ]
    units = {name.removeprefix("units/"): n for name, n in last.items() if name[:6] == "units/"}
    if units:
        kept = ", ".join(f"{name} {count:,}" for name, count in units.items())
        gone = "are dead and cannot regrow"
        if summary["shrink"] == "frozen":
            gone += ", or were constant and can no longer regrow"
        lines.append(f"hidden units trained at the end: {kept}; the others {gone}")
    for found in summary.get("locality", []):
        lines.append(
            f"locality: {found['share']:.3f} of a unit's non-zeros lie in its best "
            f"{found['window']} × {found['window']} window, {found['null_share']:.3f} when "
            f"shuffled: ratio {found['ratio']:.2f} (the {found['units']} units with "
            f"{found['min_nonzeros']} or more)"
        )
    effective = ", ".join(f"{name} {value:.4g}" for name, value in summary["effective"].items())
    lines.append(f"penalty and threshold as applied (docs/optimizer.md): {effective}")
    lines.append(f"metrics, checkpoints and filters.png: {workdir}")
    lines.append(f"a page about it: python -m lconv_jax.report {workdir}")
    return "\n".join(lines)


if __name__ == "__main__":
    commands.launch(main, define_flags)
