from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tintype.ranks.alive import PEER_LOST
from tintype.ranks.launch import launch_program, launch_workers

STAND_IN = str(Path(__file__).with_name("stand_in.py"))

# Ranks that need no torch. At SIGINT they save for a moment, or not at all.
PLAIN = """
import os, pathlib, signal, sys, time
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
rank = int(os.environ["RANK"])
def stop(*_):
    time.sleep(0.5)
    (folder / f"saved{rank}").touch()
    sys.exit(130)
signal.signal(signal.SIGINT, signal.SIG_IGN if what == "deaf" else stop)
signal.signal(signal.SIGTERM, signal.SIG_IGN if what == "deaf" else signal.SIG_DFL)
(folder / f"pid{rank}").write_text(str(os.getpid()))
if what == "tell":
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS")
    (folder / f"told{rank}").write_text(" ".join([*map(os.environ.get, names), *sys.argv[3:]]))
    print("out", rank)
    sys.exit(0)
if what == "crash":
    sys.exit(7 if rank == 1 else 0)
time.sleep(100)
"""


def wait_for(*paths: Path, limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not all(
        path.exists() and (path.suffix or path.name.startswith("ready") or path.read_text()) for path in paths
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text(encoding="ascii").rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def plain(folder: Path, what: str, *others: str, max_restarts: int = 0) -> int:
    return launch_program([sys.executable, "-c", PLAIN, str(folder), what, *others], 2, max_restarts)


def send(number: signal.Signals, folder: Path, times: int = 1) -> threading.Thread:
    """Send this process a signal when both ranks run, and again a little later."""

    def wait_and_send() -> None:
        wait_for(folder / "pid0", folder / "pid1")
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    thread = threading.Thread(target=wait_and_send)
    thread.start()
    return thread


def test_workers_get_the_arguments_as_they_are_and_speak_for_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    handler = signal.getsignal(signal.SIGINT)
    assert plain(tmp_path, "tell", "$$HOME", "${local_rank}") == 0
    share = max(1, len(os.sched_getaffinity(0)) // 2) if hasattr(os, "sched_getaffinity") else 1
    for rank in range(2):
        loopback, nccl, threads, *arguments = (tmp_path / f"told{rank}").read_text().split()
        assert loopback.startswith("lo")
        assert nccl == loopback
        assert int(threads) >= share
        assert arguments == ["$$HOME", "${local_rank}"]
    captured = capfd.readouterr()
    assert sorted(captured.out.splitlines()) == ["out 0", "out 1"]
    assert captured.err == ""
    assert "OMP_NUM_THREADS" not in os.environ
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_crash_is_one_line_that_names_the_rank_and_its_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert plain(tmp_path, "crash", max_restarts=1) == 7
    assert capfd.readouterr().err.splitlines() == [
        "tintype: rank 1 ended with exit code 7; all ranks are started anew.",
        "tintype: rank 1 ended with exit code 7; all ranks had been started anew 1 times before.",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_for_the_workers_and_is_no_crash(
    number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sending = send(number, tmp_path)
    assert plain(tmp_path, "stay") == 130
    sending.join()
    assert [(tmp_path / f"saved{rank}").exists() for rank in range(2)] == [number == signal.SIGINT] * 2
    assert capfd.readouterr().err == ""


def test_a_second_stop_ends_workers_that_do_not_hear(tmp_path: Path) -> None:
    sending = send(signal.SIGINT, tmp_path, times=2)
    started = time.monotonic()
    assert plain(tmp_path, "deaf") == 130
    assert time.monotonic() - started < 10
    sending.join()
    assert not any(lives(int((tmp_path / f"pid{rank}").read_text())) for rank in range(2))


def test_the_command_line_of_tintype_is_what_is_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch_workers(["--no-such-option"], 1) == 2
    assert capfd.readouterr().err.count("--no-such-option") == 1


def test_a_killed_rank_is_started_anew_a_mistake_is_not_and_nothing_listens_but_on_the_loopback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch_program([sys.executable, STAND_IN, str(tmp_path), "die and err"], 2) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("tintype: rank 1 was killed by SIGKILL")
    assert lines[0].endswith("; all ranks are started anew.")
    assert lines[1] == "tintype: no such folder"
    assert (tmp_path / "run").read_text() == str(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("pid*")) == ["pid0-0", "pid0-1", "pid1-0", "pid1-1"]
    if sys.platform == "linux":
        listening = [path.read_text().split() for path in sorted(tmp_path.glob("listening*"))]
        assert [len(addresses) > 0 for addresses in listening] == [True] * 4
        loopback = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
        assert not [one for addresses in listening for one in addresses if not one.startswith(loopback)]


@pytest.mark.slow
def test_a_launcher_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    start = "import sys; from tintype.ranks.launch import launch_program; launch_program(sys.argv[1:], 2)"
    argv = [sys.executable, "-c", start, sys.executable, STAND_IN, str(tmp_path), "stay"]
    launcher = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    pids = [int((tmp_path / f"pid{rank}-0").read_text()) for rank in range(2)]
    assert all(map(lives, pids))
    launcher.kill()
    _, stderr = launcher.communicate(timeout=10)  # the pipe is closed when the ranks have ended too
    assert not any(map(lives, pids))
    assert stderr.count("\n") == 1
    assert "the process that launched the ranks is gone" in stderr


@pytest.mark.slow
def test_a_rank_that_freezes_is_named_and_started_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    assert launch_program([sys.executable, STAND_IN, str(tmp_path), "freeze"], 2) == 0
    assert time.monotonic() - started < 3 + 30 + 30  # the patience, the agent's for one that does not hear, two starts
    first, second = capfd.readouterr().err.splitlines()
    assert "rank 1 on " in first
    assert "has not been heard of for 3 s" in first
    assert second == "tintype: rank 0 has lost another rank; all ranks are started anew."
    assert (tmp_path / "pid1-1").exists()


def test_the_exit_code_of_a_rank_that_misses_another_is_told_apart_from_users_mistakes_and_stops() -> None:
    assert PEER_LOST not in (0, 1, 2, 130)
