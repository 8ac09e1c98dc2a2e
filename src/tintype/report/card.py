"""The model card: what a model is for, what speaks for it and where it ends, for whoever gets it without the run.

Everything on it comes from the run directory and from what the export says of itself. Folders of the machine that the
model was made on are not named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintype.records import DataSummary, Interval
from tintype.report import material, text
from tintype.report.html import report_context, write_page
from tintype.report.inputs import ReportInput, read_inputs
from tintype.report.reading import of_this_version
from tintype.rundir import RunDir

CARD_NAME = "card.html"

_MOST_NAMED = 30
_SHOWN = ("accuracy", "accuracy_without_leaked", "balanced_accuracy", "macro_f1", "auc", "loss", "ece")
_HOW = {
    "stretch": "stretched to a square, whatever its shape",
    "crop": "scaled by its short side; what lies outside the middle square is not looked at",
    "pad": "scaled by its long side; the rest of the square is filled with the colour of the edges",
}


@dataclass(frozen=True)
class ExportView:
    """What the card says of the files it lies with.

    Attributes:
        files: Name and size of each.
        verified: How the files were compared with the run, a sentence each.
        quantized: What the int8 model costs; empty where there is none.
    """

    files: tuple[tuple[str, str], ...]
    verified: tuple[str, ...]
    quantized: str


def write_card(run_dir: RunDir, folder: Path, export: Mapping[str, Any]) -> Path:
    """Write ``card.html``.

    Args:
        run_dir: The run that the model is from.
        folder: Where the card goes.
        export: The content of ``export.json``.

    Returns:
        Its path.

    Raises:
        RunError: A file of the run is damaged or from another version.
    """
    return write_page(RunDir(folder), "card.html", card_context(read_inputs(run_dir), export), CARD_NAME)


def card_context(inputs: ReportInput, export: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template of the card shows.

    Args:
        inputs: The files of the run.
        export: The content of ``export.json``.
    """
    context = report_context(inputs)
    shown = {text.metric_name(metric) for metric in _SHOWN}
    context |= {
        "figure_rows": [row for row in context["figure_rows"] if row[0] in shown],
        "intended": intended_use(inputs),
        "limits": limits(inputs, context),
        "severe": [finding for finding in inputs.findings if finding.severity != "info"],
        "made": [row for row in material.run_facts(inputs) if row[0] != "Machine"],
        "export": export_view(export),
    }
    sections = [
        ("use", "What it is for", True),
        ("limits", "Limits", True),
        ("evidence", "Evidence", bool(context["figure_rows"])),
        ("classes", "Classes", bool(context["class_table"])),
        ("baselines", "Shortcuts", bool(context["baselines"])),
        ("calibration", "Calibration", bool(context["calibration"])),
        ("abstention", "Unsure answers", bool(context["abstention"])),
        ("data", "Data", bool(context["data"])),
        ("made", "How it was made", True),
        ("files", "Files", True),
    ]
    return context | {"sections": [(anchor, words) for anchor, words, is_there in sections if is_there]}


def intended_use(inputs: ReportInput) -> tuple[str, ...]:
    """What the model takes and gives, a sentence each."""
    sentences = [_classes_sentence(inputs.classes)] if inputs.classes else []
    if inputs.data is not None:
        sentences += _input_sentences(inputs.data)
    sentences.append(
        "It knows nothing else: an image of something that is none of these classes gets one of them all the same, and "
        "may get it with a high probability."
    )
    return tuple(sentences)


