"""The page of a map of images, from made-up files."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import DARK, browse, measure
from PIL import Image

from tintype.errors import RunError
from tintype.evaluation.stats import wilson
from tintype.records import to_plain
from tintype.report.embedding import embedding_view, summary_lines
from tintype.report.embedding_map import Point, class_map, mistake_map
from tintype.report.embedding_page import write_embedding_page
from tintype.rundir import RunDir

CLASSES = ("covid", "normal", "bacterial", "viral")
HOSTILE = ("</script><img src=x onerror=alert(1)>", '"><svg onload=alert(2)>', "x" * 120, "猫")


def picture() -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (56, 56), (120, 60, 30)).save(buffer, "JPEG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"media_type": "image/jpeg", "data": data, "width": 56, "height": 56}


def points(classes: tuple[str, ...] = CLASSES, each: int = 9) -> list[dict[str, Any]]:
    found = []
    for number in range(len(classes) * each):
        label = classes[number % len(classes)]
        angle = 6.3 * (number % len(classes)) / len(classes)
        found.append(
            {
                "path": f"test/{label}/{number:03}.png",
                "role": "test",
                "label": label,
                "predicted": classes[(number + (number % 9 == 4)) % len(classes)],
                "x": 20 * math.cos(angle) + number % 7,
                "y": 12 * math.sin(angle) + number % 5,
            }
        )
    return found


def content(classes: tuple[str, ...] = CLASSES, **changes: Any) -> dict[str, Any]:
    pairs: list[dict[str, Any]] = [
        {
            "one": one,
            "other": other,
            "accuracy": wilson(60 if (one, other) == classes[2:4] else 98, 100),
            "largest": 0.5,
        }
        for i, one in enumerate(classes)
        for other in classes[i + 1 :]
    ]
    pairs.sort(key=lambda pair: pair["accuracy"].value)
    found = {
        "format": 1, "run": "runs/chest", "layer": "features", "features": 1280, "metric": "cosine", "components": 50,
        "perplexity": 11.67, "seed": 0, "classes": classes, "split": "test", "judged": 36, "judged_in_all": 36,
        "context": {}, "learnt": False, "trustworthiness": wilson(95, 100), "neighbours": 10,
        "separability": {
            "accuracy": wilson(250, 305), "shuffled": wilson(75, 305), "largest": 0.26, "folds": 5, "repeats": 5,
            "shuffles": 20,
            "penalty": 0.128, "left_out": [], "pairs": pairs, "pairs_in_all": len(pairs), "splits": ["train", "test"],
        },
        "new": None, "points": points(classes),
    }  # fmt: skip
    plain: dict[str, Any] = to_plain({**found, **changes})
    return plain


def folder_of(path: Path, pictures: dict[str, Any] | None = None, **changes: Any) -> RunDir:
    folder = RunDir(path)
    path.mkdir(parents=True, exist_ok=True)
    folder.write_json("embedding.json", content(**changes))
    folder.write_json("thumbnails.json", {"0": picture(), "4": picture()} if pictures is None else pictures)
    folder.write_json("environment.json", {"tintype": "0.1.0", "command": "tintype embed runs/chest"})
    return folder


def test_the_page_says_what_the_picture_cannot(tmp_path: Path) -> None:
    page = write_embedding_page(folder_of(tmp_path / "features")).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "36 test images by what the output layer sees" in page
    assert "tells 82.0 % of 305 images right that it was not fitted on (95 % interval" in page
    assert "with shuffled labels 24.6 %" in page
    assert "Closest are “bacterial” and “viral”: 60.0 %" in page or "cannot be told apart by these features" in page
    assert "Trustworthiness of the map 0.950" in page
    assert page.count('class="spot"') == 2
    assert page.count("<image ") == 2
    assert not re.search(r"\sstyle=|<script|\son[a-z]+=", page)
    assert "tintype embed runs/chest" in page


def test_classes_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    chance = content()["separability"]
    chance["pairs"][0]["accuracy"] = to_plain(wilson(52, 100))
    lines = summary_lines(content(separability=chance))
    assert "“bacterial” and “viral” cannot be told apart by these features: 52.0 %" in lines[2]
    assert "where naming one always gives 50.0 %" in lines[2]


def test_mistakes_training_images_and_new_ones_have_marks_of_their_own() -> None:
    drawn = str(
        class_map(
            [
                Point(0, 0, "judged", "a", "a", "right.png"),
                Point(1, 0, "judged", "a", "b", "wrong.png"),
                Point(0, 1, "context", "b", "b", "seen.png"),
                Point(1, 1, "new", "", "b", "new.png", far=True),
            ],
            ("a", "b"),
            "four",
        )
    )
    assert drawn.count('class="ring s2"') == 1
    assert drawn.count('class="dot-mark seen s2"') == 1
    assert drawn.count('class="new"') == 1
    assert drawn.count('class="halo"') == 1
    assert drawn.index("seen.png") < drawn.index("right.png") < drawn.index("wrong.png") < drawn.index("new.png")
    wrong = str(mistake_map([Point(0, 0, "judged", "a", "b", "p"), Point(1, 1, "context", "a", "b", "q")], ""))
    assert (wrong.count("wrong-mark"), wrong.count("plain-mark")) == (1, 0)


def test_cards_lie_over_all_marks_and_inside_the_drawing() -> None:
    some = picture()
    corners = [Point(x, y, "judged", "a", "b", f"{x}{y}.png", picture=some) for x in (0, 9) for y in (0, 9)]
    drawn = str(class_map([*corners, Point(5, 5, "judged", "a", "a", "m.png")], ("a", "b"), "five"))
    width, height = (float(part) for part in re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawn)[0])
    cards = re.findall(r'<rect x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="([\d.]+)" rx', drawn)
    assert len(cards) == 4
    for x, y, wide, high in cards:
        assert float(x) >= 0
        assert float(y) >= 0
        assert float(x) + float(wide) <= width
        assert float(y) + float(high) <= height
    assert drawn.rindex('class="dot-mark') < drawn.index('class="spot"')


def test_one_unit_is_the_same_along_both_axes() -> None:
    drawn = str(class_map([Point(x, y, "judged", "a", "a", "p") for x, y in ((0, 0), (10, 0), (0, 4))], ("a",), ""))
    (x0, y0), (x1, _), (_, y2) = [
        (float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="6" class="dot-mark', drawn)
    ]
    assert (x1 - x0) / 10 == pytest.approx((y0 - y2) / 4, rel=0.01)


def test_a_view_for_the_run_s_report_has_no_pictures(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert embedding_view(run_dir) is None
    folder_of(tmp_path / "embeddings" / "features")
    view = embedding_view(run_dir)
    assert view is not None
    assert view.pictures == 0
    assert "<image" not in view.map
    assert view.page == "embeddings/features/embedding.html"


def test_few_images_new_images_and_samples_are_said(tmp_path: Path) -> None:
    extra = {"role": "new", "label": "", "predicted": "covid", "path": "p.png", "x": 90.0, "y": 90.0, "far": True}
    changed: dict[str, Any] = {
        "separability": None, "context": {"validation": 25, "train": 244}, "judged": 20, "learnt": True,
        "new": {"source": "photos", "images": 1},
        "points": [*points(), extra],
    }  # fmt: skip
    page = write_embedding_page(folder_of(tmp_path / "map", **changed)).read_text(encoding="utf-8")
    page = page.replace("\u00a0", " ")
    assert "20 of 36 test images are shown, evenly taken." in page
    assert (
        "25 validation and 244 training images stand behind the few test images, paler. The network was fitted on"
        in page
    )
    assert "1 new image from photos was placed into the map; 1 of them is farther" in page
    assert 'id="separability"' not in page
    lines = summary_lines(content(**changed))
    assert lines[1].startswith("too few images of each class")


def test_a_file_of_another_version_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has format 7; this tintype reads 1"):
        write_embedding_page(folder_of(tmp_path / "a", format=7))
    with pytest.raises(RunError, match="from another version"):
        write_embedding_page(folder_of(tmp_path / "b", points=[{"x": 1}]))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return write_embedding_page(
        folder_of(tmp_path / "map", {str(i): picture() for i in range(36)}, classes=HOSTILE, run="runs/<b>")
    )


def test_the_browser_refuses_nothing_and_names_stay_text(hostile: Path) -> None:
    page, console = browse(hostile)
    assert console == ""
    assert "<img src=x" not in page


@pytest.mark.parametrize("flags", [(), (DARK,)])
def test_the_page_fits_a_phone(hostile: Path, flags: tuple[str, ...]) -> None:
    found = measure(hostile, 390, *flags)
    assert (found["wide"], found["page"], found["handlers"]) == ([], 390, 0)


def test_six_hundred_pictures_stay_below_five_megabytes(tmp_path: Path, make_thumbnail: Callable[[int], str]) -> None:
    many = points(each=250)
    data = {"media_type": "image/jpeg", "data": make_thumbnail(56), "width": 56, "height": 56}
    folder = folder_of(tmp_path / "map", {str(i): data for i in range(600)}, points=many)
    assert write_embedding_page(folder).stat().st_size < 5_000_000
