"""What a caller may watch and stop while a verb works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tintype.records import EpochRecord, OnProgress, silent


@dataclass(frozen=True)
class Watch:
    """Callbacks, all optional; no verb prints by itself.

    Attributes:
        on_progress: (what is being done, how many are done, how many there are).
        on_message: One line that a person should see.
        on_epoch: The record of an epoch that ended, and the number of epochs.
        should_stop: Asked after each training step; True stops the run so that it can be resumed.
        should_finish: Asked after each training step of a process that trains alone; True ends the training there, and
            the run goes on with the best weights so far.
    """

    on_progress: OnProgress = silent
    on_message: Callable[[str], None] = lambda _: None
    on_epoch: Callable[[EpochRecord, int], None] = lambda _record, _epochs: None
    should_stop: Callable[[], bool] = lambda: False
    should_finish: Callable[[], bool] = lambda: False


def log_watch(path: Path, watch: Watch) -> Watch:
    """A watch that adds lines to a file instead of talking to anybody.

    Args:
        path: The file; its folder is made.
        watch: Is told of progress, and asked whether to stop, as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(line: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")

    def on_epoch(record: EpochRecord, epochs: int) -> None:
        write(f"epoch {record.epoch} of {epochs}: train loss {record.train_loss:.4f}, {record.seconds:.1f} s")

    return replace(watch, on_message=write, on_epoch=on_epoch)
