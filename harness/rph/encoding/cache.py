"""Queries to embeddings, computed once and cached: one entry per benchmark and encoder.

An entry is the folder `RPH_HOME/embeddings/<encoder>/<key>/` with `embeddings.npy` ([N, d], the rows of train, val and
test in that order, float32 unless the card says float16) and `meta.json` (everything in the key, a checksum, where the
vectors came from, how many queries were longer than the encoder takes, what a fitted encoder learned). It appears whole or not at all, and is checked whenever it is opened: a damaged entry is said
and encoded again.

The key names the queries and everything on the encoder's card that decides a vector. The device and the
library versions are recorded beside the vectors but are not in the key: they move a vector by rounding
only, and an upgrade must not discard hours of encoding. An encoder whose vectors its library does decide
(`lsa`) names the version in its `identity()`.

Encoders receive the final text: the card's prefix is put before every query here. While encoding, finished
chunks are kept in `<key>.partial/`, so that a killed command continues where it stopped; `<key>.lock` lets one
process encode while others wait for its entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import disk
from rph.distribution import OURS
from rph.errors import RphError, UsageError
from rph.lazy import np
from rph.registry import plugin_errors

if TYPE_CHECKING:
    from filelock import FileLock
    from numpy.typing import NDArray

    from rph.api import Encoder, EncoderCard, EncoderSpec, Float32, RoutingDataset

FORMAT = "rph-embeddings/1"
CHUNK = 512  # texts encoded between two checkpoints: seconds of work on a CPU, and a progress bar that moves
CHUNK_RECORD = ("rows", "dim", "sha256", "seconds", "cut")
ROWS = 2048  # rows moved at once when a finished matrix is put in order
DECIDES = (  # the fields of a card that decide a vector
    "name",
    "hf_id",
    "revision",
    "dim",
    "pooling",
    "normalise",
    "prefix",
    "max_tokens",
    "dtype",
    "fitted",
    "code_version",
)
AGAIN = "run it again to continue after the last finished chunk, or use another encoder"
RECORDED = (OURS, "numpy", "torch", "transformers", "sentence-transformers", "scikit-learn")

Progress = Callable[[int, int], None]  # (queries done, queries in all)


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The embeddings of a benchmark's splits: read-only views of one memory-mapped file, never copied.

    Only where the file is float16 are they a float32 copy of it.
    """

    train: Float32  # [N_train, d]
    val: Float32  # [N_val, d]
    test: Float32  # [N_test, d]
    key: str
    path: Path  # the entry's folder
    cached: bool  # found, not computed by this call
    seconds: float  # that encoding took when it was done, waits and kills not counted
    cut: int | None  # queries of which the encoder saw the beginning only; None: it does not say
    learned: str | None = None  # what it says that its fit found (rph.Encoder); None: it says nothing


def embed(
    dataset: RoutingDataset,
    spec: EncoderSpec,
    encoder: Encoder,
    *,
    device: str,
    progress: Progress | None = None,
) -> Embeddings:
    """The embeddings of every query, from the cache where they are there, else computed and cached.

    `progress` hears of every finished chunk, also while another process encodes the same entry. An encoder
    that breaks its contract (shape, finite values) raises RphError, and nothing of it is kept.
    """
    card = spec.card
    with plugin_errors(f"encoder {card.name!r} failed while it was asked for its identity", AGAIN):
        parts = _key_parts(dataset, card, encoder.identity())
    folder = disk.home() / "embeddings" / card.name / _digest(parts)
    progress = progress or (lambda done, total: None)
    with contextlib.suppress(_Damaged):  # said below, by the one process that repairs it
        if found := _opened(folder, parts, dataset):
            return found
    with disk.disk_errors("the embedding cache", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder, len(_ids(dataset)), progress)
    try:
        try:
            if found := _opened(folder, parts, dataset):
                return found
        except _Damaged as damage:
            warnings.warn(
                f"cached embeddings in {folder} are damaged ({damage}): encoding again", stacklevel=2
            )
        _encode(folder, parts, dataset, card, encoder, device, progress)
        made = _opened(folder, parts, dataset, cached=False)
        assert made is not None, f"{folder} was just written"
        return made
    finally:
        lock.release()


