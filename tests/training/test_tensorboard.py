"""Event files hold the figures of each epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tintype.records import EpochRecord
from tintype.training.tensorboard import epoch_writer


def test_scalars_can_be_read_back(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write = epoch_writer(tmp_path)
    for epoch in (1, 2):
        write(EpochRecord(epoch, 1.0 / epoch, 0.5, None, None, 1e-3, 2.0, 100.0))
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("train_loss")] == [1.0, 0.5]
    assert "validation_loss" not in events.Tags()["scalars"]
