"""How near a training step comes to its bare matrix products, and what the rest of it costs.

    python -m benchmarks.step [--models=s_fc_8,s_fc_16] [--rounds=15] [--json]
    python -m benchmarks.step --models=s_fc_256m --dtype=bfloat16 --json     (on a GPU)

The step is all of it, as a run takes it in the compiled loop: gather, augmentation (crop 4 and
flip), both passes, batch normalisation, β-lasso, metrics. The images are random. All programs of
a model run in one process and take turns:

- *products*: a compiled loop over the step's matrix products and nothing else, of the same sizes,
  dtype and number, as `benchmarks.cases.products` counts them;
- *copy*: a compiled loop that reads and writes each float32 parameter once;
- *square*: one matrix product of side 2048, for the machine's rate.

"share" is the products' time by the step's: the step's share of the rate that its products reach
alone. "bound" is products + copy, which no step that stores its weights can beat unless it
overlaps them; "step / bound" is what the GPU target of 1.3 is about.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import cases, common
from lconv_jax.training import programs

NOT_RUN = "not run: no GPU at hand"


def product_loop(products: Sequence[cases.Product], dtype: Any) -> Callable[[int], Any]:
    """The function of a number of repetitions that computes the products so often."""
    layers = []
    for groups, rows, inner, columns, _ in products:
        sides = ((rows, inner), (inner, columns), (rows, columns))
        layers.append([side if groups == 1 else (groups, *side) for side in sides])
    keys = jax.random.split(jax.random.key(0), 3 * len(layers))
    # Layers share operands of the same shape.
    operands = {
        shape: jax.random.normal(key, shape, dtype)
        for shape, key in zip((shape for layer in layers for shape in layer), keys, strict=True)
    }

    def once(operands: Any) -> list[jax.Array]:
        outputs = []
        for layer, product in zip(layers, products, strict=True):
            x, w, d = (operands[shape] for shape in layer)
            outputs.append(x @ w)
            outputs.append(jnp.einsum("...bi,...bo->...io", x, d))
            if product.backward == 2:
                outputs.append(jnp.einsum("...bo,...io->...bi", d, w))
        return outputs

    @jax.jit
    def run(operands: Any, count: Any) -> Any:
        def body(_: Any, carry: Any) -> Any:
            outputs = once(carry[0])
            # An element of each operand comes from a result, so that no product can be taken out
            # of the loop.
            mixed = sum(jnp.sign(output.ravel()[-1]) for output in outputs)
            first = {shape: (0,) * len(shape) for shape in operands}
            changed = {s: value.at[first[s]].set(mixed) for s, value in carry[0].items()}
            return changed, outputs

        empty = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in jax.eval_shape(once, operands)]
        return lax.fori_loop(0, count, body, (operands, empty))[1]

    return lambda count: run(operands, count)


def copy_loop(params: Any) -> Callable[[int], Any]:
    """The function of a number of repetitions that reads and writes arrays like `params` so often.

    The bytes are those of the parameters, in place.
    """
    arrays = [jnp.ones(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params)]

    @jax.jit
    def run(arrays: Any, count: Any) -> Any:
        return lax.fori_loop(0, count, lambda _, carry: jax.tree.map(jnp.negative, carry), arrays)

    return lambda count: run(arrays, count)


class Stepper:
    """A model's compiled loop of training steps, ready to be called again and again.

    Further options are those of `cases.make_experiment`.
    """

    def __init__(self, case: cases.Case, dtype: str, *, metrics: bool = True, **options: Any):
        self.experiment = cases.make_experiment(case, dtype=dtype, **options)
        self.split = jax.device_put(self.experiment.dataset.train)
        self.state = programs.initial_state(self.experiment)
        begun = time.perf_counter()
        self.run = programs.compile_train_steps(self.experiment, with_metrics=metrics)
        self.compile_seconds = time.perf_counter() - begun

    def __call__(self, count: int) -> Any:
        # The state goes back to step 0, so that no call leads past the end of an epoch.
        state = dataclasses.replace(self.state, step=jnp.zeros((), jnp.int32))
        self.state, rows = self.run(state, self.split, jnp.int32(count))
        return rows


def measure(case: cases.Case, args: Any) -> dict[str, Any]:
    """One row of the table, of a case at its full or toy size."""
    dtype, side = args.dtype, 128 if args.toy else 2048
    steppers = {
        "step": Stepper(case, dtype),
        "no metrics": Stepper(case, dtype, metrics=False),
        "no augmentation": Stepper(case, dtype, augment=False),
    }
    found = steppers["step"].experiment
    products = cases.products(found.model, case.image_shape, case.batch)
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
    square = jax.jit(jnp.matmul)
    loops: dict[str, Callable[[int], Any]] = {
        **steppers,
        "products": product_loop(products, jnp.dtype(dtype)),
        "copy": copy_loop(found.state_shapes.params),
    }
    programs: dict[str, Callable[[], Any]] = {
        name: functools.partial(loop, case.steps) for name, loop in loops.items()
    }
    programs["square"] = lambda: square(matrix, matrix)
    times = common.interleave(programs, args.rounds, clock=args.clock)
    loss = steppers["step"](case.steps)["train/loss"][: case.steps]
    if not jnp.isfinite(loss).all():
        raise FloatingPointError(f"the loss of {case} is not finite: {loss}")
    flops = sum(product.flops for product in products)
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(found.state_shapes.params))
    seconds = {name: times.median(name) / case.steps for name in loops}
    return {
        "alpha": case.channels(),
        "images": "×".join(map(str, case.image_shape)),
        "batch": case.batch,
        "dtype": dtype,
        "parameters": weights,
        "step ms": 1e3 * seconds["step"],
        "GFLOP/s": flops / seconds["step"] / 1e9,
        "products GFLOP/s": flops / seconds["products"] / 1e9,
        "square GFLOP/s": 2 * side**3 / times.median("square") / 1e9,
        "share": times.ratio("products", "step"),
        "share of square": times.ratio("square", "step") * case.steps * flops / (2 * side**3),
        "bound ms": 1e3 * (seconds["products"] + seconds["copy"]),
        "step / bound": times.ratio("step", "products", "copy"),
        "metrics cost": times.ratio("step", "no metrics") - 1,
        "augmentation cost": times.ratio("step", "no augmentation") - 1,
        "compile s": steppers["step"].compile_seconds,
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what --json writes."""

    def add(parser: Any) -> None:
        parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")

    args = common.parse(__doc__, argv, name="step", rounds=15, models=cases.CASES, add=add)
    rows: dict[str, Any] = {}
    for name in args.models:
        case = cases.CASES[name]
        if args.toy:
            rows[name] = measure(case.toy(), args)
        elif case.gpu_only and jax.default_backend() == "cpu":
            rows[name] = {"note": NOT_RUN}
        else:
            rows[name] = measure(case, args)
    result = common.result_of(args, rows)
    common.show("Training step", rows, result["machine"])
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