def key(dataset: RoutingDataset, card: EncoderCard, identity: str) -> str:
    """Hex sha256 over the queries and everything that decides their vectors; `identity` names the weights."""
    return _digest(_key_parts(dataset, card, identity))


def _key_parts(dataset: RoutingDataset, card: EncoderCard, identity: str) -> dict[str, Any]:
    decides = {name: getattr(card, name) for name in DECIDES}
    if card.stored != "float32":  # so that entries older than this field are still found
        decides["stored"] = card.stored
    return {"format": FORMAT, "dataset": dataset.fingerprint, "identity": identity, "card": decides}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _ids(dataset: RoutingDataset) -> list[str]:
    return [query_id for _, split in dataset.splits() for query_id in split.ids]


# --- opening an entry -------------------------------------------------------------------------------


class _Damaged(Exception):
    """An entry is there, but is not what was written."""


def _opened(
    folder: Path, parts: dict[str, Any], dataset: RoutingDataset, *, cached: bool = True
) -> Embeddings | None:
    """The checked entry in `folder`, None where there is none; raises _Damaged."""
    if not folder.exists():
        return None
    try:
        meta = _checked_meta(folder, parts)
        X = np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"{type(error).__name__}: {error}") from error
    train, val, test = (len(split) for _, split in dataset.splits())
    if X.dtype != parts["card"].get("stored", "float32") or X.ndim != 2 or len(X) != train + val + test:
        raise _Damaged(f"embeddings.npy is {X.dtype} {X.shape}")
    X = X.astype(np.float32, copy=False)
    return Embeddings(
        train=X[:train],
        val=X[train : train + val],
        test=X[train + val :],
        key=folder.name,
        path=folder,
        cached=cached,
        seconds=meta["seconds"],
        cut=meta.get("cut"),
        learned=meta.get("learned"),
    )


def _checked_meta(folder: Path, parts: dict[str, Any]) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    if meta.pop("checksum") != _digest(meta):
        raise _Damaged("meta.json has changed")
    if meta["key_parts"] != parts:
        raise _Damaged("meta.json describes another entry")
    if meta["sha256"] != disk.sha256_file(folder / "embeddings.npy"):
        raise _Damaged("embeddings.npy has changed")
    return meta


