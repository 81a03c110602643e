"""Nine-by-30k and Nine-by-300k of arXiv:2606.07587, which were not released: their pool, and the form they are read in.

A folder, or a repository on the hub, holds one file per split: `train.parquet` or `train.jsonl`, and so on. A row is a
query:

    query_id, query, source             text; an id is there once, over all splits
    correct/<model>                     1 correct, 0 not, null not observed; for each of the nine models
    cost/<model>                        US dollars of the call, or null; for each of the nine models

Other columns are an error. A row on which no model was observed is left out, with a warning that counts such rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph.api import SPLITS, BenchmarkCard, File, RoutingDataset, Split
from rph.data import hub, parquet, published
from rph.errors import RphError, UsageError
from rph.lazy import np

if TYPE_CHECKING:
    from rph.api import Float32, SplitName

VERSION = 2  # of the reading: raised when its result changes
MODELS = (  # Appendix D.1, in its order: OpenRouter's names without the provider
    "deepseek-v3.2",
    "gemma-3n-e4b-it",
    "llama-3.3-70b-instruct",
    "minimax-m2.5",
    "glm-4.5-air",
    "qwen3-235b-a22b-2507",
    "qwen3-coder-next",
    "grok-4.1-fast",
    "mimo-v2-flash",
)
TEXTS = ("query_id", "query", "source")
COLUMNS = (*TEXTS, *(f"{kind}/{model}" for kind in ("correct", "cost") for model in MODELS))
ENDINGS = ("parquet", "jsonl")
BLOCK = 1 << 26  # bytes of JSON lines parsed at once; no line may be longer

OPTIONS = {
    "path": "a folder with one file per split, train.parquet or train.jsonl and so on",
    "repo": "OWNER/NAME of a data set on the hub with such files",
    "revision": "of repo: a commit, or a branch, kept at its commit of the first pull; default main",
}
NOTES = (
    "No public release is known: give `path`, a folder, or `repo`, a data set on the hub that you know of.",
    (
        "The form is this project's: per split one file, train.parquet or train.jsonl, with the columns query_id, query, "
        "source, and for each model correct/<model> (0, 1 or null) and cost/<model> (US dollars per call, or null)."
    ),
    "Another column, a missing one, or a label other than 0 and 1 is an error; a query's task is its source.",
    "A row on which no model was observed is left out, and a warning counts such rows.",
    "Models have OpenRouter's names without the provider, as the paper gives them.",
    "One of the 57 sources is not public (PANDAX-patent-QA, 181 of the 31,027 and 1,810 of the 310,371 queries).",
    "Files with the counts of the paper are taken for the benchmark, others for a subset: results carry another name.",
)


def card(
    name: str, *, title: str, counts: dict[SplitName, int], split_rule: str, notes: tuple[str, ...]
) -> BenchmarkCard:
    """The card of one of the two, with what is true of both; `counts` are the paper's, `notes` of this one alone."""
    return BenchmarkCard(
        name=name,
        title=f"{title}; read from a copy of yours",
        citation="arXiv:2606.07587, Appendix D",
        url="https://arxiv.org/abs/2606.07587",
        licence="not known: no public release",
        models=MODELS,
        splits=counts,
        paper=counts,
        costs=True,
        label_rule="0 or 1 as given, by the scorer of each task; null is no label",
        split_rule=f"as given: a file per split; {split_rule}",
        notes=(*NOTES, *notes),
    )


# --- files ------------------------------------------------------------------------------------------


def sources(
    benchmark: str,
    path: str | None,
    repo: str | None = None,
    revision: str = "main",
    *,
    splits: Sequence[SplitName] = SPLITS,
    optional: Sequence[SplitName] = (),
    advice: str = "",
) -> published.Sources:
    """One file per split, from a folder or from the hub; `optional` ones where a folder has them.

    `advice` says what else to do about a split that a folder lacks.
    """
    if path is not None and repo is not None:
        raise UsageError(
            f"{benchmark}: path and repo are both given",
            why="it is read from a folder or from the hub",
            fix="give one of them",
        )
    if path is not None:
        files = _in_folder(benchmark, Path(path).expanduser(), splits, optional, advice)
    elif repo is not None:
        files = [_on_hub(benchmark, repo, revision, split) for split in splits if split not in optional]
    else:
        raise UsageError(
            f"{benchmark} cannot be downloaded",
            why="no public release of it is known",
            fix=f"give a folder of yours, --bench {benchmark}:path=FOLDER, or a data set on the hub, "
            f"--bench {benchmark}:repo=OWNER/NAME; `rph show {benchmark}` says in which form",
        )
    return published.sources(benchmark, files, path)


