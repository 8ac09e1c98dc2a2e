from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

import pytest
from ranks.launchers_store import be_worker

from tintype.errors import RankError
from tintype.ranks.meeting import Meeting, meet


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = be_worker(monkeypatch)
    yield
    del server


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


def come(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, rank: int, size: int, limit: float = 20.0
) -> Future[Meeting]:
    """Let a rank come to the meeting; it has read its number when this returns."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(size))
    coming = pool.submit(meet, limit)
    time.sleep(0.1)
    return coming


def test_all_ranks_agree_on_a_name_and_know_one_another(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = [come(pool, monkeypatch, rank, 3) for rank in (2, 0, 1)]
    met = [future.result() for future in coming]
    assert [meeting.rank for meeting in met] == [2, 0, 1]
    assert len({meeting.name for meeting in met}) == 1
    assert len(met[0].hosts) == 3
    met[0].store(timedelta(seconds=5)).set("key", "value")
    assert met[1].store(timedelta(seconds=5)).get("key") == b"value"


def test_a_rank_that_is_early_waits_although_the_other_has_left_a_sign_in_an_earlier_attempt(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [come(pool, monkeypatch, rank, 2) for rank in (0, 1)]
    early = come(pool, monkeypatch, 0, 2)
    time.sleep(0.2)
    assert not early.done()
    late = come(pool, monkeypatch, 1, 2)
    assert early.result().name == late.result().name
    assert early.result().name != first[0].result().name


def test_what_an_attempt_writes_the_next_does_not_read(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        met = [come(pool, monkeypatch, rank, 2) for rank in (0, 1)]
        store = met[0].result().store(timedelta(seconds=5))
        assert not store.check(["address"])
        store.set("address", "somewhere")


def test_the_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RankError, match="rank 1 has not come within 0 s"):
        meet(0.1)


def test_a_launcher_that_keeps_no_store_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    with pytest.raises(RankError, match="--rdzv-backend=c10d"):
        meet()


def test_a_launcher_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(RankError, match=r"127\.0\.0\.1:1 does not answer"):
        meet()
