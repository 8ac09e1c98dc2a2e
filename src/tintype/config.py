"""Frozen, validated settings, read from TOML, the command line or Python.

A setting that is ``None`` is chosen by :mod:`tintype.planning` from the data, and the choice is said; a run's
``config.toml`` holds what was chosen, so that it repeats the run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tintype.errors import ConfigError

SourceKind = Literal["auto", "folder", "manifest", "idx", "npz"]
ResizePolicy = Literal["auto", "stretch", "crop", "pad"]
ColorMode = Literal["auto", "grey", "rgb"]
AugmentPolicy = Literal["auto", "none", "light", "photo", "digits"]
OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "adadelta", "lbfgs"]
ScheduleName = Literal["constant", "cosine", "one_cycle", "reduce_on_plateau"]
PrecisionName = Literal["auto", "fp32", "bf16"]
CommunicationName = Literal["auto", "fp32", "bf16", "powersgd", "local_sgd"]


OPTIONS: dict[str, str] = {
    "classes": "data.classes",
    "model": "model.name",
    "layers": "model.layers",
    "backbone": "model.backbone",
    "cut": "model.cut",
    "head": "model.head",
    "weights": "model.weights",
    "freeze": "model.freeze",
    "depth": "model.depth",
    "standardize": "model.standardize",
    "image_size": "data.image_size",
    "resize": "data.resize",
    "color": "data.color",
    "fraction": "data.fraction",
    "skip_bad": "data.skip_bad",
    "allow_small": "data.allow_small",
    "epochs": "fit.epochs",
    "batch_size": "fit.batch_size",
    "optimizer": "fit.optimizer",
    "learning_rate": "fit.learning_rate",
    "schedule": "fit.schedule",
    "views": "fit.views",
    "head_epochs": "fit.head_epochs",
    "feature_cache": "fit.feature_cache",
    "augment": "augment.policy",
    "seed": "seed",
    "device": "device",
    "precision": "precision",
    "tensorboard": "tensorboard",
    "workers": "parallel.workers",
    "scale_lr": "parallel.scale_lr",
    "comm": "parallel.comm",
    "sync_batchnorm": "parallel.sync_batchnorm",
}
"""Options of the command line and of :func:`tintype.train`, and the settings they stand for."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """Where the images are and how they become arrays and splits."""

    source: str = ""
    kind: SourceKind = "auto"
    classes: tuple[str, ...] | None = Field(None, min_length=1, description="use images of these classes alone")
    image_size: int | None = Field(None, ge=4, le=4096, description="side of the square image in pixels")
    color: ColorMode = "auto"
    resize: ResizePolicy = "auto"
    skip_bad: bool = Field(False, description="leave unreadable images out instead of stopping")
    max_megapixels: float = Field(89.0, gt=0, description="larger images are refused before decoding")
    allow_small: bool = Field(False, description="keep classes too small to split in training only")
    fraction: float = Field(1.0, gt=0, le=1, description="share of the training images to use, per class")
    train_images: int | None = Field(
        None, ge=1, description="use so many training images, classes in proportion; which ones, the seed decides"
    )
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    test_fraction: float = Field(0.2, ge=0, lt=1)


class AugmentConfig(_Section):
    """Random changes to training images. A number that is None comes from the policy."""

    policy: AugmentPolicy = "auto"
    rotation: float | None = Field(None, ge=0, le=180, description="degrees, drawn from [-x, x]")
    shear: float | None = Field(None, ge=0, lt=90, description="degrees, drawn from [-x, x]")
    zoom: float | None = Field(None, ge=0, lt=1, description="scale drawn from [1-x, 1+x], log-uniform")
    shift: float | None = Field(None, ge=0, le=1, description="share of the side, drawn from [-x, x]")
    flip_horizontal: bool | None = None
    flip_vertical: bool | None = None
    brightness: float | None = Field(None, ge=0, le=1, description="share of 255 added, drawn from [-x, x]")
    contrast: float | None = Field(None, ge=0, lt=1, description="factor about mid grey, from [1-x, 1+x]")
    fill: Literal["nearest", "reflect"] | None = Field(None, description="pixels from outside the image")

    def resolved(self) -> AugmentConfig:
        """Fill every number that is not set from the policy ('auto' must have been replaced before)."""
        base = AUGMENT_POLICIES[self.policy]
        given = {key: value for key, value in self.model_dump().items() if value is not None}
        return AugmentConfig(**{**base, **given})

    @property
    def is_identity(self) -> bool:
        """True when no image is changed."""
        drawn = (self.rotation, self.shear, self.zoom, self.shift, self.brightness, self.contrast)
        return not any(drawn) and not self.flip_horizontal and not self.flip_vertical


_STILL: dict[str, Any] = {
    "rotation": 0.0, "shear": 0.0, "zoom": 0.0, "shift": 0.0, "flip_horizontal": False,
    "flip_vertical": False, "brightness": 0.0, "contrast": 0.0, "fill": "reflect",
}  # fmt: skip
AUGMENT_POLICIES: dict[str, dict[str, Any]] = {
    "none": _STILL,
    "light": {**_STILL, "shift": 0.08, "flip_horizontal": True},
    "photo": {
        **_STILL, "rotation": 15.0, "zoom": 0.25, "shift": 0.12, "flip_horizontal": True,
        "brightness": 0.15, "contrast": 0.3,
    },
    "digits": {**_STILL, "rotation": 8.0, "shear": 4.0, "zoom": 0.08, "shift": 0.07, "fill": "nearest"},
}  # fmt: skip


def _number_or_word(value: object) -> object:
    """On a command line a number of layers is text like a layer's name."""
    return int(value) if isinstance(value, str) and value.isdecimal() and value.isascii() else value


