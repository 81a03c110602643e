"""The run store: every finished trial, kept so that nothing is trained twice and every number can be computed again.

A folder with `trials.sqlite` (one row per trial; WAL) and `scores/` (one npz per finished trial: its val and
test scores). The scores are written first and whole, the row after them, several rows in one transaction: a
kill at any moment leaves a trial done or not done. Only success counts as done; a failed trial keeps its
traceback and is tried again by the next run.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rph import disk
from rph.errors import RphError
from rph.lazy import np
from rph.results.outcomes import Failed, Scored

WAIT = 60.0  # seconds to wait for another process's short write
# The statements that lead from each version to the next: an older store is brought up to date when it is opened.
STEPS = (
    """
CREATE TABLE trials (
    key TEXT PRIMARY KEY,      -- hash of everything that decides the result
    cell TEXT NOT NULL,        -- hash of (benchmark, router name, encoder): the key without code, variant and seed
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    decided_by TEXT NOT NULL,  -- JSON: what the key is the hash of
    sha256 TEXT,               -- of the npz file, where done
    seconds REAL NOT NULL,
    traceback TEXT,            -- where failed, the reason as its last line
    attempts INTEGER NOT NULL DEFAULT 1,
    finished_at REAL NOT NULL
);
CREATE INDEX trials_cell ON trials (cell)
""",
    """
CREATE TABLE results (
    cell TEXT NOT NULL,
    key TEXT NOT NULL,    -- hash of everything else that decides the result: protocol, code, ...
    state TEXT NOT NULL,  -- hash of the cell's rows in `trials` and its score files, when it was computed
    result TEXT NOT NULL, -- JSON
    PRIMARY KEY (cell, key)
)
""",
)
SCHEMA = len(STEPS)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which trial: what decides its result, and the cell it belongs to."""

    cell: str
    decided_by: dict[str, Any]  # JSON-able

    @property
    def text(self) -> str:
        """`decided_by` as it is kept and hashed. Raises RphError where it holds what JSON, and so SQLite, cannot."""
        try:
            return _canonical(self.decided_by, allow_nan=False)
        except ValueError as error:
            raise RphError(
                "a trial cannot be kept in the run store",
                why=f"NaN or an infinity is among what decides its result: {self.decided_by.get('variant')}",
                fix="give that field of the variant a finite number, or None",
            ) from error

    @property
    def key(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def digest(content: Any) -> str:
    """Hex sha256 of the canonical JSON of `content`."""
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _canonical(content: Any, *, allow_nan: bool = True) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan)


