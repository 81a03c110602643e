"""Files on the Hugging Face hub: a copy on this machine, and the proof that it is what was published.

A file is kept at `RPH_HOME/hub/<repository>/<commit>/<path>`; the hub client's own cache (HF_HOME) is looked at too.
Addresses, access tokens and the transfer are huggingface_hub's. What it does not do is done here: a download that was
killed goes on where it stopped, other endpoints are tried (RPH_MIRRORS, a comma-separated list; your token is never
sent there), and a body is compared with its sha256 before it gets its name and whenever it is handed out.

Where a publisher gives no sha256, that of the first pull is recorded in `<repository>/record.json` and required ever
after; there too stands the commit that a branch name stood for at the first pull.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rph import disk
from rph.api import File
from rph.errors import RphError

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
PAUSES = (1.0, 3.0)  # seconds before a failed answer is asked for again; then the next endpoint


def find(file: File) -> Path | None:
    """Where the file is on this machine, unverified; None if it is not there. Asks no network."""
    return _ours(file) or _clients(file)


def fetch(file: File, *, of: str) -> Path:
    """The verified file, from this machine or else downloaded; `of` is the plugin that needs it, for messages.

    Raises RphError where it cannot be had: offline, not found, no access, no connection, or wrong content.
    """
    path = find(file)
    return _download(file, of) if path is None else _checked(file, path)


def fetch_folder(files: Sequence[File], *, of: str) -> Path:
    """A folder with all these files of one repository, each verified as `fetch` does."""
    ours, theirs = [_ours(file) for file in files], [_clients(file) for file in files]
    kept = theirs if None in ours and None not in theirs else ours  # one folder has them all, or ours will
    paths = [
        _download(file, of) if path is None else _checked(file, path)
        for file, path in zip(files, kept, strict=True)
    ]
    return paths[0].parents[len(Path(files[0].path).parts) - 1]


def _checked(file: File, path: Path) -> Path:
    """The path of a copy that was here, verified; what `_download` gives was verified before it got its name."""
    verify(file, path)
    _record(file, path)
    return path


def checked_by(file: File) -> str:
    """What a copy of the file is compared with; "first pull" where that will be recorded."""
    if file.sha256 is not None:
        return "publisher's sha256"
    recorded = _recorded(file)
    return f"sha256 recorded on {recorded['on']}" if recorded else "first pull"


def sha256(file: File) -> str | None:
    """The sha256 that is published, or else recorded; None where the file was never pulled."""
    return file.sha256 or _recorded(file).get("sha256")


def size(file: File) -> int | None:
    """As `sha256`: bytes."""
    return file.size if file.size is not None else _recorded(file).get("size")


def verify(file: File, path: Path) -> None:
    """Raise RphError unless `path` has the size and sha256 that are published or recorded, as far as they are."""
    fix = f"delete {path} and run the same command again; if it comes back, the publisher changed the file"
    found = path.stat().st_size
    if (expected := size(file)) is not None and found != expected:
        raise RphError(
            f"{path} is not the published {file.path}",
            why=f"it has {found:,} bytes, the record says {expected:,}",
            fix=fix,
        )
    if (wanted := sha256(file)) is not None and (digest := disk.sha256_file(path)) != wanted:
        raise RphError(
            f"{path} is not the published {file.path}",
            why=f"its sha256 is {digest}, the record says {wanted}",
            fix=fix,
        )


# --- on this machine --------------------------------------------------------------------------------


def _folder(file: File) -> Path:
    return disk.home() / "hub" / f"{file.repo_type}s--{file.repo.replace('/', '--')}"


def _commit(file: File) -> str | None:
    """The commit that the revision is, or stood for at the first pull."""
    if COMMIT.fullmatch(file.revision):
        return file.revision
    commit = _records(file)["revisions"].get(file.revision)
    return commit if isinstance(commit, str) else None


def _ours(file: File) -> Path | None:
    commit = _commit(file)
    path = _folder(file) / (commit or "") / file.path
    return path if commit and path.is_file() else None


def _clients(file: File) -> Path | None:
    """The file in the hub client's own cache."""
    from huggingface_hub import try_to_load_from_cache

    if (commit := _commit(file)) is None:
        return None
    path = try_to_load_from_cache(file.repo, file.path, revision=commit, repo_type=file.repo_type)
    return Path(path) if isinstance(path, str) else None  # the client also knows "known not to exist"


def _records(file: File) -> dict[str, Any]:
    path = _folder(file) / "record.json"
    try:
        content = json.loads(path.read_bytes())
        return {"revisions": dict(content["revisions"]), "files": dict(content["files"])}
    except FileNotFoundError:
        return {"revisions": {}, "files": {}}
    except (ValueError, KeyError, TypeError) as error:
        raise RphError(
            f"{path} is damaged",
            why=f"{type(error).__name__}: {error}",
            fix="restore it; or delete it, and what is pulled next is taken for the original",
        ) from error


def _recorded(file: File) -> dict[str, Any]:
    """Size, sha256 and day of the first pull; {} where there was none."""
    found: dict[str, Any] = _records(file)["files"].get(f"{_commit(file)}/{file.path}", {})
    return found


def _record(file: File, path: Path, commit: str | None = None) -> None:
    """Keep what a first pull gave, as far as the publisher does not say it."""
    from filelock import FileLock

    commit = commit or _commit(file)
    named = COMMIT.fullmatch(file.revision) is not None
    if (file.sha256 and named) or (_commit(file) == commit and _recorded(file)):
        return
    folder = _folder(file)
    with disk.disk_errors("recording what was pulled", folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "record.lock"):
            records = _records(file)
            if not named:
                records["revisions"].setdefault(file.revision, commit)
            records["files"].setdefault(
                f"{commit}/{file.path}",
                {
                    "size": path.stat().st_size,
                    "sha256": disk.sha256_file(path),
                    "on": datetime.datetime.now(datetime.UTC).date().isoformat(),
                },
            )
            with disk.new_file(folder / "record.json", "recording what was pulled") as temporary:
                temporary.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# --- from the hub -----------------------------------------------------------------------------------


