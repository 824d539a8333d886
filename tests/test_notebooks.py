"""The notebooks run from top to bottom, and show what they say."""

import json
import pathlib
import re
import runpy

import pytest

from lconv_jax import config as config_lib

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


_MEASURED = 'summary["metrics"]["eval/accuracy"], summary["metrics"]["sparsity/density"]'


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
    # Behind the bar that shows how far the run is.
    accuracy = float(re.search(r"\(([\d.]+), [\d.]+\)$", _shown(cells[_MEASURED]))[1])
    assert accuracy > 0.8
    live, full = re.findall(r"'ratio': ([\d.]+)", _shown(cells['summary["locality"]']))
    assert float(live) > 1.05
    assert float(full) > 1.3
    image = cells['Image(f"{run_directory}/filters.png")'].outputs[0]["data"]
    assert image["image/png"]
    chain = notebook.cells[-1]
    assert _shown(chain).startswith("(Array([0, 1, 2]")


def test_quickstart_trains_the_main_job_but_for_its_length():
    notebook = json.loads((NOTEBOOKS / "quickstart.ipynb").read_text(encoding="utf-8"))
    (source,) = (
        source
        for cell in notebook["cells"]
        if _MEASURED in (source := "".join(cell["source"])) and cell["cell_type"] == "code"
    )
    scope = {}
    exec(source[: source.index("run_directory =")], scope)
    wanted = runpy.run_path(str(NOTEBOOKS.parent / "configs" / "sfc_fashion_mnist.py"))
    wanted = dict(config_lib.flatten(wanted["get_config"]()))
    other = {key for key, value in config_lib.flatten(scope["config"]) if value != wanted[key]}
    assert other == {"train.epochs", "optimizer.reference_lr_sum"}


def test_quickstart_opens_in_colab_and_is_committed_without_output():
    notebook = json.loads((NOTEBOOKS / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert "colab.research.google.com" in "".join(notebook["cells"][0]["source"])
    assert all(not cell.get("outputs") for cell in notebook["cells"])
