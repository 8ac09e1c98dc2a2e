"""A frozen network for CIFAR-10 under a dense head, with two mistakes that were really made, alone and together.

The first: frozen BatchNorm layers take the statistics of each batch in training and the stored ones, which never follow
the data, in evaluation. The second: images in 0..255 for a network that wants them standardised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tintype.models.backbones import build_backbone, feature_shape, load_backbone
from tintype.models.pretrained import find_weights

BACKBONE = "resnet20_cifar10"
HIDDEN = 1024
"""Units of the head's dense layer, as in the original."""

Shape = tuple[int, int, int]


class FrozenBackbone(nn.Module):
    """A pretrained backbone that does not train, a dense layer with ReLU, and the output layer.

    Args:
        input_shape: (C, H, W); images come in the scale 0..1.
        classes: Number of classes.
        uses_batch_statistics: Leave frozen BatchNorm in training mode while the head trains.
        is_standardised: Standardise images as the backbone's weights want it; else scale them to 0..255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: Shape, classes: int, uses_batch_statistics: bool, is_standardised: bool) -> None:
        super().__init__()
        weights = find_weights(BACKBONE, "auto")
        assert weights is not None  # only "none" finds none
        self.uses_batch_statistics = uses_batch_statistics
        mean, std = (weights.mean, weights.std) if is_standardised else ((0.0,), (1 / 255,))
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.backbone = build_backbone(BACKBONE, None, input_shape, wants_map=False)
        load_backbone(self.backbone, weights.path)
        self.backbone.requires_grad_(False)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0  # what is frozen keeps its statistics
        features = feature_shape(self.backbone, input_shape)[0]
        self.head = nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Change the mode; a sound backbone that is frozen stays in evaluation."""
        super().train(mode)
        self.backbone.train(mode and self.uses_batch_statistics)
        return self

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits of shape (N, classes)."""
        logits: Tensor = self.head(self.backbone((images_NCHW - self.mean) / self.std))
        return logits


def sound(input_shape: Shape, classes: int) -> nn.Module:
    """As it should be."""
    return FrozenBackbone(input_shape, classes, uses_batch_statistics=False, is_standardised=True)


def wrong_scale(input_shape: Shape, classes: int) -> nn.Module:
    """Images in 0..255."""
    return FrozenBackbone(input_shape, classes, uses_batch_statistics=False, is_standardised=False)


def batch_statistics(input_shape: Shape, classes: int) -> nn.Module:
    """Frozen BatchNorm on batch statistics."""
    return FrozenBackbone(input_shape, classes, uses_batch_statistics=True, is_standardised=True)


def batch_statistics_and_wrong_scale(input_shape: Shape, classes: int) -> nn.Module:
    """Both; in training the first hides the second."""
    return FrozenBackbone(input_shape, classes, uses_batch_statistics=True, is_standardised=False)
