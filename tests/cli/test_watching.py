"""What a command says when it is stopped."""

from __future__ import annotations

import pytest

from tintype.cli.ranks import watching
from tintype.errors import RunInterrupted


def test_ctrl_c_where_nothing_can_be_gone_on_with_is_said() -> None:
    with pytest.raises(RunInterrupted, match="stopped"), watching(as_json=True):
        raise KeyboardInterrupt


def test_a_stop_that_says_how_to_go_on_keeps_its_words() -> None:
    with pytest.raises(RunInterrupted, match="--resume here"), watching(as_json=True):
        raise RunInterrupted("go on with --resume here")
