from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from multihost.hosts import Host, two_hosts, why_no_hosts
from ranks.launchers_store import be_worker

from tintype.ranks.alive import PEER_LOST, Heartbeat
from tintype.ranks.meeting import Meeting
from tintype.ranks.outcome import claim

# What stands in for the end of the process ends the thread that called it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread heartbeat-watch")

PATIENCE = 0.5
MEETING = Meeting(rank=0, size=2, hosts=("node-a", "node-b"), name="attempt")


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which the process would have ended."""
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise SystemExit  # of the watching thread

    monkeypatch.setattr(os, "_exit", leave)
    return codes


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    servers = [be_worker(monkeypatch)]
    yield servers
    servers.clear()


@pytest.fixture
def heartbeat(server: list[object], ends: list[int]) -> Iterator[Heartbeat]:
    beating = Heartbeat(MEETING, PATIENCE)
    yield beating
    beating.stop()


@pytest.fixture
def other(server: list[object]) -> Iterator[threading.Event]:
    """Signs of life of rank 1, until the event is set."""
    store = MEETING.store(timedelta(seconds=5))
    silent, ended = threading.Event(), threading.Event()

    def beat() -> None:
        while not ended.wait(PATIENCE / 5):
            if not silent.is_set():
                with suppress(RuntimeError):  # the store may go before
                    store.add("beat/1", 1)

    thread = threading.Thread(target=beat)
    thread.start()
    yield silent
    ended.set()
    thread.join()


def seconds_until(condition: Callable[[], object], limit: float = 5.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit
        time.sleep(0.01)
    return time.monotonic() - started


def test_a_rank_that_falls_silent_is_named_within_the_patience(
    heartbeat: Heartbeat, other: threading.Event, ends: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    heartbeat.start()
    time.sleep(1.5 * PATIENCE)
    assert ends == []
    other.set()
    took = seconds_until(lambda: ends)
    assert PATIENCE * 0.7 < took < PATIENCE * 2
    assert ends == [PEER_LOST]
    line = "tintype: rank 1 on node-b has not been heard of for 0 s (stopped, hung or cut off); "
    assert capfd.readouterr().err == line + "ending so that torchrun can start it anew.\n"


def test_a_silent_rank_is_named_by_one_of_the_others_only(
    heartbeat: Heartbeat, ends: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert claim(f"silent/{MEETING.name}")
    heartbeat.start()
    seconds_until(lambda: ends)
    assert ends == [PEER_LOST]
    assert capfd.readouterr().err == ""


def test_a_rank_that_has_said_goodbye_is_not_missed(heartbeat: Heartbeat, ends: list[int]) -> None:
    other = Heartbeat(Meeting(rank=1, size=2, hosts=MEETING.hosts, name=MEETING.name), PATIENCE)
    other.start()
    heartbeat.start()
    time.sleep(0.4 * PATIENCE)
    other.stop()
    other.stop()
    time.sleep(1.5 * PATIENCE)
    assert ends == []


def test_when_all_others_have_said_goodbye_the_store_may_go(
    heartbeat: Heartbeat, server: list[object], ends: list[int]
) -> None:
    heartbeat.start()
    MEETING.store(timedelta(seconds=5)).add("goodbye/1", 1)
    time.sleep(0.5 * PATIENCE)
    server.clear()
    time.sleep(1.5 * PATIENCE)
    assert ends == []


def test_a_process_that_was_stopped_itself_accuses_nobody(
    heartbeat: Heartbeat, other: threading.Event, ends: list[int]
) -> None:
    heartbeat.start()
    time.sleep(0.5 * PATIENCE)
    other.set()
    time.sleep(0.3 * PATIENCE)
    ctypes.PyDLL(None).usleep(int(1.8e6 * PATIENCE))  # holds Python's lock, so that no thread here runs
    other.clear()
    time.sleep(0.7 * PATIENCE)
    assert ends == []


def test_a_main_thread_that_computes_starves_nobody(
    heartbeat: Heartbeat, other: threading.Event, ends: list[int]
) -> None:
    heartbeat.start()
    until = time.monotonic() + 1.8 * PATIENCE
    before = MEETING.store(timedelta(seconds=5)).add("beat/0", 0)
    while time.monotonic() < until:
        sum(range(1000))
    assert MEETING.store(timedelta(seconds=5)).add("beat/0", 0) - before >= 5
    assert ends == []


def test_a_rank_ends_when_its_launcher_is_gone(
    heartbeat: Heartbeat,
    other: threading.Event,
    ends: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    heartbeat.start()
    parent = os.getppid()
    monkeypatch.setattr(os, "getppid", lambda: parent + 1)
    assert seconds_until(lambda: ends) < PATIENCE
    assert ends == [PEER_LOST]
    assert capfd.readouterr().err.startswith("tintype: the process that launched the ranks is gone; they end.")


def test_a_rank_ends_when_the_store_is_gone(
    heartbeat: Heartbeat, other: threading.Event, server: list[object], ends: list[int]
) -> None:
    heartbeat.start()
    time.sleep(PATIENCE)
    server.clear()
    assert seconds_until(lambda: ends) < PATIENCE
    assert ends == [PEER_LOST]


def test_after_the_end_no_thread_is_left(heartbeat: Heartbeat, ends: list[int]) -> None:
    heartbeat.start()
    heartbeat.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("heartbeat")]
    assert MEETING.store(timedelta(seconds=5)).add("goodbye/0", 0) == 1


@pytest.mark.multihost
def test_when_the_cable_is_pulled_each_side_says_so_and_ends(tmp_path: Path) -> None:
    if reason := why_no_hosts():
        pytest.skip(reason)
    with two_hosts() as hosts:
        launchers = [torchrun(host, hosts[0].address, tmp_path) for host in hosts]
        seconds_until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)), limit=60)
        hosts[1].cut()
        cut = time.monotonic()
        lines = [launcher.stderr.readline() for launcher in launchers if launcher.stderr is not None]
        assert time.monotonic() - cut < 3 + 5  # the patience of the stand-in, and looking
        for host in hosts:
            host.kill()
    assert lines[0].startswith("tintype: rank 1 on ")
    assert "has not been heard of for 3 s" in lines[0]
    assert lines[1].startswith(f"tintype: the torchrun at {hosts[0].address}:")
    assert "has not answered for 3 s" in lines[1]


def torchrun(host: Host, first: str, folder: Path) -> subprocess.Popen[str]:
    """The stand-in under torchrun on one of two hosts."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    argv += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"{first}:29400",
        "--rdzv-conf",
        f"is_host={host.address == first}",
    ]
    argv += ["--local-addr", host.address, str(Path(__file__).with_name("stand_in.py")), str(folder), "stay"]
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    return host.run(argv, core=None, env=quiet, stderr=subprocess.PIPE)
