"""A network with a mistake that was really made: each pixel is divided by its own deviation over the images of a batch.

At the border of MNIST's images every pixel is 0, so its deviation is 0, and 0 / 0 is not a number.
"""

from __future__ import annotations

from torch import Tensor, nn


class DividedByItsDeviation(nn.Module):
    """Bring every pixel to mean 0 and deviation 1 over the batch, without looking whether the deviation is 0."""

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Standardise a batch by its own figures."""
        return (images_NCHW - images_NCHW.mean(dim=0)) / images_NCHW.std(dim=0, correction=0)


def tutorial(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Keras' tutorial network for MNIST behind that mistake."""
    channels, height, width = input_shape
    return nn.Sequential(
        DividedByItsDeviation(),
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, classes),
    )
