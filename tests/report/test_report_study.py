"""The report of a study: what its headline may claim, what its table shows, and that a browser shows it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from browser import DARK, browse, measure

from tintype.errors import RunError
from tintype.records import Finding, Interval
from tintype.report.study import study_context, write_study_report
from tintype.report.study_figures import Measured, accuracy_against, accuracy_against_cost, learning_curves, seed_strip
from tintype.report.study_rows import difference_words, p_value
from tintype.report.studyfile import (
    Difference,
    RunRow,
    RunState,
    StudyTable,
    read_study_table,
    write_study_table,
)
from tintype.rundir import RunDir, write_text
from tintype.studies.outcome import read_outcome
from tintype.studies.plan import Axis, Study
from tintype.studies.table import make_table

MakeRun = Callable[..., RunDir]
MakeStudy = Callable[..., Path]

CONFIG = "[fit]\nbatch_size = 64\n"
DEPTHS = {"0": 0.55, "3": 0.6, "13": 0.72, "all": 0.78}


@pytest.fixture
def make_study(make_run: MakeRun, tmp_path: Path) -> MakeStudy:
    """Write a study's directory: the accuracy of each value, over seeds, of runs with made-up predictions."""

    def make(
        values: dict[str, float],
        *,
        kind: str = "depth",
        setting: str = "model.depth",
        seeds: int = 3,
        n: int = 400,
        failed: Sequence[tuple[str, int, RunState, str]] = (),
        classes: Sequence[str] = tuple("abcdefghij"),
        name: str = "a study",
        findings: Sequence[Finding] = (),
    ) -> Path:
        folder = tmp_path / "study"
        (folder / "runs").mkdir(parents=True)
        axis = Axis(setting, setting.split(".")[-1], tuple((value, value) for value in values))
        study = Study(name, kind, None, (axis,), tuple(range(seeds)))  # type: ignore[arg-type]
        broken = {(value, seed): (state, reason) for value, seed, state, reason in failed}
        runs, outcomes = [], {}
        for seed in range(seeds):
            for number, (point, (value, accuracy)) in enumerate(zip(study.points(), values.items(), strict=True)):
                run_name = f"run-{number},seed={seed}"
                if (value, seed) in broken:
                    runs.append(RunRow(run_name, point.label, seed, *broken[value, seed]))
                    continue
                environment = {
                    "processor": "AMD EPYC 9R14", "cores": 2, "device": "cpu", "tintype": "0.1.0", "seconds": 40.0,
                    "training_seconds": 4.0 * 3**number + seed, "peak_memory_mb": 700.0 + 100 * number,
                }  # fmt: skip
                run_dir = make_run(
                    f"study/runs/{run_name}", n=n, accuracy=accuracy, seed=100 * seed + number, gallery=(),
                    config=CONFIG, environment=environment, classes=classes, findings=findings,
                )  # fmt: skip
                outcomes[run_name] = outcome = read_outcome(run_dir)
                runs.append(
                    RunRow(run_name, point.label, seed, "finished", "", outcome.accuracy, outcome.loss, outcome.seconds)
                )
        write_study_table(folder, make_table(study, runs, outcomes))
        write_text(folder / "study.toml", 'name = "a study"\n')
        return folder

    return make


def test_the_headline_says_what_is_best_and_how_surely(make_study: MakeStudy) -> None:
    folder = make_study(DEPTHS)
    headline = study_context(folder)["headline"]
    table = read_study_table(folder)
    best = table.point("depth all")
    assert best is not None
    assert best.accuracy is not None
    assert best.difference is not None
    assert table.best == "depth all"
    assert headline.result.startswith(f"{best.accuracy.value * 100:.1f}\xa0% of 400 test images right with every layer")
    assert re.search(r"; 3 seeds: \d\d\.\d to \d\d\.\d\xa0%$", headline.interval)
    points = f"{best.difference.value * 100:.1f}"
    assert headline.verdict.startswith(f"{points}\xa0points above the head alone trained (95\xa0% interval ")
    assert [row.label for row in headline.strips] == ["depth 0 (reference)", "depth 3", "depth 13", "depth all"]


def test_noise_is_not_claimed_to_be_a_difference(make_study: MakeStudy) -> None:
    context = study_context(make_study({"vgg16": 0.7, "inception_v3": 0.705}, kind="models", seeds=1, n=60))
    assert "cannot be told apart" in context["headline"].verdict
    rows = {row.names[0]: row for row in context["rows"]}
    assert rows["inception_v3"].verdict.startswith("cannot be told apart, p\xa0=\xa0")
    assert not rows["inception_v3"].sure
    assert "reference" in rows["vgg16"].note
    assert any("trained once" in finding.title for finding in context["findings"])


def test_the_reference_may_be_the_best(make_study: MakeStudy) -> None:
    context = study_context(make_study({"0": 0.9, "3": 0.5, "5": 0.4}))
    assert context["headline"].verdict == "It is what the others are compared with, and every one of them is worse."


