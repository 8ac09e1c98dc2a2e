"""The loop on small real files: it learns, it is a pure function of its seed, it resumes bit-exactly, it fails well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tintype.config import AugmentConfig, DataConfig, FitConfig, ModelConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.errors import NonFiniteError, RunError, RunInterrupted
from tintype.models import quick
from tintype.models.build import build_network
from tintype.models.fused import can_fuse
from tintype.models.network import Network
from tintype.records import EpochRecord, silent
from tintype.runtime import Runtime, start_runtime
from tintype.training.fit import Fitted, fit

LAYERS = "conv 8 3 relu\nbn\npool 2\nconv 16 3 relu\ngap\ndropout 0.2\n"
CONFIG = FitConfig(
    epochs=3, batch_size=8, micro_batch=8, learning_rate=3e-3, weight_decay=0.01, label_smoothing=0.05,
    ema=0.9, gradient_clip=1.0, checkpoint_seconds=0,
)  # fmt: skip
AUGMENT = AugmentConfig(policy="light").resolved()


@pytest.fixture
def data(shapes_folder: Path) -> tuple[ImageCache, Split]:
    config = DataConfig(source=str(shapes_folder), image_size=24, color="rgb", resize="stretch")
    index = read_index(config)
    cache = build_cache(index, config, silent)
    return cache, make_split(index, cache.usable, config)


def network_of(layers: str = LAYERS, seed: int = 0, mean: float = 0.3, std: float = 0.3) -> Network:
    torch.manual_seed(seed)
    return build_network(ModelConfig(layers=layers), (3, 24, 24), 2, np.full(3, mean), np.full(3, std))


def runtime(seed: int = 0) -> Runtime:
    return start_runtime("cpu", 1, seed)


def run(data: tuple[ImageCache, Split], config: FitConfig = CONFIG, **options: object) -> Fitted:
    return fit(network_of(), *data, config, AUGMENT, runtime(), **options)  # type: ignore[arg-type]


def weights(fitted: Fitted) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in fitted.network.state_dict().values()]


def test_it_learns_and_reports_each_epoch(data: tuple[ImageCache, Split]) -> None:
    seen: list[EpochRecord] = []
    fitted = run(data, CONFIG.model_copy(update={"epochs": 40, "learning_rate": 1e-2}), on_epoch=seen.append)
    assert tuple(seen) == fitted.history
    assert [row.epoch for row in seen] == list(range(1, 41))
    assert seen[-1].train_loss < 0.5 * seen[0].train_loss
    best = max(range(40), key=lambda number: (seen[number].validation_accuracy or 0, number))
    assert fitted.kept_epoch == best + 1


def test_the_same_seed_gives_the_same_weights_and_another_does_not(data: tuple[ImageCache, Split]) -> None:
    first, second = weights(run(data)), weights(run(data))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = weights(fit(network_of(), *data, CONFIG, AUGMENT, runtime(seed=1)))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("stop_at", [1, 4, 7, 12])
def test_stopped_at_any_step_and_resumed_it_ends_bit_equal(
    data: tuple[ImageCache, Split], tmp_path: Path, stop_at: int
) -> None:
    whole = run(data)
    checkpoint = tmp_path / "checkpoint.safetensors"
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == stop_at

    with pytest.raises(RunInterrupted, match="stopped in epoch"):
        run(data, checkpoint=checkpoint, should_stop=stop)
    resumed = run(data, checkpoint=checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    rows = [(row.train_loss, row.validation_loss, row.learning_rate) for row in resumed.history]
    assert rows == [(row.train_loss, row.validation_loss, row.learning_rate) for row in whole.history]
    assert resumed.kept_epoch == whole.kept_epoch


def test_micro_batches_give_the_gradient_of_the_whole_batch(data: tuple[ImageCache, Split]) -> None:
    layers = "conv 8 3 relu l2=0.01\npool 2\nflatten\ndense 16 relu\n"  # no batch statistics, no dropout
    config = CONFIG.model_copy(update={"epochs": 1, "optimizer": "sgd", "learning_rate": 0.1})
    ends = []
    for part in (8, 3, 1):
        parted = config.model_copy(update={"micro_batch": part})
        ends.append(fit(network_of(layers), *data, parted, AUGMENT, runtime()))
    for other in ends[1:]:
        for a, b in zip(weights(ends[0]), weights(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not can_fuse(torch.device("cpu")), reason="PyTorch without oneDNN")
def test_a_network_that_keeps_its_statistics_trains_the_same_but_for_roundings(
    data: tuple[ImageCache, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"epochs": 1, "optimizer": "sgd", "learning_rate": 0.01, "ema": None})
    ends = []
    for is_quick in (True, False):
        monkeypatch.setattr(quick, "can_fuse", lambda _, is_quick=is_quick: is_quick)
        torch.manual_seed(0)
        network = build_network(ModelConfig(backbone="resnet20"), (3, 24, 24), 2, np.full(3, 0.3), np.full(3, 0.3))
        network.held = tuple(name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d))
        ran: list[str] = []
        for name, part in network.named_modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(lambda *_, name=name, ran=ran: ran.append(name))
        ends.append(fit(network, *data, config, AUGMENT, runtime()))
        assert bool(ran) == (not is_quick)
        network(torch.zeros(1, 3, 24, 24))
        assert ran, "afterwards its layers run one by one again"
    for a, b in zip(weights(ends[0]), weights(ends[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_out_of_memory_halves_the_part_and_keeps_the_batch(
    data: tuple[ImageCache, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Network.forward

    def limited(self: Network, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 3:
            raise torch.OutOfMemoryError("planted")
        return forward(self, images)

    monkeypatch.setattr(Network, "forward", limited)
    fitted = run(data, CONFIG.model_copy(update={"epochs": 1}))
    assert fitted.micro_batch == 2
    assert len(fitted.history) == 1


def test_early_stopping_and_keep_last(data: tuple[ImageCache, Split]) -> None:
    config = CONFIG.model_copy(update={"epochs": 50, "learning_rate": 1e-12, "early_stopping": 2, "ema": None})
    fitted = run(data, config)
    assert fitted.stopped_early
    assert len(fitted.history) < 50
    last = run(data, CONFIG.model_copy(update={"keep": "last"}))
    assert last.kept_epoch == 3


def test_weights_from_before_compete_for_the_best(data: tuple[ImageCache, Split]) -> None:
    start = EpochRecord(1, 0.1, 1.0, 0.1, 1.0, 0.0, 1.0, 1.0)
    harmful = CONFIG.model_copy(update={"learning_rate": 0.5, "ema": None, "gradient_clip": None})
    network = network_of()
    before = [tensor.clone() for tensor in network.state_dict().values()]
    fitted = fit(network, *data, harmful, AUGMENT, runtime(), start=start)
    assert max(row.validation_accuracy or 0.0 for row in fitted.history) < 1
    assert fitted.kept_epoch == 0
    assert all(torch.equal(*pair) for pair in zip(before, weights(fitted), strict=True))
    hopeless = EpochRecord(1, 9.0, 0.0, 9.0, 0.0, 0.0, 1.0, 1.0)
    assert run(data, CONFIG, start=hopeless).kept_epoch > 0
    assert run(data, CONFIG.model_copy(update={"keep": "last"}), start=start).kept_epoch == 3


def test_too_high_a_learning_rate_is_named_and_the_checkpoint_stays(
    data: tuple[ImageCache, Split], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(
        update={"optimizer": "sgd", "learning_rate": 1e18, "gradient_clip": None, "ema": None, "schedule": "constant"}
    )
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(NonFiniteError, match=r"learning rate 1e\+18 is too high") as caught:
        run(data, config, checkpoint=checkpoint)
    evidence = "\n".join(caught.value.finding.evidence)
    assert "files in the batch: " in evidence
    assert ".png" in evidence
    assert "learning_rate=1e+17" in caught.value.finding.remedy


def test_a_layer_that_divides_by_zero_is_named(data: tuple[ImageCache, Split]) -> None:
    class Broken(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features / (features - features)

    network = network_of()
    network.body.add_module("broken", Broken())
    with pytest.raises(NonFiniteError, match=r"layer body\.broken gives values that are not"):
        fit(network, *data, CONFIG, AUGMENT, runtime())


def test_a_damaged_checkpoint_is_refused_with_one_line(data: tuple[ImageCache, Split], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(b"\x80\x04 no safetensors at all")
    with pytest.raises(RunError, match="cannot be used") as caught:
        run(data, checkpoint=checkpoint)
    assert "\n" not in str(caught.value)


def test_class_weights_and_steps_per_epoch(data: tuple[ImageCache, Split]) -> None:
    config = CONFIG.model_copy(update={"class_weights": "balanced", "steps_per_epoch": 2, "epochs": 2})
    steps: list[int] = []
    fitted = run(data, config, on_progress=lambda what, done, total: steps.append(total))
    assert set(steps) >= {16}
    assert len(fitted.history) == 2
