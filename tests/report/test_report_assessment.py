"""What the report of an evaluation on other images says beside its figures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import browse, measure
from PIL import Image

from tintype.errors import RunError
from tintype.evaluation.stats import wilson
from tintype.records import Evaluation, Shift
from tintype.report import write_evaluation_report
from tintype.report.assessment import assessment_content, assessment_view, overconfidence
from tintype.report.comparison import difference
from tintype.rundir import RunDir

MakeRun = Callable[..., RunDir]

SHIFTS = [
    Shift("brightness (mean grey level)", "grey", 180.0, 120.0, 3.0),
    Shift("size (shorter side)", "pixels", 28.0, 224.0, -1.5),
    Shift("in colour", "share", 0.25, 1.0, None),
]


def picture() -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 90).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"media_type": "image/png", "data": data, "width": 8, "height": 8}


def near(**changes: Any) -> dict[str, Any]:
    def lookalike(label: str, distance: float) -> dict[str, Any]:
        return {"path": f"train/{label}.png", "label": label, "distance": distance, "picture": picture()}

    mistake = {
        "path": "<b>photo</b>.png", "label": "3", "predicted": "8", "confidence": 0.97, "picture": picture(),
        "lookalikes": [lookalike("8", 0.04), lookalike("3", 0.05), lookalike("8", 0.2)],
    }  # fmt: skip
    return {"searched": 500, "training": 900, "usual": 0.0123, "reason": "", "mistakes": [mistake], **changes}


def evaluation(right: int, n: int, confidence: float) -> Evaluation:
    low, high = wilson(right, n).low, wilson(right, n).high
    reliability = [{"confidence": confidence, "accuracy": right / n, "low": low, "high": high, "n": n}]
    metrics = {"accuracy": wilson(right, n), "ece": wilson(5, n), "recall/a": wilson(right // 2, n // 2)}
    return Evaluation("test", metrics, {"reliability": reliability, "confusion_matrix": [[n // 2, 0], [n - n // 2, 0]]})


def test_content_holds_the_gap_the_classes_and_calibration_beside_the_original() -> None:
    here, there = evaluation(60, 100, 0.9), evaluation(950, 1000, 0.96)
    content = assessment_content(here, there, ("a", "b"), "test", SHIFTS, inverted=7)
    assert content["gap"] == difference(wilson(60, 100), wilson(950, 1000))
    assert content["verdict"].startswith("35.0 points below the 95.0 % of the original test (95 % interval ")
    assert content["classes"][0]["difference"] == difference(wilson(30, 50), wilson(475, 500))
    assert [item["name"] for item in content["classes"]] == ["a"]
    assert content["calibration"]["ece"]["original"] == wilson(5, 1000)
    assert content["calibration"]["overconfidence"]["here"].value == pytest.approx(0.3)
    assert content["inverted"] == 7
    alone = assessment_content(here, None, ("a", "b"), "test", [], inverted=0)
    assert alone["gap"] is None
    assert alone["verdict"] == "60.0 % of 100 images right; the run has no figures of its own to hold this against."


def test_overconfidence_has_the_interval_of_the_accuracy() -> None:
    found = overconfidence(evaluation(60, 100, 0.9))
    assert found is not None
    accuracy = wilson(60, 100)
    assert (found.low, found.high) == pytest.approx((0.9 - accuracy.high, 0.9 - accuracy.low))
    assert overconfidence(Evaluation("test", {"accuracy": accuracy}, {})) is None


def assessed(make_run: MakeRun, neighbours: dict[str, Any], shifts: list[Shift] = SHIFTS) -> tuple[RunDir, RunDir]:
    original, folder = make_run("original"), make_run("photos", n=100, accuracy=0.7, epochs=0, seed=3)
    here, there = folder.read_evaluation()["test"], original.read_evaluation()["test"]
    classes = tuple("0123456789")
    folder.write_json("assessment.json", assessment_content(here, there, classes, "test", shifts, inverted=2))
    folder.write_json("neighbours.json", neighbours)
    return folder, original


def test_the_report_shows_images_side_by_side_and_nearest_training_images(make_run: MakeRun) -> None:
    folder, original = assessed(make_run, near())
    page = write_evaluation_report(folder, original).read_text(encoding="utf-8")
    assert "The images differ most in brightness: 180 against 120, 3.0 deviations of the training images." in page
    assert "<b>+3.0</b>" in page
    assert "−1.5" in page
    assert "2\N{NO-BREAK SPACE}images of opposite polarity were shown to the network as negatives" in page
    assert "compared with 500 of 900 training images by cosine distance" in page
    assert "In 1 of 1\N{NO-BREAK SPACE}mistake the nearest training image has the class that was answered" in page
    assert "is 3, taken for 8 (97\N{NO-BREAK SPACE}%)" in page
    assert "Training images lie 0.012 from their nearest one (median); these mistakes lie 0.040." in page
    assert "&lt;b&gt;photo&lt;/b&gt;.png" in page
    assert page.count("distance 0.") == 2 * 3  # caption and alternative text
    assert "overconfident by" in page
    assert page.count("<h3>Here</h3>") == 1
    assert "<h3>Original test</h3>" in page
    for anchor in ("images", "near", "calibration"):
        assert f'href="#{anchor}"' in page
        assert f'id="{anchor}"' in page
    assert not re.search(r"\sstyle=", page)


def test_where_nothing_can_be_shown_the_reason_is(make_run: MakeRun) -> None:
    gone = near(mistakes=[], searched=0, training=0, reason="there is no file or folder mnist. Mend the link.")
    folder, original = assessed(make_run, gone, shifts=[SHIFTS[2]])
    page = write_evaluation_report(folder, original).read_text(encoding="utf-8")
    assert "None can be shown: there is no file or folder mnist. Mend the link." in page
    assert "Deviations apart" not in page
    assert "The images differ most" not in page


def test_an_evaluation_of_an_earlier_version_has_a_report_all_the_same(make_run: MakeRun) -> None:
    page = write_evaluation_report(make_run("other", n=50), make_run("original")).read_text(encoding="utf-8")
    assert 'id="near"' not in page
    assert 'id="images"' not in page
    assert 'id="calibration"' in page


def test_images_alike_are_said_to_be_and_damaged_files_are_one_line(make_run: MakeRun) -> None:
    alike = [Shift("brightness (mean grey level)", "grey", 121.0, 120.0, 0.05)]
    folder, _ = assessed(make_run, near(), alike)
    view = assessment_view(folder, None)
    assert view is not None
    assert "lie within one deviation of the training images" in view.remark
    folder.write_json("neighbours.json", {"mistakes": [{"path": 1}]})
    with pytest.raises(RunError, match="is from another version of tintype"):
        assessment_view(folder, None)


def test_the_browser_refuses_nothing_and_the_page_fits_a_phone(make_run: MakeRun, tmp_path: Path) -> None:
    folder, original = assessed(make_run, near())
    report = write_evaluation_report(folder, original)
    assert browse(report)[1] == ""
    found = measure(report, 390)
    assert (found["wide"], found["page"]) == ([], 390)
    assert found["loaded"] == found["images"]
