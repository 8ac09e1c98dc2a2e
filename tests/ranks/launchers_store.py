"""A launcher's store within the test's process, and the environment by which workers find it."""

from __future__ import annotations

import pytest

from tintype.ranks.launch import store_on_loopback


def be_worker(monkeypatch: pytest.MonkeyPatch, rank: int = 0, size: int = 2) -> object:
    """Make this process one that a launcher has started.

    Returns:
        The server; it ends with its last reference.
    """
    server = store_on_loopback()
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(server.port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }.items():
        monkeypatch.setenv(name, value)
    return server
