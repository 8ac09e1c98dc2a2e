"""BatchNorm that sees the images of all ranks, on CPUs as well.

PyTorch's own ``SyncBatchNorm`` refuses tensors of a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks. Every rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        """Return the sum."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of what this rank gave."""
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(_BatchNorm):
    """A BatchNorm whose statistics in training are those of the images of all ranks.

    Args:
        of: The layer that it stands for, with running statistics; weights and statistics are the same tensors.
    """

    def __init__(self, of: _BatchNorm) -> None:
        super().__init__(of.num_features, of.eps, of.momentum, of.affine)
        self.weight, self.bias = of.weight, of.bias
        self.running_mean, self.running_var = of.running_mean, of.running_var
        self.num_batches_tracked = of.num_batches_tracked
        self.train(of.training)

    def forward(self, values: Tensor) -> Tensor:
        """Normalise (N, C) or (N, C, ...) over all axes but the second."""
        if not self.training:
            return super().forward(values)
        assert self.running_mean is not None
        channels, axes = values.shape[1], [axis for axis in range(values.ndim) if axis != 1]
        shape = [1, channels, *[1] * (values.ndim - 2)]
        # Squares of what is left of the running mean lose fewer digits than squares of the values.
        origin_C = self.running_mean.clone()
        centred = values.float() - origin_C.view(shape)
        count = values.numel() // channels
        local = torch.cat([centred.sum(axes), centred.square().sum(axes), centred.new_tensor([float(count)])])
        total: Tensor = _SumOverRanks.apply(local)
        of_all = total[-1].detach()
        mean_C = total[:channels] / of_all
        variance_C = (total[channels:-1] / of_all - mean_C.square()).clamp_min(0)
        self._remember(mean_C.detach() + origin_C, variance_C.detach() * of_all / (of_all - 1).clamp_min(1))
        scale_C = torch.rsqrt(variance_C + self.eps)
        shift_C = -mean_C * scale_C
        if self.affine:
            scale_C, shift_C = scale_C * self.weight, shift_C * self.weight + self.bias
        return torch.addcmul(shift_C.view(shape), centred, scale_C.view(shape)).to(values.dtype)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, unbiased_variance_C: Tensor) -> None:
        """Move the running statistics, as ``nn.BatchNorm2d`` does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(unbiased_variance_C, share)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes."""


class Synchronised:
    """A network's BatchNorms exchanged for synchronised ones, until :meth:`undo`.

    Args:
        network: Changed in place; names, weights and statistics stay.
    """

    def __init__(self, network: nn.Module) -> None:
        self._replaced = [
            (parent, name, child)
            for parent in network.modules()
            for name, child in parent.named_children()
            if isinstance(child, _BatchNorm) and child.track_running_stats
        ]
        for parent, name, child in self._replaced:
            setattr(parent, name, SyncedBatchNorm(child))

    def undo(self) -> None:
        """Put the layers back."""
        for parent, name, child in self._replaced:
            setattr(parent, name, child)
