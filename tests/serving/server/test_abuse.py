"""What a server on an open network meets: sizes, slowness, bombs, nonsense, and an end in the middle of it all."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from serving.server.fake import bomb, form, png
from serving.server.process import Served, is_closed, parse, read_all, served

MIB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """One for all tests that leave it as it was; at the end it must have written nothing on stderr."""
    with served(body_bytes=MIB, text_bytes=MIB, head_seconds=1, body_seconds=2, connections=300) as server:
        yield server


def label(server: Served, content: bytes) -> str:
    body, headers = form(content)
    status, _, answer = server.ask("/predict", "POST", body, content_type=headers["content-type"])
    assert status == 200
    return str(json.loads(answer)["predictions"][0]["label"])


def slowest_health(server: Served, send: Callable[[], None], clients: int) -> float:
    """Seconds of the slowest answer to the health check while clients send at once."""
    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in threads):
        slowest = max(slowest, server.health_seconds())
    return slowest


def test_it_answers(server: Served) -> None:
    assert label(server, png(10, 200, 10)) == "green"


def test_several_requests_on_one_connection(server: Served) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"live":true}'):
                answer += connection.recv(65536)


def test_an_upload_that_says_it_is_too_large_is_413_before_it_comes(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 99999999999\r\n\r\n"
        )
        begin = time.perf_counter()
        answer = connection.recv(65536)
        assert time.perf_counter() - begin < 1
        assert b" 413 " in answer
        assert b"connection: close" in answer


@pytest.mark.parametrize("is_chunked", [False, True], ids=["content-length", "chunked"])
def test_a_client_that_sends_too_much_and_then_reads_gets_its_413(server: Served, is_chunked: bool) -> None:
    body = b"\0" * (4 * MIB)
    framing = "transfer-encoding: chunked" if is_chunked else f"content-length: {len(body)}"
    with server.connect() as connection:
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\n{framing}\r\n\r\n".encode()
        )
        for begin in range(0, len(body), 65536):
            piece = body[begin : begin + 65536]
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
        if is_chunked:
            connection.sendall(b"0\r\n\r\n")
        status, _, answer = parse(read_all(connection))
    assert status == 413
    assert json.loads(answer) == {"error": "the request is larger than 1 MiB."}
    assert server.metric("tintype_held_bytes") == 0


def test_an_endless_chunked_upload_is_cut(server: Served) -> None:
    sent = 0
    with server.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        with suppress(OSError):
            while sent < 500 * MIB:
                connection.sendall(b"10000\r\n" + b"\0" * 65536 + b"\r\n")
                sent += 65536
    assert sent < 200 * MIB
    assert server.resident() < 400


def test_a_body_of_single_byte_chunks_is_cut_at_once(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        with suppress(OSError):
            connection.sendall(b"1\r\nx\r\n" * 100_000)
        begin = time.perf_counter()
        assert read_all(connection) == b""
        assert time.perf_counter() - begin < 1
    assert server.health_seconds() < 1


def test_a_chunked_upload_of_ordinary_chunks_is_answered(server: Served) -> None:
    content = png(200, 10, 10) + bytes(100_000)  # what stands behind an image is ignored
    with server.connect() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: image/png\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for begin in range(0, len(content), 700):
            piece = content[begin : begin + 700]
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        status, _, answer = parse(read_all(connection))
    assert (status, json.loads(answer)["predictions"][0]["label"]) == (200, "red")


def test_two_hundred_slow_connections_are_cut_and_hold_up_nobody(server: Served) -> None:
    """Headers that never end, bodies that never end, and connections that say nothing."""
    beginnings = (
        b"",
        b"POST /predict HT",
        b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nx-a: b\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 100000\r\n\r\nabc",
        b"POST /v2/models/colours/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{",
        b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{",
    )
    begin = time.perf_counter()
    with ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.sendall(beginnings[number % len(beginnings)])
        assert server.metric("tintype_connections") > 150
        left = list(slow)
        while left and time.perf_counter() - begin < 12:
            assert server.health_seconds() < 1
            left = [connection for connection in left if not is_closed(connection)]
            for number, connection in enumerate(slow):
                if connection in left and beginnings[number % len(beginnings)]:
                    with suppress(OSError):  # one more byte, so that it is not idle
                        connection.sendall(b"a")
            time.sleep(0.25)
        assert left == []
    assert time.perf_counter() - begin < 12  # deadlines of 1 and 2 s here; 10 and 20 s by default
    assert label(server, png(10, 10, 200)) == "blue"


def test_a_slow_body_is_told_so(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
        status, headers, answer = parse(read_all(connection))
    assert status == 408
    assert headers["connection"] == "close"
    assert "within 2 seconds" in json.loads(answer)["error"]


def test_a_client_that_does_not_read_is_cut(server: Served) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(30)
        with suppress(OSError):
            connection.sendall(b"GET /page.js HTTP/1.1\r\nhost: x\r\n\r\n" * 2000)
        begin = time.perf_counter()
        while server.metric("tintype_connections") > 1:
            assert time.perf_counter() - begin < 15
            assert server.health_seconds() < 1
            time.sleep(0.2)


@pytest.mark.slow
def test_at_the_limit_the_longest_silent_connection_makes_room() -> None:
    with served(connections=20) as server, ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(60)]
        time.sleep(0.3)
        assert server.health_seconds() < 1
        assert sum(map(is_closed, silent)) >= 40
        assert not is_closed(silent[-1])


@pytest.mark.slow
def test_at_the_limit_of_busy_connections_a_new_one_is_told_so() -> None:
    with served(connections=3, seconds=1.0, batch=1) as server, ExitStack() as stack:
        body = png(200, 10, 10)
        request = b"POST /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: image/png\r\n"
        request += b"content-length: %d\r\n\r\n%s" % (len(body), body)
        busy = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in busy:
            connection.sendall(request)
        time.sleep(0.3)
        with server.connect() as refused:
            status, headers, answer = parse(read_all(refused))
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(answer) == {"error": "there are too many connections."}
        assert [parse(read_all(connection))[0] for connection in busy] == [200, 200, 200]


@pytest.mark.slow
def test_a_full_queue_is_503_with_retry_after() -> None:
    with served(queue=2, batch=1, seconds=0.3) as server:
        outcomes = load(server, clients=8, seconds=1.5)
        assert set(outcomes) == {200, 503}
        status, headers, _ = server.ask("/metrics")
        assert status == 200
        assert "retry-after" not in headers
        assert server.metric('tintype_requests_total{route="/predict",status="503"}') == outcomes.count(503)


@pytest.mark.slow
def test_too_much_in_memory_at_once_is_503() -> None:
    with served(body_bytes=MIB, buffered_bytes=2 * MIB) as small, ExitStack() as stack:
        holding = [stack.enter_context(small.connect()) for _ in range(4)]
        for connection in holding:
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n" + bytes(800_000))
        deadline = time.perf_counter() + 5
        while not (answered := [item for item in holding if select_readable(item)]):
            assert time.perf_counter() < deadline
        status, headers, _ = parse(read_all(answered[0]))
        assert (status, headers["retry-after"]) == (503, "1")
        assert small.health_seconds() < 1


@pytest.mark.slow
def test_tensors_written_as_text_hold_up_nobody() -> None:
    """4 MiB of numbers are two million Python objects, made while nothing else runs."""
    with served() as server:
        count = 2 * MIB - 100
        side = int((count / 3) ** 0.5)
        numbers = ",".join(["0"] * (3 * side * side))
        shape = f"[1,{side},{side},3]"
        body = f'{{"inputs":[{{"name":"images","datatype":"UINT8","shape":{shape},"data":[{numbers}]}}]}}'.encode()
        statuses: list[int] = []

        def send() -> None:
            statuses.append(server.ask("/v2/models/colours/infer", "POST", body)[0])

        slowest = slowest_health(server, send, 8)
        assert statuses == [200] * 8
        assert slowest < 1
        assert server.resident() < 900


@pytest.mark.slow
def test_forms_full_of_near_boundaries_hold_up_nobody() -> None:
    with served() as server:
        _, headers = form()
        body = b'--frontier\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
        body += b"\r\n--frontierX" * (18 * MIB // 13) + b"\r\n--frontier--\r\n"
        statuses: list[int] = []

        def send() -> None:
            statuses.append(server.ask("/predict", "POST", body, content_type=headers["content-type"])[0])

        slowest = slowest_health(server, send, 4)
        assert statuses == [422] * 4
        assert slowest < 1


def select_readable(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        connection.settimeout(20)


def test_bombs_are_refused_unread_and_large_images_wait_for_one_another(server: Served) -> None:
    """400 megapixels are refused by the header; 19.9, just within the limit, are decoded one at a time."""
    small, large = bomb(19), bomb(400, rows=1000)
    assert len(small) < 300_000
    assert server.ask("/predict", "POST", small, content_type="image/png")[0] == 200
    before = server.resident()
    statuses = []

    def send(content: bytes) -> None:
        statuses.append(server.ask("/predict", "POST", content, content_type="image/png")[0])

    threads = [threading.Thread(target=send, args=(content,)) for content in [small] * 6 + [large] * 20]
    for thread in threads:
        thread.start()
    most = before
    while any(thread.is_alive() for thread in threads):
        assert server.health_seconds() < 1
        most = max(most, server.resident())
        time.sleep(0.02)
    assert sorted(statuses) == [200] * 6 + [422] * 20
    assert most - before < 250  # one needs about 60 MiB, six at once would need 360


def nonsense(number: int) -> bytes:
    """A request that is wrong in some way; the same for the same number."""
    rng = random.Random(number)
    body, headers = form(*[png(rng.randrange(256), 0, 0)] * rng.randrange(1, 3))
    paths = ["/predict", "/v2/models/colours/infer", "/session", "/", "/v2/models/..%2f..%2fetc/infer", "/report"]
    path = rng.choice([*paths, "/" + "".join(rng.choice("/.%2e\\:?#&=abc~") for _ in range(rng.randrange(60)))])
    if path == paths[1]:
        body = json.dumps(
            {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}]}
        ).encode()
    damaged = bytearray(body)
    for _ in range(rng.choice([0, 1, 3, 50])):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    damaged = damaged[: rng.choice([len(damaged), rng.randrange(len(damaged) + 1)])]
    kind = rng.choice(
        [headers["content-type"], "image/jpeg", 'multipart/form-data; boundary="', "application/json", "é", ""]
    )
    length = rng.choice([str(len(damaged))] * 6 + ["0", "-1", "1e9", "99999999999999999999999", f"{len(damaged)}, 3"])
    method = rng.choice(["POST", "POST", "POST", "GET", "HEAD", "PUT", "OPTIONS", "BREW"])
    lines = [
        f"{method} {path} HTTP/1.{rng.choice('1110')}",
        "host: x",
        "connection: close",
        f"content-type: {kind}",
    ]
    if rng.random() < 0.1:
        lines.append("transfer-encoding: chunked")
    lines += rng.choice([[f"content-length: {length}"]] * 8 + [[], ["upgrade: websocket", "connection: upgrade"]])
    lines += rng.choice([[]] * 8 + [["inference-header-content-length: 5"], ["cookie: tintype=\x00\xff"]])
    request = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + bytes(damaged)
    if rng.random() < 0.15:
        raw = bytearray(request)
        for _ in range(rng.randrange(1, 30)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        request = bytes(raw)
    return request


@pytest.mark.parametrize("count", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_requests_of_nonsense(server: Served, count: int) -> None:
    """Each is answered with a status that blames the client, or its connection is closed; nothing is left behind."""
    for number in range(200):  # warm
        throw(server, nonsense(100_000 + number))
    before = server.resident()
    slowest = 0.0
    for number in range(count):
        answer = throw(server, nonsense(number))
        assert b"Traceback" not in answer
        if answer:
            assert int(answer.split(b" ", 2)[1]) not in range(500, 600), (number, answer)
        if number % 50 == 0:
            slowest = max(slowest, server.health_seconds())
    assert slowest < 1
    assert server.resident() - before < 30
    assert server.metric("tintype_pending_images") == server.metric("tintype_held_bytes") == 0
    assert label(server, png(10, 200, 10)) == "green"


def throw(server: Served, request: bytes) -> bytes:
    with server.connect() as connection:
        with suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def load(server: Served, clients: int, seconds: float) -> list[int]:
    """Statuses of clients that ask one after the other, each on a connection that it keeps as long as it may."""
    statuses: list[int] = []
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=client, args=(server, end, statuses)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def client(server: Served, end: float, statuses: list[int]) -> None:
    """Ask until the time is over or the server takes no connection. 0 is a request that got no answer."""
    body = png(200, 10, 10)
    request = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n" % len(body)
    while time.perf_counter() < end:
        try:
            connection = server.connect()
        except OSError:
            return
        with connection:
            is_kept = True
            while is_kept and time.perf_counter() < end:
                try:
                    connection.sendall(request + body)
                    answer = read_one(connection)
                except OSError:
                    answer = b""
                if not answer:
                    statuses.append(0)
                    return
                statuses.append(int(answer.split(b" ", 2)[1]))
                is_kept = b"connection: close" not in answer


def read_one(connection: socket.socket) -> bytes:
    """One answer on a connection that may go on."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return answer


def test_sigterm_under_load_loses_nothing_that_was_accepted() -> None:
    with served(seconds=0.05, batch=4, check=False) as server:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=client, args=(server, time.perf_counter() + 20, statuses)) for _ in range(24)
        ]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        answered = len(statuses)
        begin = time.perf_counter()
        output, errors = server.stop()
        assert time.perf_counter() - begin < 5
        for thread in threads:
            thread.join()
    assert server.process.returncode == 0
    assert (output, errors) == ("drained\n", "")
    assert answered > 50
    assert set(statuses) == {200}  # also those in flight, and those whose connection was only just made


@pytest.mark.slow
def test_a_slow_client_does_not_hold_up_the_end() -> None:
    with served(head_seconds=1, body_seconds=2, check=False) as server, server.connect() as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
        time.sleep(0.2)
        begin = time.perf_counter()
        _, errors = server.stop()
        assert time.perf_counter() - begin < 8
        assert parse(read_all(slow))[0] == 408
        assert errors == ""