class ModelConfig(_Section):
    """Which network: a ``name`` (of the zoo, or ``module:function``), a text of ``layers``, or a ``backbone``.

    A backbone is a trained network without its classifier; ``head`` says what stands between it and the output layer.
    """

    name: str | None = None
    layers: str | None = None
    backbone: str | None = Field(None, description="a network of timm, or of the zoo with weights from elsewhere")
    backbone_arguments: dict[str, bool | int | float | str] | None = Field(
        None, description="what timm is to construct the backbone with; comes with the weights"
    )
    cut: str | None = Field(None, description="last layer of the backbone to use; None: all but its classifier")
    head: str | None = Field(None, description="layers between backbone and output, in the layer language")
    freeze: Annotated[int | str | None, BeforeValidator(_number_or_word)] = Field(
        None, description="what of the backbone does not train: all, none, its first N layers, or up to a layer's name"
    )
    depth: Annotated[int | Literal["all"] | None, BeforeValidator(_number_or_word)] = Field(
        None, description="train the backbone's last N layers; instead of freeze"
    )
    output: Literal["auto", "softmax"] = Field("auto", description="auto: one sigmoid unit for two classes")
    standardize: Literal["none", "channel", "pixel"] = Field(
        "channel", description="subtract the mean and divide by the deviation of the training images"
    )
    weights: str | None = Field(
        None, description="auto: pretrained weights for a backbone; none: random; or a .safetensors file to start from"
    )
    flip_average: bool | None = Field(None, description="average each prediction with the mirrored image's")


class FitConfig(_Section):
    """How the network is trained."""

    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1, description="images per optimiser step")
    micro_batch: int | None = Field(None, ge=1, description="images per forward pass; None: what fits")
    steps_per_epoch: int | None = Field(None, ge=1, description="None: every training image once")
    optimizer: OptimizerName | None = Field(
        None, description="lbfgs fits the output layer alone, on features that do not change"
    )
    learning_rate: float | None = Field(None, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum, Adam's beta1")
    rho: float = Field(0.95, ge=0, lt=1, description="decay of RMSprop's and Adadelta's squared averages")
    weight_decay: float | None = Field(None, ge=0)
    schedule: ScheduleName = "one_cycle"
    warmup_epochs: float = Field(0.0, ge=0)
    monitor: Literal["validation_accuracy", "validation_loss"] = "validation_accuracy"
    reduce_factor: float = Field(0.5, gt=0, lt=1)
    reduce_patience: int = Field(3, ge=1)
    minimum_learning_rate: float = Field(1e-5, ge=0)
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    gradient_clip: float | None = Field(None, gt=0, description="largest L2 norm of all gradients together")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the weights' moving average, a step")
    early_stopping: int | None = Field(None, ge=1, description="epochs without improvement before stopping")
    keep: Literal["best", "last"] = "best"
    checkpoint_seconds: float = Field(20.0, ge=0, description="at least this long between two checkpoints")
    views: int | None = Field(
        None,
        ge=1,
        le=256,
        description="versions of each training image that frozen layers see: itself and changed ones",
    )
    feature_cache: bool = Field(True, description="run frozen layers once and keep their output on disk")
    feature_precision: PrecisionName = "auto"
    feature_cache_gb: float = Field(20.0, gt=0, description="most that all kept features together may take on disk")
    backbone_rate: float | None = Field(
        None, gt=0, le=1, description="learning rate of the backbone as a share of the head's"
    )
    layer_decay: float = Field(1.0, gt=0, le=1, description="factor on the rate from each layer to the one below it")
    head_epochs: int | None = Field(None, ge=0, description="epochs in which the head trains alone, before the rest")


class ParallelConfig(_Section):
    """How several processes train one network together."""

    workers: int | None = Field(None, ge=1, description="processes on this machine; under torchrun it decides")
    scale_lr: bool = Field(
        False,
        description="each process takes fit.batch_size images, and the learning rate grows with their number after a "
        "warm-up; otherwise they share fit.batch_size images and nothing else changes",
    )
    sync_batchnorm: bool = Field(False, description="BatchNorm sees the images of all processes in training")
    comm: CommunicationName = Field(
        "auto", description="how gradients travel; auto measures, and takes nothing that changes more than rounding"
    )
    powersgd_rank: int = Field(4, ge=1, description="rank of the matrices that powersgd sends in place of gradients")
    local_steps: int = Field(16, ge=2, description="steps between two averages of the weights with local_sgd")
    dense_factors: bool = Field(
        True,
        description="gradients of large dense layers travel as the factors that they are products of, where those are "
        "less; not with powersgd and local_sgd",
    )
    bucket_mb: float = Field(4.0, gt=0, description="gradients that are sent together, in MiB")
    patience_seconds: float = Field(30.0, ge=5, description="silence after which a process counts as gone")


class HeadsConfig(_Section):
    """Many heads trained at once on the same features: every combination of these, each with every seed.

    The best by its mean validation loss over the seeds becomes the model's head.
    """

    learning_rate: tuple[float, ...] = ()
    weight_decay: tuple[float, ...] = (0.0,)
    width: tuple[int, ...] = Field((0,), description="units of a hidden layer with ReLU; 0: none")
    dropout: tuple[float, ...] = (0.0,)
    seeds: int = Field(1, ge=1, le=100)


class EvidenceConfig(_Section):
    """What is done beside a run's figures, so that they can be judged."""

    baselines: bool = Field(True, description="train simple shortcuts beside the network: colours, a blur, the border")
    attention: bool = Field(True, description="show where the network looks in the gallery of mistakes")
    embedding: str | None = Field(
        None, description="layer whose features are drawn in two dimensions; features: what the output layer sees"
    )
    error_rate: float = Field(
        0.05, gt=0, lt=1, description="share of wrong answers that is wanted among the answers not withheld"
    )


class RunConfig(_Section):
    """Everything a run is made of."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    heads: HeadsConfig | None = None
    parallel: ParallelConfig = ParallelConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    seed: int = Field(0, ge=0, lt=2**32)
    device: str = "auto"
    precision: PrecisionName = "auto"
    threads: int | None = Field(None, ge=1)
    memory_gb: float | None = Field(None, gt=0, description="memory for activations; None: what is free")
    tensorboard: bool = False

    def to_toml(self) -> str:
        """The settings as TOML; unset ones are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True), multiline_strings=True)

    def replace(self, changes: Mapping[str, Any]) -> RunConfig:
        """A copy with dotted names set, e.g. ``{"fit.epochs": 20}``.

        Raises:
            ConfigError: A name or a value that no setting has.
        """
        tree = self.model_dump(exclude_none=True)
        for dotted, value in changes.items():
            _set(tree, dotted, value)
        return _validated(tree)


