"""What each of several ranks checks; started by test_together.py under torchrun, with a folder as its argument.

Every function here is a check that all ranks run in the same order. Rank 0 leaves ``checks.json``: the name of each,
with the error of the first rank where it failed.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from tintype.config import AugmentConfig, DataConfig, FitConfig, ModelConfig, ParallelConfig
from tintype.data.cache import ImageCache, build_cache
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.errors import ConfigError, NonFiniteError, RankError, RunError, RunInterrupted
from tintype.evaluation.predict import predict
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.ranks.joining import joined, require_equal
from tintype.ranks.world import World
from tintype.runtime import Runtime, start_runtime
from tintype.training.fit import Fitted, fit
from tintype.training.parallel import Replica

PLAIN = "conv 8 3 relu l2=0.01\npool 2\ndropout 0.3\nconv 16 3 relu\ngap\ndense 16 relu\ndropout 0.5\n"
NORMALISED = "conv 8 3 relu\nbn\npool 2\nconv 16 3 relu\ngap\ndense 8\nbn\n"
WIDE = "conv 8 3 relu\npool 2\nflatten\ndense 256 relu l2=0.01\ndropout 0.5\ndense 256 relu\n"
CONFIG = FitConfig(
    epochs=3, batch_size=7, learning_rate=3e-3, weight_decay=0.01, label_smoothing=0.05, ema=0.9, gradient_clip=1.0,
    checkpoint_seconds=1e6, class_weights="balanced",
)  # fmt: skip
AUGMENT = AugmentConfig(policy="light").resolved()


class Bench:
    """The ranks, the images and a folder."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        config = DataConfig(source=str(folder / "images"), image_size=24, color="rgb", resize="stretch")
        if self.world.rank > 0:
            self.world.wait()
        index = read_index(config)
        self.cache: ImageCache = build_cache(index, config)
        if self.world.rank == 0:
            self.world.wait()
        self.split: Split = make_split(index, self.cache.usable, config)

    def network(self, layers: str) -> Network:
        torch.manual_seed(0)
        return build_network(ModelConfig(layers=layers), (3, 24, 24), 2, np.full(3, 0.3), np.full(3, 0.3))

    def runtime(self, *, alone: bool = False) -> Runtime:
        runtime = start_runtime("cpu", 1, 0, self.world)
        return runtime.by_itself if alone else runtime

    def fit(self, layers: str, config: FitConfig = CONFIG, *, alone: bool = False, **options: Any) -> Fitted:
        network = self.network(layers)
        return fit(network, self.cache, self.split, config, AUGMENT, self.runtime(alone=alone), **options)


def weights_of(fitted: Fitted) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in fitted.network.state_dict().values()]


def assert_same_training(several: Fitted, one: Fitted) -> None:
    for a, b in zip(several.history, one.history, strict=True):
        for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=2e-4, err_msg=name)
    assert several.kept_epoch == one.kept_epoch
    for left, right in zip(weights_of(several), weights_of(one), strict=True):
        torch.testing.assert_close(left, right, rtol=2e-3, atol=2e-4)


def assert_equal_on_all_ranks(bench: Bench, fitted: Fitted) -> None:
    sums = bench.world.exchange([float(tensor.double().sum()) for tensor in weights_of(fitted)])
    assert all(other == sums[0] for other in sums)


def several_ranks_train_as_one(bench: Bench) -> None:
    """Uneven shares (a batch of 7), dropout, augmentation, averages, clipping, penalties, class weights."""
    several = bench.fit(PLAIN)
    assert_same_training(several, bench.fit(PLAIN, alone=True))
    assert_equal_on_all_ranks(bench, several)


def parts_of_a_share_train_as_the_whole(bench: Bench) -> None:
    parted = CONFIG.model_copy(update={"micro_batch": 2})
    assert_same_training(bench.fit(PLAIN, parted), bench.fit(PLAIN, alone=True))


