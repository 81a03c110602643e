"""SPROUT: 44,241 queries of OpenHermes, MMLU-Pro, MATH, RAGBench and others, answered by a pool of 13 models.

Paper: Somerstep et al. 2025, CARROT (arXiv:2502.03261). A split is one to three Parquet files; a model is a column of
structs, of which only the score and the token counts are read. What a reader would get wrong:

- Scores are fractions by an LLM judge: label = score >= threshold. A null struct or field is missing, never 0.
- Costs are the published token counts times the prices in the authors' constants.py, which other files of theirs
  contradict.
- The splits are the publisher's; the authors' own code trains on train and validation together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import BenchmarkCard, BenchmarkSpec, File, RoutingDataset, Split, UsageError, hookimpl
from rph.data import parquet, published
from rph.data.published import Price, Sources
from rph.lazy import np

if TYPE_CHECKING:
    from rph.api import SplitName

VERSION = 1  # of the conversion: raised when its result changes
THRESHOLD = 0.5
PRICES = {  # SPROUT_COSTS of the authors' constants.py, in the order of the columns
    "aws-claude-3-5-sonnet-v1": Price(3.0, 15.0),
    "aws-titan-text-premier-v1": Price(0.8, 3.2),
    "openai-gpt-4o": Price(2.5, 10.0),
    "openai-gpt-4o-mini": Price(0.15, 0.6),
    "wxai-granite-3-2b-instruct-8k-max-tokens": Price(0.1, 0.1),
    "wxai-granite-3-8b-instruct-8k-max-tokens": Price(0.2, 0.2),
    "wxai-llama-3-1-70b-instruct": Price(0.9, 0.9),
    "wxai-llama-3-1-8b-instruct": Price(0.2, 0.2),
    "wxai-llama-3-2-1b-instruct": Price(0.06, 0.06),
    "wxai-llama-3-2-3b-instruct": Price(0.06, 0.06),
    "wxai-llama-3-3-70b-instruct": Price(0.9, 0.9),
    "wxai-llama-3-405b-instruct": Price(3.5, 3.5),
    "wxai-mixtral-8x7b-instruct-v01": Price(0.6, 0.6),
}
MODELS = tuple(PRICES)
COLUMNS = ("key", "dataset", "dataset_level", "dataset_idx", "prompt", "golden_answer", *MODELS)
TEXTS = ("key", "prompt", "dataset")  # in use
NUMBERS = ("score", "num_input_tokens", "num_output_tokens")  # in use, of each model's struct
COUNTS: dict[SplitName, int] = {"train": 30_968, "val": 6_636, "test": 6_637}
PATHS: dict[SplitName, tuple[str, ...]] = {
    "train": tuple(f"data/train-{i:05}-of-00003.parquet" for i in range(3)),
    "val": ("data/validation-00000-of-00001.parquet",),
    "test": ("data/test-00000-of-00001.parquet",),
}
LICENCE = "none stated on the data card: not redistributed"
FILES = tuple(
    File(repo="CARROT-LLM-Routing/SPROUT", path=path, revision="main", licence=LICENCE)
    for paths in PATHS.values()
    for path in paths
)


def load(path: str | None = None, threshold: float = THRESHOLD) -> RoutingDataset:
    """SPROUT from the hub or from a folder of yours; converted once, then read from disk."""
    published.check_threshold("sprout", threshold, THRESHOLD)
    sources = published.sources("sprout", FILES, path)
    return sources.converted(_convert, VERSION, threshold=threshold)


# --- conversion -------------------------------------------------------------------------------------


def _convert(sources: Sources, threshold: float) -> RoutingDataset:
    """The five files as three splits."""
    parts = [[_read(sources[path], threshold) for path in paths] for paths in PATHS.values()]
    whole = _join(list(chain.from_iterable(parts)))
    whole = dataclasses.replace(whole, ids=published.unique(whole.ids))  # over all splits
    ends = np.cumsum([0, *(sum(map(len, of_split)) for of_split in parts)]).tolist()
    train, val, test = (published.take(whole, range(*pair)) for pair in pairwise(ends))
    name = published.name_of("sprout", threshold, THRESHOLD)
    return published.named(RoutingDataset(name=name, models=MODELS, train=train, val=val, test=test), COUNTS)


def _join(parts: Sequence[Split]) -> Split:
    return Split(
        ids=[name for part in parts for name in part.ids],
        queries=[query for part in parts for query in part.queries],
        tasks=[task for part in parts for task in part.tasks],
        labels=np.concatenate([part.labels for part in parts]),
        costs=np.concatenate([part.costs for part in parts if part.costs is not None]),
    )


def _read(path: Path, threshold: float) -> Split:
    """One file: labels [n, 13] by the threshold, costs [n, 13] in US dollars; ids as published."""
    import pyarrow as pa
    import pyarrow.compute as pc

    file = parquet.Columns(path)
    rows = file.read(_columns(path, file.schema))
    if pa.types.is_integer(rows["key"].type):
        rows = rows.set_column(rows.column_names.index("key"), "key", rows["key"].cast(pa.string()))
    ids, queries, tasks = (parquet.texts(path, rows, name) for name in TEXTS)
    published.check_queries(str(path), ids, queries)
    cells = pa.table({f"{name}/{m}": pc.struct_field(rows[m], name) for name in NUMBERS for m in MODELS})
    scores, tokens_in, tokens_out = (parquet.matrix(path, cells, name, MODELS, ids) for name in NUMBERS)
    return Split(
        ids=ids,
        queries=queries,
        tasks=tasks,
        labels=published.labels(str(path), scores, threshold, ids, MODELS),
        costs=published.costs(str(path), MODELS, PRICES, tokens_in, tokens_out),
    )


def _columns(path: Path, schema: Any) -> list[str]:
    """The columns to read, in Parquet's paths; without the responses, which are nearly all of a file."""
    import pyarrow as pa

    published.check_columns(str(path), schema.names, COLUMNS)
    for model in MODELS:
        kind = schema.field(model).type
        fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
        published.check_columns(
            f"{path}: column {model!r}",
            list(fields),
            NUMBERS,
            others=True,
            form=f"fields {', '.join(NUMBERS)}",
        )
        if booleans := [name for name in NUMBERS if pa.types.is_boolean(fields[name])]:
            raise UsageError(
                f"{path}: field {booleans[0]!r} of column {model!r} is not numeric",
                why="it is bool",
                fix="use the publisher's file",
            )
    return [*TEXTS, *(f"{model}.{name}" for model in MODELS for name in NUMBERS)]


