"""The Open Inference Protocol, as its specification writes requests and answers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from serving.server.fake import Colours
from starlette.testclient import TestClient

from tintype.serving.server.app import make_app
from tintype.serving.server.limits import Limits
from tintype.serving.server.service import Service

INFER = "/v2/models/colours/infer"
PIXELS = np.zeros((2, 3, 5, 3), np.uint8)
PIXELS[0, :, :, 1] = 200
PIXELS[1] = (60, 70, 80)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(make_app(Service(Colours(), "colours", Limits(images=4, text_bytes=40_000)))) as client:
        yield client


def tensor(**changes: Any) -> dict[str, Any]:
    return {
        "name": "images", "datatype": "UINT8", "shape": list(PIXELS.shape), "data": PIXELS.ravel().tolist(), **changes
    }  # fmt: skip


def test_metadata_of_server_and_model(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "tintype"
    model = client.get("/v2/models/colours").json()
    assert model["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert [(output["name"], output["datatype"], output["shape"]) for output in model["outputs"]] == [
        ("probabilities", "FP32", [-1, 3]), ("label", "BYTES", [-1]), ("sure", "BOOL", [-1]),
    ]  # fmt: skip
    assert client.get("/v2/models/colours/ready").json() == {"name": "colours", "ready": True}
    assert client.get("/v2/models/other").status_code == 404
    assert client.post("/v2/models/other/infer", json={}).json() == {
        "error": "there is no such model; this server has colours."
    }


@pytest.mark.parametrize("data", [PIXELS.ravel().tolist(), PIXELS.tolist()], ids=["flat", "nested"])
def test_numbers_in_json(client: TestClient, data: list[Any]) -> None:
    answer = client.post(INFER, json={"id": "7", "inputs": [tensor(data=data)]}).json()
    assert (answer["model_name"], answer["id"]) == ("colours", "7")
    found = {output["name"]: output for output in answer["outputs"]}
    assert found["probabilities"]["shape"] == [2, 3]
    probabilities = np.asarray(found["probabilities"]["data"], np.float64).reshape(2, 3)
    assert np.allclose(probabilities, np.array([[0, 1, 0], [60 / 210, 70 / 210, 80 / 210]]), atol=1e-4)
    assert found["label"]["data"] == ["green", "blue"]
    assert found["sure"]["data"] == [True, False]


def test_only_the_outputs_that_are_asked_for(client: TestClient) -> None:
    answer = client.post(INFER, json={"inputs": [tensor()], "outputs": [{"name": "label"}]}).json()
    assert "id" not in answer
    assert [output["name"] for output in answer["outputs"]] == ["label"]


def test_bytes_behind_the_json_both_ways(client: TestClient) -> None:
    image = tensor(parameters={"binary_data_size": PIXELS.size})
    del image["data"]
    head = json.dumps({"inputs": [image], "parameters": {"binary_data_output": True}}).encode()
    response = client.post(
        INFER, content=head + PIXELS.tobytes(), headers={"Inference-Header-Content-Length": str(len(head))}
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    outputs = json.loads(response.content[:length])["outputs"]
    rest = response.content[length:]
    sizes = [output["parameters"]["binary_data_size"] for output in outputs]
    assert sum(sizes) == len(rest)
    probabilities, labels, sure = (
        rest[: sizes[0]], rest[sizes[0] : sizes[0] + sizes[1]], rest[sizes[0] + sizes[1] :]
    )  # fmt: skip
    assert np.frombuffer(probabilities, "<f4").reshape(2, 3)[0].argmax() == 1
    assert labels == struct.pack("<I", 5) + b"green" + struct.pack("<I", 4) + b"blue"
    assert sure == b"\x01\x00"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 3000, "not JSON"),
        (b"[]", "must be a JSON object"),
        ({}, "inputs must hold one tensor"),
        ({"inputs": [tensor(), tensor()]}, "inputs must hold one tensor"),
        ({"inputs": [tensor()], "id": 7}, "id must be text"),
        ({"inputs": [tensor(name="pictures")]}, "images of datatype UINT8"),
        ({"inputs": [tensor(datatype="FP32")]}, "images of datatype UINT8"),
        ({"inputs": [tensor(shape=[2, 3, 5])]}, "shape must be"),
        ({"inputs": [tensor(shape=[2, 3, 5, True])]}, "shape must be"),
        ({"inputs": [tensor(shape=[2, 3, 5, -3])]}, "shape must be"),
        ({"inputs": [tensor(shape=[0, 3, 5, 3])]}, "shape must be"),
        ({"inputs": [tensor(shape=[2, 3, 6, 3])]}, "must be 108 numbers, as the shape says. Got 90"),
        ({"inputs": [tensor(data=None)]}, "list of numbers"),
        ({"inputs": [tensor(data=[[1, 2], [3]])]}, "as many in each row"),
        ({"inputs": [tensor(data=[10**400] * 90)]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[256] * 90)]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[-1] * 90)]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[0.5] * 90)]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=["1"] * 90)]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(data=[True] * 90)]}, "whole numbers from 0 to 255"),
        ({"inputs": [tensor(parameters=3)]}, "parameters must be an object"),
        ({"inputs": [tensor(parameters={"binary_data_size": 90})]}, "binary_data_size and the bytes"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, "outputs are probabilities, label, sure"),
        ({"inputs": [tensor()], "outputs": ["label"]}, "list of objects"),
    ],
)
def test_a_wrong_request_is_400_and_says_what_is_wrong(client: TestClient, content: Any, words: str) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    response = client.post(INFER, content=body)
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999", "²", "9" * 5000])
def test_a_wrong_header_length_is_400(client: TestClient, length: str) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode()}
    response = client.post(INFER, content=b"{}", headers=headers)
    assert response.status_code == 400
    assert "Inference-Header-Content-Length" in response.json()["error"]


def test_a_tensor_that_claims_to_be_huge_takes_no_memory(client: TestClient) -> None:
    response = client.post(INFER, json={"inputs": [tensor(shape=[4, 2**30, 2**30, 3])]})
    assert response.status_code == 400


def test_too_many_images_and_too_much_text_are_413(client: TestClient) -> None:
    many = tensor(shape=[5, 1, 1, 3], data=[0] * 15)
    assert client.post(INFER, json={"inputs": [many]}).status_code == 413
    response = client.post(INFER, content=b" " * 40_001)
    assert response.status_code == 413
    assert "larger than" in response.json()["error"]
