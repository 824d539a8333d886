"""Does what β-lasso learns on one data set help on another: its places, its filters?

    python -m lconv_jax.experiments.transfer --data_dir=FOLDER_OF_CIFAR

s_fc learns on a set A under β-lasso. Then it is trained on few or more examples of B, by SGD:

- with the first layer's support of A and weights drawn anew, which is `support`;
- with a random support of as many weights: `counts` keeps each unit's number, `margins` that of
  each pixel too, `local` puts each unit's in a 9 × 9 window at a random place;
- with the windows of a convolution (`convolution`), and with all weights (`dense`);
- from the whole network of A, `tuned`, and with its first layer frozen, `frozen`.

The other layers are dense in all of them. Images are grey and 28 × 28, so that one network fits all
sets. Where A is B, the support is that of a network which has seen more examples of B.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lconv_jax import analysis, load_run, models
from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.experiments.fashion_mnist import LR_SUM
from lconv_jax.tables import markdown

SETS = {"fashion_mnist_small": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
PAIRS = (
    *(("fashion_mnist_small", "cifar10"), ("cifar10", "fashion_mnist_small")),
    *(("cifar10", "cifar100"), ("cifar100", "cifar10")),
    *(("fashion_mnist_small", "fashion_mnist_small"), ("cifar10", "cifar10")),
)
# Examples of B, with the epochs that make the runs of comparable length.
EXAMPLES = {500: 200, 5_000: 40}
ALONE = ("dense", "convolution")  # arms that have nothing of A
ARMS = (*ALONE, "counts", "margins", "local", "support", "tuned", "frozen")
_SHAPE = (28, 28, 1)
_LOOK = {"data.size": _SHAPE[0], "data.channels": _SHAPE[2], "data.crop": 3, "model.alpha": 4}
_LEARN = {
    **{"data.examples": 10_000, "train.epochs": 100, "log.test": "end"},
    **LR_SUM,
}
_TRAIN = {"train.batch_size": 100, "optimizer.weight_decay": 5e-4, "log.test": "end"}
_WINDOW = 9


class Cell(NamedTuple):
    """A run: of the first network, "learn", or of an arm; and a seed."""

    source: str  # A, a key of SETS; "" for the arms that have nothing of it
    target: str  # B; "" for the first network
    arm: str  # "learn" or one of ARMS
    examples: int = 0  # of B
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory."""
        names = [self.arm, self.source and f"from {self.source}"]
        names.append(self.target and f"{self.examples} of {self.target}")
        return ", ".join([*filter(None, names), f"seed {self.seed}"])


def cells(pairs: Iterable[tuple[str, str]] = PAIRS) -> list[Cell]:
    """What A teaches first, then the arms on B, each once."""
    found = []
    for (source, target), examples in itertools.product(pairs, EXAMPLES):
        found.append(Cell(source, "", "learn"))
        found += [
            Cell("" if arm in ALONE else source, target, arm, examples)
            for arm in ARMS
            if not (source == target and arm in ("tuned", "frozen"))
        ]
    return list(dict.fromkeys(found))


def config_of(cell: Cell, runs_dir: str, data_dir: str) -> Any:
    """The configuration of a run; its support is written below `runs_dir`."""
    name = cell.target or cell.source
    changes = {**_LOOK, "seed": cell.seed, "data.name": name}
    if name.startswith("cifar"):
        file = os.path.join(data_dir, f"{name}.npz")
        changes["data.data_dir"] = file if os.path.exists(file) else data_dir
    if cell.arm == "learn":
        return runs.get_config("sfc_fashion_mnist", changes={**changes, **_LEARN})
    changes |= {
        **{"data.examples": cell.examples, "train.epochs": EXAMPLES[cell.examples]},
        **_TRAIN,
    }
    learned = os.path.join(runs_dir, str(Cell(cell.source, "", "learn", seed=cell.seed)))
    if cell.arm in ("tuned", "frozen"):
        changes["train.start"] = learned
        changes["train.freeze"] = "conv1" if cell.arm == "frozen" else ""
    elif cell.arm != "dense":
        mask = convolution() if cell.arm == "convolution" else support(learned)
        if cell.arm in _SHUFFLED:
            mask = _SHUFFLED[cell.arm](mask, np.random.default_rng(cell.seed))
        folder = os.path.join(runs_dir, "supports")
        changes["optimizer.masks"] = runs.write_masks(folder, {"conv1": mask})
        changes["optimizer.name"] = "fixed_masks"
    return runs.get_config("sfc_fashion_mnist", "sgd", changes=changes)


def support(run_dir: str) -> NDArray[np.bool_]:
    """Which weights of a finished run's first layer are not zero, [inputs, units]."""
    return load_run(run_dir).params["conv1"]["kernel"] != 0


