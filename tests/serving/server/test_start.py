"""`tintype serve` as its users start it: what it says, what it refuses, and that an export is really served."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from serving.server.fake import PHOTOS, form, png
from serving.server.process import Served

from tintype.errors import ConfigError, RunError
from tintype.serving.exported import EXPORT_FORMAT, FACTS
from tintype.serving.predictor import EXPORT_FOLDER, EXPORTED_MODEL
from tintype.serving.server.guard import read_token
from tintype.serving.server.run import listen
from tintype.serving.server.start import model_name, serve

TOKEN = "0123456789abcdef0123"


def write_export(run: Path) -> Path:
    """An export whose network says which channel is brightest, with a report beside it."""
    export = run / EXPORT_FOLDER
    export.mkdir(parents=True)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["light"], keepdims=0),
        helper.make_node("Softmax", ["light"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    facts = {
        "format": EXPORT_FORMAT, "classes": ["red", "green", "blue"], "statistics": asdict(PHOTOS), "threshold": 0.5,
        "geometry": {"size": 16, "channels": 3, "resize": "stretch"}, "max_megapixels": 20, "name": "my colours",
    }  # fmt: skip
    helper.set_model_props(model, {FACTS: json.dumps(facts)})
    onnx.save(model, export / EXPORTED_MODEL)
    (run / "report.html").write_text("<p>the report")
    (export / "card.html").write_text("<p>the card")
    return export


def tintype_serve(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tintype", "serve", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_run_is_served_by_its_export_until_it_is_stopped(tmp_path: Path) -> None:
    write_export(tmp_path / "run")
    process = tintype_serve(tmp_path / "run", "--port", "0", "--access-log")
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(r"serving my-colours on http://127\.0\.0\.1:(\d+)  \(Ctrl-C stops\)\n", line)
        assert found, line + process.stderr.read()
        server = Served(process, int(found[1]))
        body, headers = form(png(9, 200, 9))
        status, _, answer = server.ask("/predict?top=1", "POST", body, content_type=headers["content-type"])
        assert (status, json.loads(answer)["predictions"][0]["top"][0]["label"]) == (200, "green")
        assert json.loads(server.ask("/v2/models/my-colours")[2])["name"] == "my-colours"
        assert server.ask("/report")[2] == b"<p>the report"
        assert server.ask("/card")[2] == b"<p>the card"
        # An export needs no torch, and should not spend seconds and memory on it.
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "")
    *log, last = errors.splitlines()
    assert last == "stopped; everything that was accepted is answered"
    assert len(log) == 4
    assert all(re.search(r'127\.0\.0\.1:\d+ - "(GET|POST) /\S+ HTTP/1\.1" 200$', entry) for entry in log), log


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    export = write_export(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = tintype_serve(export, "--port", str(port))
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, "")
    assert errors == (
        f"tintype: 127.0.0.1:{port} cannot be listened on: Address already in use. "
        "Choose others with --host and --port.\n"
    )


def test_an_address_of_another_machine_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"203\.0\.113\.9:8000 cannot be listened on"):
        listen("203.0.113.9", 8000)
    with pytest.raises(ConfigError, match=r"port must be from 0 to 65535\. Got 99999"):
        listen("127.0.0.1", 99999)


def test_it_listens_on_this_machine_alone_unless_told_otherwise(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with listen("0.0.0.0", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=str(tmp_path)):
        serve(tmp_path, port=0)


@pytest.mark.parametrize("name", ["max_upload", "queue", "batch"])
def test_options_must_be_positive(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be more than 0. Got 0"):
        serve(tmp_path, port=0, **{name: 0})  # type: ignore[arg-type]


def test_the_token_comes_from_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINTYPE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("TINTYPE_TOKEN", TOKEN + "env")
    assert read_token(None) == TOKEN + "env"
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN


@pytest.mark.parametrize("content", ["", "short", "two words of more than sixteen", "ümlaute-sind-nicht-ascii"])
def test_a_token_that_protects_nothing_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="at least 16 visible ASCII characters"):
        read_token(tmp_path / "token")


def test_a_token_file_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff" * 20)
    with pytest.raises(ConfigError, match="it is no text"):
        read_token(tmp_path / "binary")
    monkeypatch.setenv("TINTYPE_TOKEN", "")  # set, but to nothing: not the same as no token
    with pytest.raises(ConfigError, match="TINTYPE_TOKEN must hold"):
        read_token(None)


@pytest.mark.parametrize(
    ("name", "address"), [("cats", "cats"), ("my cats/2", "my-cats-2"), ("../..", "model"), ("Größe.v2", "Gr-e.v2")]
)
def test_a_model_has_a_name_that_can_stand_in_an_address(name: str, address: str) -> None:
    assert model_name(name) == address
