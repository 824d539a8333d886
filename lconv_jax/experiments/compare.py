"""The bench: regularisers and sparse training, tuned alike and compared at equal density.

    python -m lconv_jax.experiments.compare --data=fashion_mnist --seeds=3
    python -m lconv_jax.experiments.compare --data=cifar10 --data_dir=FILE.npz --methods=rigl,snip

All methods train the same network on the same data, with plain SGD inside, one schedule and one
augmentation. Each has the same number of settings, chosen from by examples held out; the test set
is read once, by the chosen ones. β-lasso comes first: its density in each layer is the one that
methods with masks are given. Networks of methods that never make a weight zero, or make fewer, are
also cut: in each layer the largest weights stay, as many as β-lasso has. So all are counted by one
rule, a weight counts if it is not exactly 0.0, and at one density.

Arms that separate causes have a β-lasso network's support and no penalty: with its weights, with
its initial weights, with weights drawn anew, and shuffled, so that each unit and each pixel keeps
its number of weights.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from numpy.typing import NDArray

from lconv_jax import analysis, models
from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import fields, new_figure, save
from lconv_jax.optim import top_k_mask
from lconv_jax.optim.registry import METHODS as REGISTRY
from lconv_jax.rundir import metrics
from lconv_jax.tables import markdown
from lconv_jax.training import lanes, programs, rng
from lconv_jax.training.exporting import describe, restore


class Bench(NamedTuple):
    """A data set of the bench, and the size of its runs."""

    config: str  # file under configs/, for "sgd"
    changes: Mapping[str, Any]
    validation: int
    l1: tuple[float, float]  # λ of conv and fc about which the grids are


_FASHION = {"model.alpha": 4, "train.epochs": 40}
# λ is meant for the run itself: nothing is rescaled.
BENCHES: dict[str, Bench] = {
    "fashion_mnist": Bench("sfc_fashion_mnist_full", _FASHION, 5_000, (2e-4, 1e-4)),
    "fashion_mnist_5000": Bench(
        "sfc_fashion_mnist_full",
        {**_FASHION, "data.examples": 5_000, "train.epochs": 200},
        500,
        (4e-4, 2e-4),
    ),
    "fashion_mnist_small": Bench(
        "sfc_fashion_mnist", {**_FASHION, "train.epochs": 100}, 1_000, (4e-4, 2e-4)
    ),
    "cifar10": Bench(
        "sfc_cifar10",
        {
            **{"model.alpha": 4, "model.dtype": "float32", "train.epochs": 60},
            **{"data.cutout": 0, "data.cutout_fill": 0},
        },
        5_000,
        (1e-4, 4e-5),
    ),
    "mnist1d": Bench("sfc_mnist1d", {}, 500, (1e-3, 5e-4)),
    "words": Bench("sfc_words", {}, 4_000, (4e-4, 2e-4)),
    # To see the code run: the numbers mean nothing.
    "digits": Bench(
        "sfc_fashion_mnist",
        {
            **{"data.name": "digits", "model.alpha": 2, "train.epochs": 4, "train.batch_size": 128},
            **{"data.crop": 1, "checkpoint.every_epochs": 4, "log.eval_every_epochs": 4},
        },
        100,
        (4e-3, 2e-3),
    ),
}
_INNER = {
    **{"optimizer.learning_rate": 1.0, "optimizer.momentum": 0.0, "optimizer.weight_decay": 0.0},
    "optimizer.reference_lr_sum": 0.0,
}
# The settings of a method, four each; λ are multiples of the bench's.
_SGD = {"optimizer.learning_rate": (0.3, 1.0), "optimizer.weight_decay": (0.0, 5e-4)}
_LAMBDA = {"optimizer.l1.conv": (0.5, 2.0), "optimizer.l1.fc": (0.5, 2.0)}
# An open gate costs λ whatever the size of its weight.
_GATES = {"optimizer.l1.conv": (0.002, 0.03), "optimizer.l1.fc": (0.002, 0.03)}
REFERENCE = "beta_lasso"
GRIDS: dict[str, Mapping[str, Sequence[float]]] = {
    REFERENCE: _LAMBDA,
    **dict.fromkeys(("l1_subgradient", "proximal_l1", "elastic_net", "spred"), _LAMBDA),
    **{"reweighted_l1": _LAMBDA, "group_lasso": _LAMBDA, "hard_concrete": _GATES},
    "sgd": _SGD,
    **dict.fromkeys(
        ("magnitude_pruning", "saliency_pruning", "snip", "lottery_ticket", "random_masks"), _SGD
    ),
    **dict.fromkeys(("sparse_evolution", "rigl"), _SGD),
}
# Of β-lasso's networks: its threshold without the penalty, and networks on its support.
ARMS = (
    *("threshold_alone", "support_tuned"),
    *("support_refit", "support_anew", "support_shuffled"),
)
METHODS = (*GRIDS, *ARMS)
_ANEW = 10_000  # added to the seed of weights that are drawn anew


class Cell(NamedTuple):
    """A run: a method or an arm, and a seed."""

    method: str
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory."""
        return f"{self.method}, seed {self.seed}"


