"""A set of names by their hashes."""

from __future__ import annotations

import pytest

from tintype.data import nameset
from tintype.data.nameset import NameSet, name_hash


def test_it_is_a_set_also_when_parts_of_it_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameset, "_RECENT", 7)
    names, found = [f"a/{number}.png" for number in range(100)], NameSet()
    assert [found.add(name) for name in names] == [True] * 100
    assert [found.add(name) for name in names] == [False] * 100
    assert len(found) == 100
    assert all(name in found for name in names)
    assert "a/100.png" not in found


def test_hashes_stay_what_they_are_since_shares_of_several_machines_go_by_them() -> None:
    assert name_hash("photos/cat.jpg") == 12206113827453185067
    assert name_hash("c\udcff.jpg") == name_hash("c\\udcff.jpg"), "as it stands in a CSV"
