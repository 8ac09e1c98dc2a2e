"""Ranks that build caches together: three processes go through the scenarios of shares_child.py; what did they see?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tintype.config import DataConfig
from tintype.data.cache import build_cache
from tintype.data.sources import read_index

CHILD = Path(__file__).with_name("shares_child.py")
FILES = ("pixels.u8", "facts.npz", "meta.json")
COUNT = 200
BAD = ("cat/1", "cat/199", "dog/198")  # in the parts of both ranks

Seen = Callable[[str], list[Any]]


def make_photos(root: Path) -> None:
    """Two copies of 200 small files with other times, two with bad ones among them, and some that differ."""
    for i in range(COUNT):
        path = root / "photos-0" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (20, 14 + i % 9, 3)).astype(np.uint8)
        Image.fromarray(noise).convert("L" if i % 7 == 0 else "RGB").save(path)
    others = ("fewer", "renamed", "relabelled", "changed", "resized", "same")
    for name in ("photos-1", "bad-photos-0", "bad-photos-1", *(f"other-{other}" for other in others)):
        shutil.copytree(root / "photos-0", root / name)
    for rank in range(2):
        for name in BAD:
            (root / f"bad-photos-{rank}" / f"{name}.png").write_text("text")
    (root / "other-fewer/cat/7.png").unlink()
    (root / "other-renamed/cat/7.png").rename(root / "other-renamed/cat/6.png")
    (root / "other-relabelled/cat/199.png").rename(root / "other-relabelled/dog/199.png")
    changed = root / "other-changed/cat/1.png"
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1
    changed.write_bytes(content)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ranks have been, with what a single process builds in ``single`` and ``single-bad``."""
    root = tmp_path_factory.mktemp("ranks")
    make_photos(root)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(CHILD), str(root)]
    ranks = [subprocess.Popen([*command, str(rank), "3"], env=environment) for rank in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        for name, photos in (("single", "photos-0"), ("single-bad", "bad-photos-0")):
            patch.setenv("TINTYPE_CACHE", str(root / name))
            given = {"source": str(root / photos), "image_size": 128, "color": "rgb", "resize": "pad", "skip_bad": True}
            config = DataConfig.model_validate(given)
            build_cache(read_index(config), config)
    try:
        assert [rank.wait(120) for rank in ranks] == [0, 0, 9]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return root


@pytest.fixture
def seen(root: Path) -> Seen:
    """What each rank that took part in a scenario wrote down."""
    told = [json.loads((root / f"seen-{rank}.json").read_text()) for rank in range(3)]
    return lambda scenario: [rank[scenario] for rank in told if scenario in rank]


def contents(cache: Path) -> list[list[bytes]]:
    """The files of every image cache in a folder, without the folders' names, which tell the files' times."""
    folders = [folder for folder in (cache / "images").iterdir() if folder.is_dir()]
    assert not list((cache / "images").glob(".*"))
    return [[(folder / name).read_bytes() for name in FILES] for folder in folders]


def decoded(results: list[Any]) -> Counter[int]:
    """How often each image was decoded on all ranks together, by the hash of its content."""
    return Counter(image for result in results for image in result["decoded"])


def test_each_rank_decodes_its_half_and_every_disk_gets_what_a_single_process_writes(root: Path, seen: Seen) -> None:
    results = seen("separate_disks")
    first, again = [result["first"] for result in results], [result["again"] for result in results]
    assert [len(result["decoded"]) for result in first] == [COUNT // 2] * 2
    assert decoded(first).total() == len(decoded(first)) == COUNT
    assert [result["sharing"] for result in first] == ["200 images decoded by 2 ranks, each its part"] * 2
    assert len({result["fingerprint"] for result in [*first, *again]}) == 1
    assert [(result["was_built"], result["decoded"], result["sharing"]) for result in again] == [(False, [], "")] * 2
    for result in results:
        counts = [done for _, done, _ in result["progress"]]
        assert {(what, total) for what, _, total in result["progress"]} == {("decoding images", COUNT)}
        assert (counts[-1], counts) == (COUNT, sorted(counts))
    # Rank 0's cache was not built again since.
    assert contents(root / "separate-0") == contents(root / "single")


def test_who_lacks_it_gets_it_from_who_has_it(root: Path, seen: Seen) -> None:
    results = seen("one_lacks_it")
    assert decoded(results).total() == 0
    assert [result["sharing"] for result in results] == ["200 decoded images copied from rank 0 on a"] * 2
    assert contents(root / "separate-1") == contents(root / "single")


def test_behind_a_slow_link_each_machine_makes_the_rest_itself(root: Path, seen: Seen) -> None:
    results = seen("slow_link")
    assert all("by itself: the link is slow" in result["sharing"] for result in results)
    counts = decoded(results)
    assert len(counts) == COUNT
    assert set(counts.values()) == {1, 2}, "what was tried is not decoded twice"
    assert contents(root / "slow-0") == contents(root / "slow-1") == contents(root / "single")


def test_bad_images_of_all_ranks_are_named_on_all(root: Path, seen: Seen) -> None:
    results = seen("bad_images")
    assert len({result["refused"]["text"] for result in results}) == 1
    refused = results[0]["refused"]
    assert refused["error"] == "DataError"
    assert refused["text"].startswith("3 of 200 images cannot be read: ")
    assert all(f"{name}.png (not a readable image" in refused["text"] for name in BAD)
    assert [result["left"] for result in results] == [[], []]
    assert contents(root / "bad-0") == contents(root / "bad-1") == contents(root / "single-bad")


def test_a_disk_that_is_full_on_one_rank_is_one_error_on_all(root: Path, seen: Seen) -> None:
    folder = root / "full-1" / "images"
    line = f"rank 1 on b: cannot write decoded images to {folder}: No space left on device. Set TINTYPE_CACHE to a "
    for result in seen("full_disk"):
        assert (result["error"], result["text"]) == ("DataError", f"{line}folder that can be written.")
        assert (result["left"], result["threads"]) == ([], 1)


def test_a_folder_that_cannot_be_written_is_one_error_on_all(seen: Seen) -> None:
    results = seen("no_folder")
    assert results[0] == results[1]
    assert results[0]["text"].startswith("rank 1 on b: cannot write decoded images to ")


def test_an_interrupt_on_one_rank_ends_all(seen: Seen) -> None:
    stopped, interrupted = seen("interrupted")
    assert interrupted == {"error": "KeyboardInterrupt", "text": "", "left": []}
    assert stopped == {"error": "RankError", "text": "rank 1 on b was interrupted.", "left": []}


def test_a_lock_that_a_stranger_holds_is_waited_for_by_all_and_none_holds_another_meanwhile(seen: Seen) -> None:
    results = seen("a_stranger_holds_the_lock")
    for result in results:
        assert "waiting for another process that decodes the same images" in result["told"]
        assert result["was_built"]
    assert results[0]["free"]
    assert decoded(results).total() == COUNT


def test_other_data_is_refused_in_words(seen: Seen) -> None:
    results = seen("other_data")
    assert results[0] == results[1]
    found = results[0]
    assert found.pop("same") == {"value": None}
    assert {outcome["error"] for outcome in found.values()} == {"RankError"}
    texts = {name: outcome["text"] for name, outcome in found.items()}
    assert texts["fewer"] == (
        "the ranks have other data: rank 0 on a has 200 images in 2 classes, rank 1 on b has 199 images in 2 classes. "
        "Copy the same data to every machine."
    )
    assert "rank 0 on a has cat/61.png (cat) as image 79, rank 1 on b has cat/6.png (cat) as" in texts["renamed"]
    assert "rank 0 on a has cat/199.png (cat) as image 56, rank 1 on b has cat/21.png (cat) as" in texts["relabelled"]
    assert "rank 0 on a has cat/1.png with" in texts["changed"]
    assert "128x128 RGB with resize pad, rank 1 on b has images to be decoded to 127x127" in texts["resized"]


def test_ranks_that_share_a_folder_have_one_that_writes(root: Path, seen: Seen) -> None:
    results = seen("one_folder")
    assert sorted(len(result["decoded"]) for result in results) == [66, 67, 67]
    assert decoded(results).total() == len(decoded(results)) == COUNT
    assert contents(root / "shared") == contents(root / "single")


def test_two_of_three_share_a_folder(root: Path, seen: Seen) -> None:
    results = seen("two_folders")
    assert decoded(results).total() == len(decoded(results)) == COUNT
    assert contents(root / "two-a") == contents(root / "two-b") == contents(root / "single")


def test_copies_of_the_data_have_folders_of_their_own_in_a_shared_cache(root: Path, seen: Seen) -> None:
    results = seen("one_folder_under_other_names")
    assert decoded(results).total() == len(decoded(results)) == COUNT
    assert contents(root / "names") == contents(root / "single") * 2


def test_frozen_layers_run_once_for_each_image_and_view(seen: Seen) -> None:
    results = seen("frozen_layers")
    asked = Counter((view, image) for result in results for view, image in result["asked"])
    assert asked == Counter([(0, i) for i in range(50) if i != 3] + [(1, i) for i in range(0, 50, 2)])
    for result in results:
        assert result["right"]
        assert sorted(Counter(view for view, _ in result["asked"]).values()) in ([12, 24], [13, 25])
        assert result["asked_again"] == [], "the view that rank 0 had lost came from rank 1"
        assert result["was_built"] == [True, True]
        shared = "the frozen layers run by 2 ranks, each over its part of the images"
        assert result["sharing"] == [shared, "features copied from rank 1 on b", ""]
        assert result["progress"][-1] == ["running the frozen layers", 74, 74]


def test_an_error_in_the_program_ends_all(seen: Seen) -> None:
    told, broken = seen("broken_layers")
    assert broken == {"error": "ValueError", "text": "this layer is broken", "left": []}
    line = "rank 1 on b failed while it dealt with features: ValueError this layer is broken"
    assert told == {"error": "RankError", "text": line, "left": []}


def test_when_a_rank_dies_the_others_end_and_leave_nothing(seen: Seen) -> None:
    results = seen("one_dies")
    assert len(results) == 2
    for result in results:
        assert (result["error"], result["left"]) == ("RuntimeError", [])
        assert result["seconds"] < 30
