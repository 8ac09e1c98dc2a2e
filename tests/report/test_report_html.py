"""The report as a file: whole, escaped, self-contained and under a strict policy."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tintype.errors import RunError
from tintype.records import Finding, GalleryImage, Interval
from tintype.report import write_evaluation_report, write_report
from tintype.rundir import RunDir

MakeRun = Callable[..., RunDir]

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "$x_1^2$ {{ 7*7 }}",
    "猫 🐈",
    "כלב",
    "a\"b'c&amp;" + "x" * 60,
    '"><svg onload=alert(2)>',
    "\u202egnp.exe",
    "</style><style>*{display:none}",
)
# fmt: off
TAGS = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "p", "span", "h1", "h2", "h3", "div", "b", "small",
    "i", "bdi", "nav", "ul", "ol", "li", "main", "section", "details", "summary", "figure", "figcaption", "table",
    "thead", "tbody", "tfoot", "tr", "th", "td", "dl", "dt", "dd", "img", "pre", "code", "footer",
    "svg", "path", "circle", "rect", "line", "text", "g",
}
SECTIONS = [
    "findings", "training", "confusion", "classes", "calibration", "mistakes", "figures", "data", "augmented",
    "network", "repeat",
]
# fmt: on
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page strictly: every tag known, closed in order, no attribute that runs or loads anything."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        given = {name: value or "" for name, value in attrs}
        assert not [name for name in given if name.startswith("on") or name in ("style", "srcset", "action")]
        self.tags.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def find(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [given for name, given in self.tags if name == tag and wanted.items() <= given.items()]

    @property
    def sections(self) -> list[str]:
        return [given["id"] for given in self.find("section")]


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_whole_report(make_run: MakeRun) -> None:
    finding = Finding("leak", "critical", "12 images leak.", ("a.png = b.png",), "Remove them.")
    run_dir = make_run(findings=[Finding("note", "info", "A note."), finding])
    page = read(write_report(run_dir))
    assert page.sections == SECTIONS
    assert [given["href"] for given in page.find("a")] == ["#main", *(f"#{name}" for name in SECTIONS)]
    accuracy = run_dir.read_evaluation()["test"].accuracy
    assert f"{accuracy.value * 100:.1f} % of 360 test images right (95 % interval" in page.text
    assert f"{accuracy.low * 100:.1f} to {accuracy.high * 100:.1f} %" in page.text
    assert page.text.index("Critical") < page.text.index("A note.")
    for words in ("a.png = b.png", "Remove them.", "bf16 channels-last: 41 ms", "tintype train 'images with space/'"):
        assert words in page.text
    assert len(page.find("img")) == 24
    assert all(given["alt"] for given in page.find("img"))


def test_leaked_images_stand_beside_the_headline(make_run: MakeRun) -> None:
    page = read(write_report(make_run(metrics={"accuracy_without_leaked": Interval(0.953, 0.92, 0.97, 348)})))
    head = page.text[: page.text.index("Findings")]
    assert "Without the 12 test images that also stand in training" in head
    assert "95.3 %" in head
    assert "n = 348" in head


def test_a_result_no_better_than_the_largest_class_says_so(make_run: MakeRun) -> None:
    assert "nothing shows that the network has learnt" in read(write_report(make_run(n=40, accuracy=0.08))).text
    page = read(write_report(make_run("good", n=400, accuracy=0.9)))
    assert "nothing shows" not in page.text
    assert "Always answering “0”" in page.text


def test_two_classes_have_roc_and_precision(make_run: MakeRun) -> None:
    page = read(write_report(make_run(classes=("cats", "dogs"), n=200, accuracy=0.9)))
    assert "ranking" in page.sections
    assert "“dogs” is the positive class" in page.text
    assert "Area under the ROC curve 0." in page.text


@pytest.mark.parametrize("kind", ["report", "evaluation"])
def test_hostile_names_are_shown_and_do_nothing(make_run: MakeRun, kind: str) -> None:
    words = "<img src=x onerror=alert(3)> </style><script>alert(4)</script> {{ 7*7 }} {% raw %}"
    evil = Finding("x", "warning", words, ("<script>alert(5)</script>", "bad\udcff.jpg"), words)
    picture = GalleryImage("mistakes", HOSTILE[0], HOSTILE[5], "AAAA")
    folder = "<b>&\"'/"
    run_dir = make_run(
        classes=HOSTILE, n=200, accuracy=0.8, folder=folder, findings=[evil], gallery=[picture],
        config='[model]\nname = "</code><script>alert(6)</script>"\n',
        environment={"hardware": HOSTILE[0], "weird_<key>": [HOSTILE[5]], "command": HOSTILE[0]},
    )  # fmt: skip
    path = write_report(run_dir) if kind == "report" else write_evaluation_report(run_dir, run_dir)
    page = read(path)  # fails on any tag or attribute that is not the report's own
    for name in HOSTILE[:6]:
        assert name in page.text
    assert words in page.text
    assert "bad\\xff.jpg" in page.text
    assert "\u202e" not in page.text
    assert "</code><script>alert(6)</script>" in page.text
    assert "49" not in re.findall(r"\$x_1\^2\$ (\S+)", page.text)


def test_the_policy_allows_the_own_style_sheet_alone(make_run: MakeRun) -> None:
    path = write_report(make_run())
    source = path.read_text(encoding="utf-8")
    (policy,) = [given["content"] for given in read(path).find("meta", **{"http-equiv": "Content-Security-Policy"})]
    style = re.findall(r"<style>(.*?)</style>", source, flags=re.DOTALL)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert source.index("Content-Security-Policy") < source.index("<style>")


def test_nothing_is_loaded_from_anywhere(make_run: MakeRun) -> None:
    path = write_report(make_run(classes=("https://example.com/x.png", "b"), n=60))
    for tag, given in read(path).tags:
        for name, value in given.items():
            if name in ("src", "href", "xlink:href", "data", "content"):
                assert value.startswith(("data:image/", "#")) or tag == "meta"
    style = path.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_pictures_that_are_none_are_left_out_and_counted(make_run: MakeRun, make_thumbnail: Any) -> None:
    gallery = [
        GalleryImage("mistakes", "good.png", "good", make_thumbnail(28)),
        GalleryImage("mistakes", "svg.png", "svg", "PHN2Zz4=", "image/svg+xml"),
        GalleryImage("mistakes", "text.png", "text", '"><script>'),
        GalleryImage("mistakes", "bytes.png", "bytes", "AAAA"),
    ]
    page = read(write_report(make_run(gallery=gallery)))
    (image,) = page.find("img")
    assert (image["alt"], image["width"], image["class"]) == ("good", "28", "hard")
    assert "3 more pictures left out" in page.text


def test_the_same_run_gives_the_same_bytes_in_any_process(make_run: MakeRun) -> None:
    run_dir = make_run(classes=("cats", "dogs"), n=100)
    first = write_report(run_dir).read_bytes()
    code = "import sys; from pathlib import Path; from tintype.report import write_report; from tintype.rundir import "
    code += "RunDir; write_report(RunDir(Path(sys.argv[1]))); print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_dir.path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False", "False"]
    assert (run_dir / "report.html").read_bytes() == first


def test_a_report_is_small_with_pictures_and_with_a_thousand_classes(make_run: MakeRun, make_thumbnail: Any) -> None:
    gallery = [GalleryImage("mistakes", f"{i}.jpg", "photo", make_thumbnail(200)) for i in range(1000)]
    classes = [f"class {i:04}" for i in range(1000)]
    path = write_report(make_run(classes=classes, n=2000, accuracy=0.6, gallery=gallery, validation=False))
    assert path.stat().st_size < 3_000_000
    page = read(path)
    assert "960 more classes" in page.text
    assert "more pictures left out" in page.text
    assert "1,000 classes in the order of the data" in page.text


PARTS = (
    "history.jsonl", "findings.json", "data.json", "summary.json", "model.json", "environment.json", "gallery.json",
    "config.toml", "predictions.csv", "evaluation.json",
)  # fmt: skip


@pytest.mark.parametrize("absent", [*PARTS, "all"])
def test_any_part_may_be_absent(make_run: MakeRun, absent: str) -> None:
    run_dir = make_run()
    for name in PARTS if absent == "all" else [absent]:
        (run_dir / name).unlink()
    page = read(write_report(run_dir))
    gone = {"history.jsonl": "training", "data.json": "data", "summary.json": "network", "evaluation.json": "classes"}
    if absent in gone:
        assert gone[absent] not in page.sections
    if absent == "all":
        assert page.sections == ["findings", "repeat"]
        assert "nothing was evaluated" in page.text
    assert {given["href"].removeprefix("#") for given in page.find("a")} == {*page.sections, "main"}


def test_a_perfect_result_keeps_its_interval(make_run: MakeRun) -> None:
    page = read(write_report(make_run(classes=("covid", "normal"), n=18, accuracy=1.0, epochs=1, validation=False)))
    assert "100 % of 18 test images right (95 % interval 82.4 to 100 %)" in page.text
    assert "None: all 18 test images were labelled right." in page.text


def test_an_evaluation_stands_beside_the_original(make_run: MakeRun) -> None:
    original, other = make_run("digits"), make_run("drawn", n=1000, accuracy=0.7, seed=4, folder="/data/drawn/")
    other.write_evaluation([other.read_evaluation()["test"]])
    for name in ("environment.json", "model.json", "summary.json", "history.jsonl", "config.toml"):
        (other / name).unlink()
    path = write_evaluation_report(other, original)
    page = read(path)
    assert path == other / "report.html"
    assert page.sections == ["findings", "beside", "classes", "confusion", "calibration", "mistakes", "data", "repeat"]
    here, there = other.read_evaluation()["test"].accuracy, original.read_evaluation()["test"].accuracy
    assert f"{here.value * 100:.1f} % of 1,000 images right" in page.text
    assert f"{(there.value - here.value) * 100:.1f} points below the {there.value * 100:.1f} %" in page.text
    assert f"tintype evaluate {original.path} /data/drawn/" in page.text
    assert "temperature of 1.210" in page.text


def test_a_failed_write_leaves_the_old_report(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run()
    before = write_report(run_dir).read_bytes()
    (run_dir / "gallery.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError):
        write_report(run_dir)
    assert (run_dir / "report.html").read_bytes() == before
    assert not list(run_dir.path.glob(".*.tmp"))


COLOR = re.compile(r"--([a-z-]+): (#[0-9a-f]{6}|\d+ \d+ \d+);")


def luminance(color: tuple[float, ...]) -> float:
    """Relative luminance of WCAG 2.2."""
    r, g, b = (c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def read_color(value: str) -> tuple[float, ...]:
    if value.startswith("#"):
        return tuple(int(value[i : i + 2], 16) for i in (1, 3, 5))
    return tuple(float(part) for part in value.split())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_enough_in_both_themes(make_run: MakeRun, theme: str) -> None:
    style = write_report(make_run()).read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    light, dark = (dict(COLOR.findall(block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL))
    colors = {name: read_color(value) for name, value in (light if theme == "light" else dark).items()}
    for ground in ("paper", "card"):
        for name in ("ink", "muted", "link", "critical", "warning", "info"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        for name in ("first", "second"):  # lines and bars
            assert contrast(colors[name], colors[ground]) >= 3, (name, ground)
    assert contrast(colors["muted"], colors["faint"]) >= 4.5
    heat = re.findall(r"\.h(\d+) \{ background: rgb\([^/]*?(?:/ ([\d.]+))?\); \}", style)
    levels = {int(level): float(alpha or 1) for level, alpha in heat}
    assert sorted(levels) == list(range(1, 11))
    for level, alpha in levels.items():
        for kind in ("right", "wrong"):
            mixed = tuple(alpha * h + (1 - alpha) * c for h, c in zip(colors[kind], colors["card"], strict=True))
            text = colors["on-heat"] if level >= 6 else colors["ink"]
            assert contrast(text, mixed) >= 4.5, (kind, level)
