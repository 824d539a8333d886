"""Writes one page about some runs: `python -m lconv_jax.report RUN [RUN …] --out=report.html`.

The page is one file that loads nothing: it can be kept, sent and opened without a network. Run
directories are read and not changed, so that a run may be looked at while it trains.
"""

from __future__ import annotations

import os

from absl import app, flags

from lconv_jax.host import places
from lconv_jax.host.files import write_atomically
from lconv_jax.report import recorded
from lconv_jax.terminal import commands


def define_flags() -> None:
    flags.DEFINE_string("out", "report.html", "The file to write.")
    flags.DEFINE_integer(
        "filters", 64, "Most first-layer filters that are shown of a run.", 0, 4096
    )


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("a run is needed: python -m lconv_jax.report RUN [RUN …]")
    out = places.output(flags.FLAGS.out, "--out")
    runs = recorded.read_all(argv[1:])
    from lconv_jax.report import page  # whose libraries are an extra

    text = page.render(runs, most_filters=flags.FLAGS.filters)
    # Names of files may be no text.
    contents = text.encode("utf-8", "replace")
    write_atomically(out, contents)
    commands.say(f"{out}: {len(runs)} run{'s' * (len(runs) > 1)}, {len(contents):,} bytes")
    for run in runs:
        for note in run.notes:
            commands.say(f"{run.label}: {note}")
    if os.path.splitext(out)[1].lower() not in (".html", ".htm"):
        commands.say("a browser may not open it: its name does not end in .html")


if __name__ == "__main__":
    commands.launch(main, define_flags)
