"""Where rph keeps its files, and how it writes them: whole or not at all.

Everything is written beside its target under a temporary name, flushed, and renamed: a reader sees the old
file or the new one, never a half. `RPH_HOME` (default `~/.rph`) holds the embedding cache, converted
benchmarks and the run store.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rph.errors import RphError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a plugin or benchmark: it becomes part of file names

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk full, quota, file size limit
REFUSED = {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
READ = 1 << 20  # bytes read at once


def home() -> Path:
    """The folder rph keeps its files in: the environment variable RPH_HOME, or ~/.rph."""
    return Path(os.environ.get("RPH_HOME") or Path.home() / ".rph").expanduser()


def offline() -> bool:
    """Whether RPH_OFFLINE or HF_HUB_OFFLINE forbids asking the hub for anything."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("RPH_OFFLINE", "HF_HUB_OFFLINE")
    )


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def disk_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn the system's refusal to write under `path` into an RphError that says what to do."""
    try:
        yield
    except OSError as error:
        raise _explained(error, doing, path) from error


def _explained(error: OSError, doing: str, path: Path) -> OSError | RphError:
    if error.errno in NO_ROOM:
        return RphError(
            f"no room to write {path} ({doing})",
            why=f"{error.strerror}; nothing half-written was left behind",
            fix="free some space, or point RPH_HOME at a larger disk; the same command then continues",
        )
    if error.errno in REFUSED:
        return _unwritable(error, doing, path)
    return error


def _unwritable(error: OSError, doing: str, path: Path) -> RphError:
    return RphError(
        f"{path} cannot be written ({doing})",
        why=str(error.strerror),
        fix="make it a folder you may write to, or point RPH_HOME at one that is"
        if path.is_relative_to(home())
        else "name another place, one where you may write",
    )


@contextlib.contextmanager
def _beside(path: Path, doing: str) -> Iterator[None]:
    """Around the first touch of the target's folder: whatever the system refuses there is about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise _unwritable(error, doing, path) from error


@contextlib.contextmanager
def new_file(path: Path, doing: str) -> Iterator[Path]:
    """Yield a temporary path; when the block ends without an error it becomes `path`, atomically."""
    with disk_errors(doing, path):
        with _beside(path, doing):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _flush(temporary)
            temporary.chmod(0o666 & ~_umask())  # mkstemp's are the owner's alone; a cache may be shared
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path, doing: str) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends without an error it becomes `path`, atomically.

    Where another process made `path` meanwhile, that one stays and ours is dropped.
    """
    with disk_errors(doing, path):
        with _beside(path, doing):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            temporary.chmod(0o777 & ~_umask())
            try:
                temporary.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)  # can only be read by setting it
    os.umask(mask)
    return mask
