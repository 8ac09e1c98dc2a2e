"""Where a search is kept: an SQLite file, or a PostgreSQL database that workers on several machines share.

Optuna's RDBStorage does the work. Around it stand what several processes need, and the user who made a mistake:

- SQLite: every transaction takes the write lock when it begins (``BEGIN IMMEDIATE``). Optuna reads a trial's state and
  then writes it; with SQLite's own deferred transactions two processes would both take the same waiting trial
  (https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#pysqlite-serializable).
- PostgreSQL: sessions keep their time in UTC, since Optuna stores heartbeats without a time zone and every client may
  have another (``PGTZ``). A database that is away for a while, restarted for instance, is waited for.
- Opening is for one process at a time: two that made the same tables at once would both fail.
- A message never has the password.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tintype.errors import ConfigError, MissingDependencyError, RunError

LOCKED_SECONDS = 60
"""How long a process waits for another one's write to an SQLite file; a write takes milliseconds."""

AWAY_SECONDS = 60.0
"""How long a PostgreSQL server may be away before the search is given up; a restart takes seconds."""

_CONNECT_SECONDS = 10
_OPENING = int.from_bytes(b"tintype", "big")  # the key of PostgreSQL's advisory lock while a search is opened
_FORMS = "write a file's path, sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_SECRETS = ("password", "sslpassword")


@dataclass(frozen=True)
class Place:
    """A storage.

    Attributes:
        url: For SQLAlchemy; may hold a password.
        shown: For people and files; holds none.
        file: The SQLite file; None for PostgreSQL.
        secrets: What no message may show.
    """

    url: sqlalchemy.URL
    shown: str
    file: Path | None
    secrets: tuple[str, ...] = ()


def place_of(storage: str | Path) -> Place:
    """What a user's ``--storage`` means: a path, ``sqlite:///PATH``, or ``postgresql://...``.

    Raises:
        ConfigError: It is none of them.
        MissingDependencyError: It is PostgreSQL and psycopg is missing, or it names another driver.
    """
    if isinstance(storage, Path) or not re.match(r"\w+(\+\w+)?:", storage):
        return _file_place(Path(storage))
    kind = storage.partition(":")[0]
    try:
        url = sqlalchemy.make_url(storage)
    except (ArgumentError, ValueError):  # the text is not shown: it may hold a password
        raise ConfigError(f"The storage {kind}:... is no URL that can be read; {_FORMS}") from None
    backend, _, driver = url.drivername.partition("+")
    if backend == "sqlite":
        if url.database in (None, "", ":memory:") or url.host:
            raise ConfigError("The storage names no SQLite file; write sqlite:///FILE (four slashes for a full path)")
        return _file_place(Path(str(url.database)))
    if backend not in ("postgresql", "postgres"):
        raise ConfigError(f"The storage is {kind}:..., and a search is kept in SQLite or PostgreSQL; {_FORMS}")
    if driver not in ("", "psycopg"):
        raise MissingDependencyError(f"The storage asks for the driver {driver}; write postgresql:// (psycopg is used)")
    if "@" in (url.host or ""):
        raise ConfigError("The storage's password has an @ in it; write it as %40")
    try:
        import psycopg  # noqa: F401  (asked here for the message)
    except ImportError:
        raise MissingDependencyError("PostgreSQL needs psycopg; pip install 'tintype[postgres]'") from None
    given = (url.password, *(url.query.get(name) for name in _SECRETS))
    places = {name: value for name, value in url.query.items() if name in ("host", "port")}
    shown = sqlalchemy.URL.create("postgresql", url.username, None, url.host, url.port, url.database, places)
    return Place(
        url.set(drivername="postgresql+psycopg"),
        shown.render_as_string(),
        None,
        tuple(str(secret) for secret in given if secret),
    )


def _file_place(path: Path) -> Place:
    if path.is_dir():
        raise ConfigError(f"The storage {path} is a folder; name a file in it")
    return Place(sqlalchemy.URL.create("sqlite", database=str(path)), str(path), path)


