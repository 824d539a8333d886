"""The page: the contents and the words for runs, and the template."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lconv_jax import analysis
from lconv_jax import config as config_lib
from lconv_jax.errors import ConfigError
from lconv_jax.report import gallery
from lconv_jax.report.recorded import Recorded
from lconv_jax.tables import rounded_up

try:
    import altair  # noqa: F401, which `charts` imports
    import jinja2
    import markupsafe
    import vl_convert
except ImportError as error:
    raise ConfigError(
        f"the report needs packages that are not installed ({error.name}); "
        "pip install 'lconv_jax[report]'"
    ) from error

from lconv_jax.report import charts

_NONE = "–"
# Confusions are a matrix up to this number of classes, and a list of pairs beyond.
_MOST_CLASSES = 20
_MOST_PAIRS = 30
_SPLITS = {"test": "test set", "validation": "validation split"}
# The last digit is rounded up, so that the bound that is shown holds.
_BOUND = "bound"
_MDL = {
    "mdl/bits": ("Length of the network's file, bits", ",.0f"),
    "mdl/train_error": ("Training error of the decoded network", ".2%"),
    "mdl/kl_bound": ("Bound on the error on new data (kl)", _BOUND),
    "mdl/occam_bound": ("Bound on the error on new data (Occam)", _BOUND),
    "mdl/estimate_bits": ("Estimate of the length, bits: counted, nothing was encoded", ",.0f"),
    "mdl/estimate_bound": ("Estimate of the bound, from the last batch's error", ".2%"),
}


class Row(NamedTuple):
    """A line of a table: what it says, and the value of each run."""

    name: str
    cells: list[str]


class Matrix(NamedTuple):
    """Which classes the examples of each class were taken for, as shares of the class.

    Attributes:
      run: its number on the page.
      split: in words.
      classes: names, in order.
      cells: by label, the count and the share of each predicted class; empty for many classes.
      pairs: the most frequent mistakes: label, predicted class, count, share of the label's.
      total, right: number of examples, and of correctly classified examples.
    """

    run: int
    split: str
    classes: list[str]
    cells: list[list[tuple[int, float]]]
    pairs: list[tuple[str, str, int, float]]
    total: int
    right: int


def render(runs: Sequence[Recorded], *, most_filters: int = 64) -> str:
    """The page about some runs, as one HTML text that loads nothing.

    Args:
      runs: at least one.
      most_filters: first-layer filters that are shown of each run, at most.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lconv_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda count: _number(count, ",")
    source = functools.partial(environment.loader.get_source, environment)  # type: ignore[union-attr]
    found = {run.label: _locality(run) for run in runs}
    curves, layers = _curves(runs), _layer_curves(runs)
    scripts = [bundle(), source("page.js")[0]]
    galleries = [
        gallery.make(
            run.first,
            run.image_shape,
            most=most_filters,
            window=_window(run, found[run.label]),
        )
        if run.first is not None and run.image_shape is not None
        else None
        for run in runs
    ]
    specs = [chart.spec for chart in (*curves, *layers)]
    return environment.get_template("page.html").render(
        title=runs[0].label if len(runs) == 1 else f"{len(runs)} runs",
        runs=runs,
        style=markupsafe.Markup(source("page.css")[0]),
        scripts=[markupsafe.Markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts],
        specs=specs,
        colour=charts.colour,
        dash=charts.dash,
        glance=_glance(runs, found),
        differing=_differing(runs),
        settings=_settings(runs),
        data=_data(runs),
        curves=curves,
        layers=layers,
        layer_rows=[_layer_rows(run) for run in runs],
        galleries=galleries,
        localities=[found[run.label] for run in runs],
        mdl=_described(runs),
        codes=_codes(runs),
        per_class=_per_class(runs),
        matrices=_matrices(runs),
        numbers=range(len(runs)),
        number=_number,
    )


@functools.cache
def bundle() -> str:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed, which takes seconds to put together."""
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]


def _hash(script: str) -> str:
    """The name of a script that may run, for the page's security policy."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _total_steps(run: Recorded) -> int | None:
    per_epoch = run.steps_per_epoch
    return per_epoch * run.config["train.epochs"] if per_epoch else None


def _state(run: Recorded) -> str:
    if run.finished:
        return f"finished, {run.last_step:,} steps"
    total = _total_steps(run)
    of = f" of {total:,}" if total else ""
    return f"{'diverged' if run.diverged else 'not finished'}: step {run.last_step:,}{of}"


