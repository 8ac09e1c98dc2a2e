"""From a run directory to one HTML file: self-contained, without scripts, escaped throughout."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tintype.records import Evaluation
from tintype.report import figures, material, results, text
from tintype.report.abstention import abstention_view
from tintype.report.assessment import AssessmentView, assessment_view
from tintype.report.baselines import baselines_view
from tintype.report.comparison import class_difference_rows, comparison_headline, difference_rows
from tintype.report.confusion import confusion_views
from tintype.report.embedding import EmbeddingView, embedding_view
from tintype.report.inputs import ReportInput, read_inputs
from tintype.report.ledger import ledger_view
from tintype.report.tried import tried_view
from tintype.rundir import RunDir, write_text

REPORT_NAME = "report.html"


def write_report(run_dir: RunDir) -> Path:
    """Write ``report.html`` of a run from the files of its directory alone, atomically.

    Any of the files may be absent; its section is then left out.

    Returns:
        The path of the report.

    Raises:
        RunError: There is no such directory, or a file in it is damaged.
    """
    inputs = read_inputs(run_dir)
    layer = inputs.settings.get("evidence", {}).get("embedding")
    drawn = embedding_view(run_dir, layer) if layer else None
    return write_page(run_dir, "report.html", report_context(inputs, drawn))


def write_evaluation_report(folder: RunDir, original: RunDir) -> Path:
    """Write ``report.html`` of an evaluation on another set, beside the figures of the original run.

    Args:
        folder: Holds the evaluation on the other set.
        original: The run whose model was evaluated.

    Returns:
        The path of the report, in ``folder``.

    Raises:
        RunError: A directory is missing, or a file in it is damaged.
    """
    inputs = read_inputs(folder)
    view = assessment_view(folder, inputs.evaluation)
    return write_page(folder, "evaluation.html", evaluation_context(inputs, read_inputs(original), view))


def report_context(inputs: ReportInput, embedding: EmbeddingView | None = None) -> dict[str, Any]:
    """Everything that the template of a run's report shows.

    Args:
        inputs: The files of the run.
        embedding: A map of its images, where one was drawn.
    """
    evaluation = inputs.evaluation
    splits, rows = results.figure_rows(inputs.evaluations)
    context = _shared(inputs, inputs.model, inputs.classes, material.train_command(inputs))
    context |= {
        "headline": results.quotation(inputs),
        "facts": material.run_facts(inputs),
        "curves": _history_charts(inputs),
        "tried": tried_view(inputs.penalties, inputs.heads),
        "figure_splits": [text.SPLIT_WORDS[split] for split in splits],
        "figure_rows": rows,
        "class_table": results.class_table(evaluation, inputs.classes) if evaluation else None,
        "network": material.network_view(inputs.summary) if inputs.summary else None,
        "network_name": material.network_name(inputs),
        "baselines": baselines_view(inputs.baselines),
        "abstention": abstention_view(inputs.abstention),
        "embedding": embedding,
        "ledger": ledger_view(inputs.ledger),
    }
    return context | {"sections": _present(_REPORT_SECTIONS, context)}


def evaluation_context(
    inputs: ReportInput, original: ReportInput, assessment: AssessmentView | None = None
) -> dict[str, Any]:
    """Everything that the template of an evaluation's report shows."""
    here, there = inputs.evaluation, original.evaluation
    classes = inputs.classes or original.classes
    context = _shared(inputs, original.model, classes, material.evaluate_command(inputs, original))
    kind = text.SPLIT_WORDS[original.split] if original.split else "test"
    context |= {
        "headline": comparison_headline(here, there, classes, kind) if here else None,
        "original_name": original.name,
        "original_kind": kind,
        "facts": material.run_facts(inputs),
        "difference_rows": difference_rows(here, there) if here and there else [],
        "class_rows": class_difference_rows(here, there, classes) if here and there else [],
        "original_calibration": _calibration(there, {}),
        "assessment": assessment,
        "shifts": assessment.shifts if assessment else (),
        "near": assessment.lead if assessment else "",
    }
    return context | {"sections": _present(_EVALUATION_SECTIONS, context)}


_REPORT_SECTIONS = (
    ("findings", "Findings", None),
    ("baselines", "Shortcuts", "baselines"),
    ("training", "Training", "curves"),
    ("tried", "What was tried", "tried"),
    ("confusion", "Confusion", "confusion"),
    ("classes", "Classes", "class_table"),
    ("calibration", "Calibration", "calibration"),
    ("ranking", "ROC and precision", "ranking"),
    ("abstention", "Unsure answers", "abstention"),
    ("mistakes", "Mistakes", "show_mistakes"),
    ("embedding", "Map of the images", "embedding"),
    ("figures", "All figures", "figure_rows"),
    ("ledger", "Looks at the test set", "ledger"),
    ("data", "Data", "data"),
    ("augmented", "Augmentation", "augmented"),
    ("network", "Network", "network"),
    ("repeat", "Repeat", None),
)
_EVALUATION_SECTIONS = (
    ("findings", "Findings", None),
    ("beside", "Beside the original", "difference_rows"),
    ("images", "The images", "shifts"),
    ("classes", "Classes", "class_rows"),
    ("confusion", "Confusion", "confusion"),
    ("calibration", "Calibration", "calibration"),
    ("ranking", "ROC and precision", "ranking"),
    ("mistakes", "Mistakes", "show_mistakes"),
    ("near", "Nearest training images", "near"),
    ("data", "Data", "data"),
    ("repeat", "Repeat", None),
)


