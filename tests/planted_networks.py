"""Faults of the network and of its training, planted in small real runs on scikit-learn's handwritten digits.

The functions build networks with a fault, for ``model.name = "planted_networks:FUNCTION"``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from planted_data import LARGE, Images, Plant, cut, draw
from torch import Tensor, nn

FOUR = (0, 1, 2, 3)


class _Own(nn.Module):
    """A network with one hidden layer, as a user may write it.

    Args:
        input_shape: (C, H, W).
        classes: Number of classes.
    """

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(math.prod(input_shape), 64)
        self.last = nn.Linear(64, classes)

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """What is done to the images first."""
        return images_NCHW

    def activate(self, values: Tensor) -> Tensor:
        """What follows the hidden layer."""
        return values.relu()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits."""
        hidden: Tensor = self.hidden(self.prepare(images_NCHW).flatten(1))
        logits: Tensor = self.last(self.activate(hidden))
        return logits


class _DividesByDeviation(_Own):
    def prepare(self, images_NCHW: Tensor) -> Tensor:
        return (images_NCHW - images_NCHW.mean(0)) / images_NCHW.std(0)


class _DividesEachImage(_Own):
    def prepare(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW / (images_NCHW - images_NCHW.mean((1, 2, 3), keepdim=True)).abs().amax((1, 2, 3), True)


class _Log(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.relu().log()


class _TakesLogs(_Own):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.log = _Log()

    def activate(self, values: Tensor) -> Tensor:
        logs: Tensor = self.log(values)
        return logs


class _TakesRoots(_Own):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.scale = nn.Parameter(torch.ones(1))

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        return (self.scale * images_NCHW).square().sqrt()


class _ScalesUp(_Own):
    def prepare(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW * 255

    def activate(self, values: Tensor) -> Tensor:
        return values.tanh()


class _ScalesDown(_Own):
    def prepare(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW / 255


class _NormalisesInTraining(_Own):
    def prepare(self, images_NCHW: Tensor) -> Tensor:
        return (images_NCHW - 0.3) / 0.1 if self.training else images_NCHW


class _NegatesInEvaluation(_Own):
    def activate(self, values: Tensor) -> Tensor:
        return values.tanh() if self.training else -values.tanh()


class _Dead(_Own):
    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(input_shape, classes)
        nn.init.constant_(self.hidden.bias, -100.0)
        self.relu = nn.ReLU()

    def activate(self, values: Tensor) -> Tensor:
        rectified: Tensor = self.relu(values)
        return rectified


class _Normalised(nn.Module):
    """A convolution whose outputs lie far from 0, a BatchNorm, and a layer behind it."""

    def __init__(self, classes: int, momentum: float, frozen: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16, momentum=momentum)
        self.last = nn.Linear(16 * 64, classes)
        with torch.no_grad():
            self.conv.bias.copy_(torch.linspace(-80, 80, 16))  # type: ignore[union-attr]
        if frozen:
            self.conv.requires_grad_(False)
            self.norm.requires_grad_(False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.last(self.norm(self.conv(images_NCHW)).relu().flatten(1))
        return logits


class _FrozenBottleneck(nn.Module):
    """Random layers that do not train, of which hardly anything comes through."""

    def __init__(self, input_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), 32), nn.Tanh(), nn.Linear(32, 1))
        self.front.requires_grad_(False)
        self.last = nn.Linear(1, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.last(self.front(images_NCHW))
        return logits


Shape = tuple[int, int, int]


def divides_by_deviation(input_shape: Shape, classes: int) -> nn.Module:
    """Standardises each pixel by its deviation, which is 0 in the corners of the digits."""
    return _DividesByDeviation(input_shape, classes)


def divides_each_image(input_shape: Shape, classes: int) -> nn.Module:
    """Stretches each image to its range, which an empty image does not have."""
    return _DividesEachImage(input_shape, classes)


def takes_logs(input_shape: Shape, classes: int) -> nn.Module:
    """Takes the logarithm of 0."""
    return _TakesLogs(input_shape, classes)


def takes_roots(input_shape: Shape, classes: int) -> nn.Module:
    """Takes the square root of 0, whose slope is infinite."""
    return _TakesRoots(input_shape, classes)


def scales_up(input_shape: Shape, classes: int) -> nn.Module:
    """Turns 0..1 into 0..255, in front of a tanh."""
    return _ScalesUp(input_shape, classes)


def scales_down(input_shape: Shape, classes: int) -> nn.Module:
    """Divides by 255 what has been divided."""
    return _ScalesDown(input_shape, classes)


def normalises_in_training(input_shape: Shape, classes: int) -> nn.Module:
    """Takes the mean away in training alone."""
    return _NormalisesInTraining(input_shape, classes)


def negates_in_evaluation(input_shape: Shape, classes: int) -> nn.Module:
    """Turns the sign of its features in evaluation."""
    return _NegatesInEvaluation(input_shape, classes)


def dead(input_shape: Shape, classes: int) -> nn.Module:
    """Begins with ReLUs that never fire."""
    return _Dead(input_shape, classes)


def frozen_norm(classes: int) -> nn.Module:
    """A frozen BatchNorm on batch statistics, whose running ones stay those of its first day."""
    return _Normalised(classes, momentum=0.0, frozen=True)


def slow_norm(classes: int) -> nn.Module:
    """A BatchNorm whose running statistics follow the data too slowly."""
    return _Normalised(classes, momentum=1e-4, frozen=False)


def frozen_bottleneck(input_shape: Shape, classes: int) -> nn.Module:
    """Random layers that should train and do not."""
    return _FrozenBottleneck(input_shape, classes)


def _four(random: np.random.Generator) -> dict[str, Images]:
    return {"train": draw(random, FOUR)}


def _few(random: np.random.Generator) -> dict[str, Images]:
    return {"train": cut(draw(random, FOUR), 100)[0]}


def _ten(random: np.random.Generator) -> dict[str, Images]:
    return {"train": draw(random, tuple(range(10)))}


def _with_empty_image(random: np.random.Generator) -> dict[str, Images]:
    images, labels = draw(random, FOUR)
    images[:80] = 0
    return {"train": (images, labels)}


def _noisy(random: np.random.Generator) -> dict[str, Images]:
    train, validation, test = cut(draw(random, (3, 5, 8, 9), noise=150), 100, 100, -1)
    return {"train": train, "val": validation, "test": test}


def _network(function: str, **settings: Any) -> dict[str, Any]:
    own = {"model.layers": None, "model.name": f"planted_networks:{function}", "fit.learning_rate": 1e-3}
    return {**own, "fit.batch_size": 32, **{name.replace("__", "."): value for name, value in settings.items()}}


RAW: dict[str, Any] = {"model__standardize": "none"}
"""Images as 0..1."""

PLANTS = (
    Plant(
        "zero_deviation", "a pixel's deviation of 0 divided by", "non-finite-zero-deviation", _four,
        settings=_network("divides_by_deviation"),
    ),
    Plant(
        "empty_image", "an empty image divided by its range", "non-finite-zero-deviation", _with_empty_image,
        settings=_network("divides_each_image"),
    ),
    Plant(
        "rate_nan", "a learning rate so high that the loss is NaN", "non-finite-learning-rate", _four,
        settings={"fit.optimizer": "sgd", "fit.learning_rate": 1e12, "fit.batch_size": 32},
    ),
    Plant("log_nan", "a layer that takes log 0", "non-finite-layer", _four, settings=_network("takes_logs")),
    Plant("root_nan", "an infinite gradient", "non-finite-gradient", _four, settings=_network("takes_roots", **RAW)),
    Plant("scaled_up", "inputs in 0..255", "input-scale", _ten, settings=_network("scales_up", **RAW)),
    Plant("scaled_down", "inputs divided by 255 twice", "input-scale", _ten, settings=_network("scales_down", **RAW)),
    Plant(
        "one_mode", "preprocessing in training alone", "input-differs", _ten, epochs=15,
        settings=_network("normalises_in_training", **RAW),
    ),
    Plant(
        "frozen_norm", "frozen BatchNorm on batch statistics", "frozen-batch-statistics", _ten,
        settings=_network("frozen_norm"),
    ),
    Plant(
        "slow_norm", "running statistics far off", "running-statistics", _ten, settings=_network("slow_norm"),
    ),
    Plant(
        "negated", "features negated in evaluation", "modes-differ", _ten, epochs=15,
        settings=_network("negates_in_evaluation"),
    ),
    Plant("dead", "ReLUs that never fire", "dead-units", _four, settings=_network("dead")),
    Plant(
        "frozen_part", "a random part that is frozen", "frozen-untrained", _ten, settings=_network("frozen_bottleneck"),
    ),
    Plant(
        "frozen_backbone", "a backbone with random weights, frozen", "frozen-untrained", _few, epochs=1,
        settings={
            "model.layers": None, "model.backbone": "resnet20", "model.weights": "none", "model.freeze": "all",
            "data.image_size": 32, "data.color": "rgb",
        },
    ),
    Plant(
        "few_steps", "epochs of 10 steps of 10 images", "few-steps", _four,
        settings={"fit.batch_size": 10, "fit.steps_per_epoch": 10, "fit.learning_rate": 1e-3},
    ),
    Plant(
        "one_step", "five steps in all", "few-steps", _ten, LARGE, 5,
        settings={"fit.batch_size": 1024, "fit.learning_rate": 3e-4, "fit.schedule": "constant"},
    ),
    Plant(
        "rate_low", "a learning rate far too low", "learning-rate-low", _ten, LARGE,
        settings={"fit.learning_rate": 1e-7, "fit.batch_size": 32},
    ),
    Plant(
        "rate_high", "a learning rate far too high", "learning-rate-high", _ten, LARGE,
        settings={"fit.learning_rate": 10.0, "fit.batch_size": 32},
    ),
    Plant(
        "overfitted", "100 noisy images learned by heart", "overfitting", _noisy, LARGE, 40,
        settings={"fit.learning_rate": 1e-3, "fit.batch_size": 16},
    ),
    Plant(
        "underfitted", "ten classes through a single unit", "underfitting", _ten, "flatten\ndense 1 tanh", 12,
        settings={"fit.learning_rate": 1e-3, "fit.batch_size": 32},
    ),
)  # fmt: skip
"""What has to be found in the network and in its training."""
