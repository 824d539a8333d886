"""The same training in PyTorch, eager and compiled: how many times longer a step takes.

    pip install -e ".[bench]"
    python -m benchmarks.peers [--models=s_fc_8,s_local] [--rounds=9] [--separate] [--json]

On the CPU. Architecture, initial weights, batches, their order, crops and flips, β-lasso, the loss
and the metrics (accuracy, non-zeros of each layer) are the same; before anything is timed, the
losses of the first steps must agree to 1e-4. JAX runs its loop of steps as in `benchmarks.step`.
PyTorch is told how far each image is shifted and whether it is mirrored, and so spared the drawing.

- *eager*: PyTorch as it comes, local layers by `unfold` and a batched matrix product;
- *compile*: augmentation, loss and update each under `torch.compile`;
- *multiply*: eager, local layers by `unfold`, an elementwise product with the kernel, and a sum.

All take turns in one process, and with --separate also in processes of their own, one at work at
a time, as thread pools in one process may be in each other's way.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import cases, common, torch_models
from benchmarks.step import Stepper
from lconv_jax.training import inputs, programs, rng
from lconv_jax.training.setup import Setup

MODELS = tuple(name for name, case in cases.CASES.items() if not case.gpu_only)
CHECKED_STEPS = 3
TOLERANCE = 1e-4


def peer_case(name: str, toy: bool) -> cases.Case:
    """The case, with enough steps to compare losses, and a batch that `multiply` has room for."""
    case = cases.CASES[name].toy() if toy else cases.CASES[name]
    if case.model.endswith("local") and not toy:
        case = case._replace(batch=128)
    return case._replace(steps=max(case.steps, CHECKED_STEPS))


class TorchTrainer:
    """The training of an experiment in PyTorch, from its initial state."""

    def __init__(self, case: cases.Case, experiment: Setup, *, compiled: bool, multiply: bool):
        torch.set_num_threads(common.cores())
        config, plan = experiment.config, experiment.plan
        self.params = torch_models.from_jax(case, programs.initial_state(experiment).params)
        self.l1 = plan.effective["l1.conv"]
        self.threshold = plan.effective["l1.conv * beta"]
        rates = [float(plan.schedule(step)) for step in range(case.steps)]
        self.rates = [torch.tensor(rate) if compiled else rate for rate in rates]
        train_set = experiment.dataset.train
        images = np.moveaxis(np.asarray(train_set.images), -1, 1)
        count, channels, height, width = images.shape
        # A last pixel of zero, for what comes in from outside an image.
        padded = np.pad(images.reshape(count, channels, -1), ((0, 0), (0, 0), (0, 1)))
        self.images = torch.tensor(padded)
        self.labels = torch.tensor(np.asarray(train_set.labels, np.int64))
        key = rng.key_for(config.seed, rng.ORDER, 0)
        order = np.asarray(jax.random.permutation(key, count)).reshape(case.steps, case.batch)
        self.order = torch.tensor(order.astype(np.int64))
        self.draws = torch.tensor(_draws(case, config))
        local = torch_models.local_multiply if multiply else torch_models.local_product
        statistics = torch_models.running_statistics(self.params)
        forward = torch_models.make_forward(case, statistics, local)
        sides = (channels, height, width)

        rows, columns = torch.arange(height), torch.arange(width)

        def augment(chosen: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
            down, right, flip = draws[:, :, None]
            row = rows + down
            column = torch.where(flip > 0, width - 1 - columns, columns) + right
            row_inside = (row >= 0) & (row < height)
            column_inside = (column >= 0) & (column < width)
            inside = row_inside[:, :, None] & column_inside[:, None]
            source = row[:, :, None] * width + column[:, None]
            index = torch.where(inside, source, height * width).reshape(len(chosen), 1, -1)
            moved = self.images[chosen].gather(2, index.expand(-1, channels, -1))
            return (moved.reshape(-1, *sides).to(torch.float32) / 255.0 - 0.5) / 0.25

        def loss(params: torch_models.Tensors, x: torch.Tensor, labels: torch.Tensor) -> Any:
            logits = forward(params, x)
            value = torch.nn.functional.cross_entropy(logits, labels)
            return value, (logits.detach().argmax(1) == labels).to(torch.float32).mean()

        update = torch_models.beta_lasso_
        wrap: Callable[[Any], Any] = torch.compile if compiled else lambda function: function
        self.augment, self.loss, self.update = wrap(augment), wrap(loss), wrap(update)

    def __call__(self, count: int) -> list[torch.Tensor]:
        """Takes the first `count` steps of the epoch, and returns their losses."""
        losses, names = [], list(self.params)
        for step in range(count):
            chosen = self.order[step]
            x = self.augment(chosen, self.draws[step])
            loss, _ = self.loss(self.params, x, self.labels[chosen])
            grads = torch.autograd.grad(loss, list(self.params.values()))
            with torch.no_grad():
                found = dict(zip(names, grads, strict=True))
                self.update(self.params, found, self.rates[step], self.l1, self.threshold)
            losses.append(loss.detach())
        return losses


def _draws(case: cases.Case, config: Any) -> np.ndarray:
    """Each image's shift down and right and whether it is mirrored, [steps, 3, batch].

    Read off where the configuration's augmentation moves the pixels in the middle of an image.
    """
    height, width = case.image_shape[:2]
    middle, column = height // 2, width // 2
    numbers = jnp.arange(height * width, dtype=jnp.int32).reshape(1, height, width, 1)
    numbers = jnp.broadcast_to(numbers, (case.batch, height, width, 1))
    draws = []
    for step in range(case.steps):
        key = rng.key_for(config.seed, rng.AUGMENT, step)
        moved = np.asarray(inputs.make_augment(config)(key, numbers)).astype(np.int64)
        came_from, next_from = moved[:, middle, column, 0], moved[:, middle, column + 1, 0]
        flip = next_from < came_from
        unshifted = np.where(flip, width - 1 - column, column)
        row, from_column = np.divmod(came_from, width)
        draws.append([row - middle, from_column - unshifted, flip])
    return np.array(draws, np.int64)


def make_program(case: cases.Case, name: str) -> Callable[[int], Any]:
    """The function of a number of steps that trains by `name`, from the initial state on."""
    if name == "jax":
        return Stepper(case, "float32")
    experiment = cases.make_experiment(case)
    return TorchTrainer(case, experiment, compiled=name == "compile", multiply=name == "multiply")


def losses_of(program: Callable[[int], Any], count: int) -> np.ndarray:
    """The losses of the program's first steps."""
    rows = program(count)
    if isinstance(rows, dict):
        return np.asarray(rows["train/loss"])[:count]
    return np.array([float(loss) for loss in rows])


