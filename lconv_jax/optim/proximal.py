"""Proximal steps of penalties other than L1, which has its own in `threshold`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lconv_jax.optim.strengths import Labels, Values, check_between, common_dtype, elementwise
from lconv_jax.optim.threshold import next_param, shrink

Groups: TypeAlias = str | Callable[[Any], int | Sequence[int]]


def elastic_net_threshold(
    l1: Values, l2: Values, labels: Labels = None
) -> optax.GradientTransformation:
    """Moves parameters towards zero by a threshold, and shrinks what is left by a factor.

        u ← −θ  where |x| ≤ l1,  else (x − l1 sign(x)) / (1 + l2) − θ,    x = θ + u

    This is the proximal step of l1 ‖θ‖₁ + l2/2 ‖θ‖² at θ + u. For f(θ) + λ₁‖θ‖₁ + λ₂/2 ‖θ‖² after
    a gradient step of size η, l1 = ηλ₁ and l2 = ηλ₂. It is `soft_threshold`, followed by the
    division. Like `soft_threshold` it goes last.

    Args:
      l1: a number or a schedule (a function of the number of updates so far), or a mapping from
        labels to these. If the learning rate is a schedule, so is this.
      l2: the same of the squares. Its labels may be other ones.
      labels: which leaf has which label, see `add_l1_subgradient`.

    Returns:
      An `optax.GradientTransformation`. Its state is that of the two parts. Where a parameter's
      type is wider than its update's, so is that of the result.

    Raises:
      ValueError: as `hard_threshold`, for either strength.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import elastic_net_threshold
      >>> params = {"kernel": jnp.array([[1.0, -1.0, 0.25]])}
      >>> grads = {"kernel": jnp.array([[0.0, -0.5, 1.0]])}
      >>> tx = optax.chain(optax.sgd(0.5), elastic_net_threshold(0.5, 1.0))
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[0.25, -0.125, 0.0]]

    Reference:
      Zou and Hastie, [Regularization and variable selection via the elastic
      net](https://doi.org/10.1111/j.1467-9868.2005.00503.x), 2005
    """

    def decay(update: jax.Array, param: jax.Array, value: ArrayLike) -> jax.Array:
        moved, update = next_param(update, param)
        # x / (1 + l2) − x, so that zeros stay as they are.
        value = jnp.asarray(value, moved.dtype)
        return (update - moved * (value / (1 + value))).astype(common_dtype(update, param))

    return optax.chain(elementwise("l1", l1, labels, shrink), elementwise("l2", l2, labels, decay))


def group_soft_threshold(
    threshold: Values, groups: Groups = "outputs", labels: Labels = None
) -> optax.GradientTransformation:
    """Shortens groups of parameters by a threshold, and makes those zero that are shorter.

        u ← −θ  where ‖x‖ ≤ t √n,  else x (1 − t √n / ‖x‖) − θ,    x = θ + u

    ‖x‖ is the Euclidean norm of a group and n its number of weights. This is the proximal step of
    the group lasso t Σ √n ‖θ‖ at θ + u. Groups become 0.0 as a whole. Like `soft_threshold` it goes
    last, with t = ηλ.

    Kernels are [in, out], as those of Flax and Haiku; convolutions are [*window, in, out]:

    - Dense: "outputs" are all weights that enter one unit, "inputs" all that leave one.
    - Convolution: all weights that enter one channel, or all that leave one.
    - Locally connected, [*positions, *window, in, out]: at each of its positions such a layer is a
      dense layer from the window to the channels, and is grouped as one. "outputs" are all weights
      that enter one channel at one position; "inputs" are all that leave one channel at one tap of
      one position's window. An input that several windows see has a group in each of them.

    Kernels of six and more dimensions, if their number is even, count as locally connected. A
    vector counts as a dense layer of one output.

    Args:
      threshold: t, a number or a schedule (a function of the number of updates so far), or a
        mapping from labels to these.
      groups: "outputs" or "inputs"; or, for kernels of any other layout, a function from a kernel
        to the axes that a group extends over. For Equinox, where kernels are [out, in, *window],
        outputs are `lambda kernel: range(1, kernel.ndim)`. For a locally connected layer of a
        signal, [positions, window, in, out], they are `lambda kernel: (1, 2)`.
      labels: which leaf has which label, see `add_l1_subgradient`.

    Returns:
      An `optax.GradientTransformation`, as that of `hard_threshold`. It is not elementwise: inside
      `jax.shard_map`, a group must be on one device.

    Raises:
      ValueError: as `hard_threshold`, and for other words as `groups`.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import group_soft_threshold
      >>> params = {"kernel": jnp.array([[3.0, 0.25], [4.0, -0.25], [0.0, 0.0], [0.0, 0.25]])}
      >>> tx = group_soft_threshold(0.5)
      >>> updates, _ = tx.update(optax.tree.zeros_like(params), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates)["kernel"].T)
      [[2.4 3.2 0.  0. ]
       [0.  0.  0.  0. ]]

    Reference:
      Yuan and Lin, [Model selection and estimation in regression with grouped
      variables](https://doi.org/10.1111/j.1467-9868.2005.00532.x), 2006
    """
    if not callable(groups) and groups not in ("outputs", "inputs"):
        raise ValueError(
            'groups must be "outputs", "inputs" or a function from a kernel to axes, '
            f"got {groups!r}"
        )

    def shorten(update: jax.Array, param: jax.Array, value: ArrayLike) -> jax.Array:
        moved, update = next_param(update, param)
        axes = _axes(groups, param)
        size = math.prod(moved.shape[axis] for axis in axes)
        norm = jnp.sqrt(jnp.sum(jnp.square(moved), axes, keepdims=True))
        limit = jnp.asarray(value, moved.dtype) * math.sqrt(size)
        below = norm <= limit
        shorter = update - moved * (limit / jnp.where(below, 1, norm))
        return jnp.where(below, -param, shorter.astype(common_dtype(update, param)))

    return elementwise("threshold", threshold, labels, shorten)


def _axes(groups: Groups, kernel: Any) -> tuple[int, ...]:
    """The axes of a kernel that one group extends over."""
    ndim = kernel.ndim
    if callable(groups):
        axes = groups(kernel)
        return tuple(axes) if isinstance(axes, Sequence) else (axes,)
    if ndim < 2:
        return tuple(range(ndim)) if groups == "outputs" else ()
    is_local = ndim >= 6 and ndim % 2 == 0
    if groups == "outputs":
        positions = (ndim - 2) // 2 if is_local else 0
        return tuple(range(positions, ndim - 1))
    window = () if is_local else tuple(range(ndim - 2))
    return (*window, ndim - 1)


def reweighted_soft_threshold(
    threshold: Values, epsilon: ArrayLike, labels: Labels = None
) -> optax.GradientTransformation:
    """Soft thresholds that are smaller for larger weights.

        u ← −θ  where |x| ≤ s,  else u − s sign(x),    x = θ + u,  s = t ε / (|θ| + ε)

    This is the proximal step of Σ s |θ| at θ + u, with s from θ before the step. The weights of the
    paper are 1 / (|θ| + ε); with the factor ε a zero has the threshold t itself, and ε → ∞ is
    `soft_threshold`. In the paper they change each time that a problem is solved, here at each
    step. With t = ηλ the fixed points are the stationary points of
    f(θ) + λε Σ log(1 + |θ|/ε), which is not convex: the larger a weight, the smaller its bias, and
    where the zeros are depends on the start. Like `soft_threshold` it goes last.

    Args:
      threshold: t, a number or a schedule (a function of the number of updates so far), or a
        mapping from labels to these.
      epsilon: ε, a number above zero. The paper's choice is somewhat below the size of the weights
        that should stay.
      labels: which leaf has which label, see `add_l1_subgradient`.

    Returns:
      An `optax.GradientTransformation`, as that of `hard_threshold`.

    Raises:
      ValueError: as `hard_threshold`, and if ε is not a finite number above zero.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lconv_jax import reweighted_soft_threshold
      >>> params = {"kernel": jnp.array([[3.0, 1.0, -0.25]])}
      >>> tx = reweighted_soft_threshold(0.5, epsilon=1.0)
      >>> updates, _ = tx.update(optax.tree.zeros_like(params), tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[2.875, 0.75, 0.0]]

    Reference:
      Candès, Wakin and Boyd, [Enhancing sparsity by reweighted ℓ1
      minimization](https://arxiv.org/abs/0711.1612), 2008, Section 2
    """
    check_between("epsilon", epsilon, 0, math.inf)

    def reweighted(update: jax.Array, param: jax.Array, value: ArrayLike) -> jax.Array:
        size = jnp.abs(param.astype(jnp.promote_types(param.dtype, jnp.float32)))
        size_0 = jnp.asarray(epsilon, size.dtype)
        return shrink(update, param, jnp.asarray(value, size.dtype) * (size_0 / (size + size_0)))

    return elementwise("threshold", threshold, labels, reweighted)
