"""EmbedLLM: questions of MMLU, GSM8K, MedMCQA and others, answered by 112 open models.

Paper: Zhuang et al. 2024, EmbedLLM (arXiv:2410.02223). A split is a CSV file with one row per prompt and model; the
real train.csv has 2.7 GB, most of it prompts repeated for every model, so rows are read in pieces without their
prompts, and these come from question_order.csv. What a reader would get wrong:

- A prompt that is listed under several task variants has several rows per model, whose labels may clash: the majority
  counts, and a tie is a missing label. A pair without a row has no label either.
- model_order.csv alone says the models and their order; with other than 112 it is another pool, named as a subset.
- There are no costs.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import BenchmarkCard, BenchmarkSpec, File, RoutingDataset, Split, UsageError, hookimpl
from rph.data import published
from rph.lazy import np

if TYPE_CHECKING:
    import pandas as pd

    from rph.api import SplitName

NAME = "embedllm"
VERSION = 1  # of the conversion: raised when its result changes
COLUMNS = ("prompt_id", "model_id", "category", "label")  # those that are read
MODELS = 112
COUNTS: dict[SplitName, int] = {"train": 29_673, "val": 3_000, "test": 3_000}
ROWS: dict[SplitName, int] = {"train": 3_814_272, "val": 383_488, "test": 388_528}
FILES = tuple(
    File(
        repo="RZ412/EmbedLLM",
        path=path,
        revision="266ae3e180ccb533c86afc9cfb2f5db99d171aea",
        licence="apache-2.0",
    )
    for path in ("train.csv", "val.csv", "test.csv", "model_order.csv", "question_order.csv")
)


def load(path: str | None = None) -> RoutingDataset:
    """EmbedLLM from the hub or from a folder of yours; converted once, then read from disk."""
    return published.sources(NAME, FILES, path).converted(_convert, VERSION)


# --- conversion -------------------------------------------------------------------------------------


def _convert(sources: published.Sources) -> RoutingDataset:
    models = _order(sources["model_order.csv"], "model_id", "model_name")
    prompts = _order(sources["question_order.csv"], "prompt_id", "prompt")
    published.check_queries(str(sources["question_order.csv"]), list(prompts.index), list(prompts))
    splits, rows = {}, {}
    for name in COUNTS:
        splits[name], rows[name] = _split(sources[f"{name}.csv"], prompts, models)
    dataset = RoutingDataset(
        name=NAME, models=tuple(models), train=splits["train"], val=splits["val"], test=splits["test"]
    )
    return published.named(dataset, COUNTS, _other_than_published(len(models), rows))


def _other_than_published(models: int, rows: dict[SplitName, int]) -> str:
    """In words; the count of rows tells a release that was cut off from one whose pairs have no row."""
    if models != MODELS:
        return f"the pool has {models} models, not {MODELS}"
    here, there = ("/".join(f"{n:,}" for n in each.values()) for each in (rows, ROWS))
    return f"the files have {here} rows, not {there}" if here != there else ""


def _split(path: Path, prompts: pd.Series[str], models: pd.Series[str]) -> tuple[Split, int]:
    """The split of one file, in the order of `prompts`, and the file's number of rows."""
    cells, correct = [], []  # of every row, piece by piece: its place in [prompts, models], its label
    tasks: dict[int, str] = {}  # place of a prompt -> the category of its first row
    for rows in published.csv_pieces(path, COLUMNS):
        prompt = _places(path, rows, "prompt_id", prompts)
        cells.append(prompt * len(models) + _places(path, rows, "model_id", models))
        correct.append(_labels(path, rows))
        found, first = np.unique(prompt, return_index=True)
        for place, category in zip(found.tolist(), rows["category"].iloc[first], strict=True):
            tasks.setdefault(place, category)
    cell, shape = np.concatenate(cells), (len(prompts), len(models))
    times = np.bincount(cell, minlength=prod(shape)).reshape(shape)
    ones = np.bincount(cell, np.concatenate(correct), prod(shape)).reshape(shape)
    # Neither is the greater in a tie, nor where a pair has no row.
    labels = np.select([2 * ones > times, 2 * ones < times], [1, 0], np.nan).astype(np.float32)
    seen = sorted(tasks)
    split = Split(
        ids=list(prompts.index[seen]),
        queries=list(prompts.iloc[seen]),
        tasks=[tasks[place] for place in seen],
        labels=labels[seen],
    )
    return split, len(cell)


