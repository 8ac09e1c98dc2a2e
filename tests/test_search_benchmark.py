"""The benchmark of searches: what it counts, what it writes, and what becomes of a contender that fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benches import BENCHMARKS, benchmark_modules
from PIL import Image

from tintype.evaluation.stats import wilson

MODULES = ("search", "search_table", "results", "workloads", "machine", "layouts", "environments")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark's modules; they stand beside a script, not in a package."""
    with benchmark_modules(*MODULES) as modules:
        yield modules


@pytest.fixture
def wanted(bench: Any, tmp_path: Path) -> Any:
    """Two classes with two test images each; the files are empty, since nobody here looks into them."""
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        path = tmp_path / "data" / "test" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return bench.search.Wanted(tmp_path / "data", tmp_path / "weights", 0.01, tmp_path / "out")


def row_of(bench: Any, contender: str, right: str, seed: int = 0, **details: Any) -> Any:
    return bench.results.Row(
        workload="search",
        contender=contender,
        repeat=seed,
        measures={
            "accuracy": right.count("1") / len(right), "seconds_searched": 600.4, "trials": 12, "parameters": 83_164,
        },
        peak_rss_mib=1500.0,
        wall_seconds=640.0,
        other_cores=0.01,
        versions={"library": "1.2"},
        details={"data": "photos", "minutes": 10.0, "right": right, **details},
    )  # fmt: skip


def failed(bench: Any, contender: str, seed: int = 0) -> Any:
    row = row_of(bench, contender, "1", seed)
    return replace(row, measures={}, details={"data": "photos", "minutes": 10.0, "failed": "exit code 1: no memory"})


def table_of(bench: Any, rows: list[Any]) -> list[str]:
    names = {item.key: (item.name, item.pretrained) for item in bench.search.CONTENDERS}
    text = bench.search_table.format_search("2030-01-02, search, CPU", rows, names, {"Processor": "CPU"})
    assert text.startswith("## 2030-01-02, search, CPU\n\n- Processor: CPU\n- Versions: library 1.2\n")
    return [line for line in text.splitlines() if line.startswith(("|", "###", "- KerasTuner", "- AutoKeras"))]


def test_table_has_wilson_intervals_and_paired_differences(bench: Any) -> None:
    ours, theirs = "1" * 70 + "0" * 30, "1" * 50 + "0" * 50
    lines = table_of(bench, [row_of(bench, "kerastuner", theirs), row_of(bench, "tintype", ours)])
    assert lines[0] == "### Best classifier of photos in 10 minutes, from scratch"
    interval = wilson(70, 100)
    first, second = lines[3:]
    assert first == (
        f"| tintype tune | 70.0 % ({100 * interval.low:.1f} to {100 * interval.high:.1f}, n = 100) | 70.0 |  "
        "| 600 | 640 | 12 | 83,164 | 1,500 |"
    )
    # 20 of 100 images tell them apart, all in favour of one: McNemar's exact p is 2 / 2^20.
    assert "| +20.0 (" in second
    assert "p < 0.001 |" in second
    assert len({line.count("|") for line in lines[1:]}) == 1


def test_seeds_are_no_new_images(bench: Any) -> None:
    rows = [row_of(bench, "autokeras", "1" * right + "0" * (100 - right), seed) for seed, right in enumerate((40, 50))]
    (line,) = table_of(bench, rows)[3:]
    interval = wilson(45, 100)
    assert f"| 45.0 % ({100 * interval.low:.1f} to {100 * interval.high:.1f}, n = 100) | 40.0, 50.0 |" in line


def test_a_seed_that_failed_leaves_no_mean_and_is_named(bench: Any) -> None:
    rows = [
        row_of(bench, "kerastuner", "1100"),
        failed(bench, "kerastuner", seed=1),
        row_of(bench, "tintype", "1110"),
        failed(bench, "autokeras"),
    ]
    lines = table_of(bench, rows)
    assert lines[4].startswith("| AutoKeras, plain networks | failed | failed |")
    assert lines[5].startswith("| KerasTuner Hyperband | failed | 50.0, failed |")
    assert lines[6:] == [
        "- AutoKeras, plain networks, seed 0, failed: exit code 1: no memory",
        "- KerasTuner Hyperband, seed 1, failed: exit code 1: no memory",
    ]