class Study(NamedTuple):
    """What the command works on."""

    bench: str  # a key of BENCHES
    model: str = "s_fc"
    data_dir: str = ""
    runs_dir: str = "runs/compare"
    results: str = "docs/results/compare"

    def file(self, what: str = "") -> str:
        """The file of kept results, or of the settings chosen."""
        return os.path.join(self.results, f"{self.bench}-{self.model}{what}.json")

    def folder(self, what: str) -> str:
        """The folder of run directories."""
        return os.path.join(self.runs_dir, f"{self.bench}-{self.model}", what)


def cells(methods: Iterable[str] = METHODS) -> list[Cell]:
    """The methods, β-lasso first: densities and supports are its."""
    return [Cell(REFERENCE)] + [Cell(method) for method in methods if method != REFERENCE]


def base_config(study: Study, method: str, changes: Mapping[str, Any]) -> Any:
    """The configuration of a method before its settings are chosen."""
    bench = BENCHES[study.bench]
    conv, fc = bench.l1
    return runs.get_config(
        bench.config,
        "sgd",
        changes={
            **bench.changes,
            **_INNER,
            **{"model.name": study.model, "data.data_dir": study.data_dir},
            **{"optimizer.name": method, "optimizer.l1.conv": conv, "optimizer.l1.fc": fc},
            **({"optimizer.l2": fc} if method == "elastic_net" else {}),
            **changes,
        },
    )


def grid_of(study: Study, method: str) -> dict[str, Sequence[float]]:
    """The grid of a method, with λ as numbers."""
    scale = dict(zip(_LAMBDA, BENCHES[study.bench].l1, strict=True))
    return {
        key: [scale.get(key, 1.0) * each for each in values]
        for key, values in GRIDS[method].items()
    }


def densities(result: Mapping[str, Any]) -> dict[str, float]:
    """The density of each layer of a finished run."""
    last = result["metrics"]
    return {
        layer: last[f"sparsity/{layer}/nonzeros"] / size
        for layer, size in result["weights"].items()
    }


def written(found: Mapping[str, float]) -> str:
    """Densities by layer, as `optimizer.distribution` takes them; at least one weight stays."""
    return ",".join(f"{layer}={max(value, 1e-9):.9g}" for layer, value in found.items())


