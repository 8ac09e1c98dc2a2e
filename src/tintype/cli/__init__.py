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

from tintype.cli import compare, diagnose, embed, judge, serve, ship, study, train, tune, use
from tintype.cli.ranks import INTERRUPTED
from tintype.ranks.torchrun import rank_of_process

USER_ERROR = 2

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
    train.demo, train.train, tune.tune, study.study, judge.check, judge.evaluate, compare.compare, diagnose.diagnose,
    embed.embed, use.predict, ship.export, serve.serve, use.summary, use.report,
):  # fmt: skip
    app.command()(verb)
app.command(name="import")(use.import_)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    from tintype.errors import RankGoneError, RunInterrupted, TintypeError

    if rank_of_process() is not None:
        _begin_as_rank()
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
    except RankGoneError:
        _end_missing_a_rank()
    except TintypeError as error:
        _end(f"tintype: {error}", USER_ERROR)
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


def _begin_as_rank() -> None:
    """What a process under torchrun does first: end as before, where starting anew would change nothing."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a store that is gone is no reason for stack traces
    from tintype.ranks.outcome import ended_before

    code = ended_before()
    if code is not None:
        sys.exit(code)


def _end(line: str, code: int) -> NoReturn:
    if rank_of_process() is None:
        sys.stderr.write(line + "\n")
    else:
        from tintype.ranks.outcome import note_end, tell_once

        if code == USER_ERROR:
            note_end(code)
        tell_once(line, start="")
    sys.exit(code)


def _end_missing_a_rank() -> NoReturn:
    """End at once and silently, for torchrun to start all ranks anew; whoever noticed first has said why."""
    from tintype.ranks.alive import PEER_LOST

    os._exit(PEER_LOST)
