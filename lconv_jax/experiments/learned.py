"""What a dense first layer learns, and from what: is it local, are weights shared, does it move?

    python -m lconv_jax.experiments.learned --group=images
    python -m lconv_jax.experiments.learned --group=causes
    python -m lconv_jax.experiments.learned --group=twins

s_fc is trained on Fashion-MNIST under β-lasso and under SGD: on the images, with random crops and
without (`images`), and on sets from which one property was removed (`causes`, see
`lconv_jax.data.surrogates`). `twins` trains the networks that are local or share weights by design.
Of each run the measures of `lconv_jax.analysis` are kept, beside those of shuffled weights. The
weights of SGD are also measured when all but the largest of each unit are cut away, as many as
β-lasso leaves. A run is the statistical unit: tables have means and deviations over seeds.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lconv_jax import analysis, data
from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.experiments.fashion_mnist import LR_SUM
from lconv_jax.experiments.other_data import METHODS
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.rundir.directory import CHECKPOINTS
from lconv_jax.tables import markdown
from lconv_jax.training import programs
from lconv_jax.training.exporting import restore
from lconv_jax.training.setup import Setup
from lconv_jax.training.state import TrainState

_CROPS = {"data.crop": 3}


class Arm(NamedTuple):
    """What a network is trained on."""

    group: str
    title: str
    changes: Mapping[str, Any] = {}
    surrogate: str = ""  # with another draw for each seed, so that runs are independent


ARMS = {
    "images": Arm("images", "images"),
    "crops": Arm("images", "images, random crops", _CROPS),
    "permuted": Arm(
        "causes",
        "pixels permuted, then cropped",
        {**_CROPS, "data.permute": 1, "data.permute_first": True},
    ),
    "centred": Arm("causes", "centred", {}, "centred"),
    "shifted": Arm("causes", "each shifted, round the border", {}, "shifted:seed={seed}"),
    "scrambled": Arm("causes", "scrambled within 7 × 7", {}, "scrambled:block=7,seed={seed}"),
    "gaussian": Arm("causes", "Gaussian twins", {}, "gaussian:seed={seed}"),
    "gaussian, crops": Arm(
        "causes", "Gaussian twins, random crops", _CROPS, "gaussian:seed={seed}"
    ),
    "labels": Arm("causes", "labels shuffled", {}, "labels:seed={seed}"),
}
SPARSE, DENSE, *TWINS = METHODS
GROUPS = ("images", "causes", "twins")
_SIZE = {"model.alpha": 4, "train.epochs": 100, "data.crop": 0}
_CHECKPOINTS = 10
_NULLS, _SHUFFLES = ("margins", "counts"), 5
_UNITS = 128  # that stencils are found for
# Moves are measured on so many test images.
_IMAGES = 500
_SHIFTS = ((0, 1), (0, 2), (2, 0), (0, 4))
# Energy that a shift must leave of a unit on the image: half, and nearly all.
_LEFT = (0.5, 0.95)


class Cell(NamedTuple):
    """A run: its data, how it is trained, and a seed."""

    arm: str  # a key of ARMS
    method: str  # a key of METHODS
    seed: int = 0

    def __str__(self) -> str:
        """The name of its result and of its run directory."""
        return f"{self.arm}, {self.method}, seed {self.seed}"


def cells(group: str) -> list[Cell]:
    """The runs of a group; β-lasso's first, as SGD's weights are cut to as many."""
    methods, of = (TWINS, "images") if group == "twins" else ([SPARSE, DENSE], group)
    arms = [name for name, arm in ARMS.items() if arm.group == of]
    return [Cell(arm, method) for arm in arms for method in methods]


def configs(cells: Iterable[Cell]) -> dict[Cell, Any]:
    """The configuration of each run."""
    found = {}
    for cell in cells:
        arm, (model, optimizer) = ARMS[cell.arm], METHODS[cell.method]
        changes = {
            **{**_SIZE, "model.name": model, "seed": cell.seed},
            **(LR_SUM if optimizer == "beta_lasso" else {}),
            **{"checkpoint.keep": _CHECKPOINTS, "log.test": "end"},
            **{"checkpoint.every_epochs": _SIZE["train.epochs"] // _CHECKPOINTS},
            **{**arm.changes, "data.surrogate": arm.surrogate.format(seed=cell.seed)},
        }
        found[cell] = runs.get_config("sfc_fashion_mnist", optimizer, changes=changes)
    return found


def activations(setup: Setup, state: TrainState) -> Callable[[Any], dict[str, NDArray[Any]]]:
    """The function from stored images [N, *spatial, C] to outputs [N, units] of the first layer.

    They are by name: of "conv1", and of "bn_conv1" in evaluation mode.
    """
    stats = programs.evaluation_stats(setup, state.params, state.batch_stats, int(state.step))
    variables = {"params": state.params, "batch_stats": stats}

    @jax.jit
    def apply(images: jax.Array) -> dict[str, jax.Array]:
        inputs = setup.inputs.preprocess(images)
        _, found = setup.model.apply(
            variables, inputs, capture_intermediates=True, mutable=["intermediates"]
        )
        return {
            layer: found["intermediates"][layer]["__call__"][0].reshape(len(images), -1)
            for layer in ("conv1", "bn_conv1")
        }

    return lambda images: jax.device_get(apply(images))


def dense_kernel(
    outputs: Callable[[Any], Mapping[str, NDArray[Any]]], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """The first layer as a dense one, [inputs as they are stored, units], whatever it is."""
    # Floating-point images are not scaled; the layer has no bias.
    eye = np.eye(math.prod(shape), dtype=np.float32).reshape(-1, *shape)
    return outputs(eye)["conv1"].astype(np.float64)


def moves(
    outputs: Callable[[Any], Mapping[str, NDArray[Any]]], stored: NDArray[Any], kernel: NDArray[Any]
) -> list[dict[str, Any]]:
    """`analysis.equivariance` of the first hidden layer: a row a shift and share of energy left.

    Args:
      outputs: what `activations` returned.
      stored: images as the data set has them.
      kernel: what `dense_kernel` returned.
    """
    shape = stored.shape[1:]
    images = np.asarray(data.normalize(jnp.asarray(stored)))
    # Black is what comes in from the border, as in a crop.
    black = np.asarray(data.normalize(jnp.zeros(1, stored.dtype)))
    hidden = np.maximum(outputs(images)["bn_conv1"], 0)
    found = []
    for shift in _SHIFTS:
        moved = np.maximum(outputs(analysis.move(images - black, shift) + black)["bn_conv1"], 0)
        for left in _LEFT:
            partners = analysis.moved_partners(kernel, shape, shift, least_left=left)
            errors = analysis.equivariance(hidden, moved, partners)
            found.append({"shift": shift, "left": left, **errors._asdict()})
    return found


def fields(kernel: NDArray[Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """The contrasts of `analysis.compare_fields` with each null."""
    found = {}
    for null in _NULLS:
        contrasts = analysis.compare_fields(kernel, shape, null=null, shuffles=_SHUFFLES)
        found[null] = {name: contrast._asdict() for name, contrast in contrasts.items()}
    return found


def curve(run_dir: str, setup: Setup) -> dict[str, list[float]]:
    """At each checkpoint: epoch, density, and mean window of units and of shuffled ones."""
    shape = setup.dataset.image_shape
    found: dict[str, list[float]] = {"epoch": [], "density": [], "window": [], "null": []}
    rng = np.random.default_rng(0)
    checkpoints = Checkpoints(os.path.join(run_dir, CHECKPOINTS))
    for step in checkpoints.steps():
        params = checkpoints.arrays(step, ["params"])["params"]
        kernel = params["conv1"]["kernel"].astype(np.float64)
        live = kernel[:, np.count_nonzero(kernel, 0) > 1]
        nulls = [analysis.NULLS["margins"](live, rng) for _ in range(2)]
        sides = [analysis.energy_window(each, shape).side.mean() for each in (live, *nulls)]
        found["epoch"].append(step / setup.plan.steps_per_epoch)
        found["density"].append(np.count_nonzero(kernel) / kernel.size)
        found["window"].append(float(sides[0]))
        found["null"].append(float(np.mean(sides[1:])))
    return found


def measure(run_dir: str, count: float | None) -> dict[str, Any]:
    """What is kept of a run beside its last metrics.

    Args:
      run_dir: of a finished run.
      count: weights of a live unit of β-lasso's network, to which units are cut; None: they are
        not.
    """
    setup, state, _ = restore(run_dir)
    shape = setup.dataset.image_shape
    outputs = activations(setup, state)
    kernel = dense_kernel(outputs, shape)
    live = np.count_nonzero(kernel.any(0))
    found: dict[str, Any] = {"live": int(live), "fields": fields(kernel, shape)}
    if count is not None:
        found["cut"] = fields(analysis.cut(kernel, round(count)), shape)
    if setup.config.data.permute_first:
        # Where a crop moves pixels, places are neighbours that are none in the image.
        order = setup.inputs.preprocess(jnp.arange(float(len(kernel))).reshape(1, *shape))
        found["fields, as cropped"] = fields(kernel[np.asarray(order, int).ravel()], shape)
    elif setup.config.model.name == "s_fc":
        found["curve"] = curve(run_dir, setup)
    shared = analysis.sharing(kernel, shape, shuffles=3)
    found["sharing"] = {name: each._asdict() for name, each in shared.contrasts.items()}
    by_chance = analysis.NULLS["values"](kernel, np.random.default_rng(0))
    sizes = [
        analysis.stencils(each, shape, max_units=_UNITS, rounds=3) for each in (kernel, by_chance)
    ]
    found["stencils"] = {
        "units": len(sizes[0].compared),
        "size": sizes[0].size,
        "null": sizes[1].size,
    }
    return found | {"moves": moves(outputs, setup.dataset.test.images[:_IMAGES], kernel)}


def _mean(found: Iterable[Mapping[str, Any]], *path: str, form: str) -> str:
    """Mean and deviation over runs of what lies at a path of their results, where it is there."""
    values = []
    for each in found:
        at: Any = each
        for name in path:
            at = at.get(name, {})
        if at != {} and not math.isnan(at):
            values.append(at)
    return runs.spread(values, form)


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """Markdown: a row an arm and method on how local fields are, and one on how shared.

    "Window" is the mean side of the smallest window with 90 % of a unit's energy, and in brackets
    that of weights shuffled with both margins kept. Effects are Cohen's d against that null,
    negative where fields are more local. Errors of moves are those of a shift by two columns, over
    units that keep 95 % of their energy on the image.
    """
    local, shared = [], []
    for cell, found in runs.over_seeds(results).items():
        of = functools.partial(_mean, found)
        name = [ARMS[cell.arm].title, cell.method]
        margins = ("fields", "margins")
        null = of(*margins, "window", "null_mean", form=".1f").partition(" ")[0]
        local.append(
            [
                *name,
                runs.spread([100 * each["metrics"]["eval/accuracy"] for each in found], ".2f"),
                runs.spread([100 * each["metrics"]["sparsity/density"] for each in found], ".1f"),
                f"{of(*margins, 'window', 'mean', form='.1f')} ({null})",
                of(*margins, "window", "effect", form=".2f"),
                of("cut", "margins", "window", "effect", form=".2f"),
                of(*margins, "spread", "effect", form=".2f"),
                of(*margins, "evenness", "mean", form=".2f"),
                len(found),
            ]
        )
        errors = [
            next(row for row in each["moves"] if (*row["shift"], row["left"]) == (0, 2, _LEFT[1]))
            for each in found
        ]
        shared.append(
            [
                *name,
                of("sharing", "values", "mean", form=".2f"),
                of("sharing", "values", "effect", form=".2f"),
                of("sharing", "margins", "effect", form=".2f"),
                f"{of('stencils', 'size', form='.0f')} of {of('stencils', 'units', form='.0f')}",
                of("stencils", "null", form=".0f"),
                *(_mean(errors, name, form=".2f") for name in ("error", "unmoved", "chance")),
            ]
        )
    text = markdown(
        [
            *("data", "training", "test accuracy, %", "weights, %", "window", "effect"),
            *("effect, cut", "spread, effect", "evenness", "seeds"),
        ],
        local,
    )
    head = ["data", "training", "best match", "over shuffled values", "over shuffled weights"]
    head += ["stencils", "by chance", "error", "unmoved", "chance"]
    return f"{text}\n\n{markdown(head, shared)}"


def draw(results: Mapping[Cell, Mapping[str, Any]], figures: str) -> None:
    """When windows become small, by epoch; and the effect of each arm, a mark a run."""
    figure, axes = new_figure(1, 2, size=(12, 4.4))
    groups = runs.over_seeds(results)
    colours = {SPARSE: "C0", DENSE: "C1"}
    for cell, found in groups.items():
        curves = [each["curve"] for each in found if "curve" in each]
        if ARMS[cell.arm].group != "images" or not curves:
            continue
        style = {"color": colours[cell.method], "linestyle": "-" if cell.arm == "crops" else "--"}
        epochs = curves[0]["epoch"]
        label = f"{cell.method}, {ARMS[cell.arm].title}"
        axes[0].plot(epochs, np.mean([each["window"] for each in curves], 0), label=label, **style)
        if cell.arm == "crops":
            chance = np.mean([each["null"] for each in curves], 0)
            axes[0].plot(epochs, chance, color=style["color"], linestyle=":")
    axes[0].set(xlabel="epoch", ylabel="side of a window with 90 % of the energy", ylim=(0, None))
    axes[0].set_title("dotted: weights shuffled", fontsize=10)
    axes[0].legend(fontsize=8)
    arms = [name for name in ARMS if any(cell.arm == name for cell in groups)]
    for cell, found in groups.items():
        if cell.method not in colours:
            continue
        of = "fields" if cell.method == SPARSE else "cut"
        effects = [each[of]["margins"]["window"]["effect"] for each in found]
        place = len(arms) - arms.index(cell.arm) + (0.12 if cell.method == SPARSE else -0.12)
        (line,) = axes[1].plot(effects, [place] * len(effects), "o", color=colours[cell.method])
        line.set_alpha(0.6)
        if cell.arm == arms[0]:
            line.set_label(cell.method + (", cut" if of == "cut" else ""))
    axes[1].axvline(0, color="grey", linewidth=1)
    axes[1].set_yticks(range(len(arms), 0, -1), [ARMS[name].title for name in arms])
    axes[1].set(xlabel="effect on the window, in deviations of a unit (0: by chance)")
    axes[1].legend(fontsize=8)
    save(figure, os.path.join(figures, "learned.png"))


def train_missing(options: Any) -> None:
    """Trains the missing runs of a group."""
    for cell, config in configs(runs.with_seeds(cells(options.group), options.seeds)).items():
        count = None
        if cell.method == DENSE:
            twin = runs.kept(options.results, [cell._replace(method=SPARSE)])
            (sparse,) = twin.values()
            of_twin = sparse["metrics"]["sparsity/conv1/nonzeros"]
            count = of_twin / sparse["live"]
        runs.run_all(
            {cell: config},
            *(options.runs_dir, options.results),
            measure=functools.partial(measure, count=count),
        )


def show(options: Any) -> str:
    """The tables of all that is kept; draws the figure."""
    wanted = [cell for group in GROUPS for cell in cells(group)]
    results = runs.kept(options.results, runs.with_seeds(wanted, runs.MOST_SEEDS))
    if not results:
        return "Nothing is kept yet."
    draw(results, options.figures)
    return table(results)


if __name__ == "__main__":
    runs.command(
        *(train_missing, show),
        runs_dir="runs/learned",
        results="docs/results/learned.json",
        groups=GROUPS,
    )
