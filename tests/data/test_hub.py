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
from tests import moments
from tests.hub_server import PATIENT, FakeHub

from rph import File, RphError
from rph.data.hub import fetch_folder, verify

BODY = b"labels and costs" * 1000
FILE = File(
    repo="someone/table",
    path="data/table.pkl",
    revision="a" * 40,
    size=len(BODY),
    sha256=hashlib.sha256(BODY).hexdigest(),
)
BRANCH = File(repo="someone/table", path="data/table.pkl", revision="main")
SCRIPT = """
import time
time.sleep = lambda seconds: None  # between attempts
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 1000  # bytes written at a time: 10 MB otherwise
from rph import File, RphError
from rph.data import hub
file = {file!r}
steps = dict(
    find=lambda: hub.find(file),
    fetch=lambda: hub.fetch(file, of="toy"),
    checked_by=lambda: hub.checked_by(file),
)
for step in {steps!r}:
    try:
        print("RESULT", step, steps[step](), flush=True)
    except RphError as error:
        print("ERROR", step, error, flush=True)
"""


def start(tmp_path, endpoint, *steps, file=FILE, **environment):
    """A process that has this hub and caches of its own, and does the steps (`find`, `fetch`, `checked_by`)."""
    base = {k: v for k, v in os.environ.items() if k not in ("RPH_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN")}
    own = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "RPH_HOME": str(tmp_path / "rph"),
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(file=file, steps=steps)],
        env=base | PATIENT | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def client(*arguments, **options):
    """What the steps print."""
    process = start(*arguments, **options)
    out, error = process.communicate(timeout=moments.PATIENCE)
    assert process.returncode == 0, error
    return out


def test_a_file_is_downloaded_once_and_then_found_without_asking(tmp_path):
    with FakeHub({FILE.path: BODY}) as hub:
        said = client(tmp_path, hub.endpoint, "find", "fetch").splitlines()
        assert said[0] == "RESULT find None"
        path = Path(said[1].removeprefix("RESULT fetch "))
        assert path == tmp_path / "rph/hub/datasets--someone--table" / ("a" * 40) / FILE.path
        assert path.read_bytes() == BODY
        assert any("/datasets/someone/table/resolve/" + "a" * 40 in request for request in hub.requests)
        hub.requests.clear()
        again = client(tmp_path, hub.endpoint, "find", "fetch", RPH_OFFLINE="1").splitlines()
        assert again == [f"RESULT find {path}", f"RESULT fetch {path}"]
        assert hub.requests == []


def test_the_hub_clients_own_cache_is_used_and_checked(tmp_path):
    snapshot = tmp_path / "hf/hub/datasets--someone--table/snapshots" / FILE.revision / FILE.path
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(BODY)
    said = client(tmp_path, "http://127.0.0.1:1", "find", "fetch", RPH_OFFLINE="1").splitlines()
    assert said == [f"RESULT find {snapshot}", f"RESULT fetch {snapshot}"]
    snapshot.write_bytes(BODY[:-1] + b"X")
    assert "is not the published" in client(tmp_path, "http://127.0.0.1:1", "fetch", RPH_OFFLINE="1")


def test_a_cut_connection_is_continued_where_it_broke(tmp_path):
    with FakeHub({FILE.path: BODY}, cut=5000, cuts=2) as hub:
        said = client(tmp_path, hub.endpoint, "fetch")
    assert Path(said.strip().removeprefix("RESULT fetch ")).read_bytes() == BODY
    assert hub.ranges == ["bytes=5000-", "bytes=10000-"]


def test_a_killed_download_is_continued_by_the_next_process(tmp_path):
    body = BODY * 10
    file = File(repo="someone/table", path="t", revision="a" * 40, sha256=hashlib.sha256(body).hexdigest())
    with FakeHub({file.path: body}, stall=100_000) as hub:
        process = start(tmp_path, hub.endpoint, "fetch", file=file)
        folder = tmp_path / "rph/hub"
        moments.until(
            lambda: hub.stalled.is_set() and any(f.stat().st_size for f in folder.rglob("*.partial")),
            "a part of the file lies on disk",
            process,
        )
        process.kill()
        process.communicate()
        said = client(tmp_path, hub.endpoint, "fetch", file=file)
    got = int(hub.ranges[0].removeprefix("bytes=").removesuffix("-"))
    assert 0 < got <= 100_000
    assert Path(said.strip().removeprefix("RESULT fetch ")).read_bytes() == body
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("failures", [(500,), (503, 500), (429,)])
def test_a_passing_failure_is_asked_again(tmp_path, failures):
    with FakeHub({FILE.path: BODY}, failures=failures) as hub:
        said = client(tmp_path, hub.endpoint, "fetch")
    assert said.startswith("RESULT fetch ")


