"""An export made in a process of its own, so that whoever wants it never imports torch.

A server that has exported by itself keeps what torch and the tracing took: 938 MB resident, where one that finds an
export has 127 MB (MobileNetV2, Linux, 2026-11-22).

The process is ``python -m tintype.serving.apart RUN [--int8]``. What is read and written:

- stdin stays open as long as the export is wanted. When it ends, because somebody pressed Ctrl-C or the process that
  wants it was killed, the export stops and leaves nothing.
- stdout gets a JSON object a line: ``{"what", "done", "total"}`` for progress, ``{"message"}`` for people, and
  ``{"error", "kind"}`` at the end where there is no export.
- stderr gets what went wrong unexpectedly, with its traceback.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from tintype.errors import MissingDependencyError, RunError, TintypeError
from tintype.rundir import RunDir
from tintype.watch import Watch

STOP_SECONDS = 10.0
"""For an export that is no longer wanted to remove what it has written; then it is killed."""


def export_apart(run: Path, *, int8: bool, watch: Watch) -> None:
    """Export a run into its own directory, as :func:`tintype.serving.export.export_run` does.

    Args:
        run: The run directory.
        int8: Write a quantised model, too.
        watch: Progress and messages.

    Raises:
        RunError: There is no finished run, or it cannot be exported; nothing is then written.
        MissingDependencyError: A library for exporting is not installed.
        KeyboardInterrupt: Ctrl-C was pressed; nothing is left.
    """
    # In a session of its own, Ctrl-C on a terminal reaches the process only by its stdin, and once.
    with subprocess.Popen(
        export_command(run, int8),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            error = _listen(process.stdout, watch)
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
    if error is not None:
        raise error
    if code < 0:
        raise RunError(f"the export was killed from outside ({signal.Signals(-code).name}), as for want of memory.")
    if code:
        raise RunError(f"the export ended with exit code {code}; what it said stands above.")


def export_command(run: Path, int8: bool) -> list[str]:
    """The command line of the process."""
    return [sys.executable, "-m", "tintype.serving.apart", str(run), *(["--int8"] if int8 else [])]


def _listen(lines: IO[str], watch: Watch) -> TintypeError | None:
    """Pass on what the process says, to its end; gives its error."""
    error: TintypeError | None = None
    for line in lines:
        said = json.loads(line)
        if "error" in said:
            kind = MissingDependencyError if said["kind"] == MissingDependencyError.__name__ else RunError
            error = kind(said["error"])
        elif "message" in said:
            watch.on_message(said["message"])
        else:
            watch.on_progress(said["what"], said["done"], said["total"])
    return error


def _stop(process: subprocess.Popen[str]) -> None:
    """Let it know that it is not wanted, and wait until it has ended."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:  # also at a second Ctrl-C; does nothing where it has ended
        process.kill()


def _work(run: Path, reports: IO[str], *, int8: bool) -> int:
    """Make the export and tell of it; gives the exit code."""

    def report(**content: object) -> None:
        with suppress(BrokenPipeError):  # nobody listens any more; stdin has ended too
            reports.write(json.dumps(content) + "\n")
            reports.flush()

    watch = Watch(
        on_progress=lambda what, done, total: report(what=what, done=done, total=total),
        on_message=lambda line: report(message=line),
    )
    try:
        from tintype.serving.export import export_run  # torch takes seconds to import

        export_run(RunDir(run), int8=int8, watch=watch)
    except TintypeError as error:
        report(error=str(error), kind=type(error).__name__)
        return 1
    except OSError as error:  # a full disk, a folder that cannot be written
        where = f" ({error.filename})" if error.filename else ""
        report(error=f"{error.strerror or error}{where}.", kind=type(error).__name__)
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def _stop_when_unwanted() -> None:
    sys.stdin.read()
    _thread.interrupt_main()


def main() -> None:
    """Make one export; stdout is kept for the reports, whatever libraries print."""
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_stop_when_unwanted, daemon=True).start()
    code = _work(Path(sys.argv[1]), reports, int8="--int8" in sys.argv[2:])
    sys.stderr.flush()
    os._exit(code)  # taking the interpreter apart would take a second, in which the server waits


if __name__ == "__main__":
    main()