# --- registration -----------------------------------------------------------------------------------

CARD = BenchmarkCard(
    name="sprout",
    title="SPROUT (CARROT): 44,241 queries, 13 models, dollars per call",
    citation="arXiv:2502.03261",
    url="https://huggingface.co/datasets/CARROT-LLM-Routing/SPROUT",
    licence=LICENCE,
    models=MODELS,
    splits=COUNTS,
    paper={"train": 152_193, "val": 35_528, "test": 36_214},
    costs=True,
    label_rule=f"published score >= {THRESHOLD:g} (option threshold); a missing score is no label",
    split_rule="the publisher's: train, validation, test",
    files=FILES,
    notes=(
        (
            "No paper states a threshold. Table 3 of arXiv:2606.07587 implies that on about .965 of the queries some model "
            "is right; with score >= 1 others measured about .9385, so its threshold is likely below 1: hence 0.5."
        ),
        (
            "Costs are the published token counts times SPROUT_COSTS of the authors' constants.py (github.com/somerstep/CARROT, "
            "unchanged from commit c75a41e of 2025-03-12 to 2d47d1f of 2026-04-09), $ per million tokens in/out: sonnet 3/15, "
            "titan .8/3.2, gpt-4o 2.5/10, 4o-mini .15/.6, granite-2b .1, granite-8b .2, llama-3.1-70b and 3.3-70b .9, "
            "3.1-8b .2, 3.2-1b and 3.2-3b .06, 405b 3.5, mixtral .6."
        ),
        "The authors' carrot.py and page on the hub give titan .5/1.5 instead.",
        (
            "Its train split is R2-Bench's queries, in the same order: never pool the two, or test one on what the other "
            "trained."
        ),
        "The authors' gen_sprout.py trains on train and validation together; here they stay apart.",
        "How Table 8 of arXiv:2606.07587 counts is not known.",
        (
            "No page with the counts was seen: train's is asserted by R2-Router's code, test's printed by the authors' "
            "notebook, and val's is what the total of 44,241 leaves."
        ),
        "An id is the published key; a repeated one gets #2, #3, ... in the order train, val, test. A task is `dataset`.",
        "A null struct, score or token count is missing; third-party loaders drop such rows or fill in 0.",
        "No revision is known to be the paper's: main is kept at its commit of the first pull, with the sha256 of each file.",
        "SPROUT-o3mini, with 14 models, is another data set.",
        "Other rows than the full release are a subset: results carry another name.",
    ),
)


@hookimpl
def register_benchmark() -> BenchmarkSpec:
    return BenchmarkSpec(
        card=CARD,
        load=load,
        options={
            "path": "a folder that holds data/train-00000-of-00003.parquet and so on; else they are downloaded",
            "threshold": f"label = score >= threshold; default {THRESHOLD:g}",
        },
    )
