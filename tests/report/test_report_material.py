"""Thumbnails with overlays: pairs where both are pictures of one size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tintype.records import GalleryImage
from tintype.report import write_report
from tintype.report.material import galleries
from tintype.rundir import RunDir

MakeRun = Callable[..., RunDir]


def test_an_overlay_stands_beside_its_picture(make_run: MakeRun, make_thumbnail: Callable[[int], str]) -> None:
    pair = GalleryImage("mistakes", "a.png", "is a", make_thumbnail(28), overlay=make_thumbnail(28))
    alone = GalleryImage("augmented", "b.png", "b", make_thumbnail(28))
    page = write_report(make_run(gallery=[pair, alone])).read_text(encoding="utf-8")
    assert page.count("<img ") == 3
    assert page.count('<ul class="gallery pairs">') == page.count('<ul class="gallery">') == 1
    assert page.count("what spoke for the answer") == 1
    without = write_report(make_run("without", gallery=[replace(pair, overlay="")])).read_text(encoding="utf-8")
    assert without.count("<img ") == 1
    assert "what spoke for the answer" not in without


def test_an_overlay_that_is_no_picture_of_that_size_is_left_out(make_thumbnail: Callable[[int], str]) -> None:
    good = GalleryImage("mistakes", "a.png", "a", make_thumbnail(28))
    for overlay in ('"><script>', "AAAA", make_thumbnail(30)):
        found = galleries([replace(good, overlay=overlay)])["mistakes"]
        assert [picture.overlay for picture in found.pictures] == [""]
        assert found.left_out == 0
        assert not found.has_overlays


def test_overlays_count_towards_the_size_of_the_report(make_thumbnail: Callable[[int], str]) -> None:
    picture = make_thumbnail(400)
    pairs = [GalleryImage("mistakes", f"{i}.jpg", "x", picture, overlay=picture) for i in range(1000)]
    alone = [replace(item, overlay="") for item in pairs]
    shown, shown_alone = (galleries(items)["mistakes"] for items in (pairs, alone))
    assert 0 < 2 * len(shown.pictures) <= len(shown_alone.pictures) + 1
    assert len(shown.pictures) + shown.left_out == 1000
