"""Faults planted in the data of real runs, each of which has to come first in the run's diagnosis."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_data import PLANTS, Plant

from tintype.api import diagnose, train

BY_DEFAULT = ("tail_validates", "leak")
"""The others are planted by hand in the tests of the rules, and in whole runs where there is time."""


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(plant, id=plant.name, marks=() if plant.name in BY_DEFAULT else pytest.mark.slow)
        for plant in PLANTS
    ],
)
def test_a_planted_fault_comes_first(plant: Plant, tmp_path: Path) -> None:
    path, options = plant.write(tmp_path)
    run = train(path, output=tmp_path / "run", **options)
    found = diagnose(run.path)
    assert [finding.code for finding in found][:1] == [plant.code], found
    assert plant.code in [finding.code for finding in run.findings]
