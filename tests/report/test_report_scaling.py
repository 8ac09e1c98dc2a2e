"""The report of a study of scaling, from figures made by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tintype.errors import RunError
from tintype.evaluation.scaling import Projection, ScalingPoint
from tintype.evaluation.scaling_model import ASSUMPTIONS, Link, Parts
from tintype.records import Interval
from tintype.report.scaling import scaling_view
from tintype.report.scaling_figures import PARTS, speed_up_chart, step_chart
from tintype.report.scalingfile import SCALING_FILE, SCALING_FORMAT, Scaling, read_scaling
from tintype.report.study import write_study_report
from tintype.report.studyfile import STUDY_FORMAT, StudyTable, write_study_table
from tintype.rundir import write_json

ALONE = Parts(0.01, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0, 0.04, 0.002)
TOGETHER = Parts(0.005, 0.1, 0.15, 0.02, 0.05, 0.01, 0.002, 0.04, 0.002, hidden=0.1)


def around(value: float) -> Interval:
    return Interval(value, value * 0.98, value * 1.02, 8)


def point(ranks: int, parts: Parts, mode: str = "strong") -> ScalingPoint:
    seconds, rate = parts.total * 1.01, ALONE.total / parts.total
    predicted = replace(parts, exposed=parts.exposed + 0.01) if ranks > 1 else None
    return ScalingPoint(
        mode, ranks, 64, around(seconds), around(64 / seconds), around(rate), around(rate / ranks), parts,
        seconds - parts.total, seconds - 0.01, seconds - 0.072, predicted,
    )  # fmt: skip


@pytest.fixture
def scaling() -> Scaling:
    points = (point(1, ALONE), point(2, TOGETHER), point(1, ALONE, "weak"), point(2, ALONE, "weak"))
    projections = tuple(
        Projection(mode, machines, 64, TOGETHER, 150.0, 1.5, 0.4, 0.3, 0.2)
        for mode in ("strong", "weak")
        for machines in (2, 4)
    )
    return Scaling(
        SCALING_FORMAT, "two machines", {"ranks": 2}, ("a", "b"), 1, "bf16", 64, 1000, "bf16", (), 53_200_000, 0.5,
        Link(1.18e8, 1.1e-4, 1.4e-9, 2**24, 7), 1.06, points, projections, ASSUMPTIONS,
    )  # fmt: skip


def test_the_file_comes_back_as_it_was(scaling: Scaling, tmp_path: Path) -> None:
    write_json(tmp_path / SCALING_FILE, scaling)
    assert read_scaling(tmp_path) == scaling
    write_json(tmp_path / SCALING_FILE, replace(scaling, format=99))
    with pytest.raises(RunError, match="can read"):
        read_scaling(tmp_path)


def test_the_page_says_which_layers_send_factors(scaling: Scaling) -> None:
    assert "as factors" not in dict(scaling_view(scaling).facts)["Gradients"]
    sent = dict(scaling_view(replace(scaling, factored=("body.dense1",))).facts)["Gradients"]
    assert sent.endswith("0.5 of that on the link; those of body.dense1 as factors where these are less")


def test_the_answer_names_what_is_lost_the_largest_first(scaling: Scaling) -> None:
    view = scaling_view(scaling)
    assert view.result == "2\u00a0ranks are 1.46 times as fast as one"
    assert "8\u00a0blocks" in view.interval
    first, second = view.verdict.index("on their way"), view.verdict.index("communication’s work")
    assert first < second
    assert "50.0\u00a0ms" in view.verdict


def test_the_sum_of_the_parts_stands_beside_what_was_measured(scaling: Scaling) -> None:
    rows = dict(scaling_view(scaling).steps[0].rows)
    shown = [rows[words.capitalize()][1] for _, words, _ in PARTS]
    assert sum(float(figure) for figure in shown) == pytest.approx(379.0)
    assert rows["Sum of the parts"][1] == "379.0"
    assert rows["Measured"][1] == "382.8"
    assert rows["Not accounted for"][1] == "1.0\u00a0%"


def test_every_part_of_a_step_stands_in_the_picture_once() -> None:
    fields = [field for _, _, fields in PARTS for field in fields]
    assert sorted([*fields, "hidden"]) == sorted(Parts.__dataclass_fields__)


def test_the_bars_are_as_high_as_the_steps(scaling: Scaling) -> None:
    svg = str(step_chart(scaling.of("strong"), ()).svg)
    heights = [float(height) for height in re.findall(r'<rect[^>]*height="([\d.]+)"', svg)]
    first, second = sum(heights[:8]), sum(heights[8:])
    assert second / first == pytest.approx(TOGETHER.total / ALONE.total, abs=0.02)
    assert "hidden communication 100.0" in svg


def test_projections_are_drawn_beyond_what_was_measured_alone(scaling: Scaling) -> None:
    mine = [item for item in scaling.projections if item.mode == "strong"]
    assert "4 ranks, projected" in str(step_chart(scaling.of("strong"), mine).svg)
    assert "2 ranks, projected" not in str(step_chart(scaling.of("strong"), mine).svg)
    svg = str(speed_up_chart(scaling.points, scaling.projections).svg)
    assert svg.count("machines, projected") == 2
    assert svg.count("whisker") == 4


def test_the_check_says_how_far_the_projection_is_off(scaling: Scaling) -> None:
    assert len(scaling_view(scaling).checks) == 2
    assert "389.0\u00a0ms a step predicted" in scaling_view(scaling).checks[0]
    assert "1.6\u00a0% more" in scaling_view(scaling).checks[0]


def test_a_study_without_runs_has_a_page_of_its_steps_alone(scaling: Scaling, tmp_path: Path) -> None:
    write_json(tmp_path / SCALING_FILE, scaling)
    table = StudyTable(STUDY_FORMAT, "two machines", "scaling", False, "", 0, "1 rank", "", (), (), (), (), ())
    write_study_table(tmp_path, table)
    page = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="gain"' in page
    assert 'href="#projection"' in page
    assert 'id="results"' not in page
    assert ASSUMPTIONS[0] in page
    assert "style=" not in page
