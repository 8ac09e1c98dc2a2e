"""The report of a search: what its headline may claim, what its leaderboard shows, and that a browser shows it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from browser import DARK, browse, measure
from made_up_search import (
    IMAGES,
    LAYERS,
    NOT_FINITE,
    OUT_OF_MEMORY,
    TOML,
    residual_layers,
    search_table,
    trial_row,
    write_search,
)

from tintype.errors import RunError
from tintype.evaluation.selection import Selection
from tintype.records import Finding
from tintype.report import rewrite_report
from tintype.report.tune import tune_context, write_tune_report
from tintype.report.tune_board import board, layer_sequence, short_names, standings
from tintype.report.tune_figures import history_chart, importance_chart
from tintype.report.tunefile import TUNE_FILE, TuneTable, read_tune_table
from tintype.rundir import RunDir

MakeRun = Callable[..., RunDir]
MakeSearch = Callable[..., Path]
HOSTILE = "</script><img src=x onerror=alert(1)>" + "w" * 150


@pytest.fixture
def make_search(make_run: MakeRun, tmp_path: Path) -> MakeSearch:
    """Write a search's directory with the winner's run."""

    def make(table: TuneTable | None = None, *, findings: tuple[Finding, ...] = ()) -> Path:
        folder = write_search(tmp_path / "search", table or search_table())
        run_dir = make_run("search/best", n=2000, accuracy=0.99, gallery=(), findings=findings)
        run_dir.write_json("summary.json", residual_layers())
        return folder

    return make


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = search_table()
    assert read_tune_table(write_search(tmp_path, table)) == table


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    file = write_search(tmp_path, search_table()) / TUNE_FILE
    file.write_text(file.read_text("utf-8").replace('"role"', '"part"', 1), "utf-8")
    with pytest.raises(RunError, match=r"tune\.json is damaged: .*part"):
        read_tune_table(tmp_path)
    with pytest.raises(RunError, match=r"is not a search's directory"):
        write_tune_report(tmp_path / "nothing")


def test_the_headline_is_the_test_accuracy_and_the_verdict_the_winners_curse(make_search: MakeSearch) -> None:
    folder = make_search()
    headline = tune_context(folder)["headline"]
    accuracy = RunDir(folder / "best").read_evaluation()["test"].accuracy
    assert headline.result == f"{accuracy.value * 100:.2f}\xa0% of 2,000\xa0test images right"
    chosen = search_table().selection
    assert chosen is not None
    assert headline.verdict.startswith("Chosen among 36\xa0candidates by 6,000\xa0validation images")
    assert "about 0.08\xa0points are owed to the choice" in headline.verdict
    assert f"so that {chosen.expected * 100:.2f}\xa0% (" in headline.verdict
    labels = [row.label for row in headline.strips]
    assert labels == [
        "The winner, test images",
        f"Trial {search_table().winner}, validation images",
        "The default of tintype train, validation images",
        "A logistic head, validation images",
    ]


def test_no_optimism_is_claimed_where_there_is_next_to_none(make_search: MakeSearch) -> None:
    table = replace(search_table(), selection=Selection(IMAGES, 4, 0.98, 0.00001, 0.97, 0.99))
    verdict = tune_context(make_search(table))["headline"].verdict
    assert verdict.endswith("Next to nothing of that is owed to having been the best of them.")


def test_a_search_under_way_has_a_report(tmp_path: Path) -> None:
    table = search_table(state="running", result=None)
    context = tune_context(write_search(tmp_path, table))
    assert context["headline"].result.endswith("validation images right so far")
    assert context["picture"] is None
    assert ("Time", "4\xa0min 48\xa0s of 5\xa0min 0\xa0s, still searching") in context["facts"]
    page = write_tune_report(tmp_path).read_text("utf-8")
    assert "validation images right so far" in page
    assert 'href="best/' not in page


def test_a_search_without_a_complete_trial_has_a_report(tmp_path: Path) -> None:
    rows = (trial_row(0, state="running"), trial_row(1, state="failed", cause=OUT_OF_MEMORY))
    table = replace(
        search_table(state="running", result=None), trials=rows, winner=None, selection=None, importance={}, stages=()
    )
    page = write_tune_report(write_search(tmp_path, table)).read_text("utf-8")
    assert "no trial is complete" in page
    assert OUT_OF_MEMORY in page


def test_the_leaderboard_ranks_means_over_seeds_and_keeps_baselines_in_sight(make_search: MakeSearch) -> None:
    table = search_table()
    view = board(table)
    assert view is not None
    rows = {row.number: row for row in (*view.first, *view.rest)}
    chosen = rows[str(table.winner)]
    assert chosen.note.startswith("chosen, 3 seeds: ")
    assert chosen.place == "1"  # by its mean; others with one seed may be luckier
    winner = table.trial(table.winner)
    assert winner is not None
    assert winner.accuracy is not None
    assert chosen.accuracy.value == f"{(winner.accuracy.value - 0.0006) * 100:.2f}\xa0%"  # mean of three seeds
    assert {row.note for row in view.first if row.style == "baseline"} == {
        "the default of tintype train",
        "a logistic head",
    }
    assert "2" not in {row.number for row in (*view.first, *view.rest) if row.note.startswith("repeat")}
    stopped = [row for row in view.rest if not row.place]
    assert stopped
    assert all(row.note.startswith("stopped after stage ") for row in stopped)
    assert [row.place for row in (*view.first, *view.rest) if row.place and not row.style] == sorted(
        (row.place for row in (*view.first, *view.rest) if row.place and not row.style), key=int
    )


def test_an_early_accuracy_never_ranks_above_one_of_the_last_stage() -> None:
    trials = (
        trial_row(0, 0.9, stage=3),
        trial_row(1, 0.95, state="pruned", stage=1),
        trial_row(2, 0.8, state="pruned", stage=2),
    )
    order = [item.trial.number for item in standings(replace(search_table(), trials=trials))]
    assert order == [0, 2, 1]


def test_only_what_varied_is_shown_under_short_names() -> None:
    trials = (
        trial_row(0, 0.9, settings={"heads.dropout": (0.25,), "model.freeze": "all", "fit.ema": None}),
        trial_row(1, 0.8, settings={"heads.dropout": (0.5,), "model.freeze": "all", "fit.ema": 0.99}),
    )
    view = board(replace(search_table(), trials=trials, winner=0))
    assert view is not None
    assert view.first[0].settings == (("dropout", "0.25"), ("ema", "none"))
    assert short_names(["fit.learning_rate", "heads.learning_rate"]) == {
        "fit.learning_rate": "fit learning rate", "heads.learning_rate": "heads learning rate"
    }  # fmt: skip


def test_layers_are_shown_as_the_sequence_of_those_that_compute() -> None:
    assert layer_sequence(LAYERS.format(32, 64, 1)) == "conv 32 ×2, residual 64, gap"
    assert layer_sequence("; ".join(f"conv {size} 3" for size in range(12))).endswith("conv 8 and 3 more")


def test_the_history_holds_every_trial_and_baselines_that_press_nothing_together() -> None:
    table = search_table()
    chart = history_chart(table)
    assert chart is not None
    searched = [row for row in table.trials if row.role == "search" and row.accuracy]
    assert chart.svg.count("<circle") == len(searched)
    assert chart.svg.count(" level") == 1
    assert chart.legend == (("s1", "best so far"), ("s2 level", "the default of tintype train"))
    assert "1\xa0candidate below the axis stands at its edge" in chart.caption
    assert chart.caption.endswith("Below it lies a logistic head: 92.40\xa0%.")


def test_the_best_so_far_never_falls() -> None:
    trials = tuple(trial_row(i, value, ended=10.0 * (i + 1)) for i, value in enumerate((0.5, 0.7, 0.6, 0.8)))
    chart = history_chart(replace(search_table(), trials=trials, seconds=50.0))
    assert chart is not None
    line = chart.svg.split('d="M')[-1].split('"')[0]
    heights = [float(point.split()[1]) for point in line.split("L")]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 3


def test_importance_is_drawn_in_its_order_and_the_small_are_left_out() -> None:
    assert importance_chart({}, {}) is None
    chart = importance_chart({f"fit.setting_{i}": 0.01 * (i + 1) for i in range(15)}, {"fit.setting_14": "the one"})
    assert chart is not None
    assert chart.svg.count("<rect") == 12
    assert chart.svg.index("the one") < chart.svg.index("fit.setting_13")
    assert "3 smaller ones are left out" in chart.caption


def test_failures_are_counted_by_their_cause(make_search: MakeSearch) -> None:
    failures = tune_context(make_search())["failures"]
    assert [(row.count, row.trials, row.cause) for row in failures] == [
        ("2", "7, 31", OUT_OF_MEMORY), ("1", "19", NOT_FINITE)
    ]  # fmt: skip


def test_the_page_has_the_scores_the_settings_and_the_findings_of_the_run(make_search: MakeSearch) -> None:
    finding = Finding("overfitting", "warning", "It fits the training images much better.")
    note = Finding("quiet", "info", "A note of the run.")
    folder = make_search(findings=(finding, note))
    context = tune_context(folder)
    metrics = RunDir(folder / "best").read_evaluation()["test"].metrics
    words, cells = context["averages"][2]
    assert words == "F1"
    assert [cell.value for cell in cells] == [
        f"{metrics[f'{kind}_f1'].value * 100:.2f}\xa0%" for kind in ("macro", "weighted", "micro")
    ]
    assert context["toml"] == TOML
    assert context["command"] == f"tintype train --config {folder}/winner.toml"
    codes = [item.code for item in context["findings"]]
    assert codes == ["overfitting", "search-note"]


def test_report_finds_a_search_and_makes_the_same_page_again(make_search: MakeSearch) -> None:
    folder = make_search()
    first = write_tune_report(folder).read_bytes()
    (folder / "report.html").unlink()
    assert rewrite_report(folder).read_bytes() == first


def test_a_browser_shows_it_in_the_dark_and_on_a_phone(make_search: MakeSearch) -> None:
    table = search_table()
    trials = tuple(replace(row, cause=HOSTILE) if row.cause else row for row in table.trials)
    folder = make_search(replace(table, trials=trials, reason=HOSTILE, name=HOSTILE, notes=(HOSTILE,)))
    report = write_tune_report(folder)
    page, console = browse(report)
    assert console == ""
    assert "onerror=alert" in page  # as text
    found = measure(report, 390, DARK)
    assert (found["wide"], found["page"], found["handlers"]) == ([], 390, 0)
    assert found["ink"] == "rgb(236, 230, 220)"


def test_a_missing_run_directory_leaves_its_sections_out(make_search: MakeSearch) -> None:
    folder = make_search()
    shutil.rmtree(folder / "best")
    context = tune_context(folder)
    assert context["picture"] is None
    assert context["averages"] == []
    assert "validation images right" in context["headline"].result
