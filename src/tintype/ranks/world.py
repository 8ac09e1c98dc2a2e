"""The processes of one run, and what they tell each other.

A run by a single process has a world of one, in which every exchange is free; no caller asks which it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from tintype.errors import RankError, TintypeError

Number = TypeVar("Number", bound=np.generic)

_CHUNK_BYTES = 8 * 2**20
"""What is sent at once: large enough to fill a link, small enough that nothing is held twice."""


@dataclass(frozen=True)
class World:
    """The ranks of a run, seen from one of them.

    Every method but the properties and :meth:`part` is collective: all ranks call it, in the same order.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        local_rank: Number among the processes of this machine, which names its GPU.
        local_size: How many processes this machine has; they share its cores.
        hosts: The machine of each rank; one entry for a single process.
        writer: The rank that writes the run directory: rank 0, or after a restart the one that has the checkpoint.
        attempt: How often torchrun has started the processes anew, after one of them had died.
        group: The gloo group of the exchanges below, apart from that of the gradients; None in a world of one.
        gradients: The group that sums gradients; None for that of all processes. A world of one that has one sends its
            gradients to itself, by which is measured what a rank does without the others (:mod:`tintype.ranks.parts`).
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    hosts: tuple[str, ...] = ("",)
    writer: int = 0
    attempt: int = 0
    group: dist.ProcessGroup | None = None
    gradients: dist.ProcessGroup | None = None

    @property
    def is_alone(self) -> bool:
        """True for a single process."""
        return self.size == 1

    @property
    def is_writer(self) -> bool:
        """True for the process that writes the run directory."""
        return self.rank == self.writer

    def part(self, count: int, rank: int | None = None) -> slice:
        """The contiguous share of ``count`` things of a rank (None: this one); shares differ by one at most."""
        number = self.rank if rank is None else rank
        return slice(count * number // self.size, count * (number + 1) // self.size)

    def largest_part(self, count: int) -> int:
        """Things of the rank that has the most of ``count``."""
        return largest_part(count, self.size)

    def describe(self, rank: int) -> str:
        """A rank for people: ``rank 1 on node-b``."""
        return f"rank {rank} on {self.hosts[rank]}"

    def exchange(self, content: Any) -> list[Any]:
        """What every rank gives, in the order of the ranks; anything that JSON can hold."""
        if self.is_alone:
            return [content]
        mine = torch.from_numpy(np.frombuffer(json.dumps(content).encode(), np.uint8).copy())
        return [json.loads(text.tobytes()) for text in self._gather(mine)]

    def agree(self, content: Any) -> Any:
        """What the writer gives; what the others give is dropped."""
        return self.exchange(content if self.is_writer else None)[self.writer]

    def ask_writer(self, work: Callable[[], Any]) -> Any:
        """What ``work`` gives on the writer, on every rank; the others do not call it.

        Args:
            work: Gives anything that JSON can hold.

        Raises:
            TintypeError: The writer's, on every rank with the same line, so that none waits for it.
        """
        if self.is_alone:
            return work()
        answer, failure = None, None
        if self.is_writer:
            try:
                answer = work()
            except TintypeError as error:
                failure = error
        told = self.agree({"answer": answer, "error": None if failure is None else str(failure)})
        if failure is not None:
            raise failure
        if told["error"] is not None:
            raise RankError(told["error"])
        return told["answer"]

    def gather_rows(self, rows: NDArray[Number]) -> NDArray[Number]:
        """The rows of all ranks one after the other, (n_0 + n_1 + ..., ...), on every rank.

        Args:
            rows: (n, ...) of this rank; n may differ from rank to rank, dtype and the other axes may not.
        """
        if self.is_alone:
            return rows
        mine = torch.from_numpy(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))
        parts = [part.view(rows.dtype).reshape(-1, *rows.shape[1:]) for part in self._gather(mine)]
        return np.concatenate(parts)

    def share_bytes(self, content: bytes | None, source: int | None = None) -> bytes:
        """The bytes that one rank gives, on every rank.

        Args:
            content: From ``source``; not looked at on other ranks.
            source: The rank that gives them; None for the writer.
        """
        if self.is_alone:
            assert content is not None
            return content
        giver = self.writer if source is None else source
        length = torch.tensor([len(content or b"")])
        dist.broadcast(length, giver, group=self.group)
        buffer = torch.empty(int(length.item()), dtype=torch.uint8)
        if self.rank == giver and content:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        for start in range(0, len(buffer), _CHUNK_BYTES):
            dist.broadcast(buffer[start : start + _CHUNK_BYTES], giver, group=self.group)
        return buffer.numpy().tobytes()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Which of these are true on any rank; costs one message that is as long as the flags are many."""
        if self.is_alone:
            return flags
        raised = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(raised, dist.ReduceOp.MAX, group=self.group)
        return tuple(bool(flag) for flag in raised.tolist())

    def add_up(self, *values: float) -> tuple[float, ...]:
        """The sums over all ranks."""
        if self.is_alone:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        return tuple(sums.tolist())

    def collect_bytes(self, content: bytes) -> list[bytes]:
        """The bytes that each rank gives, on the writer; nothing on the others, through whom they pass all the same."""
        found = [self.share_bytes(content if rank == self.rank else None, source=rank) for rank in range(self.size)]
        return found if self.is_writer else []

    def wait(self) -> None:
        """Go on when every rank has come here."""
        if not self.is_alone:
            dist.barrier(group=self.group)

    def _gather(self, mine: torch.Tensor) -> list[NDArray[np.uint8]]:
        """One-dimensional uint8 tensors of any lengths, of all ranks."""
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(mine)]), group=self.group)
        longest = max(int(length.item()) for length in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.group)
        return [part[: int(length.item())].numpy() for part, length in zip(parts, lengths, strict=True)]


def largest_part(count: int, ranks: int) -> int:
    """Things of the rank that has the most, where so many ranks share ``count``."""
    return -(-count // ranks)


ALONE = World()
"""The world of a run by a single process."""