def _number(value: Any, form: str) -> str:
    if not _is_number(value):
        return _NONE
    if form == _BOUND:
        return f"{rounded_up(value):.2%}"
    return f"{value:{form}}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _rows(runs: Sequence[Any], lines: Mapping[str, Callable[[Any], str]]) -> list[Row]:
    """The lines of a table in which some run has a value."""
    rows = [Row(name, [cell(run) for run in runs]) for name, cell in lines.items()]
    return [row for row in rows if any(cell != _NONE for cell in row.cells)]


def _last(name: str, form: str) -> Callable[[Recorded], str]:
    return lambda run: _number(run.last.get(name), form)


def _glance(runs: Sequence[Recorded], found: Mapping[str, list[dict[str, Any]]]) -> list[Row]:
    def locality(run: Recorded) -> str:
        ratios = [entry.get("ratio") for entry in found[run.label]]
        return " / ".join(f"{ratio:.2f}" for ratio in ratios if _is_number(ratio)) or _NONE

    def nonzeros(run: Recorded) -> str:
        last = run.last
        counts = [v for name, v in last.items() if _layer_of(name)]
        return f"{sum(counts):,}" if counts else _NONE

    return _rows(
        runs,
        {
            "State": _state,
            "Test accuracy": _last("eval/accuracy", ".2%"),
            "Validation accuracy": _last("validation/accuracy", ".2%"),
            "Training accuracy, last batch": _last("train/accuracy", ".2%"),
            "Weights that are not zero": nonzeros,
            "Share of all weights": _last("sparsity/density", ".2%"),
            "Locality ratio": locality,
            "File of the network, bits": _last("mdl/bits", ",.0f"),
            "Bound on the error (kl)": _last("mdl/kl_bound", ".2%"),
            "Network": lambda run: f"{run.config['model.name']}, α = {run.config['model.alpha']}",
            "Method": lambda run: str(run.config["optimizer.name"]),
            "Data": lambda run: str(run.config["data.name"]),
            "Seed": lambda run: str(run.config["seed"]),
            "Time": lambda run: _time(run.last.get("time/seconds")),
        },
    )


def _time(seconds: Any) -> str:
    if not _is_number(seconds):
        return _NONE
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _differing(runs: Sequence[Recorded]) -> list[Row]:
    """The keys of the configuration in which runs differ."""
    names = sorted({name for run in runs for name in run.config})
    rows = [Row(name, [_brief(run.config.get(name)) for run in runs]) for name in names]
    values = [[json.dumps(run.config.get(name)) for run in runs] for name in names]
    return [row for row, each in zip(rows, values, strict=True) if len(set(each)) > 1]


def _settings(runs: Sequence[Recorded]) -> list[tuple[Row, list[bool]]]:
    """All keys, and of each run whether the value is another than the default."""
    found = []
    for name in dict.fromkeys(name for run in runs for name in run.config):
        default = config_lib.KEYS[name].default if name in config_lib.KEYS else None
        values = [run.config.get(name) for run in runs]
        row = Row(name, [_brief(value) for value in values])
        found.append((row, [value != default for value in values]))
    return found


def _brief(value: Any) -> str:
    if isinstance(value, str):
        return config_lib.brief(value) if value else "(empty)"
    return config_lib.brief(value)


def _data(runs: Sequence[Recorded]) -> list[Row]:
    def fact(read: Callable[[Mapping[str, Any]], str]) -> Callable[[Recorded], str]:
        return lambda run: read(run.facts) if run.facts is not None else _NONE

    def examples(facts: Mapping[str, Any]) -> str:
        counts = facts["num_examples"].items()
        return ", ".join(f"{count:,} {name}" for name, count in counts if count)

    return _rows(
        runs,
        {
            "Source": lambda run: str(run.config["data.name"]),
            "Surrogate": lambda run: str(run.config["data.surrogate"] or "no"),
            "Name": fact(lambda facts: facts["name"]),
            "Examples": fact(examples),
            "Shape of an example": fact(
                lambda facts: " × ".join(str(side) for side in facts["image_shape"])
            ),
            "Classes": fact(lambda facts: f"{facts['num_classes']:,}"),
            "Pixels permuted": lambda run: "yes" if run.config["data.permute"] else "no",
            "SHA-256 of the data": lambda run: run.data_sha256,
        },
    )