def settings_of(study: Study, method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is changed for a method: its chosen settings, and the given densities."""
    held_out = {"data.validation": BENCHES[study.bench].validation, "log.test": "never"}
    config = base_config(study, method, {**given, **held_out})
    found = runs.choose(
        *(method, config, grid_of(study, method)),
        *(study.folder("choices"), study.file("-choices")),
    )
    return {**given, **found["changes"]}


def config_of(study: Study, cell: Cell) -> Any:
    """The configuration of a run, with what it takes from β-lasso's run of the same seed.

    Raises:
      ValueError: it needs a result of β-lasso that is not there.
    """
    last = {"seed": cell.seed, "log.test": "end"}
    if cell.method == REFERENCE:
        changes = settings_of(study, REFERENCE, {})
        return base_config(study, REFERENCE, {**changes, **last})
    twin = Cell(REFERENCE, cell.seed)
    kept = runs.kept(study.file(), [Cell(REFERENCE), twin])
    if twin not in kept:
        raise ValueError(f"{cell} needs the result of {twin}, which {study.file()} does not have")
    if cell.method == "threshold_alone":
        # The threshold β·λ stays as λ goes to zero.
        tiny, effective = 1e-12, kept[twin]["effective"]
        beta = effective["l1.conv * beta"] / tiny
        ratio = effective["l1.fc * beta"] / effective["l1.conv * beta"]
        changes = {
            "optimizer.beta": beta,
            "optimizer.l1.conv": tiny,
            "optimizer.l1.fc": tiny * ratio,
        }
        return base_config(study, REFERENCE, {**changes, **last})
    if cell.method in ARMS:
        changes = {"optimizer.masks": write_support(study, cell)}
        if cell.method == "support_tuned":
            changes["train.start"] = os.path.join(study.folder("runs"), str(twin))
        elif cell.method != "support_refit":
            last["seed"] = cell.seed + _ANEW
        return base_config(study, "fixed_masks", {**changes, **last})
    given = {}
    if REGISTRY[cell.method].masked:
        # One choice of settings serves all seeds, at the densities of seed 0.
        given = {"optimizer.distribution": written(densities(kept[Cell(REFERENCE)]))}
    return base_config(study, cell.method, {**settings_of(study, cell.method, given), **last})


def write_support(study: Study, cell: Cell) -> str:
    """Writes the support of β-lasso's network, shuffled if the arm says so; returns the path."""
    _, state, _ = restore(os.path.join(study.folder("runs"), str(Cell(REFERENCE, cell.seed))))
    masks = {name: np.asarray(kernel) != 0 for name, kernel in models.kernels(state.params).items()}
    if cell.method == "support_shuffled":
        random = np.random.default_rng(cell.seed)
        masks = {
            name: analysis.shuffle_support(mask.reshape(-1, mask.shape[-1]), random).reshape(
                mask.shape
            )
            for name, mask in masks.items()
        }
    return runs.write_masks(study.folder("supports"), masks)


def cut(kernel: NDArray[Any], density: float) -> NDArray[Any]:
    """A layer's weights with zeros for all but its largest, as many as the density says."""
    count = max(1, round(density * kernel.size))
    return np.where(np.asarray(top_k_mask(np.abs(kernel), count)), kernel, 0)


def measure(run_dir: str, reference: Mapping[str, float] | None) -> dict[str, Any]:
    """What is kept of a run beside its last metrics.

    Args:
      run_dir: of a finished run.
      reference: the density of each layer to which its network is cut; None: it is not.

    Returns:
      "flops": of a test and of the training, dense and sparse; "bytes" that its training program
      takes; "description": the shortest file of its network, rounded, and what it proves; and
      "cut": test accuracy, density, locality and description of the network that was cut.
    """
    setup, state, step = restore(run_dir)
    config, dataset = setup.config, setup.dataset
    kernels = {name: np.asarray(kernel) for name, kernel in models.kernels(state.params).items()}
    sizes = {name: kernel.size for name, kernel in kernels.items()}
    uses = models.count_uses(
        *(config.model.name, config.model.alpha, dataset.image_shape, dataset.num_classes),
        config.model.kernel_size,
    )
    nonzeros = {name: np.count_nonzero(kernel) for name, kernel in kernels.items()}
    dense = float(analysis.inference_flops(uses, sizes))
    lines = metrics.read_metrics(run_dir)
    method = REGISTRY[config.optimizer.name]
    options = {key: config.optimizer[key] for key in method.settings}
    total = setup.plan.total_steps
    counts = {}
    for name in kernels:
        at, values = metrics.column(lines, f"sparsity/{name}/nonzeros")
        # A step takes the weights that the step before has left.
        known = np.interp(np.arange(total), at, values)
        counts[name] = np.concatenate([[known[0] if method.masked else sizes[name]], known[:-1]])
    size = config.train.batch_size
    found: dict[str, Any] = {
        "flops": {
            "test": float(analysis.inference_flops(uses, nonzeros)),
            "test, dense": dense,
            "training": analysis.training_flops(
                uses, sizes, counts, batch_size=size, **method.cost(options, total)
            ),
            "training, dense": 3.0 * total * size * dense,
        },
        "bytes": lanes.bytes_needed(programs.compile_train_steps(setup)),
        "description": describe(setup, state),
    }
    if reference is not None:
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: (
                cut(np.asarray(leaf), reference[models.layer_name(path)])
                if path[-1].key == "kernel"
                else leaf
            ),
            state.params,
        )
        evaluate = programs.compile_evaluation(setup)
        key = rng.key_for(config.seed, rng.STATISTICS, step)
        train, test = jax.device_put((dataset.train, dataset.test))
        state = dataclasses.replace(state, params=params)
        tested = evaluate(state, train, test, key)
        smaller = models.kernels(params)
        first = smaller[models.first_layer(smaller)]
        found["cut"] = {
            "accuracy": tested["accuracy"],
            "density": sum(map(np.count_nonzero, smaller.values())) / sum(sizes.values()),
            "locality": analysis.locality(first, dataset.image_shape).ratio
            if first.ndim == 2
            else math.nan,
            "description": describe(setup, state),
        }
    return found


