"""A worker process of tests: a toy objective with two stages. It prints a line of JSON in the end.

``python toy_worker.py URL NAME finish N``: works until N trials are finished and nothing runs or waits; tells its best.
``python toy_worker.py URL NAME hold N``: finishes N trials, asks for two more, and holds them until it is killed.
``python toy_worker.py URL NAME take``: takes whatever waits, and finishes it.
"""

from __future__ import annotations

import json
import sys
import time

import optuna
from optuna.trial import TrialState

from tintype.tuning.storage import Ledger, Pulse, Queued, open_study

ABOUT = {"data": "toy", "seed": 3}
PULSE = Pulse(interval=1, grace=3)
DEFAULT = Queued({}, {"role": "default"})
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def join(url: str, name: str) -> Ledger:
    return open_study(url, name, about=ABOUT, seed=3, first=[DEFAULT], pulse=PULSE)


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1.0, 1.0)
    kind = trial.suggest_categorical("kind", ["flat", "deep"])
    depth = trial.suggest_int("depth", 1, 5) if kind == "deep" else 0
    return 1.0 - (x - 0.3) ** 2 - 0.01 * abs(depth - 3)


def work(ledger: Ledger, trial: optuna.Trial) -> None:
    with ledger.explained():
        value = objective(trial)
    time.sleep(0.05)
    if ledger.report(trial, value - 0.01, 1) == "on":
        ledger.tell(trial, value)
    else:
        ledger.tell(trial, pruned=True)


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def finish(ledger: Ledger, wanted: int) -> None:
    while True:
        enough = len(ledger.trials(*DONE)) >= wanted
        asked = ledger.ask(waiting_only=enough)
        for trial in asked:
            work(ledger, trial)
        if enough and not asked:
            if not ledger.trials(TrialState.RUNNING, TrialState.WAITING):
                break
            time.sleep(0.2)
    best = ledger.best()
    assert best is not None
    say(best=best.number, value=best.value)


def main(url: str, name: str, what: str, count: str = "0") -> None:
    with join(url, name) as ledger:
        if what == "finish":
            finish(ledger, int(count))
        elif what == "hold":
            for _ in range(int(count)):
                work(ledger, ledger.ask()[0])
            held = ledger.ask(2)
            parameters = [(trial.number, objective(trial), trial.params)[::2] for trial in held]
            say(held=parameters)
            time.sleep(600)
        else:
            taken = []
            while asked := ledger.ask(waiting_only=True):
                taken.append(asked[0].number)
                work(ledger, asked[0])
            say(taken=taken)


if __name__ == "__main__":
    main(*sys.argv[1:])
