"""The decoded images of an index as the ranks of a run build them: each decodes its part, every folder gets all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tintype.config import DataConfig
from tintype.data.decode import Geometry
from tintype.data.decoding import Decoder, check_bad
from tintype.data.index import ImageIndex
from tintype.data.parallel import in_slices, worker_count
from tintype.data.rowfile import block_rows
from tintype.data.shares import Put, Rows, Span, share_rows
from tintype.data.store import Facts, Stored, StoreWriter, check_space
from tintype.data.team import Team
from tintype.ranks.world import World
from tintype.records import OnProgress

DECODING = "decoding images"

_ROW = np.dtype([("position", np.int64), *((name, kind) for name, kind in Facts.kinds().items())])


def build_jointly(
    index: ImageIndex,
    geometry: Geometry,
    config: DataConfig,
    team: Team,
    folder: Path | None,
    held: Stored | None,
    on_progress: OnProgress,
) -> str:
    """Decode the images in all ranks, or copy them from those who hold them, and write them; collective.

    Args:
        index: The images, the same on all ranks.
        geometry: What they are brought to.
        config: Resolved settings.
        team: The ranks.
        folder: What this rank fills; None where another writes.
        held: What it has already, on a holder.
        on_progress: Told of decoding.

    Returns:
        How the work was shared, for people.

    Raises:
        DataError: On all ranks: images are unreadable, or a disk is full.
    """
    shape, n, world = (len(index), *geometry.shape), len(index), team.world
    decoder = Decoder(index, geometry, config.max_megapixels) if held is None else _Copier(held)
    spans_made: list[Span] = []

    def make(spans: Sequence[Span], put: Put, tell: Callable[[], None]) -> None:
        def decode(number: int, _: int, is_stopped: Callable[[], bool]) -> int:
            block = decoder.block(*spans[number], is_stopped)
            if block is not None:
                put(number, block, is_stopped)
            return 1

        in_slices(len(spans), 1, decode, DECODING, lambda *_: tell())
        spans_made.extend(spans)

    with ExitStack() as stack:
        writer = team.together(lambda: None if folder is None else stack.enter_context(_writer(folder, shape)))
        bounds = tuple(world.part(n, rank).start for rank in range(world.size))
        step = block_rows(int(np.prod(geometry.shape)))
        rows = Rows(geometry.shape, np.uint8, (*bounds, n), step, ahead=worker_count() + 1)
        write = None if writer is None else writer.add
        reason = share_rows(team, rows, make, write, lambda done: on_progress(DECODING, done, n))
        facts, modes, errors = _gathered(world, decoder, spans_made, n)
        check_bad({index.paths[i]: why for i, why in errors.items()}, n, config.skip_bad)
        team.together(lambda: None if writer is None else writer.finish(facts, modes, errors))
    return _told(team, reason, n)


class _Copier:
    """Gives what is held as :class:`tintype.data.decoding.Decoder` gives what it decodes."""

    def __init__(self, held: Stored) -> None:
        self.facts = held.facts
        self.modes = [held.mode_names[number] for number in held.facts.mode_ids.tolist()]
        self.errors = held.errors
        self._pixels = held.pixels

    def block(self, start: int, stop: int, _: Callable[[], bool]) -> NDArray[np.uint8] | None:
        return self._pixels[start:stop].copy()


def _writer(folder: Path, shape: tuple[int, int, int, int]) -> closing[StoreWriter]:
    check_space(folder.parent, shape)
    return closing(StoreWriter(folder, shape))


def _gathered(
    world: World, decoder: Decoder | _Copier, spans: Sequence[Span], n: int
) -> tuple[Facts, list[str], dict[int, str]]:
    """The facts, modes and errors of all images, each from a rank that made it; about 26 bytes an image on the way."""
    mine = np.concatenate([np.arange(*span) for span in spans] or [np.zeros(0, np.int64)])
    own_modes = [decoder.modes[i] for i in mine.tolist()]
    names = sorted(set().union(*world.exchange(sorted(set(own_modes)))))
    places = {name: number for number, name in enumerate(names)}
    table = np.zeros(len(mine), _ROW)
    for name in Facts.kinds():
        table[name] = getattr(decoder.facts, name)[mine]
    table["position"], table["mode_ids"] = mine, [places[mode] for mode in own_modes]
    table = world.gather_rows(table)
    facts = Facts.empty(n)
    for name in Facts.kinds():
        getattr(facts, name)[table["position"]] = table[name]
    own = set(mine.tolist())
    told = world.exchange([[i, reason] for i, reason in decoder.errors.items() if i in own])
    errors: dict[int, str] = dict(sorted((i, reason) for theirs in told for i, reason in theirs))
    return facts, [names[number] for number in facts.mode_ids.tolist()], errors


def _told(team: Team, reason: str, n: int) -> str:
    world = team.world
    if team.holders:
        return f"{n:,} decoded images copied from {' and '.join(world.describe(rank) for rank in team.holders)}"
    if reason:
        return f"each machine decoded most of the {n:,} images by itself: {reason}"
    return f"{n:,} images decoded by {world.size} ranks, each its part"
