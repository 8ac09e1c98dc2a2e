from __future__ import annotations

from collections.abc import Iterator

import pytest
from optuna.trial import TrialState
from tuning import toy_worker
from tuning.postgres import PASSWORD, PostgresServer, postgres_server, why_no_postgres
from tuning.searches import Start, ended_quietly, kill, opened, said, started

from tintype.errors import ConfigError, RunError
from tintype.tuning import database
from tintype.tuning.storage import attempt_of, cause_of

pytestmark = pytest.mark.skipif(bool(why_no_postgres()), reason=why_no_postgres() or "can run here")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def start() -> Iterator[Start]:
    with started() as start:
        yield start


def test_four_workers_two_of_them_killed(server: PostgresServer, start: Start) -> None:
    """They start at once on an empty database, and their sessions have other time zones."""
    url = server.new_database()
    zones = ("Asia/Tokyo", "America/New_York", "UTC", "Asia/Kolkata")
    holders = [start(url, "hold", "2", PGTZ=zone) for zone in zones[:2]]
    others = [start(url, "finish", "20", PGTZ=zone) for zone in zones[2:]]
    held = {}
    for holder in holders:
        held.update(said(holder)["held"])
        kill(holder)
    bests = [said(process) for process in others]
    assert all(ended_quietly(process) for process in others)
    assert bests[0] == bests[1]
    with toy_worker.join(url, "toy") as ledger:
        trials = ledger.trials()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    failed = {trial.number: trial for trial in trials if trial.state == TrialState.FAIL}
    assert failed.keys() == held.keys()
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL) for trial in trials)
    for number, trial in failed.items():
        assert cause_of(trial) == "its process ended without a word"
        (again,) = (other for other in trials if attempt_of(other) == number)
        assert again.state != TrialState.FAIL
        assert again.params == held[number]
    assert sum(trial.user_attrs.get("role") == "default" for trial in trials) == 1
    finished = [tuple(trial.params.values()) for trial in trials if trial.state != TrialState.FAIL]
    assert len(set(finished)) == len(finished) >= 20


def test_a_server_that_is_restarted_is_waited_for(server: PostgresServer) -> None:
    with opened(server.new_database()) as ledger:
        trial = ledger.ask()[0]
        trial.suggest_float("x", 0.0, 1.0)
        server.stop()
        server.start()
        assert trial.suggest_float("y", 0.0, 1.0) >= 0.0
        assert ledger.tell(trial, 0.5)
        assert [item.value for item in ledger.trials()] == [0.5]


def test_a_server_that_stays_away_is_one_line(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "AWAY_SECONDS", 1.0)
    with opened(server.new_database()) as ledger:
        trial = ledger.ask()[0]
        server.stop()
        try:
            with pytest.raises(RunError, match=r"cannot be used any longer: .*go on with --resume") as gone:
                ledger.tell(trial, 0.5)
            ledger.close()
        finally:
            server.start()
    assert "\n" not in str(gone.value)
    assert PASSWORD not in str(gone.value)


def test_what_the_server_refuses_is_one_line_without_the_password(server: PostgresServer) -> None:
    server.execute("CREATE ROLE guest LOGIN PASSWORD 'visit0r'")
    url = server.new_database()
    name = url.rpartition("/")[2]
    refusals = {
        server.url(name, password="wr0ng"): "password authentication failed",
        server.url("nowhere"): 'database "nowhere" does not exist',
        server.url(name, user="guest", password="visit0r"): "permission denied",
    }
    for wrong, message in refusals.items():
        with pytest.raises(ConfigError, match=message) as refused:
            opened(wrong)
        for secret in ("\n", PASSWORD, "wr0ng", "visit0r", "s3cret"):
            assert secret not in str(refused.value)


def test_a_socket_needs_no_password(server: PostgresServer) -> None:
    with opened(server.socket_url()) as ledger:
        assert ledger.tell(ledger.ask()[0], 0.5)
        place = ledger.place
    with opened(place, resume=True) as ledger:  # what is shown can be given again
        assert len(ledger.trials()) == 1
