"""What the page says is what the run directory holds, and what it lacks."""

import hashlib
import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("altair")

from lconv_jax import analysis, train
from lconv_jax.errors import ConfigError, StoredError
from lconv_jax.report import page, recorded
from lconv_jax.rundir import facts, metrics
from tests import tiny_config
from tests.report.hostile import HOSTILE, make_hostile


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch):
    """The library's scripts, which take seconds to put together, are for the browser's tests."""
    monkeypatch.setattr(page, "bundle", lambda: "// charts")


def _page(*directories, **options):
    return page.render(recorded.read_all([str(each) for each in directories]), **options)


def _cells(text, row, occurrence=0):
    """The cells of the row of a table with this head."""
    found = re.findall(
        rf'<th scope="row">(?:<bdi>)?{re.escape(row)}(?:</bdi>)?</th>(.*?)</tr>', text, re.DOTALL
    )
    cells = re.findall(r"<td[^>]*>(.*?)</td>", found[occurrence], re.DOTALL)
    return [html.unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in cells]


def _specs(text):
    return json.loads(re.search(r'id="specs">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.slow
def test_numbers_at_a_glance_are_those_of_the_summary(finished):
    directory, _, summary = finished
    text, last = _page(directory), summary["metrics"]
    assert _cells(text, "Test accuracy") == [f"{last['eval/accuracy']:.2%}"]
    assert _cells(text, "Validation accuracy") == [f"{last['validation/accuracy']:.2%}"]
    assert _cells(text, "Share of all weights") == [f"{last['sparsity/density']:.2%}"]
    counts = {name: last[f"sparsity/{name}/nonzeros"] for name in summary["weights"]}
    assert _cells(text, "Weights that are not zero") == [f"{sum(counts.values()):,}"]
    for name, size in summary["weights"].items():
        share = counts[name] / size
        assert _cells(text, name) == [f"{size:,}", f"{counts[name]:,}", f"{share:.2%}"]
    ratios = [found["ratio"] for found in summary["locality"]]
    assert _cells(text, "Locality ratio") == [" / ".join(f"{ratio:.2f}" for ratio in ratios)]
    bits = f"{last['mdl/estimate_bits']:,.0f}"
    assert _cells(text, page._MDL["mdl/estimate_bits"][0]) == [bits]


@pytest.mark.slow
def test_bits_are_those_that_describe_found_and_a_bound_is_rounded_up(finished, run):
    text = _page(finished[0])
    assert "python -m lconv_jax.describe RUN" in text
    code = {"bits": 12345, "occam": 0.5, "kraft": 0.4, "kl": 0.3}
    found = {"network": "/a/short/0012345.lconv", "step": 9, "codes": {"unit": code}}
    facts.write_description(str(run), found | {"bound": 0.28431, "test_error": 0.2})
    text = _page(run)
    step = recorded.read_all([str(run)])[0].step
    assert f"is of step 9, and the run has gone on to step {step:,}: describe it again" in text
    facts.write_description(str(run), found | {"bound": 0.28431, "test_error": 0.2, "step": step})
    text = _page(run)
    assert "describe it again" not in text
    assert _cells(text, "Bits, unit") == ["12,345"]
    assert _cells(text, "Origin of the file") == ["0012345.lconv"]
    assert _cells(text, "Bound on the error on new data") == ["28.44%"]
    assert _cells(text, "Test error of the file's network".replace("'", "&#39;")) == ["20.00%"]


@pytest.mark.slow
def test_curves_are_the_metrics(finished):
    directory, _, summary = finished
    logged = recorded.read_all([str(directory)])[0].metrics
    wanted = {
        name: dict(
            zip(*map(list, metrics.column(metrics.read_metrics(directory), name)), strict=True)
        )
        for name in summary["metrics"]
        if name != "step"
    }
    assert logged == wanted
    accuracy, loss, *_ = _specs(_page(directory))
    for spec, kind in ((accuracy, "accuracy"), (loss, "loss")):
        (rows,) = spec["datasets"].values()
        for index, split in enumerate(("eval", "validation", "train")):
            drawn = {row["step"]: row[f"v{index}"] for row in rows if f"v{index}" in row}
            assert drawn == wanted[f"{split}/{kind}"]


@pytest.mark.slow
def test_classes_add_up_to_the_accuracy(finished):
    directory, _, summary = finished
    text = _page(directory)
    last = summary["metrics"]
    for occurrence, name in enumerate(("eval", "validation")):
        shares, sizes = [], []
        for digit in range(10):
            share, examples = _cells(text, str(digit), occurrence)[:2]
            shares.append(float(share.rstrip("%")) / 100)
            sizes.append(int(examples))
        assert np.dot(shares, sizes) / sum(sizes) == pytest.approx(
            last[f"{name}/accuracy"], abs=1e-4
        )
    # The matrix, the third table with a row for a class: its diagonal is what was found.
    matrix = [[int(c or 0) for c in _cells(text, str(digit), 2)] for digit in range(10)]
    right = last["eval/accuracy"] * sum(map(sum, matrix))
    assert np.trace(matrix) == pytest.approx(right)


@pytest.mark.slow
def test_filters_are_of_the_newest_checkpoint(finished):
    directory, _, summary = finished
    (run,) = recorded.read_all([str(directory)])
    assert run.step == summary["metrics"]["step"]
    for name, kernel in run.kernels.items():
        assert np.count_nonzero(kernel) == summary["metrics"][f"sparsity/{name}/nonzeros"]
    text = _page(directory, most_filters=7)
    assert text.count('aria-label="Enlarge filter') == 7
    assert _page(directory, most_filters=0).count('aria-label="Enlarge filter') == 0
    assert analysis.locality(run.first, (8, 8, 1)).ratio == summary["locality"][0]["ratio"]


@pytest.mark.slow
def test_several_runs_show_the_keys_that_differ_and_no_others(finished, run):
    stored = json.loads((run / "config.json").read_text())
    stored["config"]["optimizer"]["beta"] = 12.5
    stored["config"]["seed"] = 4
    (run / "config.json").write_text(json.dumps(stored))
    text = _page(finished[0], run)
    section = re.search(r'<section id="differ">.*?</section>', text, re.DOTALL)[0]
    rows = re.findall(r'<th scope="row">(.*?)</th>', section)
    assert rows == ["optimizer.beta", "seed"]
    assert _cells(section, "optimizer.beta") == ["10.0", "12.5"]
    assert 'id="differ"' not in _page(finished[0])


def test_runs_of_one_name_are_told_apart():
    assert recorded.labels(["/a/x/run", "/a/y/run"]) == ["x/run", "y/run"]
    assert recorded.labels(["/a/x/run", "/a/y/other"]) == ["run", "other"]
    assert recorded.labels(["/run"]) == ["run"]


@pytest.mark.slow
def test_permuted_pixels_are_back_in_their_places(tmp_path):
    config = tiny_config.get_config()
    config.train.epochs = 1
    config.data.permute = 2
    summary = train.train_and_evaluate(config, tmp_path)
    (run,) = recorded.read_all([str(tmp_path)])
    assert analysis.locality(run.first, (8, 8, 1)).ratio == summary["locality"][0]["ratio"]
    (tmp_path / "data.json").unlink()
    (run,) = recorded.read_all([str(tmp_path)])
    assert run.image_shape is None
    assert any("permuted" in note and "data.json" in note for note in run.notes)


def _digests(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_a_run_is_read_and_not_changed(run):
    newest = max(int(path.name) for path in (run / "checkpoints").iterdir())
    digests = run / "checkpoints" / str(newest) / "digests" / "metadata"
    stored = json.loads(digests.read_text())
    stored[".params['conv1']['kernel']"] = "0" * 64
    digests.write_text(json.dumps(stored))
    before = _digests(run)
    text = _page(run)
    assert _digests(run) == before
    # The damaged checkpoint is named, and the one before it is shown.
    assert re.search(rf"checkpoint \S+/{newest} cannot be read.*conv1", text)
    (read,) = recorded.read_all([str(run)])
    assert 0 < read.step < newest


def _begin(run):
    """Leaves what a run has that was killed before its first checkpoint."""
    shutil.rmtree(run / "checkpoints")
    for name in ("summary.json", "sessions.json", "confusion.json", "filters.png"):
        (run / name).unlink()


@pytest.mark.slow
def test_a_run_that_has_just_begun_says_what_is_missing(run):
    _begin(run)
    whole = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(whole[:5]) + whole[5][:9])  # torn by a kill
    text = _page(run)
    assert "There is no summary.json: the run is not finished." in text
    assert "There is no checkpoint" in text
    total = json.loads((run / "data.json").read_text())["num_examples"]["train"] // 128 * 12
    assert _cells(text, "State") == [f"not finished: step 5 of {total}"]
    (run / "metrics.jsonl").write_bytes(b"")
    (run / "data.json").unlink()
    text = _page(run)
    assert "metrics.jsonl has no line that can be read" in text
    assert _specs(text) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("summary.json", b"{", r"summary\.json, line 1: this is no JSON"),
        ("description.json", b'{"network": "a"}', r"description\.json: it has no 'step'"),
        ("metrics.jsonl", b'{"step": 1}\nxx\n{"step": 3}\n', r"metrics\.jsonl, line 2 is damaged"),
        ("sessions.json", b'{"from": 0}', r"sessions\.json: it must be a list"),
        ("confusion.json", b'{"step": 1, "splits": {"test": [[1, 2]]}}', r"confusion\.json: test"),
        ("data.json", b"[]", r"data\.json: it must be an object"),
        ("diverged.json", b'{"message": "step 7: not finite"}', r"cannot go on: step 7"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(run, name, contents, said):
    (run / name).write_bytes(contents)
    text = html.unescape(_page(run))
    assert re.search(said, text)
    assert 'aria-label="Enlarge filter' in text


@pytest.mark.slow
def test_a_run_from_before_there_were_such_files_is_shown_by_its_data(run, finished):
    for name in ("data.json", "confusion.json"):
        (run / name).unlink()
    text = _page(run)
    assert text.count('aria-label="Enlarge filter') > 8
    assert "There is no confusion.json" in text
    assert "Accuracy by class is not known" in text
    same = "Test accuracy", "Locality ratio"
    assert [_cells(text, row) for row in same] == [_cells(_page(finished[0]), row) for row in same]


@pytest.mark.slow
def test_metrics_that_were_cut_are_said_to_be(run):
    whole = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(whole[:20]))
    end = json.loads((run / "summary.json").read_text())["metrics"]["step"]
    assert re.search(rf"metrics\.jsonl ends at step \d+ of {end}", _page(run))


def test_a_folder_that_is_no_run_is_one_error(tmp_path, finished):
    with pytest.raises(ConfigError, match=r"has no config\.json: it is not the --workdir of a run"):
        recorded.read_all([str(finished[0]), str(tmp_path)])
    with pytest.raises(ConfigError, match="is no folder; give the --workdir"):
        recorded.read_all([str(tmp_path / "gone")])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StoredError, match=r"config\.json"):
        recorded.read_all([str(tmp_path)])


@pytest.mark.slow
def test_no_text_of_a_run_is_taken_for_html(run):
    text = _page(make_hostile(run))
    assert "<img src=x" not in text
    assert "<script>window.hostile" not in text
    assert "<script>hostile" not in text
    assert "49" not in re.findall(r"<h1>.*?</h1>", text)[0]
    assert html.escape(HOSTILE, quote=False).split("'")[0] in text
    # The data of the charts, the library, the page's own; none more.
    assert len(re.findall("<script", text)) == 3


@pytest.mark.slow
def test_the_page_names_nothing_to_load(finished):
    text = _page(finished[0])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)[1]
    assert html.unescape(policy).startswith("default-src 'none'; script-src 'sha256-")
    for target in re.findall(r'(?:src|href|data-\w+)="([^"]*)"', text):
        assert not re.match(r"\w+:|//", target) or target.startswith("data:"), target
    ids = set(re.findall(r' id="([^"]+)"', text))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= ids


