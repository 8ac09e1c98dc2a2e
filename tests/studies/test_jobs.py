"""Runs side by side: processes that behave, that fail, that are killed and that are stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from shapes import make_shapes

from tintype.config import RunConfig
from tintype.errors import ConfigError, RunInterrupted
from tintype.ranks.torchrun import usable_cores
from tintype.report.studyfile import read_study_table
from tintype.rundir import RunDir
from tintype.studies import jobs as jobs_module
from tintype.studies import load_study, run_study
from tintype.studies.folder import StudyFolder
from tintype.studies.jobs import Ended, Task, run_side_by_side
from tintype.watch import Watch

pytestmark = pytest.mark.timeout(120)

SetWorker = Callable[[str], None]

HEAD = """
import json, os, signal, sys, time
request, run, threads = sys.argv[1:]
name = os.path.basename(run)
def say(**content):
    print(json.dumps(content), flush=True)
def wait():
    sys.stdin.read()
"""


@pytest.fixture
def set_worker(monkeypatch: pytest.MonkeyPatch) -> SetWorker:
    """Let a few lines of Python stand in for training."""

    def set_to(script: str) -> None:
        def command(request: Path, run: Path, threads: int) -> list[str]:
            return [sys.executable, "-S", "-c", HEAD + script, str(request), str(run), str(threads)]

        monkeypatch.setattr(jobs_module, "worker_command", command)

    return set_to


class Heard:
    """What the caller of :func:`run_side_by_side` is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: dict[str, Ended] = {}
        self.most = 0
        self.percents: list[int] = []
        self.messages: list[str] = []

    def on_begin(self, name: str) -> None:
        self.begun.append(name)
        self.most = max(self.most, len(self.begun) - len(self.ended))

    def on_end(self, ended: Ended) -> None:
        assert ended.name not in self.ended
        self.ended[ended.name] = ended

    def watch(self, should_stop: Callable[[], bool] = lambda: False) -> Watch:
        return Watch(
            on_progress=lambda _what, done, _total: self.percents.append(done),
            on_message=self.messages.append,
            should_stop=should_stop,
        )

    def run(self, folder: Path, names: str, jobs: int, should_stop: Callable[[], bool] = lambda: False) -> None:
        tasks = [Task(name, RunConfig().replace({"data.source": "/data"})) for name in names]
        run_side_by_side(tasks, StudyFolder(folder), jobs, self.watch(should_stop), self.on_begin, self.on_end)


def test_so_many_at_a_time_in_their_order_with_progress(tmp_path: Path, set_worker: SetWorker) -> None:
    set_worker("""
print("a line that is not for the study", flush=True)
say(what="epoch 1 of 2", done=5, total=10)
time.sleep(0.3)
say(what="epoch 2 of 2", done=10, total=10)
say(state="finished", reason="")
""")
    heard = Heard()
    heard.run(tmp_path, "abcde", 2)
    assert heard.begun == list("abcde")
    assert heard.most == 2
    assert {ended.state for ended in heard.ended.values()} == {"finished"}
    assert heard.percents == sorted(heard.percents)
    assert heard.percents[-1] == 100
    assert any(0 < percent < 20 for percent in heard.percents)  # a quarter of one of five runs
    assert not list(tmp_path.glob("requests/*.log"))


def test_each_way_to_fail_has_its_reason_and_the_others_go_on(tmp_path: Path, set_worker: SetWorker) -> None:
    set_worker("""
if name == "a": say(state="failed", reason="no weights are here.")
if name == "b": say(state="diverged", reason="the loss is not finite.")
if name == "c": os.kill(os.getpid(), signal.SIGKILL)
if name == "d": sys.exit("some library said no")
if name == "e": say(state="interrupted", reason="")
if name == "f": say(state="finished", reason="")
""")
    heard = Heard()
    heard.run(tmp_path, "abcdef", 3)
    ended = {name: (item.state, item.reason) for name, item in heard.ended.items()}
    assert ended["a"] == ("failed", "no weights are here.")
    assert ended["b"] == ("diverged", "the loss is not finite.")
    assert ended["c"][0] == "failed"
    assert "killed from outside (SIGKILL)" in ended["c"][1]
    assert "memory" in ended["c"][1]
    assert ended["d"] == ("failed", "its process ended with exit code 1: some library said no.")
    assert ended["e"] == ("failed", "it was stopped from outside; the same command goes on with it.")
    assert ended["f"] == ("finished", "")
    assert [file.stem for file in tmp_path.glob("requests/*.log")] == ["d"]


