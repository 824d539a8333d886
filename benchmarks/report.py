"""Writes the benchmarks' last results into docs/speed.md.

    python -m benchmarks.report

A table stands there between `<!-- NAME -->` and `<!-- end -->`, for each NAME of TABLES, and is
made of benchmarks/NAME.json.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from benchmarks import common

PAGE = common.FOLDER.parent / "docs" / "speed.md"
# The columns that are worth a reader's time; the JSON has the others.
TABLES = {
    "step": "alpha,images,dtype,step ms,share,share of square,step / bound,metrics cost,"
    "augmentation cost,compile s",
    "peers": "alpha,images,batch,jax ms,eager / jax,compile / jax,multiply / jax,"
    "eager / jax (apart),compile / jax (apart),multiply / jax (apart)",
    "pipeline": "ms,of a step,examples/s",
    "optimizers": "step ms,by SGD,change,with changes",
    "memory": "alpha,images,dtype,parameters MiB,state MiB,temporaries MiB,peak / parameters",
}


def table(result: dict[str, Any], columns: str) -> str:
    """The result as Markdown, with the columns that it has, and how it was measured."""
    rows = result["models"]
    shown = [column for column in columns.split(",") if any(column in row for row in rows.values())]
    lines = [f"| | {' | '.join(shown)} |", "|---" * (1 + len(shown)) + "|"]
    for name, row in rows.items():
        cells = [common.cell(row.get(column, "")) for column in shown]
        if "note" in row:
            cells[0] = row["note"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    about = ", ".join(f"{name} {version}" for name, version in result["machine"].items())
    clock = {"wall": "wall time", "cpu": "processor time"}[result["clock"]]
    return "\n".join([*lines, "", f"{about}; {clock}, medians of {result['rounds']} turns."])


def refreshed(page: str, folder: pathlib.Path = common.FOLDER) -> str:
    """The page with each table made anew, as far as there is a result."""
    for name, columns in TABLES.items():
        path = folder / f"{name}.json"
        if path.exists():
            text = table(json.loads(path.read_text("utf-8")), columns)
            before, mark, rest = page.partition(f"<!-- {name} -->\n")
            _, end, after = rest.partition("<!-- end -->")
            page = f"{before}{mark}{text}\n{end}{after}"
    return page


def main() -> None:
    """Rewrites the page."""
    PAGE.write_text(refreshed(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