def _curves(runs: Sequence[Recorded]) -> list[charts.Chart]:
    """Of one run, a chart of each kind of metric; of several, a chart of each metric."""

    def series(run: Recorded, name: str, label: str, style: int) -> charts.Series:
        return charts.Series(label, style, run.metrics.get(name, {}), run.steps_per_epoch)

    kinds = {"accuracy": ("Accuracy", ".2%"), "loss": ("Loss", ".4f")}
    splits = {"eval": "test", "validation": "validation", "train": "training, each batch"}
    found: list[charts.Chart | None] = []
    for kind, (title, form) in kinds.items():
        if len(runs) == 1:
            lines = [
                series(runs[0], f"{split}/{kind}", name, style)
                for style, (split, name) in enumerate(splits.items())
            ]
            found.append(charts.make(title, lines, form=form))
            continue
        for split, name in splits.items():
            lines = [series(run, f"{split}/{kind}", run.label, i) for i, run in enumerate(runs)]
            found.append(charts.make(f"{title}: {name}", lines, form=form))
    more = (
        ("Share of weights that are not zero", "sparsity/density", ".2%"),
        ("Bound on the error (kl)", "mdl/kl_bound", ".2%"),
        ("Length of the network's file, bits", "mdl/bits", ",.0f"),
        ("Learning rate", "train/learning_rate", ".4f"),
    )
    for title, name, form in more:
        lines = [series(run, name, run.label, i) for i, run in enumerate(runs)]
        found.append(charts.make(title, lines, form=form, log=name.startswith(("spar", "mdl/b"))))
    return [chart for chart in found if chart is not None]


def _layer_of(name: str) -> str:
    """The layer whose non-zeros a metric counts; empty for another metric."""
    if name.startswith("sparsity/") and name.endswith("/nonzeros"):
        return name[len("sparsity/") : -len("/nonzeros")]
    return ""


def _layers(run: Recorded) -> list[str]:
    """The layers of a run from the image to the logits, as far as their names show it."""
    names = list(run.kernels) or [layer for name in run.metrics if (layer := _layer_of(name))]
    return sorted(names, key=lambda name: (name != "conv1", name.startswith("fc")))


def _layer_curves(runs: Sequence[Recorded]) -> list[charts.Chart]:
    """Non-zeros: of one run a chart with all layers, of several a chart a layer."""

    def series(run: Recorded, layer: str, label: str, style: int) -> charts.Series:
        values = run.metrics.get(f"sparsity/{layer}/nonzeros", {})
        return charts.Series(label, style, values, run.steps_per_epoch)

    found: list[charts.Chart | None] = []
    if len(runs) == 1:
        lines = [series(runs[0], layer, layer, i) for i, layer in enumerate(_layers(runs[0]))]
        found.append(charts.make("Weights that are not zero", lines, form=",", log=True))
    else:
        for layer in dict.fromkeys(layer for run in runs for layer in _layers(run)):
            lines = [series(run, layer, run.label, i) for i, run in enumerate(runs)]
            found.append(charts.make(layer, lines, form=",", log=True))
    return [chart for chart in found if chart is not None]


def _layer_rows(run: Recorded) -> list[tuple[str, str, str, str]]:
    """Layer, weights, non-zeros and their share, at the last step that is known."""
    sizes: dict[str, Any] = {name: kernel.size for name, kernel in run.kernels.items()}
    if not sizes and run.summary is not None:
        stored = run.summary.get("weights")
        sizes = stored if isinstance(stored, dict) else {}
    rows = []
    for layer in _layers(run):
        count, size = run.last.get(f"sparsity/{layer}/nonzeros"), sizes.get(layer)
        share = count / size if count is not None and _is_number(size) and size else None
        rows.append((layer, _number(size, ","), _number(count, ","), _number(share, ".2%")))
    return rows


def _locality(run: Recorded) -> list[dict[str, Any]]:
    """As the summary has it; without one, as the first layer of the newest checkpoint has it."""
    if run.summary is not None and isinstance(run.summary.get("locality"), list):
        return [each for each in run.summary["locality"] if isinstance(each, dict)]
    if run.first is None or run.first.ndim != 2 or run.image_shape is None:
        return []
    found = [analysis.locality(run.first, run.image_shape, min_nonzeros=n) for n in (1, 10)]
    return [each._asdict() for each in found if each.units]


