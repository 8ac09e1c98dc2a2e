"""A real browser for tests of reports: what it says about a page, and how the page lies in a window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

# fmt: off
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom",
]
# fmt: on
DARK = "--blink-settings=preferredColorScheme=0"
MEASURE = """<script>
const all = [...document.body.querySelectorAll('*')];
const mayBeWide = e => e.closest('.scroll, pre, .strip, .chart, .hidden, .skip') !== null;
parent.postMessage(JSON.stringify({
  inner: innerWidth, page: document.documentElement.scrollWidth,
  wide: all.filter(e => !mayBeWide(e) && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 30)).slice(0, 5),
  handlers: all.filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
  loaded: [...document.images].filter(e => e.complete && e.naturalWidth > 0).length,
  images: document.images.length,
  scrolling: [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length,
  ink: getComputedStyle(document.body).color,
  lines: new Set([...document.querySelectorAll('.chart .line')].map(e => getComputedStyle(e).stroke)).size,
}), '*');
</script></body>"""
FRAME = """<!doctype html><title></title><script>onmessage = e => { document.title = e.data; }</script>
<iframe src="measured.html" style="width: %dpx; height: 900px; border: 0"></iframe>"""


def browse(path: Path, *flags: str) -> tuple[str, str]:
    """Open a file; gives the page as the browser sees it and what it logged. Skips the test without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    profile = path.parent / ".profile"
    shutil.rmtree(profile, ignore_errors=True)
    profile.mkdir()
    done = subprocess.run(
        [chromium, *FLAGS, f"--user-data-dir={profile}", "--window-size=1400,1000", *flags, path.as_uri()],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def measure(report: Path, width: int, *flags: str) -> dict[str, Any]:
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
