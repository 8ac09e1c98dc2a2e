"""The routes of people and scripts, without a network: what is answered, what is refused, and which headers protect."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving.server.fake import Colours, bomb, encoded, form, png
from starlette.testclient import TestClient

from tintype.serving.server.app import make_app
from tintype.serving.server.limits import Limits
from tintype.serving.server.service import Documents, Service

TOKEN = "a-token-of-more-than-16"
RED, DULL = png(220, 20, 20), png(90, 80, 100)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(make_app(Service(Colours(), "colours", Limits(images=4), documents=Documents(b"<p>r")))) as client:
        yield client


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestClient]:
    with TestClient(make_app(Service(Colours(), "colours", token=TOKEN, documents=Documents(b"", b"card")))) as client:
        yield client


def predict(client: TestClient, *contents: bytes, query: str = "") -> tuple[int, Any]:
    body, headers = form(*contents)
    response = client.post(f"/predict{query}", content=body, headers=headers)
    return response.status_code, response.json()


def test_each_image_is_answered_in_its_place(client: TestClient) -> None:
    status, answer = predict(client, RED, b"no image", DULL)
    assert status == 200
    assert (answer["model"], answer["threshold"]) == ("colours", 0.6)
    first, broken, last = answer["predictions"]
    assert (first["name"], first["label"], first["sure"]) == ("0.png", "red", True)
    assert first["probability"] == first["probabilities"]["red"] == pytest.approx(220 / 260, abs=1e-4)
    assert list(first["probabilities"]) == ["red", "green", "blue"]
    assert (broken["name"], broken["label"], broken["sure"]) == ("1.png", "", False)
    assert "not a readable image" in broken["error"]
    assert (last["label"], last["sure"]) == ("blue", False)


def test_top_names_the_most_probable_classes_alone(client: TestClient) -> None:
    _, answer = predict(client, DULL, query="?top=2")
    assert [item["label"] for item in answer["predictions"][0]["top"]] == ["blue", "red"]
    assert "probabilities" not in answer["predictions"][0]


def test_one_image_may_be_the_whole_body(client: TestClient) -> None:
    response = client.post("/predict", content=RED, headers={"content-type": "image/png"})
    assert response.status_code == 200
    assert response.json()["predictions"][0]["label"] == "red"


def test_an_explanation_is_the_picture_beside_itself_under_the_map(client: TestClient) -> None:
    left_half = np.zeros((16, 16, 3), np.uint8)
    left_half[:, :8, 0] = 255
    _, answer = predict(client, encoded(Image.fromarray(left_half)), query="?explain=true")
    picture = Image.open(io.BytesIO(base64.b64decode(answer["predictions"][0]["explanation"])))
    pixels = np.asarray(picture).astype(int)
    side = pixels.shape[0]
    colour = np.ptp(pixels[:, -side:], axis=2)  # grey where the network did not look
    assert colour[:, : side // 4].mean() > 5 * colour[:, -side // 4 :].mean()


def test_a_network_without_maps_answers_without_a_picture() -> None:
    with TestClient(make_app(Service(Colours(has_maps=False), "colours"))) as client:
        status, answer = predict(client, RED, query="?explain=true")
    assert (status, answer["predictions"][0]["label"]) == (200, "red")
    assert "explanation" not in answer["predictions"][0]


def test_images_that_cannot_be_read_are_422_with_the_reason(client: TestClient) -> None:
    status, answer = predict(client, b"", png(1, 2, 3)[:60])
    assert status == 422
    assert "0 bytes" in answer["predictions"][0]["error"]
    assert answer["predictions"][1]["error"]


def test_a_bomb_is_refused_by_its_header(client: TestClient) -> None:
    status, answer = predict(client, bomb(400, rows=100))
    assert status == 422
    assert "400.0 megapixels" in answer["predictions"][0]["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "curl -F images=@cat.jpg"),
        (b"x", {}, 415, "missing"),
        (b"x", {"content-type": "multipart/form-data"}, 400, "no boundary"),
        (b"x", {"content-type": "multipart/form-data; boundary=b"}, 400, "damaged"),
        (b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}, 422, "no image"),
        (form(RED)[0][:-20], form()[1], 400, "last boundary"),
        (form(*[RED] * 5)[0], form()[1], 413, "more than 4 images"),
        (
            b'--b\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n--b--\r\n',
            {"content-type": "multipart/form-data; boundary=b"},
            422,
            "'top' is no file",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    client: TestClient, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    response = client.post("/predict", content=body, headers=headers)
    assert response.status_code == status
    assert words in response.json()["error"]
    assert "\n" not in response.json()["error"]


def test_a_wrong_option_is_named(client: TestClient) -> None:
    status, answer = predict(client, RED, query="?top=0")
    assert (status, answer["error"]) == (422, "top: Input should be greater than or equal to 1.")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/predict", 405)])
def test_wrong_addresses_are_one_line_too(client: TestClient, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize("path", ["/report/../../etc/passwd", "/page/index.html", "/..%2f..%2fetc%2fpasswd", "/card"])
def test_no_other_file_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_failing_network_is_500_without_a_traceback() -> None:
    class Broken(Colours):
        def probabilities(self, images_NHWC: Any) -> Any:
            if len(images_NHWC) == 1:
                raise RuntimeError("secret")
            return super().probabilities(images_NHWC)

    with TestClient(make_app(Service(Broken(), "colours")), raise_server_exceptions=False) as client:
        status, answer = predict(client, RED)
        assert (status, list(answer)) == (500, ["error"])
        assert "secret" not in answer["error"]
        assert predict(client, RED, RED)[0] == 200  # the thread goes on


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/about", "/metrics", "/openapi.json", "/nowhere"])
def test_every_answer_protects_the_browser(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/").text
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)|javascript:", page)
    for text in (page, client.get("/page.js").text, client.get("/page.css").text):
        assert not re.search(r"https?://|url\((?!data:)|@import|innerHTML|eval\(", text)


def test_the_report_may_use_its_own_style_sheet_and_no_script(client: TestClient) -> None:
    response = client.get("/report")
    assert response.text == "<p>r"
    assert "script-src" not in response.headers["content-security-policy"]
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert client.get("/about").json()["report"] is True
    assert client.get("/about").json()["card"] is False


def test_the_interface_is_described_and_no_page_loads_scripts_from_elsewhere(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {"/predict", "/v2/models/{name}/infer", "/v2/health/ready", "/metrics"} <= set(described["paths"])
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert body["multipart/form-data"]["schema"]["properties"]["images"]["type"] == "array"
    assert client.get("/docs").status_code == 404


def test_metrics_count_requests_images_and_batches() -> None:
    with TestClient(make_app(Service(Colours(), "colours"))) as client:
        predict(client, RED, DULL, b"broken")
        client.get("/a-path-of-the-clients-own")
        text = client.get("/metrics").text
    for line in (
        'tintype_requests_total{route="/predict",status="200"} 1.0',
        'tintype_requests_total{route="other",status="404"} 1.0',
        'tintype_images_total{outcome="sure"} 1.0',
        'tintype_images_total{outcome="unsure"} 1.0',
        'tintype_images_total{outcome="unreadable"} 1.0',
        'tintype_labels_total{label="red"} 1.0',
        "tintype_batch_images_sum 2.0",
        "tintype_pending_images 0.0",
        "tintype_held_bytes 0.0",
    ):
        assert line in text
    assert "clients-own" not in text


def test_without_the_token_only_health_and_the_bare_page_answer(guarded: TestClient) -> None:
    for path in ("/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"):
        assert guarded.get(path).status_code == 200
    for path in ("/about", "/card", "/metrics", "/openapi.json", "/v2", "/v2/models/colours", "/nowhere"):
        assert guarded.get(path).status_code == 401, path
    assert predict(guarded, RED)[0] == 401


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200), (f"bearer {TOKEN}", 200), (f"Bearer {TOKEN[:-1]}", 401), (f"Bearer {TOKEN}x", 401),
        (f"Basic {TOKEN}", 401), (TOKEN, 401), ("Bearer ", 401), ("Bearer é", 401),
    ],
)  # fmt: skip
def test_the_token_opens(guarded: TestClient, header: str, status: int) -> None:
    answer = guarded.get("/about", headers={b"authorization": header.encode("latin-1")})
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_page_gets_a_cookie_that_is_not_the_token(guarded: TestClient) -> None:
    assert guarded.post("/session", content="wrong").status_code == 401
    assert guarded.get("/card").status_code == 401
    response = guarded.post("/session", content=TOKEN)
    assert response.status_code == 204
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get("/card").text == "card"
    assert predict(guarded, RED)[0] == 200
    guarded.cookies.clear()
    assert guarded.get("/card", headers={"cookie": f"tintype={TOKEN}"}).status_code == 401


def test_ready_says_no_and_connections_end_once_it_drains() -> None:
    service = Service(Colours(), "colours")
    with TestClient(make_app(service)) as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        service.is_draining = True
        response = client.get("/v2/health/ready")
        assert (response.status_code, response.json()) == (503, {"ready": False})
        assert response.headers["connection"] == "close"
        assert client.get("/v2/health/live").status_code == 200
        assert predict(client, RED)[0] == 200  # what still comes is still answered
