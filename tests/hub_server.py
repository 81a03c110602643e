"""A Hugging Face hub on this machine, for tests: it serves files from memory and keeps a log of requests.

    with FakeHub({"model.bin": b"..."}) as hub:
        ...  # HF_ENDPOINT=hub.endpoint, set before huggingface_hub is imported: use a subprocess

Every repository name, data set or model, and every revision holds the same files. The routes and headers are the
fewest that huggingface_hub needs for hf_hub_download and snapshot_download.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"  # what a branch name resolves to
RESOLVE = re.compile(r"/(?:datasets/)?[^/]+/[^/]+/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+).*)?")


class FakeHub:
    """Serves `files` {path in the repository: content}.

    `status` makes every answer that HTTP status, with `error_code` as X-Error-Code (EntryNotFound, GatedRepo, ...).
    `corrupt` serves bodies of the right size and the wrong content. `requests` lists "METHOD path".
    """

    def __init__(
        self, files: dict[str, bytes], *, status: int = 0, error_code: str = "", corrupt: bool = False
    ) -> None:
        self.files, self.status, self.error_code, self.corrupt = files, status, error_code, corrupt
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
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
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status:
            self._send(
                self.hub.status, b"", {"X-Error-Code": self.hub.error_code} if self.hub.error_code else {}
            )
        elif found := RESOLVE.fullmatch(path):
            self._file(*found.groups())
        elif found := API.fullmatch(path):
            self._info(*found.groups())
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _file(self, revision: str, name: str) -> None:
        if name not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        body = self.hub.files[name]
        headers = {"X-Repo-Commit": _commit(revision), "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        if self.hub.corrupt:
            body = bytes(byte ^ 0xFF for byte in body)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            self._send(200, body, headers)
            return
        start, end = int(wanted[1]), int(wanted[2] or len(body) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        self._send(206, body[start : end + 1], headers)

    def _info(self, repo: str, route: str | None, revision: str | None) -> None:
        if route in ("tree", "paths-info"):
            answer: Any = [
                {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in self.hub.files.items()
            ]
        else:
            siblings = [{"rfilename": name} for name in self.hub.files]
            answer = {"id": repo, "sha": _commit(revision or "main"), "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _commit(revision: str) -> str:
    return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else COMMIT
