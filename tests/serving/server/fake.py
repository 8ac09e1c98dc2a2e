"""A classifier whose answers can be told by hand, and a process that serves it.

`python fake.py [KEY=VALUE ...]` serves it; the keys are those of Limits, and `seconds` and `token`. The first line on
stdout is the port.
"""

from __future__ import annotations

import io
import struct
import sys
import time
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tintype.data.decode import Geometry
from tintype.records import ImageStatistics
from tintype.serving.server.limits import Limits
from tintype.serving.server.service import Documents, Service

CLASSES = ("red", "green", "blue")
PHOTOS = ImageStatistics(
    n=100, mean=120, deviation=50, border=120, centre=120, dark_on_light=0.5, color=1, width=300, height=200, spread={}
)


class Colours:
    """Says which channel is brightest, as sure as its share of the light is large; looks where it is bright."""

    classes = CLASSES
    geometry = Geometry(16, 3, "stretch")
    statistics = PHOTOS
    threshold = 0.6
    max_megapixels = 20.0

    def __init__(self, seconds: float = 0.0, has_maps: bool = True) -> None:
        self.batches: list[int] = []
        self._seconds = seconds
        self._has_maps = has_maps

    def probabilities(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images_NHWC.shape[1:] == (16, 16, 3)
        self.batches.append(len(images_NHWC))
        time.sleep(self._seconds)
        light_NC = images_NHWC.mean(axis=(1, 2)) + 1e-3
        return np.asarray(light_NC / light_NC.sum(axis=1, keepdims=True), np.float32)

    def maps(self, images_NHWC: NDArray[np.uint8], classes_N: NDArray[np.int64]) -> NDArray[np.float32] | None:
        if not self._has_maps:
            return None
        rows = np.arange(len(images_NHWC))
        return np.asarray(images_NHWC[rows, ::4, ::4, classes_N] / 255, np.float32)


def png(red: int, green: int, blue: int, side: int = 20) -> bytes:
    """An image of one colour."""
    return encoded(Image.new("RGB", (side, side), (red, green, blue)))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def bomb(megapixels: int, rows: int | None = None) -> bytes:
    """A PNG of one colour, packed a thousandfold: so large by its header, with so many of its rows, or all."""
    side = int((megapixels * 1e6) ** 0.5)
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(1 + 3 * side)) for _ in range(rows or side)) + packer.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def form(*contents: bytes, boundary: str = "frontier") -> tuple[bytes, dict[str, str]]:
    """A multipart body with images, and its headers."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{number}.png"\r\n'
        f"Content-Type: image/png\r\n\r\n".encode()
        + content
        + b"\r\n"
        for number, content in enumerate(contents)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {
        "content-type": f"multipart/form-data; boundary={boundary}"
    }


def main() -> None:
    from tintype.serving.server.run import listen, run_server

    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    seconds, token = float(given.pop("seconds", 0)), given.pop("token", None)
    usual: dict[str, Any] = asdict(Limits())
    limits = Limits(**{name: type(usual[name])(value) for name, value in given.items()})
    service = Service(Colours(seconds), "colours", limits, token, Documents(b"<p>report</p>", b"<p>card</p>"))
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    run_server(service, listener, lambda: print(port, flush=True))
    print("drained", flush=True)


if __name__ == "__main__":
    main()
