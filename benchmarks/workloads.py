"""What is measured, with whom, and which ratio is asked for. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from layouts import lay_out_xrays

WEIGHTS = "mobilenetv2_100_imagenet.safetensors"
"""What contenders that need weights find in the weights folder."""


@dataclass(frozen=True)
class Contender:
    """One script that does a workload once and prints one line of JSON.

    Attributes:
        name: As shown in the tables.
        peer: Whose environment it runs in: ``tintype``, ``keras`` or ``torchvision``.
        script: Path relative to this folder.
        arguments: Added to ``--data DIR --seed N``.
        needs_weights: ``--weights DIR`` is added as well.
    """

    name: str
    peer: Literal["tintype", "keras", "torchvision"]
    script: str
    arguments: tuple[str, ...] = ()
    needs_weights: bool = False


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
        required: Contender to the ratio by which tintype must be ahead of it; to a difference where those are compared.
        aim: Contender to the ratio that is hoped for.
        compared: Ratios, or the differences of figures such as accuracies.
    """

    letter: str
    key: str
    title: str
    unit: str
    higher_is_better: bool
    average: Literal["median", "mean"] = "median"
    required: dict[str, float] = field(default_factory=dict)
    aim: dict[str, float] = field(default_factory=dict)
    compared: Literal["ratio", "difference"] = "ratio"


@dataclass(frozen=True)
class Workload:
    """Contenders that take turns at the same job, tintype first, and what is read from them."""

    name: str
    contenders: tuple[Contender, ...]
    measures: tuple[Measure, ...]
    files: str = ""
    """Folder below the data folder whose files are dropped from memory before each turn."""
    rounds: int = 5
    """How often, where the command line does not say."""
    layout: Callable[[Path, Path], object] | None = None
    """Makes a data folder for one turn, its second argument, out of the whole; the contender gets that one."""


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
    Workload(
        "xrays",
        (
            Contender("tintype", "tintype", "contenders/tintype_xrays.py"),
            Contender("Keras, 36 of 40 epochs extrapolated", "keras", "peers/keras_xrays.py"),
        ),
        (
            Measure(
                "e",
                "seconds",
                "(e) X-rays, from the files to the end of training: VGG16 frozen, a dense head, 40 epochs",
                "s",
                higher_is_better=False,
                required={"Keras, 36 of 40 epochs extrapolated": 40.0},
            ),
        ),
        rounds=3,
        layout=lay_out_xrays,
    ),
    Workload(
        "last_stage_mobilenetv2",
        (
            Contender(
                "tintype",
                "tintype",
                "contenders/tintype_last_stage.py",
                ("--network", "mobilenetv2_100"),
                needs_weights=True,
            ),
            Contender(
                "tintype, nothing kept",
                "tintype",
                "contenders/tintype_last_stage.py",
                ("--network", "mobilenetv2_100", "--no-feature-cache"),
                needs_weights=True,
            ),
        ),
        (
            Measure(
                "f",
                "mobilenetv2_images_per_second",
                "(f) Training the last stage of MobileNetV2, 224 px, batch 64",
                "images/s",
                higher_is_better=True,
                required={"tintype, nothing kept": 3.5},
            ),
        ),
        rounds=3,
    ),
    Workload(
        "last_stage_vgg16",
        (
            Contender("tintype", "tintype", "contenders/tintype_last_stage.py", ("--network", "vgg16")),
            Contender(
                "tintype, nothing kept",
                "tintype",
                "contenders/tintype_last_stage.py",
                ("--network", "vgg16", "--no-feature-cache"),
            ),
        ),
        (
            Measure(
                "f",
                "vgg16_images_per_second",
                "(f) Training the last stage of VGG16, 224 px, batch 32",
                "images/s",
                higher_is_better=True,
                required={"tintype, nothing kept": 3.5},
            ),
        ),
        rounds=3,
    ),
    Workload(
        "heads",
        (
            Contender("tintype", "tintype", "contenders/tintype_heads.py", needs_weights=True),
            Contender(
                "tintype, one setting",
                "tintype",
                "contenders/tintype_heads.py",
                ("--rates", "1", "--decays", "1"),
                needs_weights=True,
            ),
        ),
        (
            Measure(
                "g",
                "settings_per_second",
                "(g) 32 settings of a linear head on 1,280 features together, 30 epochs of 1,800 images",
                "settings/s",
                higher_is_better=True,
                required={"tintype, one setting": round(32 / 3, 2)},
            ),
            Measure(
                "g",
                "hidden_settings_per_second",
                "(g) The same with 64 hidden units",
                "settings/s",
                higher_is_better=True,
            ),
        ),
    ),
    Workload(
        "features",
        (
            Contender("tintype", "tintype", "contenders/tintype_features.py", needs_weights=True),
            Contender("torchvision + timm", "torchvision", "peers/torchvision_features.py"),
            Contender("Keras", "keras", "peers/keras_features.py"),
        ),
        (
            Measure(
                "h",
                "cold_images_per_second",
                "(h) Features of MobileNetV2 at 224 px, from JPEG files",
                "images/s",
                higher_is_better=True,
                required={"torchvision + timm": 1.6, "Keras": 3.0},
            ),
            Measure(
                "h",
                "warm_images_per_second",
                "(h) The same, tintype from its cache of decoded images",
                "images/s",
                higher_is_better=True,
                required={"torchvision + timm": 1.9},
            ),
        ),
        files="cats_dogs/train",
    ),
    Workload(
        "views",
        (
            Contender("tintype", "tintype", "contenders/tintype_views.py", needs_weights=True),
            Contender(
                "tintype, changed anew each epoch",
                "tintype",
                "contenders/tintype_views.py",
                ("--no-feature-cache",),
                needs_weights=True,
            ),
        ),
        (
            Measure(
                "i",
                "training_seconds",
                "(i) A head on augmented cats and dogs, 16 epochs: 8 kept views against new ones each epoch",
                "s",
                higher_is_better=False,
                average="mean",
                required={"tintype, changed anew each epoch": 5.0},
            ),
            Measure(
                "i",
                "test_accuracy",
                "(i) Test accuracy of the same, 1,000 images, a seed a round",
                "%",
                higher_is_better=True,
                average="mean",
                required={"tintype, changed anew each epoch": -0.5},
                compared="difference",
            ),
        ),
        rounds=3,
    ),
)
