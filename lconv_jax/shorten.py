"""Makes a run's network shorter: `python -m lconv_jax.shorten RUN_DIR`.

Round by round, the weights that matter least for their bits are removed, and the others are trained
under rounding to the integers of a file. Each round's network is encoded and certified. What is
left in RUN_DIR/short/ is the frontier of description length against training error; `describe`
takes the file with the smallest bound. The test set is looked at for the report alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from numpy.typing import NDArray

from lconv_jax import certify, data, export, mdl
from lconv_jax.describe import SHORT_DIR, load_run
from lconv_jax.mdl.canonical import reorder
from lconv_jax.mdl.network import INPUT_SCALE, INPUTS
from lconv_jax.mdl.quantize import equalize
from lconv_jax.metrics import write_atomically

_DEPTH = flags.DEFINE_integer("depth", 7, "Largest level q: weights become −q … q.", 1)
_BIAS_BITS = flags.DEFINE_integer("bias_bits", 4, "Binary digits of a layer's largest bias.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the order of the examples.", 0)

FRONTIER_FILE = "frontier.json"
_BATCH = 512
_LEARNING_RATE = 0.02  # in levels a step
_B2 = 0.99
# Beyond this many weights a network is not worth encoding on the way.
_MOST_WEIGHTS = 6000
# A search ends when the bound is this much above the best, or so few weights are left.
_GIVE_UP = 0.06
_LEAST_WEIGHTS = 60


class Scales(NamedTuple):
    """The floating-point value of one level of each kernel and of one step of each layer's bias."""

    kernels: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    bias_shift: tuple[int, ...]


def choose_scales(network: mdl.Network, depth: int, bias_bits: int) -> Scales:
    """Levels that span 0.7 of each layer's largest weight, and biases of `bias_bits` digits."""
    units = [1 / INPUT_SCALE[network.input_code]]
    kernels, biases, shifts = [], [], []
    for layer in network.layers:
        peaks = [np.abs(t.kernel).max(initial=0) * units[t.source] for t in layer.terms]
        unit = 0.7 * max([*peaks, 1e-9]) / depth
        largest = float(np.abs(layer.bias).max(initial=0)) / unit
        shift = max(0, int(np.ceil(np.log2(max(largest, 1)))) - bias_bits)
        kernels.append(tuple(unit / units[term.source] for term in layer.terms))
        biases.append(unit * 2.0**shift)
        shifts.append(shift)
        units.append(unit)
    return Scales(tuple(kernels), tuple(biases), tuple(shifts))