def factors_of_dense_gradients_train_as_one(bench: Bench) -> None:
    """The layer of 1,152 inputs and 256 units sends factors; uneven shares and their parts have rows in their place."""
    gathered = 0
    gather = dist.all_gather_into_tensor

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal gathered
        gathered += 1
        return gather(*arguments, **options)

    dist.all_gather_into_tensor = counted
    try:
        parted = bench.fit(WIDE, CONFIG.model_copy(update={"micro_batch": 2}))
        steps, gathered = gathered, 0
        without = bench.fit(WIDE, parallel=ParallelConfig(dense_factors=False))
    finally:
        dist.all_gather_into_tensor = gather
    one = bench.fit(WIDE, alone=True)
    assert steps == 1 + len(one.history) * (len(bench.split.train) // 7), "once a step, and in the first one's trial"
    assert gathered == 0
    for fitted in (parted, without):
        assert_same_training(fitted, one)
        assert_equal_on_all_ranks(bench, fitted)
        assert all(type(module) is nn.Linear for module in fitted.network.modules() if isinstance(module, nn.Linear))


def factors_resume_bit_equal(bench: Bench) -> None:
    assert_resumes_bit_equal(bench, "factors", ParallelConfig(comm="bf16"), WIDE)


def synchronised_batchnorm_trains_as_one(bench: Bench) -> None:
    # A bias before BatchNorm has no gradient but noise, which AdamW would take for one.
    config = CONFIG.model_copy(update={"optimizer": "sgd", "learning_rate": 0.05})
    several = bench.fit(NORMALISED, config, parallel=ParallelConfig(sync_batchnorm=True))
    assert_same_training(several, bench.fit(NORMALISED, config, alone=True))
    assert all(type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) for module in norms_of(several.network))


def plain_batchnorm_ends_equal_on_all_ranks(bench: Bench) -> None:
    several = bench.fit(NORMALISED)
    assert_equal_on_all_ranks(bench, several)
    one = bench.fit(NORMALISED, alone=True)
    differences = [float((a - b).abs().max()) for a, b in zip(weights_of(several), weights_of(one), strict=True)]
    assert max(differences) > 1e-3, "each rank's own statistics are other ones"