def test_a_lasting_failure_is_told(tmp_path):
    with FakeHub({FILE.path: BODY}, status=500) as hub:
        said = client(tmp_path, hub.endpoint, "fetch")
    assert said.startswith("ERROR fetch the hub failed to give data/table.pkl")
    assert "answers 500" in said


def test_mirrors_are_tried_in_turn_and_never_given_the_token(tmp_path):
    with (
        FakeHub({FILE.path: BODY}, status=500) as hub,
        FakeHub({FILE.path: BODY}, corrupt=True) as wrong,
        FakeHub({FILE.path: BODY}) as good,
    ):
        mirrors = f"{wrong.endpoint}, {good.endpoint}"
        said = client(tmp_path, hub.endpoint, "fetch", RPH_MIRRORS=mirrors, HF_TOKEN="hf_secret")
    assert Path(said.strip().removeprefix("RESULT fetch ")).read_bytes() == BODY
    assert "Bearer hf_secret" in hub.tokens
    assert set(wrong.tokens + good.tokens) == {""}
    assert wrong.requests and good.requests


def test_without_a_published_hash_the_first_pull_is_recorded_and_required_ever_after(tmp_path):
    with FakeHub({BRANCH.path: BODY}, commit="b" * 40) as hub:
        said = client(tmp_path, hub.endpoint, "checked_by", "fetch", "checked_by", file=BRANCH).splitlines()
        assert said[0] == "RESULT checked_by first pull"
        path = Path(said[1].removeprefix("RESULT fetch "))
        assert path == tmp_path / "rph/hub/datasets--someone--table" / ("b" * 40) / BRANCH.path
        assert said[2].startswith("RESULT checked_by sha256 recorded on 20")
        # The branch moves on; what was pulled stays what it was, and another file comes from the same commit.
        hub.files, hub.commit = {BRANCH.path: b"new", "other": b"more"}, "c" * 40
        assert client(tmp_path, hub.endpoint, "fetch", file=BRANCH).strip() == f"RESULT fetch {path}"
        other = File(repo=BRANCH.repo, path="other", revision="main")
        assert f"{'b' * 40}/other" in client(tmp_path, hub.endpoint, "fetch", file=other)
        path.write_bytes(BODY[:-1] + b"X")
        said = client(tmp_path, hub.endpoint, "fetch", file=BRANCH)
        assert "is not the published data/table.pkl" in said
        path.unlink()
        assert "is not the published" in client(
            tmp_path, hub.endpoint, "fetch", file=BRANCH
        )  # the hub's is new


@pytest.mark.parametrize("variable", ["RPH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_fails_at_once_and_names_the_file_and_the_command(tmp_path, variable):
    with FakeHub({FILE.path: BODY}) as hub:
        said = client(tmp_path, hub.endpoint, "fetch", **{variable: "1"})
        assert hub.requests == []
    assert "data/table.pkl of someone/table (revision aaaa" in said
    assert f"so {hub.endpoint}/datasets/someone/table/resolve/" in said
    assert "fix: unset it and run `rph data pull toy`, or the same command, once" in said


def test_a_damaged_record_is_told(tmp_path):
    folder = tmp_path / "rph/hub/datasets--someone--table"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{")
    said = client(tmp_path, "http://127.0.0.1:1", "find", file=BRANCH)
    assert "record.json is damaged" in said


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


@pytest.mark.parametrize("ours", [(), ("a",), ("a", "b")])
def test_a_folder_holds_all_files_though_some_are_in_two_places(tmp_path, rph_home, monkeypatch, ours):
    files = [File(repo="o/r", path=name, revision="a" * 40, repo_type="model") for name in ("a", "b")]
    theirs = tmp_path / "hub"
    snapshot = theirs / "models--o--r/snapshots" / ("a" * 40)
    mine = rph_home / "hub/models--o--r" / ("a" * 40)
    for folder, names in ((snapshot, ("a", "b")), (mine, ours)):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(theirs))
    folder = fetch_folder(files, of="toy")
    assert folder == (mine if ours == ("a", "b") else snapshot)
    assert all((folder / file.path).is_file() for file in files)
