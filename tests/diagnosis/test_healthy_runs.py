"""A diagnosis of sensible trainings has nothing to warn of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from healthy_runs import HEALTHY, QUICK, HealthyRun

from tintype.api import diagnose, train

Find = Callable[[str], Path]


def _marks(run: HealthyRun) -> list[pytest.MarkDecorator]:
    marks = [] if run.name in QUICK else [pytest.mark.slow]
    return [*marks, pytest.mark.data] if run.needs_data else marks


@pytest.mark.parametrize("healthy", [pytest.param(run, id=run.name, marks=_marks(run)) for run in HEALTHY])
def test_nothing_is_wrong_with_a_sensible_training(
    healthy: HealthyRun,
    tmp_path: Path,
    shared_data: Find,
    shared_weights: Find,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if healthy.weights:
        monkeypatch.setenv("TINTYPE_WEIGHTS", str(shared_weights(healthy.weights)))
    data = healthy.data(tmp_path, shared_data)
    run = train(data, output=tmp_path / "run", device="cpu", settings=healthy.settings, **healthy.options)
    found = diagnose(run.path)
    assert [finding for finding in found if finding.severity != "info"] == []


def test_there_are_ten_of_all_kinds() -> None:
    assert len({run.name for run in HEALTHY}) == 10
    assert set(QUICK) <= {run.name for run in HEALTHY}