def load_config(path: Path) -> RunConfig:
    """Read a TOML file of settings.

    Raises:
        ConfigError: The file is missing, is not TOML, or holds a setting that does not exist.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read settings from {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    return _validated(tree, str(path))


def make_config(
    source: str | Path | None = None,
    *,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Settings from a file, then options, then single settings; later ones win.

    Args:
        source: The data; None to take it from the file.
        file: A TOML file.
        options: Values by the names in :data:`OPTIONS`; None means not given.
        settings: Values by dotted name, such as ``{"fit.epochs": 20}``.

    Raises:
        ConfigError: An option, a setting or a value that does not exist.
    """
    config = load_config(file) if file is not None else RunConfig()
    changes: dict[str, Any] = {} if source is None else {"data.source": str(source)}
    changes |= settings_of_options(options or {}) | dict(settings or {})
    config = config.replace(changes)
    if not config.data.source:
        raise ConfigError("no data is named: give a folder, a manifest (.csv), idx files or an .npz.")
    return config


def settings_of_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the names in :data:`OPTIONS` as settings by dotted name; None means not given.

    Raises:
        ConfigError: There is no such option.
    """
    unknown = next((name for name in options if name not in OPTIONS), None)
    if unknown is not None:
        raise ConfigError(f"there is no option {unknown!r}. There are: {', '.join(OPTIONS)}.")
    return {OPTIONS[name]: value for name, value in options.items() if value is not None}


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``--set fit.epochs=20`` items; values are TOML, bare words are strings.

    Raises:
        ConfigError: An item without ``=``.
    """
    changes: dict[str, Any] = {}
    for item in assignments:
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set takes NAME=VALUE, such as fit.epochs=20. Got {item!r}.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        changes[name.strip()] = value
    return changes


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted} is no setting: {section} is a single value.")
        tree = inner
    if value is None:
        tree.pop(leaf, None)
    else:
        tree[leaf] = value


def _validated(tree: Mapping[str, Any], where: str = "") -> RunConfig:
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        prefix = f"{where}: " if where else ""
        if first["type"] == "extra_forbidden":
            known = ", ".join(_siblings(first["loc"]))
            raise ConfigError(f"{prefix}there is no setting {name!r}. There are: {known}.") from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"{prefix}{name}: {message}. Got {first['input']!r}.") from None


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        section = annotation
    return list(section.model_fields)
