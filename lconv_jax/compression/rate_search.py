"""The search that trains networks for the bits of their file: loss and rate in one objective.

Straight-through training as in `search`, with λ times the rate added to the loss. λ rises from one
file to the next. Weights that are zero may come back for as long as λ is held; before a file is
written, zeros are fixed, and the other weights are trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lconv_jax import data, mdl
from lconv_jax.compression import certify, folding
from lconv_jax.compression.levels import (
    Scales,
    count_levels,
    integer_network,
    remove,
)
from lconv_jax.compression.rate import network_bits
from lconv_jax.compression.search import (
    B2,
    LEARNING_RATE,
    as_float32,
    compact,
    cross_entropy,
    examples,
    start,
)

_BATCH = 128
# While zeros are not fixed, the learning rate falls to this share of the first; then to `_LAST`.
_HELD, _LAST = 0.3, 0.02
# The path ends when the bound is this much above the best.
_GIVE_UP = 0.03


class Options(NamedTuple):
    """How a search goes.

    Attributes:
      depth: largest level of a weight.
      bias_bits: binary digits of a layer's largest bias.
      seed: of the order of the examples.
      steps: for each λ, and half as many again with zeros fixed.
      start: weights that are left, by pruning, when rates begin to count.
      prices: λ in nats a bit, for each file in turn.
    """

    depth: int = 3
    bias_bits: int = 4
    seed: int = 0
    steps: int = 2000
    start: int = 600
    prices: tuple[float, ...] = (4e-5, 8e-5, 1.2e-4, 1.6e-4)


DEFAULTS = Options()


def search(
    network: mdl.Network, train: data.Split, delta: float, options: Options = DEFAULTS
) -> Iterator[tuple[bytes, certify.Certificate]]:
    """Files of networks trained at ever higher prices of a bit, with what each proves.

    Dense networks are first pruned in rounds, as in `search`, since a layer whose weights are
    mostly not zero has cheap weights and dear zeros, and would stay so.

    Args:
      network: floating-point weights.
      train: all training examples, as stored.
      delta: the probability that the bound fails.
      options: of the search.
    """
    depth, steps = options.depth, options.steps
    levels, scales = start(network, depth, options.bias_bits)
    train_on = examples(train, network.input_code)
    keys = iter(jax.random.split(jax.random.key(options.seed), 64 + 2 * len(options.prices)))
    temperature = jnp.zeros(())
    run = make_cycle(levels, scales, depth)
    while True:
        params = {"levels": as_float32(levels), "temperature": temperature}
        masks = [[kernel != 0 for kernel in layer["kernels"]] for layer in params["levels"]]
        params, moments = run(params, masks, *train_on, next(keys), steps // 4, 0.0, (1.0, _HELD))
        levels, temperature = _network(levels, params["levels"]), params["temperature"]
        weights = count_levels(levels)
        if weights <= options.start:
            break
        share = max(0.5 if weights > 4 * options.start else 0.7, options.start / weights)
        levels = remove(levels, jax.device_get(moments), share)
        smaller = compact(levels)
        if smaller is not levels:
            levels = smaller  # compiled anew for the new shapes
            run = make_cycle(levels, scales, depth)
    best, params = 1.0, {"levels": as_float32(levels), "temperature": temperature}
    everywhere = [[jnp.ones(t.kernel.shape, bool) for t in layer.terms] for layer in levels.layers]
    # A price holds from the first step of its cycle. If it rose from zero, removed weights would
    # come back at no cost, and with many of them the next would be cheap as well.
    for price in options.prices:
        params, _ = run(params, everywhere, *train_on, next(keys), steps, price, (1.0, _HELD))
        fixed = nonzeros(params["levels"])
        last, _ = run(params, fixed, *train_on, next(keys), steps // 2, price, (_HELD, _LAST))
        file = mdl.encode(integer_network(_network(levels, last["levels"]), scales))
        certificate = certify.certify(file, train, delta)
        yield file, certificate
        found = certificate.bounds()["kl"]
        best = min(best, found)
        if found > best + _GIVE_UP:
            return


def make_cycle(levels: mdl.Network, scales: Scales, depth: int) -> Any:
    """The compiled (params, masks, inputs, labels, key, steps, price, rates) -> (params, moments).

    Adam on the cross-entropy of the rounded network plus `price` times its rate, on batches drawn
    with replacement. The learning rate goes from the first to the second of `rates`, shares of the
    largest, along half a cosine. `params` are the levels and the logarithm of a factor on the
    logits; weights outside `masks` are returned as zeros. `moments` are Adam's second ones.
    """
    adam = optax.scale_by_adam(b2=B2)

    def loss(params: Any, masks: Any, x: jax.Array, y: jax.Array, price: Any) -> jax.Array:
        bits = network_bits(folding.with_weights(levels, params["levels"]), depth)
        return cross_entropy(levels, scales, params, masks, x, y) + price * bits

    @jax.jit
    def run(
        params: Any, masks: Any, inputs: jax.Array, labels: jax.Array, key: jax.Array, *rest: Any
    ) -> Any:
        steps, price, (first, last) = rest

        def body(step: Any, carry: Any) -> Any:
            params, state = carry
            index = jax.random.randint(jax.random.fold_in(key, step), (_BATCH,), 0, len(labels))
            grads = jax.grad(loss)(params, masks, inputs[index], labels[index], price)
            updates, state = adam.update(grads, state, params)
            share = last + (first - last) * (0.5 + 0.5 * jnp.cos(jnp.pi * step / steps))
            params = jax.tree.map(lambda p, u: p - LEARNING_RATE * share * u, params, updates)
            return _confined(params, masks, depth), state

        start = _confined(params, masks, depth)
        params, state = jax.lax.fori_loop(0, steps, body, (start, adam.init(start)))
        return params, state.nu["levels"]

    return run


def nonzeros(tree: Any) -> Any:
    """Masks of the weights that do not round to zero, like those of `levels.rounded`."""
    return [[jnp.round(kernel) != 0 for kernel in layer["kernels"]] for layer in tree]


def _confined(params: Any, masks: Any, depth: int) -> Any:
    """Masked weights are zero, the others within half a level of the largest."""
    most = depth + 0.49
    tree = [
        {
            "kernels": [
                jnp.clip(kernel, -most, most) * mask
                for kernel, mask in zip(layer["kernels"], row, strict=True)
            ],
            "bias": layer["bias"],
        }
        for layer, row in zip(params["levels"], masks, strict=True)
    ]
    return params | {"levels": tree}


def _network(levels: mdl.Network, tree: Any) -> mdl.Network:
    return folding.with_weights(levels, jax.device_get(tree))
