"""The range test of a run's own settings, from a folder of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.studies.range_test import describe, run_range_test
from tintype.training.range_test import RangeTest
from tintype.watch import Watch


def settings(folder: Path, **changes: object) -> RunConfig:
    plain = {
        "data.source": str(folder), "data.image_size": 24, "model.layers": "conv 4 3 relu\nbn\ngap\n",
        "fit.optimizer": "sgd", "fit.batch_size": 16, "threads": 1, "precision": "fp32",
    }  # fmt: skip
    return RunConfig().replace({**plain, **changes})


def test_a_folder_is_prepared_and_tested(shapes_folder: Path) -> None:
    said: list[str] = []
    found = run_range_test(settings(shapes_folder), Watch(on_message=said.append))
    assert found.proposed is not None
    assert said[-1] == describe(found)
    assert f"{found.proposed:.2g} is proposed" in said[-1]


def test_settings_without_one_learning_rate_are_refused(shapes_folder: Path) -> None:
    with pytest.raises(ConfigError, match="learning rates of its own"):
        run_range_test(settings(shapes_folder, **{"heads.learning_rate": [0.1, 0.2], "model.backbone": "resnet20"}))


def test_nothing_that_falls_is_said() -> None:
    assert describe(RangeTest((), (), (), None, None, None, None)) == "range test: the loss fell at no learning rate"