def content_security_policy(style_sheet: str) -> str:
    """The strictest policy under which the report shows: its own style sheet by hash, images from data URLs."""
    digest = base64.b64encode(hashlib.sha256(style_sheet.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def _shared(inputs: ReportInput, model: dict[str, Any], classes: Sequence[str], command: str) -> dict[str, Any]:
    """What both templates show; ``model`` is the ``model.json`` of the run that the network is from."""
    evaluation = inputs.evaluation
    curves = evaluation.curves if evaluation else {}
    gallery = material.galleries(inputs.gallery)
    confusion = confusion_views(curves.get("confusion_matrix", []), classes)
    return {
        "name": inputs.name,
        "kind": text.SPLIT_WORDS.get(inputs.split or "", ""),
        "findings": inputs.findings,
        "confusion": confusion,
        "calibration": _calibration(evaluation, model),
        "ranking": _ranking(evaluation, classes),
        "mistakes": gallery["mistakes"],
        "mistake_rows": inputs.mistakes,
        "show_mistakes": bool(gallery["mistakes"].pictures or inputs.mistakes or (confusion and not confusion.wrong)),
        "augmented": gallery["augmented"] if gallery["augmented"].pictures else None,
        "data": material.data_view(inputs.data) if inputs.data else None,
        "environment": material.environment_rows(inputs.environment),
        "version": inputs.environment.get("tintype", ""),
        "config_toml": inputs.config_toml,
        "command": command,
    }


def _history_charts(inputs: ReportInput) -> list[figures.Chart]:
    if len(inputs.history) < 2 and inputs.penalties:
        return []  # a logistic regression has no course over epochs
    if not inputs.history:
        return []
    n, kept = material.images_in(inputs.data, "validation"), inputs.kept_epoch
    return [
        figures.loss_chart(inputs.history, kept, n),
        figures.accuracy_chart(inputs.history, kept, n),
        figures.learning_rate_chart(inputs.history, kept),
    ]


def _calibration(evaluation: Evaluation | None, model: dict[str, Any]) -> dict[str, Any] | None:
    bins = [item for item in evaluation.curves.get("reliability", []) if item["n"]] if evaluation else []
    if evaluation is None or not bins:
        return None
    shown = [
        (text.metric_name(name), results.plain_cell(name, item))
        for name in ("ece", "brier")
        if (item := evaluation.metrics.get(name))
    ]
    return {
        "chart": figures.reliability_chart(bins),
        "figures": shown,
        "temperature": text.number(model["temperature"]) if "temperature" in model else "",
        "bins": [
            (
                text.percent(item["confidence"]),
                text.percent(item["accuracy"], item["n"]),
                f"{text.percent(item['low'], unit=False)} to {text.percent(item['high'])}",
                text.count(item["n"]),
            )
            for item in bins
        ],
    }


def _ranking(evaluation: Evaluation | None, classes: Sequence[str]) -> list[figures.Chart]:
    """ROC and precision against recall, for two classes."""
    if evaluation is None:
        return []
    charts = []
    curves, metrics = evaluation.curves, evaluation.metrics
    positive = classes[1] if len(classes) > 1 else "the second class"
    for key, metric, title, labels in (
        ("roc", "auc", "ROC", ("false positives", "true positives")),
        ("precision_recall", "average_precision", "Precision and recall", ("recall", "precision")),
    ):
        if key in curves:
            words = f"“{positive}” is the positive class."
            if item := metrics.get(metric):
                words = (
                    f"{text.metric_name(metric)} {text.figure(metric, item)} "
                    f"({text.interval_range(metric, item)}, n = {text.count(item.n)}). {words}"
                )
            xs, ys = curves[key]
            charts.append(figures.curve_chart(title, words, xs, ys, labels, diagonal=key == "roc"))
    return charts


def _present(sections: Sequence[tuple[str, str, str | None]], context: dict[str, Any]) -> list[tuple[str, str]]:
    return [(anchor, words) for anchor, words, needs in sections if needs is None or context[needs]]


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tintype.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": text.count, "plural": text.plural, "percent": text.percent}
    return environment


def write_page(run_dir: RunDir, template: str, context: dict[str, Any], name: str = REPORT_NAME) -> Path:
    """Write a page from a template, atomically; gives its path."""
    environment = _environment()
    assert environment.loader is not None
    style_sheet = environment.loader.get_source(environment, "report.css")[0]
    page = environment.get_template(template).render(
        **context, style_sheet=Markup(style_sheet), policy=content_security_policy(style_sheet)
    )
    write_text(run_dir / name, page)
    return run_dir / name
