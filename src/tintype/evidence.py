"""What stands beside a run's figures so that they can be judged: shortcuts, answers withheld, earlier looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tintype.config import EvidenceConfig
from tintype.evaluation.abstention import choose_threshold, judge_threshold
from tintype.evaluation.baselines import baseline_findings
from tintype.ledger import Look, fingerprint_images, ledger_content, ledger_finding, looks_at, record_look
from tintype.preparing import Prepared
from tintype.records import Finding, Predictions, SplitName
from tintype.rundir import RunDir
from tintype.runtime import Runtime
from tintype.training.baselines import shortcut_baselines
from tintype.watch import Watch


@dataclass(frozen=True)
class Evidence:
    """What was found beside the figures.

    Attributes:
        files: Name of a file of the run directory to its content.
        findings: What a reader of the figures should know.
        threshold: Answers less probable than this are withheld; 0 gives all.
    """

    files: dict[str, Any]
    findings: tuple[Finding, ...]
    threshold: float


def gather_evidence(
    data: Prepared, predictions: Sequence[Predictions], runtime: Runtime, run_dir: RunDir, watch: Watch
) -> Evidence:
    """Look at a run's predictions from the sides that its figures do not show.

    Args:
        data: Images, split and settings.
        predictions: Calibrated, by split.
        runtime: Where classifiers are fitted.
        run_dir: The run's directory; the look at its test images is noted under its name.
        watch: Progress and messages.
    """
    config: EvidenceConfig = data.plan.config.evidence
    found: dict[SplitName, Predictions] = {item.split: item for item in predictions}
    test, validation = found.get("test"), found.get("validation")
    judged = test or validation
    files: dict[str, Any] = {}
    findings: list[Finding] = []
    threshold = 0.0
    if validation is not None:
        chosen = choose_threshold(validation, config.error_rate)
        threshold = chosen.threshold
        files["abstention.json"] = {"chosen": chosen, "test": None if test is None else judge_threshold(chosen, test)}
    if config.baselines and judged is not None:
        baselines = shortcut_baselines(data.cache, data.split, judged, runtime, watch.on_progress)
        files["baselines.json"] = baselines
        findings += baseline_findings(baselines)
    if test is not None:
        files["ledger.json"], finding = _note_look(data, test, run_dir, watch)
        findings += [finding] if finding is not None else []
    return Evidence(files, tuple(findings), threshold)


def _note_look(
    data: Prepared, test: Predictions, run_dir: RunDir, watch: Watch
) -> tuple[dict[str, Any], Finding | None]:
    """Note that this run was judged on its test images, and say how many were before."""
    rows, classes = data.split.test, test.classes
    fingerprint = fingerprint_images(data.cache.content_hash[rows], [classes[label] for label in test.labels.tolist()])
    accuracy = float((test.predicted == test.labels).mean())
    started = str(run_dir.read_json("environment.json").get("started", ""))
    look = Look(str(run_dir.path.absolute()), "train", accuracy, started)
    looks = record_look(fingerprint, look, watch.on_message)
    known = looks_at(fingerprint, watch.on_message)
    best = max((item.accuracy for item in known if item.accuracy is not None), default=accuracy)
    return ledger_content(looks, len(test), accuracy, known), ledger_finding(looks, len(test), best)
