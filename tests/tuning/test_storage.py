from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from tuning import toy_worker
from tuning.searches import Start, ended_quietly, kill, opened, said, started

from tintype.errors import ConfigError, MissingDependencyError, RunError, TintypeError
from tintype.tuning.database import quiet
from tintype.tuning.storage import Pulse, Queued, attempt_of, cause_of, open_study

FAST = Pulse(interval=1, grace=3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tune" / "study.db"


@pytest.fixture
def start() -> Iterator[Start]:
    with started() as start:
        yield start


def draw(trial: optuna.Trial) -> tuple[float, str]:
    return trial.suggest_float("x", 0.0, 1.0), trial.suggest_categorical("what", ["head", "deep"])


def test_results_are_there_for_the_next_process(file: Path) -> None:
    with opened(file) as ledger:
        assert ledger.created
        good, bad, poor, nan = ledger.ask(4)
        for trial in (good, bad, poor, nan):
            draw(trial)
        assert ledger.note(good, parameters=12)
        assert ledger.report(poor, 0.1, 1) == "on"  # the first of its rung
        assert ledger.tell(good, 0.9)
        assert ledger.tell(bad, cause="out of memory")
        assert ledger.tell(poor, pruned=True)
        assert ledger.tell(nan, float("nan"))
        ledger.set_attribute("stages", [1, 3])
    with opened(file, resume=True) as ledger:
        assert not ledger.created
        assert ledger.attributes == {"stages": [1, 3]}
        trials = ledger.trials()
        assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "PRUNED", "FAIL"]
        assert [cause_of(trial) for trial in trials] == ["", "out of memory", "", "its value is nan"]
        assert trials[0].user_attrs["parameters"] == 12
        assert trials[0].user_attrs["worker"].endswith(f":{os.getpid()}")
        best = ledger.best()
        assert best is not None
        assert best.number == 0
        assert not ledger.ask(waiting_only=True)  # a failed trial with a cause is not tried again


def test_nothing_is_written_to_the_terminal(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(file) as ledger:
        for trial in ledger.ask(12, fixed={"what": "deep"}):
            draw(trial)
            ledger.tell(trial, 0.5)
        assert draw(ledger.ask()[0])
    assert capfd.readouterr() == ("", "")


def test_first_trials_are_enqueued_once(file: Path) -> None:
    first = Queued({}, {"role": "default"}), Queued({"x": 0.25}, {"role": "search"})
    for _ in range(2):
        with opened(file, first=first) as ledger:
            waiting = ledger.trials(TrialState.WAITING)
    assert [trial.user_attrs["role"] for trial in waiting] == ["default", "search"]
    with opened(file, first=first) as ledger:
        default, other = ledger.ask(2)
        assert default.user_attrs["role"] == "default"
        assert draw(other)[0] == 0.25


def test_a_study_half_made_is_made_anew(file: Path) -> None:
    first = (Queued({"x": 0.25}), Queued({"x": 0.5}))
    with pytest.raises(TypeError), opened(file, first=(first[0], Queued({"x": object()}))):
        pass  # killed, as it were, between the two
    with opened(file, first=first) as ledger:
        assert ledger.created
        assert [draw(trial)[0] for trial in ledger.ask(2)] == [0.25, 0.5]


def test_another_ones_study_is_left_alone(file: Path) -> None:
    file.parent.mkdir()
    theirs = optuna.create_study(study_name="toy", storage=f"sqlite:///{file}")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigError, match="that tintype did not make"):
        opened(file)
    assert len(theirs.trials) == 1


def test_a_search_for_something_else_is_refused(file: Path) -> None:
    about = {"data": "a", "space": "scratch", "stages": (1, 3)}
    opened(file, about=about).close()
    with pytest.raises(ConfigError, match="with space scratch, and this one has transfer; ") as refused:
        opened(file, about={**about, "space": "transfer"})
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="with seed none, and this one has 1"):
        opened(file, about={**about, "seed": 1})
    opened(file, about=about).close()


