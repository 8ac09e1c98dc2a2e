"""Runs beside each other: from their directories to a table, a report, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import DARK, browse, measure
from numpy.typing import NDArray
from scipy.stats import binomtest
from typer.testing import CliRunner

from tintype.cli import app
from tintype.comparing import compare_runs
from tintype.errors import ConfigError, DataError, RunError, TintypeError
from tintype.evaluation.metrics import evaluate
from tintype.evaluation.power import detectable_difference
from tintype.evaluation.stats import holm
from tintype.records import Interval, Predictions, SplitName
from tintype.report import rewrite_report
from tintype.report.runs_page import power_words, runs_context
from tintype.report.runsfile import BesideReference, Crosstab, RunsTable, read_runs_table
from tintype.rundir import RunDir

MakeRun = Callable[..., Path]
CLASSES = ("cat", "dog")


def answers(
    is_right: Sequence[bool] | NDArray[np.bool_],
    *,
    classes: tuple[str, ...] = CLASSES,
    split: SplitName = "test",
    first: int = 0,
    seed: int = 0,
) -> Predictions:
    """Images in turn of each class, numbered from ``first``, labelled right or wrong as given."""
    n = len(is_right)
    labels = np.arange(n) % len(classes)
    sure = np.random.default_rng(seed).uniform(0.6, 0.95, size=n)
    probabilities = np.repeat(((1 - sure) / (len(classes) - 1))[:, None], len(classes), axis=1)
    probabilities[np.arange(n), np.where(is_right, labels, (labels + 1) % len(classes))] = sure
    paths = tuple(f"{split}/{classes[label]}/{first + number:04}.png" for number, label in enumerate(labels.tolist()))
    return Predictions(split, classes, paths, labels, probabilities.astype(np.float32))


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write as much of a finished run's directory as a comparison reads."""

    def make(name: str, *items: Predictions, leaked: int = 0) -> Path:
        run_dir = RunDir(tmp_path / name)
        run_dir.path.mkdir(parents=True)
        (run_dir / "config.toml").write_text("", encoding="utf-8")
        run_dir.write_predictions(items)
        evaluations = [evaluate(item) for item in items]
        if leaked:
            evaluations[0].metrics["accuracy_leaked"] = Interval(1.0, 0.5, 1.0, leaked)
        run_dir.write_evaluation(evaluations)
        return run_dir.path

    return make


def right(n: int, share: float, seed: int) -> NDArray[np.bool_]:
    return np.asarray(np.random.default_rng(seed).random(n) < share)


def test_two_runs_are_compared_by_mcnemars_test(make_run: MakeRun) -> None:
    """The labs' B3: 27 against 21 right of 36 X-rays."""
    reference, run = np.zeros(36, dtype=bool), np.zeros(36, dtype=bool)
    run[:27], reference[:18], reference[27:30] = True, True, True
    found = compare_runs([make_run("vgg16", answers(reference)), make_run("inception", answers(run, seed=1))])
    table = found.table
    assert (found.path, found.report) == (None, None)
    assert [row.name for row in table.runs] == ["vgg16", "inception"]
    assert (table.split, table.images, table.metric, table.reference.beside) == ("test", 36, "accuracy", None)
    ((row, beside),) = table.others
    assert beside.crosstab == Crosstab(18, 9, 3, 6)
    assert row.figures["accuracy"] == evaluate(answers(run)).accuracy
    difference = beside.differences["accuracy"]
    assert difference.value == pytest.approx(6 / 36)
    assert difference.p == difference.adjusted_p == pytest.approx(binomtest(9, 12, 0.5).pvalue)
    assert difference.verdict == "cannot be told apart"
    assert beside.only_run == tuple(sorted(answers(run).paths[number] for number in range(18, 27)))
    assert len(beside.only_reference) == 3
    assert beside.detectable == detectable_difference(36, 12 / 36)
    assert beside.images_needed is not None
    assert 36 < beside.images_needed < 200
    assert any("one network" in remark for remark in table.remarks)


