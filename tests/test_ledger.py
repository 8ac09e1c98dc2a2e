"""The ledger of looks at test sets: what is one look, what survives damage and crowds, and how large the bias is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from tintype.ledger import (
    HANDFUL,
    Look,
    accuracy_deviation,
    expected_maximum,
    fingerprint_images,
    ledger_content,
    ledger_finding,
    ledger_path,
    looks_at,
    record_look,
    selection_bias,
)

CONTENT = np.array([5, 2**63, 9, 9], np.uint64)
LABELS = ("cat", "dog", "cat", "dog")


def look(run: str = "/runs/one", what: str = "train", started: str = "2026-01-01") -> Look:
    return Look(run, what, 0.9, started)


def test_a_test_set_is_known_by_its_content_and_its_labels() -> None:
    known = fingerprint_images(CONTENT, LABELS)
    order = [3, 1, 0, 2]
    assert fingerprint_images(CONTENT[order], [LABELS[place] for place in order]) == known
    assert fingerprint_images(CONTENT, ("dog", *LABELS[1:])) != known
    assert fingerprint_images(CONTENT[:3], LABELS[:3]) != known
    assert fingerprint_images(CONTENT[:2], ("a", "bc")) != fingerprint_images(CONTENT[:2], ("ab", "c"))
    assert fingerprint_images(CONTENT[:1], ("caf\udce9",)) != fingerprint_images(CONTENT[:1], ("café",))


def test_a_finished_run_is_one_look_however_often_it_is_read() -> None:
    assert record_look("set", look()) == 1
    assert record_look("set", look(what="evaluate")) == 1
    assert record_look("set", look("/runs/two")) == 2
    assert record_look("set", look(started="2026-01-02")) == 3  # another run in a directory of the same name
    assert record_look("set", look()) == 3
    assert record_look("other set", look()) == 1
    assert [item.run for item in looks_at("set")] == ["/runs/one", "/runs/two", "/runs/one"]
    assert looks_at("set")[0] == look().__class__(**{**look().__dict__, "time": looks_at("set")[0].time})
    assert looks_at("no such set") == ()
    assert len(ledger_path().read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize("name", ["/läufe/猫 🐈", "/runs/caf\udce9", '/runs/"quoted"\nline'])
def test_names_of_any_kind(name: str) -> None:
    record_look("set", look(name))
    assert looks_at("set")[0].run == name
    assert record_look("set", look(name)) == 1


def test_damaged_lines_are_left_out_and_said_and_the_next_look_is_whole() -> None:
    record_look("set", look("/runs/one"))
    whole = ledger_path().read_bytes()
    fakes = [b"no json", b'["a list"]', b'{"version": 1}', b"\xff\xfe"]
    typed = json.loads(whole) | {"accuracy": "high", "run": "/runs/fake"}
    fakes.append(json.dumps(typed).encode())
    ledger_path().write_bytes(whole + b"\n".join(fakes) + b"\n" + whole[:40])  # the last one as a kill leaves it
    said: list[str] = []
    assert record_look("set", look("/runs/two"), said.append) == 2
    assert "6 damaged lines" in said[0]
    assert [item.run for item in looks_at("set")] == ["/runs/one", "/runs/two"]


def test_lines_of_another_version_are_nobodys_look() -> None:
    record_look("set", look())
    newer = json.loads(ledger_path().read_text(encoding="utf-8")) | {"version": 2, "run": "/runs/new"}
    with ledger_path().open("a", encoding="utf-8") as file:
        file.write(json.dumps(newer) + "\n")
    assert len(looks_at("set")) == 1


def test_a_ledger_that_cannot_be_written_costs_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TINTYPE_LEDGER", str(tmp_path / "file" / "ledger.jsonl"))
    said: list[str] = []
    assert record_look("set", look(), said.append) == 1
    assert "is not recorded" in said[0]
    assert looks_at("set", said.append) == ()
    assert "cannot be read" in said[1]


def test_processes_do_not_lose_each_others_looks() -> None:
    code = (
        "import sys; from tintype.ledger import Look, record_look\n"
        "for number in range(20): record_look('set', Look(f'/runs/{sys.argv[1]}/{number}', 'train', 0.5, ''))\n"
    )
    crowd = [subprocess.Popen([sys.executable, "-c", code, str(number)]) for number in range(3)]
    assert [process.wait(60) for process in crowd] == [0, 0, 0]
    assert len({item.run for item in looks_at("set")}) == 60
    assert len(ledger_path().read_bytes().splitlines()) == 60


def test_the_ledger_is_not_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TINTYPE_LEDGER")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if sys.platform == "linux":
        assert ledger_path() == tmp_path / "data" / "tintype" / "ledger.jsonl"


def by_quadrature(count: int) -> float:
    value, _ = quad(lambda x: x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1), -12, 12, limit=400)
    return float(value)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 25, 100, 2000])
def test_the_expected_maximum_is_that_of_the_order_statistic(count: int) -> None:
    assert expected_maximum(count) == pytest.approx(by_quadrature(count), abs=1e-6)


def test_the_bias_is_what_choosing_the_best_of_equal_models_gives() -> None:
    random = np.random.default_rng(0)
    n, accuracy, models = 400, 0.9, 20
    best = random.binomial(n, accuracy, (4000, models)).max(axis=1) / n
    bias = float(best.mean()) - accuracy
    assert selection_bias(models, n, accuracy) == pytest.approx(bias, rel=0.08)
    # Models that share most of their mistakes leave less to chance.
    shared = random.binomial(n - 300, accuracy, (4000, models)) + random.binomial(300, accuracy, (4000, 1))
    assert float((shared.max(axis=1) / n).mean()) - accuracy < 0.7 * selection_bias(models, n, accuracy)


def test_all_right_out_of_few_still_varies() -> None:
    assert accuracy_deviation(18, 1.0) > 0.02
    assert accuracy_deviation(10_000, 0.9) == pytest.approx(0.003, rel=0.01)


def test_a_handful_of_looks_is_no_finding_and_more_are_one() -> None:
    assert ledger_finding(HANDFUL, 1000, 0.98) is None
    found = ledger_finding(25, 1000, 0.98)
    assert found is not None
    assert (found.code, found.severity) == ("test-set-reused", "warning")
    assert f"up to {100 * selection_bias(25, 1000, 0.98):.2g} points" in found.title
    assert "25 models" in found.title


def test_what_a_run_keeps_names_no_folders() -> None:
    content = ledger_content(2, 100, 0.9, (look("/home/ada/secret/one"), look("/home/ada/two")))
    assert [row["run"] for row in content["known"]] == ["one", "two"]
    assert "secret" not in json.dumps(content)
