"""A folded network for other programs: on examples as they are stored, its arrays named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from flax import linen as nn
from numpy.typing import NDArray

from lconv_jax.compression import folding
from lconv_jax.mdl.network import Network
from lconv_jax.rundir.directory import version_of

if TYPE_CHECKING:
    from lconv_jax.saved_run import SavedRun

# The model's input for a stored byte x is x / 63.75 − 2, as `data.normalize` has it; stored
# floating-point numbers are the input as they are.
_SCALE = {"uint8": (1 / 63.75, -2.0), "float32": (1.0, 0.0)}


class Portable(NamedTuple):
    """A network with all that it takes to evaluate it on stored examples.

    network: floating-point weights with batch normalisation folded in.
    names: of each layer the names of its terms, as ("block3/conv2", "block3/conv_shortcut"); the
      bias goes by the first.
    dtype: of stored examples, "uint8" or "float32".
    scale, offset: the network's input for a stored number x is scale · x + offset.
    order: [pixels]; the network sees pixel order[i] of an example as pixel i. None: as it is.
    about: what the network is, for a person to read.
    """

    network: Network
    names: tuple[tuple[str, ...], ...]
    dtype: str
    scale: float
    offset: float
    order: NDArray[np.int64] | None
    about: dict[str, Any]


def from_variables(
    model: nn.Module,
    variables: Mapping[str, Any],
    image_shape: tuple[int, ...],
    dtype: str,
    *,
    order: NDArray[np.int64] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Portable:
    """The network of a model in evaluation mode.

    A permutation of the pixels goes into the rows of a dense first layer, and is kept as `order`
    before a convolution or a local layer.

    Args:
      model: made by `models.create`.
      variables: {"params", "batch_stats"} of `model`.
      image_shape: [*sides, channels] of an example.
      dtype: of stored examples, "uint8" or "float32".
      order: as of `Portable`.
      about: as of `Portable`.

    Raises:
      ValueError: as `folding.fold`.
    """
    code = "centred" if dtype == "uint8" else "fixed"
    network = folding.fold(model, variables, image_shape, input_code=code)
    if order is not None and network.layers[0].terms[0].kind == "dense":
        network, order = folding.unpermute(network, order), None
    names, scale = folding.layer_names(model), _SCALE[dtype]
    return Portable(network, names, dtype, *scale, order, dict(about or {}))


def from_run(run: SavedRun) -> Portable:
    """The network of a run, at its checkpoint, with the statistics that the run evaluates with.

    Raises:
      ConfigError, CheckpointError, DataError: as `SavedRun.batch_stats`.
    """
    about: dict[str, Any] = {
        "model": run.config.model.name,
        "data": os.path.basename(run.dataset.name),
        "step": run.step,
        "lconv_jax": version_of("lconv_jax"),
    }
    if run.dataset.class_names:
        about["classes"] = list(run.dataset.class_names)
    return from_variables(
        run.model,
        {"params": run.params, "batch_stats": run.batch_stats},
        run.dataset.image_shape,
        "uint8" if run.dataset.train.images.dtype == np.uint8 else "float32",
        order=run.permutation,
        about=about,
    )
