"""How many weights the networks have: Figure 1, and Tables 3 and 4.

    python -m lconv_jax.experiments.figure1

Counted on the networks' own parameters; nothing is trained. Figure 1 has the weights against α and
against the side of the image, Tables 3 and 4 those of each layer. The paper's d-local column is
printed beside the true one.

Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Figure 1 and
Appendix A.1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lconv_jax.experiments import runs
from lconv_jax.experiments.drawing import new_figure, save
from lconv_jax.models import base_channels, count_weights
from lconv_jax.terminal.tables import markdown

# Of each network its family and the kind of its layers.
MODELS = {f"{family}_{kind}": (family, kind) for family in "ds" for kind in ("conv", "local", "fc")}
ALPHAS = (1, 2, 5, 10, 20, 50, 100, 200)
SIDES = (16, 32, 64, 128, 256)
# What one panel fixes while the other varies: the paper's α of each family, and CIFAR's side.
ALPHA_OF = {"d": 15, "s": 150}
SIDE = 32
# Weights of the fully connected networks in the paper.
BUDGET = 256e6


def total(name: str, alpha: int, side: int) -> int:
    """The weights of a network on square colour images of ten classes."""
    return sum(count_weights(name, alpha, (side, side, 3), 10).values())


def against_alpha() -> dict[str, list[int]]:
    """Weights of each model, over ALPHAS."""
    return {name: [total(name, alpha, SIDE) for alpha in ALPHAS] for name in MODELS}


def against_side() -> dict[str, list[int]]:
    """Weights of each model, over SIDES."""
    return {
        name: [total(name, ALPHA_OF[family], side) for side in SIDES]
        for name, (family, _) in MODELS.items()
    }


def by_layer(
    family: str, alpha: int, image_shape: tuple[int, ...], num_classes: int
) -> dict[str, dict[str, int]]:
    """The weights of each layer of a family's networks, and what the paper prints for d-local."""
    arguments = alpha, image_shape, num_classes
    found = {name: count_weights(name, *arguments) for name in MODELS if MODELS[name][0] == family}
    if family == "d":
        found["d_local as printed in the paper"] = paper_d_local(*arguments)
    return found


def paper_d_local(alpha: int, image_shape: tuple[int, ...], num_classes: int) -> dict[str, int]:
    """The d-local column that Table 3 prints, for square images [s, s, C].

    Its conv2 … conv8 are 9s²α²/2, /4, …, /128, which are not the weights of the network it
    describes: `count_weights` has those. At α = 15 it sums to 3.40 M, near the 3.42 M of Table 1.
    """
    area = image_shape[0] * image_shape[1]
    return {
        "conv1": 9 * image_shape[-1] * area * alpha,
        **{f"conv{i}": round(9 * area * alpha**2 / 2 ** (i - 1)) for i in range(2, 9)},
        "fc1": 4 * area * alpha**2,
        "fc2": 64 * num_classes * alpha,
    }


def table(title: str, columns: Sequence[object], rows: Mapping[str, Sequence[int]]) -> str:
    """Markdown: a row of counts for each name."""
    shown = ([name, *(f"{count:,}" for count in counts)] for name, counts in rows.items())
    return markdown([title, *map(str, columns)], shown)


def layer_table(found: Mapping[str, Mapping[str, int]]) -> str:
    """Markdown: a row for each layer and one for the sum, a column for each network."""
    networks = list(found.values())
    rows = {layer: [counts[layer] for counts in networks] for layer in networks[0]}
    return table("layer", list(found), rows | {"all": [sum(c.values()) for c in networks]})


def draw(path: str) -> None:
    """Both panels, on logarithmic axes."""
    figure, (left, right) = new_figure(1, 2, size=(10, 4))
    for axis, at, found in (
        (left, ALPHAS, against_alpha()),
        (right, SIDES, against_side()),
    ):
        for name, values in found.items():
            family, kind = MODELS[name]
            style = {"conv": "-", "local": "--", "fc": ":"}[kind]
            axis.loglog(at, values, f"C{'ds'.index(family)}{style}o", markersize=3, label=name)
        axis.set(ylabel="weights")
        axis.set_xticks(at, labels=map(str, at))
        axis.minorticks_off()
        axis.legend(fontsize=8)
    left.set(xlabel="base channels α", title=f"{SIDE} × {SIDE} images, 10 classes")
    fixed = " and ".join(f"α = {alpha} ({family}-)" for family, alpha in ALPHA_OF.items())
    right.set(xlabel="image side", title=fixed)
    save(figure, path)


def show(options: Any) -> str:
    """All tables; draws the figure."""
    draw(os.path.join(options.figures, "figure1.png"))
    parts = [table("α", ALPHAS, against_alpha()), table("side", SIDES, against_side())]
    for family, alpha in ALPHA_OF.items():
        budget = base_channels(f"{family}_fc", BUDGET, (SIDE, SIDE, 3), 10)
        parts += [
            f"α = {alpha} (nearest to {BUDGET / 1e6:.0f} M weights of {family}_fc: {budget})",
            layer_table(by_layer(family, alpha, (SIDE, SIDE, 3), 10)),
        ]
    parts.append(
        "Biases and batch normalisation are not counted. A local layer has weights at taps that "
        "fall on\nthe padding: they are counted, and its dense twin has none in their place."
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    runs.command(None, show)
