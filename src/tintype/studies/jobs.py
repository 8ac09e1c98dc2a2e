"""Several runs at a time, each in a process of its own, which share the machine's cores and GPUs.

A run that crashes, or that the system kills for want of memory, is one failed run; the others go on. Stopping closes
the processes' stdin, upon which each stops after its step (:mod:`tintype.studies.worker`). The processes are in
sessions of their own, so that Ctrl-C on a terminal reaches them only that way, and once.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from tintype.config import RunConfig
from tintype.errors import RunInterrupted
from tintype.ranks.torchrun import usable_cores
from tintype.report.studyfile import RunState
from tintype.studies.folder import StudyFolder
from tintype.watch import Watch

_BETWEEN_LOOKS = 0.2
"""Seconds between two looks whether the study is to be stopped."""


@dataclass(frozen=True)
class Task:
    """A run to make: its folder's name and its settings."""

    name: str
    config: RunConfig


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    name: str
    state: RunState
    reason: str = ""


def run_side_by_side(
    tasks: Sequence[Task],
    folder: StudyFolder,
    jobs: int,
    watch: Watch,
    on_begin: Callable[[str], None],
    on_end: Callable[[Ended], None],
) -> None:
    """Make runs, ``jobs`` at a time.

    Args:
        tasks: In the order in which they begin.
        folder: The study's directory.
        jobs: How many processes.
        watch: Progress, messages and stopping.
        on_begin: Called with the name of a run before it begins.
        on_end: Called when a run has ended, also while the others are being stopped.

    Raises:
        RunInterrupted: ``watch.should_stop`` said so; every run can be gone on with.
        KeyboardInterrupt: Ctrl-C was pressed; every run can be gone on with.
    """
    waiting, events = deque(tasks), queue.SimpleQueue[tuple[_Process, str | None]]()
    slots: dict[int, _Process] = {}
    ended = 0
    try:
        while waiting or slots:
            while waiting and len(slots) < jobs:
                task, slot = waiting.popleft(), next(number for number in range(jobs) if number not in slots)
                on_begin(task.name)
                slots[slot] = _Process(task, folder, _share(slot, jobs, task.config), events)
            process = _next_event(events)
            if process is not None and process.ended is not None:
                slots = {slot: item for slot, item in slots.items() if item is not process}
                ended += 1
                on_end(process.ended)
            done = round(100 * (ended + sum(item.fraction for item in slots.values())) / len(tasks))
            if done:  # from nothing no time left can be told
                watch.on_progress(f"{jobs} runs at a time, percent", done, 100)
            if watch.should_stop():
                raise RunInterrupted("stopped.")
    except BaseException:
        _stop(list(slots.values()), events, watch, on_end)
        raise


def worker_command(request: Path, run: Path, threads: int) -> list[str]:
    """The command line of a run's process; :mod:`tintype.studies.worker` says how it is spoken with."""
    return [sys.executable, "-m", "tintype.studies.worker", str(request), str(run), str(threads)]


@dataclass(frozen=True)
class _Share:
    """What a process may use: threads, and a GPU where there are several."""

    threads: int
    gpu: str | None


def _share(slot: int, jobs: int, config: RunConfig) -> _Share:
    """An equal share of the cores, and the GPUs in turn."""
    threads = max(1, usable_cores() // jobs)
    if config.device not in ("auto", "cuda") or torch.cuda.device_count() < 2:
        return _Share(threads, None)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    return _Share(threads, gpus[slot % len(gpus)].strip())


class _Process:
    """A run under way in a process of its own.

    Attributes:
        ended: How it ended; None as long as it works.
        fraction: Share of the run that is done, from its progress.
    """

    def __init__(
        self, task: Task, folder: StudyFolder, share: _Share, events: queue.SimpleQueue[tuple[_Process, str | None]]
    ) -> None:
        self.ended: Ended | None = None
        self.fraction = 0.0
        self._name = task.name
        self._is_unwanted = False
        self._last: dict[str, Any] = {}
        self._log = folder.log_file(task.name)
        run = folder.prepare(task.name, task.config)
        command = worker_command(folder.request_file(task.name), run, share.threads)
        # OpenMP threads that wait by spinning would take the cores of the other processes.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(share.threads)}
        if share.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = share.gpu
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip
        assert self._popen.stdout is not None
        threading.Thread(target=self._listen, args=(self._popen.stdout, events), daemon=True).start()

    def _listen(self, lines: IO[bytes], events: queue.SimpleQueue[tuple[_Process, str | None]]) -> None:
        with lines:
            for line in lines:
                events.put((self, line.decode("utf-8", "replace")))
        self._popen.wait()
        events.put((self, None))

    def hear(self, line: str | None) -> None:
        """Take in a line of the process, or that it has ended."""
        if line is None:
            self.ended = self._ending()
            return
        try:
            content = json.loads(line)
        except ValueError:
            return
        if "state" in content:
            self._last = content
        elif epoch := re.match(r"epoch (\d+) of (\d+)", content["what"]):
            number, epochs = map(int, epoch.groups())
            done = (number - 1 + content["done"] / max(1, content["total"])) / epochs
            self.fraction = max(self.fraction, done)  # a head that trains first has epochs of its own

    def stop(self) -> None:
        """Ask it to stop so that it can be gone on with."""
        self._is_unwanted = True
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()

    def kill(self) -> None:
        """End it at once."""
        self._is_unwanted = True
        self._popen.kill()

    def _ending(self) -> Ended:
        """How it ended, from what it said last and from its exit status."""
        self.stop()
        code, state = self._popen.returncode, self._last.get("state")
        if self._log.stat().st_size == 0:
            self._log.unlink()
        if state in ("finished", "diverged", "failed"):
            return Ended(self._name, state, self._last["reason"])
        if state == "interrupted":
            return Ended(self._name, "failed", "it was stopped from outside; the same command goes on with it.")
        return Ended(self._name, "failed", _why(code, self._log))


def _why(code: int, log: Path) -> str:
    """Why a process ended without a word."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = ", as systems do when memory runs out; fewer --jobs need less" if name == "SIGKILL" else ""
        return f"its process was killed from outside ({name}){memory}."
    lines = log.read_text("utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"its process ended with exit code {code}{': ' + last if last else ''}."


def _next_event(events: queue.SimpleQueue[tuple[_Process, str | None]]) -> _Process | None:
    """Take in the next line of any process; None where none says anything for a while."""
    try:
        process, line = events.get(timeout=_BETWEEN_LOOKS)
    except queue.Empty:
        return None
    process.hear(line)
    return process


def _stop(
    processes: Sequence[_Process],
    events: queue.SimpleQueue[tuple[_Process, str | None]],
    watch: Watch,
    on_end: Callable[[Ended], None],
) -> None:
    """Stop all processes and wait for them; a second Ctrl-C ends them at once."""
    if processes:
        watch.on_message("stopping the runs after their steps; press Ctrl-C again to stop at once")
    for process in processes:
        process.stop()
    try:
        while any(process.ended is None for process in processes):
            _next_event(events)
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            if process.ended is not None and process.ended.state in ("finished", "diverged"):
                on_end(process.ended)
