"""One SQLite file, with one connection in one process that writes it and owns its checkpoints.

SQLite before 3.51.3 can lose acknowledged commits of a write-ahead log when two connections
write and checkpoint at the same time (https://sqlite.org/wal.html, "the WAL-reset bug"). Here
there are never two: a file next to the database is locked by the process that has it open, the
database itself is in exclusive locking mode, and nothing but `MemoryFile` opens it.
"""

import contextlib
import fcntl
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence

APPLICATION_ID = 0x6167656D  # "agem", in the header of the file
_CHECKPOINT_BYTES = 4 * 2**20  # of the log, from where on it is written into the database

# What brings a file from one version to the next; the first makes an empty one to version 1.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE users (
        user INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        key_hash INTEGER NOT NULL,
        counter INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE memories (
        entry INTEGER PRIMARY KEY,
        user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
        number INTEGER NOT NULL,
        place INTEGER NOT NULL,
        content TEXT NOT NULL,
        metadata TEXT NOT NULL,
        embedding BLOB NOT NULL,
        UNIQUE (user, number),
        UNIQUE (user, place)
    ) STRICT;
    """,
)


class MemoryFile:
    """A database that is open, for this process alone.

    Every method may be called from any thread; they take turns.

    Attributes:
      path: of the database; None where it is kept in this process's memory.
    """

    def __init__(self, path: str | os.PathLike | None):
        """Opens `path`, which is made where it is missing, readable for its owner alone.

        Raises:
          BlockingIOError: another process has it open.
          ValueError: it is no database of memories, is damaged, or was written by a newer version.
          OSError: it cannot be read or written.
        """
        self.path = None if path is None else pathlib.Path(path).absolute()
        self.lock = threading.RLock()
        self._lock_file = None if self.path is None else _take(self.path)
        self._connection: sqlite3.Connection | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        where = ":memory:" if self.path is None else str(self.path)
        if self.path is not None:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            connection = sqlite3.connect(where, isolation_level=None, check_same_thread=False)
            self._connection = connection
            # Before the log is: nobody else can have a part in it.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            version = self._version()
            for setting in (
                "journal_mode = WAL",
                "synchronous = FULL",  # a commit is on the disk before it is acknowledged
                "fullfsync = ON",
                "checkpoint_fullfsync = ON",
                "wal_autocheckpoint = 0",  # `write` decides
                "secure_delete = ON",
                "temp_store = MEMORY",  # no file beside these holds what somebody said
                "foreign_keys = ON",
                "trusted_schema = OFF",
            ):
                connection.execute(f"PRAGMA {setting}")
            self._migrate(version)
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise BlockingIOError(_in_use(where)) from error
            raise ValueError(f"{where} is no memory that can be read: {error}.") from error

    def _version(self) -> int:
        """That of the file; 0 for an empty one. Nothing was written yet where it is refused."""
        application = self._value("PRAGMA application_id")
        version = self._value("PRAGMA user_version")
        if application != APPLICATION_ID and self._value("SELECT count(*) FROM sqlite_schema"):
            raise ValueError(f"{self.path} is an SQLite file of another program, not a memory.")
        if version > len(MIGRATIONS):
            raise ValueError(
                f"{self.path} is a memory of version {version}, and this program knows versions up "
                f"to {len(MIGRATIONS)}; take a newer agemem_jax."
            )
        return version

    def _migrate(self, version: int) -> None:
        """Brings the file from `version` to this one, each step whole or not at all."""
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            with self.write():
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                for statement in filter(str.strip, script.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {number}")

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: when the block has ended, it is on the disk; if it raises, nothing is."""
        with self.lock:
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A commit that failed, as on a full disk, may have rolled back by itself.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if self._log_bytes() > _CHECKPOINT_BYTES:
                self.checkpoint()

    @property
    def connection(self) -> sqlite3.Connection:
        """The one there is; to be used while `lock` is held.

        Raises:
          ValueError: it was closed.
        """
        if self._connection is None:
            raise ValueError("This memory was closed.")
        return self._connection

    def rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        """What a query finds."""
        with self.lock:
            return self.connection.execute(query, values).fetchall()

    def _value(self, query: str) -> int:
        return self.rows(query)[0][0]

    def _log_bytes(self) -> int:
        if self.path is None:
            return 0
        with contextlib.suppress(FileNotFoundError):
            return os.path.getsize(f"{self.path}-wal")
        return 0

    def checkpoint(self) -> None:
        """Writes the log into the database and empties it."""
        with self.lock:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def purge(self) -> None:
        """Leaves nothing of what was deleted or replaced, in the database and in the log.

        The database is written anew: SQLite zeroes what it frees, but when pages are split, it
        leaves copies behind. This takes time in proportion to what is stored.
        """
        with self.lock:
            self.connection.execute("VACUUM")
            self.checkpoint()

    def check(self) -> list[str]:
        """What is wrong with the file, a sentence each; none is a good file."""
        with self.lock:
            found = [text for (text,) in self.rows("PRAGMA integrity_check") if text != "ok"]
            for table, row, *_ in self.rows("PRAGMA foreign_key_check"):
                found.append(f"Row {row} of {table} belongs to a user that is not there.")
        return found

    def close(self) -> None:
        """Empties the log and lets other processes have the file; may be called twice."""
        with self.lock:
            if self._connection is not None:
                # The last connection that closes empties the log into the database by itself.
                self._connection.close()
                self._connection = None
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None


def _take(path: pathlib.Path) -> int:
    """The descriptor of the lock beside `path`; it lasts until that is closed or the process ends.

    Not a lock on the database: POSIX drops those of a process with any descriptor that it closes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode("ascii", "replace").strip()
        os.close(lock)
        raise BlockingIOError(_in_use(path, holder)) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _in_use(path: str | os.PathLike, holder: str = "") -> str:
    by = f"process {holder}" if holder else "another process"
    return (
        f"{os.fspath(path)} is in use by {by}; a memory is open in one process at a time, so end "
        "that one or take another file."
    )
