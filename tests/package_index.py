"""A package index on this machine, for tests of what pip asks an index for: a simple repository (PEP 503) with a log."""

from __future__ import annotations

import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename


class PackageIndex:
    """Serves the wheels in a folder. `asked` are the names of the projects that were asked for, present or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"index": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/simple/"

    def wheels(self, project: str) -> list[str]:
        names = sorted(path.name for path in self.folder.glob("*.whl"))
        return [name for name in names if parse_wheel_filename(name)[0] == project]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    index: PackageIndex

    def do_GET(self) -> None:
        if found := re.fullmatch(r"/simple/([^/]+)/", self.path):
            self.index.asked.add(found[1])
            wheels = self.index.wheels(found[1])
            page = "".join(f'<a href="/wheels/{name}">{name}</a>\n' for name in wheels)
            self._answer(page.encode() if wheels else None, "text/html")
        else:
            file = self.index.folder / unquote(self.path.rpartition("/")[2])
            self._answer(file.read_bytes() if file.is_file() else None, "application/octet-stream")

    def _answer(self, body: bytes | None, kind: str) -> None:
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


def write_stubs(wheel: Path) -> None:
    """Beside a wheel, an empty one for all that it may require, at the version it names: pip has something to choose."""
    with zipfile.ZipFile(wheel) as packed:
        (metadata,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        lines = packed.read(metadata).decode().partition("\n\n")[0].splitlines()
    for line in lines:
        if line.startswith("Requires-Dist: "):
            required = Requirement(line.removeprefix("Requires-Dist: "))
            versions = [one.version for one in required.specifier]
            write_stub(wheel.parent, canonicalize_name(required.name), versions[0] if versions else "1.0")


def write_stub(folder: Path, name: str, version: str) -> None:
    """A wheel that holds nothing."""
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as packed:
        info = f"{stem}.dist-info"
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: stub\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/RECORD", "")