def _window(run: Recorded, found: Sequence[Mapping[str, Any]]) -> int | None:
    """The side of the windows that shares are of."""
    if run.first is None or run.first.ndim != 2:
        return None
    sides = [each["window"] for each in found if type(each.get("window")) is int]
    return sides[0] if sides and sides[0] > 0 else None


def _codes(runs: Sequence[Recorded]) -> list[Row]:
    """The numbers of description.json: bits by code, and the bound of the file that it wrote."""

    def bits(code: str) -> Callable[[Recorded], str]:
        def cell(run: Recorded) -> str:
            row = (run.description or {"codes": {}})["codes"].get(code)
            return _number(row and row["bits"], ",")

        return cell

    def found(name: str, form: str) -> Callable[[Recorded], str]:
        return lambda run: _number((run.description or {}).get(name), form)

    def origin(run: Recorded) -> str:
        # The file's own name: the whole path is the directory of the run.
        return os.path.basename(run.description["network"]) if run.description else _NONE

    codes = dict.fromkeys(
        code for run in runs if run.description for code in run.description["codes"]
    )
    lines = {"Origin of the file": origin} | {f"Bits, {code}": bits(code) for code in codes}
    return _rows(
        runs,
        lines
        | {
            "Weights of it that are not zero": found("nonzeros", ","),
            "Bound on the error on new data": found("bound", _BOUND),
            "Test error of the file's network": found("test_error", ".2%"),
        },
    )


def _described(runs: Sequence[Recorded]) -> list[Row]:
    names = dict.fromkeys(name for run in runs for name in run.last if name.startswith("mdl/"))
    names = dict.fromkeys([*(name for name in _MDL if name in names), *names])
    known = {name: _MDL.get(name, (name, ",.6g")) for name in names}
    return _rows(runs, {title: _last(name, form) for name, (title, form) in known.items()})


def _names(run: Recorded, counts: Sequence[Sequence[int]]) -> dict[int, str]:
    """The names of the classes that occur; numbers, where they have no names."""
    listed = (run.facts or {}).get("class_names")
    names = listed if isinstance(listed, list) else []
    there = sorted({number for row in counts for number in row[:2]})
    return {at: str(names[at]) if at < len(names) else str(at) for at in there}


def _per_class(runs: Sequence[Recorded]) -> list[tuple[str, list[tuple[str, list[Any]]]]]:
    """Of each split, by class, for each run: examples, share that was found; None if not known."""
    found = []
    for split, words in _SPLITS.items():
        classes: dict[int, str] = {}
        columns = []
        for run in runs:
            counts = run.confusion["splits"].get(split, []) if run.confusion else []
            classes = _names(run, counts) | classes
            totals: dict[int, int] = {}
            right: dict[int, int] = {}
            for label, answer, examples in counts:
                totals[label] = totals.get(label, 0) + examples
                right[label] = right.get(label, 0) + examples * (label == answer)
            columns.append(
                {at: (totals[at], right[at] / totals[at]) for at in totals if totals[at]}
            )
        rows = [(classes[at], [each.get(at) for each in columns]) for at in sorted(classes)]
        if rows:
            found.append((words, rows))
    return found


def _matrices(runs: Sequence[Recorded]) -> list[Matrix]:
    found = []
    for number, run in enumerate(runs):
        for split, counts in run.confusion["splits"].items() if run.confusion else ():
            names = _names(run, counts)
            by_pair: dict[tuple[int, int], int] = {}
            totals = dict.fromkeys(names, 0)
            for label, answer, examples in counts:
                by_pair[label, answer] = by_pair.get((label, answer), 0) + examples
                totals[label] += examples

            def share(label: int, answer: int, by_pair: Any = by_pair, totals: Any = totals) -> Any:
                count = by_pair.get((label, answer), 0)
                return count, count / totals[label] if totals[label] else 0.0

            few = len(names) <= _MOST_CLASSES
            cells = [[share(label, answer) for answer in names] for label in names] if few else []
            wrong = sorted(
                (-count, *pair) for pair, count in by_pair.items() if pair[0] != pair[1] and count
            )
            pairs = [(names[a], names[b], *share(a, b)) for _, a, b in wrong[:_MOST_PAIRS]]
            right = sum(by_pair.get((at, at), 0) for at in names)
            words = _SPLITS.get(split, split)
            total = sum(totals.values())
            found.append(Matrix(number, words, [*names.values()], cells, pairs, total, right))
    return found