def _download(file: File, of: str) -> Path:
    from filelock import FileLock
    from huggingface_hub import hf_hub_url

    what = f"{file.path} of {file.repo} (revision {file.revision})"
    if disk.offline():
        address = hf_hub_url(file.repo, file.path, revision=file.revision, repo_type=file.repo_type)
        raise RphError(
            f"{what} is not on this machine",
            why=f"RPH_OFFLINE or HF_HUB_OFFLINE is set, so {address} was not asked",
            fix=f"unset it and run `rph data pull {of}`, or the same command, once",
        )
    folder = _folder(file)
    with disk.disk_errors("downloading", folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{file.revision}/{file.path}".encode()).hexdigest()[:16]
    with FileLock(folder / f"{name}.lock"):
        return _ours(file) or _from_endpoints(file, what)


def _from_endpoints(file: File, what: str) -> Path:
    from huggingface_hub import constants

    mirrors = [text.strip() for text in os.environ.get("RPH_MIRRORS", "").split(",") if text.strip()]
    first: RphError | None = None
    for endpoint in (None, *mirrors):
        for pause in (*PAUSES, None):
            try:
                return _transfer(file, endpoint)
            except RphError as error:  # wrong content: asking again gives the same
                first = first or error
                break
            except Exception as error:  # noqa: BLE001 - the client's HTTP library raises its own
                explained, passing = _explained(file, what, endpoint or constants.ENDPOINT, error)
                if passing and pause is not None:
                    time.sleep(pause)
                    continue
                first = first or explained
                break
    assert first is not None
    raise first


def _transfer(file: File, endpoint: str | None) -> Path:
    """Download through one endpoint; what an earlier process got of the same content is kept."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    revision = _commit(file) or file.revision
    address = hf_hub_url(file.repo, file.path, revision=revision, repo_type=file.repo_type, endpoint=endpoint)
    token = None if endpoint is None else False  # the user's token is for the hub alone
    published = get_hf_file_metadata(address, token=token)
    commit, etag, length = published.commit_hash, published.etag, published.size
    if not commit or not etag or (COMMIT.fullmatch(revision) and commit != revision):
        raise RphError(
            f"{address} does not give the file asked for",
            why=f"its commit is {commit}, not {revision}" if commit else "it names no commit and no content",
            fix="check HF_ENDPOINT and RPH_MIRRORS",
        )
    headers = build_hf_headers(token=token)
    if urlsplit(published.location).netloc != urlsplit(address).netloc:
        headers.pop("authorization", None)  # a storage server is another party

    target = _folder(file) / commit / file.path
    partial = target.with_name(f".{target.name}.{hashlib.sha256(etag.encode()).hexdigest()[:16]}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.touch()
    with partial.open("r+b") as body:
        if body.seek(0, os.SEEK_END) > (length or 0):
            body.truncate(0)
            body.seek(0)
        http_get(
            published.location,
            body,
            resume_size=body.tell(),
            headers=headers,
            expected_size=length,
            displayed_filename=file.path,
        )
        body.flush()
        os.fsync(body.fileno())
    try:
        verify(file, partial)
        if sha256(file) is None and SHA256.fullmatch(etag) and disk.sha256_file(partial) != etag:
            raise RphError(
                f"{address} was not transferred whole",
                why=f"the hub says that its sha256 is {etag}",
                fix="run the same command again",
            )
    except RphError:
        partial.unlink()
        raise
    _record(file, partial, commit)
    partial.replace(target)
    return target


def _explained(file: File, what: str, endpoint: str, error: Exception) -> tuple[RphError, bool]:
    """The error in words, and whether to ask again may help."""
    from huggingface_hub import hf_hub_url

    address = hf_hub_url(
        file.repo, file.path, revision=file.revision, repo_type=file.repo_type, endpoint=endpoint
    )
    page = f"{endpoint}/{'datasets/' if file.repo_type == 'dataset' else ''}{file.repo}"
    root, status = _root(error)
    if isinstance(root, OSError) and root.errno in disk.NO_ROOM:
        return RphError(
            f"no room for {what}",
            why=str(root.strerror),
            fix="free some space, or point RPH_HOME at a larger disk; the same command then continues",
        ), False
    if status is None:
        return RphError(
            f"{what} could not be downloaded",
            why=f"no answer from {address} ({type(root).__name__}: {root})",
            fix="check the connection and HF_ENDPOINT, then run the same command again: it continues",
        ), True
    why = f"{address} answers {status}"
    if status in (401, 403):
        return RphError(
            f"the hub does not give {what} to you",
            why=f"{why}: access must be granted, or there is no such repository",
            fix=f"accept the conditions on {page}, then run `hf auth login` or set HF_TOKEN",
        ), False
    if status == 404:
        return RphError(
            f"the hub has no {what}",
            why=f"{why} ({type(error).__name__})",
            fix=f"the publisher may have moved or withdrawn it; look at {page}",
        ), False
    return RphError(
        f"the hub failed to give {what}", why=why, fix="run the same command again later: it continues"
    ), status >= 500 or status == 429


def _root(error: BaseException) -> tuple[BaseException, int | None]:
    """What an exception came from, and the HTTP status that some exception on the way carries."""
    status = None
    while True:
        status = status or getattr(getattr(error, "response", None), "status_code", None)
        if error.__cause__ is None:
            return error, status
        error = error.__cause__
