"""Makes a run's network shorter: `python -m lconv_jax.shorten RUN_DIR`.

Round by round, the weights that matter least for their bits are removed, and the others are trained
under rounding to the integers of a file. Each round's network is encoded and certified. What is
left in RUN_DIR/short/ is the frontier of description length against training error; `describe`
takes the file with the smallest bound. The test set is looked at for the report alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from lconv_jax import data, mdl
from lconv_jax.compression import certify, export
from lconv_jax.describe import SHORT_DIR, certified_files, load_run, rounded_up
from lconv_jax.errors import ConfigError
from lconv_jax.host import places
from lconv_jax.host.files import write_atomically
from lconv_jax.mdl.canonical import reorder
from lconv_jax.mdl.network import INPUT_SCALE, INPUTS, peaks
from lconv_jax.mdl.quantize import equalize
from lconv_jax.parallel import distributed
from lconv_jax.terminal import commands

FRONTIER_FILE = "frontier.json"
_BATCH = 256
_LEARNING_RATE = 0.02  # in levels a step
_B2 = 0.99
# Beyond this many weights a network is not worth encoding on the way.
_MOST_WEIGHTS = 2000
# Units without weights are dropped, and the rest compiled anew, at this share of the size.
_COMPACT = 0.7
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


def in_levels(network: mdl.Network, scales: Scales) -> mdl.Network:
    """The network's weights in levels and its biases in steps, not yet rounded."""
    tree = [
        {
            "kernels": [k / scale for k, scale in zip(layer["kernels"], row, strict=True)],
            "bias": layer["bias"] / bias,
        }
        for layer, row, bias in zip(
            export.weights(network), scales.kernels, scales.bias, strict=True
        )
    ]
    return export.with_weights(network, tree)


def round_straight_through(x: jax.Array) -> jax.Array:
    """The nearest integers, with the gradient of x itself (Bengio et al. 2013)."""
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def rounded(levels: mdl.Network, scales: Scales, masks: Any) -> mdl.Network:
    """The floating-point network that the levels, rounded, stand for; masked ones are zero."""
    tree = [
        {
            "kernels": [
                round_straight_through(kernel) * mask * scale
                for kernel, mask, scale in zip(layer["kernels"], *rest, strict=True)
            ],
            "bias": round_straight_through(layer["bias"]) * bias,
        }
        for layer, bias, *rest in zip(
            export.weights(levels), scales.bias, masks, scales.kernels, strict=True
        )
    ]
    return export.with_weights(levels, tree)