def convolution() -> NDArray[np.bool_]:
    """The windows of a convolution, as the support of the dense layer in its place."""
    nets: list[Any] = [
        models.create(name, alpha=_LOOK["model.alpha"], num_classes=2)
        for name in ("s_local", "s_fc")
    ]
    local, dense = nets
    variables = jax.eval_shape(local.init, jax.random.key(0), jnp.zeros((1, *_SHAPE)))
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables)
    twin = models.embed(ones, local, dense, _SHAPE)
    return np.asarray(twin["params"]["conv1"]["kernel"]) != 0


def random_places(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A support with as many weights of each unit, anywhere."""
    return rng.permuted(mask, axis=0)


def random_windows(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A support with as many weights of each unit, in a window at a random place.

    Of 9 × 9, or larger if a unit has more weights than that.
    """
    found = np.zeros((*_SHAPE[:2], mask.shape[1]), bool)
    for unit, count in enumerate(mask.sum(0)):
        side = min(max(_WINDOW, math.ceil(math.sqrt(count))), *_SHAPE[:2])
        top, left = (rng.integers(0, whole - side + 1) for whole in _SHAPE[:2])
        chosen = rng.permutation(side * side) < count
        found[top : top + side, left : left + side, unit] = chosen.reshape(side, side)
    return found.reshape(mask.shape)


_SHUFFLED: dict[str, Callable[[NDArray[np.bool_], np.random.Generator], NDArray[np.bool_]]] = {
    "counts": random_places,
    "margins": analysis.shuffle_support,
    "local": random_windows,
}


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """Markdown: a row a pair and number of examples, test accuracy in %, mean ± deviation."""
    groups, rows = runs.over_seeds(results), []
    for (source, target), examples in itertools.product(PAIRS, EXAMPLES):
        columns, most = [], 0
        for arm in ARMS:
            found = groups.get(Cell("" if arm in ALONE else source, target, arm, examples), [])
            accuracies = [100 * each["metrics"]["eval/accuracy"] for each in found]
            columns.append(runs.spread(accuracies, ".1f"))
            most = max(most, len(found))
        if most:
            rows.append([SETS[source], SETS[target], f"{examples:,}", *columns, most])
    return markdown(["A", "B", "examples of B", *ARMS, "seeds"], rows)


def draw(results: Mapping[Cell, Mapping[str, Any]], figures: str) -> None:
    """The accuracy of each arm above that of `dense`, a mark a run; a panel a pair."""
    there = [pair for pair in PAIRS if any((cell.source, cell.target) == pair for cell in results)]
    if not there:
        return
    figure, axes = new_figure(2, -(-len(there) // 2), size=(12, 7), squeeze=False)
    for axis in axes.flat[len(there) :]:
        axis.axis("off")
    for axis, (source, target) in zip(axes.flat, there, strict=False):
        for row, examples in enumerate(EXAMPLES):
            for place, arm in enumerate(ARMS[1:]):
                gains = []
                for cell, result in results.items():
                    dense = cell._replace(source="", arm="dense")
                    mine = Cell("" if arm in ALONE else source, target, arm, examples, cell.seed)
                    if cell == mine and dense in results:
                        pair = [
                            each["metrics"]["eval/accuracy"] for each in (result, results[dense])
                        ]
                        gains.append(100 * (pair[0] - pair[1]))
                at = [place + 0.15 * (2 * row - 1)] * len(gains)
                (line,) = axis.plot(at, gains, "o", color=f"C{row}", alpha=0.7)
                if place == 0:
                    line.set_label(f"{examples:,} examples of {SETS[target]}")
        axis.axhline(0, color="grey", linewidth=1)
        axis.set_xticks(range(len(ARMS) - 1), ARMS[1:], rotation=30)
        axis.set(title=f"{SETS[source]} → {SETS[target]}", ylabel="points above dense")
        axis.legend(fontsize=8)
    save(figure, os.path.join(figures, "transfer.png"))


def train_missing(options: Any) -> None:
    """Trains the missing runs, each first network before its arms."""
    pairs = [pair for pair in PAIRS if set(pair) <= set(options.sets)]
    if any(name.startswith("cifar") for pair in pairs for name in pair):
        config = config_of(Cell("cifar10", "", "learn"), options.runs_dir, options.data_dir)
        runs.require_data(config.data.name, config.data.data_dir)
    for cell in runs.with_seeds(cells(pairs), options.seeds):
        config = config_of(cell, options.runs_dir, options.data_dir)
        runs.run_all({cell: config}, options.runs_dir, options.results)


def show(options: Any) -> str:
    """The table of all that is kept; draws the figure."""
    results = runs.kept(options.results, runs.with_seeds(cells(), runs.MOST_SEEDS))
    draw(results, options.figures)
    return table(results) if results else "Nothing is kept yet."


if __name__ == "__main__":
    runs.command(
        *(train_missing, show),
        runs_dir="runs/transfer",
        results="docs/results/transfer.json",
        seeds=3,
        data_dir="Folder of CIFAR, prepared or as cifar10.npz and cifar100.npz.",
        some_of={"sets": SETS},
    )
