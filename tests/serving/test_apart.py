"""An export made in a process of its own: what it says reaches the caller, and it ends with whoever wants it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tintype.errors import MissingDependencyError, RunError
from tintype.serving import apart
from tintype.serving.apart import export_apart
from tintype.watch import Watch


def play(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let the process be this program."""
    monkeypatch.setattr(apart, "export_command", lambda _run, _int8: [sys.executable, "-c", program])


def test_progress_and_messages_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play(
        monkeypatch,
        'print(\'{"message": "größer"}\', flush=True); print(\'{"what": "tracing", "done": 1, "total": 4}\')',
    )
    heard: list[object] = []
    export_apart(tmp_path, int8=False, watch=Watch(lambda *told: heard.append(told), heard.append))
    assert heard == ["größer", ("tracing", 1, 4)]


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ('print(\'{"error": "no weights.", "kind": "RunError"}\'); raise SystemExit(1)', RunError, "^no weights.$"),
        (
            'print(\'{"error": "pip install it", "kind": "MissingDependencyError"}\')',
            MissingDependencyError,
            "^pip install it$",
        ),
        ("import os; os.kill(os.getpid(), 9)", RunError, "killed from outside .SIGKILL."),
        ("raise SystemExit(3)", RunError, "exit code 3"),
    ],
)
def test_however_it_ends_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, kind: type[Exception], words: str
) -> None:
    play(monkeypatch, program)
    with pytest.raises(kind, match=words):
        export_apart(tmp_path, int8=False, watch=Watch())


@pytest.mark.parametrize("is_deaf", [False, True], ids=["willing", "deaf"])
def test_ctrl_c_ends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_deaf: bool) -> None:
    """It is told by the end of its stdin and may tidy up; one that does not listen is killed."""
    end = (
        "import time; time.sleep(60)"
        if is_deaf
        else f"import sys; sys.stdin.read(); open({str(tmp_path / 'tidy')!r}, 'w')"
    )
    play(monkeypatch, f'print(\'{{"message": "begun"}}\', flush=True); {end}')
    monkeypatch.setattr(apart, "STOP_SECONDS", 0.5 if is_deaf else 20.0)

    def press(_: str) -> None:
        raise KeyboardInterrupt

    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        export_apart(tmp_path, int8=False, watch=Watch(on_message=press))
    assert time.perf_counter() - begin < 10
    assert (tmp_path / "tidy").exists() is not is_deaf


def test_the_process_itself_says_why_there_is_no_export(tmp_path: Path) -> None:
    """The real one, which is asked for a run that is none."""
    with pytest.raises(RunError, match="there is no run directory"):
        export_apart(tmp_path / "absent", int8=True, watch=Watch())
