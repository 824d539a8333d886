"""The canonical form of an integer network in a file, without parts that no prediction needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lconv_jax.mdl.network import (
    Layer,
    Network,
    Term,
    check_integers,
    output_shapes,
    term_output,
    unfold,
)


def canonical(network: Network) -> Network:
    """An integer network with the same outputs, without dead units.

    A hidden unit goes if nothing reads it, or if it is zero for every input: no weights come in and
    its bias is not positive. One whose weights are all zero and whose bias is positive is a
    constant, and moves into the biases of its readers, where these are dense. Taps of local layers
    that lie on the padding, and read nothing, become zero. A local layer, or one that a local layer
    reads, keeps a unit even if all are dead.

    Raises:
      ValueError: the network is not made of integers, or its shapes do not fit.
    """
    check_integers(network)
    output_shapes(network)
    network = _without_padding_taps(network)
    while True:
        smaller = network
        for index in range(1, len(network.layers)):
            smaller = _drop_dead(smaller, index)
        if _sizes(smaller) == _sizes(network):
            return smaller
        network = smaller


def reorder(network: Network, index: int, units: NDArray[Any]) -> Network:
    """The network with only these units of layer `index`, counted from 1, in this order."""
    layers = list(network.layers)
    layer = layers[index - 1]
    terms = tuple(term._replace(kernel=term.kernel[..., units]) for term in layer.terms)
    layers[index - 1] = layer._replace(terms=terms, bias=layer.bias[units])
    for later in range(index, len(layers)):
        terms = tuple(
            _select_inputs(term, len(layer.bias), units) if term.source == index else term
            for term in layers[later].terms
        )
        layers[later] = layers[later]._replace(terms=terms)
    return network._replace(layers=tuple(layers))


def _select_inputs(term: Term, channels: int, units: NDArray[Any]) -> Term:
    kernel = term.kernel
    if term.kind != "dense":
        return term._replace(kernel=kernel[..., units, :])
    positions = len(kernel) // max(1, channels)
    by_position = kernel.reshape(positions, channels, kernel.shape[1])[:, units]
    return term._replace(kernel=by_position.reshape(positions * len(units), kernel.shape[1]))


def _sizes(network: Network) -> list[int]:
    return [len(layer.bias) for layer in network.layers]


def _drop_dead(network: Network, index: int) -> Network:
    layer = network.layers[index - 1]
    count = len(layer.bias)
    readers = [
        term for later in network.layers[index:] for term in later.terms if term.source == index
    ]
    is_read = np.zeros(count, bool)
    for term in readers:
        is_read |= (term.kernel != 0).reshape(_by_channel(term, count)).any((0, 2))
    has_weights = np.zeros(count, bool)
    for term in layer.terms:
        has_weights |= (term.kernel != 0).any(tuple(range(term.kernel.ndim - 1)))
    constant = ~has_weights & (layer.bias > 0)
    foldable = all(term.kind == "dense" for term in readers)
    if foldable and (constant & is_read).any():
        folded = _fold_constants(network, index, constant)
        if folded is not network:
            network, is_read = folded, is_read & ~constant
    alive = is_read & (has_weights | constant)
    # `evaluate` takes no local layer without units or inputs.
    if count and any(term.kind == "local" for term in (*layer.terms, *readers)):
        alive[0] |= not alive.any()
    return network if alive.all() else reorder(network, index, np.flatnonzero(alive))


def _by_channel(term: Term, channels: int) -> tuple[int, int, int]:
    """A shape that splits a kernel's elements into […, input channel, units]."""
    units = term.kernel.shape[-1]
    return (term.kernel.size // max(1, channels * units), channels, units)


def _fold_constants(network: Network, index: int, constant: NDArray[np.bool_]) -> Network:
    """Moves the constant units of a layer into its dense readers' biases."""
    layer = network.layers[index - 1]
    values = np.where(constant, layer.bias, 0).astype(object) >> layer.shift
    if layer.pool:
        values = values * math.prod(term_output(layer.terms[0], output_shapes(network))[:-1])
    layers = list(network.layers)
    for later in range(index, len(layers)):
        bias, terms = layers[later].bias.astype(object), []
        for term in layers[later].terms:
            if term.source == index:
                kernel = term.kernel.reshape(_by_channel(term, len(values)))
                bias = bias + (kernel.sum(0, dtype=object) * values[:, None]).sum(0)
                kernel = np.where(constant[:, None], 0, kernel)
                term = term._replace(kernel=kernel.reshape(term.kernel.shape))
            terms.append(term)
        if any(abs(value) >= 2**63 for value in bias):
            return network  # too large to be moved; the unit stays
        layers[later] = Layer(tuple(terms), bias.astype(np.int64), *layers[later][2:])
    return network._replace(layers=tuple(layers))


def _without_padding_taps(network: Network) -> Network:
    shapes = output_shapes(network)

    def clean(term: Term) -> Term:
        if term.kind != "local":
            return term
        window = term.kernel.shape[len(shapes[term.source]) - 1 : -2]
        seen = unfold(np.ones((1, *shapes[term.source]), bool), window, term.stride)[0]
        kernel = np.where(seen.reshape(*term.kernel.shape[:-1], 1), term.kernel, 0)
        return term._replace(kernel=kernel)

    layers = [layer._replace(terms=tuple(map(clean, layer.terms))) for layer in network.layers]
    return network._replace(layers=tuple(layers))