def _locked(folder: Path, total: int, progress: Progress) -> FileLock:
    """The entry's lock, held; while another process has it, its progress is passed on.

    The lock is the operating system's: it is free again the moment its holder dies.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    while True:
        try:
            lock.acquire(timeout=1)
            return lock
        except Timeout:
            progress(sum(chunk["rows"] for chunk in _Partial(folder).journal()[1:]), total)


# --- making an entry --------------------------------------------------------------------------------


def _encode(
    folder: Path,
    parts: dict[str, Any],
    dataset: RoutingDataset,
    card: EncoderCard,
    encoder: Encoder,
    device: str,
    progress: Progress,
) -> None:
    """Encode what is not yet in the partial entry, then put the rows in order and publish them as `folder`."""
    ids = _ids(dataset)
    if not ids:
        raise UsageError(f"benchmark {dataset.name!r} has no queries to embed")
    texts = [card.prefix + query for _, split in dataset.splits() for query in split.queries]
    # Longest first: texts of like length share batches, and memory that does not suffice shows at once.
    order = np.argsort([-len(text) for text in texts], kind="stable")
    chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
    made_by = {"device": device, "versions": _versions()}

    with disk.disk_errors("caching embeddings", folder):
        partial = _Partial(folder)
        partial.resume({**made_by, "chunk": CHUNK})
    progress(partial.rows, len(ids))
    started = time.perf_counter()
    learned = None
    if card.fitted:
        with plugin_errors(f"encoder {card.name!r} failed while it was fitted on the train queries", AGAIN):
            encoder.fit(texts[: len(dataset.train)])
            learned = encoder.learned() if hasattr(encoder, "learned") else None
    for chunk in chunks[partial.chunks :]:
        cut_before = getattr(encoder, "cut", None)
        doing = f"encoded {len(chunk)} queries, the first {ids[min(chunk)]!r}"
        with plugin_errors(f"encoder {card.name!r} failed while it {doing}", AGAIN):
            X = np.asarray(encoder.encode([texts[i] for i in chunk], device=device), dtype=np.float32)
        if problem := _broken(X, chunk, ids, card.dim or partial.dim, np.dtype(card.stored)):
            shutil.rmtree(partial.path)  # rows of an encoder known to be wrong are not worth resuming
            raise RphError(
                f"encoder {card.name!r} {problem}",
                why="an encoder gives one finite row per query, all of its dimension",
                fix="report it to the encoder's authors; nothing was cached",
            )
        now = time.perf_counter()
        with disk.disk_errors("caching embeddings", folder):
            partial.append(X, now - started, None if cut_before is None else encoder.cut - cut_before)  # type: ignore[attr-defined]
        started = now
        progress(partial.rows, len(ids))
    if partial.cut:
        warnings.warn(
            f"{dataset.name} x {card.name}: {partial.cut:,} of {len(ids):,} queries are longer than "
            f"{card.max_tokens} tokens; only their beginning is encoded",
            stacklevel=4,
        )
    said = {"key_parts": parts, "encoder": card.name, "dataset": dataset.name, "cut": partial.cut, **made_by}
    if learned is not None:
        said["learned"] = learned
    _publish(folder, partial, order, said, np.dtype(card.stored))


def _publish(
    folder: Path, partial: _Partial, order: NDArray[np.intp], meta: dict[str, Any], stored: np.dtype[Any]
) -> None:
    """Write the rows of a finished partial entry in the dataset's order, with what is known of them."""
    place = np.argsort(order)  # place[i]: where query i stands in encoding order
    shape = (len(order), partial.dim)
    encoded = np.memmap(partial.data, np.float32, mode="r", shape=shape)
    for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a process killed while it published
        shutil.rmtree(leftover, ignore_errors=True)
    with disk.disk_errors("caching embeddings", folder):
        if folder.exists():
            shutil.rmtree(folder)  # damaged, or it would have been used
        with disk.new_folder(folder, "caching embeddings") as temporary:
            with (temporary / "embeddings.npy").open("wb") as file:
                header = {"descr": stored.newbyteorder("<").str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, len(order), ROWS):
                    file.write(encoded[place[start : start + ROWS]].astype(stored, copy=False).data)
            meta |= {
                "shape": shape,
                "sha256": disk.sha256_file(temporary / "embeddings.npy"),
                "seconds": round(partial.seconds, 3),
            }
            meta = json.loads(_canonical(meta))  # what a reader will see, so that both hash the same
            (temporary / "meta.json").write_text(
                json.dumps({**meta, "checksum": _digest(meta)}, indent=2, sort_keys=True) + "\n"
            )
        shutil.rmtree(partial.path)


