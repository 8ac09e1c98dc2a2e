"""What the report of each kind of study shows: learning curves, ablations, learning rates, devices."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DARK, browse, measure

from tintype.evaluation.power_law import fit_learning_curve
from tintype.evaluation.stats import wilson_bounds
from tintype.records import Interval, to_plain
from tintype.report.study import study_context, write_study_report
from tintype.report.study_curves import (
    accuracy_against_images,
    accuracy_against_rate,
    error_against_images,
    range_test_chart,
)
from tintype.report.study_dots import grouped_points
from tintype.report.study_figures import Measured
from tintype.report.study_law import about, law_view, what_limits
from tintype.report.study_rows import cost_table, group_letters, point_views
from tintype.report.studyfile import AxisRow, Difference, PointRow, StudyTable, write_study_table
from tintype.training.range_test import read_off

SIZES = (100, 250, 1000, 2500, 10_000)
TEST_IMAGES = 10_000


def spaced(words: str) -> str:
    return words.replace("\xa0", " ")


def share(value: float, n: int = TEST_IMAGES) -> Interval:
    low, high = wilson_bounds(value, n)
    return Interval(value, float(low), float(high), n)


def point(label: str, value: float, setting: str, name: str, **more: Any) -> PointRow:
    seeds = (value - 0.002, value, value + 0.002)
    plain: dict[str, Any] = {
        "accuracy": share(value), "accuracy_by_seed": seeds, "loss": Interval(0.1, 0.09, 0.11, TEST_IMAGES),
        "loss_by_seed": (0.1, 0.1, 0.1), "total_parameters": 29_098, "trainable_parameters": 29_034,
        "epochs": 5.0, "seconds_per_epoch": 6.0, "seconds_per_step": 0.01, "images_per_second": 10_000.0,
        "training_seconds": 30.0, "peak_memory_mb": 700.0, "device": "cpu",
    }  # fmt: skip
    return PointRow(label, {setting: name}, {setting: name}, (0, 1, 2), 0, **{**plain, **more})


def table_of(kind: str, axis: AxisRow, points: list[PointRow], **more: Any) -> StudyTable:
    best = max(points, key=lambda row: row.accuracy.value if row.accuracy else 0.0).label
    table = StudyTable(
        format=1, name=f"a study of {kind}", kind=kind, quick=False, split="test", images=TEST_IMAGES,
        reference=points[0].label, best=best, axes=(axis,), seeds=(0, 1, 2), points=tuple(points), runs=(), remarks=(),
    )  # fmt: skip
    return replace(table, **more)


def folder_of(table: StudyTable, tmp_path: Path) -> Path:
    write_study_table(tmp_path, table)
    return tmp_path


def size_table(a: float = 0.004, *, with_law: bool = True) -> StudyTable:
    random = np.random.default_rng(0)
    errors = [[(a + 3.9 * size**-0.62) * factor for factor in 1 + random.normal(0, 0.05, 3)] for size in SIZES]
    axis = AxisRow("data.train_images", "train_images", tuple(str(size) for size in SIZES))
    points = [
        point(
            f"train_images {size}", 1 - float(np.mean(found)), axis.setting, str(size), train_images=size,
            accuracy_by_seed=tuple(1 - one for one in found), train_accuracy=share(0.9995, size),
            train_accuracy_by_seed=(0.999, 0.9995, 1.0),
        )
        for size, found in zip(SIZES, errors, strict=True)
    ]  # fmt: skip
    law = to_plain(fit_learning_curve(SIZES, errors, TEST_IMAGES)) if with_law else None
    return table_of("data size", axis, points, law=law)


def test_a_learning_curve_says_how_many_images_are_needed_and_how_it_was_checked(tmp_path: Path) -> None:
    table = size_table()
    context = study_context(folder_of(table, tmp_path))
    assert [chart.title for chart in context["curves"]] == [
        "Accuracy against training images", "Error against training images",
    ]  # fmt: skip
    assert table.law is not None
    ahead = next(item for item in table.law["needed"] if (item["images"] or 10**9) > SIZES[-1])
    assert context["headline"].verdict == context["law"].answer
    assert spaced(context["law"].answer).startswith(f"To reach {ahead['accuracy'] * 100:g} %")
    assert "with 10,000\xa0training images" in context["headline"].result
    assert "inside that interval" in context["law"].check
    assert "training" in context["columns"]
    page = spaced(write_study_report(tmp_path).read_text(encoding="utf-8"))
    assert '<a href="#curve">Learning curve</a>' in page
    for target, images, span in context["law"].needed:
        assert spaced(f'<th scope="row">{target}</th><td class="number">{images}</td>') in page
        assert spaced(span) in page


def test_without_a_law_the_points_are_still_drawn(tmp_path: Path) -> None:
    context = study_context(folder_of(size_table(with_law=False), tmp_path))
    assert context["law"] is None
    assert len(context["curves"]) == 2
    assert "law" not in context["curves"][0].caption
    assert " beyond" not in context["curves"][0].svg


@pytest.mark.parametrize(
    ("images", "low", "high", "is_possible", "words"),
    [
        (
            31_482,
            18_311,
            62_000,
            True,
            "To reach 99 %, about 31,000 training images are needed (from 18,000 to 62,000).",
        ),
        (31_482, 18_311, None, True, "are needed: 18,000 at least, and how many at most cannot be told."),
        (None, 90_000, None, True, "99 % would take more than 1,000,000 training images by the fitted law."),
        (None, None, None, False, "By the fitted law no number of images reaches 99 %: it levels off at 98.00 %."),
        (None, 90_000, None, False, "98.00 %, though 90,000 images or more could do it within its uncertainty."),
    ],
)
def test_the_answer_claims_no_more_than_the_law_knows(
    images: int | None, low: int | None, high: int | None, is_possible: bool, words: str
) -> None:
    law = size_table().law
    assert law is not None
    needed = {"accuracy": 0.99, "images": images, "low": low, "high": high, "is_possible": is_possible}
    law |= {"a": {"value": 0.02, "low": 0.01, "high": 0.03}, "needed": [needed], "horizon": 1_000_000}
    view = law_view(law)
    assert spaced(view.answer).endswith(words)
    (row,) = view.needed
    assert row[0] == "99\xa0%"


def test_what_is_not_a_matter_of_images_is_said(tmp_path: Path) -> None:
    table = size_table()
    assert study_context(folder_of(table, tmp_path))["limit"] == ""
    last = table.points[-1]
    assert last.accuracy is not None
    weak = replace(last, train_accuracy=share(last.accuracy.value + 0.001, 2000))
    folder_of(replace(table, points=(*table.points[:-1], weak)), tmp_path)
    page = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert "its size or its training holds it back, not the number of images" in page
    assert what_limits([replace(last, train_accuracy=None)]) == ""


def test_a_check_that_failed_is_said() -> None:
    law = size_table().law
    assert law is not None
    law["held_out"] |= {"holds": False}
    assert "not to be relied on" in law_view(law).check
    law["held_out"] = None
    assert law_view(law).check == ""


@pytest.mark.parametrize(("images", "words"), [(7, "7"), (99, "99"), (126, "130"), (31_482, "31,000"), (999, "1,000")])
def test_numbers_of_images_have_two_digits(images: int, words: str) -> None:
    assert about(images) == words


def heights(svg: str, style: str) -> list[float]:
    return [float(y) for y in re.findall(rf'cy="([\d.]+)" r="3.6" class="dot {style}"', svg)]


def test_a_power_law_is_a_straight_line_on_the_axes_of_the_error() -> None:
    points = [
        Measured(str(size), str(size), share(1 - 3 * size**-0.5), (), None, images=size) for size in (100, 1000, 10_000)
    ]
    chart = error_against_images({"": points}, None)
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="3.6"', chart.svg)]
    assert places[0][0] + places[2][0] == pytest.approx(2 * places[1][0], abs=0.2)
    assert places[0][1] + places[2][1] == pytest.approx(2 * places[1][1], abs=0.2)
    assert places[0][1] < places[1][1] < places[2][1]  # the error falls


def test_an_error_of_nothing_and_one_of_everything_can_be_drawn() -> None:
    points = [
        Measured(str(n), str(n), share(value, 50), (value, value), None, images=n)
        for n, value in ((10, 0.0), (100, 1.0))
    ]
    for chart in (accuracy_against_images({"": points}, None), error_against_images({"": points}, None)):
        assert "nan" not in chart.svg
        assert chart.svg.count('r="3.6"') == 2


def test_several_curves_have_names_and_no_training_accuracy() -> None:
    one = [Measured("a", "100", share(0.8), (), None, 100, share(1.0)), Measured("b", "200", share(0.9), (), None, 200)]
    chart = accuracy_against_images({"plain": one, "augmented": one}, None)
    assert [words for _, words in chart.legend] == ["plain", "augmented"]
    assert chart.svg.count('r="3.6"') == 4
    alone = accuracy_against_images({"": one}, None)
    assert [words for _, words in alone.legend] == ["test", "training"]
    assert len(heights(alone.svg, "s2")) == 1


def variants(groups: tuple[tuple[str, ...], ...]) -> StudyTable:
    axis = AxisRow("variant", "variant", ("as it was", "bn", "dense 5"))
    worse = Difference(-0.12, -0.13, -0.11, TEST_IMAGES, 1e-9, 2e-9, "worse", True)
    alike = Difference(0.001, -0.001, 0.003, TEST_IMAGES, 0.3, 0.3, "cannot be told apart", True)
    points = [
        point("as it was", 0.984, "variant", "as it was"),
        point("bn", 0.985, "variant", "bn", changes="model.name = mnist_ablation_bn", difference=alike),
        point("dense 5", 0.864, "variant", "dense 5", changes="dense 5", difference=worse, total_parameters=60_000),
    ]
    return table_of("ablation", axis, points, groups=groups)


def test_an_ablation_shows_what_changed_what_it_did_and_what_it_cost(tmp_path: Path) -> None:
    table = variants((("bn", "as it was"), ("dense 5",)))
    assert group_letters(table) == {"bn": "a", "as it was": "a", "dense 5": "b"}
    rows = {view.names[0]: view for view in point_views(table)}
    assert rows["dense 5"].groups == "b"
    assert rows["dense 5"].parameters == "60,000"
    assert spaced(rows["bn"].verdict) == "cannot be told apart, p = 0.30"
    context = study_context(folder_of(table, tmp_path))
    assert [chart.title for chart in context["charts"]] == ["Who can be told apart", "Accuracy against cost"]
    page = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert '<th scope="col">Group</th>' in page
    assert "model.name = mnist_ablation_bn" in page
    assert (
        page.count("<bdi>dense 5</bdi>") == 3
    )  # result, cost, and the picture's row is text; not once more as its change
    assert "Loss, nats" not in page


def test_bars_join_what_cannot_be_told_apart_and_the_best_stands_first() -> None:
    points = [Measured(name, name, share(value), (), None) for name, value in (("a", 0.9), ("b", 0.95), ("c", 0.94))]
    chart = grouped_points(points, (("b", "c"), ("a",), ("c", "gone")), "a")
    rows = {name: float(y) for y, name in re.findall(r'y="([\d.]+)" text-anchor="end" class="name">(\w)<', chart.svg)}
    assert rows["b"] < rows["c"] < rows["a"]
    (bar,) = re.findall(r'd="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)" class="group"', chart.svg)
    assert float(bar[0]) < rows["b"] < rows["c"] < float(bar[1])
    assert "Every pair can be told apart" in grouped_points(points, (("a",), ("b",), ("c",)), "a").caption


def test_one_that_is_far_worse_does_not_press_the_others_into_one_place() -> None:
    points = [
        Measured(name, name, share(v), (), None) for name, v in (("a", 0.99), ("b", 0.98), ("c", 0.96), ("d", 0.5))
    ]
    chart = grouped_points(points, (), "")
    xs = [float(x) for x in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="3.6"', chart.svg)]
    assert xs == sorted(xs, reverse=True)
    assert xs[0] - xs[1] == pytest.approx(xs[1] - xs[2], abs=0.2)  # each has twice the error of the one before
    assert ">95</text>" in chart.svg
    assert "log scale of the error" in chart.svg


def test_letters_go_on_behind_z() -> None:
    table = replace(variants(()), groups=tuple((str(number),) for number in range(30)))
    letters = group_letters(table)
    assert (letters["25"], letters["26"], letters["29"]) == ("z", "a2", "d2")


def found_range(losses: list[float]) -> dict[str, Any]:
    return to_plain(read_off(np.geomspace(1e-6, 100, 160), losses))  # type: ignore[no-any-return]


def valley() -> list[float]:
    at = np.linspace(-6, 2, 160)
    losses = 2.3 - 2.0 / (1 + np.exp(-4 * (at + 2.6))) + 4.0 * np.maximum(at + 1.2, 0) ** 2
    return [float(loss) for loss in losses[:145]]


def test_the_learning_rate_is_proposed_and_swept(tmp_path: Path) -> None:
    axis = AxisRow("fit.learning_rate", "learning_rate", ("0.001", "0.01", "0.1"))
    points = [
        point(f"learning_rate {rate}", value, axis.setting, rate)
        for rate, value in (("0.001", 0.9), ("0.01", 0.98), ("0.1", 0.97))
    ]
    test = found_range(valley())
    context = study_context(folder_of(table_of("learning rate", axis, points, range_test=test), tmp_path))
    titles = [chart.title for chart in context["charts"]]
    assert titles == ["Learning-rate range test", "Accuracy against learning rate", "Accuracy against cost"]
    proposed = f"{test['proposed']:.2g}"
    assert f"proposed: {proposed}" in context["charts"][0].svg
    assert f"range test: {proposed}" in context["charts"][1].svg
    assert "training ran away" in context["charts"][0].caption


def test_a_range_test_that_saw_nothing_says_so() -> None:
    chart = range_test_chart(found_range([2.3, 2.31, 2.29, 2.3]))
    assert chart.caption.startswith("The loss fell at no learning rate.")
    assert "proposed" not in chart.svg


def test_rates_stand_at_equal_ratios() -> None:
    points = [Measured(rate, rate, share(0.9), (), None) for rate in ("0.1", "0.001", "0.01")]
    chart = accuracy_against_rate({"": points}, None)
    xs = sorted(float(x) for x in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="3.6"', chart.svg))
    assert xs[0] + xs[2] == pytest.approx(2 * xs[1], abs=0.2)


def test_devices_begin_their_costs_with_the_speed_up(tmp_path: Path) -> None:
    axis = AxisRow("device", "device", ("cpu", "cuda"))
    points = [
        point("cpu", 0.98, "device", "cpu"),
        point("cuda", 0.98, "device", "cuda", device="NVIDIA H200", speed_up=5.904, seconds_per_epoch=1.02),
    ]
    table = table_of("devices", axis, points)
    costs = cost_table(table)
    assert costs is not None
    assert costs.heads[:2] == ("Device", "Speed-up")
    assert [spaced(cell) for cell in costs.rows[1][1][:2]] == ["NVIDIA H200", "5.90 ×"]
    assert costs.rows[0][1][1] == "–"
    folder_of(table, tmp_path)
    assert "The speed-up is how many times as fast as" in write_study_report(tmp_path).read_text(encoding="utf-8")


def test_hostile_names_of_variants_stay_text(tmp_path: Path) -> None:
    hostile = "</svg><script>alert(1)</script>"
    table = variants((("bn", "as it was"),))
    points = (replace(table.points[0], label=hostile, names={"variant": hostile}, changes=hostile), *table.points[1:])
    folder_of(replace(table, points=points, groups=((hostile, "bn"),), reference="bn"), tmp_path)
    page = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("table", [size_table(), variants((("bn", "as it was"),))], ids=["data size", "ablation"])
def test_a_browser_shows_it_on_a_phone_in_the_dark(table: StudyTable, tmp_path: Path) -> None:
    report = write_study_report(folder_of(table, tmp_path))
    found = measure(report, 390, DARK)
    assert (found["wide"], found["page"]) == ([], 390)


def test_the_browser_refuses_nothing_of_a_learning_curve(tmp_path: Path) -> None:
    assert browse(write_study_report(folder_of(size_table(), tmp_path)))[1] == ""
