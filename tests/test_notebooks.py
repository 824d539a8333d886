"""The notebooks run from top to bottom, and show what they say."""

import json
import pathlib
import re

import pytest

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


def _executed(name):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": NOTEBOOKS}}).execute()
    return notebook


def _shown(cell):
    return "".join(
        output["data"].get("text/plain", "") for output in cell.outputs if "data" in output
    )


@pytest.mark.slow
def test_quickstart():
    notebook = _executed("quickstart.ipynb")
    cells = {cell.source.splitlines()[-1]: cell for cell in notebook.cells if cell.source}
    live, full = re.findall(r"'ratio': ([\d.]+)", _shown(cells['summary["locality"]']))
    assert float(live) > 1.05
    assert float(full) > 1.3
    image = cells['Image(f"{run_directory}/filters.png")'].outputs[0]["data"]
    assert image["image/png"]
    chain = notebook.cells[-1]
    assert _shown(chain).startswith("(Array([0, 1, 2]")


def test_quickstart_opens_in_colab_and_is_committed_without_output():
    notebook = json.loads((NOTEBOOKS / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert "colab.research.google.com" in "".join(notebook["cells"][0]["source"])
    assert all(not cell.get("outputs") for cell in notebook["cells"])
