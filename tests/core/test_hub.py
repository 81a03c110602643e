"""Files on the hub: from the cache or downloaded, and always what was published.

huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported, so each case runs in a process of its own.
"""

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hub_server import FakeHub

from rph import File, RphError
from rph.hub import verify

BODY = b"labels and costs" * 1000
FILE = File(
    repo="someone/table",
    path="data/table.pkl",
    revision="a" * 40,
    size=len(BODY),
    sha256=hashlib.sha256(BODY).hexdigest(),
)
SCRIPT = """
import time
time.sleep = lambda seconds: None  # the client waits between its attempts
from rph import File, RphError, hub
file = {file!r}
for step in {steps!r}:
    try:
        print("RESULT", step, getattr(hub, step)(file), flush=True)
    except RphError as error:
        print("ERROR", step, error, flush=True)
"""


def client(tmp_path, endpoint, *steps, file=FILE, **environment):
    """What the steps (`find`, `fetch`) print in a process that has this hub and a cache of its own."""
    base = {k: v for k, v in os.environ.items() if k not in ("RPH_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(file=file, steps=steps)],
        check=False,
        env=base
        | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_is_downloaded_once_and_then_found_without_asking(tmp_path):
    with FakeHub({FILE.path: BODY}) as hub:
        said = client(tmp_path, hub.endpoint, "find", "fetch").splitlines()
        assert said[0] == "RESULT find None"
        path = Path(said[1].removeprefix("RESULT fetch "))
        assert path.read_bytes() == BODY
        assert any("/datasets/someone/table/resolve/" + "a" * 40 in request for request in hub.requests)
        hub.requests.clear()
        again = client(tmp_path, hub.endpoint, "find", "fetch", RPH_OFFLINE="1").splitlines()
        assert again == [f"RESULT find {path}", f"RESULT fetch {path}"]
        assert hub.requests == []


@pytest.mark.parametrize("variable", ["RPH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_fails_at_once_and_names_the_file_and_the_next_step(tmp_path, variable):
    with FakeHub({FILE.path: BODY}) as hub:
        said = client(tmp_path, hub.endpoint, "fetch", **{variable: "1"})
        assert hub.requests == []
    assert "data/table.pkl of someone/table (revision aaaa" in said
    assert (
        f"fix: unset it and run the same command once, to download {hub.endpoint}/datasets/someone/table"
        in said
    )


def test_a_download_of_the_wrong_content_is_refused_with_both_hashes(tmp_path):
    with FakeHub({FILE.path: BODY}, corrupt=True) as hub:
        said = client(tmp_path, hub.endpoint, "fetch")
    assert "is not the published data/table.pkl" in said
    assert FILE.sha256 in said
    assert hashlib.sha256(bytes(byte ^ 0xFF for byte in BODY)).hexdigest() in said


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "EntryNotFound", "the hub has no data/table.pkl"),
        (404, "RevisionNotFound", "the hub has no data/table.pkl"),
        (401, "GatedRepo", "the hub does not give data/table.pkl"),
        (403, "", "the hub does not give data/table.pkl"),
    ],
)
def test_a_refusal_says_the_address_and_the_status(tmp_path, status, code, expected):
    with FakeHub({}, status=status, error_code=code) as hub:
        said = client(tmp_path, hub.endpoint, "fetch")
    assert said.startswith(f"ERROR fetch {expected}")
    assert f"{hub.endpoint}/datasets/someone/table/resolve/{'a' * 40}/data/table.pkl answers {status}" in said


def test_no_connection_says_the_address(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound, not listening
        said = client(tmp_path, endpoint, "fetch")
    assert "could not be downloaded" in said
    assert f"no answer from {endpoint}/datasets/someone/table/resolve/" in said


def test_a_file_of_another_size_is_refused(tmp_path):
    (tmp_path / "f").write_bytes(BODY[:-1])
    with pytest.raises(RphError, match="15,999 bytes, the record says 16,000"):
        verify(FILE, tmp_path / "f")


def test_a_file_without_a_recorded_hash_is_checked_by_size_alone(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 16_000)
    verify(File(repo="a/b", path="f", revision="a" * 40, size=16_000), tmp_path / "f")
