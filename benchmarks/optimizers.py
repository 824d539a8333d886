"""What a training step costs under each optimizer, beside the step of plain SGD.

    python -m benchmarks.optimizers [--models=rigl,snip] [--rounds=15] [--json]

The step is all of it, of `s_fc` (α = 8) on 28 × 28 images in batches of 512, with crop and flip, as
a run takes it in the compiled loop. The images are random. All programs take turns in one process.

- "by SGD" is the median of the ratios of a step without a change of masks to a step of SGD;
- "change" is what a change of the masks takes, in steps of SGD: the difference between steps that
  all change them and steps that never do;
- "with changes" adds to it a change every hundred steps, the default of `optimizer.every`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from benchmarks import cases, common
from benchmarks.step import Stepper
from lconv_jax.optim.registry import METHODS

CASE = cases.CASES["s_fc_8"]
# fixed_masks, which needs a file, is random_masks after its first step.
NAMES = tuple(name for name in METHODS if name not in ("sgd", "fixed_masks"))
_EVERY = 100
# No change within the steps that are timed, and one at each of them.
_NEVER = {"begin": 0.9, "end": 1.0, "every": 10**6, "density": 0.1}
_ALWAYS = {"begin": 0.0, "end": 1.0, "every": 1, "density": 0.1}


def make_stepper(case: cases.Case, name: str, always: bool = False) -> Stepper:
    """The loop of a method whose masks change at each step, or at none."""
    wanted, known = _ALWAYS if always else _NEVER, METHODS[name].settings
    changes: dict[str, Any] = {
        f"optimizer.{key}": value for key, value in wanted.items() if key in known
    }
    changes |= {"optimizer.name": name, "train.epochs": 1000}
    return Stepper(case, "float32", changes=changes)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what --json writes."""
    args = common.parse(__doc__, argv, name="optimizers", rounds=15, models=NAMES)
    case = CASE.toy() if args.toy else CASE
    steppers = {name: make_stepper(case, name) for name in ("sgd", *args.models)}
    changing = [name for name in args.models if "every" in METHODS[name].settings]
    steppers |= {f"{name}, always": make_stepper(case, name, True) for name in changing}
    programs = {name: functools.partial(run, case.steps) for name, run in steppers.items()}
    times = common.interleave(programs, args.rounds, clock=args.clock)
    rows: dict[str, Any] = {"sgd": {"step ms": 1e3 * times.median("sgd") / case.steps}}
    for name in args.models:
        ratio = times.ratio(name, "sgd")
        rows[name] = {"step ms": 1e3 * times.median(name) / case.steps, "by SGD": ratio}
        if name in changing:
            change = times.ratio(f"{name}, always", "sgd") - ratio
            rows[name] |= {"change": change, "with changes": ratio + change / _EVERY}
    result = common.result_of(args, rows)
    common.show("Step by optimizer", rows, result["machine"])
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