def integer_network(levels: mdl.Network, scales: Scales) -> mdl.Network:
    """The integer network of the levels, rounded."""
    tree = [
        {
            "kernels": [np.rint(kernel).astype(np.int64) for kernel in layer["kernels"]],
            "bias": np.rint(layer["bias"]).astype(np.int64) << shift,
        }
        for layer, shift in zip(export.weights(levels), scales.bias_shift, strict=True)
    ]
    return export.with_weights(levels, tree)


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
    steps: int = 600,
    cycles: int = 1,
    keep: float = 0.8,
) -> Iterator[tuple[bytes, certify.Certificate]]:
    """Files of ever shorter networks, with what each proves, until the bound has clearly risen.

    A round trains in `cycles` of a cosine learning rate, under straight-through rounding, and each
    cycle gives a file; then the weights with the least ½ F w² per bit are removed for good, where F
    is the diagonal of the empirical Fisher information as Adam's second moment gives it (LeCun et
    al., "Optimal brain damage", 1990).

    Args:
      network: floating-point weights.
      train: all training examples, as stored.
      delta: the probability that the bound fails.
      depth: largest level of a weight.
      bias_bits: binary digits of a layer's largest bias.
      seed: of the order of the examples.
      steps: of one cycle.
      cycles: in each round, once the network is small enough to be encoded.
      keep: the share of the weights that a round leaves, then; larger networks lose more.

    Raises:
      ValueError: `keep` is no share, or sums of the rounded network would pass 2⁵³.
    """
    if not 0 < keep < 1:
        raise ValueError(f"keep = {keep} must be above 0 and below 1")
    network = equalize(drop_dead_units(network))
    scales = choose_scales(network, depth, bias_bits)
    levels = in_levels(network, scales)
    if max(peaks(integer_network(levels, scales))) >= 2**53:
        raise ValueError(
            f"sums of this network of {len(network.layers)} layers would pass 2⁵³, and shorten "
            "does not scale them down on the way; describe rounds such networks as they are"
        )
    scale = INPUT_SCALE[network.input_code]
    inputs = jnp.asarray(INPUTS[network.input_code](np.asarray(train.images)) / scale, jnp.float32)
    labels = jnp.asarray(train.labels)
    key, best, temperature = jax.random.key(seed), 1.0, jnp.zeros(())
    fewest: float = np.inf
    run = None
    while True:
        masks = [[jnp.asarray(t.kernel != 0) for t in layer.terms] for layer in levels.layers]
        run = run or make_cycle(levels, scales, depth)
        small, found = count_levels(levels) <= _MOST_WEIGHTS, 1.0
        params = {"levels": _as_float32(levels), "temperature": temperature}
        for _ in range(cycles if small else 1):
            key, order = jax.random.split(key)
            params, moments = run(params, masks, inputs, labels, order, steps)
            tree = jax.device_get(
                jax.tree.map(jnp.multiply, params["levels"], _like(masks, levels))
            )
            levels = export.with_weights(levels, tree)
            if small:
                file = mdl.encode(integer_network(levels, scales))
                certificate = certify.certify(file, train, delta)
                found = min(found, certificate.bounds()["kl"])
                yield file, certificate
        temperature, best = params["temperature"], min(best, found)
        weights = count_levels(levels)
        if weights <= _LEAST_WEIGHTS or found > best + _GIVE_UP:
            return
        # Weights that had rounded to zero may have come back. Beyond what was removed last, that
        # would be a search without an end.
        keep = keep if weights < fewest else 0.9 * keep
        fewest = min(fewest, weights)
        share = 0.5 if weights > 2 * _MOST_WEIGHTS else 0.75 if weights > _MOST_WEIGHTS else keep
        levels = remove(levels, jax.device_get(moments), share)
        smaller = drop_dead_units(levels)
        if mdl.count_weights(smaller)[0] < _COMPACT * mdl.count_weights(levels)[0]:
            levels, run = smaller, None  # compiled anew for the new shapes


