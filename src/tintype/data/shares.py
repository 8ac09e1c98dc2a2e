"""Rows that the ranks of a run make together, each its part, and that everybody who writes them gets.

What is made is sent while the next is being made. Between separate machines that pays as long as the link is not slower
than making everything oneself; the first few rows tell, and all ranks decide alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from tintype.data.team import Team

Span = tuple[int, int]
"""Rows from the first to before the second."""

Put = Callable[[int, NDArray[Any], Callable[[], bool]], None]
"""Hands over the rows of a span, given its number, from any thread; waits where much is unsent, unless told to stop."""

Make = Callable[[Sequence[Span], Put, Callable[[], None]], None]
"""Makes the rows of all spans and puts each; calls the last argument now and then, from the calling thread."""

Write = Callable[[int, NDArray[Any]], None]
"""Takes the rows that begin at a position."""

LEAST_SAVED = 1.0
"""Seconds that machines must save by going apart, or they stay together: what is shorter cannot be foretold."""

_TELL_SECONDS = 0.1


class ExchangeStopped(Exception):  # noqa: N818  (nothing went wrong here)
    """Another rank, or another thread, has failed; what is being made is not wanted any more."""


@dataclass(frozen=True)
class Rows:
    """Rows of equal length that are to be made.

    Attributes:
        shape: Of one row.
        dtype: Of its values.
        bounds: Rank r makes the rows from ``bounds[r]`` to ``bounds[r + 1]``, where nobody holds them.
        step: How many travel at once.
        ahead: How many such messages wait to be sent at most, and how many are made before the link is judged.
    """

    shape: tuple[int, ...]
    dtype: type[np.generic]
    bounds: tuple[int, ...]
    step: int
    ahead: int


@dataclass(frozen=True)
class Pace:
    """What some rows took.

    Attributes:
        made: For each rank, rows that it made.
        making: For each rank, the seconds.
        sending: Seconds of bringing all of them to those who write, on the slowest rank.
    """

    made: tuple[int, ...]
    making: tuple[float, ...]
    sending: float


def share_rows(team: Team, rows: Rows, make: Make, write: Write | None, on_rows: Callable[[int], None]) -> str:
    """Make rows on all ranks and bring them to those who write; collective.

    Memory does not grow with the number of rows: a rank holds ``ahead`` messages and one for each thread that makes
    them, a writer one more that comes in and what :meth:`tintype.data.rowfile.RowWriter.add` keeps.

    Args:
        team: The ranks. Where there are holders, these give all rows, in equal parts.
        rows: What is made.
        make: Makes this rank's rows.
        write: Takes rows at any position, each once; None where this rank does not write.
        on_rows: Told in the calling thread how many rows are written.

    Returns:
        Why each machine made most rows by itself, for people; empty where they were shared.

    Raises:
        TintypeError: What a rank raised, on all ranks; see :meth:`tintype.data.team.Team.together`.
    """
    world, everybody = team.world, [team.writers] * team.world.size
    told = world.exchange([rows.step, rows.ahead])
    rows = replace(rows, step=min(step for step, _ in told))
    exchange = _Exchange(team, rows, make, write, on_rows)
    bounds = _bounds_of_holders(rows.bounds[-1], team) if team.holders else rows.bounds
    spans = [cut(start, stop, rows.step) for start, stop in pairwise(bounds)]
    if team.holders or len(team.writers) == 1:
        exchange.run(spans, everybody)
        return ""
    tried = [ahead for _, ahead in told]
    pace = exchange.run([own[:count] for own, count in zip(spans, tried, strict=True)], everybody)
    rest = [own[count:] for own, count in zip(spans, tried, strict=True)]
    reason = why_apart(pace, rest, team.keepers)
    if reason:
        exchange.run(dealt(rest, team.keepers), [(keeper,) for keeper in team.keepers])
    else:
        exchange.run(rest, everybody)
    return reason


def _bounds_of_holders(count: int, team: Team) -> tuple[int, ...]:
    """Where each rank's part begins, and the end, when holders alone give rows."""
    before = [sum(holder < rank for holder in team.holders) for rank in range(team.world.size + 1)]
    return tuple(count * number // len(team.holders) for number in before)


def cut(start: int, stop: int, step: int) -> list[Span]:
    """The rows from ``start`` to before ``stop`` in spans of ``step`` at most."""
    return [(first, min(first + step, stop)) for first in range(start, stop, step)]


def dealt(rest: Sequence[Sequence[Span]], keepers: Sequence[int]) -> list[list[Span]]:
    """All spans once for each keeper, in contiguous parts to the ranks that it writes for."""
    everything = [span for own in rest for span in own]
    parts: list[list[Span]] = []
    for rank, keeper in enumerate(keepers):
        peers = [other for other, theirs in enumerate(keepers) if theirs == keeper]
        place, count = peers.index(rank), len(everything)
        parts.append(everything[count * place // len(peers) : count * (place + 1) // len(peers)])
    return parts


def why_apart(pace: Pace, rest: Sequence[Sequence[Span]], keepers: Sequence[int]) -> str:
    """Why the ranks of each keeper should make the rest by themselves; empty where sharing is faster.

    Shared, it takes as long as the slowest rank needs for its part or the link for all; apart, as long as the slowest
    group needs for everything.

    Args:
        pace: What the first rows took.
        rest: For each rank the spans that it would make.
        keepers: For each rank the one that writes for it.
    """
    left = [sum(stop - start for start, stop in own) for own in rest]
    if not sum(left) or not all(pace.made):
        return ""
    per_second = [made / max(seconds, 1e-9) for made, seconds in zip(pace.made, pace.making, strict=True)]
    link = pace.sending * sum(left) / sum(pace.made)
    shared = max(link, *(count / rate for count, rate in zip(left, per_second, strict=True)))
    groups = [sum(rate for rate, theirs in zip(per_second, keepers, strict=True) if theirs == k) for k in set(keepers)]
    apart = sum(left) / min(groups)
    if shared - apart < LEAST_SAVED:
        return ""
    return f"the link would need {link:.0f} s for the rest, the slowest machine {apart:.0f} s"


class _Outbox:
    """Messages that were made, in any order, and are sent in theirs; at most ``ahead`` beyond the one that is next."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._made: dict[int, NDArray[Any]] = {}
        self._next = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, number: int, rows: NDArray[Any], is_stopped: Callable[[], bool]) -> None:
        """Hand over a message.

        Raises:
            ExchangeStopped: It is not wanted any more.
        """
        with self._changed:
            while number >= self._next + self._ahead and not (self._is_closed or is_stopped()):
                self._changed.wait(_TELL_SECONDS)
            if self._is_closed or is_stopped():
                raise ExchangeStopped
            self._made[number] = rows
            self._changed.notify_all()

    def take(self, number: int) -> NDArray[Any] | None:
        """The next message, once it is made; None after :meth:`close`."""
        with self._changed:
            self._changed.wait_for(lambda: number in self._made or self._is_closed)
            if self._is_closed:
                return None
            self._next = number + 1
            self._changed.notify_all()
            return self._made.pop(number)

    def close(self) -> None:
        """Nothing more is wanted, or nothing more will come."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class _Exchange:
    """Sends and receives while rows are being made."""

    def __init__(self, team: Team, rows: Rows, make: Make, write: Write | None, on_rows: Callable[[int], None]) -> None:
        self._team = team
        self._world = team.world
        self._rows = rows
        self._make = make
        self._write = write
        self._on_rows = on_rows
        keeper = team.keepers[team.world.rank]
        self._watched = keeper if keeper in team.writers else team.writers[0]
        self._done = 0
        self._sending = 0.0
        self._failure: Exception | None = None

    def run(self, spans: Sequence[Sequence[Span]], takers: Sequence[Sequence[int]]) -> Pace:
        """Make and exchange the spans of every rank; collective.

        Args:
            spans: For each rank what it makes, in order.
            takers: For each rank the ranks that get it.
        """
        self._sending = 0.0
        making = self._team.together(lambda: self._run(spans, takers))
        told = self._world.exchange([making, self._sending])
        made = tuple(sum(stop - start for start, stop in own) for own in spans)
        return Pace(made, tuple(seconds for seconds, _ in told), max(seconds for _, seconds in told))

    def _run(self, spans: Sequence[Sequence[Span]], takers: Sequence[Sequence[int]]) -> float:
        """Make this rank's spans while a thread exchanges all; gives the seconds that the making took."""
        outbox, start, making = _Outbox(self._rows.ahead), time.monotonic(), 0.0
        with ThreadPoolExecutor(1, thread_name_prefix="tintype-exchange") as pool:
            exchanging = pool.submit(self._exchange, outbox, spans, takers)
            try:
                self._make(spans[self._world.rank], outbox.put, lambda: self._on_rows(self._done))
                making = time.monotonic() - start
                while wait([exchanging], _TELL_SECONDS).not_done:
                    self._on_rows(self._done)
            except ExchangeStopped:  # whoever failed says why
                pass
            except BaseException:
                outbox.close()  # the others are told in the next round
                raise
            exchanging.result()
        self._on_rows(self._done)
        return making

    def _exchange(self, outbox: _Outbox, spans: Sequence[Sequence[Span]], takers: Sequence[Sequence[int]]) -> None:
        """A message of every rank a round, until all are sent or a rank has failed; all leave after the same round."""
        own, rounds = spans[self._world.rank], max(len(theirs) for theirs in spans)
        try:
            for number in range(rounds):
                message = outbox.take(number) if number < len(own) else None
                is_lost = message is None and number < len(own)
                if self._world.any(is_lost or self._failure is not None)[0]:
                    break
                self._pass_on(number, message, spans, takers)
        finally:
            outbox.close()
        if self._failure is not None:
            raise self._failure

    def _pass_on(
        self,
        number: int,
        message: NDArray[Any] | None,
        spans: Sequence[Sequence[Span]],
        takers: Sequence[Sequence[int]],
    ) -> None:
        """Send this rank's message of a round and take those of the others, one after the other."""
        rank, group, start, writing = self._world.rank, self._world.group, time.monotonic(), 0.0
        sends = []
        if message is not None:
            sends = [dist.isend(_bytes_of(message), taker, group=group) for taker in takers[rank] if taker != rank]
        for giver, theirs in enumerate(spans):
            if number >= len(theirs):
                continue
            first, stop = theirs[number]
            self._done += stop - first if self._watched in takers[giver] else 0
            if rank not in takers[giver]:
                continue
            if giver == rank:
                assert message is not None
                rows = message
            else:
                rows = np.empty((stop - first, *self._rows.shape), self._rows.dtype)
                dist.recv(_bytes_of(rows), giver, group=group)
            began = time.monotonic()
            self._keep(first, rows)
            writing += time.monotonic() - began
        for send in sends:
            assert send is not None
            send.wait()
        self._sending += time.monotonic() - start - writing

    def _keep(self, first: int, rows: NDArray[Any]) -> None:
        """Write rows; a failure is told in the next round, since the others have messages under way in this one."""
        assert self._write is not None
        if self._failure is None:
            try:
                self._write(first, rows)
            except Exception as error:
                self._failure = error


def _bytes_of(rows: NDArray[Any]) -> torch.Tensor:
    """The rows' memory, as gloo sends it whatever their type."""
    return torch.from_numpy(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))
