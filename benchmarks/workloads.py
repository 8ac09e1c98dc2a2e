"""What is measured, with whom, and which ratio is asked for. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Contender:
    """One script that does a workload once and prints one line of JSON.

    Attributes:
        name: As shown in the tables.
        peer: Whose environment it runs in: ``tintype``, ``keras`` or ``torchvision``.
        script: Path relative to this folder.
        arguments: Added to ``--data DIR --seed N``.
    """

    name: str
    peer: Literal["tintype", "keras", "torchvision"]
    script: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """One figure of a workload.

    Attributes:
        letter: What ``--only`` takes.
        key: Name of the figure in the contenders' JSON.
        title: Heading of the table.
        unit: Unit of the figure.
        higher_is_better: False for seconds.
        average: How repeats are put together.
        required: Contender to the ratio by which tintype must be ahead of it.
        aim: Contender to the ratio that is hoped for.
    """

    letter: str
    key: str
    title: str
    unit: str
    higher_is_better: bool
    average: Literal["median", "mean"] = "median"
    required: dict[str, float] = field(default_factory=dict)
    aim: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """Contenders that take turns at the same job, tintype first, and what is read from them."""

    name: str
    contenders: tuple[Contender, ...]
    measures: tuple[Measure, ...]
    files: str = ""
    """Folder below the data folder whose files are dropped from memory before each turn."""


WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "input",
        (
            Contender("tintype", "tintype", "contenders/tintype_input.py"),
            Contender("torchvision", "torchvision", "peers/torchvision_input.py"),
            Contender(
                "torchvision, nearest pixel",
                "torchvision",
                "peers/torchvision_input.py",
                ("--interpolation", "nearest"),
            ),
            Contender("Keras", "keras", "peers/keras_input.py"),
            Contender("tintype, made float32", "tintype", "contenders/tintype_input.py", ("--float32",)),
        ),
        (
            Measure(
                "a",
                "warm_images_per_second",
                "(a) Warm epoch of the augmented input pipeline, 180 px, batch 64",
                "images/s",
                higher_is_better=True,
                required={"torchvision": 6.0, "torchvision, nearest pixel": 6.0, "Keras": 12.0},
                aim={"torchvision": 10.0, "torchvision, nearest pixel": 10.0, "Keras": 20.0},
            ),
            Measure(
                "b",
                "first_epoch_seconds",
                "(b) Cold first epoch of the same, tintype's cache build included",
                "s",
                higher_is_better=False,
                required={"torchvision": 1.0, "torchvision, nearest pixel": 1.0},
            ),
        ),
        files="cats_dogs/train",
    ),
    Workload(
        "train_a2",
        (
            Contender("tintype", "tintype", "contenders/tintype_step.py", ("--network", "a2")),
            Contender("Keras", "keras", "peers/keras_step.py", ("--network", "a2")),
            Contender("Keras bf16", "keras", "peers/keras_step.py", ("--network", "a2", "--policy", "mixed_bfloat16")),
        ),
        (
            Measure(
                "c",
                "a2_images_per_second",
                "(c) Training A2: 180 px, batch 64, RMSprop",
                "images/s",
                higher_is_better=True,
                required={"Keras": 1.3},
                aim={"Keras": 1.8},
            ),
        ),
    ),
    Workload(
        "train_e3",
        (
            Contender("tintype", "tintype", "contenders/tintype_step.py", ("--network", "e3")),
            Contender("Keras", "keras", "peers/keras_step.py", ("--network", "e3")),
            Contender("Keras bf16", "keras", "peers/keras_step.py", ("--network", "e3", "--policy", "mixed_bfloat16")),
        ),
        (
            Measure(
                "c",
                "e3_images_per_second",
                "(c) Training E3: 28 px, batch 128, Adadelta",
                "images/s",
                higher_is_better=True,
                required={"Keras": 2.0},
                aim={"Keras": 3.0},
            ),
        ),
    ),
    Workload(
        "mnist99",
        (
            Contender("tintype", "tintype", "contenders/tintype_mnist99.py"),
            Contender("Keras", "keras", "peers/keras_mnist99.py"),
        ),
        (
            Measure(
                "d",
                "seconds_to_target",
                "(d) Training time to 99.0 % test accuracy on MNIST, a seed a repeat",
                "s",
                higher_is_better=False,
                average="mean",
                required={"Keras": 20.0},
                aim={"Keras": 40.0},
            ),
        ),
    ),
)