def test_a_missing_search_cannot_be_resumed(file: Path) -> None:
    with pytest.raises(RunError, match=r"study\.db is missing"):
        opened(file, resume=True)
    assert not file.exists()
    with open_study(file, "other", about={}, seed=0), pytest.raises(RunError, match="no search 'toy'"):
        opened(file, resume=True)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("mysql://me:s3cret@host/db", "in SQLite or PostgreSQL"),
        ("postgresql://me:s3cret", "no URL that can be read"),
        ("postgresql://me:s3cret@x@host/db", "write it as %40"),
        ("postgresql+psycopg2://me:s3cret@host/db", "asks for the driver psycopg2"),
        ("postgresql:/me:s3cret", "no URL that can be read"),
        ("sqlite://", "names no SQLite file"),
        ("postgresql://me:s3cret@127.0.0.1:1/db", "onnection refused"),
        ("postgresql://me@127.0.0.1:1/db?password=s3cret", "postgresql://me@127.0.0.1:1/db cannot be used"),
        ("postgresql://me@127.0.0.1:1/db?s3cret=1", "cannot be used"),
        ("/proc/none/study.db", "cannot be written"),
        ("/proc", "is a folder"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_without_its_password(storage: str, message: str) -> None:
    with pytest.raises(TintypeError, match=message) as refused:
        opened(storage)
    assert "\n" not in str(refused.value)
    assert "s3cret" not in str(refused.value).replace('"s3cret"', "")  # an option of that name is no secret


def test_postgresql_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tintype\[postgres\]'"):
        opened("postgresql://me@127.0.0.1:1/db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        opened(tmp_path / "notes.txt")


def test_names_with_what_a_url_gives_a_meaning(tmp_path: Path) -> None:
    odd = tmp_path / "a {b} 50%?#ä" / "study.db"
    opened(odd).close()
    assert odd.exists()
    opened(f"sqlite:///{tmp_path}/plain.db").close()
    assert (tmp_path / "plain.db").exists()


def test_the_same_seed_draws_the_same_and_no_worker_draws_what_another_has_drawn(tmp_path: Path) -> None:
    drawn = []
    for name in ("one.db", "two.db"):
        with opened(tmp_path / name, seed=7) as ledger:
            for _ in range(12):
                trial = ledger.ask()[0]
                x, what = draw(trial)
                ledger.tell(trial, x + (what == "head"))
            drawn.append([trial.params for trial in ledger.trials()])
    assert drawn[0] == drawn[1]
    with opened(tmp_path / "three.db", seed=7) as ledger, opened(tmp_path / "three.db", seed=7) as other:
        xs = [draw(who.ask()[0])[0] for who in (ledger, other, ledger, other)]
        assert len(set(xs)) == 4
    with opened(tmp_path / "three.db", seed=7) as ledger:
        assert sorted(draw(trial)[0] for trial in ledger.ask(4)) == sorted(xs)  # they were interrupted
        assert draw(ledger.ask()[0])[0] not in xs


def test_fixed_parameters_hold_for_the_new_ones_of_one_call(file: Path) -> None:
    with opened(file) as ledger:
        ledger.enqueue(Queued({"what": "deep"}, {"role": "repeat"}))
        batch = ledger.ask(6, fixed={"what": "head"})
        free = ledger.ask(6)
        drawn = [draw(trial) for trial in batch]
        assert batch[0].user_attrs["role"] == "repeat"
        assert [what for _, what in drawn] == ["deep"] + ["head"] * 5
        assert len({x for x, _ in drawn}) == 6
        assert {draw(trial)[1] for trial in free} == {"head", "deep"}


def test_a_trial_without_parameters_does_not_end_joint_sampling(file: Path) -> None:
    with opened(file, first=(Queued({}, {"role": "default"}),)) as ledger:
        ledger.tell(ledger.ask()[0], 0.5)
        for _ in range(12):
            trial = ledger.ask()[0]
            x, _ = draw(trial)
            ledger.tell(trial, x)
        assert set(ledger.ask()[0].relative_params) == {"x", "what"}


def test_the_worst_of_a_stage_is_pruned_and_a_last_stage_is_not_judged(file: Path) -> None:
    with opened(file) as ledger:
        good, poor, last = ledger.ask(3)
        assert ledger.report(good, 0.9, 1) == "on"
        assert ledger.report(poor, 0.5, 1) == "prune"
        assert ledger.report(last, 0.5, 1, judge=False) == "on"


def test_an_interrupted_trial_waits_with_its_parameters(file: Path) -> None:
    with suppress(KeyboardInterrupt), opened(file) as ledger:
        ledger.enqueue(Queued({"x": 0.5}, {"role": "repeat", "seed": 9}))
        repeat, new = ledger.ask(2)
        params = [draw(repeat), draw(new)]
        ledger.note(repeat, parameters=3)
        ledger.report(repeat, 0.1, 1)
        raise KeyboardInterrupt
    for attempt in range(2, 5):  # however often
        with suppress(KeyboardInterrupt), opened(file) as ledger:
            again = ledger.ask(3, waiting_only=True)
            assert [draw(trial) for trial in again] == params
            assert [attempt_of(trial) for trial in again] == [2 * attempt - 4, 2 * attempt - 3]
            assert again[0].user_attrs["role"] == "repeat"
            assert again[0].user_attrs["seed"] == 9
            assert "parameters" not in again[0].user_attrs
            raise KeyboardInterrupt
    assert {cause_of(trial) for trial in ledger_trials(file) if trial.state == TrialState.FAIL} == {"interrupted"}


def ledger_trials(file: Path) -> list[optuna.trial.FrozenTrial]:
    with opened(file) as ledger:
        return ledger.trials()


def test_what_breaks_two_workers_is_not_tried_a_third_time(file: Path) -> None:
    for tries in (1, 1, 0):
        with suppress(ZeroDivisionError), opened(file) as ledger:
            asked = ledger.ask(waiting_only=bool(ledger.trials()))
            assert len(asked) == tries
            raise ZeroDivisionError("by nothing")
    assert [cause_of(trial) for trial in ledger_trials(file)] == ["ZeroDivisionError: by nothing"] * 2


def test_after_a_kill_the_only_process_goes_on_at_once(file: Path, start: Start) -> None:
    holder = start(file, "hold", "1")
    held = said(holder)["held"]
    kill(holder)
    began = time.monotonic()
    with toy_worker.join(str(file), "toy") as ledger:
        again = ledger.ask(3, waiting_only=True)
        assert [(attempt_of(trial), toy_worker.objective(trial), trial.params)[::2] for trial in again] == [
            (number, params) for number, params in held
        ]
        assert time.monotonic() - began < toy_worker.PULSE.grace / 2
        for number, _ in held:
            assert cause_of(ledger.trials()[number]) == "its process ended without a word"


def age(file: Path) -> None:
    """Make every heartbeat there is an hour old."""
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')")


def test_a_live_process_keeps_its_trials_and_a_killed_one_loses_them(file: Path, start: Start) -> None:
    holder = start(file, "hold", "0")
    held = {number for number, _ in said(holder)["held"]}
    with toy_worker.join(str(file), "toy") as ledger:
        age(file)
        time.sleep(toy_worker.PULSE.interval + 0.7)  # it beats again
        assert ledger.ask(waiting_only=True) == []
        assert {trial.number for trial in ledger.trials(TrialState.RUNNING)} == held
        kill(holder)
        age(file)
        assert {attempt_of(trial) for trial in ledger.ask(9, waiting_only=True)} == held


def test_a_trial_whose_worker_died_before_its_first_heartbeat_is_not_running_for_ever(file: Path) -> None:
    with opened(file) as ledger:
        with quiet():
            theirs = ledger._study.ask()  # no heartbeat follows
        assert ledger.ask(waiting_only=True) == []
        age(file)
        assert [attempt_of(trial) for trial in ledger.ask(9, waiting_only=True)] == [theirs.number]


def test_who_was_silent_too_long_learns_that_the_trial_was_taken(file: Path) -> None:
    with opened(file) as ledger, opened(file) as other:
        mine = ledger.ask()[0]
        ledger._beats.close()  # as if its machine slept
        age(file)
        (again,) = other.ask(9, waiting_only=True)
        assert attempt_of(again) == mine.number
        assert ledger.report(mine, 0.5, 1) == "taken"
        assert not ledger.note(mine, seconds=3)
        assert not ledger.tell(mine, 0.5)
        assert other.tell(again, 0.75)
    assert [trial.value for trial in ledger_trials(file)] == [None, 0.75]


def test_after_a_pause_nobody_is_failed_before_they_could_beat(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(file) as ledger, opened(file) as other:
        mine, theirs = ledger.ask()[0], other.ask()[0]
        other._beats.close()
        age(file)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600)  # both slept
        assert ledger.ask(waiting_only=True) == []
        monkeypatch.setattr(time, "time", lambda: now + 3609)
        ledger.fail_stale()
        monkeypatch.setattr(time, "time", lambda: now + 3618)
        ledger.fail_stale()
        assert len(ledger.trials(TrialState.RUNNING)) == 2
        monkeypatch.setattr(time, "time", lambda: now + 3621)
        assert [attempt_of(trial) for trial in ledger.ask(9, waiting_only=True)] == [theirs.number]
        assert ledger.tell(mine, 0.5)


def test_a_batch_in_hand_is_beaten_for(file: Path) -> None:
    with opened(file, pulse=FAST) as ledger, opened(file, pulse=FAST) as other:
        batch = ledger.ask(5)
        ledger.tell(batch[0], 0.5)
        age(file)
        time.sleep(FAST.interval + 0.7)
        other.fail_stale()
        assert [trial.number for trial in other.trials(TrialState.RUNNING)] == [1, 2, 3, 4]


def test_several_processes_share_a_file_and_none_takes_what_another_has(file: Path, start: Start) -> None:
    queue = [Queued({"x": 0.5}) for _ in range(16)]
    open_study(file, "toy", about=toy_worker.ABOUT, seed=3, first=queue).close()
    workers = [start(file, "take") for _ in range(2)]
    taken = [said(process)["taken"] for process in workers]
    assert all(ended_quietly(process) for process in workers)
    assert sorted(number for numbers in taken for number in numbers) == list(range(16))
    assert all(taken)