def row(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result that the table and the figure show, at its own density."""
    last, flops, cut = result["metrics"], result["flops"], result.get("cut")
    local = result["locality"][0]["ratio"] if result["locality"] else math.nan
    return {
        "accuracy": 100 * last["eval/accuracy"],
        "density": 100 * last["sparsity/density"],
        "locality": local,
        "test": 100 * flops["test"] / flops["test, dense"],
        "training": 100 * flops["training"] / flops["training, dense"],
        "kilobits": result["description"]["mdl/bits"] / 1000,
        "seconds": result["time/wall_seconds"],
        "MiB": result["bytes"] / 2**20,
        "accuracy, cut": 100 * cut["accuracy"] if cut else math.nan,
        "locality, cut": cut["locality"] if cut else math.nan,
        "kilobits, cut": cut["description"]["mdl/bits"] / 1000 if cut else math.nan,
    }


_FORMS = {
    **{"accuracy": ".2f", "density": ".2f", "locality": ".2f", "test": ".1f", "training": ".1f"},
    **{"kilobits": ".0f", "seconds": ".0f", "MiB": ".0f"},
    **{"accuracy, cut": ".2f", "locality, cut": ".2f", "kilobits, cut": ".0f"},
}


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """A Markdown row a method: mean ± standard deviation over seeds.

    Accuracy and density in %; FLOPs of a test and of the training in % of dense SGD's; the
    length of the shortest file of the rounded network. "Cut" is the network cut to β-lasso's
    number of weights in each layer.
    """
    rows = []
    for cell, found in runs.over_seeds(results).items():
        numbers = [row(each) for each in found]
        columns = [
            runs.spread([each[name] for each in numbers if not math.isnan(each[name])], form)
            for name, form in _FORMS.items()
        ]
        rows.append([cell.method, *columns, len(found)])
    return markdown(["method", *_FORMS, "seeds"], rows)


def draw(results: Mapping[Cell, Mapping[str, Any]], title: str, path: str) -> None:
    """Test accuracy against density, FLOPs of training and bits; a hollow mark is a cut network."""
    from matplotlib.ticker import LogFormatter  # here, so that a table loads no plotting

    figure, axes = new_figure(1, 3, (12.5, 4.6), sharey=True)
    groups = runs.over_seeds(results)
    for number, (cell, found) in enumerate(groups.items()):
        numbers = [row(each) for each in found]
        mean = {name: float(np.mean([each[name] for each in numbers])) for name in _FORMS}
        marker = "os^vD*Pp"[number // 10]
        style = {"color": f"C{number % 10}", "marker": marker, "linestyle": "none"}
        for axis, name in zip(axes, ("density", "training", "kilobits"), strict=True):
            axis.plot(mean[name], mean["accuracy"], label=cell.method, **style)
        if not math.isnan(mean["accuracy, cut"]):
            matched = 100 * float(np.mean([each["cut"]["density"] for each in found]))
            axes[0].plot(matched, mean["accuracy, cut"], fillstyle="none", **style)
    for axis, label in zip(
        axes, ("weights, %", "FLOPs of training, % of dense", "kilobits"), strict=True
    ):
        axis.set(xscale="log", xlabel=label)
        # Plain numbers, and more of them where the axis spans less than a decade.
        for set_formatter in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
            set_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes[0].set(ylabel="test accuracy, %", title=title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    save(figure, path)


def draw_filters(study: Study, found: Iterable[Cell], path: str) -> None:
    """Sixteen first-layer filters of each method's network, at β-lasso's density."""
    pictures = {}
    for cell in found:
        run_dir = os.path.join(study.folder("runs"), str(cell))
        setup, state, _ = restore(run_dir)
        kernel = np.asarray(models.kernels(state.params)["conv1"])
        if np.all(kernel):
            kept = runs.kept(study.file(), [Cell(REFERENCE)])[Cell(REFERENCE)]
            kernel = cut(kernel, densities(kept)["conv1"])
        filters = analysis.first_layer_filters(kernel, setup.dataset.image_shape)
        pictures[cell] = fields(analysis.choose_filters(filters, 16))
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = new_figure(rows, columns, (3.1 * columns, 3.3 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (cell, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(picture, interpolation="antialiased")
        axis.set_title(cell.method, fontsize=11)
    save(figure, path, dpi=120)


def _study(options: Any) -> Study:
    return Study(
        *(options.data, options.model, options.data_dir, options.runs_dir, options.results)
    )


def train_missing(options: Any) -> None:
    """Chooses settings, trains the missing runs in the order of `cells`, and measures them."""
    study = _study(options)
    first = base_config(study, "sgd", {})
    runs.require_data(first.data.name, first.data.data_dir)
    for cell in runs.with_seeds(cells(options.methods), options.seeds):
        config = config_of(study, cell)
        reference = None
        if cell.method in GRIDS and cell.method != REFERENCE and not REGISTRY[cell.method].masked:
            twin = Cell(REFERENCE, cell.seed)
            reference = densities(runs.kept(study.file(), [twin])[twin])
        runs.run_all(
            {cell: config},
            *(study.folder("runs"), study.file()),
            measure=functools.partial(measure, reference=reference),
        )


def show(options: Any) -> str:
    """The table; draws accuracy, and the filters of runs that are there."""
    study = _study(options)
    wanted = runs.with_seeds(cells(options.methods), runs.MOST_SEEDS)
    results = runs.kept(study.file(), wanted)
    if not results:
        return "Nothing is kept yet."
    name = f"compare-{study.bench}-{study.model}"
    draw(results, study.bench, os.path.join(options.figures, f"{name}.png"))
    drawn = [cell for cell in results if cell.seed == 0]
    text = table(results)
    if study.model.endswith("_fc"):

        def draw_all(folder: str, figures: str) -> None:
            draw_filters(study, drawn, os.path.join(figures, f"{name}-filters.png"))

        text += runs.draw_finished(draw_all, study.folder("runs"), options.figures, drawn)
    return text


def _define_flags() -> None:
    flags.DEFINE_enum("data", "fashion_mnist", list(BENCHES), "The data set.")
    flags.DEFINE_enum("model", "s_fc", list(models.NAMES), "The network.")


if __name__ == "__main__":
    runs.command(
        *(train_missing, show),
        runs_dir="runs/compare",
        results="docs/results/compare",
        seeds=3,
        data_dir="Where the set is: a folder of prepared sets, or an .npz file of this set.",
        some_of={"methods": METHODS},
        define_more=_define_flags,
    )