def make_cycle(levels: mdl.Network, scales: Scales, depth: int) -> Any:
    """The compiled (params, masks, inputs, labels, key, steps) -> (params, second moments).

    Adam on the cross-entropy of the rounded network, with a cosine learning rate, on batches drawn
    with replacement. `params` are the levels and the logarithm of a factor on the logits.
    """
    adam = optax.scale_by_adam(b2=_B2)

    def loss(params: Any, masks: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        network = rounded(export.with_weights(levels, params["levels"]), scales, masks)
        logits = export.apply(network, x) * jnp.exp(params["temperature"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def run(
        params: Any, masks: Any, inputs: jax.Array, labels: jax.Array, key: jax.Array, steps: Any
    ) -> Any:
        def body(step: Any, carry: Any) -> Any:
            params, state = carry
            index = jax.random.randint(jax.random.fold_in(key, step), (_BATCH,), 0, len(labels))
            grads = jax.grad(loss)(params, masks, inputs[index], labels[index])
            updates, state = adam.update(grads, state, params)
            rate = _LEARNING_RATE * (0.51 + 0.49 * jnp.cos(jnp.pi * step / steps))
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            # Within half a level of the largest, so that every weight keeps a gradient.
            for layer in params["levels"]:
                most = depth + 0.49
                layer["kernels"] = [jnp.clip(k, -most, most) for k in layer["kernels"]]
            return params, state

        params, state = jax.lax.fori_loop(0, steps, body, (params, adam.init(params)))
        return params, state.nu["levels"]

    return run


def count_levels(levels: mdl.Network) -> int:
    """The number of weights that are not zero once rounded."""
    return sum(
        int(np.count_nonzero(np.rint(term.kernel)))
        for layer in levels.layers
        for term in layer.terms
    )


def remove(levels: mdl.Network, second_moments: Any, keep: float) -> mdl.Network:
    """The levels with a share `keep` of those that do not round to zero, the best per bit.

    At least one goes.
    """
    tree = export.weights(levels)
    scores: list[list[np.ndarray]] = []
    for layer, moments in zip(tree, second_moments, strict=True):
        scores.append([])
        for kernel, moment in zip(layer["kernels"], moments["kernels"], strict=True):
            value = np.rint(kernel)
            # What naming one more place costs, and about three bits for the value.
            bits = np.log2(max(2.0, value.size / max(1, np.count_nonzero(value)))) + 3
            scores[-1].append(np.where(value != 0, moment * value**2 / bits, -1.0))
    flat = np.concatenate([score.ravel() for row in scores for score in row])
    places = np.flatnonzero(flat >= 0)
    # By rank: of weights that score the same, zero say, some go and some stay.
    gone = places[
        np.argsort(flat[places], kind="stable")[: max(1, round((1 - keep) * len(places)))]
    ]
    stays = flat >= 0
    stays[gone] = False
    for layer, row in zip(tree, scores, strict=True):
        parts = []
        for kernel, score in zip(layer["kernels"], row, strict=True):
            mine, stays = np.split(stays, [score.size])
            parts.append(np.where(mine.reshape(kernel.shape), kernel, 0))
        layer["kernels"] = parts
    return export.with_weights(levels, tree)


def _as_float32(levels: mdl.Network) -> Any:
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), export.weights(levels))


def _like(masks: Any, levels: mdl.Network) -> Any:
    """The masks as a tree like that of `export.weights`, with 1 for biases."""
    return [
        {"kernels": row, "bias": jnp.ones(len(layer.bias))}
        for row, layer in zip(masks, levels.layers, strict=True)
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
    if os.path.islink(folder):
        raise ConfigError(f"{folder} is a link, and files are written and removed there; move it")
    os.makedirs(folder, exist_ok=True)
    # What is there is read off the files themselves: what a table says of them may be wrong, and
    # names in it lead anywhere.
    rows = [
        _row(file, certificate, dataset.test)
        for path, file, certificate in certified_files(run_dir, dataset.train, delta)
        if os.path.basename(path) == _file_name(certificate)
    ]
    _write_table(folder, rows)
    for file, certificate in search(network, dataset.train, delta, **options):
        row = _row(file, certificate, dataset.test)
        commands.say(_line(row))
        if any(_covers(other, row) for other in rows):
            continue
        write_atomically(os.path.join(folder, row["file"]), file)
        for other in [other for other in rows if _covers(row, other)]:
            rows.remove(other)
            if other["file"] != row["file"]:
                os.remove(os.path.join(folder, other["file"]))
        rows = sorted([*rows, row], key=lambda row: row["bits"])
        _write_table(folder, rows)
    return rows


def _write_table(folder: str, rows: list[dict[str, Any]]) -> None:
    write_atomically(os.path.join(folder, FRONTIER_FILE), json.dumps(rows, indent=1) + "\n")


def _file_name(certificate: certify.Certificate) -> str:
    return f"{certificate.bits:07d}.lconv"


def _covers(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["bits"] <= other["bits"] and one["train_error"] <= other["train_error"]


def _row(file: bytes, certificate: certify.Certificate, test: data.Split) -> dict[str, Any]:
    network = mdl.decode(file)
    errors = mdl.count_errors(network, np.asarray(test.images), np.asarray(test.labels))
    return {
        "file": _file_name(certificate),
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
        f"kl bound {rounded_up(row['kl_bound'])}"
    )


def define_flags() -> None:
    flags.DEFINE_integer("depth", 7, "Largest level q: weights become −q … q.", 1, 2**15)
    flags.DEFINE_integer("bias_bits", 4, "Binary digits of a layer's largest bias.", 1, 30)
    flags.DEFINE_integer("cycles", 1, "Training cycles, each with a file, in a round.", 1)
    flags.DEFINE_integer("steps", 600, "Training steps of a cycle.", 1, 2**31 - 1)
    flags.DEFINE_float("keep", 0.8, "Share of the weights that a round leaves.", 0.05, 0.99)
    flags.DEFINE_integer("seed", 0, "Of the order of the examples.", 0, 2**32 - 1)


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError("one RUN_DIR is needed: python -m lconv_jax.shorten RUN_DIR")
    run_dir = places.local(argv[1], "RUN_DIR")
    distributed.initialize()
    names = ("depth", "bias_bits", "cycles", "steps", "keep", "seed")
    rows = shorten(run_dir, **{name: flags.FLAGS[name].value for name in names})
    best = min(rows, key=lambda row: row["kl_bound"])
    folder = os.path.join(argv[1], SHORT_DIR)
    commands.say(f"best of {len(rows)} files in {folder}:\n{_line(best)}")


if __name__ == "__main__":
    commands.launch(main, define_flags)