def test_pretrained_searches_are_compared_among_themselves(bench: Any) -> None:
    rows = [row_of(bench, key, marks) for key, marks in (("tintype", "0000"), ("tintype-weights", "1111"))]
    rows.append(row_of(bench, "kerastuner-weights", "1111"))
    lines = table_of(bench, rows)
    assert [line for line in lines if line.startswith("###")][1].endswith("10 minutes, pretrained MobileNetV2 at hand")
    assert "| +0.0 (" in lines[-1]


def test_predictions_are_counted_by_name(bench: Any) -> None:
    truth = {"a/1.png", "a/2.png", "b/1.png"}
    predictions = {"b/1.png": "b", "a/2.png": "b", "a/1.png": "a"}
    assert bench.search.count_right(predictions, truth) == "101"
    with pytest.raises(ValueError, match="2 of the 3 test images, and for 1 others"):
        bench.search.count_right({"a/1.png": "a", "a/2.png": "a", "c/9.png": "a"}, truth)


def scripted(bench: Any, tmp_path: Path, code: str) -> Any:
    script = tmp_path / "peer.py"
    script.write_text(code, encoding="utf-8")
    return bench.search.Contender("autokeras", "AutoKeras", "autokeras", script=str(script))


PEER = """
import json, os, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert "TINTYPE_WEIGHTS" not in os.environ
said = {"predictions": {f"{name}/{number}.png": "a" for name in "ab" for number in (1, 2)}, "seconds_searched": 0.5,
        "trials": 3, "parameters": 7, "versions": {"keras": "3"}, "winner": {"given": given}}
json.dump(said, open(given["--output"], "w"))
"""


