"""Text encoders from the hub: one way to find weights, cut texts, pool tokens and fill batches, decided by the card.

Built on the modules of sentence-transformers (transformer, pooling, normalisation), put together as the card says and
not as the model's folder may say. Texts are tokenised first, all at once, and sorted by their number of tokens, so
that a batch pads next to nothing; how many go into a batch follows from how long they are. float32 on the CPU; on
CUDA the transformer runs in bfloat16, pooling in float32. Where memory does not suffice, batches are halved.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import disk
from rph.api import EncoderCard, EncoderSpec, File
from rph.data import hub
from rph.errors import RphError, UsageError
from rph.lazy import np, torch

if TYPE_CHECKING:
    from rph.api import Float32

WEIGHTS = "model.safetensors"
NAMES = ("config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS)
DECIDE = {".json", ".txt", ".safetensors", ".bin"}  # weights, configuration and vocabulary, not the README
BATCH = {"cpu": 1024, "cuda": 65_536}  # tokens in a batch: on a CPU what stays in its caches
POOLING = {"mean": "mean", "cls": "cls", "last": "lasttoken"}  # a card's word -> sentence-transformers'


def files(hf_id: str, revision: str, licence: str, **weights: Any) -> tuple[File, ...]:
    """The files of a model on the hub; `weights` are size and sha256 of its weights, where known."""
    return tuple(
        File(
            repo=hf_id,
            path=name,
            revision=revision,
            repo_type="model",
            licence=licence,
            **(weights if name == WEIGHTS else {}),
        )
        for name in NAMES
    )


def modernbert(size: str, *, dim: int, millions: int, said: int, alias: str) -> EncoderCard:
    """The card of ModernBERT-base or -large, which differ in size: `millions` of parameters, `said` to be so many."""
    # No commit is known to us: that of the first pull is recorded and used ever after.
    hf_id, revision, licence = f"answerdotai/ModernBERT-{size}", "main", "apache-2.0"
    return EncoderCard(
        name=f"modernbert-{size}",
        title=f"ModernBERT-{size}, a bidirectional encoder of {millions} million parameters",
        hf_id=hf_id,
        revision=revision,
        dim=dim,
        pooling="mean",
        normalise=False,
        prefix="",
        max_tokens=512,
        dtype="float32",
        licence=licence,
        citation="Warner et al. 2024, arXiv:2412.13663",
        files=files(hf_id, revision, licence),
        aliases=(alias,),
        notes=(
            "text past 512 tokens is cut; the model itself takes 8192",
            "its authors give no pooling: mean over the tokens, rows not normalised",
            f"arXiv:2606.07587 says about {said} million parameters; it has {millions} million",
        ),
    )


@dataclass(frozen=True)
class Elsewhere:
    """Another place that may hold a model's weights, and needs no network: it is asked before the hub."""

    folder: Callable[[], Path | None]  # with the pinned weights, or None
    how: str  # what to do so that it holds them


def spec(card: EncoderCard, *, architecture: str, elsewhere: Elsewhere | None = None) -> EncoderSpec:
    """The plugin of a card; `architecture` is the `model_type` of the model's configuration."""

    def build(path: str | None = None) -> SentenceEncoder:
        return SentenceEncoder(card, path, architecture=architecture, elsewhere=elsewhere)

    return EncoderSpec(card=card, build=build)


