"""The database under the ledger: opened by its address, brought to the newest schema, its refusals in one sentence.

SQLite is a file beside the adapters. It runs in WAL mode, syncs at every commit, and overwrites what it deletes. Every
transaction opens the file anew: a file that was removed in the middle of a run is then missed at once, and not
written on unseen.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from asu_lora.errors import LedgerError, first_line
from asu_lora.files import disk_errors
from asu_lora.requests.ledger.tables import SCHEMA

FOLDER = ".requests"  # in the store, which takes no hidden folder for an adapter
FILE = "ledger.sqlite"
BUSY_SECONDS = 60.0
ROOM = 256 << 10  # bytes that SQLite's log beside the file, and a page or two, take
MIGRATING = 764_2026  # the number of Postgres' advisory lock: one process at a time changes the schema


class Database:
    """One database, by its address.

    Attributes:
        shown: the address without its password, for sentences.
    """

    def __init__(self, store: str | Path, address: str | None = None):
        """Args:
            store: the adapter store, where the SQLite file lies unless there is an address.
            address: any database SQLAlchemy has a driver for: ``postgresql://user@host/name``.

        Raises:
            LedgerError: the address makes no sense, or its driver isn't installed.
        """
        self.file = None if address else Path(store) / FOLDER / FILE
        self.url = _url(address) if address else URL.create("sqlite", database=str(self.file))
        if self.url.get_backend_name() == "sqlite":
            if not self.url.database or self.url.database == ":memory:":
                raise LedgerError("A ledger in memory is gone with the process: name a file, sqlite:///FILE.")
            self.file = Path(self.url.database)
        self.shown = str(self.file) if self.file else self.url.render_as_string(hide_password=True)
        self.engine = self._engine()

    def exists(self) -> bool:
        """Whether there is a ledger in it."""
        if self.file is not None and not self.file.is_file():
            return False
        with self.reading() as connection:
            return inspect(connection).has_table("head")

    def prepare(self) -> None:
        """Make the ledger, or bring it to this version's schema; nothing where it is so already.

        Raises:
            LedgerError: it can't be reached or written, or is of a newer version.
        """
        if self.file is not None and not self.file.is_file():
            with disk_errors(self.file.parent, "ledger's folder"):
                self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o600)
                os.close(descriptor)
        with self.reading() as connection:
            found = self._schema(connection)
        if found == SCHEMA:
            return
        with self.changing() as connection:
            if self.url.get_backend_name() == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATING})"))
            if self._schema(connection) != SCHEMA:
                self._migrate(connection)

    def check(self) -> None:
        """Refuse a ledger that isn't there, or of another version's schema."""
        if self.exists():
            self.prepare()
            return
        raise LedgerError(f"There is no ledger at {self.shown} yet: 'asu-lora requests add' makes it.")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one moment and changes nothing."""
        options: dict[str, Any] = {"asu_reads": True}
        if self.url.get_backend_name() == "postgresql":  # by default each statement sees another moment
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self._errors(), self.engine.connect().execution_options(**options) as connection:
            yield connection

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """A transaction: all of the block, or nothing of it."""
        with self._errors(), self.engine.begin() as connection:
            yield connection

    def now(self, connection: Connection) -> float:
        """The database's clock, seconds: leases of several machines are told by one clock."""
        if self.url.get_backend_name() == "postgresql":
            return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        return time.time()

    def scrub(self, wait: bool = True) -> bool:
        """Take what was deleted out of the write-ahead log and out of dead pages.

        Args:
            wait: for other programs that use the file, for :data:`BUSY_SECONDS`.

        Returns:
            Whether that is done: SQLite can't while another program reads what was there before.
        """
        with self._errors():
            if self.file is not None:
                with closing(self._open_file()) as file:
                    if not wait:
                        file.execute("PRAGMA busy_timeout=0")
                    return not file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            elif self.url.get_backend_name() == "postgresql":
                with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.execute(text("VACUUM texts"))
            return True

    # ---- beneath

    def _engine(self) -> Engine:
        try:
            if self.file is None:
                return create_engine(self.url, pool_pre_ping=True, hide_parameters=True)
            engine = create_engine(self.url, creator=self._open_file, poolclass=NullPool, hide_parameters=True)
        except (NoSuchModuleError, ModuleNotFoundError, ArgumentError) as error:
            raise LedgerError(
                f"The ledger {self.shown} needs a driver that is not here ({first_line(error)}): install it, "
                "pip install 'asu-lora[postgres]' for Postgres."
            ) from error
        event.listen(engine, "begin", _begin)
        return engine

    def _open_file(self) -> sqlite3.Connection:
        # not rwc: a file that is gone is an error, not a new and empty ledger
        mode, file = "rw", Path(str(self.file))
        if read_only := file.is_file() and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
            # SQLite would make files for its log beside it; where none is there, nobody writes
            mode = "ro" if file.with_name(f"{file.name}-wal").exists() else "ro&immutable=1"
        connection = sqlite3.connect(
            f"file:{quote(str(file))}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )
        if read_only:
            return connection
        for pragma in ("secure_delete=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        _log_ahead(connection)
        return connection

    def _schema(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(select(text("version_num")).select_from(text("alembic_version"))).scalar()

    def _migrate(self, connection: Connection) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", "asu_lora.requests.ledger:migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise LedgerError(
                f"The ledger {self.shown} was made by a newer asu-lora: upgrade asu-lora to open it."
            ) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:  # its own text also shows what was to be written
            why = first_line(error.orig) if isinstance(error.orig, Exception) else type(error).__name__
            raise LedgerError(
                f"The ledger {self.shown} can't be {'reached' if isinstance(error, OperationalError) else 'used'} "
                f"({why.rstrip('.')}{self._no_room()}): put that right and give the same command again, it goes on."
            ) from error
        except SQLAlchemyError as error:
            raise LedgerError(f"The ledger {self.shown} can't be used: {type(error).__name__}.") from error
        except sqlite3.Error as error:
            raise LedgerError(f"The ledger {self.shown} can't be reached ({error}{self._no_room()}).") from error

    def _no_room(self) -> str:
        """Behind SQLite's own words, where the disk is full: these may be "disk I/O error" then, even of a reader."""
        with suppress(OSError):
            if self.file is not None and shutil.disk_usage(self.file.parent).free < ROOM:
                return f"; the disk is full, {self.file.parent} needs {ROOM >> 10} KiB"
        return ""


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn WAL mode on: where others do so to a new file, SQLite refuses at once, whatever its timeout."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _begin(connection: Connection) -> None:
    """Writers queue from their first statement on; else two that read first would refuse each other later."""
    reads = connection.get_execution_options().get("asu_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _url(address: str) -> URL:
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise LedgerError(
            "ASU_LORA_DATABASE is no address of a database: write it like postgresql://user@host/name or "
            "sqlite:////folder/ledger.sqlite."
        ) from error
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if isinstance(password := url.query.get("password"), str):  # libpq takes it there too; what is shown must not
        url = url.difference_update_query(["password"]).set(password=password)
    return url


def has_password(address: str) -> bool:
    """Whether an address gives a password away."""
    return _url(address).password is not None
