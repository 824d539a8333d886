"""From a run directory to its newest state, and from a state to the network it stands for."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from lconv_jax import mdl
from lconv_jax.compression import certify, folding
from lconv_jax.parallel import distributed
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.rundir.directory import CHECKPOINTS, check_is_run, read_config
from lconv_jax.training import inputs, programs
from lconv_jax.training.setup import Setup, prepare
from lconv_jax.training.shrinker import Shrinker
from lconv_jax.training.state import TrainState

# Largest levels that a description on the way is tried with; `lconv_jax.describe` tries more.
_DEPTHS = (3, 7, 15)


def restore(run_dir: str) -> tuple[Setup, TrainState, int]:
    """The newest checkpoint of a run directory: the run's setup, the state, and its step.

    Raises:
      ValueError: the directory holds no run, or none with a checkpoint.
    """
    check_is_run(run_dir)
    setup = prepare(read_config(run_dir), begins=False)
    with Checkpoints(os.path.join(run_dir, CHECKPOINTS)) as checkpoints:
        found = checkpoints.restore(Shrinker(setup).stored_shapes)
    if found is None:
        raise ValueError(f"{run_dir} has no checkpoint yet; let the run save one first")
    step, state = found
    return setup, state, step


def restore_network(run_dir: str) -> tuple[Setup, mdl.Network, int]:
    """The setup of a run directory, its newest network in floating point, and that one's step.

    Raises:
      ValueError: as `restore`; or the network cannot be described (see `export_state`).
    """
    setup, state, step = restore(run_dir)
    return setup, export_state(setup, state), step


def export_state(setup: Setup, state: Any) -> mdl.Network:
    """The floating-point network of a training state, on images as they are stored.

    Normalisation is folded in with the statistics that evaluation uses at this step, and a
    permutation of the pixels is undone.

    Raises:
      ValueError: the run permutes the pixels of a convolution or a local layer.
    """
    dataset, model = setup.dataset, setup.model
    stats = programs.evaluation_stats(setup, state.params, state.batch_stats, int(state.step))
    variables = distributed.fetch({"params": state.params, "batch_stats": stats})
    network = folding.fold(model, variables, dataset.image_shape, input_code="centred")
    if dataset.train.images.dtype != np.uint8:
        network = network._replace(input_code="fixed")
    elif all(term.kind == "dense" for layer in network.layers for term in layer.terms):
        # Without padding, dark backgrounds may as well be zero: biases become small numbers.
        network = folding.fold(model, variables, dataset.image_shape, input_code="black")
    if (order := inputs.pixel_order(setup.config, dataset.image_shape)) is not None:
        network = folding.unpermute(network, order)
    return network


def describe(setup: Setup, state: Any) -> dict[str, float]:
    """The certificate of the network as it is, rounded: metrics `mdl/bits`, `mdl/kl_bound`, …"""
    network = export_state(setup, distributed.fetch(state))
    _, certificate = certify.shortest_description(
        network, setup.dataset.train, setup.config.log.delta, depths=_DEPTHS, refine=False
    )
    return certificate.metrics()