def test_failed_runs_stand_in_the_table_with_their_reason(make_study: MakeStudy) -> None:
    reason = "The loss is not finite: <b>x</b>."
    folder = make_study(DEPTHS, failed=[("13", seed, "diverged", reason) for seed in range(3)])
    context = study_context(folder)
    row = next(row for row in context["rows"] if row.names == ("13",))
    assert (row.accuracy.value, row.missing, row.runs) == ("–", "3 diverged", ())
    titles = [finding.title for finding in context["findings"] if finding.severity == "warning"]
    assert titles == [f"depth 13, seeds 0, 1, 2 diverged: {reason}"]
    assert dict(context["facts"])["Runs"] == "9 of 12 finished, 3 failed"
    page = write_study_report(folder).read_text(encoding="utf-8")
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x</b>" not in page


def test_reasons_that_differ_in_their_figures_are_one(make_study: MakeStudy) -> None:
    reasons = ["252 of 784 values, epoch 1, step 1.", "258 of 784 values, epoch 1, step 12.", "No space is left."]
    folder = make_study(DEPTHS, failed=[("13", seed, "failed", reason) for seed, reason in enumerate(reasons)])
    titles = [item.title for item in study_context(folder)["findings"] if item.severity == "warning"]
    assert titles == [f"depth 13, seeds 0, 1 failed; seed 0: {reasons[0]}", f"depth 13, seed 2 failed: {reasons[2]}"]


def test_links_lead_to_the_reports_of_the_runs(make_study: MakeStudy) -> None:
    folder = make_study(DEPTHS, seeds=2)
    report = write_study_report(folder)
    addresses = re.findall(r'href="(runs/[^"]+)"', report.read_text(encoding="utf-8"))
    assert len(addresses) == 8
    assert addresses[0] == "runs/run-0%2Cseed%3D0/report.html"


def test_costs_are_shown_with_their_units(make_study: MakeStudy) -> None:
    label, cells = study_context(make_study({"0": 0.5, "3": 0.6}, seeds=1))["costs"].rows[1]
    assert label == "depth 3"
    # 64 images a step at 6,612 images a second; 12 epochs of 1.95 s are more than the 12 s that were recorded.
    assert cells[2:7] == ("12", "1.95\xa0s", "9.7\xa0ms", "6,612", "23\xa0s")
    assert cells[7] == "800\xa0MB"


def test_findings_of_the_runs_are_gathered(make_study: MakeStudy) -> None:
    leak = Finding("leakage", "critical", "12 test images also stand in training", ("a.png",), "Take them out.")
    context = study_context(make_study({"0": 0.5, "3": 0.6}, seeds=2, findings=[leak]))
    first = context["findings"][0]
    assert (first.severity, first.title) == ("critical", leak.title)
    assert first.remedy == "In all 4 runs. Take them out."


def test_a_study_without_a_finished_run_is_said_to_have_none(make_study: MakeStudy) -> None:
    folder = make_study({"0": 0.5}, seeds=1, failed=[("0", 0, "failed", "no weights")])
    page = write_study_report(folder).read_text(encoding="utf-8")
    assert "no run has finished" in page
    assert "no weights" in page


def test_a_grid_of_numbers_is_drawn_along_them_and_models_are_not(make_study: MakeStudy, tmp_path: Path) -> None:
    grid = make_study({"0.001": 0.6, "0.01": 0.8, "0.1": 0.7}, kind="grid", setting="fit.learning_rate")
    titles = [chart.title for chart in study_context(grid)["charts"]]
    assert titles == ["Accuracy against learning rate", "Accuracy against cost", "Learning curves"]
    shutil.rmtree(tmp_path / "study")
    models = make_study({"a": 0.6, "b": 0.8, "c": 0.7}, kind="models", setting="model.backbone")
    titles = [chart.title for chart in study_context(models)["charts"]]
    assert titles == ["Who can be told apart", "Accuracy against cost", "Learning curves"]


