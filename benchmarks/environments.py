"""The peers' own environments: one virtual environment each, made from pinned requirements and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
FINISHED = "finished"


def cache_root() -> Path:
    """Where the environments are kept: ``TINTYPE_BENCH_CACHE``, or the user's cache folder."""
    given = os.environ.get("TINTYPE_BENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(base) / "tintype-benchmarks"


def python_of(peer: str, given: Mapping[str, str | None]) -> str:
    """The Python to run a peer with: tintype's own, the one given, or that of its environment, made if need be.

    Args:
        peer: ``tintype``, ``keras`` or ``torchvision``.
        given: Peer to a Python that has its libraries already.

    Raises:
        RuntimeError: The environment cannot be made.
    """
    if peer == "tintype":
        return sys.executable
    ready = given.get(peer) or os.environ.get(f"TINTYPE_BENCH_{peer.upper()}_PYTHON")
    return ready or str(_environment(peer, PEERS / f"{peer}.txt", cache_root()))


def _environment(peer: str, requirements: Path, root: Path) -> Path:
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = root / f"{peer}-{digest}"
    python = folder / "bin" / "python"
    if (folder / FINISHED).exists():
        return python
    print(f"making the environment of {peer} in {folder}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
    ):
        if subprocess.run(command, check=False).returncode:
            raise RuntimeError(f"the environment of {peer} cannot be made: {' '.join(command)} failed.")
    # Written last, so that an installation that was killed is made anew.
    (folder / FINISHED).touch()
    return python


def environment_variables(scratch: Path) -> dict[str, str]:
    """The variables that every contender gets: threads and precision as each library chooses by itself, no GPU."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "OMP_", "MKL_", "TF_", "KERAS_", "TORCH", "TINTYPE_"))
    }
    return kept | {
        "CUDA_VISIBLE_DEVICES": "",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TINTYPE_CACHE": str(scratch),
    }
