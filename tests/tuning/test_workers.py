"""Several processes on one PostgreSQL, two of them killed in the middle of a trial."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shapes import make_shapes
from tuning.postgres import PostgresServer, postgres_server, why_no_postgres

from tintype.report.tunefile import read_tune_table
from tintype.run import load_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_no_postgres()), reason=why_no_postgres() or "can run here"),
]

SPACE = """
[base]
data.image_size = 24
precision = "fp32"
evidence.baselines = false
evidence.attention = false
[space]
fit.learning_rate = {low = 1e-3, high = 1e-1, log = true}
model.layers = ["conv 8 3 relu; pool 2; flatten", "conv 16 3 relu; pool 2; flatten"]
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def test_four_workers_two_of_them_killed(server: PostgresServer, tmp_path: Path) -> None:
    images, space, url = tmp_path / "shapes", tmp_path / "space.toml", server.new_database()
    make_shapes(images, 60)
    space.write_text(SPACE, encoding="utf-8")
    command = [sys.executable, "-m", "tintype", "tune", str(images), "--space", str(space), "--trials", "24"]
    command += ["--storage", url, "--set", "fit.epochs=40", "--json"]

    def start(name: str) -> subprocess.Popen[str]:
        cache = {"TINTYPE_CACHE": str(tmp_path / f"cache-{name}"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, "-o", str(tmp_path / name)], env={**os.environ, **cache}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    chief = start("chief")
    wait_until(lambda: (tmp_path / "chief" / "kept").is_dir(), chief)
    helpers = {name: start(name) for name in ("one", "two", "three")}
    # A table is written after a worker's first trial, so it is in the middle of another one soon after.
    for name in ("one", "two"):
        wait_until(lambda name=name: (tmp_path / name / "tune.json").is_file(), helpers[name])
        helpers[name].kill()
        helpers[name].communicate()
    said, warned = chief.communicate(timeout=400)
    assert chief.returncode == 0, warned
    _, helped = helpers["three"].communicate(timeout=120)
    assert helpers["three"].returncode == 0, helped

    table = read_tune_table(tmp_path / "chief")
    states = [row.state for row in table.trials]
    assert set(states) <= {"complete", "pruned", "failed"}
    assert all("without a word" in row.cause for row in table.trials if row.state == "failed")
    drawn = [row for row in table.trials if row.role == "search" and row.state != "failed"]
    assert len(drawn) >= 24
    assert len({row.worker for row in table.trials if row.worker}) == 4
    winner = table.trial(table.winner)
    assert winner is not None
    assert load_run(tmp_path / "chief" / "best").evaluation.accuracy.n > 0
    theirs = read_tune_table(tmp_path / "three")
    assert {row.number: row.accuracy for row in theirs.trials if row.role == "search"} == {
        row.number: row.accuracy for row in table.trials if row.role == "search"
    }
    assert url.split(":")[2].split("@")[0] not in (tmp_path / "chief" / "search.toml").read_text(encoding="utf-8")
    assert '"tune"' in said


def wait_until(is_so: object, process: subprocess.Popen[str], seconds: float = 200.0) -> None:
    assert callable(is_so)
    ends = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < ends
        time.sleep(0.1)
