"""The server against LitServe and plain FastAPI handlers: answers a second and latencies at 32 clients on loopback.

`python benchmarks/serving.py --export RUN/export --images DIR` starts one server after the other, several rounds, on
the same cores as the load generator (`load.py`), and writes `results/serving-DAY.jsonl` and a section of RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import environments
import machine
from results import write_section

from tintype import __version__

HERE = Path(__file__).resolve().parent
READY_SECONDS = 120.0


@dataclass(frozen=True)
class Contender:
    """A server.

    Attributes:
        title: For the table.
        environment: Whose Python runs it.
        command: Behind the Python; {port}, {export} and {classes} are put in.
        form: How it wants its images, see ``load.py``.
    """

    title: str
    environment: str
    command: tuple[str, ...]
    form: str = "form"


def _peer(script: str, *arguments: str) -> tuple[str, ...]:
    return (str(HERE / "peers" / script), "--port", "{port}", "--classes", "{classes}", *arguments)


OURS = "tintype"
SERVE = ("-m", "tintype", "serve", "{export}", "--port", "{port}")
CONTENDERS = {
    OURS: Contender("tintype serve", "tintype", SERVE),
    "tintype-int8": Contender("tintype serve --int8", "tintype", (*SERVE, "--int8")),
    "onnx": Contender(
        "FastAPI handler, same ONNX file", "litserve", _peer("litserve_fastapi.py", "--onnx", "{export}/model.onnx")
    ),
    "fastapi": Contender("FastAPI handler, eager torch", "litserve", _peer("litserve_fastapi.py")),
    "litserve": Contender("LitServe, eager torch", "litserve", _peer("litserve_torch.py"), "json"),
    "litserve-batch": Contender(
        "LitServe, eager torch, batches of 8", "litserve", _peer("litserve_torch.py", "--batch", "8"), "json"
    ),
    "litserve-workers": Contender(
        "LitServe, eager torch, two workers, fast queue", "litserve",
        _peer("litserve_torch.py", "--workers", "2", "--fast-queue"), "json",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """One server under load.

    Attributes:
        contender: Key of :data:`CONTENDERS`.
        number: Of the round.
        clients: At a time.
        answers: In the measured time.
        per_second: Answers a second.
        p50: Milliseconds from sending a request to its whole answer, median.
        p99: Likewise, 99 of 100 were faster.
        resident_mib: Of all its processes together, at the end.
    """

    contender: str
    number: int
    clients: int
    answers: int
    per_second: float
    p50: float
    p99: float
    resident_mib: float


def main() -> int:
    """Measure what was asked for and write it down."""
    arguments = _arguments()
    turns = []
    for number in range(arguments.rounds):
        # Each round begins with the next one, so that none always comes first.
        order = arguments.only[number % len(arguments.only) :] + arguments.only[: number % len(arguments.only)]
        for name in order:
            turns.append(_turn(arguments, name, number))
    _write(arguments, turns)
    return 0


def _turn(arguments: argparse.Namespace, name: str, number: int) -> Turn:
    contender = CONTENDERS[name]
    with _serving(arguments, contender) as (port, process):
        command = [
            sys.executable, str(HERE / "load.py"), "--port", str(port), "--form", contender.form, "--images",
            str(arguments.images), "--clients", str(arguments.clients), "--seconds", str(arguments.seconds),
        ]  # fmt: skip
        loaded = subprocess.run(command, capture_output=True, text=True, check=False)
        if loaded.returncode:
            sys.exit(f"{name} failed: {loaded.stderr[-2000:]}")
        turn = Turn(name, number, arguments.clients, resident_mib=_resident(process.pid), **json.loads(loaded.stdout))
    print(
        f"round {number}, {name}: {turn.per_second:.1f}/s, p50 {turn.p50:.0f} ms, p99 {turn.p99:.0f} ms",
        file=sys.stderr,
    )
    return turn


@contextmanager
def _serving(arguments: argparse.Namespace, contender: Contender) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server that answers, in a session of its own; stopped with all that it started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    values = {"port": port, "export": arguments.export, "classes": arguments.classes}
    command = [
        environments.python_of(contender.environment, {}),
        *(part.format(**values) for part in contender.command),
    ]
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as output:
        variables = environments.environment_variables(Path(scratch))
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
        try:
            _wait_until_ready(port, process)
            yield port, process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            time.sleep(2.0)  # LitServe listens before its workers are up
            return
    sys.exit(f"{process.args!r} does not answer.")


def _resident(leader: int) -> float:
    """MiB of all processes of a session."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getsid(int(status.parent.name)) == leader:
                lines = status.read_text(encoding="utf-8").splitlines()
                total += next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
        except (OSError, ValueError):
            continue  # it has just ended
    return total / 1024


def _write(arguments: argparse.Namespace, turns: Sequence[Turn]) -> None:
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = arguments.output / "results" / f"serving-{day}.jsonl"
    rows.parent.mkdir(parents=True, exist_ok=True)
    with rows.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(turn)) + "\n" for turn in turns)
    heading = f"{day}, serving, {machine.processor()}"
    lines = section(heading, turns)
    write_section(arguments.output, heading, "\n".join(lines))
    print("\n".join(lines))


def section(heading: str, turns: Sequence[Turn]) -> list[str]:
    """The section of RESULTS.md: a line for each contender, medians over the rounds."""
    groups: dict[str, list[Turn]] = {}
    for turn in turns:
        groups.setdefault(turn.contender, []).append(turn)
    ours = {turn.number: turn for turn in groups.get(OURS, [])}
    cores = os.cpu_count() or 1
    lines = [
        f"## {heading}", "",
        f"`benchmarks/serving.py`, tintype {__version__}, {cores} cores shared by server and clients, "
        f"{turns[0].clients} clients that each send one photo at a time over a kept connection. Medians over the "
        "rounds (lowest to highest); the ratio is the median of tintype's answers a second over theirs, round by "
        "round.", "",
        "| server | answers/s | tintype is faster by | p50, ms | p99, ms | memory, MiB | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, found in groups.items():
        ratios = [ours[turn.number].per_second / turn.per_second for turn in found if turn.number in ours]
        ratio = f"{statistics.median(ratios):.2f}" if ratios and name != OURS else ""
        cells = [
            CONTENDERS[name].title, _range([turn.per_second for turn in found], 1), ratio,
            _range([turn.p50 for turn in found]), _range([turn.p99 for turn in found]),
            f"{statistics.median(turn.resident_mib for turn in found):.0f}", str(len(found)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _range(values: Sequence[float], decimals: int = 0) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, help="export directory of a MobileNetV2")
    parser.add_argument("--classes", type=int, default=2, help="that it has")
    parser.add_argument("--images", type=Path, required=True, help="folder of photos; 64 of them are sent")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=[n for n in CONTENDERS if n != "tintype-int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--output", type=Path, default=HERE)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