def check_losses(case: cases.Case, programs: dict[str, Callable[[int], Any]]) -> float:
    """The largest difference from JAX's losses over the first steps.

    Raises:
      ValueError: if it is more than the tolerance: then these are not the same training.
    """
    losses = {name: losses_of(program, CHECKED_STEPS) for name, program in programs.items()}
    worst = max(float(np.abs(found - losses["jax"]).max()) for found in losses.values())
    if not worst <= TOLERANCE:
        raise ValueError(f"{case}: losses of the first steps differ by {worst:.2g}: {losses}")
    return worst


def remote(args: Any, model: str, name: str, stack: list[Any]) -> Callable[[], Any]:
    """A program in a process of its own, which does one call of the loop when it is called."""
    command = [sys.executable, "-m", "benchmarks.peers", f"--models={model}", f"--worker={name}"]
    worker = subprocess.Popen(
        command + ["--toy"] * args.toy, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stack.append(worker)

    def call() -> None:
        assert worker.stdin is not None  # for the type checker: both are pipes
        assert worker.stdout is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
        if worker.stdout.readline().strip() != "done":
            raise RuntimeError(f"{' '.join(command)} stopped")

    return call


def work(args: Any) -> None:
    """What a worker does: one call of the loop for each line that comes."""
    case = peer_case(args.models[0], args.toy)
    program = make_program(case, args.worker)
    for _ in sys.stdin:
        jax.block_until_ready(program(case.steps))
        print("done", flush=True)


def measure(args: Any, model: str) -> dict[str, Any]:
    """One row of the table."""
    case = peer_case(model, args.toy)
    names = ["jax", "eager", "compile"] + ["multiply"] * case.model.endswith("local")
    loops = {name: make_program(case, name) for name in names}
    row: dict[str, Any] = {
        "alpha": case.channels(),
        "images": "×".join(map(str, case.image_shape)),
        "batch": case.batch,
        "loss difference": check_losses(case, loops),
    }
    local = {name: functools.partial(loop, case.steps) for name, loop in loops.items()}
    times = common.interleave(local, args.rounds, warmup=2, clock=args.clock)
    row |= {f"{name} ms": 1e3 * times.median(name) / case.steps for name in names}
    row |= {f"{name} / jax": times.ratio(name, "jax") for name in names[1:]}
    if args.separate:
        del loops, local
        workers: list[Any] = []
        try:
            apart = {name: remote(args, model, name, workers) for name in names}
            times = common.interleave(apart, args.rounds, warmup=2)
        finally:
            for worker in workers:
                worker.stdin.close()
                worker.wait()
        row |= {f"{name} / jax (apart)": times.ratio(name, "jax") for name in names[1:]}
    return row


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Prints the table and returns what --json writes."""

    def add(parser: Any) -> None:
        parser.add_argument(
            "--separate", action="store_true", help="also measure in processes of their own"
        )
        parser.add_argument("--worker", help="(used by --separate)")

    args = common.parse(__doc__, argv, name="peers", rounds=9, models=MODELS, add=add)
    if args.separate and args.clock == "cpu":
        sys.exit("error: --separate knows no processor time of other processes; use --clock=wall")
    jax.config.update("jax_platforms", "cpu")
    if args.worker:
        work(args)
        return None
    rows = {model: measure(args, model) for model in args.models}
    result = common.result_of(args, rows, "torch")
    common.show("A training step in PyTorch, by JAX's", rows, result["machine"])
    common.write_json(args.json, result)
    return result


if __name__ == "__main__":
    main()
