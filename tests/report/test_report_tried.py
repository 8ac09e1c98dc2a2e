"""The section on what was tried before the head was chosen."""

from __future__ import annotations

from typing import Any

import pytest

from tintype.errors import RunError
from tintype.report.tried import tried_view


def trial(penalty: float, held_out: float | None, validation: float | None = 0.5) -> dict[str, Any]:
    return {
        "penalty": penalty, "train_loss": penalty / 10, "train_accuracy": 0.9, "validation_loss": validation,
        "validation_accuracy": validation, "held_out_loss": held_out, "held_out_accuracy": held_out,
        "iterations": 3, "seconds": 0.1,
    }  # fmt: skip


def head(rate: float, seed: int, losses: list[float], best: int, failed: str = "") -> dict[str, Any]:
    rows = [
        {"epoch": i + 1, "train_loss": loss, "train_accuracy": 0.5, "validation_loss": loss,
         "validation_accuracy": 1 - loss}
        for i, loss in enumerate(losses)
    ]  # fmt: skip
    setting = {"learning_rate": rate, "weight_decay": 0.0, "width": 0, "dropout": 0.3, "seed": seed}
    return {"setting": setting, "history": rows, "best_epoch": best, "failed": failed}


def test_penalties_with_the_chosen_first_and_marked() -> None:
    view = tried_view({"chosen": 0.1, "folds": 5, "trials": [trial(10.0, 0.7), trial(0.1, 0.2), trial(0.01, 0.3)]}, {})
    assert view is not None
    assert view.rows[0][0] == "0.1"
    assert "5-fold" in view.lead
    assert view.chart is not None
    assert 'class="kept"' in view.chart.svg
    by_validation = tried_view({"chosen": 10.0, "folds": 0, "trials": [trial(10.0, None), trial(0.1, None, None)]}, {})
    assert by_validation is not None
    assert "validation images" in by_validation.lead
    assert by_validation.rows[1][3] == "–"


def test_heads_are_grouped_over_seeds_with_failures_last() -> None:
    heads = [
        head(0.1, 0, [0.5, 0.4], 2), head(0.1, 1, [0.6, 0.2], 2), head(0.01, 0, [0.25, 0.3], 1),
        head(0.01, 1, [0.25, 0.3], 1), head(1.0, 0, [0.9], 1, "the loss was not finite <b>"), head(1.0, 1, [0.1], 1),
    ]  # fmt: skip
    view = tried_view({}, {"best": 2, "heads": heads})
    assert view is not None
    assert [row[0] for row in view.rows] == [f"learning rate {rate}, dropout 0.3" for rate in ("0.01", "0.1", "1")]
    assert view.rows[1][3] == "60.0 to 80.0\N{NO-BREAK SPACE}%"
    assert view.rows[2][-1] == "the loss was not finite <b>"  # escaped by the template
    assert "2 seeds" in view.lead
    assert view.chart is not None


def test_nothing_tried_has_no_section_and_another_version_is_said() -> None:
    assert tried_view({}, {}) is None
    with pytest.raises(RunError, match=r"penalties\.json is from another version"):
        tried_view({"chosen": 1}, {})
