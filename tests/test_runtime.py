"""Device, threads, the precision probe and the memory figure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tintype.errors import ConfigError
from tintype.ranks.torchrun import usable_cores
from tintype.runtime import (
    available_memory,
    choose_inference_precision,
    choose_precision,
    peak_memory_mb,
    probe_images,
    start_runtime,
    step_seconds,
)

INPUTS = probe_images((3, 16, 16), 8, torch.device("cpu"))


class Small(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dense = nn.Linear(4, 2)
        self.scale = scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.dense(self.norm(self.conv(images.float() / 255)).amax(dim=(2, 3)))
        return logits * self.scale


@pytest.mark.parametrize("device", ["tpu9", "cuda:77", "meta"])
def test_a_device_that_is_not_here_is_one_line(device: str) -> None:
    with pytest.raises(ConfigError, match="device") as caught:
        start_runtime(device, None, 0)
    assert "\n" not in str(caught.value)


def test_threads_are_what_is_asked_for_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert start_runtime("cpu", 1, 0).threads == 1
    assert torch.get_num_threads() == 1
    assert start_runtime("cpu", None, 0).threads == usable_cores()


@pytest.mark.parametrize(("said", "count"), [("1", 1), ("3", 3), ("2,1", 2), ("99", 4), ("", 4), ("all", 4), ("0", 1)])
def test_the_environment_may_ask_for_fewer_threads(monkeypatch: pytest.MonkeyPatch, said: str, count: int) -> None:
    monkeypatch.setattr("tintype.runtime.usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert start_runtime("cpu", None, 0).threads == count
    assert start_runtime("cpu", 2, 0).threads == 2, "what the settings say counts more"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert start_runtime("cpu", None, 0).threads == 4, "torchrun says 1 to all"
    start_runtime("cpu", 1, 0)


def test_the_probe_leaves_the_network_alone_and_says_what_it_measured() -> None:
    torch.manual_seed(0)
    network = Small()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    runtime = choose_precision(start_runtime("cpu", 1, 0), network, INPUTS, "auto")
    assert runtime.precision in ("fp32", "bf16")
    assert "images per second" in runtime.evidence
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_bf16_that_disagrees_is_not_taken() -> None:
    class Cancelling(Small):
        """Two large numbers that differ in digits bf16 does not have."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            offset = 1e4 if logits.dtype == torch.bfloat16 else 0.0
            return (logits + offset) - offset

    runtime = choose_precision(start_runtime("cpu", 1, 0), Cancelling(), INPUTS, "auto")
    assert runtime.precision == "fp32"
    assert "differ" in runtime.evidence


def test_steps_are_timed_on_a_copy_after_one_that_builds_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float | str] = []
    seconds = iter([9.0, 0.06, 0.03, 0.04, 7.0])

    def timed(network: torch.nn.Module, *_: object) -> float:
        assert network is not given
        taken.append(next(seconds))
        return float(taken[-1])

    given = Small()
    monkeypatch.setattr("tintype.runtime._timed_step", timed)
    runtime = start_runtime("cpu", 1, 0)
    assert step_seconds(runtime, given, INPUTS, lambda: taken.append("begin")) == 0.04
    assert taken == [9.0, "begin", 0.06, 0.03, 0.04]


def test_a_set_precision_is_not_measured() -> None:
    runtime = choose_precision(start_runtime("cpu", 1, 0), Small(), INPUTS, "bf16")
    assert (runtime.precision, runtime.evidence) == ("bf16", "as set")


def test_frozen_layers_are_measured_and_must_agree() -> None:
    class Shifted(Small):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + 100

    runtime, network = start_runtime("cpu", 1, 0), Small().eval()
    precision, evidence = choose_inference_precision(runtime, {"fp32": network, "bf16": network}, INPUTS)
    assert precision in ("fp32", "bf16")
    assert "features differ by 0" in evidence or "features differ by 1" in evidence
    precision, evidence = choose_inference_precision(runtime, {"fp32": network, "bf16": Shifted().eval()}, INPUTS)
    assert precision == "fp32"
    assert "differ" in evidence


def test_the_probe_has_as_many_images_as_fit() -> None:
    assert probe_images((3, 16, 16), 8, torch.device("cpu")).shape == (8, 3, 16, 16)
    assert probe_images((3, 600, 600), 64, torch.device("cpu")).shape[0] == 2
    assert probe_images((3, 200, 200), 64, torch.device("cpu"), 400_000).shape[0] == 10


def test_memory_figures() -> None:
    free = available_memory(torch.device("cpu"))
    assert 2**20 < free < 2**50
    assert available_memory(torch.device("cpu"), limit_gb=0.001) == int(0.001 * 2**30)
    assert 10 < peak_memory_mb() < 1e6
