"""Networks whose numbers are drawn."""

from __future__ import annotations

from torch import nn


def draw_statistics(network: nn.Module) -> None:
    """Give each BatchNorm statistics, a scale and a shift unlike those of a new one, from PyTorch's generator."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            part.weight.data.uniform_(0.8, 1.2)
            part.bias.data.normal_(0, 0.1)
