"""The benchmark runner's own arithmetic and files, on made-up rows and a made-up contender."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benches import BENCHMARKS, benchmark_modules

MODULES = ("layouts", "workloads", "results", "machine", "environments", "run")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The runner's modules; they stand beside a script, not in a package."""
    with benchmark_modules(*MODULES) as modules:
        yield modules


def rows_of(bench: Any, contender: str, values: list[float | None], key: str = "speed") -> list[Any]:
    return [
        bench.results.Row(
            workload="race",
            contender=contender,
            repeat=repeat,
            measures={key: value},
            peak_rss_mib=100.0 + repeat,
            wall_seconds=1.0,
            other_cores=0.01 * repeat,
            versions={"library": "1.2"},
        )
        for repeat, value in enumerate(values)
    ]


def race(bench: Any, *, higher_is_better: bool = True, average: str = "median") -> tuple[Any, Any]:
    measure = bench.workloads.Measure(
        "a", "speed", "(a) A race", "images/s", higher_is_better, average, required={"other": 2.0}, aim={"other": 4.0}
    )
    contenders = tuple(bench.workloads.Contender(name, "tintype", "x.py") for name in ("tintype", "other", "third"))
    return bench.workloads.Workload("race", contenders, (measure,)), measure


def test_median_range_and_memory(bench: Any) -> None:
    workload, measure = race(bench)
    rows = rows_of(bench, "tintype", [30.0, 10.0, 500.0])
    (figure,) = bench.results.figures(rows, workload, measure)
    assert (figure.value, figure.low, figure.high, figure.n, figure.peak_rss_mib) == (30.0, 10.0, 500.0, 3, 101.0)


def test_mean_where_the_measure_asks_for_it(bench: Any) -> None:
    workload, measure = race(bench, average="mean")
    (figure,) = bench.results.figures(rows_of(bench, "tintype", [1.0, 2.0, 6.0]), workload, measure)
    assert figure.value == 3.0


@pytest.mark.parametrize(("higher_is_better", "expected"), [(True, 0.25), (False, 4.0)])
def test_ratio_above_one_means_that_tintype_is_better(bench: Any, higher_is_better: bool, expected: float) -> None:
    workload, measure = race(bench, higher_is_better=higher_is_better)
    rows = rows_of(bench, "tintype", [10.0, 10.0]) + rows_of(bench, "other", [40.0, 40.0])
    (ratio,) = bench.results.ratios(rows, workload, measure)
    assert ratio.value == expected
    assert ratio.verdict == ("met" if expected >= 2.0 else "not met")


def test_range_of_ratios_is_within_rounds(bench: Any) -> None:
    workload, measure = race(bench)
    # The machine was twice as fast in the second round; within each round tintype is 3 and 2 times ahead.
    rows = rows_of(bench, "other", [10.0, 20.0]) + rows_of(bench, "tintype", [30.0, 40.0])
    (ratio,) = bench.results.ratios(rows, workload, measure)
    assert (ratio.low, ratio.high) == (2.0, 3.0)
    assert ratio.value == pytest.approx(35 / 15)


@pytest.mark.parametrize(("higher_is_better", "expected"), [(True, -0.25), (False, 0.25)])
def test_differences_instead_of_ratios(bench: Any, higher_is_better: bool, expected: float) -> None:
    workload, measure = race(bench, higher_is_better=higher_is_better, average="mean")
    measure = replace(measure, compared="difference", required={"other": -0.1}, aim={}, unit="%")
    workload = replace(workload, measures=(measure,))
    rows = rows_of(bench, "tintype", [98.0, 99.0]) + rows_of(bench, "other", [98.5, 99.0])
    (ratio,) = bench.results.ratios(rows, workload, measure)
    assert (ratio.value, ratio.low, ratio.high) == (expected, *sorted((0.0, 2 * expected)))
    assert ratio.verdict == ("met" if expected > 0 else "not met")
    text = bench.results.format_section("day", rows, [workload], {})
    (line,) = [line for line in text.splitlines() if line.startswith("| other")]
    spread = "-0.50 to +0.00" if expected < 0 else "+0.00 to +0.50"
    assert line.endswith(f"| {expected:+.2f} % ({spread}) | at least -0.1 %: {ratio.verdict} |")


