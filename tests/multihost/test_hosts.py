"""The rig itself: the hosts reach one another at the link's speed and no other way, and nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from multihost.hosts import Host, HostsError, bits_per_second, bucket_bytes, two_hosts, why_no_hosts

pytestmark = pytest.mark.multihost

RECEIVE = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 5000))
print("listening", flush=True)
connection, _ = server.accept()
left, buffer = int(sys.argv[2]), bytearray(1 << 20)
left -= connection.recv_into(buffer)
started = time.perf_counter()
counted = left
while left > 0:
    got = connection.recv_into(buffer)
    if not got:
        sys.exit("the sender hung up")
    left -= got
print(counted / (time.perf_counter() - started))
"""

SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000), timeout=20) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""


@pytest.fixture(autouse=True)
def _hosts_can_be_made() -> None:
    if reason := why_no_hosts():
        pytest.skip(reason)


def transfer(sender: Host, receiver: Host, count: int) -> float:
    """Bytes per second of one TCP connection that carries ``count`` bytes."""
    there = receiver.run([sys.executable, "-c", RECEIVE, receiver.address, str(count)], core=0, stdout=subprocess.PIPE)
    assert there.stdout is not None
    assert there.stdout.readline() == "listening\n"
    here = sender.run([sys.executable, "-c", SEND, receiver.address, str(count)], core=1 % (os.cpu_count() or 1))
    output, _ = there.communicate(timeout=60)
    assert here.wait(timeout=10) == 0
    return float(output)


def namespaces_of(pid: int) -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"tintype-{pid}-*")]


@pytest.mark.parametrize("rate", ["1gbit", "100mbit"])
@pytest.mark.parametrize("direction", [1, -1])
def test_tcp_gets_the_rate_of_the_link_in_each_direction(rate: str, direction: int) -> None:
    with two_hosts(rate) as hosts:
        sender, receiver = hosts[::direction]
        nominal = bits_per_second(rate) / 8
        reached = transfer(sender, receiver, int(nominal * 0.6))
    assert 0.85 * nominal < reached < 1.15 * nominal


def test_the_link_counts_what_passes() -> None:
    with two_hosts() as (first, second):
        before = first.counters()
        transfer(first, second, 1_000_000)
        received, sent = (after - then for after, then in zip(first.counters(), before, strict=True))
        assert 1_000_000 < sent < 1_100_000
        assert received < 100_000
        assert second.counters()[0] == first.counters()[1]


def test_a_cut_link_carries_nothing() -> None:
    with two_hosts() as (first, second):
        first.cut()
        attempt = second.run([sys.executable, "-c", SEND, first.address, "1"], stderr=subprocess.PIPE)
        _, stderr = attempt.communicate(timeout=30)
    assert attempt.returncode != 0
    assert "Error" in stderr


def test_a_program_gets_its_core_its_environment_and_a_session_of_its_own(tmp_path: Path) -> None:
    tell = (
        "import os; print(os.sched_getaffinity(0), os.environ['GLOO_SOCKET_IFNAME'], os.environ['WORD'], os.getcwd())"
    )
    core = max(os.sched_getaffinity(0))
    with two_hosts() as (first, _):
        argv = [sys.executable, "-c", tell + "; print(os.getsid(0))"]
        process = first.run(argv, core=core, env={"WORD": "yes"}, cwd=tmp_path, stdout=subprocess.PIPE)
        output, _ = process.communicate(timeout=10)
    assert output == f"{{{core}}} {first.interface} yes {tmp_path}\n{process.pid}\n"


def test_the_end_kills_also_what_left_its_group() -> None:
    fork = "import subprocess, time; child = subprocess.Popen(['sleep', '300'], start_new_session=True); "
    fork += "print(child.pid, flush=True); time.sleep(300)"
    with two_hosts() as (first, _):
        process = first.run([sys.executable, "-c", fork], stdout=subprocess.PIPE)
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert Path("/proc", str(child)).exists()
    assert process.returncode == -signal.SIGKILL
    assert not _lives(child)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_the_hosts_of_a_process_that_was_killed(number: signal.Signals) -> None:
    hold = "import signal, time\nfrom multihost.hosts import two_hosts\n"
    # A shell that starts the tests in the background lets them, and all that they start, ignore SIGINT.
    hold += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    hold += (
        "with two_hosts() as (first, _):\n    print(first.run(['sleep', '300']).pid, flush=True)\n    time.sleep(300)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    holder = subprocess.Popen(
        [sys.executable, "-c", hold], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert holder.stdout is not None
    sleeper = int(holder.stdout.readline())
    assert len(namespaces_of(holder.pid)) == 2
    holder.send_signal(number)
    holder.stdout.close()
    holder.wait(timeout=20)
    if number is signal.SIGKILL:  # nobody can clean up behind that one but the next who makes hosts
        with two_hosts():
            pass
    assert namespaces_of(holder.pid) == []
    assert not _lives(sleeper)


def test_an_unreadable_rate_is_refused_before_anything_is_made() -> None:
    with pytest.raises(HostsError, match="rate must be like 1gbit"), two_hosts("fast"):
        pass
    assert namespaces_of(os.getpid()) == []


def test_the_bucket_grows_with_the_rate() -> None:
    assert bucket_bytes("10gbit") == 2_500_000
    assert bucket_bytes("100mbit") == 131_072


def _lives(pid: int) -> bool:
    """Whether a process still runs; a killed one may stay a zombie until init has taken note."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path("/proc", str(pid), "stat").read_text(encoding="ascii").rsplit(") ", 1)[1][0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True
