"""Images of requests made ready for the network, in a few threads, so that the event loop only ever waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from tintype.data.decode import UnreadableImageError, decode_image, read_header

if TYPE_CHECKING:
    from tintype.serving.labels import Classifier

LARGE_MEGAPIXELS = 16.0
"""Larger images are decoded one at a time, so that a few of them neither fill the memory nor hold up all others."""

Source = bytes | NDArray[np.uint8]
Decoded = NDArray[np.uint8] | str

P = ParamSpec("P")
T = TypeVar("T")


class Decoder:
    """Decodes as training did.

    Args:
        classifier: Says what its images look like.
        threads: Images decoded at a time.
    """

    def __init__(self, classifier: Classifier, threads: int) -> None:
        self._classifier = classifier
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._alone = asyncio.Semaphore(1)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def run_alone(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Likewise, for what takes much memory or lets nothing else run: one such call at a time."""
        async with self._alone:
            return await self.run(function, *args, **kwargs)

    async def decode(self, sources: Sequence[Source]) -> list[Decoded]:
        """Each image in the network's own size, uint8 (S, S, C), or the reason why it cannot be read.

        Args:
            sources: Files' contents, or pixels as :func:`tintype.data.decode.decode_image` takes them.
        """
        return list(await asyncio.gather(*map(self._one, sources)))

    async def _one(self, source: Source) -> Decoded:
        found = await self.run(self.decode_unless_large, source)
        return await self.decode_large(source) if found is None else found

    async def decode_large(self, source: Source) -> Decoded:
        """Likewise, for one image when its turn has come."""
        return await self.run_alone(self._now, source)

    def decode_unless_large(self, source: Source) -> Decoded | None:
        """Likewise, in this very thread; None for a large image, of which nothing but the header has been read."""
        most = self._classifier.max_megapixels
        if isinstance(source, bytes) and most > LARGE_MEGAPIXELS:
            try:
                return decode_image(source, self._classifier.geometry, LARGE_MEGAPIXELS)
            except UnreadableImageError as error:
                return _reason(source, most, error)
        return self._now(source)

    def _now(self, source: Source) -> Decoded:
        try:
            return decode_image(source, self._classifier.geometry, self._classifier.max_megapixels)
        except UnreadableImageError as error:
            return str(error)

    def close(self) -> None:
        """End the threads; what has begun is finished."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _reason(source: bytes, most: float, error: UnreadableImageError) -> str | None:
    """Why an image was not decoded; None where it is large, within the limit. The header is read again only then."""
    try:
        header = read_header(source, most)
    except UnreadableImageError as refused:
        return str(refused)
    return None if header.width * header.height > 1e6 * LARGE_MEGAPIXELS else str(error)
