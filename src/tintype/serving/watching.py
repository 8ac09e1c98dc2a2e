"""Images that appear in a folder, each labelled once and as soon as it is whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tintype.data.nameset import NameSet
from tintype.data.walk import iter_images
from tintype.errors import DataError
from tintype.serving.labels import Label, Source

SETTLED_SECONDS = 1.0
"""A file that did not change for so long is taken for whole, and tried."""
PATIENCE_SECONDS = 30.0
"""A file that cannot be read is waited for until it did not change for so long: whoever writes it may be slow."""
LOOK_SECONDS = 0.5
"""Time between two looks at the folder."""
_LONGEST_PAUSE = 10.0


@dataclass
class _Arrival:
    """A file that has no label yet: its size and time, when it was last seen to change, and how it went so far."""

    stamp: tuple[int, int]
    since: float
    look: int
    has_failed: bool = False


class FolderWatch:
    """Finds the images of a folder, with everything below it, that are whole and have no label.

    An image is known by its name: one that is replaced by another of its name is not labelled again.

    Args:
        folder: The folder.
        known: Names that have a label; grows.
        clock: Seconds that never go back.
    """

    def __init__(self, folder: Path, known: NameSet, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._known = known
        self._clock = clock
        self._arrivals: dict[str, _Arrival] = {}
        self._looks = 0

    def ready(self) -> Iterator[tuple[str, Source]]:
        """Look at the folder once, and give what may be labelled now.

        Raises:
            DataError: The folder cannot be read.
        """
        self._looks += 1
        for inside in iter_images(self._folder):
            path = self._folder / inside
            name = path.as_posix()
            if name in self._known:
                continue
            try:
                status = path.stat()
            except OSError:
                continue  # it has gone meanwhile
            arrival = self._noted(name, (status.st_size, status.st_mtime_ns))
            age = self._clock() - arrival.since
            if age >= (PATIENCE_SECONDS if arrival.has_failed else SETTLED_SECONDS):
                yield name, path
        self._arrivals = {name: item for name, item in self._arrivals.items() if item.look == self._looks}

    def is_final(self, label: Label) -> bool:
        """Whether a label is the last word on its image; one that cannot be read yet may be still being written."""
        arrival = self._arrivals.get(label.path)
        if label.error:
            if not os.path.lexists(label.path):
                return False
            if arrival is not None and self._clock() - arrival.since < PATIENCE_SECONDS:
                arrival.has_failed = True
                return False
        self._known.add(label.path)
        self._arrivals.pop(label.path, None)
        return True

    def _noted(self, name: str, stamp: tuple[int, int]) -> _Arrival:
        """What is known of a file; one that was there at the first look changed when its time says."""
        arrival = self._arrivals.get(name)
        if arrival is None or arrival.stamp != stamp:
            age = max(0.0, time.time() - stamp[1] / 1e9) if self._looks == 1 else 0.0
            arrival = self._arrivals[name] = _Arrival(stamp, self._clock() - age, self._looks)
        arrival.look = self._looks
        return arrival


def watch_folder(
    found: FolderWatch,
    label: Callable[[Iterable[tuple[str, Source]]], Iterator[Label]],
    on_message: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Label]:
    """Label what appears in a folder, for ever.

    Args:
        found: The folder.
        label: Labels a stream of images.
        on_message: Is told, once, of a folder that cannot be read at the moment.
        pause: Waits so many seconds. At most half of the time goes into looking.
    """
    trouble = ""
    while True:
        began, is_idle = time.monotonic(), True
        try:
            for one in label(found.ready()):
                if found.is_final(one):
                    is_idle = False
                    yield one
            trouble = ""
        except DataError as error:
            if str(error) != trouble:
                trouble = str(error)
                on_message(trouble)
        looked = time.monotonic() - began if is_idle else 0.0
        pause(min(max(LOOK_SECONDS, looked), _LONGEST_PAUSE))
