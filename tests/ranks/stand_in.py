"""Stands in for ``tintype train`` under a launcher: ``stand_in.py FOLDER WHAT``.

Ranks that meet and add up a number; then

- ``stay``: wait;
- ``freeze``: in the first attempt rank 1 is stopped;
- ``die and err``: in the first attempt all tell who listens, and rank 1 is killed; in the second, all make a mistake.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tintype.ranks import outcome
from tintype.ranks.alive import PEER_LOST, Heartbeat
from tintype.ranks.meeting import meet

LONG = timedelta(days=1)


def listening(pid: int) -> list[str]:
    """Addresses, as the kernel writes them, at which a process takes connections."""
    inodes = {os.path.realpath(link).rsplit("/", 1)[-1] for link in Path(f"/proc/{pid}/fd").iterdir()}
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


def add_up(number: int) -> int:
    """The sum over all ranks; the end of this process where one is gone."""
    total = torch.tensor([number])
    try:
        dist.all_reduce(total)
    except RuntimeError:
        os._exit(PEER_LOST)
    return int(total.item())


def main(folder: Path, what: str) -> None:
    rank, is_first = int(os.environ["RANK"]), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    (folder / f"pid{rank}-{os.environ['TORCHELASTIC_RESTART_COUNT']}").write_text(str(os.getpid()))
    if (code := outcome.ended_before()) is not None:
        sys.exit(code)
    if rank == 1 and not is_first:
        time.sleep(0.3)  # until rank 0 has read what the attempt before has left
    meeting = meet()
    heartbeat = Heartbeat(meeting, 3.0)
    heartbeat.start()
    store = meeting.store(LONG)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=meeting.size, timeout=LONG)
    assert add_up(rank + 1) == 3
    outcome.remember(outcome.RUN, str(folder))
    if what == "stay":
        (folder / f"ready{rank}").write_text("yes")
        time.sleep(100)
    elif what == "freeze" and is_first:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        add_up(1)
    elif what == "die and err" and is_first:
        if sys.platform == "linux":
            (folder / f"listening{rank}").write_text("\n".join(listening(os.getpid())))
            (folder / f"listening of launcher{rank}").write_text("\n".join(listening(os.getppid())))
        add_up(1)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        add_up(1)
    elif what == "die and err":
        (folder / "run").write_text(outcome.recall(outcome.RUN) or "")
        outcome.note_end(2)
        outcome.tell_once("no such folder")
        sys.exit(2)
    heartbeat.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
