"""The list of commands: `python -m lconv_jax`, and `python -m lconv_jax COMMAND …` runs one."""

from __future__ import annotations

import ast
import difflib
import pathlib
import runpy
import sys

from lconv_jax.terminal import commands

# Each command is the module `lconv_jax.NAME` with a `main` of its own. The list shows the first
# line of its docstring.
COMMANDS = (
    *("main", "sweep", "report", "describe", "shorten", "predict", "export", "preview", "config"),
    "data.prepare",
)
EXPERIMENTS = (
    *("fashion_mnist", "other_data", "planted", "localisation", "description", "compare"),
    *("learned", "transfer", "scale", "ranking"),
    *("table1", "table2", "figure1", "figure2", "figure3", "figure4", "figure5"),
)


def summary(name: str) -> str:
    """The first sentence of a command's docstring, whose module is not imported for it."""
    path = pathlib.Path(__file__).parent.joinpath(*name.split(".")).with_suffix(".py")
    if not path.exists():
        path = path.with_suffix("") / "__main__.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return paragraph.partition(": `")[0].partition(". ")[0].rstrip(".:")


def listing() -> str:
    """All commands, a line each."""
    width = max(map(len, (*COMMANDS, *EXPERIMENTS)))
    return "\n".join(
        [
            "lconv_jax COMMAND … is python -m lconv_jax.COMMAND …; --help of each says more.",
            "",
            *(f"  {name:{width}}  {summary(name)}" for name in COMMANDS),
            "",
            "Experiments, python -m lconv_jax.experiments.NAME, from the root of a clone:",
            "",
            *(f"  {name:{width}}  {summary(f'experiments.{name}')}" for name in EXPERIMENTS),
        ]
    )


def main() -> None:
    """Prints the list, or runs the command that is named first."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        commands.say(listing())
        return
    name = arguments[0]
    if name.removeprefix("experiments.") in EXPERIMENTS:
        name = f"experiments.{name.removeprefix('experiments.')}"
    elif name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS, *EXPERIMENTS], 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        sys.exit(f"error: there is no command {name!r}{meant} python -m lconv_jax lists them")
    sys.argv = sys.argv[1:]
    runpy.run_module(f"lconv_jax.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