STOPPED_AFTER_ITS_STEP = """
say(what="epoch 1 of 2", done=1, total=2)
wait()
open(os.path.join(os.path.dirname(request), name + ".saved"), "w").close()
say(state="finished" if name == "b" else "interrupted", reason="")
"""


@pytest.mark.parametrize("by_key", [False, True])
def test_stopping_lets_every_run_save_itself(tmp_path: Path, set_worker: SetWorker, by_key: bool) -> None:
    set_worker(STOPPED_AFTER_ITS_STEP)
    heard = Heard()

    def stop() -> bool:
        if len(heard.begun) == 2 and max(heard.percents, default=0) > 15:  # a quarter of each of two
            if by_key:
                raise KeyboardInterrupt
            return True
        return False

    with pytest.raises(KeyboardInterrupt if by_key else RunInterrupted):
        heard.run(tmp_path, "abc", 2, stop)
    assert heard.begun == ["a", "b"]
    assert sorted(file.stem for file in tmp_path.glob("requests/*.saved")) == ["a", "b"]
    assert list(heard.ended) == ["b"]  # it had finished all the same, and that is not lost
    assert any("press Ctrl-C again" in line for line in heard.messages)


def test_a_second_ctrl_c_ends_them_at_once(
    tmp_path: Path, set_worker: SetWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_worker("""
open(os.path.join(os.path.dirname(request), name + "." + str(os.getpid()) + ".pid"), "w").close()
say(what="epoch 1 of 2", done=1, total=2)
wait()
time.sleep(60)
""")
    heard = Heard()
    wait_for_event, presses = jobs_module._next_event, [False, True]

    def press_again(events: object) -> object:
        if heard.messages and presses and presses.pop(0):
            raise KeyboardInterrupt
        return wait_for_event(events)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs_module, "_next_event", press_again)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        heard.run(tmp_path, "ab", 2, lambda: len(list(tmp_path.glob("requests/*.pid"))) == 2)
    assert time.monotonic() - started < 30
    for file in tmp_path.glob("requests/*.pid"):
        process = int(file.name.split(".")[1])
        while Path(f"/proc/{process}").exists() and "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]:
            time.sleep(0.01)


