"""The report in a real browser: nothing refused, nothing said, no page that scrolls sideways."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import DARK, browse, measure

from tintype.records import Finding
from tintype.report import write_evaluation_report, write_report
from tintype.rundir import RunDir

MakeRun = Callable[..., RunDir]

HOSTILE = ("</script><img src=x onerror=alert(1)>", "猫 🐈", "כלב", "x" * 120, '"><svg onload=alert(2)>', "e" * 30)


@pytest.fixture
def hostile_run(make_run: MakeRun) -> RunDir:
    """Long and malicious names everywhere."""
    finding = Finding("x", "warning", HOSTILE[0] + "w" * 200, ("z" * 300,), HOSTILE[4])
    environment = {"hardware": HOSTILE[3], "precision_evidence": "p" * 200, "command": "tintype " + "c" * 300}
    return make_run(
        "h" * 80, classes=HOSTILE, n=200, accuracy=0.8, folder="f" * 150, findings=[finding], environment=environment
    )


def test_the_check_for_console_messages_can_fail(make_run: MakeRun) -> None:
    report = write_report(make_run(n=40))
    source = report.read_text(encoding="utf-8")
    report.write_text(source.replace("<main", '<main style="color: red"'), encoding="utf-8")
    assert "Content Security Policy" in browse(report)[1]


def test_the_browser_refuses_nothing_and_says_nothing(hostile_run: RunDir) -> None:
    page, console = browse(write_report(hostile_run))
    assert console == ""
    assert "onerror=alert" in page  # as text


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(hostile_run: RunDir, width: int) -> None:
    found = measure(write_report(hostile_run), width)
    assert found["wide"] == []
    assert found["page"] == width
    assert found["handlers"] == 0
    assert found["loaded"] == found["images"] == 24
    if width == 390:
        assert found["scrolling"] >= 3  # wide tables do so inside themselves


def test_an_evaluation_of_many_classes_on_a_phone_in_the_dark(make_run: MakeRun) -> None:
    classes = [f"species number {i:02}" for i in range(40)]
    original = make_run("original", classes=classes, n=200)
    other = make_run("other", classes=classes, n=400, accuracy=0.6, seed=3)
    report = write_evaluation_report(other, original)
    found = measure(report, 390, DARK)
    assert (found["wide"], found["page"]) == ([], 390)
    assert found["ink"] == "rgb(236, 230, 220)"


def test_it_prints(make_run: MakeRun, tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    browse(write_report(make_run(n=100)), f"--print-to-pdf={pdf}")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 3 <= pages <= 12
