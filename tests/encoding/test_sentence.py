"""The six encoders' cards on tiny models of their architectures: pooling, lengths, padding, files, memory."""

import shutil
from importlib import import_module

import numpy as np
import pytest
import torch
from tests import tiny_models

from rph import RphError, UsageError
from rph.encoding import sentence
from rph.registry import installed

CARDS = {  # name -> (architecture, dim, pooling, normalised, longest text), as design and model cards have them
    "minilm": ("bert", 384, "mean", True, 256),
    "mpnet": ("mpnet", 768, "mean", True, 384),
    "bge": ("bert", 768, "cls", True, 512),
    "modernbert-base": ("modernbert", 768, "mean", False, 512),
    "modernbert-large": ("modernbert", 1024, "mean", False, 512),
    "qwen2.5-0.5b": ("qwen2", 896, "last", False, 512),
}
TEXTS = [
    "how many does it take to change a light bulb",
    "word",
    "",
    "a long question and the answer " * 9,
    "other other other of the light",
]
each_encoder = pytest.mark.parametrize("name", CARDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One tiny model per architecture and width."""
    made = {}

    def folder(name):
        architecture, dim, *_ = CARDS[name]
        if (architecture, dim) not in made:
            made[architecture, dim] = tiny_models.make(tmp_path_factory.mktemp("model"), architecture, dim)
        return made[architecture, dim]

    return folder


@pytest.fixture(scope="module")
def encoders(folders):
    made = {}

    def encoder(name):
        if name not in made:
            made[name] = installed().load("encoder", name).spec.build(path=str(folders(name)))
        return made[name]

    return encoder


def by_hand(folder, text, pooling, normalise, most):
    """The vector of one text, by the model alone."""
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(
        text, return_tensors="pt", truncation=True, max_length=most
    )
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state[0]
    vector = {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling]
    return (vector / vector.norm() if normalise else vector).numpy()


@each_encoder
def test_the_card_says_what_is_published(name):
    card = installed().load("encoder", name).spec.card
    _, dim, pooling, normalise, most = CARDS[name]
    assert (card.dim, card.pooling, card.normalise, card.max_tokens) == (dim, pooling, normalise, most)
    assert (card.prefix, card.dtype, card.stored) == ("", "float32", "float32")
    assert {file.path for file in card.files} == set(sentence.NAMES)
    assert all(file.repo == card.hf_id and file.revision == card.revision for file in card.files)
    assert card.licence and card.citation


@each_encoder
@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[3], "word " * 700], ids=["short", "long", "cut"])
def test_a_vector_is_pooled_and_cut_as_the_card_says(name, text, encoders, folders):
    _, _, pooling, normalise, most = CARDS[name]
    found = encoders(name).encode([text], device="cpu")[0]
    wanted = by_hand(folders(name), text, pooling, normalise, most)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@each_encoder
def test_a_text_has_the_same_vector_alone_and_in_a_batch(name, encoders, monkeypatch):
    encoder = encoders(name)
    alone = np.concatenate([encoder.encode([text], device="cpu") for text in TEXTS])
    monkeypatch.setitem(sentence.BATCH, "cpu", 10_000)  # all in one batch, padded to the longest
    together = encoder.encode(TEXTS, device="cpu")
    assert np.abs(together - alone).max() < 1e-4 * np.abs(alone).max()
    assert len(np.unique(together.round(3), axis=0)) == len(TEXTS)


@each_encoder
def test_texts_longer_than_the_card_takes_are_counted(name, encoders):
    encoder = encoders(name)
    extra = 0 if CARDS[name][0] == "qwen2" else 2  # tokens put around a text
    room = CARDS[name][4] - extra
    before = encoder.cut
    words = " ".join(["word"] * room)
    rows = encoder.encode([words, f"{words} word", f"{words} light", "bulb"], device="cpu")
    assert encoder.cut - before == 2
    assert np.abs(rows[0] - rows[2]).max() < 1e-4 * np.abs(rows[0]).max()


@each_encoder
def test_an_empty_query_has_a_vector(name, encoders):
    row = encoders(name).encode([""], device="cpu")
    assert row.shape == (1, CARDS[name][1]) and np.isfinite(row).all() and np.abs(row).max() > 0


def test_no_texts_give_no_rows(encoders):
    assert encoders("bge").encode([], device="cpu").shape == (0, 768)


@each_encoder
def test_the_model_computes_in_float32_on_the_cpu(name, encoders):
    encoder = encoders(name)
    encoder.encode(["word"], device="cpu")
    assert {value.dtype for value in encoder._model.parameters()} == {torch.float32}


@pytest.mark.gpu
@each_encoder
def test_on_cuda_the_vectors_are_those_of_the_cpu_up_to_bfloat16(name, encoders):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    encoder = encoders(name)
    cpu, gpu = (encoder.encode(TEXTS, device=device) for device in ("cpu", "cuda"))
    cosine = (cpu * gpu).sum(axis=1) / np.linalg.norm(cpu, axis=1) / np.linalg.norm(gpu, axis=1)
    assert cosine.min() > 0.99


# --- memory -----------------------------------------------------------------------------------------


def test_batches_hold_so_many_tokens_and_are_halved_where_memory_does_not_suffice(encoders, monkeypatch):
    encoder = encoders("bge")
    texts = ["word " * n for n in (6, 2, 6, 2, 2, 6)]  # 8 and 4 tokens
    wanted = encoder.encode(texts, device="cpu")
    sizes, original = [], encoder._vectors

    def small(tokens, device):
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise torch.cuda.OutOfMemoryError("too much")
        return original(tokens, device)

    monkeypatch.setattr(encoder, "_vectors", small)
    monkeypatch.setitem(sentence.BATCH, "cpu", 24)
    found = encoder.encode(texts, device="cpu")
    assert sizes == [3, 1, 1, 1, 3, 1, 1, 1]
    assert np.abs(found - wanted).max() < 1e-5
    monkeypatch.setattr(encoder, "shrink", 1)
    monkeypatch.setattr(
        encoder, "_vectors", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("no"))
    )
    with pytest.raises(torch.cuda.OutOfMemoryError):
        encoder.encode(["word"], device="cpu")


# --- a folder of the user's -------------------------------------------------------------------------


@pytest.fixture
def own(folders, tmp_path):
    """A copy of the tiny mpnet that a test may spoil."""
    return shutil.copytree(folders("mpnet"), tmp_path / "mine")


def build(name, folder):
    return installed().load("encoder", name).spec.build(path=str(folder))


@pytest.mark.parametrize("name", sentence.NAMES)
def test_the_identity_of_a_folder_is_the_content_of_its_files(own, name):
    before = build("mpnet", own).identity()
    assert before == build("mpnet", own).identity()
    (own / name).write_bytes((own / name).read_bytes() + b" ")
    assert build("mpnet", own).identity() != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_told(own, name):
    (own / name).unlink()
    with pytest.raises(UsageError, match="encoder 'mpnet' has no model in") as error:
        build("mpnet", own).identity()
    assert name in error.value.why


def test_a_model_of_another_architecture_is_refused(own):
    with pytest.raises(RphError, match=r"is not BAAI/bge-base-en-v1\.5") as error:
        build("bge", own).encode(["a"], device="cpu")
    assert "mpnet of 768 dimensions, not a bert of 768" in error.value.why


def test_weights_that_lack_tensors_are_refused_not_filled_with_random_numbers(own):
    from safetensors.torch import load_file, save_file

    weights = load_file(own / "model.safetensors")
    weights.pop(next(name for name in weights if "layer.1" in name))
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RphError, match="incomplete"):
        build("mpnet", own).encode(["a"], device="cpu")


def test_without_weights_and_offline_the_next_steps_are_told(monkeypatch):
    monkeypatch.setenv("RPH_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nowhere")
    with pytest.raises(RphError, match="encoder 'mpnet' has no weights") as error:
        installed().load("encoder", "mpnet").spec.build().encode(["a"], device="cpu")
    assert "config.json of sentence-transformers/all-mpnet-base-v2" in error.value.why
    assert "rph data pull mpnet" in error.value.fix and "mpnet:path=FOLDER" in error.value.fix


def test_importing_an_encoder_imports_no_heavy_library():
    import subprocess
    import sys

    modules = ["minilm", "mpnet", "bge", "modernbert_base", "modernbert_large", "qwen25_05b"]
    code = "import sys; " + "; ".join(f"import rph_plugins.encoders.{name}" for name in modules)
    code += "; print([m for m in ('torch', 'numpy', 'transformers', 'huggingface_hub') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in modules:
        assert import_module(f"rph_plugins.encoders.{name}").CARD.files
