"""The report in a real browser: nothing refused, nothing said, no page that scrolls sideways."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tintype.records import Finding
from tintype.report import write_evaluation_report, write_report
from tintype.rundir import RunDir

MakeRun = Callable[..., RunDir]
Browse = Callable[..., tuple[str, str]]

HOSTILE = ("</script><img src=x onerror=alert(1)>", "猫 🐈", "כלב", "x" * 120, '"><svg onload=alert(2)>', "e" * 30)
# fmt: off
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom",
]
# fmt: on
MEASURE = """<script>
const all = [...document.body.querySelectorAll('*')];
const mayBeWide = e => e.closest('.scroll, pre, .strip, .chart, .hidden, .skip') !== null;
parent.postMessage(JSON.stringify({
  inner: innerWidth, page: document.documentElement.scrollWidth,
  wide: all.filter(e => !mayBeWide(e) && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 30)).slice(0, 5),
  handlers: all.filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
  scrolling: [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length,
  loaded: [...document.images].filter(e => e.complete && e.naturalWidth > 0).length,
  images: document.images.length,
  ink: getComputedStyle(document.body).color,
}), '*');
</script></body>"""
FRAME = """<!doctype html><title></title><script>onmessage = e => { document.title = e.data; }</script>
<iframe src="measured.html" style="width: %dpx; height: 900px; border: 0"></iframe>"""


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Open a file; gives the page as the browser sees it and what it logged."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")

    def open_page(path: Path, *flags: str) -> tuple[str, str]:
        profile = tmp_path / "profile"
        shutil.rmtree(profile, ignore_errors=True)
        profile.mkdir()
        done = subprocess.run(
            [chromium, *FLAGS, f"--user-data-dir={profile}", "--window-size=1400,1000", *flags, path.as_uri()],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return open_page


@pytest.fixture
def hostile_run(make_run: MakeRun) -> RunDir:
    """Long and malicious names everywhere."""
    finding = Finding("x", "warning", HOSTILE[0] + "w" * 200, ("z" * 300,), HOSTILE[4])
    environment = {"hardware": HOSTILE[3], "precision_evidence": "p" * 200, "command": "tintype " + "c" * 300}
    return make_run(
        "h" * 80, classes=HOSTILE, n=200, accuracy=0.8, folder="f" * 150, findings=[finding], environment=environment
    )


def measure(browse: Browse, report: Path, width: int, *flags: str) -> dict[str, Any]:
    """What the layout is at a width, from a copy with a script in place of the policy that forbids it.

    The copy stands in a frame, since a window cannot be as narrow as a phone.
    """
    source = report.read_text(encoding="utf-8")
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    report.with_name("measured.html").write_text(free.replace("</body>", MEASURE), encoding="utf-8")
    frame = report.with_name("frame.html")
    frame.write_text(FRAME % width, encoding="utf-8")
    page, _ = browse(frame, *flags)
    found = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    assert found
    measured: dict[str, Any] = json.loads(found[1])
    assert measured["inner"] == width
    return measured


def test_the_check_for_console_messages_can_fail(make_run: MakeRun, browse: Browse) -> None:
    report = write_report(make_run(n=40))
    source = report.read_text(encoding="utf-8")
    report.write_text(source.replace("<main", '<main style="color: red"'), encoding="utf-8")
    assert "Content Security Policy" in browse(report)[1]


def test_the_browser_refuses_nothing_and_says_nothing(hostile_run: RunDir, browse: Browse) -> None:
    page, console = browse(write_report(hostile_run))
    assert console == ""
    assert "onerror=alert" in page  # as text


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(hostile_run: RunDir, browse: Browse, width: int) -> None:
    found = measure(browse, write_report(hostile_run), width)
    assert found["wide"] == []
    assert found["page"] == width
    assert found["handlers"] == 0
    assert found["loaded"] == found["images"] == 24
    if width == 390:
        assert found["scrolling"] >= 3  # wide tables do so inside themselves


def test_an_evaluation_of_many_classes_on_a_phone_in_the_dark(make_run: MakeRun, browse: Browse) -> None:
    classes = [f"species number {i:02}" for i in range(40)]
    original = make_run("original", classes=classes, n=200)
    other = make_run("other", classes=classes, n=400, accuracy=0.6, seed=3)
    report = write_evaluation_report(other, original)
    found = measure(browse, report, 390, "--blink-settings=preferredColorScheme=0")
    assert (found["wide"], found["page"]) == ([], 390)
    assert found["ink"] == "rgb(236, 230, 220)"


def test_it_prints(make_run: MakeRun, browse: Browse, tmp_path: Path) -> None:
    pdf = tmp_path / "report.pdf"
    browse(write_report(make_run(n=100)), f"--print-to-pdf={pdf}")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 3 <= pages <= 12