def test_a_damaged_or_foreign_directory_is_one_plain_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no study\.json"):
        write_study_report(tmp_path)
    (tmp_path / "study.json").write_text('{"format": 1}')
    with pytest.raises(RunError, match="damaged"):
        write_study_report(tmp_path)
    (tmp_path / "study.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="this version"):
        write_study_report(tmp_path)


@pytest.mark.parametrize(
    ("p", "words"), [(0.0004, "p < 0.001"), (0.0132, "p = 0.013"), (0.04996, "p = 0.04996"), (0.05, "p = 0.050"),
                     (0.41, "p = 0.41"), (1.0, "p = 1.00")],
)  # fmt: skip
def test_p_values_are_never_rounded_across_five_percent(p: float, words: str) -> None:
    assert p_value(p).replace("\xa0", " ") == words


def test_a_worse_point_is_below(make_study: MakeStudy) -> None:
    item = Difference(-0.05, -0.08, -0.02, 400, 0.001, 0.002, "worse", True)
    words = difference_words(item, "vgg16").replace("\xa0", " ")
    assert words == "5.0 points below vgg16 (95 % interval 2.0 to 8.0, p = 0.002)"


def measured(place: str, value: float, seconds: float | None) -> Measured:
    return Measured(place, place, Interval(value, value - 0.05, value + 0.05, 100), (value - 0.02, value), seconds)


def test_points_that_crowd_keep_their_names_apart() -> None:
    points = [measured(f"network {number}", 0.5 + 0.001 * number, 10 + 0.01 * number) for number in range(5)]
    chart = accuracy_against_cost({"": points})
    assert chart is not None
    names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="name">', chart.svg)
    assert len(names) == 5
    boxes = [(float(x), float(y)) for x, y in names]
    width = 5.9 * len("network 0")
    overlapping = [
        (one, other) for i, one in enumerate(boxes) for other in boxes[:i]
        if abs(one[0] - other[0]) < width and abs(one[1] - other[1]) < 10
    ]  # fmt: skip
    assert overlapping == []


def test_without_times_there_is_no_figure_of_costs() -> None:
    assert accuracy_against_cost({"": [measured("a", 0.5, None)]}) is None


def test_costs_far_apart_stand_on_a_logarithmic_scale_in_fitting_units() -> None:
    near = accuracy_against_cost({"": [measured("a", 0.5, 10), measured("b", 0.6, 40)]})
    far = accuracy_against_cost({"": [measured("a", 0.5, 60), measured("b", 0.6, 6000)]})
    assert near is not None
    assert far is not None
    assert "logarithmic" not in near.caption
    assert "training, seconds" in near.svg
    assert "logarithmic" in far.caption
    assert "training, minutes" in far.svg


def test_many_values_do_not_crowd_the_axis() -> None:
    places = [f"{number}e-05" for number in range(40)]
    chart = accuracy_against("rate", places, {"": [measured(place, 0.5, 1) for place in places]})
    shown = [place for place in places if f">{place}</text>" in chart.svg]
    assert 3 <= len(shown) <= 12


def test_curves_need_two_epochs_and_validation(make_history: Callable[..., list[object]]) -> None:
    assert learning_curves({"a": [make_history(1)], "b": [make_history(9, validation=False)]}, 0) is None  # type: ignore[list-item]
    chart = learning_curves({"a": [make_history(9), make_history(5)], "b": [make_history(9)]}, 3)  # type: ignore[list-item]
    assert chart is not None
    assert [words for _, words in chart.legend] == ["a", "b"]
    assert chart.svg.count("faint") == 2
    assert "3\xa0more points left out" in chart.caption


def test_a_strip_marks_every_seed_within_its_line() -> None:
    drawn = seed_strip(Interval(0.9, 0.8, 0.95, 50), (0.88, 0.92), 0.5)
    assert drawn.count('class="seed"') == 2
    assert 'x1="76%"' in drawn


def test_hostile_names_are_text(make_study: MakeStudy) -> None:
    hostile = {"</script><img src=x onerror=alert(1)>": 0.5, "\u202egnp.exe": 0.6}
    folder = make_study(hostile, kind="models", setting="model.name", name='"><svg onload=alert(2)>', seeds=1)
    page = write_study_report(folder).read_text(encoding="utf-8")
    assert "<img" not in page
    assert "<svg onload" not in page
    assert "\u202e" not in page


def test_the_table_file_reads_back_as_it_was(make_study: MakeStudy, tmp_path: Path) -> None:
    folder = make_study(DEPTHS, seeds=2)
    table = read_study_table(folder)
    assert isinstance(table, StudyTable)
    (tmp_path / "other").mkdir()
    write_study_table(tmp_path / "other", table)
    assert (tmp_path / "other" / "study.json").read_bytes() == (folder / "study.json").read_bytes()


@pytest.fixture
def hostile_study(make_study: MakeStudy) -> Path:
    """Long and strange names, a failed run, many points."""
    values = {f"{'x' * 50}{number}": 0.4 + 0.03 * number for number in range(9)}
    values |= {"</script><img src=x onerror=alert(1)>": 0.5, "猫 🐈": 0.6}
    reason = "The loss is not finite because " + "y" * 150
    return make_study(values, kind="models", setting="model.name", failed=[("猫 🐈", 1, "diverged", reason)], n=60)


def test_the_browser_refuses_nothing_and_says_nothing(hostile_study: Path) -> None:
    page, console = browse(write_study_report(hostile_study))
    assert console == ""
    assert "onerror=alert" in page  # as text


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(hostile_study: Path, width: int) -> None:
    found = measure(write_study_report(hostile_study), width)
    assert (found["wide"], found["page"], found["handlers"]) == ([], width, 0)
    assert found["lines"] >= 8  # every learning curve has a colour of its own


def test_a_study_of_depth_on_a_phone_in_the_dark(make_study: MakeStudy) -> None:
    found = measure(write_study_report(make_study(DEPTHS)), 390, DARK)
    assert (found["wide"], found["page"]) == ([], 390)
    assert found["ink"] == "rgb(236, 230, 220)"
