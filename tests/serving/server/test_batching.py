"""Batches across clients: what is seen together, who waits, who is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray
from serving.server.fake import PHOTOS, Colours

from tintype.records import ImageStatistics
from tintype.serving.server.batching import Batcher
from tintype.serving.server.limits import Limits, Refusal


def image(red: int, green: int, blue: int) -> NDArray[np.uint8]:
    return np.full((16, 16, 3), (red, green, blue), np.uint8)


IMAGES = [image(200, 10, 10), image(10, 200, 10), image(10, 10, 200)]


@contextmanager
def batching(classifier: Colours, limits: Limits) -> Iterator[Batcher]:
    batcher = Batcher(classifier, limits)
    batcher.start()
    classifier.batches.clear()  # the one at the start
    try:
        yield batcher
    finally:
        batcher.close()


async def ask(batcher: Batcher, *images: NDArray[np.uint8], before: float = 0.0) -> list[int]:
    """What a request does; ``before`` seconds are its decoding."""
    with batcher.hold() as held:
        held.grow(len(images))
        if before:
            await asyncio.sleep(before)
        return [int(seen.probabilities.argmax()) for seen in await held.see(images)]


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(in_time())


def test_clients_get_their_own_answers_from_common_batches() -> None:
    classifier = Colours(seconds=0.02)
    with batching(classifier, Limits(batch=8)) as batcher:

        async def work() -> None:
            wanted = [number % 3 for number in range(60)]
            answers = await asyncio.gather(*(ask(batcher, IMAGES[number]) for number in wanted))
            assert [answer for (answer,) in answers] == wanted

        run(work)
        assert batcher.pending == 0
    assert sum(classifier.batches) == 60
    assert max(classifier.batches) == 8
    assert len(classifier.batches) <= 10


def test_lanes_compute_at_the_same_time_and_share_what_waits() -> None:
    class Together(Colours):
        meeting = threading.Barrier(2)

        def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.meeting.wait(5)  # fails unless another call is under way
            return super().probabilities(images_NHWC)

    classifier = Together(seconds=0.01)
    with batching(classifier, Limits(batch=1, lanes=2, wait_seconds=0)) as batcher:

        async def work() -> None:
            assert await ask(batcher, *IMAGES, IMAGES[0]) == [0, 1, 2, 0]
            wanted = [number % 3 for number in range(20)]
            answers = await asyncio.gather(*(ask(batcher, IMAGES[number]) for number in wanted))
            assert [answer for (answer,) in answers] == wanted

        run(work)
        assert batcher.pending == 0
    assert classifier.batches == [1] * 24


def test_a_client_that_is_alone_never_waits() -> None:
    with batching(Colours(), Limits(wait_seconds=5)) as batcher:

        async def work() -> None:
            begin = time.perf_counter()
            assert await ask(batcher, *IMAGES) == [0, 1, 2]
            assert time.perf_counter() - begin < 2

        run(work)


def test_the_network_waits_for_images_that_are_being_decoded_and_no_longer() -> None:
    classifier = Colours()
    with batching(classifier, Limits(wait_seconds=5)) as batcher:

        async def work() -> None:
            begin = time.perf_counter()
            await asyncio.gather(ask(batcher, IMAGES[0]), ask(batcher, IMAGES[1], before=0.2))
            assert time.perf_counter() - begin < 2

        run(work)
        assert classifier.batches == [2]


def test_the_wait_has_an_end() -> None:
    classifier = Colours()
    with batching(classifier, Limits(wait_seconds=0.05)) as batcher:

        async def work() -> None:
            slow = asyncio.create_task(ask(batcher, IMAGES[1], before=1.0))
            await asyncio.sleep(0)
            begin = time.perf_counter()
            await ask(batcher, IMAGES[0])
            assert time.perf_counter() - begin < 0.9
            await slow

        run(work)
    assert classifier.batches == [1, 1]


def test_images_that_cannot_be_read_are_not_waited_for() -> None:
    with batching(Colours(), Limits(wait_seconds=5)) as batcher:

        async def broken() -> None:
            with batcher.hold() as held:
                held.grow(3)
                await asyncio.sleep(0.1)
                assert await held.see([]) == []

        async def partly_broken() -> None:
            with batcher.hold() as held:
                held.grow(2)
                assert len(await held.see(IMAGES[:1])) == 1

        async def work() -> None:
            begin = time.perf_counter()
            await asyncio.gather(ask(batcher, IMAGES[0]), broken(), partly_broken())
            assert time.perf_counter() - begin < 2

        run(work)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    with batching(Colours(seconds=0.3), Limits(queue=4, batch=1)) as batcher:

        async def work() -> None:
            first = asyncio.create_task(ask(batcher, *IMAGES, IMAGES[0]))
            await asyncio.sleep(0.1)
            assert batcher.pending == 4
            with pytest.raises(Refusal) as refused:
                await ask(batcher, IMAGES[0])
            assert refused.value.status == 503
            assert refused.value.retry_after is not None
            assert 1 <= refused.value.retry_after <= 30
            await first
            assert await ask(batcher, IMAGES[2]) == [2]
            with pytest.raises(Refusal):
                await ask(batcher, *IMAGES, *IMAGES)
            assert batcher.pending == 0

        run(work)


def test_a_failure_reaches_its_clients_and_no_others() -> None:
    class Sometimes(Colours):
        def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            if images_NHWC.max() == 13:
                raise RuntimeError("no")
            return super().probabilities(images_NHWC)

    with batching(Sometimes(), Limits()) as batcher:

        async def work() -> None:
            with pytest.raises(RuntimeError, match="no"):
                await ask(batcher, image(13, 13, 13), image(13, 0, 0))
            assert await ask(batcher, IMAGES[1]) == [1]

        run(work)


def test_what_nobody_waits_for_any_more_is_not_seen() -> None:
    classifier = Colours(seconds=0.2)
    with batching(classifier, Limits(batch=1)) as batcher:

        async def work() -> None:
            first = asyncio.create_task(ask(batcher, IMAGES[0]))
            given_up = asyncio.create_task(ask(batcher, *IMAGES))
            await asyncio.sleep(0.05)
            given_up.cancel()
            await first
            assert await ask(batcher, IMAGES[1]) == [1]
            assert batcher.pending == 0

        run(work)
    assert classifier.batches == [1, 1]


def test_closing_finishes_what_waits() -> None:
    batcher = Batcher(Colours(seconds=0.05), Limits(batch=1))
    batcher.start()

    async def work() -> None:
        waiting = asyncio.create_task(ask(batcher, *IMAGES))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(batcher.close)
        assert await waiting == [0, 1, 2]

    run(work)


def test_drawings_of_the_opposite_polarity_are_turned_round() -> None:
    class Seeing(Colours):
        statistics = ImageStatistics(
            **{**PHOTOS.__dict__, "color": 0, "dark_on_light": 0.0, "border": 10.0, "mean": 20.0}
        )

        def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.seen = images_NHWC.copy()
            return super().probabilities(images_NHWC)

    drawing = np.full((16, 16, 3), 250, np.uint8)
    drawing[6:10, 6:10] = 20
    classifier = Seeing()
    with batching(classifier, Limits()) as batcher:

        async def work() -> None:
            await ask(batcher, drawing, 255 - drawing)

        run(work)
    assert np.array_equal(classifier.seen[0], 255 - drawing)
    assert np.array_equal(classifier.seen[1], 255 - drawing)
