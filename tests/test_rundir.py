"""The run directory: files come back as they went in, and a failure while writing leaves the old file whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tintype.errors import RunError
from tintype.records import EpochRecord, Evaluation, Finding, Interval, Predictions
from tintype.rundir import (
    RunDir,
    atomic_path,
    cache_folder,
    only_one_process,
    require_new,
    write_json,
    write_text,
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_one_whole_file(tmp_path: Path) -> None:
    """A process that rewrites a file without pause is killed ten times; the file is always one whole version."""
    path = tmp_path / "a.json"
    code = (
        "import sys, itertools\nfrom pathlib import Path\nfrom tintype.rundir import write_json\n"
        "for n in itertools.count():\n    write_json(Path(sys.argv[1]), {'n': n, 'filler': [n] * 20000})\n"
    )
    for delay in np.random.default_rng(0).uniform(0.0, 0.1, size=10):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists():
            time.sleep(0.01)
        time.sleep(float(delay))
        child.send_signal(signal.SIGKILL)
        child.wait()
        content = json.loads(path.read_text())
        assert content["filler"] == [content["n"]] * 20000


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(names, min_size=2, max_size=5, unique=True), st.lists(names, min_size=1, max_size=8, unique=True))
def test_predictions_come_back(tmp_path: Path, classes: list[str], paths: list[str]) -> None:
    random = np.random.default_rng(len(paths))
    probabilities = random.dirichlet(np.ones(len(classes)), size=len(paths)).astype(np.float32)
    labels = random.integers(-1, len(classes), size=len(paths))
    written = Predictions("test", tuple(classes), tuple(paths), labels, probabilities)
    run_dir = RunDir(tmp_path)
    run_dir.write_predictions([written])
    read = run_dir.read_predictions()["test"]
    assert (read.classes, read.paths) == (written.classes, written.paths)
    np.testing.assert_array_equal(read.labels, written.labels)
    np.testing.assert_allclose(read.probabilities, written.probabilities, rtol=1e-6)


def test_history_evaluation_and_findings_come_back(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    history = [
        EpochRecord(1, 0.5, 0.8, None, None, 1e-3, 2.0, 100.0),
        EpochRecord(2, 0.4, 0.9, 0.3, 0.9, 1e-3, 2.0, 1.0),
    ]
    run_dir.write_history(history)
    assert run_dir.read_history() == history
    evaluation = Evaluation("test", {"accuracy": Interval(0.9, 0.8, 0.95, 50)}, {"confusion_matrix": [[1, 2], [3, 4]]})
    run_dir.write_evaluation([evaluation])
    assert run_dir.read_evaluation() == {"test": evaluation}
    raw = json.loads((tmp_path / "evaluation.json").read_text())
    assert raw["test"]["accuracy"] == {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50}
    findings = [Finding("a", "info", "A"), Finding("b", "critical", "B", ("x",), "do"), Finding("c", "warning", "C")]
    run_dir.write_findings(findings)
    assert [finding.code for finding in run_dir.read_findings()] == ["b", "c", "a"]


def test_what_is_no_finished_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run directory"):
        RunDir(tmp_path / "absent").require_complete()
    with pytest.raises(RunError, match=r"holds no config\.toml"):
        RunDir(tmp_path).require_complete()
    (tmp_path / "config.toml").touch()
    with pytest.raises(RunError, match="--resume"):
        RunDir(tmp_path).require_complete()
    (tmp_path / "findings.json").write_text("[{")
    with pytest.raises(RunError, match="cannot be read"):
        RunDir(tmp_path).read_findings()


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINTYPE_CACHE", f"{os.sep}elsewhere")
    assert cache_folder() == Path(f"{os.sep}elsewhere")
    monkeypatch.delenv("TINTYPE_CACHE")
    assert cache_folder().name == "tintype"


def test_a_directory_is_held_by_one_and_not_left_behind_empty(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    with only_one_process(folder):
        with pytest.raises(RunError, match="another process is at work"), only_one_process(folder):
            raise AssertionError("two hold it")
        assert folder.is_dir()
    assert not folder.exists()
    with only_one_process(folder):
        (folder / "kept.txt").write_text("kept")
    with only_one_process(folder):
        assert (folder / "kept.txt").read_text() == "kept"


def test_a_directory_that_holds_something_is_not_new(tmp_path: Path) -> None:
    with only_one_process(tmp_path):
        require_new(tmp_path, "go on")  # a lock is nothing
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty\. Take another name, or go on\."):
        require_new(tmp_path, "go on")
    with pytest.raises(RunError, match="is not empty"):
        require_new(tmp_path / "mine.txt", "go on")
