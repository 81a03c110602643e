"""RouterBench: queries of MMLU, GSM8K, MBPP and others, answered and priced for a pool of 11 models.

Paper: Hu et al. 2024, RouterBench (arXiv:2403.12031). The release is a pickled table per number of shots; it is read
as data (`rph.data.unpickle`) and converted once. What a reader would get wrong:

- The cost columns stand in another order than the score columns; they are paired by model name.
- A prompt is the text of a Python list of turns; the turns are joined by a blank line. Anything else stays as it is.
- Some scores are fractions (GSM8K, MT-Bench): label = score >= threshold. A missing score stays missing.
- The release has no split; ours is `published.split_rows`, by the sha256 of the decoded prompt in normal form.
- A file with another number of rows than the full release is a subset, and is named as one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph import BenchmarkCard, BenchmarkSpec, File, RoutingDataset, Split, UsageError, disk, hookimpl
from rph.data import published, routing_table, unpickle
from rph.lazy import np

if TYPE_CHECKING:
    import pandas as pd

VERSION = 2  # of the conversion: raised when its result changes
THRESHOLD = 0.5
REVISION = "784021482c3f320c6619ed4b3bb3b41a21424fcb"
LICENCE = "none stated on the data card: not redistributed"
MODELS = (  # in the order of the score columns
    "WizardLM/WizardLM-13B-V1.2",
    "claude-instant-v1",
    "claude-v1",
    "claude-v2",
    "gpt-3.5-turbo-1106",
    "gpt-4-1106-preview",
    "meta/code-llama-instruct-34b-chat",
    "meta/llama-2-70b-chat",
    "mistralai/mistral-7b-chat",
    "mistralai/mixtral-8x7b-chat",
    "zero-one-ai/Yi-34B-Chat",
)
COLUMNS = (
    "sample_id",
    "prompt",
    "eval_name",
    *MODELS,
    *(f"{model}|model_response" for model in MODELS),
    *(f"{model}|total_cost" for model in MODELS),
    "oracle_model_to_route_to",
)
ROWS = {0: 36_497, 5: 36_511}  # shots -> rows of the full release
FILES = {
    0: File(
        repo="withmartian/routerbench",
        path="routerbench_0shot.pkl",
        revision=REVISION,
        size=99_567_659,
        sha256="ba4f77f19517610a707c374e99322d7750c30fc4ae7ff5527888595a1e65d36d",
        licence=LICENCE,
    ),
    5: File(
        repo="withmartian/routerbench",
        path="routerbench_5shot.pkl",
        revision=REVISION,
        sha256="fbd7d3d16fba2759a18fa0ad44409d3e0e92ba80d03d90827eed1a6d084c9ffe",
        licence=LICENCE,
    ),
}


def load(shots: int = 0, path: str | None = None, threshold: float = THRESHOLD) -> RoutingDataset:
    """RouterBench with 0 or 5 shots, from the hub or from a file of yours; converted once, then read from disk."""
    if shots not in FILES:
        raise UsageError(
            f"routerbench has no {shots}-shot file",
            why="0 and 5 shots are released",
            fix="give shots=0 or shots=5",
        )
    published.check_threshold("routerbench", threshold, THRESHOLD)
    file = FILES[shots]
    local = None if path is None else _local_file(Path(path).expanduser(), shots)
    content = file.sha256 if local is None else disk.sha256_file(local)
    dataset = routing_table.cached(
        f"routerbench-{shots}shot-{content}-threshold{threshold!r}-v{VERSION}",
        lambda: _convert(
            unpickle.read_frame(local or published.fetched("routerbench", file)), shots, threshold
        ),
    )
    if content != file.sha256 and not dataset.subset:
        warnings.warn(
            f"{local} has as many rows as the full release, but is not the published {file.path}: its sha256 is "
            f"{content}, the record says {file.sha256}. Compare results by their fingerprint, not by the name",
            stacklevel=2,
        )
    return dataset


# --- the file ---------------------------------------------------------------------------------------


def _local_file(path: Path, shots: int) -> Path:
    """The file that `path` means, which may be its folder; its name must not speak of another number of shots."""
    if path.is_dir():
        here = path / FILES[shots].path
        for other in FILES.keys() - {shots}:
            if not here.exists() and (path / FILES[other].path).is_file():
                raise _other_shots(
                    path, f"it holds {FILES[other].path}, not {FILES[shots].path}", other, shots
                )
        if not here.is_file():
            raise UsageError(
                f"{path} has no {FILES[shots].path}", fix="give the file itself, or the folder that holds it"
            )
        return here
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist", why="it was given as routerbench's path", fix="check the path"
        )
    named = re.search(r"(?<!\d)(\d+)[-_ ]?shot", path.name, re.IGNORECASE)
    if named and int(named[1]) != shots:
        raise _other_shots(path, "its name says so", int(named[1]), shots)
    return path


def _other_shots(path: Path, why: str, found: int, asked: int) -> UsageError:
    return UsageError(
        f"{path} is {found}-shot, and {asked}-shot was asked for",
        why=why,
        fix=f"--bench routerbench:shots={found},path={path}",
    )


# --- conversion -------------------------------------------------------------------------------------


def _convert(frame: pd.DataFrame, shots: int, threshold: float) -> RoutingDataset:
    """The published table as three splits: labels [N, 11] by the threshold, costs [N, 11] in US dollars."""
    published.check_columns("the table", [str(column) for column in frame.columns], COLUMNS)
    for column in ("sample_id", "prompt", "eval_name"):
        if missing := int(frame[column].isna().sum()):
            raise UsageError(
                f"routerbench: column {column!r} has {missing} missing value(s)",
                fix="use the publisher's file",
            )
    ids = published.unique(frame["sample_id"].astype(str).tolist())
    queries = [published.decode_prompt(str(prompt)) for prompt in frame["prompt"]]
    tasks = frame["eval_name"].astype(str).tolist()
    labels = published.labels("routerbench", _numbers(frame, MODELS), threshold, ids, MODELS)
    costs = _numbers(frame, [f"{model}|total_cost" for model in MODELS]).astype(np.float32)
    whole = Split(ids=ids, queries=queries, tasks=tasks, labels=labels, costs=costs)
    train, val, test = (published.take(whole, rows) for rows in published.split_rows(queries))
    name = "routerbench" if shots == 0 else f"routerbench-{shots}shot"
    name = published.name_of(name, threshold, THRESHOLD)
    dataset = RoutingDataset(name=name, models=MODELS, train=train, val=val, test=test)
    if len(frame) == ROWS[shots]:
        return dataset
    return published.subset(
        dataset, f"{len(frame):,} rows; the full {shots}-shot release has {ROWS[shots]:,}"
    )


def _numbers(frame: pd.DataFrame, columns: Sequence[str]) -> Any:
    """Columns as float64 [N, columns], by name; missing is NaN."""
    try:
        return frame[list(columns)].to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "routerbench: a score or cost column is not numeric",
            why=str(error),
            fix="use the publisher's file",
        ) from error


# --- registration -----------------------------------------------------------------------------------

CARD = BenchmarkCard(
    name="routerbench",
    title="RouterBench, 0-shot (or 5-shot): 36,497 queries, 11 models, dollars per call",
    citation="arXiv:2403.12031; data DOI 10.57967/hf/1996",
    url="https://huggingface.co/datasets/withmartian/routerbench",
    licence=LICENCE + "; the authors' code is MIT",
    models=MODELS,
    splits={"train": 21_898, "val": 3_649, "test": 10_950},
    paper={"train": 21_898, "val": 3_649, "test": 10_950},
    costs=True,
    label_rule=f"published score >= {THRESHOLD:g} (option threshold); a missing score is no label",
    split_rule="60/10/30: by sha256 of the decoded prompt in normal form, cut at int(.6 n) and int(.7 n), equal prompts together",
    files=(FILES[0], FILES[5]),
    notes=(
        "The release has no split; this one has the counts of Table 8 of arXiv:2606.07587, whose rows are not published.",
        "Three smoke-test rows of the release (eval_name test-match) are kept: the paper's 36,497 includes them.",
        "5-shot (shots=5): 36,511 rows, split 21,906/3,651/10,954; 154 scores are missing, of 28 ARC-Challenge queries.",
        "Fractional scores: grade-school-math, mtbench and consensus_summary. The papers do not state a threshold.",
        (
            "Costs are the published total_cost, dollars per call. List prices behind them, $ per million tokens in/out: "
            "gpt-4-1106 10/30, gpt-3.5-1106 1/2, claude-instant .8/2.4, claude-v1 and v2 8/24, llama-2-70b .9, mixtral .6, "
            "mistral-7b .2, code-llama-34b .776, WizardLM .3, Yi-34B .8; one token count is used for all models."
        ),
        "A repeated sample_id gets #2, #3, ... in the order of the file.",
        "A file with other rows is a subset: its results carry another name, with its row count and a hash of its rows.",
    ),
)


@hookimpl
def register_benchmark() -> BenchmarkSpec:
    return BenchmarkSpec(
        card=CARD,
        load=load,
        options={
            "shots": "worked examples before each question: 0 (default, the paper's) or 5",
            "path": "a file you have, or the folder that holds routerbench_{shots}shot.pkl; else it is downloaded",
            "threshold": f"label = score >= threshold, for fractional scores; default {THRESHOLD:g}",
        },
    )
