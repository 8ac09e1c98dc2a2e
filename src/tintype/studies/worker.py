"""One run of a study in a process of its own: ``python -m tintype.studies.worker REQUEST RUN THREADS``.

What is read and written:

- stdin stays open as long as the run is wanted. When it ends, because the study was stopped or its process was killed,
  the run stops so that it can be gone on with. That works on every system, also where no signal arrives.
- stdout gets a JSON object a line: ``{"what", "done", "total"}`` for progress, then ``{"state", "reason"}`` at the end.
- stderr gets what went wrong unexpectedly, with its traceback.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TextIO

from tintype.config import load_config
from tintype.errors import NonFiniteError, RunInterrupted, TintypeError
from tintype.report.studyfile import RunState
from tintype.studies.one import make_run
from tintype.watch import Watch

_BETWEEN_REPORTS = 0.25
"""Seconds between two reports of progress."""


class _Worker:
    """The state of the one run.

    Args:
        reports: Where the JSON lines go.
    """

    def __init__(self, reports: TextIO) -> None:
        self._reports = reports
        self._told = 0.0
        self._what = ""
        self._is_unwanted = False
        self._has_ended = False

    def work(self, request: Path, run: Path, threads: int) -> None:
        """Make the run and report how it ended."""
        threading.Thread(target=self._wait_until_unwanted, daemon=True).start()
        state, reason = self._make(request, run, threads)
        self._has_ended = True
        self._report(state=state, reason=reason)

    def _make(self, request: Path, run: Path, threads: int) -> tuple[RunState, str]:
        try:
            config = load_config(request)
            if config.threads is None:
                config = config.replace({"threads": threads})
            make_run(config, run, Watch(on_progress=self._on_progress, should_stop=lambda: self._is_unwanted))
        except (RunInterrupted, KeyboardInterrupt):
            return "interrupted", ""
        except NonFiniteError as error:
            return "diverged", str(error)
        except TintypeError as error:
            return "failed", str(error)
        except Exception as error:
            # A mistake of tintype's own costs this run alone; the traceback stays beside the request.
            traceback.print_exc()
            return "failed", f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
        return "finished", ""

    def _wait_until_unwanted(self) -> None:
        """Stop the run when stdin ends: after its step where it trains, which keeps all; else at once."""
        sys.stdin.read()
        self._is_unwanted = True
        while not self._has_ended:
            if not self._what.startswith("epoch "):
                _thread.interrupt_main()
                return
            time.sleep(0.1)

    def _on_progress(self, what: str, done: int, total: int) -> None:
        self._what = what
        now = time.monotonic()
        if now - self._told > _BETWEEN_REPORTS or done == total:
            self._told = now
            self._report(what=what, done=done, total=total)

    def _report(self, **content: object) -> None:
        try:
            self._reports.write(json.dumps(content) + "\n")
            self._reports.flush()
        except BrokenPipeError:  # nobody listens any more; stdin has ended too
            self._is_unwanted = True


def main() -> None:
    """Make one run; stdout is kept for the reports, whatever libraries print."""
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _, request, run, threads = sys.argv
    _Worker(reports).work(Path(request), Path(run), int(threads))


if __name__ == "__main__":
    main()
