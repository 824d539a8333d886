"""The search for short networks: weights are removed, the others trained under rounding."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lconv_jax import data, mdl
from lconv_jax.compression import certify, folding
from lconv_jax.compression.levels import (
    Scales,
    choose_scales,
    count_levels,
    drop_dead_units,
    in_levels,
    integer_network,
    remove,
    rounded,
)
from lconv_jax.mdl.network import INPUT_SCALE, INPUTS
from lconv_jax.mdl.quantize import equalize

_BATCH = 256
LEARNING_RATE = 0.02  # in levels a step
B2 = 0.99
# Beyond this many weights a network is not worth encoding on the way.
_MOST_WEIGHTS = 2000
# Units without weights are dropped, and the rest compiled anew, at this share of the size.
_COMPACT = 0.7
# A search ends when the bound is this much above the best, or so few weights are left.
_GIVE_UP = 0.06
_LEAST_WEIGHTS = 60


class Options(NamedTuple):
    """How a search goes.

    Attributes:
      depth: largest level of a weight.
      bias_bits: binary digits of a layer's largest bias.
      seed: of the order of the examples.
      steps: of one cycle.
      cycles: in each round, once the network is small enough to be encoded.
      keep: the share of the weights that a round leaves, then; larger networks lose more.
    """

    depth: int = 7
    bias_bits: int = 4
    seed: int = 0
    steps: int = 600
    cycles: int = 1
    keep: float = 0.8


DEFAULTS = Options()


def search(
    network: mdl.Network,
    train: data.Split,
    delta: float,
    options: Options = DEFAULTS,
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
      options: of the search.

    Raises:
      ValueError: `keep` is no share.
    """
    depth, bias_bits, seed, steps, cycles, keep = options
    if not 0 < keep < 1:
        raise ValueError(f"keep = {keep} must be above 0 and below 1")
    levels, scales = start(network, depth, bias_bits)
    inputs, labels = examples(train, network.input_code)
    key, best, temperature = jax.random.key(seed), 1.0, jnp.zeros(())
    fewest: float = np.inf
    run = None
    while True:
        masks = [[jnp.asarray(t.kernel != 0) for t in layer.terms] for layer in levels.layers]
        run = run or make_cycle(levels, scales, depth)
        small, found = count_levels(levels) <= _MOST_WEIGHTS, 1.0
        params = {"levels": as_float32(levels), "temperature": temperature}
        for _ in range(cycles if small else 1):
            key, order = jax.random.split(key)
            params, moments = run(params, masks, inputs, labels, order, steps)
            tree = jax.device_get(
                jax.tree.map(jnp.multiply, params["levels"], _like(masks, levels))
            )
            levels = folding.with_weights(levels, tree)
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
        smaller = compact(levels)
        if smaller is not levels:
            levels, run = smaller, None  # compiled anew for the new shapes


def start(network: mdl.Network, depth: int, bias_bits: int) -> tuple[mdl.Network, Scales]:
    """A floating-point network in levels, not yet rounded."""
    network = equalize(drop_dead_units(network))
    scales = choose_scales(network, depth, bias_bits)
    return in_levels(network, scales), scales


def compact(levels: mdl.Network) -> mdl.Network:
    """The network without its dead units, or the same one if that leaves it little smaller."""
    smaller = drop_dead_units(levels)
    little = mdl.count_weights(smaller)[0] >= _COMPACT * mdl.count_weights(levels)[0]
    return levels if little else smaller


def cross_entropy(
    levels: mdl.Network, scales: Scales, params: Any, masks: Any, x: jax.Array, y: jax.Array
) -> jax.Array:
    """The mean loss of the network in levels, rounded straight through.

    Args:
      levels: a network of these shapes.
      scales: of the levels.
      params: "levels", as `folding.weights` has them, and the "temperature": the logarithm of a
        factor on the logits.
      masks: of the weights of each layer's terms; others are zero.
      x, y: inputs and labels.
    """
    network = rounded(folding.with_weights(levels, params["levels"]), scales, masks)
    logits = folding.apply(network, x) * jnp.exp(params["temperature"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def examples(train: data.Split, input_code: str) -> tuple[jax.Array, jax.Array]:
    """All training inputs, as the networks of `folding` take them, and labels."""
    inputs = INPUTS[input_code](np.asarray(train.images)) / INPUT_SCALE[input_code]
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(train.labels)


def make_cycle(levels: mdl.Network, scales: Scales, depth: int) -> Any:
    """The compiled (params, masks, inputs, labels, key, steps) -> (params, second moments).

    Adam on the cross-entropy of the rounded network, with a cosine learning rate, on batches drawn
    with replacement. `params` are the levels and the logarithm of a factor on the logits.
    """
    adam = optax.scale_by_adam(b2=B2)

    loss = functools.partial(cross_entropy, levels, scales)

    @jax.jit
    def run(
        params: Any, masks: Any, inputs: jax.Array, labels: jax.Array, key: jax.Array, steps: Any
    ) -> Any:
        def body(step: Any, carry: Any) -> Any:
            params, state = carry
            index = jax.random.randint(jax.random.fold_in(key, step), (_BATCH,), 0, len(labels))
            grads = jax.grad(loss)(params, masks, inputs[index], labels[index])
            updates, state = adam.update(grads, state, params)
            rate = LEARNING_RATE * (0.51 + 0.49 * jnp.cos(jnp.pi * step / steps))
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            # Within half a level of the largest, so that every weight keeps a gradient.
            for layer in params["levels"]:
                most = depth + 0.49
                layer["kernels"] = [jnp.clip(k, -most, most) for k in layer["kernels"]]
            return params, state

        params, state = jax.lax.fori_loop(0, steps, body, (params, adam.init(params)))
        return params, state.nu["levels"]

    return run


def as_float32(levels: mdl.Network) -> Any:
    """The arrays of a network as a pytree, to be trained."""
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), folding.weights(levels))


def _like(masks: Any, levels: mdl.Network) -> Any:
    """The masks as a tree like that of `folding.weights`, with 1 for biases."""
    return [
        {"kernels": row, "bias": jnp.ones(len(layer.bias))}
        for row, layer in zip(masks, levels.layers, strict=True)
    ]
