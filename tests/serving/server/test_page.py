"""The page in a real browser: a real upload, what it shows, what it says to a screen reader, and what it asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving.server.devtools import Chromium
from serving.server.fake import encoded, png
from serving.server.process import Served, served

TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(body_bytes=200_000) as server:
        yield server


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path / "profile") as browser:
        yield browser


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A red picture that is bright on its left, a dull one, and no picture."""
    left = np.zeros((120, 160, 3), np.uint8)
    left[:, :80] = (230, 30, 30)
    contents = {"left.png": encoded(Image.fromarray(left)), "dull.png": png(90, 80, 100), "broken.png": b"nothing"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def test_an_upload_shows_classes_doubt_and_where_it_looked(
    server: Served, chromium: Chromium, pictures: list[Path]
) -> None:
    address = f"http://127.0.0.1:{server.port}"
    chromium.open(f"{address}/")
    chromium.wait_for("!document.getElementById('choose').hidden")
    assert chromium.value("document.title") == "colours · tintype"
    assert "red, green, blue" in chromium.value("document.getElementById('classes').textContent")
    chromium.choose_files("#files", *pictures)
    chromium.wait_for("document.querySelectorAll('.answer').length === 3")
    broken, dull, left = (
        chromium.value(f"document.querySelectorAll('.answer')[{number}].innerText") for number in range(3)
    )
    assert left.startswith("red, ")
    assert "Not sure: perhaps blue, 37.0 %" in dull
    assert "Below 60.0 %" in dull
    assert "not a readable image" in broken
    # Bars are as wide as their class is probable, and the probabilities stand beside them.
    bars = chromium.value(
        "[...document.querySelectorAll('.answer')[1].querySelectorAll('.bar span')].map("
        "bar => bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width)"
    )
    assert bars == pytest.approx([0.370, 0.333, 0.296], abs=0.01)
    # Where it looked: the picture is there, and it says in words what it is.
    chromium.wait_for("[...document.querySelectorAll('.looked img')].every(image => image.naturalWidth > 0)")
    assert chromium.value("document.querySelectorAll('.looked img').length") == 2
    assert "where it looked for red" in chromium.value("document.querySelectorAll('.looked img')[1].alt")
    assert "broken.png: Not readable" in chromium.value("document.getElementById('status').textContent")
    if target := os.environ.get("TINTYPE_SCREENSHOT"):
        chromium.screenshot(Path(target))
    # Nothing refused by the policy, no error of the script; the browser notes the answer to broken.png.
    assert [words for words in chromium.said if "422 (Unprocessable Entity)" not in words] == []
    assert all(url.startswith((address, "blob:", "data:")) for url in chromium.requested), chromium.requested


def test_it_can_be_used_without_a_mouse_and_read_aloud(server: Served, chromium: Chromium) -> None:
    chromium.open(f"http://127.0.0.1:{server.port}/")
    chromium.wait_for("!document.getElementById('choose').hidden")
    seen = []
    for _ in range(4):
        chromium.press("Tab")
        seen.append(chromium.value("document.activeElement.id"))
    assert seen == ["report", "card", "files", "camera"]
    # The input itself is invisible; what shows the focus is its label.
    assert chromium.value("getComputedStyle(document.querySelector('label[for=camera]')).outlineStyle") == "solid"
    tree = chromium.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if not node["ignored"]}
    assert {("link", "How good it is: the report"), ("link", "What it is for: the model card")} <= named
    assert any(name == "Choose pictures" for _, name in named)
    assert any(name == "Take a picture" for _, name in named)
    assert ("heading", "What is in this picture?") in named
    assert {"main", "status", "navigation", "contentinfo", "banner"} <= {role for role, _ in named}
    assert chromium.value("document.getElementById('camera').getAttribute('capture')") == "environment"


def test_what_is_too_large_is_said_before_it_is_sent(server: Served, chromium: Chromium, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(300_000))
    chromium.open(f"http://127.0.0.1:{server.port}/")
    chromium.wait_for("!document.getElementById('choose').hidden")
    chromium.choose_files("#files", tmp_path / "large.png")
    chromium.wait_for("!document.getElementById('problem').hidden")
    assert "large.png is larger than" in chromium.value("document.getElementById('problem').textContent")
    assert chromium.value("document.getElementById('problem').getAttribute('role')") == "alert"


def test_a_dropped_picture_is_labelled_and_a_phone_shows_everything(
    server: Served, chromium: Chromium, pictures: list[Path]
) -> None:
    chromium.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    chromium.open(f"http://127.0.0.1:{server.port}/")
    chromium.wait_for("!document.getElementById('choose').hidden")
    chromium.call("Input.setInterceptDrags", enabled=True)
    data = {"items": [], "files": [str(pictures[0])], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        chromium.call("Input.dispatchDragEvent", type=kind, x=100, y=300, data=data)
    chromium.wait_for("document.querySelectorAll('.answer').length === 1")
    assert chromium.value("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.value("!document.getElementById('choose').classList.contains('over')")


def test_the_report_opens_and_may_run_nothing(server: Served, chromium: Chromium) -> None:
    chromium.open(f"http://127.0.0.1:{server.port}/report")
    assert chromium.value("document.body.textContent") == "report"


def test_a_server_with_a_token_asks_for_it_once(tmp_path: Path, pictures: list[Path]) -> None:
    with served(token=TOKEN) as server, Chromium(tmp_path / "profile") as chromium:
        chromium.open(f"http://127.0.0.1:{server.port}/")
        chromium.wait_for("!document.getElementById('sign-in').hidden")
        assert chromium.value("document.getElementById('choose').hidden")
        chromium.value("document.getElementById('token').focus()")
        chromium.call("Input.insertText", text=TOKEN)
        chromium.press("Enter")
        chromium.wait_for("!document.getElementById('choose').hidden")
        assert chromium.value("document.cookie") == ""
        chromium.choose_files("#files", pictures[0])
        chromium.wait_for("document.querySelectorAll('.answer').length === 1")
        chromium.open(f"http://127.0.0.1:{server.port}/card")
        assert chromium.value("document.body.textContent") == "card"
