"""Files on the Hugging Face hub: find one in its cache, download one, and check that it is what was published.

The hub's own client keeps the cache (HF_HOME) and does the transfer. It does not compare a body with its sha256, so
that is done here, every time a file is handed out.
"""

from __future__ import annotations

from pathlib import Path

from rph import disk
from rph.api import File
from rph.errors import RphError


def find(file: File) -> Path | None:
    """Where the file is in the hub's cache, unverified; None if it is not there. Asks no network."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(file.repo, file.path, revision=file.revision, repo_type=file.repo_type)
    return Path(path) if isinstance(path, str) else None  # the client also knows "known not to exist"


def fetch(file: File) -> Path:
    """The verified file, from the hub's cache or else downloaded at its pinned revision.

    Raises RphError where it cannot be had: offline, not found, no access, no connection, or wrong content.
    """
    path = find(file) or _download(file)
    verify(file, path)
    return path


def verify(file: File, path: Path) -> None:
    """Raise RphError unless `path` has the size and sha256 that are recorded for the file, as far as they are."""
    fix = f"delete {path} and run the same command again; if it comes back, the publisher changed the file"
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise RphError(
            f"{path} is not the published {file.path}",
            why=f"it has {size:,} bytes, the record says {file.size:,}",
            fix=fix,
        )
    if file.sha256 is not None and (digest := disk.sha256_file(path)) != file.sha256:
        raise RphError(
            f"{path} is not the published {file.path}",
            why=f"its sha256 is {digest}, the record says {file.sha256}",
            fix=fix,
        )


def _download(file: File) -> Path:
    from huggingface_hub import hf_hub_download, hf_hub_url

    what = f"{file.path} of {file.repo} (revision {file.revision})"
    address = hf_hub_url(file.repo, file.path, revision=file.revision, repo_type=file.repo_type)
    if disk.offline():
        raise RphError(
            f"{what} is not on this machine",
            why="RPH_OFFLINE or HF_HUB_OFFLINE is set, so the hub was not asked",
            fix=f"unset it and run the same command once, to download {address}",
        )
    try:
        return Path(hf_hub_download(file.repo, file.path, revision=file.revision, repo_type=file.repo_type))
    except Exception as error:  # the client's HTTP library raises its own; both change with versions
        raise _explained(what, address, error) from error


def _explained(what: str, address: str, error: Exception) -> RphError:
    root, status = _root(error)
    if isinstance(root, OSError) and root.errno in disk.NO_ROOM:
        return RphError(
            f"no room for {what}",
            why=str(root.strerror),
            fix="free some space, or point HF_HOME at a larger disk",
        )
    if status is None:
        return RphError(
            f"{what} could not be downloaded",
            why=f"no answer from {address} ({type(root).__name__}: {root})",
            fix="check the connection and HF_ENDPOINT, then run the same command again",
        )
    why = f"{address} answers {status}"
    if status in (401, 403):
        return RphError(
            f"the hub does not give {what} to you",
            why=f"{why}: access must be granted, or there is no such repository",
            fix="accept the conditions on its page, then run `hf auth login` or set HF_TOKEN",
        )
    if status == 404:
        return RphError(
            f"the hub has no {what}",
            why=f"{why} ({type(error).__name__})",
            fix="the publisher may have moved or withdrawn it; look at its page",
        )
    return RphError(f"the hub failed to give {what}", why=why, fix="run the same command again later")


def _root(error: BaseException) -> tuple[BaseException, int | None]:
    """What an exception came from, and the HTTP status that some exception on the way carries."""
    status = None
    while True:
        status = status or getattr(getattr(error, "response", None), "status_code", None)
        if error.__cause__ is None:
            return error, status
        error = error.__cause__
