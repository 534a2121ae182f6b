"""What several processes must share so that they train as one: sums, and batch normalisation.

Data-parallel training averages the gradients of the processes. That is the gradient of one process
with the whole batch only if nothing before it depends on the batch as a whole; a Dice over the
batch and batch normalisation do. Both are computed here over the batches of all processes.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["count", "total", "whole_batch_norm"]


def count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, with its gradient; in one process `x` itself."""
    return x if count() == 1 else _AllReduce.apply(x)


class _AllReduce(torch.autograd.Function):
    """The gradient of a sum that every process uses: the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _AllReduce.apply(gradient.contiguous())


def whole_batch_norm() -> AbstractContextManager:
    """A context in which training batch normalisation uses the batches of all processes.

    torch's SyncBatchNorm is for GPUs alone, and replacing modules by it loses the activation inside
    timm's. This is one rule for every module and device: it steps in where the function is called.
    Each process must hold equally many values. In one process it changes nothing.
    """
    return nullcontext() if count() == 1 else _WholeBatchNorm()


class _WholeBatchNorm(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        function = _batch_norm if func is F.batch_norm else func
        return function(*args, **(kwargs or {}))


def _batch_norm(
    x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """As torch's function of that name and arguments, over the batches of all processes."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    n = x.numel() // x.shape[1] * count()
    y = x.float()
    mean = total(y.sum(axes)) / n
    y = y - mean.view(shape)
    var = total(y.square().sum(axes)) / n
    if running_mean is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (n / (n - 1)), momentum)
    y = y * (var + eps).rsqrt().view(shape)
    if weight is not None:
        y = y * weight.view(shape) + bias.view(shape)
    return y.to(x.dtype)
