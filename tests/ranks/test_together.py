"""Three ranks on loopback: what they tell each other, and that they train as one process does.

Starting processes costs seconds, so one group of them runs every check (together_checks.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shapes import make_shapes

SCRIPT = Path(__file__).with_name("together_checks.py")
NAMES = [
    line[4 : line.index("(")] for line in SCRIPT.read_text(encoding="utf-8").splitlines() if "(bench: Bench)" in line
]
RANKS = 3


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The error of each check; empty where it passed."""
    folder = tmp_path_factory.mktemp("together")
    make_shapes(folder / "images", 24)
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "TINTYPE_CACHE": str(folder / "cache"),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    done = subprocess.run(
        [*launcher, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    checks: dict[str, str] = json.loads((folder / "checks.json").read_text(encoding="utf-8"))
    assert sorted(checks) == sorted(NAMES)
    return checks


@pytest.mark.parametrize("name", NAMES)
def test_several_ranks(outcomes: dict[str, str], name: str) -> None:
    assert not outcomes[name], outcomes[name]