class Store:
    """One run store. Opening creates it; several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notices: list[str] = []  # damage found and repaired, for the user to read
        path = folder / "trials.sqlite"
        with disk.disk_errors("opening the run store", folder), _explained(path):
            (folder / "locks").mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
            # Entering WAL mode does not wait for another process that does the same: it fails at once.
            with FileLock(folder / "locks" / "open.lock"):
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                version = self._migrate()
        if version != SCHEMA:
            raise RphError(
                f"run store {str(folder)!r} has schema version {version}; this rph reads up to version {SCHEMA}",
                why="it was written by a newer version of rph",
                fix="use that version, or give another folder with --store",
            )

    def close(self) -> None:
        self._db.close()

    def _migrate(self) -> int:
        """Bring a new or an older store up to date, wholly or not at all; returns the version it then has."""
        with self._transaction():
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            for step in STEPS[version:]:
                for statement in step.split(";\n"):
                    self._db.execute(statement)
            if version < SCHEMA:
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")
            return max(version, SCHEMA)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def get(self, identity: Identity) -> Scored | None:
        """The finished trial, or None where it is not done. Damaged scores are dropped, said, and count as not done."""
        with _explained(self.folder / "trials.sqlite"):
            row = self._db.execute(
                "SELECT sha256, seconds FROM trials WHERE key = ? AND status = 'done'", (identity.key,)
            ).fetchone()
        if row is None:
            return None
        path = self._scores_path(identity.key)
        if not path.is_file() or disk.sha256_file(path) != row[0]:
            self.notices.append(
                f"the stored scores {path} were missing or damaged; that trial is trained again"
            )
            with _explained(self.folder / "trials.sqlite"), self._transaction():
                self._db.execute("DELETE FROM trials WHERE key = ?", (identity.key,))
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return Scored(val=arrays["val"], test=arrays["test"], costs=arrays.get("costs"), seconds=row[1])

    def put(self, outcomes: Sequence[tuple[Identity, Scored | Failed]]) -> None:
        """Record trials that were run together: all of them or, on a kill or an error, none."""
        rows = [self._row(identity, outcome) for identity, outcome in outcomes]
        with _explained(self.folder / "trials.sqlite"), self._transaction():
            self._db.executemany(
                "INSERT INTO trials (key, cell, status, decided_by, sha256, seconds, traceback, finished_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET status = excluded.status, sha256 = excluded.sha256,"
                " seconds = excluded.seconds, traceback = excluded.traceback,"
                " attempts = attempts + 1, finished_at = excluded.finished_at",
                rows,
            )

    def _row(self, identity: Identity, outcome: Scored | Failed) -> tuple[Any, ...]:
        sha256 = traceback = None
        if isinstance(outcome, Scored):
            path = self._scores_path(identity.key)
            with disk.new_file(path, "storing a trial's scores") as temporary:
                with temporary.open("wb") as file:
                    own: dict[str, Any] = {} if outcome.costs is None else {"costs": outcome.costs}
                    np.savez(file, val=outcome.val, test=outcome.test, **own)
                sha256 = disk.sha256_file(temporary)
            # Halves of a writer that was killed: the cell is ours now.
            for half in path.parent.glob(f".{path.name}.*"):
                half.unlink(missing_ok=True)
        else:
            traceback = f"{outcome.traceback.rstrip()}\n{outcome.reason}"
        status = "done" if sha256 else "failed"
        return (
            identity.key,
            identity.cell,
            status,
            identity.text,
            sha256,
            outcome.seconds,
            traceback,
            time.time(),
        )

    def _scores_path(self, key: str) -> Path:
        return self.folder / "scores" / key[:2] / f"{key}.npz"

    def times_test_was_scored(self, cell: str) -> int:
        """How many finished trials of a cell have test scores here, over every version of the router's code."""
        with _explained(self.folder / "trials.sqlite"):
            row = self._db.execute(
                "SELECT count(*) FROM trials WHERE cell = ? AND status = 'done'", (cell,)
            ).fetchone()
        return int(row[0])

    def result(self, cell: str, key: str) -> str | None:
        """The result of a cell as it was kept, or None where there is none or a trial of the cell has changed since."""
        with _explained(self.folder / "trials.sqlite"):
            row = self._db.execute(
                "SELECT state, result FROM results WHERE cell = ? AND key = ?", (cell, key)
            ).fetchone()
        return row[1] if row is not None and row[0] == self._state(cell) else None

    def keep_result(self, cell: str, key: str, result: str) -> None:
        """Keep a cell's result, JSON, until one of its trials changes."""
        state = self._state(cell)
        with _explained(self.folder / "trials.sqlite"), self._transaction():
            self._db.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", (cell, key, state, result))

    def _state(self, cell: str) -> str:
        """Changes with every trial of the cell that is added, trained again, or whose file is not as it was written."""
        with _explained(self.folder / "trials.sqlite"):
            rows = self._db.execute(
                "SELECT key, status, sha256, attempts, finished_at FROM trials WHERE cell = ? ORDER BY key",
                (cell,),
            ).fetchall()
        files = []
        for key, status, *_ in rows:
            path = self._scores_path(key)
            found = path.stat() if status == "done" and path.is_file() else None
            files.append(None if found is None else [found.st_size, found.st_mtime_ns])
        return digest([rows, files])

    def counts(self) -> dict[str, int]:
        """How many trials are done and how many failed."""
        with _explained(self.folder / "trials.sqlite"):
            rows = self._db.execute("SELECT status, count(*) FROM trials GROUP BY status").fetchall()
        return {"done": 0, "failed": 0, **dict(rows)}

    def problems(self) -> list[str]:
        """What a full check finds: a damaged database, scores that are missing or damaged. Empty = sound."""
        with _explained(self.folder / "trials.sqlite"):
            found = [row[0] for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            rows = self._db.execute("SELECT key, sha256 FROM trials WHERE status = 'done'").fetchall()
        for key, sha256 in rows:
            path = self._scores_path(key)
            if not path.is_file():
                found.append(f"scores missing: {path}")
            elif disk.sha256_file(path) != sha256:
                found.append(f"scores damaged: {path}")
        return found

    def hold(self, cell: str, seconds: float) -> FileLock | None:
        """A cell's lock, held, so that two processes never train the same trials; None if another has it so long.

        The lock is the operating system's: a killed process holds nothing.
        """
        lock = FileLock(self.folder / "locks" / f"{cell}.lock")
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            return None
        return lock

    def failure(self, identity: Identity) -> Failed | None:
        """How the trial failed, where that was its last end."""
        with _explained(self.folder / "trials.sqlite"):
            row = self._db.execute(
                "SELECT traceback, seconds FROM trials WHERE key = ? AND status = 'failed'", (identity.key,)
            ).fetchone()
        if row is None:
            return None
        traceback, _, reason = row[0].rpartition("\n")
        return Failed(reason=reason, traceback=traceback, seconds=row[1])

    def done(self, identities: Sequence[Identity]) -> int:
        """How many of the trials are finished."""
        keys = [identity.key for identity in identities]
        marks = ",".join("?" * len(keys))
        with _explained(self.folder / "trials.sqlite"):
            row = self._db.execute(
                f"SELECT count(*) FROM trials WHERE status = 'done' AND key IN ({marks})", keys
            ).fetchone()
        return int(row[0])

    def seconds_per_trial(self) -> dict[tuple[str, str], float]:
        """(router, benchmark fingerprint) -> mean seconds of its finished trials, as far as there are any."""
        with _explained(self.folder / "trials.sqlite"):
            rows = self._db.execute(
                "SELECT json_extract(decided_by, '$.router') AS router, json_extract(decided_by, '$.benchmark') AS bench,"
                # An older rph wrote NaN into some rows; SQLite would refuse the whole question for one of them.
                " avg(seconds) FROM trials WHERE status = 'done' AND json_valid(decided_by) GROUP BY router, bench"
            ).fetchall()
        return {(router, bench): mean for router, bench, mean in rows if router and bench}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the database file into errors that say what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text or "disk I/O" in text:
            why, fix = (
                text,
                "free some space on the disk; the same command then continues, nothing finished is lost",
            )
        elif "locked" in text or "busy" in text:
            why, fix = f"{text} for {WAIT:g} s", "wait for the other rph process, then run the same command"
        elif "readonly" in text or "unable to open" in text:
            why, fix = text, "make the folder writable, or give another with --store"
        else:
            why = f"{text}: the file is damaged or not a run store"
            fix = "move it away (or restore a copy) and run the same command; scores/ is not affected"
        raise RphError(f"run store {str(path)!r} cannot be used", why=why, fix=fix) from error
