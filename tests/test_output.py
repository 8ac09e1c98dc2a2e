"""Labels as people and programs read them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tintype.output import Style, write_labels
from tintype.serving.labels import Label

CLASSES = ("cat", "dog", "fox")
LABELS = (
    Label("a.jpg", "cat", 0.9, {"cat": 0.9, "dog": 0.04, "fox": 0.06}),
    Label("b.jpg", "dog", 0.61, {"cat": 0.3, "dog": 0.61, "fox": 0.09}, sure=False, explanation="explained/b.png"),
    Label("c\udcff.jpg", "", 0.0, {}, sure=False, error="no image"),
)


def written(style: Style, **options: Any) -> str:
    stream = io.StringIO()
    tally = write_labels(LABELS, CLASSES, style, stream, **options)
    assert (tally.images, tally.unsure, tally.failed) == (3, 1, 1)
    return stream.getvalue()


def test_the_table_marks_what_is_not_sure() -> None:
    rows = [line.split(maxsplit=1) for line in written("table").splitlines()]
    assert rows == [
        ["a.jpg", "cat     90.0%"],
        ["b.jpg", "not sure (dog 61.0%)  explained/b.png"],
        ["c\\udcff.jpg", "unreadable: no image"],
    ]


def test_the_table_names_more_classes_where_they_are_asked_for() -> None:
    lines = written("table", top=2).splitlines()
    assert lines[0].endswith("cat     90.0%  (fox 6.0%)")
    assert lines[1].endswith("not sure (dog 61.0%)  (cat 30.0%)  explained/b.png")
    assert written("table", top=9).splitlines()[0].endswith("cat     90.0%  (fox 6.0%, dog 4.0%)")


@pytest.mark.parametrize("top", [1, 2, 5])
def test_json_is_one_object(top: int) -> None:
    content = json.loads(written("json", top=top))
    assert content["classes"] == list(CLASSES)
    first, second, third = content["predictions"]
    assert [item["sure"] for item in content["predictions"]] == [True, False, False]
    assert [item["label"] for item in first["top"]] == ["cat", "fox", "dog"][:top]
    assert first["top"][0]["probability"] == 0.9
    assert second["explanation"] == "explained/b.png"
    assert second["label"] == "dog"
    assert (third["top"], third["error"]) == ([], "no image")


def test_csv_has_a_column_for_everything() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv"))))
    assert [row["sure"] for row in rows] == ["true", "false", "false"]
    assert [row["explanation"] for row in rows] == ["", "explained/b.png", ""]
    assert rows[1]["probability/cat"] == "0.3"
    assert rows[2]["probability/cat"] == rows[2]["probability"] == ""
    assert list(rows[0]) == [
        "path", "label", "probability", "sure", "probability/cat", "probability/dog", "probability/fox", "explanation",
        "error",
    ]  # fmt: skip
