"""Result types shared by all rooms. No torch here: reports and comparisons must start without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Severity = Literal["critical", "warning", "info"]
GalleryGroup = Literal["mistakes", "augmented"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, how many are done, how many there are)."""


def silent(what: str, done: int, total: int) -> None:
    """An :data:`OnProgress` that shows nothing."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval and the number of images behind it.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of images the figure was computed from.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] (n={self.n})"


@dataclass(frozen=True)
class EpochRecord:
    """One row of ``history.jsonl``.

    ``train_loss`` and ``train_accuracy`` are running means over the epoch, measured on the augmented images
    while the weights were changing; ``validation_*`` are measured after the epoch.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Finding:
    """Something the audit or the diagnosis saw.

    Attributes:
        code: Stable identifier in kebab case, e.g. ``duplicates-across-splits``.
        severity: ``critical`` (the result cannot be trusted), ``warning`` or ``info``.
        title: One line: the fact with its figures.
        evidence: File names or figures that show it, at most a few dozen.
        remedy: What to do about it, one or two sentences.
    """

    code: str
    severity: Severity
    title: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Predictions:
    """What a network said about one split.

    Attributes:
        split: Which split the images come from.
        classes: Class names, in the order of the probability columns.
        paths: Image identifiers, length N.
        labels: True class ids, shape (N,), int64; -1 where unknown.
        probabilities: Shape (N, K), float32, rows sum to 1 (two columns for a sigmoid unit).
    """

    split: SplitName
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Most probable class ids, shape (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def surest_mistakes(self) -> NDArray[np.int64]:
        """Positions of the wrong answers to labelled images, the surest first."""
        wrong = np.flatnonzero((self.predicted != self.labels) & (self.labels >= 0))
        confidence = self.probabilities.max(axis=1)
        return np.asarray(wrong[np.argsort(-confidence[wrong], kind="stable")], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one split.

    Attributes:
        split: Which split was evaluated.
        metrics: Name to figure. Per-class metrics are named ``precision/CLASS``, ``recall/CLASS``, ``f1/CLASS``.
        curves: What is not a single figure, as plain lists: ``confusion_matrix`` (K x K counts, rows are true
            classes), ``reliability``, and for two classes ``roc`` and ``precision_recall``.
    """

    split: SplitName
    metrics: dict[str, Interval]
    curves: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> Interval:
        """Share of images whose most probable class is the true one."""
        return self.metrics["accuracy"]

    @property
    def loss(self) -> Interval:
        """Mean cross-entropy in nats."""
        return self.metrics["loss"]


@dataclass(frozen=True)
class LayerRow:
    """One row of the layer table. ``output_shape`` is (C, H, W) or (features,) without the batch axis."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable_parameters: int


@dataclass(frozen=True)
class ModelSummary:
    """The layer table and its totals; BatchNorm statistics count as non-trainable, as Keras counts them."""

    layers: tuple[LayerRow, ...]
    total_parameters: int
    trainable_parameters: int
    non_trainable_parameters: int


@dataclass(frozen=True)
class ImageStatistics:
    """What a set of images looks like; shipped with a model so that other images can be compared to it.

    Grey levels are 0 to 255, each the mean over the images of that image's figure.

    Attributes:
        n: Images measured.
        mean: Mean grey level.
        deviation: Standard deviation of the grey levels inside an image.
        border: Mean grey level of the outermost pixels.
        centre: Mean grey level of the middle quarter.
        dark_on_light: Share of the images whose border is lighter than what stands out from it.
        color: Share of the images with any colour in them.
        width: Median width of the files in pixels.
        height: Median height of the files in pixels.
        spread: Standard deviation from image to image of ``mean``, ``deviation``, ``border``, ``centre`` and ``side``
            (the shorter side in pixels); empty in models of earlier versions.
    """

    n: int
    mean: float
    deviation: float
    border: float
    centre: float
    dark_on_light: float
    color: float
    width: float
    height: float
    spread: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shift:
    """One figure of two sets of images side by side.

    Attributes:
        figure: What is measured, in words.
        kind: ``grey`` (a grey level, 0 to 255), ``share`` (of the images, 0 to 1) or ``pixels``.
        other: Of the other images.
        trained: Of the training images.
        apart: The difference in standard deviations from training image to training image; None for a share, and
            where the training images do not differ in it or it is not known how much they do.
    """

    figure: str
    kind: Literal["grey", "share", "pixels"]
    other: float
    trained: float
    apart: float | None


@dataclass(frozen=True)
class LayerHealth:
    """What a look inside a trained network shows of one layer. What does not apply to its kind is None.

    Attributes:
        name: As in the layer table.
        kind: Class of the module, such as ``Conv2d``.
        trains: Whether the optimiser may change its weights.
        gradient: L2 norm of the loss' gradient in its weights, as a share of the weights' own norm.
        moved: L2 norm of what training changed in its weights, as a share of their first norm.
        dead: Share of its outputs' channels that are the same for every image looked at.
        mean_gap: BatchNorm: how far the batch's means lie from the running ones, in running deviations, median.
        deviation_ratio: BatchNorm: the batch's deviations over the running ones, median.
        batch_statistics: BatchNorm: whether it uses the batch's statistics when the network trains.
        parameters: How many weights it has, those that are frozen with them.
        loaded: Weights that do not train: whether they came from elsewhere, as those that are the same however random
            ones are drawn did.
    """

    name: str
    kind: str
    trains: bool
    gradient: float | None = None
    moved: float | None = None
    dead: float | None = None
    mean_gap: float | None = None
    deviation_ratio: float | None = None
    batch_statistics: bool | None = None
    parameters: int = 0
    loaded: bool | None = None


@dataclass(frozen=True)
class InputHealth:
    """What reaches the first layer that has weights: the class of the layer, then mean, deviation and range."""

    kind: str
    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class Health:
    """A look inside a trained network with a few training images, unchanged; ``health.json``.

    Of a network whose frozen layers ran once, the part behind them is looked at, and the whole network's input.

    Attributes:
        images: How many, at most 128.
        training_input: What reaches the first layer of the whole network in training mode.
        inference_input: The same in inference mode.
        training_accuracy: Share of them that are right in training mode (dropout, batch statistics).
        inference_accuracy: The same in inference mode.
        training_loss: Mean cross-entropy in training mode, nats.
        inference_loss: The same in inference mode.
        layers: Layers that have weights, or whose outputs can die, in the order in which they run.
    """

    images: int
    training_input: InputHealth
    inference_input: InputHealth
    training_accuracy: float
    inference_accuracy: float
    training_loss: float
    inference_loss: float
    layers: tuple[LayerHealth, ...]


@dataclass(frozen=True)
class DataSummary:
    """What the report says about the data; ``data.json``.

    Attributes:
        source: The path as given.
        kind: ``folder``, ``manifest``, ``idx`` or ``npz``.
        description: One line on how the data was understood.
        classes: Class names.
        counts: Split to images per class.
        image_size: Side in pixels that every image is brought to.
        channels: 1 or 3.
        resize: ``stretch``, ``crop`` or ``pad``.
        sizes: ``WIDTHxHEIGHT`` of the files to how many have it, the most frequent first, at most 20.
        modes: Pixel mode of the files (``RGB``, ``L``, ...) to how many have it.
        bad: Unreadable files that were left out, with the reason.
        fingerprint: Hash of the files and the geometry.
        choices: What tintype chose by itself: setting, value and reason.
        statistics: What the training images look like.
    """

    source: str
    kind: str
    description: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    image_size: int
    channels: int
    resize: str
    sizes: dict[str, int]
    modes: dict[str, int]
    bad: dict[str, str]
    fingerprint: str
    choices: tuple[tuple[str, str, str], ...]
    statistics: ImageStatistics


@dataclass(frozen=True)
class GalleryImage:
    """A thumbnail for the report.

    Attributes:
        group: ``mistakes`` or ``augmented``.
        path: Image identifier.
        caption: What stands beneath it.
        jpeg: The thumbnail as base64-encoded JPEG (or PNG, told by ``media_type``).
        media_type: ``image/jpeg`` or ``image/png``.
        overlay: The same picture under a map of where the network looked, encoded likewise; empty where there is none.
    """

    group: GalleryGroup
    path: str
    caption: str
    jpeg: str
    media_type: str = "image/jpeg"
    overlay: str = ""


def to_plain(record: Any) -> Any:
    """Turn records, tuples and arrays into what ``json`` can write, keeping field order."""
    if hasattr(record, "__dataclass_fields__"):
        return {key: to_plain(value) for key, value in asdict(record).items()}
    if isinstance(record, dict):
        return {str(key): to_plain(value) for key, value in record.items()}
    if isinstance(record, np.ndarray):
        return record.tolist()
    if isinstance(record, np.generic):
        return record.item()
    if isinstance(record, Sequence) and not isinstance(record, str):
        return [to_plain(item) for item in record]
    return record
