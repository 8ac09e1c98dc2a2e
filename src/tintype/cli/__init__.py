"""The command line: one verb a function of :mod:`tintype.api`, with the same names for the same options.

torch and everything that needs it are imported inside the verbs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from tintype.cli import compare, diagnose, embed, judge, study, train, use

USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="tintype",
    help="From a folder of labelled images to a classifier you can trust, and the report that shows why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# The order of `tintype --help`.
for verb in (
    train.demo, train.train, study.study, judge.check, judge.evaluate, compare.compare, diagnose.diagnose, embed.embed,
    use.predict, use.summary, use.report,
):  # fmt: skip
    app.command()(verb)
app.command(name="import")(use.import_)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    from tintype.errors import RunInterrupted, TintypeError

    # The libraries make a million objects while they are imported, which the collector would look through every
    # 700: torch and timm take 2.4 s this way and 3.3 s with Python's setting. The process is ours to tune.
    gc.set_threshold(100_000, 20, 20)
    try:
        try:
            app(standalone_mode=True)
        finally:
            sys.stdout.flush()  # what cannot be written is said here, where there is still somebody to say it
    except RunInterrupted as stopped:
        _end(str(stopped), INTERRUPTED)
    except TintypeError as error:
        _end(f"tintype: {error}", USER_ERROR)
    except KeyboardInterrupt:
        _end("tintype: stopped.", INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe (such as head) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        # A full disk, a folder that cannot be written: the system's words and the file are all there is to say.
        where = f" ({error.filename})" if error.filename else ""
        _end(f"tintype: {error.strerror or error}{where}.", USER_ERROR)


def program() -> NoReturn:
    """Run the command line, and end the process without taking the interpreter apart.

    Freeing the million objects of torch and timm one by one took 1.1 to 1.6 of the 8 seconds of a run on kept features
    (two Intel cores, 2026-11-21); the system frees them all at once. What was registered for the end is still done.
    """
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(code + "\n")
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # main has said so
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _end(line: str, code: int) -> NoReturn:
    sys.stderr.write(line + "\n")
    sys.exit(code)
