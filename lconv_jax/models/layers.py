"""The layers every model is made of: shared and local convolutions, dense layers, normalisation."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Dtype = Any
# The units of a layer that are there, by their number among all of them, or None for all.
Kept = tuple[int, ...] | None


def param_dtype(dtype: Dtype) -> Dtype:
    """The dtype of parameters and statistics: float32, or float64 when `dtype` is float64."""
    return jnp.promote_types(dtype, jnp.float32)


def output_sides(sides: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """The sides of a SAME convolution's output: ceil(side / stride)."""
    return tuple(-(-side // stride) for side in sides)


def product(a: jax.Array, b: jax.Array, dtype: Dtype) -> jax.Array:
    """The matrix product of a [..., M, K] and b [..., K, N], rounded to `dtype` before.

    With a `dtype` of 16 bits sums and result are float32, and so are the gradients: theirs are
    products of the same kind. Without that a weight's gradient would be rounded to 16 bits, and on
    CPUs with instructions for bfloat16 the product would take longer than in float32 instead of
    about half as long.
    """
    if jnp.finfo(dtype).bits > 16:
        return a.astype(dtype) @ b.astype(dtype)
    return _narrow_product(a, b, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow_product(a: jax.Array, b: jax.Array, dtype: Dtype) -> jax.Array:
    return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


def _forward(a: jax.Array, b: jax.Array, dtype: Dtype) -> tuple[jax.Array, Any]:
    # An empty array has only a type, that of the gradient.
    types = jnp.empty(0, a.dtype), jnp.empty(0, b.dtype)
    return _narrow_product(a, b, dtype), (a.astype(dtype), b.astype(dtype), types)


def _backward(dtype: Dtype, kept: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b, (like_a, like_b) = kept
    grad_a = _narrow_product(grad, b.swapaxes(-1, -2), dtype)
    grad_b = _narrow_product(_transposed(a), grad, dtype)
    return grad_a.astype(like_a.dtype), grad_b.astype(like_b.dtype)


def _transposed(a: jax.Array) -> jax.Array:
    """`a.swapaxes(-1, -2)`, written so that XLA does not make it a part of the product.

    The CPU has products in bfloat16 for a first factor that is not transposed. Of one that is, XLA
    would convert both factors to float32.
    """
    rows, columns = a.shape[-2:]
    if rows % 2:
        return a.swapaxes(-1, -2)
    halves = a.reshape(*a.shape[:-2], 2, rows // 2, columns)
    return jnp.moveaxis(halves, -1, -3).reshape(*a.shape[:-2], columns, rows)


_narrow_product.defvjp(_forward, _backward)


def unfold(x: jax.Array, window: tuple[int, ...], stride: int) -> jax.Array:
    """The SAME-padded window around every output position.

    Args:
        x: [B, *sides, C].
        window: the window's side along each spatial axis.
        stride: the same along every spatial axis.

    Returns:
        [B, *output_sides(sides, stride), prod(window) * C], with the last axis in row-major
        [*window, C] order, which is that of a kernel [*window, C, C_out].
    """
    rank = len(window)
    pads = lax.padtype_to_pads(x.shape[1:-1], window, (stride,) * rank, "SAME")
    # One axis at a time, last axis first: sum(window) slices instead of prod(window).
    for axis in range(rank, 0, -1):
        size = -(-x.shape[axis] // stride)
        x = jnp.pad(x, [pads[axis - 1] if i == axis else (0, 0) for i in range(x.ndim)])
        x = jnp.concatenate(
            [
                lax.slice_in_dim(x, tap, tap + (size - 1) * stride + 1, stride, axis)
                for tap in range(window[axis - 1])
            ],
            axis=-1,
        )
    return x


def unfolded_convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`lax_convolve` as one matrix product, at the price of prod(window) copies of the input."""
    windows = unfold(x, kernel.shape[:-2], stride)
    flat = windows.reshape(-1, windows.shape[-1])
    y = product(flat, kernel.reshape(-1, kernel.shape[-1]), x.dtype).astype(x.dtype)
    return y.reshape(*windows.shape[:-1], -1)


def lax_convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """SAME convolution of x [B, *sides, C] with a kernel [*window, C, C_out], by XLA."""
    rank = x.ndim - 2
    channels_last = (0, rank + 1, *range(1, rank + 1))
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * rank,
        "SAME",
        dimension_numbers=lax.ConvDimensionNumbers(
            channels_last, (rank + 1, rank, *range(rank)), channels_last
        ),
    )


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """SAME convolution of x [B, *sides, C] with a kernel [*window, C, C_out].

    Uses XLA's convolution, except on the CPU.
    """
    # XLA's CPU convolution is 2 to 31 times slower inside a compiled loop, where training steps
    # live, than alone: a step of d_conv on 32×32×3 takes 0.53 s alone and 16.7 s in a loop, where
    # one matrix product makes it 0.31 s (benchmarks/conv_in_loop.md). The choice is made when the
    # program is lowered, so it follows the device the program is compiled for.
    return lax.platform_dependent(
        x,
        kernel,
        # Rematerialised: the unfolded input would otherwise be a residual of the conditional,
        # and every platform would store an array of that shape, if only of zeros.
        cpu=jax.checkpoint(partial(unfolded_convolve, stride=stride)),
        default=partial(lax_convolve, stride=stride),
    )


def local_convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """SAME convolution without weight sharing.

    Args:
        x: [B, *sides, C].
        kernel: [*output_sides(sides, stride), *window, C, C_out].
        stride: the same along every spatial axis.

    Returns:
        [B, *output_sides(sides, stride), C_out].
    """
    rank = x.ndim - 2
    window, features = kernel.shape[rank:-2], kernel.shape[-1]
    windows = unfold(x, window, stride)
    batch, sides = windows.shape[0], windows.shape[1:-1]
    # Positions go first, so that each is one plain matrix product over the batch. XLA's own local
    # convolution, behind flax's ConvLocal, takes patches by convolution: a step of d_local on
    # 32×32×3 is 4.0 s alone and 1.1 s in a loop on the CPU, where this is 0.7 s and 0.6 s
    # (benchmarks/conv_in_loop.md).
    y = product(
        windows.reshape(batch, -1, windows.shape[-1]).swapaxes(0, 1),
        kernel.reshape(-1, windows.shape[-1], features),
        x.dtype,
    )
    return y.astype(x.dtype).swapaxes(0, 1).reshape(batch, *sides, features)


class Conv(nn.Module):
    """A square SAME convolution without bias, over any number of spatial axes.

    Attributes:
        features: output channels.
        kernel_size: side of the window along every spatial axis.
        stride: stride along every spatial axis.
        shared: one kernel [*window, C, C_out] for every position, as in `nn.Conv`; or, if False,
            one each: [*output sides, *window, C, C_out]. The taps of a local kernel that fall on
            the padding exist, see no input and get no gradient.
        dtype: of the product. The kernel is float32 (float64 if `dtype` is).
    """

    features: int
    kernel_size: int
    stride: int = 1
    shared: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, *sides, C] → [B, *output sides, features] in `dtype`."""
        rank = x.ndim - 2
        shape = (*(self.kernel_size,) * rank, x.shape[-1], self.features)
        positions = () if self.shared else output_sides(x.shape[1:-1], self.stride)
        # Positions are not part of a unit's receptive field: left among the other axes they
        # would count in its fan-in, and a local layer would start with far smaller weights.
        init = nn.initializers.lecun_normal(batch_axis=tuple(range(len(positions))))
        kernel = self.param("kernel", init, positions + shape, param_dtype(self.dtype))
        apply = convolve if self.shared else local_convolve
        return apply(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


def dense(features: int, *, name: str, dtype: Dtype, use_bias: bool = False) -> nn.Dense:
    """A dense layer with float32 parameters (float64 if `dtype` is) and a `product` in `dtype`."""

    def dot_general(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        return product(x, kernel, dtype)

    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=param_dtype(dtype),
        param_dtype=param_dtype(dtype),
        dot_general=dot_general,
        name=name,
    )


def dropout(
    x: jax.Array, rate: float, *, train: bool, of: int | None = None, kept: Kept = None
) -> jax.Array:
    """Dropout of the units x [B, units], in training mode only.

    Args:
        x: [B, units].
        rate: the probability of a zero.
        train: whether anything is dropped.
        of, kept: where x holds the units `kept` of a layer of `of`, each is dropped when it would
            be if all of them were there.
    """
    drop = nn.Dropout(rate, deterministic=not train)
    if kept is None or not train or not rate:
        return drop(x)
    index = jnp.asarray(kept)
    whole = jnp.zeros((x.shape[0], of), x.dtype).at[:, index].set(x)
    return drop(whole)[:, index]


class BatchNorm(nn.Module):
    """Batch normalisation of the last axis, with the variables of `nn.BatchNorm`.

    It computes what `nn.BatchNorm(use_fast_variance=False)` does, written so that its gradient
    takes four passes over arrays of x's size on the CPU in place of eight: of the mean's two
    gradients one is zero, and one a multiple of the bias's (docs/speed.md).

    Attributes:
        use_running_average: whether to use the running statistics and leave them as they are, or
            the batch's and move the running ones towards them.
        momentum: running ← momentum · running + (1 − momentum) · batch, with the biased variance.
        dtype: of parameters, statistics, computation and result.
        epsilon: is added to the variance.
    """

    use_running_average: bool
    momentum: float
    dtype: Dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[…, C] → […, C] in `dtype`."""
        shape, x = x.shape[-1:], x.astype(self.dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self.dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self.dtype)
        scale = self.param("scale", nn.initializers.ones, shape, self.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.dtype)
        if self.use_running_average:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            return (x - running_mean.value) * factor + bias
        batch = tuple(range(x.ndim - 1))
        mean = jnp.mean(x, batch)
        fixed = lax.stop_gradient(mean)
        centred = x - fixed
        # The mean of the squares, not E[x²] − E[x]², which cancels for near-constant units, of
        # which sparse layers are full. Its gradient by the mean is −2 · E[centred] = 0.
        var = jnp.mean(jnp.square(centred), batch)
        factor = scale * lax.rsqrt(var + self.epsilon)
        if not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var
        # The difference is zero, and is there for the gradient: by the mean, that is −factor
        # times the bias's, where `x - mean` above would sum factor · δ over the batch once more.
        return centred * factor + (bias - (mean - fixed) * lax.stop_gradient(factor))


def batch_norm(layer: str, *, train: bool, momentum: float, dtype: Dtype) -> BatchNorm:
    """The normalisation `bn_<layer>`, in float32 (float64 if `dtype` is) whatever it is given."""
    return BatchNorm(not train, momentum, param_dtype(dtype), name=f"bn_{layer}")


def check_input(x: jax.Array) -> None:
    """Raises ValueError unless x is floating and [B, *sides, C] with at least one side."""
    if x.ndim < 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            "a model takes floating point images [B, H, W, C] or signals [B, L, C], "
            f"got {x.dtype} of shape {x.shape}"
        )
