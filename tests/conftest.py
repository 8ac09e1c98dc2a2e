"""Fixtures shared by all tests: a private cache folder, the real images where they are present, small image sets."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No test asks the model hub, and what a developer keeps as weights must not change what is chosen.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("TINTYPE_WEIGHTS", None)
# What a module's fixtures judge comes before a test has a ledger of its own, and is none of a developer's models.
os.environ["TINTYPE_LEDGER"] = str(Path(tempfile.mkdtemp()) / "ledger.jsonl")

# Tests side by side share the cores: OpenMP's threads would wait for each other by spinning, on the others' time.
# NumPy and torch read this when they are imported, which is after this file.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A busy machine is no reason to fail.
settings.register_profile("tintype", deadline=None)
settings.load_profile("tintype")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache folder of its own, and processes it starts inherit it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TINTYPE_CACHE", str(folder))
    monkeypatch.setenv("TINTYPE_LEDGER", str(folder / "ledger.jsonl"))
    return folder


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Find one of the real data sets beside the checkout, or skip the test."""

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"the real images {name} are not beside this checkout")
        return path

    return find


@pytest.fixture
def shared_weights() -> Callable[[str], Path]:
    """Find one of the pretrained weight files beside the checkout, or skip the test."""

    def find(name: str) -> Path:
        path = SHARED / "weights" / f"{name}.safetensors"
        if not path.exists():
            pytest.skip(f"the weights {name} are not beside this checkout")
        return path

    return find


@pytest.fixture
def tintype_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in this process, for tests that need no process of its own: torch and timm take 4 s to load."""
    from tintype.cli import main

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["tintype", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code is None or isinstance(ended.value.code, int), ended.value.code
        return subprocess.CompletedProcess(command, ended.value.code or 0, said.out, said.err)

    return run


@pytest.fixture
def shapes_folder(tmp_path: Path) -> Path:
    """Class folders ``circle`` and ``square`` with 40 easily told 24-pixel PNGs each."""
    from shapes import make_shapes

    make_shapes(tmp_path / "shapes", 40)
    return tmp_path / "shapes"
