from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from ranks.launchers_store import be_worker

from tintype.ranks import outcome


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = be_worker(monkeypatch)
    yield
    del server


def test_the_first_end_that_is_noted_is_found_by_those_who_come_after() -> None:
    assert outcome.ended_before() is None
    outcome.note_end(2)
    outcome.note_end(130)
    assert outcome.ended_before() == 2


def test_the_run_directory_is_remembered() -> None:
    assert outcome.recall(outcome.RUN) is None
    outcome.remember(outcome.RUN, "runs/photos of ours")
    assert outcome.recall(outcome.RUN) == "runs/photos of ours"
    assert outcome.ended_before() is None


def test_what_all_ranks_have_to_tell_rank_0_tells(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    told: list[bool] = []
    other = threading.Thread(target=lambda: told.append(outcome.tell_once("no such folder")))
    other.start()
    time.sleep(0.3)  # rank 1 has found it first
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    assert outcome.tell_once("no such folder")
    other.join()
    assert told == [False]
    assert capfd.readouterr().err == "tintype: no such folder\n"


def test_what_one_rank_alone_has_found_it_tells_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(outcome, "_FIRST_SECONDS", 0.1)
    assert outcome.tell_once("the disk is full")
    assert capfd.readouterr().err == f"tintype: rank 1 on {socket.gethostname()}: the disk is full\n"
    monkeypatch.setenv("RANK", "0")
    assert not outcome.tell_once("the disk is full")


def test_another_attempt_may_tell_the_same_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert outcome.tell_once("stopped", start="")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert outcome.tell_once("stopped", start="")
    assert capfd.readouterr().err == "stopped\nstopped\n"


@pytest.mark.parametrize("missing", [{"TORCHELASTIC_USE_AGENT_STORE": "False"}, {"MASTER_PORT": "1"}])
def test_without_a_store_everything_is_told_and_nothing_kept(
    missing: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in missing.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    outcome.note_end(2)
    assert outcome.ended_before() is None
    assert [outcome.tell_once("no such folder") for _ in range(2)] == [True, True]
    assert time.monotonic() - started < 1.0
    assert capfd.readouterr().err == "tintype: no such folder\n" * 2  # and nothing of torch's about the connection
