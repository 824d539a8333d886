"""Figure 1: the weights of each network against α and against the side of the image.

    python -m lconv_jax.experiments.figure1

Counted on the networks' own parameters; nothing is trained.

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Figure 1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import app, flags

from lconv_jax.experiments.drawing import new_figure
from lconv_jax.models import count_weights

MODELS = ("d_conv", "d_local", "d_fc", "s_conv", "s_local", "s_fc")
ALPHAS = (1, 2, 5, 10, 20, 50, 100, 200)
SIDES = (16, 32, 64, 128, 256)
# What one panel fixes while the other varies: the paper's α of each family, and CIFAR's side.
ALPHA_OF = {"d": 15, "s": 150}
SIDE = 32


def counts(side: int, alpha: int, classes: int = 10) -> dict[str, int]:
    """The weights of each network on square colour images."""
    shape = (side, side, 3)
    return {name: sum(count_weights(name, alpha, shape, classes).values()) for name in MODELS}


def against_alpha() -> dict[str, list[int]]:
    """Weights of each model, over ALPHAS."""
    found = [counts(SIDE, alpha) for alpha in ALPHAS]
    return {name: [each[name] for each in found] for name in MODELS}


def against_side() -> dict[str, list[int]]:
    """Weights of each model, over SIDES."""
    found = [
        {
            name: counts(side, alpha)[name]
            for family, alpha in ALPHA_OF.items()
            for name in MODELS
            if name.startswith(family)
        }
        for side in SIDES
    ]
    return {name: [each[name] for each in found] for name in MODELS}


def table(title: str, at: Sequence[int], found: dict[str, list[int]]) -> str:
    """A Markdown row a network."""
    lines = [f"| {title} | {' | '.join(map(str, at))} |", "| --- " * (len(at) + 1) + "|"]
    for name, values in found.items():
        lines.append(f"| {name} | {' | '.join(f'{value:,}' for value in values)} |")
    return "\n".join(lines)


def draw(path: str) -> None:
    """Both panels, on logarithmic axes."""
    figure, (left, right) = new_figure(1, 2, size=(10, 4))
    for axis, at, found in (
        (left, ALPHAS, against_alpha()),
        (right, SIDES, against_side()),
    ):
        for name, values in found.items():
            style = {"conv": "-", "local": "--", "fc": ":"}[name.partition("_")[2]]
            axis.loglog(at, values, f"C{'ds'.index(name[0])}{style}o", markersize=3, label=name)
        axis.set(ylabel="weights")
        axis.set_xticks(at, labels=map(str, at))
        axis.minorticks_off()
        axis.legend(fontsize=8)
    left.set(xlabel="base channels α", title=f"{SIDE} × {SIDE} images, 10 classes")
    fixed = " and ".join(f"α = {alpha} ({family}-)" for family, alpha in ALPHA_OF.items())
    right.set(xlabel="image side", title=fixed)
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    print(table("α", ALPHAS, against_alpha()), "", table("side", SIDES, against_side()), sep="\n")
    draw(os.path.join(flags.FLAGS.figures, "figure1.png"))


if __name__ == "__main__":
    flags.DEFINE_string("figures", "docs/figures", "Folder of the figure.")
    app.run(main)