def test_many_runs_are_adjusted_together(make_run: MakeRun) -> None:
    base = right(200, 0.7, 0)
    paths = [make_run("base", answers(base))]
    paths += [make_run(f"other {k}", answers(base ^ right(200, 0.06, k), seed=k)) for k in (1, 2)]
    paths.append(make_run("better", answers(base | right(200, 0.5, 9), seed=9)))
    table = compare_runs(paths).table
    for metric in ("accuracy", "loss"):
        found = [beside.differences[metric] for _, beside in table.others]
        assert [item.adjusted_p for item in found] == pytest.approx(holm([item.p for item in found]).tolist())
    verdicts = {row.name: beside.differences["accuracy"].verdict for row, beside in table.others}
    assert verdicts["better"] == "better"
    assert any("3 comparisons" in remark for remark in table.remarks)
    turned = compare_runs([paths[-1], paths[0]]).table.others[0][1].differences
    assert turned["accuracy"].verdict == "worse"
    # Errors are better where they are fewer.
    assert turned["loss"].value > 0
    assert turned["loss"].verdict == "worse"


def test_the_order_of_images_and_classes_does_not_matter(make_run: MakeRun) -> None:
    item = answers(right(60, 0.8, 1))
    order = np.random.default_rng(0).permutation(60)
    turned = Predictions(
        "test", CLASSES[::-1], tuple(item.paths[k] for k in order), 1 - item.labels[order],
        item.probabilities[order][:, ::-1],
    )  # fmt: skip
    other = answers(right(60, 0.6, 2))
    plain = compare_runs([make_run("a", item), make_run("b", other)]).table
    mixed = compare_runs([make_run("c", turned), make_run("d", other)]).table
    ours, theirs = mixed.others[0][1], plain.others[0][1]
    assert replace(ours, differences={}) == replace(theirs, differences={})
    # Average precision is that of the second class, which is another one here.
    for metric, difference in ((name, item) for name, item in ours.differences.items() if name != "average_precision"):
        assert difference.value == pytest.approx(theirs.differences[metric].value), metric
        assert difference.p == pytest.approx(theirs.differences[metric].p, abs=0.06), metric
    for metric, figure in plain.reference.figures.items():
        if metric != "average_precision":
            assert mixed.reference.figures[metric].value == pytest.approx(figure.value), metric


def test_another_metric_can_decide(make_run: MakeRun) -> None:
    paths = [make_run("a", answers(right(90, 0.6, 1))), make_run("b", answers(right(90, 0.9, 2)))]
    assert compare_runs(paths, metric="macro_f1").table.metric == "macro_f1"
    with pytest.raises(ConfigError, match=r"by 'f1'\. Choose one of accuracy, balanced_accuracy"):
        compare_runs(paths, metric="f1")


def test_common_images_are_compared_when_asked_for(make_run: MakeRun) -> None:
    paths = [make_run("a", answers(right(100, 0.7, 1))), make_run("b", answers(right(80, 0.9, 2), first=40))]
    with pytest.raises(DataError, match=r"100 and 80 images, 60 of them in both; only a has .*the 60 images of both"):
        compare_runs(paths)
    table = compare_runs(paths, common=True).table
    assert table.images == 60
    assert [row.left_out for row in table.runs] == [40, 20]
    assert table.reference.figures["accuracy"].value == pytest.approx(right(100, 0.7, 1)[40:].mean())
    assert any("the 60 images that all runs have; left out: 40 of a, 20 of b" in remark for remark in table.remarks)


def test_validation_images_are_used_where_there_is_no_test_and_that_is_said(make_run: MakeRun) -> None:
    one, other = (answers(right(50, share, 1), split="validation") for share in (0.7, 0.9))
    table = compare_runs([make_run("a", one), make_run("b", other)]).table
    assert table.split == "validation"
    assert any("validation images" in remark for remark in table.remarks)
    with pytest.raises(RunError, match="a has no test images and c has some"):
        compare_runs([make_run("c", other, answers(right(50, 0.9, 1))), RunDir(make_run("d/a", one)).path])


def test_evaluations_on_other_images_are_compared_too(make_run: MakeRun, tmp_path: Path) -> None:
    paths = [make_run(f"{name}/evaluations/photos", answers(right(40, 0.7, k))) for k, name in enumerate("ab")]
    for path in paths:
        (path / "config.toml").unlink()
    assert [row.name for row in compare_runs(paths).table.runs] == [str(path) for path in paths]


def test_what_a_reader_should_know_is_remarked(make_run: MakeRun) -> None:
    item = answers(right(40, 0.7, 1))
    table = compare_runs([make_run("a", item, leaked=3), make_run("b", item)]).table
    assert any("3 of the test images of a also stand in its training images" in remark for remark in table.remarks)
    assert any("b and a give the same probabilities" in remark for remark in table.remarks)
    beside = table.others[0][1]
    assert (beside.detectable, beside.images_needed) == (None, None)
    assert all(difference.verdict == "cannot be told apart" for difference in beside.differences.values())


