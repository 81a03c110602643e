"""A Hugging Face hub on this machine, for tests: it serves files from memory and keeps a log of requests.

    with FakeHub({"model.bin": b"..."}) as hub:
        ...  # HF_ENDPOINT=hub.endpoint, set before huggingface_hub is imported: use a subprocess

Every repository, data set or model, holds the same `files`, or its own of `repos`; every revision is the same. The
routes and headers are the fewest that huggingface_hub needs for hf_hub_download and snapshot_download.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from tests.moments import PATIENCE

COMMIT = "c0ffee" * 6 + "c0ff"  # what a branch name resolves to
# The environment of a client: it would ask again after 10 s, and a busy machine's answer may take as long.
PATIENT = dict.fromkeys(("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"), f"{PATIENCE:g}")
RESOLVE = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+).*)?")


class FakeHub:
    """Serves `files` {path in the repository: content}, or `repos` {repository: files}.

    `status` makes every answer that HTTP status, with `error_code` as X-Error-Code (EntryNotFound, GatedRepo, ...);
    `failures` are the statuses of the first answers only. `corrupt` serves bodies of the right size and the wrong
    content. `cut` closes the connection after so many bytes of a body, `cuts` times; `stall` sends so many of the first
    and then nothing, and sets `stalled`. `commit` is what a branch stands for.
    `requests` lists "METHOD path", `ranges` the ranges asked for, `tokens` the access tokens sent.
    """

    def __init__(
        self,
        files: dict[str, bytes] | None = None,
        *,
        repos: dict[str, dict[str, bytes]] | None = None,
        status: int = 0,
        error_code: str = "",
        failures: tuple[int, ...] = (),
        corrupt: bool = False,
        cut: int | None = None,
        cuts: int = 1,
        stall: int | None = None,
        commit: str = COMMIT,
    ) -> None:
        self.files, self.repos, self.commit = files or {}, repos, commit
        self.status, self.error_code, self.failures = status, error_code, list(failures)
        self.corrupt, self.cut, self.cuts, self.stall = corrupt, cut, cuts, stall
        self.stalled, self.over = threading.Event(), threading.Event()
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.tokens: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def held(self, repo: str) -> dict[str, bytes]:
        return self.files if self.repos is None else self.repos.get(repo, {})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Quiet: `requests` is the log."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        hub = self.hub
        hub.requests.append(f"{self.command} {path}")
        hub.tokens.append(self.headers.get("Authorization") or "")
        wanted = RESOLVE.fullmatch(path)
        status = hub.failures.pop(0) if wanted and hub.failures else hub.status
        if status:
            self._send(status, b"", {"X-Error-Code": hub.error_code} if hub.error_code else {})
        elif wanted:
            self._file(*wanted.groups())
        elif found := API.fullmatch(path):
            self._info(*found.groups())
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _file(self, repo: str, revision: str, name: str) -> None:
        files = self.hub.held(repo)
        if name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        body = files[name]
        headers = {
            "X-Repo-Commit": self._commit(revision),
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if self.hub.corrupt:
            body = bytes(byte ^ 0xFF for byte in body)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            self._send(200, body, headers)
            return
        self.hub.ranges.append(wanted[0])
        start, end = int(wanted[1]), int(wanted[2] or len(body) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        self._send(206, body[start : end + 1], headers)

    def _info(self, repo: str, route: str | None, revision: str | None) -> None:
        files = self.hub.held(repo)
        if route in ("tree", "paths-info"):
            answer: Any = [
                {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in files.items()
            ]
        else:
            siblings = [{"rfilename": name} for name in files]
            answer = {"id": repo, "sha": self._commit(revision or "main"), "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if "ETag" not in headers:  # no file
            self.wfile.write(body)
            return
        if self.hub.stall is not None:
            self.wfile.write(body[: self.hub.stall])
            self.hub.stall = None
            self.hub.stalled.set()
            self.hub.over.wait(PATIENCE)
            self.close_connection = True
            return
        if self.hub.cut is not None and self.hub.cuts > 0 and len(body) > self.hub.cut:
            self.hub.cuts -= 1
            self.wfile.write(body[: self.hub.cut])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _commit(self, revision: str) -> str:
        return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else self.hub.commit
