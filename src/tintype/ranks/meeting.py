"""Where the processes of one attempt find one another: through the store that the launcher keeps for them.

The store outlives the processes, so it still holds what those of earlier attempts have left there. Gloo keeps its
addresses in it, and a rank that is started anew a little before another reads that one's old address and is refused
(torch 2.15, in every mode of torchrun). What an attempt says therefore stands under a name that only its own processes
have, and that they agree upon first.

Which modes of torchrun keep such a store (``TORCHELASTIC_USE_AGENT_STORE``):

- ``static``, the default: the torchrun of node 0 keeps it, for as long as it lives.
- ``--rdzv-backend c10d``, also ``--standalone``: the torchrun that was first in the first rendezvous keeps it, for as
  long as it lives. Where that one is replaced by another, torch tells the others nothing of the new store.
- ``--rdzv-backend etcd`` and ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``: none; rank 0 would keep it, and take it along.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from uuid import uuid4

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # not in its __all__

from tintype.errors import RankError

COMING_SECONDS = 600.0
"""How long the first rank waits for the last: as long as torchrun's machines wait for one another."""

CONNECT_SECONDS = 5.0
"""How long a connection to the store may take; one that is up answers within milliseconds."""

_LOOK_SECONDS = 0.02
_PREFIX = "tintype"


@dataclass(frozen=True)
class Meeting:
    """The processes of one attempt.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        hosts: The machine of each rank.
        name: Of the attempt; the same on all ranks, and no other attempt has it.
    """

    rank: int
    size: int
    hosts: tuple[str, ...]
    name: str

    def store(self, timeout: timedelta) -> Store:
        """A connection of its own to the launcher's store, in which nobody else has written.

        Args:
            timeout: How long reading may wait for what is not there yet.

        Raises:
            ConnectionError: The store does not answer.
        """
        store = connect()
        store.set_timeout(timeout)
        return PrefixStore(f"{_PREFIX}/attempt/{self.name}", store)


def keeps_store() -> bool:
    """True in a process whose launcher keeps the store; the modes are listed above."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def connect(seconds: float = CONNECT_SECONDS) -> TCPStore:
    """Connect to the launcher's store.

    Raises:
        ConnectionError: It does not answer.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        socket.create_connection((address, port), seconds).close()  # torch tries, and warns, until the time is over
        return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=seconds))
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"the launcher's store at {address}:{port} does not answer ({error})") from error


def meet(limit_seconds: float = COMING_SECONDS) -> Meeting:
    """Wait until all ranks of this attempt are here.

    Each rank leaves a sign of its own, reads those of all and counts itself under the name that they make together. A
    sign of an earlier attempt belongs to a process that has ended, which never counts itself under a name made with a
    later sign; so a name is counted by all ranks only if all its signs are of this attempt.

    Raises:
        RankError: The launcher keeps no store, it does not answer, or a rank has not come in time.
    """
    if not keeps_store():
        raise RankError(
            "torchrun keeps no store for its workers, so that none of them could be started anew. "
            "Use --rdzv-backend=c10d or static, and unset TORCH_DISABLE_SHARE_RDZV_TCP_STORE."
        )
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        signs = _agree(PrefixStore(f"{_PREFIX}/meeting", connect()), rank, size, limit_seconds)
    except (ConnectionError, RuntimeError) as error:
        raise RankError(f"{error}. The torchrun of the first machine has ended, or cannot be reached.") from error
    return Meeting(rank, size, tuple(json.loads(sign)[1] for sign in signs), _name(signs))


def _agree(store: Store, rank: int, size: int, limit_seconds: float) -> list[bytes]:
    """The signs of all ranks, once all have read the same."""
    keys = [f"sign/{number}" for number in range(size)]
    store.set(keys[rank], json.dumps([uuid4().hex, socket.gethostname()]))
    counted = set()
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        if store.check(keys):
            signs = store.multi_get(keys)
            name = _name(signs)
            if name not in counted:
                counted.add(name)
                store.add(f"count/{name}", 1)
            if store.add(f"count/{name}", 0) == size:
                return signs
        time.sleep(_LOOK_SECONDS)
    missing = [number for number in range(size) if not store.check([keys[number]])]
    who = ", ".join(f"rank {number}" for number in missing) or "a rank that was to be started anew"
    raise RankError(f"{who} has not come within {limit_seconds:.0f} s. See what its machine says.")


def _name(signs: Sequence[bytes]) -> str:
    return sha256(b" ".join(signs)).hexdigest()[:16]