def test_the_cores_and_gpus_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig()
    assert jobs_module._share(0, 2, config).threads == max(1, usable_cores() // 2)
    assert jobs_module._share(1, 10 * usable_cores(), config).threads == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [jobs_module._share(slot, 3, config).gpu for slot in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-af")
    assert [jobs_module._share(slot, 3, config).gpu for slot in range(3)] == ["5", "GPU-af", "5"]
    assert jobs_module._share(0, 2, config.replace({"device": "cpu"})).gpu is None
    assert jobs_module._share(0, 2, config.replace({"device": "cuda:1"})).gpu is None


STUDY = """
name = "side by side"
seeds = 1
[base]
data.image_size = 24
fit.epochs = 2
fit.checkpoint_seconds = 0
evidence.baselines = false
evidence.attention = false
augment.policy = "none"
device = "cpu"
precision = "fp32"
[axes."model.layers"]
small = "conv 4 3 relu\\ngap"
wrong = "conv 4 3 relu\\nwobble 3"
"""


def load_small(tmp_path: Path, text: str = STUDY) -> Path:
    make_shapes(tmp_path / "shapes", 40)
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_study_with_two_jobs_gives_the_runs_of_one_by_one(tmp_path: Path) -> None:
    file = load_small(tmp_path)
    study = load_study(file, source=tmp_path / "shapes")
    said: list[str] = []
    result = run_study(study, tmp_path / "out", Watch(on_message=said.append), jobs=2)
    small, wrong = result.table.runs
    assert (small.state, small.jobs, wrong.state) == ("finished", 2, "failed")
    assert "line 2" in wrong.reason
    assert [line.split(",")[0] for line in said if line.startswith("run ")] == [
        "run 1 of 2: layers small", "run 2 of 2: layers wrong",
    ]  # fmt: skip
    run = RunDir(tmp_path / "out" / "runs" / small.name)
    assert run.read_json("environment.json")["threads"] == max(1, usable_cores() // 2)
    assert any("shared the machine" in remark for remark in result.table.remarks)
    # What is there is not made again, and alone it comes out the same.
    before = (run / "model.safetensors").stat().st_mtime_ns
    again = run_study(study, tmp_path / "out")
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    assert again.table.runs[0] == small
    threads = load_study(file, source=tmp_path / "shapes", settings={"threads": max(1, usable_cores() // 2)})
    alone = run_study(threads, tmp_path / "alone").path / "runs" / small.name / "model.safetensors"
    assert alone.read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_stopped_runs_of_a_study_go_on(tmp_path: Path) -> None:
    """Real processes are stopped in the middle of training; the same study then goes on from their checkpoints."""
    text = STUDY.replace("fit.epochs = 2", "fit.epochs = 400").replace("wobble 3", "flatten")
    file = load_small(tmp_path, text)
    study = load_study(file, source=tmp_path / "shapes")
    histories = [tmp_path / "out" / "runs" / f"layers={name},seed=0" / "history.jsonl" for name in ("small", "wrong")]

    def both_train() -> bool:
        return all(path.exists() and len(path.read_text().splitlines()) > 2 for path in histories)

    with pytest.raises(RunInterrupted, match="stopped with 0 of 2\xa0runs finished"):
        run_study(study, tmp_path / "out", Watch(should_stop=both_train), jobs=2)
    assert [run.state for run in read_study_table(tmp_path / "out").runs] == ["interrupted"] * 2
    for path in histories:
        assert (path.parent / "checkpoint.safetensors").exists()
        done = len(path.read_text().splitlines())
        assert 2 < done < 400
        # What is left is made short: the settings on disk are those of the run.
        settings = path.with_name("config.toml")
        settings.write_text(settings.read_text().replace("epochs = 400", f"epochs = {done + 1}"))
    result = run_study(study, tmp_path / "out", jobs=2)
    assert [run.state for run in result.table.runs] == ["finished"] * 2
    for path in histories:
        epochs = [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
        assert epochs == list(range(1, len(epochs) + 1))


def test_times_are_not_measured_side_by_side(tmp_path: Path) -> None:
    text = 'name = "x"\nkind = "devices"\n[axes]\ndevice = ["cpu", "cuda:99"]\n'
    study = load_study(load_small(tmp_path, text), source=tmp_path / "shapes")
    with pytest.raises(ConfigError, match="Take --jobs out"):
        run_study(study, tmp_path / "out", jobs=2)
    with pytest.raises(ConfigError, match=r"jobs must be a number from 1\. Got 0"):
        run_study(study, tmp_path / "out", jobs=0)
    assert not (tmp_path / "out").exists()


def test_a_worker_stops_when_nobody_wants_its_run_any_more(tmp_path: Path) -> None:
    """As when the process of the study was killed: nothing goes on behind its back."""
    make_shapes(tmp_path / "shapes", 40)
    config = RunConfig().replace(
        {"data.source": str(tmp_path / "shapes"), "fit.epochs": 100_000, "device": "cpu", "threads": 1}
    )
    folder = StudyFolder(tmp_path)
    run = folder.prepare("a", config)
    command = jobs_module.worker_command(folder.request_file("a"), run, 1)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("what", "").startswith("epoch 2 of "):
                break
        assert process.stdin is not None
        process.stdin.close()
        last = json.loads(list(process.stdout)[-1])
        assert process.wait(60) == 0
    assert last == {"state": "interrupted", "reason": ""}
    assert (run / "checkpoint.safetensors").exists()