Mistake = Callable[[MakeRun, Path], list[Path]]


def _unfinished(make_run: MakeRun, folder: Path) -> list[Path]:
    path = make_run("b", answers(right(20, 0.7, 1)))
    (path / "evaluation.json").unlink()
    return [folder / "a", path]


def _study(make_run: MakeRun, folder: Path) -> list[Path]:
    (folder / "study" / "runs").mkdir(parents=True)
    (folder / "study" / "study.json").write_text("{}", encoding="utf-8")
    return [folder / "a", folder / "study"]


def _twice(make_run: MakeRun, folder: Path) -> list[Path]:
    item = answers(right(20, 0.7, 1))
    return [folder / "a", make_run("b", replace(item, paths=(item.paths[2], *item.paths[1:])))]


def _relabelled(make_run: MakeRun, folder: Path) -> list[Path]:
    item = answers(right(20, 0.7, 1))
    return [folder / "a", make_run("b", replace(item, labels=1 - item.labels))]


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "one run": (lambda make, folder: [folder / "a"], "at least two runs"),
    "a run twice": (lambda make, folder: [folder / "a", folder / ".." / folder.name / "a"], "is named twice"),
    "no such run": (lambda make, folder: [folder / "a", folder / "z"], "there is no run directory"),
    "not a run": (lambda make, folder: [folder / "a", folder], "holds no config.toml"),
    "unfinished": (_unfinished, "is not finished. `tintype train --resume"),
    "a study": (_study, "is a study, not a run"),
    "other classes": (
        lambda make, folder: [folder / "a", make("b", answers(right(20, 0.7, 1), classes=("cat", "hen")))],
        "their classes differ (only a has dog)",
    ),
    "other images": (
        lambda make, folder: [folder / "a", make("b", answers(right(20, 0.7, 1), first=100))],
        "0 of them in both; only a has test/cat/0000.png as cat). Compare runs on the same data.",
    ),
    "other labels": (_relabelled, "only a has test/cat/0000.png as cat"),
    "an image twice": (_twice, "holds test/cat/0002.png twice"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, make_run: MakeRun, tmp_path: Path) -> None:
    make, words = MISTAKES[name]
    make_run("a", answers(right(20, 0.7, 1)))
    with pytest.raises(TintypeError) as caught:
        compare_runs(make(make_run, tmp_path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_ends_with_exit_code_2(make_run: MakeRun) -> None:
    paths = [str(make_run(name, answers(right(20, 0.7, k), first=100 * k))) for k, name in enumerate("ab")]
    command = [sys.executable, "-m", "tintype", "compare", *paths]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("tintype: a and b cannot be compared: ")
    assert result.stderr.count("\n") == 1


def test_images_without_anything_in_common_stay_a_mistake(make_run: MakeRun) -> None:
    paths = [make_run("a", answers(right(20, 0.7, 1))), make_run("b", answers(right(20, 0.7, 1), first=100))]
    with pytest.raises(DataError, match="a, b have no labelled image in common"):
        compare_runs(paths, common=True)


def test_a_comparison_is_not_written_into_a_run(make_run: MakeRun) -> None:
    paths = [make_run(name, answers(right(20, 0.7, k))) for k, name in enumerate("ab")]
    with pytest.raises(RunError, match="is a run directory, which a comparison would write into"):
        compare_runs(paths, output=paths[0])
    assert not (paths[0] / "comparison.json").exists()


@pytest.fixture
def compared(make_run: MakeRun, tmp_path: Path) -> tuple[Path, RunsTable]:
    """Three runs, two of which cannot be told apart, and the folder of their comparison."""
    base = right(300, 0.7, 0)
    paths = [
        make_run("base", answers(base)),
        make_run("<b>like it", answers(np.where(right(300, 0.1, 3), right(300, 0.7, 4), base), seed=1)),
        make_run("better", answers(base | right(300, 0.6, 9), seed=2)),
    ]
    found = compare_runs(paths, output=tmp_path / "out")
    assert found.report == tmp_path / "out" / "report.html"
    return tmp_path / "out", found.table


def test_the_table_survives_its_file(compared: tuple[Path, RunsTable]) -> None:
    folder, table = compared
    assert read_runs_table(folder) == table
    assert {path.name for path in folder.iterdir()} == {"comparison.json", "report.html"}
    before = (folder / "report.html").read_text(encoding="utf-8")
    (folder / "report.html").unlink()
    assert rewrite_report(folder).read_text(encoding="utf-8") == before


@pytest.mark.parametrize("content", ["[]", '{"format": 99}', '{"format": 1}', "{"])
def test_a_damaged_file_is_said_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "comparison.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"comparison\.json"):
        read_runs_table(tmp_path)


def test_the_report_says_what_was_found(compared: tuple[Path, RunsTable]) -> None:
    folder, _ = compared
    page = (folder / "report.html").read_text(encoding="utf-8")
    context = runs_context(folder)
    assert context["headline"].result == "2 runs beside base: 1 better, 1 cannot be told apart"
    assert context["headline"].verdict.startswith("better has the best figure, ")
    assert [row.name for row in context["rows"]] == ["base", "<b>like it", "better"]
    assert [row.sure for row in context["rows"]] == [False, False, True]
    assert "<b>like it" not in page
    assert "&lt;b&gt;like it" in page
    assert 'style="' not in page
    assert "<script" not in page
    first = context["crosstabs"][1].images[0]
    assert first.count == len(first.first) + len(first.rest)
    assert first.first[0] in page


def test_the_headline_of_two_runs_says_whether_and_how_surely(make_run: MakeRun, tmp_path: Path) -> None:
    base = right(500, 0.7, 0)
    one, like, better = (
        make_run("a", answers(base)),
        make_run("b", answers(np.where(right(500, 0.1, 3), right(500, 0.7, 4), base), seed=1)),
        make_run("c", answers(base | right(500, 0.5, 9), seed=2)),
    )
    compare_runs([one, better], output=tmp_path / "sure")
    headline = runs_context(tmp_path / "sure")["headline"]
    assert headline.result == "c is better than a"
    assert "p\xa0<\xa00.001, n\xa0=\xa0500" in headline.interval
    compare_runs([one, like], output=tmp_path / "unsure")
    context = runs_context(tmp_path / "unsure")
    assert context["headline"].result == "b and a cannot be told apart by accuracy"
    assert "would be found in 4 of 5 cases" in context["headline"].verdict
    assert context["command"].startswith("tintype compare ")
    assert context["command"].endswith("/b -o NEW")


def test_words_about_power_fit_what_was_seen() -> None:
    def words(only_run: int, only_reference: int, detectable: float | None, needed: int | None) -> str:
        crosstab = Crosstab(900 - only_run, only_run, only_reference, 100 - only_reference)
        return power_words(BesideReference({}, crosstab, (), (), detectable, needed), 1_000).replace("\xa0", " ")

    assert words(1, 2, None, 90_000).startswith("Only 3 of 1,000 images tell the two apart")
    assert words(60, 20, 0.025, 390).endswith("a difference of 2.5 points would be found in 4 of 5 cases.")
    assert words(30, 26, 0.021, 27_468).endswith("; for the 0.4 points seen here, about 27,000 images are needed.")
    assert words(30, 30, 0.021, None).endswith("cases.")


def test_a_browser_shows_the_report(compared: tuple[Path, RunsTable]) -> None:
    report = compared[0] / "report.html"
    _, complaints = browse(report)
    assert complaints == ""
    for width in (360, 1200):
        found = measure(report, width)
        assert found["wide"] == []
        assert found["page"] <= width
        assert found["handlers"] == 0
    assert measure(report, 1200, DARK)["ink"] != measure(report, 1200)["ink"]


def test_the_verb_prints_a_table_or_one_json_object(make_run: MakeRun, tmp_path: Path) -> None:
    paths = [str(make_run(name, answers(right(120, 0.7, k), seed=k))) for k, name in enumerate(("a", "[red]b"))]
    shown = CliRunner().invoke(app, ["compare", *paths])
    assert shown.exit_code == 0, shown.output
    for words in (
        "120 test images",
        "difference to a",
        "[red]b",
        "cannot be told apart, p",
        "Area under the ROC curve",
    ):
        assert words in shown.stdout
    result = CliRunner().invoke(app, ["compare", *paths, "--json", "-o", str(tmp_path / "out")])
    content = json.loads(result.stdout)
    assert content["comparison"] == str(tmp_path / "out")
    assert content["runs"][1]["beside"]["crosstab"].keys() == {"both", "only_run", "only_reference", "neither"}
    assert content["images"] == 120
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert saved == {key: value for key, value in content.items() if key != "comparison"}


def test_comparing_needs_no_torch(make_run: MakeRun) -> None:
    paths = [str(make_run(name, answers(right(20, 0.7, k)))) for k, name in enumerate("ab")]
    code = (
        "import sys\nfrom tintype.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, "compare", *paths], check=True, capture_output=True)
