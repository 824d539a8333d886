"""Networks as pure functions of their parameters: convolutional, local, and fully connected.

`create` builds one by name, `count_weights` and `base_channels` size it, `embed` and `project`
carry weights between a convolutional network and its local and fully connected twins.
"""

from lconv_jax.models.counting import (
    base_channels,
    count_uses,
    count_weights,
    first_layer,
    kernels,
    layer_name,
    layer_of,
)
from lconv_jax.models.embedding import (
    dense_from_local,
    embed,
    local_from_dense,
    local_from_shared,
    project,
    shared_from_local,
    window_taps,
)
from lconv_jax.models.registry import NAMES, create

__all__ = [
    "NAMES",
    "base_channels",
    "count_uses",
    "count_weights",
    "create",
    "dense_from_local",
    "embed",
    "first_layer",
    "kernels",
    "layer_name",
    "layer_of",
    "local_from_dense",
    "local_from_shared",
    "project",
    "shared_from_local",
    "window_taps",
]
