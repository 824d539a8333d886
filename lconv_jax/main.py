"""Trains one configuration: `python -m lconv_jax.main --config=FILE --workdir=DIRECTORY`.

With several processes each runs this command; docs/devices.md says how they find together.
"""

import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from lconv_jax import cache, distributed, train

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; override with --config.group.key=value."
)
flags.DEFINE_string("workdir", None, "Run directory; a run found there is continued.")
CACHE = flags.DEFINE_string(
    "compilation_cache",
    cache.default_directory(),
    "Folder that compiled programs are kept in; empty: compile anew each time.",
)
_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0, where several processes find together."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "Find the other processes by what Cloud TPU, Slurm or Open MPI says."
)
_TIMEOUT = flags.DEFINE_integer(
    "distributed_timeout", 300, "Seconds to wait for the other processes.", lower_bound=1
)
# Those that say which processes there are.
PROCESS_FLAGS = ("coordinator_address", "num_processes", "process_id", "distributed")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    workdir: str = flags.FLAGS.workdir
    logging.set_verbosity(logging.WARNING)
    with train.errors_in_a_line():
        processes = _ADDRESS.value, _PROCESSES.value, _PROCESS.value
        distributed.initialize(*processes, detect=_DISTRIBUTED.value, timeout=_TIMEOUT.value)
        cache.enable(CACHE.value)
        summary = train.train_and_evaluate(CONFIG.value, workdir)
    if distributed.is_first():
        print(report(summary, workdir))


def report(summary: dict[str, Any], workdir: str) -> str:
    """What a person wants to know at the end of a run, in a few lines."""
    last, weights = summary["metrics"], summary["weights"]
    layers = ", ".join(
        f"{name} {last[f'sparsity/{name}/nonzeros']:,} of {size:,}"
        for name, size in weights.items()
    )
    splits = {"test": "eval", "validation": "validation"}
    lines = [
        *(
            f"{split} accuracy: {last[f'{name}/accuracy']:.4f}"
            for split, name in splits.items()
            if f"{name}/accuracy" in last
        ),
        f"non-zero weights: {layers} (density {last['sparsity/density']:.4f})",
    ]
    units = {name.removeprefix("units/"): n for name, n in last.items() if name[:6] == "units/"}
    if units:
        kept = ", ".join(f"{name} {count:,}" for name, count in units.items())
        gone = "are dead for good"
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
    lines.append(f"as used: {effective}")
    lines.append(f"filters, metrics and checkpoints: {workdir}")
    return "\n".join(lines)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line for a configuration key or value that cannot be."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = error.args[0] if error.args else error
        sys.exit(f"error: {message}\nsee docs/config.md for the keys, and --help for the flags")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