def test_one_repeat_short_of_the_target_leaves_no_figure(bench: Any) -> None:
    workload, measure = race(bench, higher_is_better=False, average="mean")
    rows = rows_of(bench, "tintype", [5.0, None]) + rows_of(bench, "other", [100.0, 100.0])
    ours, theirs = bench.results.figures(rows, workload, measure)
    assert (ours.value, ours.reached, ours.n) == (None, 1, 2)
    assert theirs.value == 100.0
    (ratio,) = bench.results.ratios(rows, workload, measure)
    assert ratio.value is None
    assert ratio.verdict == "not met"
    assert "not reached in 1" in bench.results.format_section("day", rows, [workload], {})


def test_all_short_of_the_target(bench: Any) -> None:
    workload, measure = race(bench)
    (figure,) = bench.results.figures(rows_of(bench, "tintype", [None]), workload, measure)
    assert math.isnan(figure.low)
    text = bench.results.format_section("day", rows_of(bench, "tintype", [None]), [workload], {})
    assert "nan" not in text


def test_no_ratio_without_tintype(bench: Any) -> None:
    workload, measure = race(bench)
    assert bench.results.ratios(rows_of(bench, "other", [1.0]), workload, measure) == []
    assert bench.results.ratios([], workload, measure) == []


def test_section_is_a_table_with_every_figure(bench: Any) -> None:
    workload, _ = race(bench)
    rows = rows_of(bench, "tintype", [9000.0, 9000.0]) + rows_of(bench, "other", [3000.0, 3000.0])
    text = bench.results.format_section("2030-01-02, CPU", rows, [workload], {"Processor": "CPU, 2 cores"})
    assert text.startswith("## 2030-01-02, CPU\n\n- Processor: CPU, 2 cores\n- Versions: library 1.2\n")
    assert "at most 0.01 cores" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[2:] == [
        "| tintype | 9,000 | 9,000 to 9,000 | 2 | 100 |  |  |",
        "| other | 3,000 | 3,000 to 3,000 | 2 | 100 | 3.00x (3.00 to 3.00) | 2x, aim 4x: met |",
    ]
    assert len({line.count("|") for line in table}) == 1


def test_contenders_of_other_versions_are_all_named(bench: Any) -> None:
    workload, _ = race(bench)
    (row,) = rows_of(bench, "tintype", [1.0])
    rows = [row, replace(row, versions={"library": "1.3", "another": "7"}, other_cores=None)]
    assert "- Versions: another 7, library 1.2 and 1.3\n" in bench.results.format_section("day", rows, [workload], {})


def test_sections_are_replaced_by_heading_and_new_ones_come_first(bench: Any) -> None:
    replace_section = bench.results.replace_section
    page = replace_section("", "Monday", "## Monday\n\nold\n")
    page = replace_section(page, "Tuesday", "## Tuesday\n\n### (a)\n\nkept\n")
    page = replace_section(page, "Monday", "## Monday\n\nnew\n")
    assert page.startswith("# Results\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## Tuesday", "## Monday"]
    assert "kept" in page
    assert "new" in page
    assert "old" not in page
    assert replace_section(page, "Monday", "## Monday\n\nnew\n") == page


def test_rows_survive_the_file(bench: Any, tmp_path: Path) -> None:
    rows = rows_of(bench, "tintype", [1.5, None])
    path = tmp_path / "results" / "day.jsonl"
    assert bench.results.read_rows(path) == []
    bench.results.write_rows(path, rows)
    assert bench.results.read_rows(path) == rows


def test_saving_replaces_the_rows_of_the_same_workload_only(bench: Any, tmp_path: Path) -> None:
    workload, _ = race(bench)
    other = replace(workload, name="walk")
    walked = [replace(row, workload="walk") for row in rows_of(bench, "tintype", [7.0])]
    bench.run.save(tmp_path, other, walked)
    bench.run.save(tmp_path, workload, rows_of(bench, "tintype", [1.0, 2.0]))
    bench.run.save(tmp_path, workload, rows_of(bench, "tintype", [3.0]))
    (path,) = (tmp_path / "results").iterdir()
    assert [(row.workload, row.measures["speed"]) for row in bench.results.read_rows(path)] == [
        ("walk", 7.0),
        ("race", 3.0),
    ]
    assert (tmp_path / "RESULTS.md").read_text(encoding="utf-8").count("\n## ") == 1


