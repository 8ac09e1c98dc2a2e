"""Two hosts on one machine: network namespaces joined by a link as fast, or as slow, as a real one.

Namespaces, a veth pair and a token bucket on each end (``ip netns``, ``tc``), so a process in one sees of the other
only what comes over the link. Needs Linux, root, iproute2 and the kernel's ``sch_tbf``.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import IO

INTERFACE = "veth0"
"""Name of the link's end in each namespace."""

LATENCY_MS = 50
"""How long a packet may wait at the end of the link before it is dropped: a switch with a deep buffer."""

LEAST_BURST = 131_072
"""Bytes of a bucket that still lets the kernel pass two TCP segments of 64 KiB in one piece."""

_PREFIX = "tintype"
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_numbers = itertools.count()


class HostsError(RuntimeError):
    """A namespace, the link or its speed could not be set up."""


@dataclass(frozen=True)
class Host:
    """A network namespace that plays a machine.

    Attributes:
        name: Of the namespace.
        address: IPv4, reached by the other host.
        interface: What ``GLOO_SOCKET_IFNAME`` must be.
    """

    name: str
    address: str
    interface: str = INTERFACE
    _started: list[subprocess.Popen[str]] = field(default_factory=list, repr=False, compare=False)

    def run(
        self,
        argv: Sequence[str],
        core: int | None = 0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program on this host, in a session of its own.

        Args:
            argv: The program and its arguments.
            core: The only CPU core that it and its children may use; None for all.
            env: Added to this process's environment, to which ``GLOO_SOCKET_IFNAME`` is added first.
            cwd: Its working folder.
            stdout: As for :class:`subprocess.Popen`; pipes are text.
            stderr: Likewise.
        """
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *pinned, *argv],
            env={**os.environ, "GLOO_SOCKET_IFNAME": self.interface, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def cut(self) -> None:
        """Pull the cable: nothing passes any more, and nobody is told."""
        _command("ip", "-n", self.name, "link", "set", self.interface, "down")

    def kill(self) -> None:
        """Kill everything that runs on this host, also what left the group it was started in, as torchrun's does."""
        while pids := _command("ip", "netns", "pids", self.name).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)
        for process in self._started:
            process.wait()

    def close(self) -> None:
        """Kill everything that runs on this host and close the pipes to it."""
        self.kill()
        for process in self._started:
            for pipe in filter(None, (process.stdout, process.stderr)):
                pipe.close()

    def counters(self) -> tuple[int, int]:
        """Bytes that the link's end has received and sent."""
        folder = f"/sys/class/net/{self.interface}/statistics"
        lines = _command("ip", "netns", "exec", self.name, "cat", f"{folder}/rx_bytes", f"{folder}/tx_bytes").split()
        return int(lines[0]), int(lines[1])


@contextmanager
def two_hosts(rate: str = "1gbit") -> Iterator[list[Host]]:
    """Two hosts joined by a link, gone at the end with everything that runs on them.

    Also gone after an exception, Ctrl-C or SIGTERM; what a SIGKILL leaves behind, the next call removes.

    Args:
        rate: Of the link in each direction, as ``1gbit`` or ``100mbit``.

    Yields:
        The host 10.77.0.1 and the host 10.77.0.2.

    Raises:
        HostsError: They cannot be made here.
    """
    burst = bucket_bytes(rate)
    _remove_leftovers()
    number = next(_numbers)
    hosts = [Host(f"{_PREFIX}-{os.getpid()}-{number}-{place}", f"10.77.0.{place + 1}") for place in range(2)]
    with _terminated_as_interrupt():
        try:
            for host in hosts:
                _command("ip", "netns", "add", host.name)
            _join(hosts)
            for host in hosts:
                _set_up(host, rate, burst)
            yield hosts
        finally:
            for host in hosts:
                _remove(host)


@cache
def why_no_hosts() -> str | None:
    """What keeps this machine from making hosts; None if it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    missing = [tool for tool in ("ip", "tc", "taskset") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    try:
        with two_hosts():
            return None
    except HostsError as error:
        return str(error)


def bucket_bytes(rate: str) -> int:
    """Bytes that may pass at once: 2 ms at the link's rate, so that a timer that fires late costs no speed.

    Raises:
        HostsError: The rate cannot be read.
    """
    return max(LEAST_BURST, int(0.002 * bits_per_second(rate) / 8))


def bits_per_second(rate: str) -> float:
    """A rate as ``tc`` writes it, in bits per second.

    Raises:
        HostsError: It cannot be read.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]bit)", rate)
    if match is None:
        raise HostsError(f"rate must be like 1gbit or 100mbit. Got {rate!r}.")
    return float(match[1]) * _UNITS[match[2]]


def _join(hosts: Sequence[Host]) -> None:
    first, second = (["name", INTERFACE, "netns", host.name] for host in hosts)
    _command("ip", "link", "add", *first, "type", "veth", "peer", *second)


def _set_up(host: Host, rate: str, burst: int) -> None:
    _command("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
    _command("ip", "-n", host.name, "link", "set", "lo", "up")
    _command("ip", "-n", host.name, "link", "set", host.interface, "up")
    bucket = ["rate", rate, "burst", str(burst), "latency", f"{LATENCY_MS}ms"]
    _command("tc", "-n", host.name, "qdisc", "add", "dev", host.interface, "root", "tbf", *bucket)


def _remove(host: Host) -> None:
    """Removing the namespace removes its end of the link, and with it the other end."""
    if host.name in _namespaces():
        host.close()
        _command("ip", "netns", "delete", host.name)


def _remove_leftovers() -> None:
    """Remove the hosts of processes that were killed before they could."""
    for name in _namespaces():
        match = re.fullmatch(rf"{_PREFIX}-(\d+)-\d+-\d", name)
        if match is not None and not Path("/proc", match[1]).exists():
            _remove(Host(name, ""))


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _command("ip", "netns", "list").splitlines() if line]


def _command(*argv: str) -> str:
    """Run a short command to its end. Ctrl-C does not reach it, so it is never left half done."""
    done = subprocess.run(argv, capture_output=True, text=True, start_new_session=True)
    if done.returncode != 0:
        raise HostsError(f"{' '.join(argv)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise, so that it goes through ``finally``; Python would end at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