@pytest.mark.slow
def test_many_classes_are_a_list_of_confusions(run):
    counts = [[label, label, 8] for label in range(300)] + [[7, 9, 5], [9, 7, 3]]
    record = {"step": 3, "splits": {"test": counts}}
    (run / "confusion.json").write_text(json.dumps(record))
    text = _page(run)
    assert "matrix" not in re.findall(r"<table class=\"(.*?)\"", text)
    assert _cells(text, "7", 0)[0] == f"{8 / 13:.2%}"
    assert _cells(text, "7", 1) == ["9", "5", f"{5 / 13:.1%}"]
    assert "2,400 of 2,408 examples are found" in text


def _command(*arguments, code=""):
    program = [*("-c", code), *arguments] if code else ["-m", "lconv_jax.report", *arguments]
    return subprocess.run(
        [sys.executable, *program], capture_output=True, text=True, timeout=300, cwd=os.getcwd()
    )


@pytest.mark.slow
def test_the_command_writes_the_page_or_one_line(finished, tmp_path):
    out = tmp_path / "report.html"
    done = _command(str(finished[0]), f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert f"{out}: 1 run," in done.stdout
    text = out.read_text()
    assert "vegaEmbed=" in text
    assert text.rstrip().endswith("</html>")
    failed = _command(str(tmp_path), f"--out={out}")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "it is not the --workdir of a run" in failed.stderr


@pytest.mark.slow
def test_reading_runs_never_loads_the_training_loop():
    code = "import sys, lconv_jax.report.page; sys.exit('lconv_jax.train' in sys.modules)"
    assert _command(code=code).returncode == 0


@pytest.mark.parametrize("name", ["altair", "vl_convert", "jinja2"])
def test_a_missing_library_is_one_line_with_its_remedy(name, monkeypatch, finished):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "lconv_jax.report.page")
    with pytest.raises(ConfigError, match=rf"\({name}\); pip install 'lconv_jax\[report\]'"):
        __import__("lconv_jax.report.page")
