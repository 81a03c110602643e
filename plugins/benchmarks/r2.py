"""R2-Bench: SPROUT's 30,968 train queries, answered by 10 models under 16 limits of output tokens.

Paper: R2-Router (arXiv:2602.02823). The release is a CSV file per model and limit; one limit is one benchmark. What a
reader would get wrong:

- Some models' files have lost the line breaks and control characters of `original_prompt`: rows are joined on
  `prompts_id`, and the texts are compared without either.
- Scores are fractions by an LLM judge: label = score >= threshold. A missing score stays missing.
- Input tokens are not published: they are estimated from the length of `templated_prompt`.
- The release has no split; ours is `published.split_rows`, by the sha256 of the query in normal form.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rph import BenchmarkCard, BenchmarkSpec, File, RoutingDataset, Split, UsageError, hookimpl
from rph.data import published
from rph.data.published import Price, Sources
from rph.lazy import np

if TYPE_CHECKING:
    import pandas as pd

    from rph.api import SplitName

VERSION = 2  # of the conversion: raised when its result changes
THRESHOLD = 0.5
BUDGET = 4000
BUDGETS = (10, 20, 30, 40, 50, 80, 100, 150, 200, 300, 500, 800, 1200, 2000, 4000)  # those of all ten models
WITHOUT_8000 = ("Qwen/Qwen2.5-Math-1.5B-Instruct", "zai-org/GLM-4.5-Air", "zai-org/GLM-4.6")
CHARACTERS = 4  # of a prompt that count as one input token
COUNTS: dict[SplitName, int] = {"train": 18_580, "val": 3_097, "test": 9_291}
PRICES = {  # January 2026: Table 6 of the paper, but for two models; see the card
    "Qwen/Qwen2.5-Math-1.5B-Instruct": Price(0.01, 0.02),
    "Qwen/Qwen2.5-Math-7B-Instruct": Price(0.03, 0.09),
    "Qwen/Qwen3-0.6B": Price(0.07, 0.46),
    "Qwen/Qwen3-235B-A22B-Instruct-2507": Price(0.18, 0.54),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": Price(0.08, 0.33),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": Price(0.10, 1.10),
    "meta-llama/Llama-3.1-70B-Instruct": Price(0.12, 0.30),
    "meta-llama/Llama-3.2-3B-Instruct": Price(0.02, 0.02),
    "zai-org/GLM-4.5-Air": Price(0.35, 1.55),
    "zai-org/GLM-4.6": Price(0.44, 1.76),
}
MODELS = tuple(PRICES)
COLUMNS = (
    "prompts_id",
    "original_prompt",
    "templated_prompt",
    "actual_token_count",
    "correctness_score",
)  # in use
ROWS = 2_000  # read at once: bounds the responses in memory, which are nearly all of a file
LOST = re.compile(r"[\s\x00-\x1f\x7f]+")  # what the authors' dataset.py takes out, and any other white space


def files(budget: int) -> tuple[File, ...]:
    """The files of one limit, in the order of MODELS."""
    return tuple(
        File(
            repo="JiaqiXue/R2-Bench",
            path=f"data/{model}/{budget}_judge.csv",
            revision="1b6234647a21705da4c220f339e44fbe72c69bb2",
            licence="MIT",
        )
        for model in MODELS
    )


def load(budget: int = BUDGET, path: str | None = None, threshold: float = THRESHOLD) -> RoutingDataset:
    """R2-Bench at one limit of output tokens, from the hub or from a folder of yours; converted once."""
    if budget not in BUDGETS:
        raise UsageError(
            f"r2 has no answers of all ten models with budget={budget}",
            why=f"{', '.join(WITHOUT_8000)} have none"
            if budget == 8000
            else "a budget is one of the limits of output tokens that were run",
            fix=f"choose one of {', '.join(map(str, BUDGETS))}",
        )
    published.check_threshold("r2", threshold, THRESHOLD)
    sources = published.sources("r2", files(budget), path)
    return sources.converted(_convert, VERSION, budget=budget, threshold=threshold)


# --- conversion -------------------------------------------------------------------------------------


def _convert(sources: Sources, budget: int, threshold: float) -> RoutingDataset:
    """The ten files as three splits: labels [N, 10] by the threshold, costs [N, 10] in US dollars."""
    queries: dict[int, str] = {}  # prompts_id -> the text of the first file that has it
    frames = []
    for path in sources:
        frame = _read(path)
        _add_queries(queries, frame.pop("query"), path)
        frames.append(frame)
    rows = sorted(queries)
    ids = [f"r2-{row}" for row in rows]
    texts = [queries[row] for row in rows]
    published.check_queries("r2", ids, texts)
    # A row that a file lacks is missing, as is an empty field.
    scores, tokens_in, tokens_out = (
        np.column_stack([frame[column].reindex(rows) for frame in frames])  # [N, 10]
        for column in ("score", "tokens_in", "tokens_out")
    )
    whole = Split(
        ids=ids,
        queries=texts,
        tasks=[""] * len(ids),
        labels=published.labels("r2", scores, threshold, ids, MODELS),
        costs=published.costs("r2", MODELS, PRICES, tokens_in, tokens_out),
    )
    train, val, test = (published.take(whole, part) for part in published.split_rows(texts))
    name = "r2" if budget == BUDGET else f"r2-budget{budget}"
    name = published.name_of(name, threshold, THRESHOLD)
    lacking = [model for model, frame in zip(MODELS, frames, strict=True) if len(frame) < len(rows)]
    return published.named(
        RoutingDataset(name=name, models=MODELS, train=train, val=val, test=test),
        COUNTS,
        f"not all rows are in the files of {', '.join(lacking)}" if lacking else "",
    )


def _read(path: Path) -> pd.DataFrame:
    """One file by prompts_id: query (text), score, tokens_in and tokens_out (missing is NaN)."""
    import pandas as pd

    texts = pd.concat(published.csv_pieces(path, COLUMNS, ROWS))
    rows = _numbers(path, texts["prompts_id"])
    if rows.dtype.kind != "i":
        raise UsageError(
            f"{path}: prompts_id is not a whole number in every row",
            why="some are missing, have a fraction or are far too large",
            fix="use the publisher's file",
        )
    if (repeated := rows.duplicated()).any():
        raise UsageError(
            f"{path}: prompts_id {rows[repeated].iloc[0]} is there twice",
            why="a file has one answer to a query",
            fix="use the publisher's file",
        )
    characters = texts["templated_prompt"].str.len()
    columns = {
        "query": texts["original_prompt"].str.replace("\r\n", "\n").str.replace("\r", "\n"),
        "score": _numbers(path, texts["correctness_score"]),
        "tokens_in": np.ceil(characters.where(characters > 0) / CHARACTERS),
        "tokens_out": _numbers(path, texts["actual_token_count"]),
    }
    return pd.DataFrame(columns).set_axis(rows)


def _numbers(path: Path, column: pd.Series[str]) -> pd.Series[float]:
    """Texts as numbers; an empty one is NaN."""
    import pandas as pd

    try:
        return pd.to_numeric(column.mask(column.str.lower() == "nan", ""))
    except ValueError as error:
        raise UsageError(
            f"{path}: column {column.name!r} is not numeric",
            why=str(error),
            fix="use the publisher's file",
        ) from error


def _add_queries(queries: dict[int, str], column: pd.Series[str], path: Path) -> None:
    """Add the texts of one file to those of the others; where both have one they must agree in what is visible."""
    for row, text in zip(column.index, column, strict=True):
        known = queries.setdefault(row, text)
        if known != text and LOST.sub("", known) != LOST.sub("", text):
            raise UsageError(
                f"{path} has another text for prompts_id {row} than the files before it",
                why=f"{_start(text)}, not {_start(known)}",
                fix="use the publisher's files, all of one revision",
            )


def _start(text: str) -> str:
    return repr(text[:60]) + ("..." if len(text) > 60 else "")


# --- registration -----------------------------------------------------------------------------------

CARD = BenchmarkCard(
    name="r2",
    title="R2-Bench, answers of up to 4,000 tokens: 30,968 queries, 10 models, dollars per call",
    citation="arXiv:2602.02823",
    url="https://huggingface.co/datasets/JiaqiXue/R2-Bench",
    licence="MIT",
    models=MODELS,
    splits=COUNTS,
    paper=COUNTS,
    costs=True,
    label_rule=f"published correctness_score >= {THRESHOLD:g} (option threshold); a missing score is no label",
    split_rule="60/10/30: by sha256 of the query in normal form, cut at int(.6 n) and int(.7 n), equal queries together",
    files=files(BUDGET),
    notes=(
        "The release has no split; this one has the counts of Table 8 of arXiv:2606.07587, whose rows are not published.",
        "Which budget that paper used is not stated: 4000 is the largest that all ten models have (option budget).",
        "The files of another budget are downloaded when it is first asked for; they are not listed here.",
        "The queries are SPROUT's train split, in its order: never pool the two, or test one on what the other trained.",
        (
            "Costs are an estimate: output tokens are the published actual_token_count, but input tokens are not published "
            f"and are taken as the characters of templated_prompt / {CHARACTERS}, rounded up."
        ),
        (
            "Prices, $ per million tokens in/out, are those of Table 6 of arXiv:2602.02823 (January 2026): "
            "Qwen2.5-Math-1.5B .01/.02, Qwen2.5-Math-7B .03/.09, Qwen3-0.6B .07/.46, Qwen3-235B-A22B .18/.54, "
            "Llama-3.1-70B .12/.30, Llama-3.2-3B .02/.02, GLM-4.5-Air .35/1.55, GLM-4.6 .44/1.76."
        ),
        (
            "Two models are not in that table: Qwen3-30B-A3B .08/.33 and Qwen3-Next-80B-A3B .10/1.10 have the output price "
            "of model_cost.json of R2-Bench-RouterArena, and the input price of an OpenRouter price list of November 2025."
        ),
        "An answer may be longer than its budget: the authors' script allowed ten tokens more.",
        "The judge is Qwen3-Next-80B-A3B-Instruct, which is also a model of the pool.",
        (
            "The authors' retry.py writes a score of 0 where the judge's answer could not be read; such a 0 cannot be told "
            "from a wrong answer here."
        ),
        (
            "The authors' dataset.py took line breaks and control characters out of some models' files: a query is the "
            "text of the first file in the order of the models, and whether that file has them is not known."
        ),
        "A row that is not in every model's file makes the data a subset, and is missing for the models that lack it.",
    ),
)


@hookimpl
def register_benchmark() -> BenchmarkSpec:
    return BenchmarkSpec(
        card=CARD,
        load=load,
        options={
            "budget": f"limit of output tokens, one of {', '.join(map(str, BUDGETS))}; default {BUDGET}",
            "path": "a folder that holds data/<model>/<budget>_judge.csv of every model; else they are downloaded",
            "threshold": f"label = score >= threshold; default {THRESHOLD:g}",
        },
    )