def norms_of(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def one_rank_stops_all_and_they_resume_bit_equal(bench: Bench) -> None:
    assert_resumes_bit_equal(bench, "plain", ParallelConfig(comm="fp32"))


def gradients_of_low_rank_resume_bit_equal(bench: Bench) -> None:
    assert_resumes_bit_equal(bench, "powersgd", ParallelConfig(comm="powersgd", powersgd_rank=2))


def local_steps_resume_bit_equal(bench: Bench) -> None:
    assert_resumes_bit_equal(bench, "local_sgd", ParallelConfig(comm="local_sgd", local_steps=3))


def every_way_of_gradients_learns(bench: Bench) -> None:
    config = CONFIG.model_copy(update={"epochs": 12, "learning_rate": 1e-2})
    plain = bench.fit(NORMALISED, config, alone=True).history
    ends: dict[str, float] = {}
    for method in ("bf16", "powersgd", "local_sgd"):
        # Statistics of two or three images tell little: they are those of all ranks.
        parallel = ParallelConfig(comm=method, powersgd_rank=2, local_steps=4, sync_batchnorm=True)
        several = bench.fit(NORMALISED, config, parallel=parallel)
        assert_equal_on_all_ranks(bench, several)
        ends[method] = several.history[-1].train_loss
    assert plain[-1].train_loss < 0.25 * plain[0].train_loss
    assert all(loss < plain[-1].train_loss + 0.1 for loss in ends.values()), (ends, plain[0], plain[-1])


def gradients_in_bf16_differ_by_rounding(bench: Bench) -> None:
    exact = bench.fit(PLAIN, parallel=ParallelConfig(comm="fp32"))
    rounded = bench.fit(PLAIN, parallel=ParallelConfig(comm="bf16"))
    losses = [[row.train_loss for row in fitted.history] for fitted in (exact, rounded)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.01)
    assert losses[0] != losses[1]


def assert_resumes_bit_equal(bench: Bench, name: str, parallel: ParallelConfig, layers: str = NORMALISED) -> None:
    whole = bench.fit(layers, parallel=parallel)
    # On disks of their own the other ranks have no checkpoint: the writer sends its own.
    checkpoint = bench.folder / f"disk{bench.world.rank}" / f"{name}.safetensors"
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps >= 5 and bench.world.rank == bench.world.size - 1

    message = ""
    try:
        bench.fit(layers, checkpoint=checkpoint, should_stop=stop, parallel=parallel)
    except RunInterrupted as stopped:
        message = str(stopped)
    assert "after step" in message
    assert checkpoint.exists() == bench.world.is_writer
    resumed = bench.fit(layers, checkpoint=checkpoint, parallel=parallel)
    losses, of_whole = ([row.train_loss for row in fitted.history] for fitted in (resumed, whole))
    np.testing.assert_allclose(losses, of_whole, rtol=1e-12)  # the sums of an epoch are added up in another order
    assert all(torch.equal(a, b) for a, b in zip(weights_of(whole), weights_of(resumed), strict=True))


def a_loss_of_one_rank_that_is_not_finite_stops_all(bench: Bench) -> None:
    forward = Replica.forward

    def broken(self: Replica, images: torch.Tensor, first: int, size: int) -> torch.Tensor:
        logits = forward(self, images, first, size)
        return logits * float("nan") if self.world.rank == self.world.size - 1 else logits

    Replica.forward = broken  # type: ignore[method-assign]
    try:
        found = ""
        try:
            bench.fit(PLAIN)
        except NonFiniteError as error:
            found = error.finding.title
    finally:
        Replica.forward = forward  # type: ignore[method-assign]
    titles = bench.world.exchange(found)
    assert found
    assert titles == [found] * bench.world.size


class Idle(nn.Module):
    """A module of which a part takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(3 * 24 * 24, 4), nn.Linear(4, 4)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.used(images_NCHW.flatten(1))
        return output


def weights_without_a_gradient_are_refused(bench: Bench) -> None:
    network = Network(Idle(), nn.Linear(4, 1), "sigmoid", (3, 24, 24))
    message = ""
    try:
        fit(network, bench.cache, bench.split, CONFIG, AUGMENT, bench.runtime())
    except ConfigError as error:
        message = str(error)
    assert "body.idle.weight" in message
    assert "freeze" in message


def predictions_are_merged_once(bench: Bench) -> None:
    network, indices = bench.network(PLAIN), bench.split.train[:-1]
    merged = predict(network, bench.cache, indices, bench.runtime(), "train", flip_average=True)
    single = predict(network, bench.cache, indices, bench.runtime(alone=True), "train", flip_average=True)
    assert merged.paths == single.paths
    np.testing.assert_allclose(merged.probabilities, single.probabilities, rtol=1e-5)
    few = predict(network, bench.cache, indices[:1], bench.runtime(), "train")
    assert len(few) == 1, "fewer images than ranks"


def ranks_exchange_what_they_have(bench: Bench) -> None:
    world = bench.world
    assert world.exchange({"rank": world.rank}) == [{"rank": number} for number in range(world.size)]
    assert world.agree(f"from {world.rank}") == "from 0"
    assert world.any(world.rank == 1, False) == (True, False)
    assert world.add_up(1.5, float(world.rank)) == (1.5 * world.size, sum(range(world.size)))
    rows = np.arange(world.rank * 6, dtype=np.float32).reshape(-1, 2, 3)
    gathered = world.gather_rows(rows)
    np.testing.assert_array_equal(
        gathered, np.concatenate([np.arange(6 * n).reshape(-1, 2, 3) for n in range(world.size)])
    )
    assert gathered.dtype == np.float32
    content = np.random.default_rng(0).bytes(20_000_001)
    assert world.share_bytes(content if world.rank == 1 else None, source=1) == content
    assert world.share_bytes(b"" if world.is_writer else None) == b""
    assert [world.part(7, rank) for rank in range(world.size)][-1].stop == 7


def an_error_of_the_writer_reaches_all(bench: Bench) -> None:
    def fail() -> None:
        raise RunError("the disk is full.")

    message = ""
    try:
        bench.world.ask_writer(fail)
    except (RunError, RankError) as error:
        message = str(error)
    assert message == "the disk is full."
    assert bench.world.ask_writer(lambda: [1, 2]) == [1, 2]


def ranks_that_differ_are_named(bench: Bench) -> None:
    message = ""
    try:
        require_equal(bench.world, "versions", [f"version {rank}" for rank in range(bench.world.size)], "Mend it.")
    except RankError as error:
        message = str(error)
    assert "rank 0 on" in message
    assert "rank 1 on" in message
    assert message.endswith("has version 1. Mend it.")


CHECKS: tuple[Callable[[Bench], None], ...] = (
    ranks_exchange_what_they_have,
    an_error_of_the_writer_reaches_all,
    ranks_that_differ_are_named,
    several_ranks_train_as_one,
    parts_of_a_share_train_as_the_whole,
    factors_of_dense_gradients_train_as_one,
    factors_resume_bit_equal,
    synchronised_batchnorm_trains_as_one,
    plain_batchnorm_ends_equal_on_all_ranks,
    one_rank_stops_all_and_they_resume_bit_equal,
    gradients_of_low_rank_resume_bit_equal,
    local_steps_resume_bit_equal,
    gradients_in_bf16_differ_by_rounding,
    every_way_of_gradients_learns,
    a_loss_of_one_rank_that_is_not_finite_stops_all,
    weights_without_a_gradient_are_refused,
    predictions_are_merged_once,
)


def main() -> None:
    with joined(30.0) as world:
        check_all(Bench(world, Path(sys.argv[1])))


def check_all(ranks: Bench) -> None:
    outcomes: dict[str, str] = {}
    for check in CHECKS:
        error = ""
        try:
            check(ranks)
        except AssertionError:
            error = traceback.format_exc()
        outcomes[check.__name__] = next((text for text in ranks.world.exchange(error) if text), "")
    if ranks.world.rank == 0:
        (ranks.folder / "checks.json").write_text(json.dumps(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