def limits(inputs: ReportInput, context: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the model ends, a sentence each."""
    sentences = [
        "The figures hold for images like those it was tested on. On images of another camera, place or time they may "
        "be worse; only labelled images from there can tell (tintype evaluate)."
    ]
    evaluation = inputs.evaluation
    if evaluation is not None:
        sentences += [_weakest_sentence(evaluation.metrics, inputs.classes)]
        n = evaluation.metrics["accuracy"].n if "accuracy" in evaluation.metrics else 0
        if inputs.split != "test":
            sentences.append("It was never judged on test images: what it was chosen by flatters it.")
        elif n < 300:
            sentences.append(f"It was judged on {text.plural(n, 'image')} only, hence the wide intervals.")
    if context["abstention"]:
        sentences += [context["abstention"].lead, context["abstention"].remark]
    if context["ledger"]:
        sentences.append(context["ledger"].lead)
    return tuple(sentence for sentence in sentences if sentence)


def export_view(export: Mapping[str, Any]) -> ExportView:
    """What ``export.json`` says, in words.

    Raises:
        RunError: It is from another version.
    """
    with of_this_version("export.json"):
        verified, quantized = export["verified"], export["int8"]
        files = tuple((name, _size(int(size))) for name, size in export["files"].items())
        same, own = verified["same_image"], verified["own_resize"]
        count = text.plural(same["images"], "image")
        lines = [
            f"Compared with the run on {count} ({verified['images']}): the same class everywhere but on "
            f"{text.count(same['near_ties'])} near ties, no probability more than {same['largest']:.1g} apart."
        ]
        if own is not None:
            lines.append(
                f"Resized by the model itself from their original size, {text.plural(own['images'], 'image')}: no "
                f"probability more than {own['largest']:.1g} apart, median {own['median']:.1g}."
            )
        if export["maps"]:
            lines.append(f"It cannot show where it looks: {export['maps']}.")
        words = "" if quantized is None else _quantized_sentence(quantized)
    return ExportView(files, tuple(lines), words)


def _classes_sentence(classes: Sequence[str]) -> str:
    named = ", ".join(f"“{name}”" for name in classes[:_MOST_NAMED])
    more = f" and {text.count(len(classes) - _MOST_NAMED)} more" if len(classes) > _MOST_NAMED else ""
    return f"It says which of {text.plural(len(classes), 'class', 'classes')} an image shows: {named}{more}."


def _input_sentences(data: DataSummary) -> list[str]:
    size, statistics = data.image_size, data.statistics
    colour = "grey levels" if data.channels == 1 else "colour"
    sentences = [
        f"An image of any size is brought to {size} × {size} pixels in {colour}: {_HOW.get(data.resize, data.resize)}. "
        "Smaller details than that do not reach it."
    ]
    looks = f"median size {statistics.width:.0f} × {statistics.height:.0f} pixels"
    looks += f", {text.percent(statistics.color)} in colour, mean grey level {statistics.mean:.0f} of 255"
    sentences.append(f"Its {text.count(statistics.n)} training images that were measured look like this: {looks}.")
    if statistics.dark_on_light >= 0.9 or statistics.dark_on_light <= 0.1:
        how = "dark on a light ground" if statistics.dark_on_light >= 0.5 else "light on a dark ground"
        sentences.append(
            f"What they show is {how}; tintype predict turns other images into their negatives, other programs have "
            "to do so themselves."
        )
    return sentences


def _weakest_sentence(metrics: Mapping[str, Interval], classes: Sequence[str]) -> str:
    known = [(metrics[f"recall/{name}"], name) for name in classes if f"recall/{name}" in metrics]
    if not known:
        return ""
    recall, name = min(known, key=lambda item: (item[0].value, item[1]))
    found, span = text.percent(recall.value, recall.n), text.interval_range("recall", recall)
    return f"Weakest class: of {text.plural(recall.n, 'image')} of “{name}” it finds {found} ({span})."


def _quantized_sentence(quantized: Mapping[str, Any]) -> str:
    if quantized["difference"] is None:
        return "The int8 model was made without labelled images: what it costs is not known."
    accuracy, difference = Interval(**quantized["accuracy"]), Interval(**quantized["difference"])
    return (
        f"The int8 model is right on {text.percent(accuracy.value, accuracy.n)} "
        f"({text.interval_range('accuracy', accuracy)}) of {text.plural(accuracy.n, 'image')}: "
        f"{text.points(difference.value)} beside the full model, 95{text.NBSP}% interval {text.points(difference.low)} "
        f"to {text.points(difference.high)}."
    )


def _size(size: int) -> str:
    return f"{size / 1e6:.1f}{text.NBSP}MB" if size >= 100_000 else f"{max(size / 1e3, 0.1):.1f}{text.NBSP}kB"
