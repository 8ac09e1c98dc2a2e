"""``tintype train DATA --workers 2``: the ranks of one machine, started and watched by torchrun's own agent.

What is ours is how it looks from the terminal: nothing listens but on the loopback, the workers alone speak, Ctrl-C
stops them after a step, a mistake is made once, and a crash is one line.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, ProcessFailure, SignalException
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from tintype.ranks.alive import PEER_LOST
from tintype.ranks.outcome import END, RUN, recall_from, say
from tintype.ranks.torchrun import usable_cores

MISTAKEN = 2
"""Exit code after a mistake of the user's, which the workers have told."""
STOPPED = 130
"""Exit code of a run that the user has stopped."""

STOP_SECONDS = 600
"""How long the workers may take to end a step and save a checkpoint. Whoever waits at the terminal ends it by a second
Ctrl-C; a scheduler that has sent SIGTERM has a limit of its own."""

_LOOPBACK = "127.0.0.1"
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_KILL_SECONDS = 5
_AGENT_WAITS_SECONDS = 5
"""What the agent kills, it kills 30 s after its SIGTERM; whatever else kills a rank does so before."""
_STORE_SECONDS = 60


def launch_workers(arguments: Sequence[str], workers: int, max_restarts: int = 3) -> int:
    """Run ``tintype ARGUMENTS`` in several processes that train one network together, and wait for them.

    Args:
        arguments: Of the command line, without the program's name and without ``--workers``.
        workers: How many processes.
        max_restarts: How often all are started anew after one has died.

    Returns:
        The exit code for the user: 0; 2 after a mistake and 130 after a stop, which the workers have told; after a
        crash that of the worker (128 and the signal's number if it was killed), with one line on stderr.
    """
    # -P: as for the command `tintype`, no module is taken from the folder that it is called in.
    return launch_program([sys.executable, "-P", "-m", "tintype", *arguments], workers, max_restarts)


def launch_program(program: Sequence[str], workers: int, max_restarts: int = 3) -> int:
    """Run a program as :func:`launch_workers` runs tintype.

    Args:
        program: The executable and its arguments.
        workers: How many processes.
        max_restarts: How often all are started anew after one has died.
    """
    with _unlogged(), _handlers_restored(), _environment(_for_workers(workers)):
        store = store_on_loopback()
        rendezvous = StaticTCPRendezvous(_LOOPBACK, store.port, 0, 1, uuid4().hex, _STORE_SECONDS)
        specification = WorkerSpec(
            role="tintype",
            local_world_size=workers,
            rdzv_handler=rendezvous,
            entrypoint=program[0],
            args=tuple(argument.replace("$", "$$") for argument in program[1:]),  # torch fills in ${local_rank}
            max_restarts=max_restarts,
        )
        agent = _Agent(specification, store)
        try:
            result = agent.run()
        except _EndedForGood as end:
            return end.code
        except SignalException as stop:
            return STOPPED if stop.sigval in (signal.SIGINT, signal.SIGTERM) else 128 + stop.sigval
        if not result.is_failed():
            return 0
        return _tell_crash(result.failures, max_restarts, recall_from(store, RUN))


class _EndedForGood(Exception):  # noqa: N818  (an end that the workers have told)
    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class _Agent(LocalElasticAgent):
    """torchrun's agent, which starts nobody anew after a user's mistake, and ends at once at a second Ctrl-C."""

    def __init__(self, specification: WorkerSpec, store: TCPStore) -> None:
        super().__init__(specification, DefaultLogsSpecs(log_dir=os.devnull), shutdown_timeout=STOP_SECONDS)
        self._server = store
        self._attempts_left = specification.max_restarts

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            rank, failure = _first_cause(result.failures)
            code = int(recall_from(self._server, END) or failure.exitcode)
            if code in (MISTAKEN, STOPPED):
                raise _EndedForGood(code)
            if self._attempts_left > 0:
                self._attempts_left -= 1
                say(f"tintype: rank {rank} {_describe(failure.exitcode)}; all ranks are started anew.")
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        try:
            super()._shutdown(death_sig, timeout)
        except SignalException:
            super()._shutdown(signal.SIGKILL, _KILL_SECONDS)
            raise


def store_on_loopback() -> TCPStore:
    """The store that agent and workers share; torch's own would listen on every interface.

    A second TCPStore of this process on the same port, as the rendezvous makes one, uses this one's server.
    """
    listener = socket.create_server((_LOOPBACK, 0))
    port = listener.getsockname()[1]
    return TCPStore(
        _LOOPBACK, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
    )


def _for_workers(workers: int) -> dict[str, str]:
    """Environment of the workers: gloo and NCCL on the loopback, the cores shared out, no stack traces of the store."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    return {
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, usable_cores() // workers))),
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }


def _tell_crash(failures: Mapping[int, ProcessFailure], max_restarts: int, run: str | None) -> int:
    """One line about the rank that failed first, and the exit code for it."""
    rank, failure = _first_cause(failures)
    line = f"tintype: rank {rank} {_describe(failure.exitcode)}"
    if max_restarts > 0:
        line += f"; all ranks had been started anew {max_restarts} times before"
    line += "."
    if run is not None:
        log = Path(run) / f"rank{rank}.log"
        line += f" See {log}." if log.is_file() else ""
        line += f" `tintype train --resume {run}` goes on."
    say(line)
    return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode


def _first_cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The rank that the others have followed: neither one that missed another nor one that the agent has ended."""
    first = min(failure.timestamp for failure in failures.values())

    def followed(failure: ProcessFailure) -> int:
        if failure.exitcode == -signal.SIGKILL and failure.timestamp - first > _AGENT_WAITS_SECONDS:
            return 2
        return {PEER_LOST: 1, STOPPED: 2, -signal.SIGTERM: 2}.get(failure.exitcode, 0)

    return min(failures.items(), key=lambda item: (followed(item[1]), item[1].timestamp, item[0]))


def _describe(code: int) -> str:
    """What an exit code says of a process, as torch gives it: negative for a signal."""
    if code == PEER_LOST:
        return "has lost another rank"
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", as Linux does when memory runs out" if code == -signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the workers inherit, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Put back the signal handlers that the agent replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep torch's log of starts and stops off the terminal; what matters is said in a line of our own."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