def _in_folder(
    benchmark: str,
    folder: Path,
    splits: Sequence[SplitName],
    optional: Sequence[SplitName],
    advice: str,
) -> list[File]:
    names = []
    for split in splits:
        here = [f"{split}.{ending}" for ending in ENDINGS if (folder / f"{split}.{ending}").is_file()]
        if len(here) > 1:
            raise UsageError(
                f"{benchmark}: {folder} has both {' and '.join(here)}",
                why="a split is one file",
                fix="take one of them away",
            )
        if not here and split not in optional:
            raise UsageError(
                f"{benchmark}: {folder} has no {split}.parquet and no {split}.jsonl",
                why="a split is one file" if folder.is_dir() else "it is not a folder",
                fix=f"give the folder that holds it{advice}; `rph show {benchmark}` says in which form",
            )
        names += here
    return [File(repo="", path=name, revision="") for name in names]


def _on_hub(benchmark: str, repo: str, revision: str, split: SplitName) -> File:
    """The file of a split in whichever form the hub has it."""
    from huggingface_hub import hf_hub_url

    try:
        hf_hub_url(repo, split, revision=revision)  # refuses what cannot be a name
    except ValueError as error:
        raise UsageError(
            f"{benchmark}: repo={repo} cannot be a data set on the hub",
            why=str(error),
            fix="write OWNER/NAME",
        ) from error
    files = [File(repo=repo, path=f"{split}.{ending}", revision=revision) for ending in ENDINGS]
    errors = []
    for file in sorted(files, key=lambda file: hub.find(file) is None):  # first what is on this machine
        try:
            published.fetched(benchmark, file)
            return file
        except RphError as error:
            errors.append(error)
    raise RphError(
        f"{benchmark}: the {split} split of {repo} cannot be had",
        why="; ".join(f"{error.what} ({error.why})" for error in errors),
        fix=errors[0].fix,
    )


# --- rows -------------------------------------------------------------------------------------------


def dataset(benchmark: str, splits: Mapping[str, Split], counts: Mapping[SplitName, int]) -> RoutingDataset:
    """The splits as one of the two, or as a subset where they have other counts than the paper's."""
    train, val, test = (splits[name] for name in SPLITS)
    whole = RoutingDataset(name=benchmark, models=MODELS, train=train, val=val, test=test)
    return published.named(whole, counts)


def read(found: published.Sources) -> dict[str, Split]:
    """The splits by name, checked."""
    return {path.stem: _split(path) for path in found}


def _split(path: Path) -> Split:
    rows = parquet.Columns(path) if path.suffix == ".parquet" else _json_lines(path)
    published.check_columns(
        str(path),
        rows.column_names,
        COLUMNS,
        form=f"{len(COLUMNS)} columns of its form",
        fix="rename them, leave out what is besides, and write null where nothing was observed",
    )
    ids = parquet.texts(path, rows, "query_id")
    queries = parquet.texts(path, rows, "query", ids)
    published.check_queries(str(path), ids, queries)
    tasks = parquet.texts(path, rows, "source", ids)
    labels, costs = _labels(path, rows, ids), parquet.matrix(path, rows, "cost", MODELS, ids)
    kept = np.flatnonzero(~np.isnan(labels).all(axis=1))
    if left_out := len(ids) - len(kept):
        warnings.warn(
            f"{path}: {left_out:,} of {len(ids):,} rows left out: no model was observed on them", stacklevel=2
        )
    return Split(
        ids=[ids[i] for i in kept],
        queries=[queries[i] for i in kept],
        tasks=[tasks[i] for i in kept],
        labels=labels[kept],
        costs=costs[kept],
    )


def _json_lines(path: Path) -> Any:
    """A JSON object per line as a pyarrow table; a key that a line lacks is null there."""
    import pyarrow as pa
    import pyarrow.json as pj

    texts = pa.schema([(name, pa.string()) for name in TEXTS])  # else one like 2026-01-01 is read as a time
    try:
        return pj.read_json(path, pj.ReadOptions(block_size=BLOCK), pj.ParseOptions(explicit_schema=texts))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read as JSON lines",
            why=str(error).splitlines()[0],
            fix="write one JSON object per line, in UTF-8; texts in quotes, numbers and null not",
        ) from error


def _labels(path: Path, rows: Any, ids: Sequence[str]) -> Float32:
    """[N, 9]: 0, 1 or NaN."""
    import pyarrow as pa

    fix = "write 1 for correct, 0 for not, and null where it was not observed"
    for model in MODELS:
        if pa.types.is_boolean(rows.column(f"correct/{model}").type):
            raise UsageError(f"{path}: column 'correct/{model}' is not of numbers", why="it is bool", fix=fix)
    labels = parquet.matrix(path, rows, "correct", MODELS, ids)
    if (wrong := ~(np.isin(labels, (0, 1)) | np.isnan(labels))).any():
        i, m = np.argwhere(wrong)[0]
        raise UsageError(
            f"{path}: {int(wrong.sum())} label(s) other than 0 and 1",
            why=f"the first is {labels[i, m]:g}, of id {ids[i]!r} and model {MODELS[m]!r}",
            fix=fix,
        )
    return labels