def folders(bench: Any, data: Path) -> Any:
    return bench.run.Folders(data, data / "weights")


def scripted(bench: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> tuple[Any, Any]:
    (folder / "contender.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(bench.run, "HERE", folder)
    workload, _ = race(bench)
    contender = bench.workloads.Contender("tintype", "tintype", "contender.py", ("--extra",))
    return replace(workload, contenders=(contender,)), contender


def test_a_turn_reads_the_last_object_and_measures_the_process(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = (
        "import json, os, sys\n"
        "print('{not json')\n"
        "block = bytearray(50_000_000)\n"
        "said = {'arguments': sys.argv[1:], 'threads': os.environ.get('OMP_NUM_THREADS')}\n"
        "print(json.dumps({'measures': {'speed': 2.0}, 'versions': {'v': '1'}, **said}))\n"
        "print('goodbye')\n"
    )
    workload, _ = scripted(bench, tmp_path, monkeypatch, code)
    rows = bench.run.measure(workload, {"tintype": sys.executable}, folders(bench, tmp_path), 2, timeout=60)
    assert [row.repeat for row in rows] == [0, 1]
    assert rows[1].measures == {"speed": 2.0}
    assert rows[1].details["arguments"] == ["--data", str(tmp_path), "--seed", "1", "--extra"]
    assert rows[1].details["threads"] is None
    # No upper bound: Linux counts the parent's memory at the moment of starting, and a test process may be large.
    assert rows[1].peak_rss_mib > 50
    assert rows[1].wall_seconds > 0


@pytest.mark.parametrize(
    ("code", "message"), [("raise SystemExit(3)", "exit code 3"), ("print('nothing')", "printed no line of JSON")]
)
def test_a_failing_contender_stops_the_run_with_one_line(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    workload, _ = scripted(bench, tmp_path, monkeypatch, code)
    with pytest.raises(RuntimeError, match=message):
        bench.run.measure(workload, {"tintype": sys.executable}, folders(bench, tmp_path), 1, timeout=60)


def test_a_contender_that_hangs_is_killed(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, _ = scripted(bench, tmp_path, monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(TimeoutError, match=r"contender\.py took longer than 0 s"):
        bench.run.measure(workload, {"tintype": sys.executable}, folders(bench, tmp_path), 1, timeout=0.2)


def test_a_given_python_needs_no_environment(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINTYPE_BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TINTYPE_BENCH_TORCHVISION_PYTHON", "/from/environment")
    assert bench.environments.python_of("tintype", {}) == sys.executable
    assert bench.environments.python_of("keras", {"keras": "/given/python"}) == "/given/python"
    assert bench.environments.python_of("torchvision", {"torchvision": None}) == "/from/environment"
    assert list(tmp_path.iterdir()) == []


def test_every_contender_is_there_and_every_ratio_has_its_contender(bench: Any) -> None:
    for workload in bench.workloads.WORKLOADS:
        names = [contender.name for contender in workload.contenders]
        assert names[0] == "tintype"
        assert len(set(names)) == len(names)
        for contender in workload.contenders:
            assert (BENCHMARKS / contender.script).is_file()
            if contender.peer != "tintype":
                assert (BENCHMARKS / "peers" / f"{contender.peer}.txt").is_file()
        for measure in workload.measures:
            assert set(measure.required) | set(measure.aim) <= set(names)
            assert all(measure.aim[name] > measure.required[name] for name in measure.aim)


def test_every_contender_takes_its_arguments(bench: Any) -> None:
    for workload in bench.workloads.WORKLOADS:
        for contender in workload.contenders:
            code = (BENCHMARKS / contender.script).read_text(encoding="utf-8")
            wanted = ["--data", "--seed", *(["--weights"] if contender.needs_weights else []), *contender.arguments]
            for flag in (item for item in wanted if item.startswith("--")):
                assert f'"{flag}"' in code, f"{contender.script} takes no {flag}"
            for measure in workload.measures:
                # Some keys begin with the name of a network that was asked for.
                named = (measure.key, measure.key.split("_", 1)[-1])
                assert any(name in code for name in named), f"{contender.script} gives no {measure.key}"


def test_names_and_letters_are_unambiguous(bench: Any) -> None:
    names = [workload.name for workload in bench.workloads.WORKLOADS]
    letters = {measure.letter for workload in bench.workloads.WORKLOADS for measure in workload.measures}
    assert len(set(names)) == len(names)
    assert not letters & set(names)
    assert bench.run.LETTERS.split(",") == sorted(letters)
    for workload in bench.workloads.WORKLOADS:
        for measure in workload.measures:
            assert measure.title.startswith(f"({measure.letter}) ")


def test_the_runner_says_what_is_missing(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.run, "python_of", lambda *_: pytest.fail("no environment is to be made"))

    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        assert bench.run.main() == 2
        return capsys.readouterr().err

    nowhere = str(tmp_path / "nowhere")
    assert "--only takes some of a,b,c" in said("--only", "z")
    assert f"there is no data folder {nowhere}" in said("--only", "heads", "--data", nowhere)
    there = str(tmp_path)
    assert f"in {nowhere}; give its folder with --weights" in said("--only", "h", "--data", there, "--weights", nowhere)


def test_a_turn_gets_its_own_images_and_weights(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import json, sys, pathlib\n"
        "found = sorted(path.name for path in pathlib.Path(sys.argv[2]).iterdir())\n"
        "print(json.dumps({'measures': {'speed': 1.0}, 'versions': {}, 'found': found, 'arguments': sys.argv[1:]}))\n"
    )
    workload, contender = scripted(bench, tmp_path, monkeypatch, code)

    def lay_out(data: Path, folder: Path) -> None:
        assert data == tmp_path
        folder.mkdir()
        (folder / "photo").touch()

    contender = replace(contender, needs_weights=True)
    workload = replace(workload, contenders=(contender,), layout=lay_out)
    given = folders(bench, tmp_path)
    (row,) = bench.run.measure(workload, {"tintype": sys.executable}, given, 1, timeout=60)
    assert row.details["found"] == ["photo"]
    assert row.details["arguments"][2:] == ["--seed", "0", "--weights", str(given.weights), "--extra"]


def test_xrays_are_laid_out_the_same_for_all(bench: Any, tmp_path: Path) -> None:
    for split, count in (("train", 11), ("test", 3)):
        for name in ("covid", "normal", "pneumonia_bac"):
            folder = tmp_path / "chest_xray" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{name}{number:02}.png").write_text(f"{split} {name} {number}")
    laid_out = []
    for turn in ("first", "second"):
        bench.layouts.lay_out_xrays(tmp_path, tmp_path / turn)
        laid_out.append(
            {
                path.relative_to(tmp_path / turn).as_posix(): path.read_text()
                for path in (tmp_path / turn).rglob("*.png")
            }
        )
    assert laid_out[0] == laid_out[1]
    counts = Counter(name.rpartition("/")[0] for name in laid_out[0])
    assert counts == {
        f"{split}/{name}": count
        for split, count in (("train", 8), ("val", 3), ("test", 3))
        for name in ("covid", "normal")
    }
    assert len(set(laid_out[0].values())) == len(laid_out[0])


TINY = {
    "xrays": ("--epochs", "1", "--image-size", "32"),
    "last_stage_mobilenetv2": ("--images", "16", "--image-size", "32"),
    "last_stage_vgg16": ("--images", "16", "--image-size", "32"),
    "heads": ("--epochs", "1", "--image-size", "32"),
    "features": ("--image-size", "32"),
    "views": ("--epochs", "1", "--fraction", "0.1", "--views", "2", "--image-size", "32"),
}
"""Arguments that make the contenders on real photos quick."""


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", list(TINY))
def test_tintype_does_the_work_on_small_images(
    bench: Any, name: str, tmp_path: Path, shared_data: Callable[[str], Path], shared_weights: Callable[[str], Path]
) -> None:
    data = shared_data("cats_dogs").parent
    weights = shared_weights(Path(bench.workloads.WEIGHTS).stem).parent
    workload = next(item for item in bench.workloads.WORKLOADS if item.name == name)
    ours = [
        replace(contender, arguments=contender.arguments + TINY[name])
        for contender in workload.contenders
        if contender.peer == "tintype"
    ]
    workload = replace(workload, contenders=tuple(ours), files="")
    rows = bench.run.measure(workload, {"tintype": sys.executable}, bench.run.Folders(data, weights), 1, timeout=200)
    assert len(rows) == len(ours)
    for row in rows:
        assert all(0 < row.measures[measure.key] < math.inf for measure in workload.measures)
