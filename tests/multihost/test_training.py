"""Training on two hosts that share nothing but a link and a disk, as a user starts it: torchrun on each."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from multihost.hosts import Host, two_hosts, why_no_hosts
from safetensors.numpy import load_file
from shapes import make_shapes
from small_run import SETTINGS

pytestmark = [pytest.mark.multihost, pytest.mark.timeout(900)]

PORT = "29500"
TRAIN = ["-m", "tintype", "train"]
QUIET = ["--set", "evidence.baselines=false", "--set", "evidence.attention=false"]


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    reason = why_no_hosts()
    if reason is not None:
        pytest.skip(reason)
    with two_hosts(rate="1gbit") as made:
        yield made


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "photos", 40)
    (tmp_path / "settings.toml").write_text(SETTINGS, encoding="utf-8")
    return tmp_path / "photos"


def start(hosts: Sequence[Host], train: Sequence[str], *options: str) -> list[subprocess.Popen[str]]:
    """torchrun on each host, a core each."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *options]
    launch += ["--master-addr", hosts[0].address, "--master-port", PORT]
    return [
        host.run(
            [*launch, "--node-rank", str(rank), *TRAIN, *train], core=rank, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank, host in enumerate(hosts)
    ]  # fmt: skip


def end(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return said


def test_the_labs_network_trains_on_two_hosts(
    hosts: list[Host], shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--model", "cats_dogs", "--image-size", "180", "--batch-size", "128", "--optimizer", "rmsprop"]
    options += ["--epochs", "1", "--set", "fit.steps_per_epoch=4", *QUIET]
    train = [str(shared_data("cats_dogs")), *options]
    said = end(start(hosts, [*train, "-o", str(run)]))
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["test"]["accuracy"]["n"] == 1000, "every test image once"
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert len(environment["ranks"]) == 2
    assert "a step of 128 images is shared, 64 each" in said[0]
    assert "epoch 1 of 1" in (run / "rank1.log").read_text(encoding="utf-8")
    assert "body.dense1: 2,191,360 values travel in place of 13,000,704" in said[0]
    with_factors, _ = hosts[1].counters()
    end(start(hosts, [*train, "-o", str(tmp_path / "gradients"), "--set", "parallel.dense_factors=false"]))
    with_gradients = hosts[1].counters()[0] - with_factors
    four_steps = 4 * 2 * 13_300_033
    assert with_gradients > four_steps, "gradients of four steps in bf16 went over the link"
    assert with_gradients - with_factors > four_steps / 2, "and most of them stayed away as factors"


def test_a_residual_network_trains_on_two_hosts(
    hosts: list[Host], shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--backbone", "resnet18", "--weights", "none", "--freeze", "none", "--image-size", "64"]
    options += ["--batch-size", "64", "--optimizer", "sgd", "--epochs", "2", "--set", "fit.steps_per_epoch=10"]
    options += ["--head-epochs", "0", "--comm", "local_sgd", "--set", "parallel.local_steps=4", "-o", str(run), *QUIET]
    end(start(hosts, [str(shared_data("tiny_imagenet_20")), *options]))
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["test"]["accuracy"]["n"] == 1000


def test_a_worker_killed_at_a_random_step_changes_nothing(hosts: list[Host], photos: Path, tmp_path: Path) -> None:
    draws = random.Random(0)
    train = [str(photos), "--config", str(tmp_path / "settings.toml"), "--epochs", "60", "-o"]
    end(start(hosts, [*train, str(tmp_path / "undisturbed")]))
    whole = load_file(tmp_path / "undisturbed" / "model.safetensors")
    for number in range(3):
        run = tmp_path / f"killed{number}"
        processes = start(hosts, [*train, str(run)], "--max-restarts", "3")
        while not (run / "checkpoint.safetensors").exists():
            assert all(process.poll() is None for process in processes)
            time.sleep(0.02)
        time.sleep(draws.uniform(0, 1))
        victim = number % 2
        os.kill(worker_of(processes[victim].pid), signal.SIGKILL)
        end(processes)
        again = load_file(run / "model.safetensors")
        assert all((again[name] == tensor).all() for name, tensor in whole.items()), f"round {number}"


def test_other_data_on_one_host_is_one_line(hosts: list[Host], photos: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "others", 41)
    options = ["--config", str(tmp_path / "settings.toml"), "-o", str(tmp_path / "run")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launch += ["--master-addr", hosts[0].address, "--master-port", PORT]
    processes = [
        host.run(
            [*launch, "--node-rank", str(rank), *TRAIN, str(data), *options], core=rank, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank, (host, data) in enumerate(zip(hosts, (photos, tmp_path / "others"), strict=True))
    ]  # fmt: skip
    said = "".join(process.communicate(timeout=300)[0] for process in processes)
    lines = [line for line in said.splitlines() if line.startswith("tintype: ")]
    assert len(lines) == 1, said
    assert "80 images" in lines[0]
    assert "82 images" in lines[0]
    assert not (tmp_path / "run" / "config.toml").exists()


def test_arguments_of_torchrun_may_come_from_the_environment(hosts: list[Host], photos: Path, tmp_path: Path) -> None:
    """As a training operator of Kubernetes and a script of SLURM give them."""
    train = ["train", str(photos), "--config", str(tmp_path / "settings.toml"), "--epochs", "2"]
    operator = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": hosts[0].address,
        "PET_MASTER_PORT": PORT,
    }
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "-m",
        "tintype",
        *train,
        "-o",
        str(tmp_path / "operator"),
    ]
    end(
        [
            host.run(
                torchrun, core=rank, env={**operator, "PET_NODE_RANK": str(rank)}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for rank, host in enumerate(hosts)
        ]
    )  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes $SLURM_NNODES --node-rank $SLURM_NODEID"]
    torchrun += [f"--nproc-per-node 1 --master-addr {hosts[0].address} --master-port {PORT} -m tintype"]
    script = " ".join([*torchrun, *train, "-o", str(tmp_path / "slurm")])
    end(
        [
            host.run(
                ["bash", "-c", script], core=rank, env={"SLURM_NNODES": "2", "SLURM_NODEID": str(rank)},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            for rank, host in enumerate(hosts)
        ]
    )  # fmt: skip
    runs = [load_file(tmp_path / name / "model.safetensors") for name in ("operator", "slurm")]
    assert all((runs[0][name] == runs[1][name]).all() for name in runs[0])


def worker_of(process: int) -> int:
    """The rank that the torchrun started as ``process``, or below it, has started."""
    found = process
    while children := Path(f"/proc/{found}/task/{found}/children").read_text(encoding="ascii").split():
        found = int(children[0])
    return found
