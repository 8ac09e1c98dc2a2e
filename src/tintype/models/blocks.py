"""The modules that the layer language needs beyond PyTorch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after one axis for ``pad=same``, as Keras and TensorFlow define it.

    Args:
        size: Pixels along the axis.
        kernel: Window size in pixels.
        stride: Step between windows in pixels.
    """
    windows = -(-size // stride)
    total = max((windows - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def window_count(size: int, kernel: int, stride: int, pad: str) -> int:
    """Output pixels along one axis of a convolution or pool; at most 0 if the window does not fit."""
    return -(-size // stride) if pad == "same" else (size - kernel) // stride + 1


class PadBottomRight(nn.Module):
    """Zeros to the bottom and the right: what ``pad=same`` asks beyond a convolution's own symmetric padding.

    Args:
        bottom: Rows to add.
        right: Columns to add.
    """

    def __init__(self, bottom: int, right: int) -> None:
        super().__init__()
        self.bottom, self.right = bottom, right

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return the padded maps."""
        return functional.pad(maps_NCHW, (0, self.right, 0, self.bottom))

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return f"bottom={self.bottom}, right={self.right}"


class CropTopLeft(nn.Module):
    """Drops rows at the top and columns at the left.

    A pool with an even window and stride 1 needs its odd pixel of padding at the bottom and the right. PyTorch pads
    both sides alike, which makes one output too many at the top and left.

    Args:
        top: Rows to drop.
        left: Columns to drop.
    """

    def __init__(self, top: int, left: int) -> None:
        super().__init__()
        self.top, self.left = top, left

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return the cropped maps."""
        return maps_NCHW[:, :, self.top :, self.left :]

    def extra_repr(self) -> str:
        """The settings, for printing."""
        return f"top={self.top}, left={self.left}"


class Flatten(nn.Module):
    """Maps to vectors in the order (height, width, channel), as Keras does.

    Maps lie in memory as channels-last, so this order costs no copy; PyTorch's own order would reorder the whole
    batch forwards and backwards.
    """

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return vectors of shape (N, H * W * C)."""
        return maps_NCHW.permute(0, 2, 3, 1).flatten(1)


class GlobalAveragePool(nn.Module):
    """The mean of each channel.

    Written so that channels lie innermost: three to four times as fast on a CPU as ``mean((2, 3))``.
    """

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return vectors of shape (N, C)."""
        return maps_NCHW.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1)


class GlobalMaxPool(nn.Module):
    """The largest value of each channel."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return vectors of shape (N, C)."""
        # Saves indices rather than its output, which an in-place activation behind it may change.
        return nn.functional.adaptive_max_pool2d(maps_NCHW, 1).flatten(1)


class Dropout(nn.Dropout):
    """Dropout whose mask costs little on a CPU.

    PyTorch draws a 32-bit number for each value, on one core, which is a quarter of the training step of a small
    network. Here one 64-bit draw makes four 16-bit numbers; the share dropped is exact to 1/65,536, and so is the
    factor that keeps the mean. Elsewhere than on a CPU this is PyTorch's own.

    Attributes:
        rows: Where the values stand in the batch of a step, (first row, rows of the batch): a batch that goes through
            in parts, or on several machines, is dropped out as it would be at once. None: they are the batch.
    """

    rows: tuple[int, int] | None = None

    def forward(self, values: Tensor) -> Tensor:
        """Return the values, in training some set to zero and the others scaled up."""
        if not self.training or self.p == 0:
            return values
        first, of = self.rows or (0, len(values))
        if values.device.type != "cpu":
            if of == len(values):
                return super().forward(values)
            whole = values.new_ones((1, *values.shape[1:])).expand(of, *values.shape[1:])
            return values * super().forward(whole)[first : first + len(values)]
        level = min(round(self.p * 65_536), 65_535)
        each = values[0].numel()
        draws = torch.empty(each * of // 4 + 1, dtype=torch.int64).random_(-(2**63), None)
        # The mask has the memory order of the maps, which are channels-last.
        order = (0, 2, 3, 1) if values.dim() == 4 else tuple(range(values.dim()))
        laid_out = values.permute(order)
        drawn = draws.view(torch.int16)[each * first : each * (first + len(values))]
        keep = drawn.view(laid_out.shape) >= level - 32_768
        mask = keep.to(values.dtype).mul_(65_536 / (65_536 - level))
        return (laid_out * mask).permute((0, 3, 1, 2) if values.dim() == 4 else order)


class StandardizeImage(nn.Module):
    """Each image to mean 0 and deviation 1 by its own figures, over all its values.

    The deviation is at least ``1 / sqrt(values)``, so that a constant image becomes zeros; the definition of
    TensorFlow's ``tf.image.per_image_standardization``, whose inputs lie in 0..1 or 0..255 alike.
    """

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return maps of the same shape, in fp32."""
        maps_NCHW = maps_NCHW.float()
        deviation_N, mean_N = torch.std_mean(maps_NCHW, dim=(1, 2, 3), correction=0, keepdim=True)
        least = maps_NCHW[0].numel() ** -0.5
        return (maps_NCHW - mean_N) / deviation_N.clamp(min=least)


class PadShortcut(nn.Module):
    """A parameter-free shortcut: every ``stride``-th pixel, new channels are zeros.

    "Option A" of He et al., Deep Residual Learning (2015), section 4.2. The zeros are put half before and half
    after the channels, as published CIFAR networks have it.

    Args:
        channels: Channels of the input.
        filters: Channels of the output, at least as many.
        stride: Step between the pixels kept.
    """

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.before = (filters - channels) // 2
        self.after = filters - channels - self.before
        self.stride = stride

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return maps of shape (N, filters, ceil(H / stride), ceil(W / stride))."""
        kept = maps_NCHW[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, self.before, self.after))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input (He et al., 2015).

    Padding is 1 on every side, also for stride 2, as in published residual networks.

    Args:
        channels: Channels of the input.
        filters: Channels of the output.
        stride: Stride of the first convolution.
        shortcut: ``conv``: a 1x1 convolution where shapes differ; ``pad``: see :class:`PadShortcut`.
    """

    def __init__(self, channels: int, filters: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut: nn.Module
        if stride == 1 and channels == filters:
            self.shortcut = nn.Identity()
        elif shortcut == "pad":
            self.shortcut = PadShortcut(channels, filters, stride)
        else:
            self.shortcut = nn.Sequential()
            self.shortcut.add_module("conv", nn.Conv2d(channels, filters, 1, stride=stride, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(filters))
        self.relu2 = nn.ReLU(inplace=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Return maps of shape (N, filters, ceil(H / stride), ceil(W / stride))."""
        inner = self.relu1(self.bn1(self.conv1(maps_NCHW)))
        inner = self.bn2(self.conv2(inner))
        outer: Tensor = self.relu2(inner + self.shortcut(maps_NCHW))
        return outer
