"""Parts, gains and projections, from timelines made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tintype.evaluation.scaling import Block, Measured, measured_point, parts_of, project, ratio_interval
from tintype.evaluation.scaling_model import (
    INFINITE,
    Link,
    Traffic,
    expected_maximum,
    gathered_bytes,
    overlap,
    predict,
    profile_of,
    ring_bytes,
    ring_messages,
)
from tintype.evaluation.step_times import Bucket, Phase, StepTimes, steps_from
from tintype.records import to_plain

LINK = Link(bytes_per_second=1e6, latency=0.001, work_per_byte=0.0)


def step(
    backward: float = 0.4,
    buckets: Sequence[tuple[int, float, float]] = (),
    agreement: float = 0.0,
    input_seconds: float = 0.1,
) -> StepTimes:
    """A step whose other phases are round numbers; buckets are bytes, ready, summed."""
    seconds: dict[Phase, float] = {
        "input": input_seconds, "forward": 0.2, "backward": backward, "agreement": agreement, "optimiser": 0.05,
        "bookkeeping": 0.01,
    }  # fmt: skip
    return StepTimes(seconds, tuple(Bucket(size, ready, summed, backward) for size, ready, summed in buckets), 2)


def measured(ranks: int, images: int, *by_rank: StepTimes, seconds: Sequence[float] = (1.0, 1.0)) -> Measured:
    blocks = tuple(Block(each, tuple((item, item) for item in by_rank)) for each in seconds)
    return Measured(ranks, images, blocks)


def test_what_is_left_after_the_last_gradients_is_the_wait_and_what_goes_before_is_hidden() -> None:
    # Two buckets: the first travels from 0.1 to 0.25, the second from 0.3 on; computing ends at 0.3.
    item = step(0.4, [(10, 0.1, 0.25), (10, 0.3, 0.38)])
    assert item.wait == pytest.approx(0.1)
    assert item.hidden == pytest.approx(0.15)


def test_buckets_that_wait_for_each_other_are_hidden_once() -> None:
    item = step(0.5, [(10, 0.1, 0.25), (10, 0.15, 0.35), (10, 0.4, 0.5)])
    assert item.hidden == pytest.approx(0.25)


def test_a_step_without_gradients_on_their_way_waits_for_nothing() -> None:
    assert step().wait == step().hidden == 0.0


def test_steps_survive_the_way_between_ranks() -> None:
    item = step(0.4, [(10, 0.1, 0.25)])
    assert steps_from(to_plain([item])) == [item]


def test_the_parts_of_a_step_tell_communication_from_waiting() -> None:
    fast = step(0.5, [(10, 0.3, 0.5)], agreement=0.03)  # waits 0.2
    slow = step(0.5, [(10, 0.45, 0.5)], agreement=0.01)  # computes longer, waits 0.05
    parts = parts_of(measured(2, 8, fast, slow), computing=0.35)
    assert parts.exposed == pytest.approx(0.05)
    assert parts.agreement == pytest.approx(0.01)
    assert parts.waiting == pytest.approx((0.15 + 0.02) / 2)
    assert parts.backward == pytest.approx(0.35)
    assert parts.work == pytest.approx(0.375 - 0.35)
    assert parts.total == pytest.approx((fast.total + slow.total) / 2)


def test_a_backward_pass_that_is_not_slower_has_no_work_of_communication() -> None:
    parts = parts_of(measured(2, 8, *[step(0.4, [(10, 0.3, 0.4)])] * 2), computing=0.31)
    assert parts.work == 0.0
    assert parts.backward == pytest.approx(0.3)


def test_one_rank_has_neither_communication_nor_waiting() -> None:
    parts = parts_of(measured(1, 8, step()), computing=0.1)
    assert (parts.work, parts.exposed, parts.waiting, parts.hidden) == (0, 0, 0, 0)
    assert parts.backward == 0.4


@pytest.mark.parametrize(
    ("ready", "backward", "transfers", "works", "expected"),
    [
        ([1.0], 1.0, [0.5], [0.0], (1.0, 1.5, 0.0)),  # ready at the end: all of it is waited for
        ([0.2], 1.0, [0.5], [0.0], (1.0, 0.7, 0.5)),  # arrived long before the end
        ([0.2, 1.0], 1.0, [1.0, 0.1], [0.0, 0.0], (1.0, 1.3, 0.8)),  # the second waits for the first
        ([0.0, 1.0], 1.0, [0.5, 0.2], [0.25, 0.0], (1.25, 1.45, 0.5)),  # half of the core is taken for half a second
        ([1.0], 1.0, [0.5], [0.4], (1.0, 1.5, 0.0)),  # work after the end slows nothing
        ([], 1.0, [], [], (1.0, 0.0, 0.0)),
    ],
)
def test_overlap(
    ready: list[float], backward: float, transfers: list[float], works: list[float], expected: tuple[float, ...]
) -> None:
    assert overlap(ready, backward, transfers, works) == pytest.approx(expected)


def test_a_transfer_is_slower_beside_computing_and_at_its_own_pace_after_it() -> None:
    # Beside computing it would take 2 s; when that ends after 1 s, half of it is left, which takes half of its own 1 s.
    assert overlap([0.0], 1.0, [1.0], [0.0], slowed=2.0) == pytest.approx((1.0, 1.5, 1.0))
    # It takes half of the core, so that computing ends after 2 s, when all has just arrived.
    assert overlap([0.0], 1.0, [1.0], [1.0], slowed=2.0) == pytest.approx((2.0, 2.0, 2.0))


def test_work_that_outlasts_the_backward_pass_slows_only_what_is_computed_beside_it() -> None:
    # Half of the core for two seconds from the start on: one second of computing takes two, the second bucket waits.
    computed, arrived, hidden = overlap([0.0, 1.0], 1.0, [4.0, 1.0], [2.0, 0.0])
    assert (computed, arrived, hidden) == pytest.approx((2.0, 5.0, 2.0))


def test_the_largest_of_several_draws() -> None:
    values = np.array([0.0, 1.0])
    assert expected_maximum(values, 1) == 0.5
    assert expected_maximum(values, 2) == 0.75
    drawn = np.random.default_rng(0).choice([1.0, 2.0, 5.0], size=(200_000, 4)).max(axis=1)
    assert expected_maximum(np.array([5.0, 1.0, 2.0]), 4) == pytest.approx(drawn.mean(), rel=0.01)


def test_a_ring_sends_nearly_twice_the_bytes_however_many_ranks() -> None:
    assert ring_bytes(100, 2) == 100
    assert ring_bytes(100, 4) == 150
    assert ring_messages(4) == 6


def test_a_prediction_adds_up_what_one_rank_does_and_what_the_link_takes() -> None:
    one = step(0.4, [(100_000, 0.1, 0.1), (300_000, 0.4, 0.4)])
    parts = predict(profile_of([[one, one]]), Traffic(LINK), 2)
    # The first bucket takes 0.102 s and is there at 0.202; the second leaves at 0.4 and takes 0.302 s.
    assert parts.exposed == pytest.approx(0.302)
    assert parts.hidden == pytest.approx(0.102)
    assert parts.agreement == pytest.approx(2 * 2 * 0.001)
    assert parts.waiting == 0.0
    assert parts.total == pytest.approx(one.total + 0.302 + 0.004)
    half = predict(profile_of([[one, one]]), Traffic(LINK, 0.5), 2)
    assert half.exposed == pytest.approx(0.152)
    free = predict(profile_of([[one, one]]), Traffic(INFINITE), 2)
    assert free.total == pytest.approx(one.total)


def factored_step(product: float) -> StepTimes:
    """Factors of 100,000 bytes are ready after 0.1 s of a backward pass of 0.4, gradients of 1,000 bytes at its end."""
    buckets = (Bucket(100_000, 0.1, 0.1, 0.4 + product, is_factors=True), Bucket(1_000, 0.4, 0.4, 0.4 + product))
    return replace(step(0.4 + product), buckets=buckets, product=product)


def test_factors_are_multiplied_out_by_computing_and_not_by_waiting() -> None:
    item = factored_step(0.05)
    assert item.wait == pytest.approx(0.0)
    profile = profile_of([[item]])
    assert profile.backward == pytest.approx(0.45)
    assert profile.are_factors == (True, False)
    assert steps_from(to_plain([item])) == [item]


def test_every_rank_gathers_the_factors_of_all_others() -> None:
    assert gathered_bytes(100, 4) == 300
    item = factored_step(0.05)
    parts = predict(profile_of([[item]]), Traffic(LINK, 0.5, products=0.02), 4)
    # 300,000 bytes and 3 messages: from 0.1 to 0.403. Then 750 bytes and 6 messages, beside the product's 0.07 s.
    assert parts.backward == pytest.approx(0.47)
    assert parts.exposed == 0.0
    assert parts.hidden == pytest.approx(0.303 + 0.00675)
    alone = predict(profile_of([[item]]), Traffic(LINK, 0.5), 1)
    assert alone.total == pytest.approx(item.total)
    slow = predict(profile_of([[item]]), Traffic(replace(LINK, bytes_per_second=5e5), 0.5, products=0.02), 4)
    assert slow.exposed == pytest.approx(0.1 + 0.603 + 0.0075 - 0.47)


def test_the_product_of_more_ranks_is_no_work_of_communication() -> None:
    together = measured(2, 8, *[factored_step(0.07)] * 2)
    apart = measured(1, 4, factored_step(0.05))
    point = measured_point("strong", together, measured(1, 8, step()), apart, Traffic(LINK, 1.0, products=0.02))
    assert point.parts.work == pytest.approx(0.0)
    assert point.parts.backward == pytest.approx(0.47)


def test_steps_that_vary_make_several_machines_wait() -> None:
    quick, late = step(0.4, [(1, 0.4, 0.4)]), step(0.4, [(1, 0.4, 0.4)], input_seconds=0.3)
    assert predict(profile_of([[quick, late]]), Traffic(INFINITE), 2).waiting == pytest.approx(0.05)


def test_what_slows_a_whole_block_makes_nobody_wait() -> None:
    quick, late = step(0.4, [(1, 0.4, 0.4)]), step(0.4, [(1, 0.4, 0.4)], input_seconds=0.3)
    assert predict(profile_of([[quick, quick], [late, late]]), Traffic(INFINITE), 4).waiting == pytest.approx(0.0)


def test_a_point_says_what_was_gained_and_what_a_better_network_would_give() -> None:
    alone = measured(1, 8, step(), seconds=(1.0, 1.0))
    apart = measured(1, 4, step(0.4, [(100_000, 0.4, 0.4)]))
    one = step(0.502, [(100_000, 0.4, 0.502)], agreement=0.002)
    together = measured(2, 8, one, one, seconds=(0.8, 0.8))
    point = measured_point("strong", together, alone, apart, Traffic(LINK))
    assert point.speed_up.value == pytest.approx(1.25)
    assert point.efficiency.value == pytest.approx(0.625)
    assert point.images_per_second.value == pytest.approx(10.0)
    assert point.unaccounted == pytest.approx(0.8 - one.total)
    assert point.infinite == pytest.approx(0.8 - 0.102 - 0.002)
    assert point.ideal == pytest.approx(0.8 - 0.002 - 0.002)
    assert point.predicted is not None
    assert point.prediction_error == pytest.approx(point.predicted.total / 0.8 - 1)


def test_a_way_of_sending_that_is_no_share_of_the_bytes_is_not_predicted() -> None:
    alone = measured(1, 8, step())
    together = measured(2, 8, *[step(0.5, [(10, 0.4, 0.5)])] * 2)
    point = measured_point("strong", together, alone, alone, Traffic(LINK, None))
    assert point.predicted is None
    assert point.prediction_error is None
    assert math.isfinite(point.ideal)


def test_a_projection_of_machines_that_each_have_a_batch() -> None:
    one = step(0.4, [(400_000, 0.4, 0.4)])
    alone, apart = measured(1, 8, step(), seconds=(0.76, 0.76)), measured(1, 8, one)
    item = project("weak", 4, apart, alone, Traffic(LINK))
    seconds = one.total + 0.6 + 6 * 0.001 + 2 * 6 * 0.001
    assert item.images == 32
    assert item.parts.total == pytest.approx(seconds)
    assert item.speed_up == pytest.approx(4 * 0.76 / seconds)
    assert item.infinite < item.ideal < item.parts.total


def test_the_interval_of_a_gain_is_over_blocks_in_pairs() -> None:
    alone = np.array([1.0, 2.0, 4.0])  # a machine that becomes slower, for both alike
    interval = ratio_interval(alone, alone / 1.9)
    assert (interval.value, interval.low, interval.high) == pytest.approx((1.9, 1.9, 1.9))
    assert interval.n == 3
    uneven = ratio_interval(alone, np.array([0.5, 1.1, 2.0]))
    assert uneven.low < uneven.value < uneven.high
