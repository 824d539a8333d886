"""Tables 3 and 4 as numbers: the weights of each layer of the d- and s-families.

    python -m lconv_jax.experiments.weight_counts --alpha 15

Read off the networks' own parameters. The paper's d-local column is printed beside the true one.
Source: Neyshabur, "Towards Learning Convolutions from Scratch", NeurIPS 2020, Appendix A.1.
"""

from __future__ import annotations

import argparse

from lconv_jax.models import base_channels, count_weights

PAPER_BUDGET = 256e6


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


def table(columns: dict[str, dict[str, int]]) -> str:
    """Markdown: a row for each layer and one for the sum, a column for each network."""
    rows = [["layer", *columns], ["---"] * (len(columns) + 1)]
    for layer in next(iter(columns.values())):
        rows.append([layer, *(f"{column[layer]:,}" for column in columns.values())])
    rows.append(["all", *(f"{sum(column.values()):,}" for column in columns.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: list[str] | None = None) -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--alpha",
        type=int,
        help="base channels of both families; left out: 15 for d and 150 for s, as in the paper",
    )
    parser.add_argument("--side", type=int, default=32, help="image side (default: 32)")
    parser.add_argument("--channels", type=int, default=3, help="image channels (default: 3)")
    parser.add_argument("--classes", type=int, default=10, help="classes (default: 10)")
    args = parser.parse_args(argv)
    shape = (args.side, args.side, args.channels)

    for number, family, paper_alpha in ((3, "d", 15), (4, "s", 150)):
        alpha = paper_alpha if args.alpha is None else args.alpha
        columns = {
            f"{family}-{kind}": count_weights(f"{family}_{kind}", alpha, shape, args.classes)
            for kind in ("conv", "local", "fc")
        }
        if family == "d":
            columns["d-local as printed in the paper"] = paper_d_local(alpha, shape, args.classes)
        budget = base_channels(f"{family}_fc", PAPER_BUDGET, shape, args.classes)
        print(
            f"Table {number}: {family}-family, alpha = {alpha}, {args.side}×{args.side}×"
            f"{args.channels} images, {args.classes} classes\n\n{table(columns)}\n\n"
            f"Nearest to {PAPER_BUDGET / 1e6:.0f} M weights of {family}-fc: alpha = {budget}\n"
        )
    print(
        "Biases and batch normalisation are not counted. A local layer has weights at taps that "
        "fall on\nthe padding: they are counted, and its dense twin has none in their place."
    )


if __name__ == "__main__":
    main()
