"""The models in PyTorch, as plain functions of tensors, with the weights of their JAX twins.

Images are [B, C, H, W], as is usual in PyTorch. Parameters keep the names of Flax, joined by "/".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import torch
from torch.nn import functional

from benchmarks.cases import Case
from lconv_jax.models.families import d_convs, s_convs

Tensors = dict[str, torch.Tensor]
Local = Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]


def from_jax(case: Case, params: Any) -> Tensors:
    """The parameters in PyTorch's layouts, each a copy."""
    flat = flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")
    tensors = {}
    side = case.image_shape[:2]  # of what the first dense layer reads
    for conv in _convs(case):
        side = conv.output((*side, 0))[:2]
    for name, array in flat.items():
        value = np.asarray(array)
        if value.ndim == 4:  # shared: [h, w, C, out] → [out, C, h, w]
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 6:  # local: [H, W, h, w, C, out] → [H · W, C · h · w, out]
            value = value.transpose(0, 1, 4, 2, 3, 5)
            value = value.reshape(value.shape[0] * value.shape[1], -1, value.shape[-1])
        elif name == "conv1/kernel" or (name == "fc1/kernel" and _convs(case)):
            # A dense layer that reads an image: rows [H, W, C] → [C, H, W].
            sides = case.image_shape[:2] if name == "conv1/kernel" else side
            value = value.reshape(*sides, -1, value.shape[-1]).transpose(2, 0, 1, 3)
            value = value.reshape(-1, value.shape[-1])
        tensors[name] = torch.tensor(np.ascontiguousarray(value), requires_grad=True)
    return tensors


def _convs(case: Case) -> tuple[Any, ...]:
    """The convolutions of a convolutional or local family member."""
    family, _, kind = case.model.partition("_")
    if kind not in ("conv", "local"):
        return ()
    return (d_convs if family == "d" else s_convs)(case.channels())


def _padded(x: torch.Tensor, window: int, stride: int) -> tuple[torch.Tensor, int]:
    """x as it is, or padded, and the symmetric padding that is still to be done, for SAME."""
    totals = [max((-(-side // stride) - 1) * stride + window - side, 0) for side in x.shape[2:]]
    if totals[0] == totals[1] and totals[0] % 2 == 0:
        return x, totals[0] // 2
    pads = [pad for total in reversed(totals) for pad in (total // 2, total - total // 2)]
    return functional.pad(x, pads), 0


def _conv(x: torch.Tensor, kernel: torch.Tensor, stride: int) -> torch.Tensor:
    x, padding = _padded(x, kernel.shape[-1], stride)
    return functional.conv2d(x, kernel, stride=stride, padding=padding)


def _unfold(x: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """[B, C · taps, P]."""
    x, padding = _padded(x, window, stride)
    return functional.unfold(x, window, stride=stride, padding=padding)


def local_product(x: torch.Tensor, kernel: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """A local layer, with a kernel [P, C · taps, out], by `unfold` and one batched product."""
    y = torch.bmm(_unfold(x, window, stride).permute(2, 0, 1), kernel)  # [P, B, out]
    height = -(-x.shape[2] // stride)
    return y.permute(1, 2, 0).reshape(x.shape[0], kernel.shape[-1], height, -1)


def local_multiply(x: torch.Tensor, kernel: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """The same by unfolding, multiplying with the kernel element by element, and summing."""
    taps = _unfold(x, window, stride).transpose(1, 2)  # [B, P, C · taps]
    y = (taps.unsqueeze(-1) * kernel).sum(2)  # [B, P, out]
    height = -(-x.shape[2] // stride)
    return y.transpose(1, 2).reshape(x.shape[0], kernel.shape[-1], height, -1)


def running_statistics(params: Mapping[str, torch.Tensor]) -> Tensors:
    """Running mean and variance of each batch normalisation, at the start."""
    scales = {name[: -len("scale")]: x for name, x in params.items() if name.endswith("/scale")}
    means = {f"{name}mean": torch.zeros(len(scale)) for name, scale in scales.items()}
    return means | {f"{name}var": torch.ones(len(scale)) for name, scale in scales.items()}


def make_forward(
    case: Case, statistics: Tensors, local: Local = local_product
) -> Callable[..., torch.Tensor]:
    """The function (params, images [B, C, H, W]) -> logits of the case's model in training mode.

    It moves the running `statistics` on, in place.
    """

    def bn(x: torch.Tensor, params: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        mean, var = (statistics[f"{name}/{part}"] for part in ("mean", "var"))
        scale, bias = (params[f"{name}/{part}"] for part in ("scale", "bias"))
        return functional.batch_norm(x, mean, var, scale, bias, True, momentum=0.1, eps=1e-5)

    return _resnet18(bn) if case.model == "resnet18" else _family(case, bn, local)


def _family(case: Case, bn: Callable[..., torch.Tensor], local: Local) -> Callable[..., Any]:
    convs = _convs(case)

    def forward(params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if not convs:
            x = torch.relu(bn(x.flatten(1) @ params["conv1/kernel"], params, "bn_conv1"))
        for number, conv in enumerate(convs, 1):
            kernel = params[f"conv{number}/kernel"]
            if case.model.endswith("local"):
                x = local(x, kernel, conv.kernel_size, conv.stride)
            else:
                x = _conv(x, kernel, conv.stride)
            x = torch.relu(bn(x, params, f"bn_conv{number}"))
        x = torch.relu(bn(x.flatten(1) @ params["fc1/kernel"], params, "bn_fc1"))
        return x @ params["fc2/kernel"] + params["fc2/bias"]

    return forward


def _resnet18(bn: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def forward(params: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        def conv_bn(x: torch.Tensor, block: str, name: str, stride: int) -> torch.Tensor:
            y = _conv(x, params[f"{block}{name}/kernel"], stride)
            return bn(y, params, f"{block}bn_{name}")

        x = torch.relu(conv_bn(x, "", "conv1", 1))
        for number in range(8):
            block, stride = f"block{number + 1}/", 2 if number in (2, 4, 6) else 1
            y = torch.relu(conv_bn(x, block, "conv1", stride))
            y = conv_bn(y, block, "conv2", 1)
            if f"{block}conv_shortcut/kernel" in params:
                x = conv_bn(x, block, "conv_shortcut", stride)
            x = torch.relu(x + y)
        return x.mean((2, 3)) @ params["fc1/kernel"] + params["fc1/bias"]

    return forward


def beta_lasso_(
    params: Mapping[str, torch.Tensor],
    grads: Mapping[str, torch.Tensor],
    rate: float | torch.Tensor,
    l1: float,
    threshold: float,
) -> list[torch.Tensor]:
    """One step of β-lasso in place, and the number of non-zeros of each layer after it."""
    counts = []
    for name, param in params.items():
        kernel, grad = name.endswith("kernel"), grads[name]
        if kernel:
            grad = grad.add(param.sign(), alpha=l1)
        if isinstance(rate, torch.Tensor):
            param.sub_(rate * grad)
        else:
            param.sub_(grad, alpha=rate)
        if kernel:
            param.copy_(functional.hardshrink(param, threshold))
            counts.append(torch.count_nonzero(param))
    return counts