class SentenceEncoder:
    """The encoder of a card, with the weights of its files or those in `path`, a folder in the hub's layout."""

    def __init__(
        self,
        card: EncoderCard,
        path: str | None = None,
        *,
        architecture: str,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.card, self.architecture, self.elsewhere = card, architecture, elsewhere
        self.path = None if path is None else Path(path).expanduser()
        self.cut = 0  # texts so far that were longer than the card's `max_tokens`
        self.shrink = 1  # batches are so many times smaller than they could be: doubled when memory runs out

    def identity(self) -> str:
        """The pinned weights; the content of the files, for a folder of the user's."""
        if self.path is not None:
            return self._own_files
        weights = next(file for file in self.card.files if file.path == WEIGHTS)
        if hub.sha256(weights) is None:  # not published, and never pulled
            self._folder()
        return f"{self.card.hf_id}@{self.card.revision} sha256:{hub.sha256(weights)}"

    @cached_property
    def _own_files(self) -> str:
        """The content of every file in `path` that can decide a vector, hashed once."""
        assert self.path is not None
        found = sorted(f for f in self.path.glob("*") if f.suffix in DECIDE and f.is_file())
        missing = [name for name in NAMES[:2] if self.path / name not in found]
        if not any(f.suffix in (".safetensors", ".bin") for f in found):
            missing.append(WEIGHTS)
        if missing:
            raise UsageError(
                f"encoder {self.card.name!r} has no model in {str(self.path)!r}",
                why=f"{'the folder' if self.path.is_dir() else 'it is not a folder, and'} has no {', '.join(missing)}",
                fix=f"give path= a folder with the files of {self.card.hf_id}",
            )
        content = {f.name: disk.sha256_file(f) for f in found}
        return f"files sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"

    def fit(self, train_texts: Sequence[str]) -> None:
        """Nothing: the weights are given."""

    def encode(self, texts: Sequence[str], *, device: str) -> Float32:
        """Rows [N, d]. An empty text, of no tokens, is encoded as the token that ends a text."""
        dim = self.card.dim or 0
        rows = np.empty((len(texts), dim), np.float32)
        if not texts:
            return rows
        with _quiet():
            model = self._model
            model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
            tokens = self._tokens(list(texts))
        lengths = np.array([len(each) for each in tokens])
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            most = max(1, BATCH[torch.device(device).type] // int(lengths[order[start]]) // self.shrink)
            batch = order[start : start + most]
            try:
                rows[batch] = self._vectors([tokens[i] for i in batch], device)
                start += len(batch)
                continue
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1:
                    raise
            self.shrink *= 2  # out of the handler, so that the failed batch's tensors are free
            torch.cuda.empty_cache()
        return rows

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, cut at the card's maximum."""
        tokenizer, most = self._model.tokenizer, self.card.max_tokens
        options: Any = {"return_attention_mask": False, "return_token_type_ids": False, "padding": False}
        found: list[list[int]] = tokenizer(texts, truncation=True, max_length=most, **options)["input_ids"]
        full = [text for text, ids in zip(texts, found, strict=True) if len(ids) == most]
        if full:  # of these, some may just fit
            whole = tokenizer(full, truncation=False, verbose=False, **options)["input_ids"]
            self.cut += sum(len(ids) > (most or 0) for ids in whole)
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id
        return [ids or [end] for ids in found]

    def _vectors(self, tokens: list[list[int]], device: str) -> Float32:
        """One batch: [B, d] float32."""
        transformer, *rest = self._model
        features = transformer.tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(device)
        with torch.inference_mode():
            found = transformer(dict(features))
            found["token_embeddings"] = found["token_embeddings"].float()
            for module in rest:
                found = module(found)
            vectors: Float32 = found["sentence_embedding"].cpu().numpy()
        return vectors

    # --- weights ------------------------------------------------------------------------------------

    @cached_property
    def _model(self) -> Any:
        with _quiet():
            if self.path is None:
                return self._load(self._folder())
            self._check_complete(self.path)
            return self._load(self.path)

    def _folder(self) -> Path:
        """A folder with the pinned weights, verified: from this machine, from elsewhere, or from the hub."""
        card = self.card
        missing = None in [hub.find(file) for file in card.files]
        if missing and self.elsewhere and (folder := self.elsewhere.folder()):
            return folder
        try:
            return hub.fetch_folder(card.files, of=card.name)
        except RphError as error:
            raise RphError(
                f"encoder {card.name!r} has no weights",
                why=f"{error.what}: {error.why}",
                fix=f"{error.fix}; or `--encoder {card.name}:path=FOLDER`, a folder with the model's files; "
                + (f"or {self.elsewhere.how}; " if self.elsewhere else "")
                + "`--encoder lsa` needs none",
            ) from error

    def _load(self, folder: Path) -> Any:
        """The modules that the card describes, whatever the folder's own configuration says."""
        # Imported here: it takes seconds, and a run whose embeddings are cached never encodes.
        from sentence_transformers import SentenceTransformer

        try:
            parts = importlib.import_module("sentence_transformers.sentence_transformer.modules")
        except ImportError:  # before sentence-transformers 6
            parts = importlib.import_module("sentence_transformers.models")

        card = self.card
        transformer = parts.Transformer(str(folder), max_seq_length=card.max_tokens)
        modules = [transformer, parts.Pooling(card.dim, pooling_mode=POOLING[card.pooling])]
        if card.normalise:
            modules.append(parts.Normalize())
        config = transformer.auto_model.config
        found = (config.model_type, config.hidden_size)
        if found != (self.architecture, card.dim):
            raise RphError(
                f"the model in {folder} is not {card.hf_id}",
                why=f"it is a {found[0]} of {found[1]} dimensions, not a {self.architecture} of {card.dim}",
                fix="use the published files, or write an encoder plugin of its own for this model",
            )
        return SentenceTransformer(modules=modules, device="cpu").eval()

    def _check_complete(self, folder: Path) -> None:
        """For files nobody has verified: what they lack must not be made up."""
        from transformers import AutoModel

        _, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        # A pooler is not used here.
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise RphError(
                f"the weights in {folder} are incomplete",
                why=f"{len(missing)} tensors are missing, the first {missing[0]!r}; random numbers would stand in",
                fix=f"use the files of {self.card.hf_id}",
            )


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
