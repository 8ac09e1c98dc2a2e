"""What a caller may watch and stop while a verb works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tintype.records import EpochRecord, OnProgress, silent


@dataclass(frozen=True)
class Watch:
    """Callbacks, all optional; no verb prints by itself.

    Attributes:
        on_progress: (what is being done, how many are done, how many there are).
        on_message: One line that a person should see.
        on_epoch: The record of an epoch that ended, and the number of epochs.
        should_stop: Asked after each training step; True stops the run so that it can be resumed.
    """

    on_progress: OnProgress = silent
    on_message: Callable[[str], None] = lambda _: None
    on_epoch: Callable[[EpochRecord, int], None] = lambda _record, _epochs: None
    should_stop: Callable[[], bool] = lambda: False
