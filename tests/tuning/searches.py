"""Searches for tests of storages, and worker processes (toy_worker.py) that share them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tuning import toy_worker

from tintype.tuning.storage import Ledger, Pulse, Queued, open_study


def opened(
    file: Path | str,
    *,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    first: tuple[Queued, ...] = (),
    resume: bool = False,
    pulse: Pulse = Pulse(),
) -> Ledger:
    return open_study(file, "toy", about=about or {"data": "a"}, seed=seed, first=first, resume=resume, pulse=pulse)


Start = Callable[..., subprocess.Popen[str]]


@contextmanager
def started() -> Iterator[Start]:
    """Starts worker processes, and ends those that are left over."""
    with ExitStack() as left:

        def worker(url: Path | str, *words: str, **environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, toy_worker.__file__, str(url), "toy", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )
            left.enter_context(process)
            left.callback(process.kill)
            return process

        yield worker


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        raise AssertionError(process.stderr.read())
    return dict(json.loads(line))


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def ended_quietly(process: subprocess.Popen[str]) -> bool:
    return process.communicate()[1] == "" and process.returncode == 0
