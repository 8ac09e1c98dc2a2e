"""Ten sensible trainings, small ones, in which a diagnosis has nothing to find.

They were chosen for that: docs/diagnosis.md says which others were tried, and what was rightly said of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from planted_data import cut, draw
from shapes import make_shapes

from tintype.demo import write_digits

Find = Callable[[str], Path]
"""Gives the folder of a real data set, or leaves the test."""


@dataclass(frozen=True)
class HealthyRun:
    """A training that goes as it should.

    Attributes:
        name: Short, for the name of a test.
        about: Images, classes, network.
        data: Prepares the images in a folder and gives their path.
        options: Of :func:`tintype.train`.
        settings: Further settings.
        weights: File name of pretrained weights that it needs, without the extension; empty for none.
        needs_data: Whether it needs real images beside the checkout.
    """

    name: str
    about: str
    data: Callable[[Path, Find], Path]
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    needs_data: bool = False


def _odd_and_even(folder: Path, find: Find) -> Path:
    images, labels = draw(np.random.default_rng(0), tuple(range(10)))
    np.savez(folder / "two.npz", x_train=images, y_train=labels % 2)
    return folder / "two.npz"


def _given_splits(folder: Path, find: Find) -> Path:
    train, validation, test = cut(draw(np.random.default_rng(0), (0, 1, 2, 3, 4)), 500, 150, -1)
    parts = {"train": train, "val": validation, "test": test}
    arrays = {f"{kind}_{name}": array for name, part in parts.items() for kind, array in zip("xy", part, strict=True)}
    np.savez(folder / "given.npz", **arrays)  # type: ignore[arg-type]
    return folder / "given.npz"


def _shapes(folder: Path, find: Find) -> Path:
    make_shapes(folder / "shapes", 300)
    return folder / "shapes"


def _cats_and_dogs(train: int, test: int) -> Callable[[Path, Find], Path]:
    def copy(folder: Path, find: Find) -> Path:
        source = find("cats_dogs")
        for split, images in (("train", train), ("test", test)):
            for name in ("cats", "dogs"):
                target = folder / "cats_dogs" / split / name
                target.mkdir(parents=True)
                for path in sorted((source / split / name).iterdir())[:images]:
                    shutil.copy(path, target)
        return folder / "cats_dogs"

    return copy


HEALTHY = (
    HealthyRun(
        "odd_and_even", "grey digits, 2 classes (odd and even), AdamW", _odd_and_even, {"epochs": 12},
        {"model.layers": "conv 16 3 pad=same relu\nbn\npool 2\nflatten\ndense 64 relu"},
    ),
    HealthyRun(
        "given_splits", "grey digits, 5 classes, given splits, SGD, not augmented", _given_splits,
        {"epochs": 12, "optimizer": "sgd", "learning_rate": 0.05, "augment": "none"},
        {"model.layers": "conv 16 3 pad=same relu\npool 2\nflatten\ndense 64 relu"},
    ),
    HealthyRun("shapes", "drawn shapes in colour, 2 classes, the default network", _shapes, {"epochs": 8}),
    HealthyRun("grey_shapes", "drawn shapes in grey, 2 classes", _shapes, {"epochs": 8, "color": "grey"}),
    HealthyRun("digits", "grey digits, 10 classes, nothing set", lambda folder, find: write_digits(), {"epochs": 12}),
    HealthyRun(
        "mnist", "2,000 MNIST digits, 10 classes, 10,000 test images", lambda folder, find: find("mnist"),
        {"epochs": 6}, {"data.train_images": 2000}, needs_data=True,
    ),
    HealthyRun(
        "cifar", "1,200 small photos, 3 classes, the default network", lambda folder, find: find("cifar10_4k"),
        {"epochs": 15, "classes": ("airplane", "frog", "horse")}, needs_data=True,
    ),
    HealthyRun(
        "cifar_frozen", "4,000 CIFAR-10 photos, frozen ResNet-20", lambda folder, find: find("cifar10_4k"),
        {"backbone": "resnet20_cifar10"}, weights="resnet20_cifar10", needs_data=True,
    ),
    HealthyRun(
        "cats_frozen", "400 cats and dogs, frozen MobileNetV2", _cats_and_dogs(200, 100), {},
        weights="mobilenetv2_100_imagenet", needs_data=True,
    ),
    HealthyRun(
        "cifar_tuned", "1,200 small photos, 3 classes, ResNet-20, its end fine-tuned",
        lambda folder, find: find("cifar10_4k"),
        {"backbone": "resnet20_cifar10", "depth": 5, "epochs": 3, "classes": ("airplane", "frog", "horse")},
        weights="resnet20_cifar10", needs_data=True,
    ),
)  # fmt: skip
"""Two, three, five and ten classes, grey and colour, frozen, fine-tuned and from scratch, given and drawn splits."""

QUICK = ("given_splits",)
"""Those of them that take a second or two, and run by default."""
