"""The model card, from made-up runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tintype.errors import RunError
from tintype.records import Finding
from tintype.report.card import card_context, export_view, intended_use, write_card
from tintype.report.inputs import read_inputs
from tintype.rundir import RunDir

MakeRun = Callable[..., RunDir]

AGREEMENT = {"images": 360, "largest": 2.4e-7, "median": 1e-9, "near_ties": 2, "other_class": 0, "worst": 5}
EXPORT: dict[str, Any] = {
    "files": {"model.onnx": 14_200_000, "predict.py": 1_500},
    "verified": {"images": "360 test images", "same_image": AGREEMENT, "own_resize": {**AGREEMENT, "largest": 3e-4}},
    "int8": {
        "calibration_images": 256, "same_class": 0.997, "p": 1.0,
        "accuracy": {"value": 0.968, "low": 0.944, "high": 0.982, "n": 360},
        "full_accuracy": {"value": 0.971, "low": 0.948, "high": 0.984, "n": 360},
        "difference": {"value": -0.003, "low": -0.016, "high": 0.010, "n": 360},
    },
    "maps": "", "torch": None,
}  # fmt: skip


def test_the_page_holds_evidence_limits_and_files(make_run: MakeRun) -> None:
    finding = Finding("leakage", "critical", "5 test images are also in training", ("a.png",), "Remove them.")
    note = Finding("odd-sizes", "info", "3 images are much smaller than the rest")
    run = make_run(findings=[finding, note], folder="/home/somebody/secret/")
    path = write_card(run, run.path, EXPORT)
    page = path.read_text(encoding="utf-8")
    assert path.name == "card.html"
    for words in (
        "Model card", "of 360 test images right", "5 test images are also in training", "14.2", "predict.py", "−0.3",
        "It says which of 10", "−1.6", "no probability more than 2e-07 apart", "2 near ties", "Weakest class",
    ):  # fmt: skip
        assert words in page, words
    assert "much smaller than the rest" not in page  # a note speaks of the data, not against the model
    assert "/home/somebody" not in page
    for anchor, _ in card_context(read_inputs(run), EXPORT)["sections"]:
        assert page.count(f'id="{anchor}"') == 1, anchor


def test_what_was_never_tested_or_measured_is_said(make_run: MakeRun) -> None:
    run = make_run(n=60, accuracy=0.9)
    (run / "evaluation.json").write_text((run / "evaluation.json").read_text().replace('"test"', '"train"'))
    context = card_context(read_inputs(run), EXPORT)
    assert any("never judged on test images" in line for line in context["limits"])
    few = make_run("few", n=60)
    assert any("judged on 60" in line for line in card_context(read_inputs(few), EXPORT)["limits"])
    view = export_view({
        **EXPORT, "maps": "no layer keeps places", "int8": {**EXPORT["int8"], "accuracy": None, "difference": None},
        "verified": {**EXPORT["verified"], "own_resize": None},
    })  # fmt: skip
    assert "what it costs is not known" in view.quantized
    assert view.verified[-1] == "It cannot show where it looks: no layer keeps places."
    assert len(view.verified) == 2
    assert export_view({**EXPORT, "int8": None}).quantized == ""


def test_many_classes_are_counted_and_not_all_named(make_run: MakeRun) -> None:
    names = tuple(f"kind {number:03}" for number in range(45))
    run = make_run(classes=names, n=450, validation=False)
    first = intended_use(read_inputs(run))[0]
    assert "“kind 029” and 15 more." in first
    assert "kind 030" not in first


def test_an_export_of_another_version_is_one_line() -> None:
    with pytest.raises(RunError, match=r"export\.json is from another version"):
        export_view({"files": {}})
