"""What the result was made from: data, pictures, network, machine and settings, ready to be shown."""

from __future__ import annotations

import base64
import binascii
import io
import shlex
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup
from PIL import Image

from tintype.records import SPLITS, DataSummary, GalleryImage, ModelSummary
from tintype.report import text
from tintype.report.figures import stacked_bar
from tintype.report.inputs import ReportInput

_MOST_CLASSES = 40
_MOST_LAYERS = 40
_MOST_BAD = 50
_PICTURE_BUDGET = 1_800_000  # characters of base64 in all, so that a report stays under 3 MB
_PIXELATED = 64  # thumbnails up to this side are shown with hard pixels, larger ones smoothly

_ENVIRONMENT = {
    "hardware": "Hardware",
    "system": "System",
    "processor": "Processor",
    "cores": "Cores",
    "threads": "Threads",
    "device": "Device",
    "precision": "Precision",
    "precision_evidence": "Why this precision",
    "peak_memory_mb": "Peak memory",
    "training_seconds": "Training",
    "seconds": "Everything",
    "started": "Started",
    "seed": "Seed",
    "tintype": "tintype",
    "python": "Python",
    "torch": "PyTorch",
    "source_hash": "Hash of tintype's source",
    "format": "Format of the run directory",
}


@dataclass(frozen=True)
class CountRow:
    """A class and its images per split, with a bar."""

    name: str
    counts: tuple[str, ...]
    bar: Markup


@dataclass(frozen=True)
class DataView:
    """The data section: the summary and its counts by class and split."""

    summary: DataSummary
    splits: tuple[str, ...]
    totals: tuple[str, ...]
    first: tuple[CountRow, ...]
    rest: tuple[CountRow, ...]
    facts: tuple[tuple[str, str], ...]
    bad: tuple[tuple[str, str], ...]
    bad_in_all: int


@dataclass(frozen=True)
class Thumbnail:
    """A picture that can be shown: its data URL, caption, path, size and whether its pixels are kept hard.

    ``overlay`` is the data URL of the same picture under a map of where the network looked, or empty.
    """

    url: str
    caption: str
    path: str
    width: int
    height: int
    style: str
    overlay: str = ""


@dataclass(frozen=True)
class Gallery:
    """Thumbnails of one kind, and how many were left out to keep the report small."""

    pictures: tuple[Thumbnail, ...]
    left_out: int

    @property
    def has_overlays(self) -> bool:
        """True where pictures stand in pairs."""
        return any(picture.overlay for picture in self.pictures)


@dataclass(frozen=True)
class LayerView:
    """A row of the layer table."""

    name: str
    kind: str
    shape: str
    parameters: str
    trainable: str


@dataclass(frozen=True)
class NetworkView:
    """The layer table and its totals."""

    layers: tuple[LayerView, ...]
    folded: bool
    total: str
    trainable: str
    non_trainable: str


def data_view(summary: DataSummary) -> DataView:
    """Counts as bars, and the facts about files and geometry."""
    splits = tuple(split for split in SPLITS if any(summary.counts.get(split, ())))
    columns = [summary.counts[split] for split in splits]
    amounts = list(zip(*columns, strict=True)) if columns else [() for _ in summary.classes]
    most = max((sum(row) for row in amounts), default=1) or 1
    rows = tuple(
        CountRow(name, tuple(text.count(item) for item in row), stacked_bar(list(zip(splits, row, strict=True)), most))
        for name, row in zip(summary.classes, amounts, strict=True)
    )
    fold = len(rows) if len(rows) <= _MOST_CLASSES * 1.5 else _MOST_CLASSES
    bad = tuple(summary.bad.items())
    return DataView(
        summary=summary,
        splits=splits,
        totals=tuple(text.count(sum(column)) for column in columns),
        first=rows[:fold],
        rest=rows[fold:],
        facts=_data_facts(summary),
        bad=bad[:_MOST_BAD],
        bad_in_all=len(bad),
    )


def images_in(summary: DataSummary | None, split: str) -> int:
    """Images of a split; 0 where nothing is known of it."""
    return sum(summary.counts.get(split, ())) if summary else 0