class _Partial:
    """Rows encoded so far, in encoding order, in `<key>.partial/`.

    `rows.f32` grows by one chunk, then `journal.jsonl` by a line with that chunk's checksum. Rows without a
    line do not count. The journal's first line says how the rows are made; others are not continued.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.with_name(f"{folder.name}.partial")
        self.data = self.path / "rows.f32"
        self.lines = self.path / "journal.jsonl"
        self.chunks = self.rows = self.size = 0
        self.dim = 0  # 0 until the first chunk is there
        self.seconds = 0.0
        self.cut: int | None = None

    def journal(self) -> list[dict[str, Any]]:
        """The header and one record per chunk, up to the first line that a kill cut short."""
        try:
            lines = self.lines.read_text(errors="replace").splitlines()
        except OSError:
            return []
        records: list[dict[str, Any]] = []
        for line in lines:
            try:
                record = json.loads(line)
                records.append({name: record[name] for name in CHUNK_RECORD} if records else record)
            except (ValueError, KeyError, TypeError):
                break
        return records

    def resume(self, header: dict[str, Any]) -> None:
        """Keep the chunks that are whole and were made as `header` says; cut off everything else."""
        header = json.loads(_canonical(header))
        journal = self.journal()
        self.path.mkdir(exist_ok=True)
        self.data.touch()
        kept = [header]
        if journal and journal[0] != header:
            warnings.warn(
                f"{self.path} was begun with other versions or another device: encoding from the start",
                stacklevel=4,
            )
            journal = []
        with self.data.open("rb") as file:
            for entry in journal[1:]:
                rows = file.read(entry["rows"] * entry["dim"] * 4)
                if hashlib.sha256(rows).hexdigest() != entry["sha256"]:
                    warnings.warn(
                        f"{self.path} is damaged after {self.rows} queries: encoding from there", stacklevel=4
                    )
                    break
                self._count(entry)
                kept.append(entry)
        os.truncate(self.data, self.size)
        with disk.new_file(self.lines, "caching embeddings") as temporary:
            temporary.write_text("".join(_canonical(entry) + "\n" for entry in kept))

    def append(self, X: Float32, seconds: float, cut: int | None) -> None:
        """Add one chunk: its rows first, then the line that makes them count."""
        rows = X.tobytes()
        entry = {
            "rows": len(X),
            "dim": X.shape[1],
            "sha256": hashlib.sha256(rows).hexdigest(),
            "seconds": seconds,
            "cut": cut,
        }
        try:
            _append(self.data, rows)
            _append(self.lines, (_canonical(entry) + "\n").encode())
        except OSError:
            os.truncate(self.data, self.size)
            raise
        self._count(entry)

    def _count(self, entry: dict[str, Any]) -> None:
        self.chunks += 1
        self.rows += entry["rows"]
        self.dim = entry["dim"]
        self.size += entry["rows"] * entry["dim"] * 4
        self.seconds += entry["seconds"]
        if entry["cut"] is not None:
            self.cut = (self.cut or 0) + entry["cut"]


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


# --- what an encoder may do wrong -------------------------------------------------------------------


def _broken(X: Float32, chunk: NDArray[np.intp], ids: Sequence[str], dim: int, stored: np.dtype[Any]) -> str:
    """What is wrong with the rows that an encoder gave for the queries in `chunk`; "" where nothing is.

    `dim` is 0 where any dimension will do. The query named is the first in the benchmark's order.
    """
    asked = f"for {len(chunk)} queries, the first {ids[min(chunk)]!r}"
    if X.ndim != 2:
        return f"returned an array of shape {X.shape} {asked}"
    if len(X) != len(chunk):
        return f"returned {len(X)} rows {asked}"
    if X.shape[1] != (dim or max(X.shape[1], 1)):
        return f"returned {X.shape[1]} dimensions, not {dim or 'one or more'}, {asked}"
    bad = chunk[~np.isfinite(X).all(axis=1)]
    if len(bad):
        return f"returned NaN or infinity for {len(bad)} of {len(chunk)} queries, the first {ids[min(bad)]!r}"
    if stored == np.float16 and np.abs(X).max(initial=0) > np.finfo(np.float16).max:
        return f"returned {np.abs(X).max():g}, which float16, its card's `stored`, cannot hold, {asked}"
    return ""


def _versions() -> dict[str, str]:
    """The installed versions of the libraries that compute embeddings."""
    found = {}
    for name in RECORDED:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