@contextmanager
def explained(place: Place, *, opening: bool = False) -> Iterator[None]:
    """Turn what a database complains of into one line.

    Args:
        place: The database.
        opening: Whether it is being opened; else it has worked before.

    Raises:
        ConfigError: While opening: no such host, no such database, no permission, not a database.
        RunError: Afterwards: the database is gone, or the disk is full.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        said = " ".join(str(getattr(cause, "orig", None) or cause).split())
        for secret in place.secrets:
            said = said.replace(secret, "***")
        if opening:
            raise ConfigError(f"{place.shown} cannot be used: {said}; check --storage and the permissions") from None
        raise RunError(
            f"{place.shown} cannot be used any longer: {said}; finished trials are kept, go on with --resume"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence two warnings of Optuna: that heartbeats and grouped TPE are experimental, and of heartbeats after ask.

    Heartbeats work with ask and tell because tuning/heartbeat.py sends them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used", UserWarning)
        yield


Connected = tuple[optuna.storages.RDBStorage, "Patience | None"]


def connect(place: Place, interval: int, grace: int, on_lost: Callable[..., None]) -> Connected:
    """Open the database, with Optuna's tables made where there are none. One process at a time: see the turns below.

    Args:
        place: The database.
        interval: Seconds between heartbeats.
        grace: Seconds without one after which a trial is lost.
        on_lost: Called with (study, trial) after a lost trial has been failed.

    Returns:
        Optuna's storage, and what waits for a server that is away.

    Raises:
        ConfigError: Another version of Optuna has made the tables.
        SQLAlchemyError: See ``explained``.
    """
    _silence_logs()
    # Optuna's engine gets its connections from this one, so that the first is prepared like any other.
    engine = sqlalchemy.create_engine(place.url, **_engine_options(place))
    sqlalchemy.event.listen(engine, "connect", _prepare_session if place.file is None else _prepare_file)
    try:
        with quiet():
            storage = optuna.storages.RDBStorage(
                # Optuna fills in {SCHEMA_VERSION}: other braces, in a file's name, must be doubled.
                place.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
                engine_kwargs={"pool": engine.pool},
                heartbeat_interval=interval,
                grace_period=grace,
                heartbeat_stale_trial_callback=on_lost,
            )
    except BaseException as error:
        engine.dispose()
        if isinstance(error, RuntimeError):  # the tables' version
            raise ConfigError(f"{place.shown} has tables of another version of Optuna: {error}") from None
        raise
    if place.file is not None:
        sqlalchemy.event.listen(storage.engine, "begin", _begin)
        return storage, None
    return storage, Patience(engine)


class Patience:
    """Waits for a PostgreSQL server that is away, wherever a connection is needed.

    Attributes:
        stop: Set it to wait no longer.
    """

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self.stop = threading.Event()
        sqlalchemy.event.listen(engine, "do_connect", self._connect)

    def _connect(self, dialect: Any, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        end = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() > end or self.stop.wait(0.5):
                    raise


@contextmanager
def server_turn(place: Place) -> Iterator[None]:
    """Let one process at a time open searches on this PostgreSQL database.

    Raises:
        SQLAlchemyError: It cannot be reached, or not by this user.
    """
    engine = sqlalchemy.create_engine(place.url, poolclass=sqlalchemy.NullPool, **_engine_options(place))
    with engine.begin() as connection:  # the lock ends with the transaction, or with this process
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _OPENING})
        yield


class FileTurn:
    """Who has an SQLite file open: a lock beside it, which the kernel takes from a process that is killed.

    Attributes:
        alone: Whether no other process had the file open when this one opened it.
    """

    def __init__(self, file: Path) -> None:
        """Take the lock, once nobody else is opening the file.

        Raises:
            ConfigError: The folder cannot be written.
        """
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(file.with_name(file.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}; choose another folder") from None
        self.alone = self._try_alone()

    def _try_alone(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            return False
        return True

    def share(self) -> None:
        """Let others open the file too: it is ready."""
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        """This process uses the file no longer."""
        os.close(self._lock)


def _engine_options(place: Place) -> dict[str, Any]:
    if place.file is not None:
        return {"connect_args": {"timeout": LOCKED_SECONDS, "isolation_level": None}}
    options: dict[str, Any] = {"prepare_threshold": None}  # PgBouncer gives each transaction another session
    if "connect_timeout" not in place.url.query:
        options["connect_timeout"] = _CONNECT_SECONDS
    return {"pool_pre_ping": True, "connect_args": options}


def _prepare_file(connection: Any, _record: object) -> None:
    # A write-ahead log needs no fsync for each of the many small writes, and survives a killed process.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_session(connection: Any, _record: object) -> None:
    connection.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _silence_logs() -> None:
    """Optuna and SQLAlchemy write nothing to the terminal; a caller's own handlers still hear them."""
    optuna.logging.disable_default_handler()
    for name in ("optuna", "sqlalchemy", "alembic"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())  # without any handler Python prints warnings to stderr
