"""Event files for TensorBoard, an optional extra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tintype.errors import MissingDependencyError
from tintype.records import EpochRecord


def epoch_writer(folder: Path) -> Callable[[EpochRecord], None]:
    """A function that writes an epoch's figures as scalars.

    Args:
        folder: Where the event files go.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError("--tensorboard needs a library: pip install 'tintype[tensorboard]'.") from None
    writer = SummaryWriter(str(folder))

    def write(record: EpochRecord) -> None:
        for name, value in asdict(record).items():
            if name != "epoch" and value is not None:
                writer.add_scalar(name, value, record.epoch)
        writer.flush()

    return write
