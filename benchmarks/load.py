"""A load generator: clients on loopback that each send the next request when they have the answer to the last.

`python load.py --port P --form FORM --images DIR` prints one line of JSON: answers a second and latencies. It uses
prepared requests, kept connections and raw sockets, so that it takes as little as possible of the cores it shares.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FORMS = ("form", "json")


def requests_of(images: Sequence[bytes], form: str) -> list[bytes]:
    """A request for each image, as it goes over the wire.

    Args:
        images: Contents of files.
        form: ``form`` is multipart with the field ``file``; ``json`` is base64 under ``image_data``.
    """
    found = []
    for image in images:
        if form == "json":
            kind, body = "application/json", json.dumps({"image_data": base64.b64encode(image).decode()}).encode()
        else:
            kind = "multipart/form-data; boundary=frontier"
            head = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
            body = head + b"Content-Type: image/jpeg\r\n\r\n" + image + b"\r\n--frontier--\r\n"
        lines = ("POST /predict HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", f"Content-Length: {len(body)}")
        found.append("\r\n".join((*lines, "", "")).encode() + body)
    return found


async def ask(port: int, requests: Sequence[bytes], first: int, begin: float, end: float) -> list[float]:
    """One client, from now until the end; the latencies of the answers that came after the beginning.

    Raises:
        RuntimeError: An answer was not 200.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    latencies = []
    number = first
    while (sent := time.perf_counter()) < end:
        writer.write(requests[number % len(requests)])
        number += 1
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:15]:
            raise RuntimeError(f"answered {head.decode('latin-1').splitlines()[0]}")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        answered = time.perf_counter()
        if begin <= answered <= end:
            latencies.append(answered - sent)
    writer.close()
    return latencies


async def load(port: int, requests: Sequence[bytes], clients: int, warm: float, seconds: float) -> dict[str, float]:
    """Answers a second and latencies in milliseconds, after a warm-up."""
    begin = time.perf_counter() + warm
    tasks = (ask(port, requests, 7 * client, begin, begin + seconds) for client in range(clients))
    latencies = sorted(latency for found in await asyncio.gather(*tasks) for latency in found)
    return {
        "answers": len(latencies),
        "per_second": len(latencies) / seconds,
        "p50": 1000 * statistics.median(latencies),
        "p99": 1000 * latencies[int(0.99 * (len(latencies) - 1))],
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--form", choices=FORMS, default="form")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--warm", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.images.rglob("*") if path.is_file())
    images = [file.read_bytes() for file in files[:: max(1, len(files) // 64)][:64]]
    requests = requests_of(images, arguments.form)
    found = asyncio.run(load(arguments.port, requests, arguments.clients, arguments.warm, arguments.seconds))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
