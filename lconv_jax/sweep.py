"""Trains many settings and ranks them by validation accuracy.

    python -m lconv_jax.sweep --config=FILE --workdir=DIRECTORY \\
        --grid optimizer.l1.conv=1e-4,3e-4,1e-3 --grid optimizer.beta=0,1,10 --seeds=3
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags
from rich import box
from rich import table as rich_table

from lconv_jax import config as config_lib
from lconv_jax import main as main_lib
from lconv_jax.errors import ConfigError
from lconv_jax.experiments.sweeps import rows, run, shown
from lconv_jax.host import cache, places
from lconv_jax.parallel import distributed
from lconv_jax.terminal import commands
from lconv_jax.terminal.ending import run_errors_in_a_line

__all__ = ["main", "parse_grid", "run"]


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Keys with their values, from texts "KEY=VALUE,VALUE,…".

    Raises:
      ConfigError: a text is not of that form, a key is unknown or named twice, or a value is not
        of the key's type.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals:
            raise ConfigError(f"--grid {text}: it must be KEY=VALUE,VALUE,…")
        config_lib.check_name(key)
        if key in grid:
            raise ConfigError(f"--grid {text}: {key} has values already; give them all in one")
        # A value that has commas is quoted: data.name='"nlgp:length=64,seed=1",digits'.
        try:
            (found,) = csv.reader([values]) if values else ([""],)
        except (csv.Error, ValueError) as error:
            raise ConfigError(f"--grid {config_lib.brief(text)}: {error}") from error
        grid[key] = [_parse(key, value) for value in found]
    return grid


def _parse(key: str, text: str) -> Any:
    kind = type(config_lib.KEYS[key].default)
    readers: dict[type, Callable[[str], Any]] = {
        bool: lambda text: {"true": True, "false": False}[text.lower()],
        int: int,
        float: float,
        str: str,
    }
    try:
        return readers[kind](text.strip())
    except (KeyError, ValueError):
        accepts = config_lib.KEYS[key].accepts
        got = config_lib.brief(text)
        raise ConfigError(f"--grid {key}: {got} must be {kind.__name__}, {accepts}") from None


def define_flags() -> None:
    main_lib.define_flags()
    flags.DEFINE_multi_string(
        "grid", [], "KEY=VALUE,VALUE,… of a configuration key; given again, the product of all."
    )
    flags.DEFINE_integer("seeds", 1, "Seeds of each setting, from config.seed on.", 1)
    flags.DEFINE_integer(
        "together", 0, "Most runs that train together; 0: as many as pay and as memory allows.", 0
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    for name in main_lib.PROCESS_FLAGS:
        if given[name].present:
            raise ConfigError(
                f"--{name}: a sweep is one process, on all its devices; for several processes "
                "train single settings with lconv_jax.main"
            )
    flag = given["config"]
    command = [f"--config={config_flags.get_config_filename(flag)}"]
    command += [
        f"--config.{key}={shown(value)}"
        for key, value in config_flags.get_override_values(flag).items()
    ]
    with run_errors_in_a_line():
        places.folder(given.workdir, "--workdir")
        distributed.initialize()
        cache.enable(given.compilation_cache)
        result = run(
            given.config,
            given.workdir,
            parse_grid(given.grid),
            seeds=given.seeds,
            most=given.together,
            command=command,
        )
    head, *body = rows(result)
    grid = rich_table.Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
    for line in body:
        grid.add_row(*line)
    # A file has no width to fit.
    commands.show(grid, width=200)
    if result["best"] is None:
        sys.exit(
            "error: no setting finished with all seeds; see diverged.json in their directories"
        )
    commands.say(f"the best alone: {result['best']['command']}")


if __name__ == "__main__":
    commands.launch(main, define_flags)