# --- the files --------------------------------------------------------------------------------------


def _order(path: Path, key: str, value: str) -> pd.Series[str]:
    """id -> name or text, in the order of the file, whose name it carries."""
    import pandas as pd

    rows = pd.concat(published.csv_pieces(path, (key, value)))
    if (repeated := rows[key].duplicated()).any():
        raise UsageError(
            f"{path}: {key} {rows[key][repeated].iloc[0]!r} is there twice",
            why="it names one row",
            fix="use the publisher's file",
        )
    return rows.set_index(key)[value].rename(path.name)


def _places(path: Path, rows: pd.DataFrame, key: str, order: pd.Series[str]) -> Any:
    """Where the id of each row stands in `order`: int64 [rows]."""
    import pandas as pd

    places = order.index.get_indexer(pd.Index(rows[key]))
    if (places < 0).any():
        row = int(places.argmin())
        raise UsageError(
            f"{path}: {key} {rows[key].iloc[row]!r} in row {rows.index[row]} is unknown",
            why=f"{order.name} does not have it",
            fix="use the publisher's files, all of one revision",
        )
    return places


def _labels(path: Path, rows: pd.DataFrame) -> Any:
    """0.0 or 1.0 of each row: float64 [rows]."""
    import pandas as pd

    labels = pd.to_numeric(rows["label"], errors="coerce").to_numpy(np.float64)
    if (wrong := ~np.isin(labels, (0, 1))).any():
        row = int(wrong.argmax())
        prompt, model, label = (rows[column].iloc[row] for column in ("prompt_id", "model_id", "label"))
        raise UsageError(
            f"{path}: label {label!r} in row {rows.index[row]} is not 0 or 1",
            why=f"the row is of prompt_id {prompt} and model_id {model}",
            fix="use the publisher's file; leave out a row of your own that has no label",
        )
    return labels


# --- registration -----------------------------------------------------------------------------------

CARD = BenchmarkCard(
    name=NAME,
    title="EmbedLLM: 35,673 queries, 112 open models, no costs",
    citation="arXiv:2410.02223",
    url="https://huggingface.co/datasets/RZ412/EmbedLLM",
    licence="apache-2.0",
    models=(),  # only model_order.csv names them
    splits=COUNTS,
    paper={"train": 119_964, "val": 14_897, "test": 15_210},
    costs=False,
    label_rule="published label 0 or 1; of repeated rows of a prompt and model the majority, a tie is no label",
    split_rule="the publisher's, by prompt_id",
    files=FILES,
    notes=(
        "The 112 models and their order are read from model_order.csv; the names are of the form org__model.",
        (
            "A prompt listed under several task variants has several rows per model, and their labels may clash. Others "
            "resolve it differently: the authors' kNN takes the largest, IrtNet the majority with a tie as 1."
        ),
        "A query's task is the category of the first of its rows.",
        (
            "The files have 3,814,272/383,488/388,528 rows, 112 for each of 34,056/3,424/3,469 listings of a prompt. "
            "Neither these nor the prompts match Table 8 of arXiv:2606.07587; how it counts is not known."
        ),
        (
            "There are no costs. arXiv:2606.07587 reports utility on EmbedLLM all the same, with a proxy that it does not "
            "describe; `rph eval --price MODEL=USD`, once per model, gives prices."
        ),
        "Queries are those of question_order.csv; one that is in no split is left out. Of the 34 GB only five files are read.",
        "No sha256 is published: that of the first download is recorded and required from then on.",
        "Other prompts, rows or models than the full release are a subset: results carry another name.",
    ),
)


@hookimpl
def register_benchmark() -> BenchmarkSpec:
    return BenchmarkSpec(
        card=CARD,
        load=load,
        options={
            "path": f"a folder that holds {', '.join(file.path for file in FILES)}; else they are downloaded"
        },
    )