def test_a_peer_is_counted_here_and_its_row_kept(bench: Any, wanted: Any, tmp_path: Path) -> None:
    contender = scripted(bench, tmp_path, PEER)
    row = bench.search.turn(contender, sys.executable, wanted, 5)
    assert row.measures == {"accuracy": 0.5, "seconds_searched": 0.5, "trials": 3, "parameters": 7}
    assert row.details["right"] == "1100"
    assert row.details["winner"]["given"]["--seed"] == "5"
    assert row.details["winner"]["given"]["--minutes"] == "0.01"
    bench.search.save(wanted.output, row)
    bench.search.save(wanted.output, replace(row, repeat=6))
    bench.search.save(wanted.output, replace(row, peak_rss_mib=1.0))
    (path,) = (wanted.output / "results").iterdir()
    assert [(item.repeat, item.peak_rss_mib == 1.0) for item in bench.results.read_rows(path)] == [
        (6, False),
        (5, True),
    ]
    page = (wanted.output / "RESULTS.md").read_text(encoding="utf-8")
    assert page.startswith("# Results")
    assert page.count("\n## ") == 1
    assert "| AutoKeras, plain networks | 50.0 % (" in page


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit('no such thing')", "exit code 1: no such thing"),
        ("print('done')", "no usable result"),
        (PEER.replace('"ab"', '"a"'), "2 of the 4 test images"),
        ("import time; time.sleep(60)", "took longer than 0 s"),
    ],
)
def test_a_contender_that_fails_is_a_row_that_says_why(
    bench: Any, wanted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    if "sleep" in code:
        monkeypatch.setattr(bench.search, "PATIENCE_SECONDS", -0.9)
    row = bench.search.turn(scripted(bench, tmp_path, code), sys.executable, wanted, 0)
    assert why in row.details["failed"]
    assert row.measures == {}
    assert "failed" in bench.search.save(wanted.output, row)


def test_the_others_go_on_after_a_failure(
    bench: Any, wanted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = replace(scripted(bench, tmp_path, "raise SystemExit('broken')"), key="kerastuner")
    good = replace(bad, key="autokeras", script=str(tmp_path / "good.py"))
    (tmp_path / "good.py").write_text(PEER, encoding="utf-8")
    monkeypatch.setattr(bench.search, "CONTENDERS", (bad, good))
    given = ["--data", str(wanted.data), "--minutes", "0.01", "--output", str(wanted.output)]
    monkeypatch.setattr(sys, "argv", ["search.py", *given, "--autokeras-python", sys.executable, "--seeds", "0", "1"])
    assert bench.search.main() == 1
    (path,) = (wanted.output / "results").iterdir()
    ended = [(row.contender, row.repeat, "failed" in row.details) for row in bench.results.read_rows(path)]
    # The second seed begins with the second contender.
    assert ended == [("kerastuner", 0, True), ("autokeras", 0, False), ("autokeras", 1, False), ("kerastuner", 1, True)]
    assert "failed: exit code 1: broken" in capsys.readouterr().out


def test_tintype_is_read_from_its_directory(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    rows = ["split,path,label,predicted,probability/a", "test,test/a/1.png,a,b,0.2", "train,train/a/9.png,a,a,0.9"]
    (tmp_path / "best" / "predictions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    trials = [
        {"number": number, "state": state, "parameters": 10 * number, "accuracy": {"value": 0.5}, "settings": {}}
        for number, state in enumerate(("complete", "pruned", "failed", "running"))
    ]
    table = {"trials": trials, "winner": 1, "result": "best", "seconds": 590.0, "space": "scratch", "notes": []}
    (tmp_path / "tune.json").write_text(json.dumps(table), encoding="utf-8")
    found = bench.search.read_tintype(tmp_path)
    assert found["predictions"] == {"a/1.png": "b"}
    assert (found["trials"], found["failed_trials"]) == (3, 1)
    assert (found["parameters"], found["seconds_searched"]) == (10, 590.0)
    assert found["tried"] == trials, "a result that surprises can be looked into"


def test_command_lines(bench: Any, wanted: Any, tmp_path: Path) -> None:
    wanted = replace(wanted, minutes=10.0)
    commands = {
        item.key: bench.search.command_of(item, "python", wanted, 3, tmp_path) for item in bench.search.CONTENDERS
    }
    assert commands["tintype"][-2:] == ["--set", "model.weights=none"]
    assert "model.weights=none" not in commands["tintype-weights"]
    assert commands["tintype"][commands["tintype"].index("--budget") + 1] == "600s"
    for item in bench.search.CONTENDERS:
        assert commands[item.key][commands[item.key].index("--seed") + 1] == "3"
        if item.script is not None:
            assert (BENCHMARKS / item.script).is_file()
            assert ("--weights" in commands[item.key]) == item.pretrained
    assert (BENCHMARKS / "peers" / "autokeras.txt").is_file()


def test_what_is_missing_is_said(bench: Any, wanted: Any) -> None:
    pretrained = [item for item in bench.search.CONTENDERS if item.pretrained]
    others = [item for item in bench.search.CONTENDERS if not item.pretrained]
    assert bench.search.missing(wanted, others) is None
    assert "give its folder with --weights" in bench.search.missing(wanted, pretrained)
    nowhere = replace(wanted, data=wanted.data / "nowhere")
    assert "there are no images in" in bench.search.missing(nowhere, others)


@pytest.mark.peers
@pytest.mark.parametrize("key", ["autokeras", "kerastuner"])
def test_a_peer_searches_for_some_seconds(bench: Any, tmp_path: Path, key: str) -> None:
    order = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 10)):
        for label, name in enumerate("ab"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = order.integers(0, 100, (64, 64, 3)) + 150 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / part / name / f"{number}.png")
    wanted = bench.search.Wanted(tmp_path, tmp_path, 0.4, tmp_path / "out")
    (contender,) = [item for item in bench.search.CONTENDERS if item.key == key]
    row = bench.search.turn(contender, bench.environments.python_of("autokeras", {}), wanted, 0)
    assert "failed" not in row.details, row.details
    assert row.measures["accuracy"] >= 0.9
    assert row.measures["trials"] >= 1
    assert 24 <= row.measures["seconds_searched"] <= 60
