"""The sections on shortcuts and on looks at the test set, and the page of likely wrong labels."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tintype.errors import RunError
from tintype.evaluation.baselines import Answered, Baselines, judge_baselines
from tintype.evaluation.label_errors import LabelErrors, Suspect, Trial
from tintype.evaluation.stats import wilson
from tintype.ledger import Look, ledger_content
from tintype.records import to_plain
from tintype.report.baselines import baselines_view
from tintype.report.html import _environment
from tintype.report.ledger import ledger_view
from tintype.report.mislabelled import SuspectPicture, write_labels_page, write_labels_table

HOSTILE = '</script><img src=x onerror=alert(1)> {{ 7*7 }} "quoted" \udce9 \u202egnp'


class Balanced(HTMLParser):
    """Fails where a tag is not closed in order, or an attribute could run or style something."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        assert tag != "script"
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def words_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("\u00a0", " ").replace("&nbsp;", " ").split())


def section(template: str, name: str, view: Any) -> str:
    html = str(getattr(_environment().get_template(template).module, name)(view))
    Balanced(html)
    return html


def baselines(network: float, colours: float, n: int = 200, judged_of: int = 200) -> dict[str, Any]:
    places = np.arange(n)
    answers = [
        Answered("majority", "nothing", places % 2 == 0),
        Answered("colours", "how often which colours occur", places < colours * n),
        Answered("invented", "a shortcut of another version", places < 0.4 * n),
    ]
    accuracy, above, rows = judge_baselines(places < network * n, answers)
    left_out = ("the blur was not tried: too small",)
    found = Baselines("test", accuracy, above, rows, n, judged_of, 500, 900, left_out, 0.2)
    return json.loads(json.dumps(to_plain(found)))  # type: ignore[no-any-return]


def test_shortcuts_stand_beside_the_network_the_best_first() -> None:
    view = baselines_view(baselines(0.95, 0.7))
    assert view is not None
    labels = ["Colours alone", "Always the class most frequent in training", "a shortcut of another version"]
    assert [row.label for row in view.rows] == labels
    assert "above the best of them (colours alone)" in view.lead
    html = section("baselines.html", "baselines_section", view)
    words = words_of(html)
    assert "95.0 %" in words
    assert "+25.0 points" in words
    assert "drawn from 900" in words
    assert "The blur was not tried: too small." in words
    assert html.count("<svg") == 4


def test_a_network_that_is_not_told_apart_is_said_so() -> None:
    view = baselines_view(baselines(0.71, 0.7, judged_of=400))
    assert view is not None
    assert "cannot be told from the best of them" in view.lead
    assert not view.rows[0].is_sure
    assert any("drawn from 400" in note for note in view.notes)


def test_no_shortcuts_no_section_and_another_version_is_said() -> None:
    assert baselines_view({}) is None
    with pytest.raises(RunError, match=r"baselines\.json is from another version"):
        baselines_view({"rows": []})


def looks(count: int) -> dict[str, Any]:
    known = tuple(Look(f"/home/ada/run {number}", "train", 0.9, str(number), f"2026-01-{number + 1:02}T10:20:30+00:00")
                  for number in range(count))  # fmt: skip
    return ledger_content(count, 1000, 0.98, known)


def test_looks_are_counted_and_listed_the_latest_first() -> None:
    one, few, many = (ledger_view(looks(count)) for count in (1, 3, 25))
    assert one is not None
    assert few is not None
    assert many is not None
    assert "first model" in one.lead
    assert "3 models" in few.lead
    assert "more than a handful" in many.lead
    assert "up to 0.9" in many.lead.replace("\u00a0", " ")
    assert few.rows[0] == ("2026-01-03 10:20", "run 2", "train", "90.0\u00a0%")
    assert (len(many.rows), many.left_out) == (20, 5)
    words = words_of(section("ledger.html", "ledger_section", many))
    assert "5 earlier looks left out" in words
    assert "ada" not in words
    assert "<details" not in section("ledger.html", "ledger_section", one)


def test_no_ledger_no_section_and_another_version_is_said() -> None:
    assert ledger_view({}) is None
    with pytest.raises(RunError, match=r"ledger\.json is from another version"):
        ledger_view({"looks": 3})


def errors(count: int, name: str = "photo") -> LabelErrors:
    suspects = tuple(
        Suspect(f"{name} {place}", "train", "cat", "dog" if place % 3 else "cow", 0.001 * place, 0.9, place)
        for place in range(count)
    )
    return LabelErrors(500, "the pixels", wilson(480, 500), suspects, Trial(25, 24, 30), "3 images were not judged.")


PIXEL = "data:image/png;base64,AAAA"


def test_the_page_of_labels_shows_pictures_pairs_and_how_far_to_trust_it(tmp_path: Path) -> None:
    found = errors(7)
    pictures = [SuspectPicture(PIXEL, 64, 48, item) for item in found.suspects[:5]]
    page = write_labels_page(tmp_path, "my photos", found, pictures)
    assert page == tmp_path / "labels.html"
    html = page.read_text(encoding="utf-8")
    Balanced(html)
    words = words_of(html)
    assert "7 labels of 500 to look at" in words
    assert "25 labels changed on purpose, 96 %" in words
    assert "2 more labels in labels.csv" in words
    assert "3 images were not judged" in words
    assert html.count(PIXEL) == 5
    assert re.search(r"cat.{0,60}dog.{0,40}4", words)


def test_a_page_without_suspects_says_so(tmp_path: Path) -> None:
    html = write_labels_page(tmp_path, "my photos", errors(0), []).read_text(encoding="utf-8")
    Balanced(html)
    assert "No label of 500 looks wrong" in words_of(html)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    found = errors(1, HOSTILE)
    page = write_labels_page(tmp_path, HOSTILE, found, [SuspectPicture(PIXEL, 200, 100, found.suspects[0])])
    html = page.read_text(encoding="utf-8")
    Balanced(html)
    assert "<img src=x" not in html
    assert "49" not in words_of(html).replace("{{ 7*7 }}", "")
    write_labels_table(tmp_path / "list.csv", found)
    assert b"\xe9" in (tmp_path / "list.csv").read_bytes()