def galleries(images: Sequence[GalleryImage]) -> dict[str, Gallery]:
    """Thumbnails by kind. A picture that is none is left out, and so is what would make the report too large."""
    found: dict[str, list[Thumbnail]] = {"mistakes": [], "augmented": []}
    left_out = dict.fromkeys(found, 0)
    budget = {"mistakes": _PICTURE_BUDGET * 2 // 3, "augmented": _PICTURE_BUDGET // 3}
    for item in images:
        thumbnail = _thumbnail(item)
        size = len(thumbnail.url) + len(thumbnail.overlay) if thumbnail else 0
        if thumbnail is None or item.group not in found or size > budget[item.group]:
            left_out[item.group] = left_out.get(item.group, 0) + 1
            continue
        budget[item.group] -= size
        found[item.group].append(thumbnail)
    return {group: Gallery(tuple(pictures), left_out[group]) for group, pictures in found.items()}


def network_view(summary: ModelSummary) -> NetworkView:
    """The layer table with readable numbers."""
    layers = tuple(
        LayerView(
            row.name,
            row.kind,
            " × ".join(text.count(size) for size in row.output_shape),
            text.count(row.parameters),
            text.count(row.trainable_parameters),
        )
        for row in summary.layers
    )
    return NetworkView(
        layers,
        len(layers) > _MOST_LAYERS,
        text.count(summary.total_parameters),
        text.count(summary.trainable_parameters),
        text.count(summary.non_trainable_parameters),
    )


def network_name(inputs: ReportInput) -> str:
    """The network's name in the settings, or its backbone's; empty where it is a text of layers."""
    model = inputs.settings.get("model", {})
    return str(model.get("backbone") or model.get("name") or "")


def environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Words and values; known keys in a reader's order, others under their own names after them."""
    shown = {key: environment[key] for key in _ENVIRONMENT if environment.get(key) not in (None, "")}
    others = {key: value for key, value in environment.items() if key not in _ENVIRONMENT and key != "command"}
    rows = [(_ENVIRONMENT[key], _environment_value(key, value)) for key, value in shown.items()]
    return rows + [(key.replace("_", " "), _plain(value)) for key, value in others.items() if value not in (None, "")]


def train_command(inputs: ReportInput) -> str:
    """The command that repeats the run: the recorded one, else one from the settings that were kept."""
    recorded = _recorded_command(inputs)
    return recorded or shlex.join(["tintype", "train", "--config", f"{inputs.path}/config.toml"])


def evaluate_command(inputs: ReportInput, original: ReportInput) -> str:
    """The command that repeats an evaluation on another set."""
    source = inputs.data.source if inputs.data else "DATA"
    return _recorded_command(inputs) or shlex.join(["tintype", "evaluate", original.path, source])


def _recorded_command(inputs: ReportInput) -> str:
    given = inputs.environment.get("command") or ""
    return shlex.join(str(part) for part in given) if isinstance(given, list | tuple) else str(given)


def run_facts(inputs: ReportInput) -> list[tuple[str, str]]:
    """The line beneath the headline: data, network, training, machine."""
    facts = []
    if inputs.data:
        amounts = [f"{text.count(n)} {text.SPLIT_WORDS[s]}" for s in SPLITS if (n := images_in(inputs.data, s))]
        name = PurePath(inputs.data.source.rstrip("/")).name or inputs.data.source
        facts.append(("Data", f"{name}, {text.plural(len(inputs.data.classes), 'class', 'classes')}"))
        facts.append(("Images", ", ".join(amounts)))
    if inputs.summary:
        name = network_name(inputs) or text.plural(len(inputs.summary.layers), "layer")
        total = text.count(inputs.summary.total_parameters)
        facts.append(("Network", f"{name}, {total}{text.NBSP}parameters"))
    if inputs.history:
        seconds = inputs.environment.get("training_seconds") or sum(row.seconds for row in inputs.history)
        is_logistic = inputs.penalties and len(inputs.history) == 1
        what = "logistic regression" if is_logistic else text.plural(len(inputs.history), "epoch")
        facts.append(("Training", f"{what} in {text.duration(seconds)}"))
    if machine := _machine(inputs.environment):
        facts.append(("Machine", machine))
    if inputs.environment.get("started"):
        facts.append(("Started", _environment_value("started", inputs.environment["started"])))
    return facts


def _machine(environment: Mapping[str, Any]) -> str:
    """Processor and cores, and the accelerator where there is one."""
    if environment.get("hardware"):
        return _plain(environment["hardware"])
    parts = [_plain(environment["processor"])] if environment.get("processor") else []
    if isinstance(environment.get("cores"), int):
        parts.append(text.plural(environment["cores"], "core"))
    if environment.get("device") not in (None, "", "cpu"):
        parts.insert(0, _plain(environment["device"]))
    return ", ".join(parts)


def _data_facts(summary: DataSummary) -> tuple[tuple[str, str], ...]:
    color = "grey" if summary.channels == 1 else "colour"
    how = {"stretch": "stretched", "crop": "cropped", "pad": "padded"}.get(summary.resize, summary.resize)
    facts = [
        ("Understood as", summary.description),
        ("Brought to", f"{summary.image_size} × {summary.image_size} pixels, {color}, {how}"),
    ]
    if summary.sizes:
        facts.append(("Sizes of the files", _frequencies(summary.sizes, 6)))
    if summary.modes:
        facts.append(("Modes of the files", _frequencies(summary.modes, 8)))
    facts.append(("Fingerprint", summary.fingerprint))
    return tuple(facts)


def _frequencies(amounts: Mapping[str, int], most: int) -> str:
    shown = [f"{name.replace('x', ' × ')} ({text.count(n)})" for name, n in list(amounts.items())[:most]]
    more = len(amounts) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _thumbnail(item: GalleryImage) -> Thumbnail | None:
    """A picture, and its overlay where that is a picture of the same size."""
    size = _picture_size(item.jpeg, item.media_type)
    if size is None:
        return None
    has_overlay = bool(item.overlay) and _picture_size(item.overlay, item.media_type) == size
    return Thumbnail(
        url=f"data:{item.media_type};base64,{item.jpeg}",
        caption=item.caption,
        path=item.path,
        width=size[0],
        height=size[1],
        style="hard" if max(size) <= _PIXELATED else "",
        overlay=f"data:{item.media_type};base64,{item.overlay}" if has_overlay else "",
    )


def _picture_size(encoded: str, media_type: str) -> tuple[int, int] | None:
    """Width and height of a picture that is what it says, else None; only its header is read."""
    if media_type not in ("image/jpeg", "image/png"):
        return None
    try:
        content = base64.b64decode(encoded, validate=True)
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            return image.size
    except (binascii.Error, OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        return None


def _environment_value(key: str, value: Any) -> str:
    if key in ("seconds", "training_seconds") and isinstance(value, int | float):
        return text.duration(value)
    if key == "peak_memory_mb" and isinstance(value, int | float):
        return text.megabytes(value)
    if key == "started" and isinstance(value, str):
        return value[:19].replace("T", " ") + (" UTC" if value[19:].endswith(("Z", "+00:00")) else "")
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)