def round_straight_through(x: jax.Array) -> jax.Array:
    """The nearest integers, with the gradient of x itself (Bengio et al. 2013)."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def rounded(network: mdl.Network, scales: Scales, levels: Any, masks: Any) -> mdl.Network:
    """The floating-point network that the rounded levels stand for."""
    tree = [
        {
            "kernels": [
                round_straight_through(kernel) * mask * scale
                for kernel, mask, scale in zip(layer["kernels"], mask_, scale_, strict=True)
            ],
            "bias": round_straight_through(layer["bias"]) * bias,
        }
        for layer, mask_, scale_, bias in zip(
            levels, masks, scales.kernels, scales.bias, strict=True
        )
    ]
    return export.with_weights(network, tree)


def integer_network(network: mdl.Network, scales: Scales, levels: Any, masks: Any) -> mdl.Network:
    """The integer network of the rounded levels."""
    tree = [
        {
            "kernels": [
                np.rint(np.asarray(kernel) * np.asarray(mask)).astype(np.int64)
                for kernel, mask in zip(layer["kernels"], mask_, strict=True)
            ],
            "bias": np.rint(np.asarray(layer["bias"])).astype(np.int64) << shift,
        }
        for layer, mask_, shift in zip(levels, masks, scales.bias_shift, strict=True)
    ]
    return export.with_weights(network, tree)


def drop_dead_units(network: mdl.Network) -> mdl.Network:
    """A floating-point network without hidden units that have no weights in, or none out.

    A unit that is constant for want of inputs goes, too: training makes up for it. Layers of two
    terms keep their units.
    """
    for _ in network.layers:
        for index in range(1, len(network.layers)):
            layer = network.layers[index - 1]
            count = len(layer.bias)
            readers = [t for later in network.layers for t in later.terms if t.source == index]
            if len(layer.terms) > 1 or any(t.kind == "local" for t in readers):
                continue
            has_inputs = (layer.terms[0].kernel != 0).reshape(-1, count).any(0)
            has_readers = np.zeros(count, bool)
            for term in readers:
                by_unit = (term.kernel != 0).reshape(-1, count, term.kernel.shape[-1])
                has_readers |= by_unit.any((0, 2))
            alive = np.flatnonzero(has_inputs & has_readers)
            if 0 < len(alive) < count:
                network = reorder(network, index, alive)
    return network


def search(
    network: mdl.Network,
    train: data.Split,
    delta: float,
    *,
    depth: int = 7,
    bias_bits: int = 4,
    seed: int = 0,
    epochs: int = 4,
    cycles: int = 3,
) -> Iterator[tuple[bytes, certify.Certificate]]:
    """Files of ever shorter networks, with what each proves, until the bound has clearly risen.

    A round removes the weights with the least ½ F w² per bit, where F is the diagonal of the
    empirical Fisher information as Adam's second moment gives it (LeCun et al., "Optimal brain
    damage", 1990), then trains in `cycles` of a cosine learning rate, with straight-through
    rounding; removed weights stay zero. Each cycle gives a file.

    Args:
      network: floating-point weights.
      train: all training examples, as stored.
      delta: the probability that the bound fails.
      depth: largest level of a weight.
      bias_bits: binary digits of a layer's largest bias.
      seed: of the order of the examples.
      epochs: of one cycle.
      cycles: after each removal.
    """
    network = equalize(drop_dead_units(network))
    scales = choose_scales(network, depth, bias_bits)
    levels = [
        {
            "kernels": [
                jnp.asarray(kernel / scale, jnp.float32)
                for kernel, scale in zip(layer["kernels"], scale_, strict=True)
            ],
            "bias": jnp.asarray(layer["bias"] / bias, jnp.float32),
        }
        for layer, scale_, bias in zip(
            export.weights(network), scales.kernels, scales.bias, strict=True
        )
    ]
    masks = [[jnp.asarray(term.kernel != 0) for term in layer.terms] for layer in network.layers]
    inputs = INPUTS[network.input_code](np.asarray(train.images)) / INPUT_SCALE[network.input_code]
    run_steps = make_steps(network, scales, jnp.asarray(inputs, jnp.float32), train.labels, depth)
    params = {"levels": levels, "log_scale": jnp.zeros(())}
    state = run_steps.initial(params)
    per_epoch = max(1, len(train.labels) // _BATCH)
    key, best = jax.random.key(seed), 1.0
    while True:
        found = 1.0
        weights = count_levels(params["levels"], masks)
        for cycle in range(cycles if weights <= _MOST_WEIGHTS else 1):
            key, order = jax.random.split(key)
            params, state = run_steps.train(params, state, masks, order, epochs * per_epoch)
            if weights <= _MOST_WEIGHTS:
                integers = integer_network(network, scales, params["levels"], masks)
                file = mdl.encode(integers)
                certificate = certify.certify(file, train, delta)
                found = min(found, certificate.bounds()["kl"])
                yield file, certificate
            del cycle
        best = min(best, found)
        weights = count_levels(params["levels"], masks)
        if weights <= _LEAST_WEIGHTS or found > best + _GIVE_UP:
            return
        keep = 0.5 if weights > _MOST_WEIGHTS else 0.75 if weights > 1500 else 0.88
        masks = remove(params["levels"], state.nu["levels"], masks, keep)


class Steps(NamedTuple):
    """The compiled parts of the search."""

    initial: Any  # params -> Adam's state
    train: Any  # (params, state, masks, key, steps) -> (params, state)


def make_steps(
    network: mdl.Network, scales: Scales, inputs: jax.Array, labels: Any, depth: int
) -> Steps:
    """Adam on the cross-entropy of the rounded network, on batches drawn with replacement."""
    adam = optax.scale_by_adam(b2=_B2)
    labels = jnp.asarray(labels)

    def loss(params: Any, masks: Any, index: jax.Array) -> jax.Array:
        logits = export.apply(rounded(network, scales, params["levels"], masks), inputs[index])
        logits = logits * jnp.exp(params["log_scale"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[index]).mean()

    @jax.jit
    def train(params: Any, state: Any, masks: Any, key: jax.Array, steps: Any) -> Any:
        def body(step: Any, carry: Any) -> Any:
            params, state = carry
            index = jax.random.randint(jax.random.fold_in(key, step), (_BATCH,), 0, len(labels))
            grads = jax.grad(loss)(params, masks, index)
            updates, state = adam.update(grads, state, params)
            rate = _LEARNING_RATE * (0.51 + 0.49 * jnp.cos(jnp.pi * step / steps))
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            for layer in params["levels"]:
                layer["kernels"] = [
                    jnp.clip(k, -depth - 0.49, depth + 0.49) for k in layer["kernels"]
                ]
            return params, state

        return jax.lax.fori_loop(0, steps, body, (params, state))

    return Steps(adam.init, train)


def count_levels(levels: Any, masks: Any) -> int:
    """The number of weights that are not zero once rounded."""
    return sum(int(live.sum()) for live in _live(levels, masks))


def remove(levels: Any, second_moments: Any, masks: Any, keep: float) -> Any:
    """Masks with the share `keep` of the weights that are not zero, the most useful per bit."""
    live = _live(levels, masks)
    moments = [np.asarray(k) for layer in second_moments for k in layer["kernels"]]
    values = [np.rint(np.asarray(k)) for layer in levels for k in layer["kernels"]]
    scores = []
    for alive, moment, value in zip(live, moments, values, strict=True):
        # What naming one more place costs, and about three bits for the value.
        bits = np.log2(max(2.0, alive.size / max(1, alive.sum()))) + 3
        scores.append(np.where(alive, moment * value**2 / bits, -1.0))
    flat = np.concatenate([score[alive] for score, alive in zip(scores, live, strict=True)])
    least = np.sort(flat)[int(len(flat) * (1 - keep))]
    kept = iter([jnp.asarray(a & (s >= least)) for a, s in zip(live, scores, strict=True)])
    return [[next(kept) for _ in layer] for layer in masks]


def _live(levels: Any, masks: Any) -> list[NDArray[np.bool_]]:
    return [
        (np.rint(np.asarray(kernel)) != 0) & np.asarray(mask)
        for layer, row in zip(levels, masks, strict=True)
        for kernel, mask in zip(layer["kernels"], row, strict=True)
    ]


def shorten(run_dir: str, **options: Any) -> list[dict[str, Any]]:
    """Searches, and keeps the frontier in RUN_DIR/short/: files by their bits, and a table.

    A file already there stays unless one of the same length makes fewer errors.

    Returns:
      One row a file of the frontier, the shortest first.
    """
    experiment, network, _ = load_run(run_dir)
    dataset, delta = experiment.dataset, experiment.config.log.delta
    folder = os.path.join(run_dir, SHORT_DIR)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, FRONTIER_FILE)
    rows: list[dict[str, Any]] = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as stream:
            rows = json.load(stream)
    for file, certificate in search(network, dataset.train, delta, **options):
        row = _row(file, certificate, dataset.test)
        print(_line(row), flush=True)
        if any(_covers(other, row) for other in rows):
            continue
        with open(os.path.join(folder, row["file"]), "wb") as stream:
            stream.write(file)
        for other in [other for other in rows if _covers(row, other)]:
            rows.remove(other)
            if other["file"] != row["file"]:
                os.remove(os.path.join(folder, other["file"]))
        rows = sorted([*rows, row], key=lambda row: row["bits"])
        write_atomically(path, json.dumps(rows, indent=1) + "\n")
    return rows


def _covers(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["bits"] <= other["bits"] and one["train_error"] <= other["train_error"]


def _row(file: bytes, certificate: certify.Certificate, test: data.Split) -> dict[str, Any]:
    network = mdl.decode(file)
    errors = mdl.count_errors(network, np.asarray(test.images), np.asarray(test.labels))
    return {
        "file": f"{certificate.bits:07d}.lconv",
        "bits": certificate.bits,
        "bytes": len(file),
        "nonzeros": mdl.count_weights(network)[1],
        "train_error": certificate.error,
        "test_error": errors / len(test.labels),
        "kl_bound": certificate.bounds()["kl"],
    }


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"{row['nonzeros']:6,} weights {row['bits']:8,} bits  training error "
        f"{row['train_error']:.4f}  test error {row['test_error']:.4f}  "
        f"kl bound {row['kl_bound']:.4f}"
    )


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("one RUN_DIR is needed: python -m lconv_jax.shorten RUN_DIR")
    logging.set_verbosity(logging.WARNING)
    options = {"depth": _DEPTH.value, "bias_bits": _BIAS_BITS.value, "seed": _SEED.value}
    try:
        rows = shorten(argv[1], **options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    best = min(rows, key=lambda row: row["kl_bound"])
    print(f"best of {len(rows)} files in {os.path.join(argv[1], SHORT_DIR)}:\n{_line(best)}")


if __name__ == "__main__":
    app.run(main)
