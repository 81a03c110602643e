"""Benchmarks on disk in the form routing-table/1, and the checks that every benchmark must pass.

A folder holds `bench.yaml` and one Parquet file per split:

    format: routing-table/1
    name: mine
    models: [model-a, model-b]          # their order is the order of the columns in memory
    costs: usd                          # or null: the benchmark has no costs
    splits: {train: train.parquet, val: val.parquet, test: test.parquet}
    citation: arXiv:2400.00000          # optional, as are source, description, labels, licence, subset

Columns: `id`, `query`, `task` and `language` (optional), `correct/<model>`, with costs `cost/<model>` in US dollars per
call, and in a control world `p_correct/<model>`. A label is in [0, 1]; null or NaN means not observed, never 0. An
unknown cost is null or NaN, never $0. A misspelt key, or a column of a model that is not in the pool, is an error; other
columns are left out with a word.

What is known of missing labels may be said (rph.holes): columns `hole/<model>`, of some models or all, hold planned,
failed, empty, cut or unscored where a label is missing, null or "" where nothing is known; and in `bench.yaml`

    holes: planned                      # what no column says was never asked, by a plan drawn before any answer
    plan: {gsm8k: {model-a: 0.5}}       # the share of a task's queries that a model was asked, where known
    blocks: {gsm8k: [model-b]}          # models that were not run on a task
"""

from __future__ import annotations

import difflib
import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rph import disk
from rph.api import SPLITS, RoutingDataset, Split
from rph.data import parquet
from rph.data.validity import check, repeated_in
from rph.errors import UsageError
from rph.holes import REASONS, Holes
from rph.lazy import np

FORMAT = "routing-table/1"
HEAD = "bench.yaml"
REQUIRED = ("format", "name", "models", "costs", "splits")
OPTIONAL = ("citation", "source", "description", "labels", "licence", "subset")
OF_HOLES = ("holes", "plan", "blocks")  # words so short that notes, rules and lang are like them
CHECKSUMS = "checksums.json"  # only in converted benchmarks: file name -> sha256
CONVERTED = "converted by rph"  # the source that a converted benchmark names


def is_table(path: Path) -> bool:
    """Whether `path` is a folder with a bench.yaml."""
    return (path / HEAD).is_file()


# --- reading ----------------------------------------------------------------------------------------


def read(folder: Path) -> RoutingDataset:
    """The benchmark in `folder`, checked. Raises UsageError with what, why and fix for anything wrong in it."""
    head = _read_head(folder)
    models = tuple(head["models"])
    splits: dict[str, Any] = {}
    for name in SPLITS:
        file = _inside(folder, name, head["splits"][name])
        splits[name] = _read_split(file, models, costs=head["costs"] == "usd")
    dataset = RoutingDataset(
        name=head["name"],
        models=models,
        **splits,
        subset=head.get("subset") or "",
        holes=_read_holes(folder / HEAD, head),
    )
    check(dataset)
    return dataset


def _read_head(folder: Path) -> dict[str, Any]:
    import yaml

    path = folder / HEAD
    if not path.is_file():
        raise UsageError(
            f"{folder} is not a benchmark folder",
            why=f"it has no {HEAD}",
            fix=f"give a folder in the form {FORMAT}, or a benchmark's name (`rph list benchmarks`)",
        )
    try:
        head = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML", why=" ".join(str(error).split()), fix="repair it") from error
    if not isinstance(head, dict):
        raise UsageError(
            f"{path} is not a mapping",
            why=f"it holds a {type(head).__name__}",
            fix=f"write `key: value` lines, beginning with `format: {FORMAT}`",
        )
    if head.get("format") != FORMAT:
        raise UsageError(
            f"{path} is not in the form {FORMAT}",
            why=f"its `format` is {head['format']!r}" if "format" in head else "it has no `format`",
            fix=f"if the folder is laid out like one, write `format: {FORMAT}`",
        )
    # Further keys are the owner's notes, but one that looks like a known key is that key misspelt.
    known = (*REQUIRED, *OPTIONAL)
    misspelt = [
        key
        for key in map(str, head)
        if difflib.get_close_matches(key, known, n=1)
        or difflib.get_close_matches(key, OF_HOLES, n=1, cutoff=0.8)
    ]
    _refuse_unknown(f"{path} has an unknown key", misspelt, (*known, *OF_HOLES))
    if missing := [key for key in REQUIRED if key not in head]:
        raise UsageError(
            f"{path} lacks {', '.join(missing)}",
            why=f"required: {', '.join(REQUIRED)}",
            fix="add it" if len(missing) == 1 else "add them",
        )
    _check_values(path, head)
    return head


def _check_values(path: Path, head: dict[str, Any]) -> None:
    models, splits = head["models"], head["splits"]
    if not isinstance(head["name"], str):
        raise UsageError(f"{path}: `name` is not text", why=f"it is {head['name']!r}", fix="put it in quotes")
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        raise UsageError(
            f"{path}: `models` is not a list of names",
            why=f"it is {models!r}",
            fix="write a list; put a name that looks like a number in quotes",
        )
    if head["costs"] not in ("usd", None):
        raise UsageError(
            f"{path}: `costs` is {head['costs']!r}",
            why="costs are in US dollars per call, or there are none",
            fix="write `costs: usd` or `costs: null`",
        )
    if not isinstance(splits, dict) or not all(isinstance(file, str) for file in splits.values()):
        raise UsageError(
            f"{path}: `splits` does not give a file per split",
            why=f"it is {splits!r}",
            fix="write `splits: {train: train.parquet, val: val.parquet, test: test.parquet}`",
        )
    _refuse_unknown(f"{path} has an unknown split", splits, SPLITS)
    if missing := [name for name in SPLITS if name not in splits]:
        raise UsageError(
            f"{path}: `splits` lacks {', '.join(missing)}",
            why="a benchmark has a train, a val and a test split",
            fix="add the file's name",
        )
    if not isinstance(head.get("subset") or "", str):
        raise UsageError(f"{path}: `subset` is not text", fix="say in words what the rows are")


def _read_holes(path: Path, head: dict[str, Any]) -> Holes:
    """What bench.yaml says of missing labels; whether it fits the table is checked with the table."""
    if head.get("holes") not in ("planned", None):
        raise UsageError(
            f"{path}: `holes` is {head['holes']!r}",
            why="it says whether a plan left labels out, or is not there",
            fix="write `holes: planned`, or take it out",
        )
    blocks, plan = head.get("blocks") or {}, head.get("plan") or {}
    if not _is_by_task(blocks, list) or not all(isinstance(m, str) for each in blocks.values() for m in each):
        raise UsageError(
            f"{path}: `blocks` does not give a list of models per task",
            why=f"it is {blocks!r}",
            fix="write `blocks: {task: [model, ...]}`; put a name that looks like a number in quotes",
        )
    if not _is_by_task(plan, dict) or not all(
        isinstance(m, str) and type(share) in (int, float)
        for each in plan.values()
        for m, share in each.items()
    ):
        raise UsageError(
            f"{path}: `plan` does not give a share per task and model",
            why=f"it is {plan!r}",
            fix="write `plan: {task: {model: 0.5, ...}}`; put a name that looks like a number in quotes",
        )
    return Holes(
        planned=head.get("holes") == "planned",
        blocks=frozenset((task, model) for task, each in blocks.items() for model in each),
        plan={(task, model): float(share) for task, each in plan.items() for model, share in each.items()},
    )


def _is_by_task(value: Any, kind: type) -> bool:
    """Whether a value of bench.yaml holds one of its kind for each task."""
    return isinstance(value, dict) and all(
        isinstance(task, str) and isinstance(each, kind) for task, each in value.items()
    )


def _refuse_unknown(what: str, found: Iterable[Any], known: Sequence[str]) -> None:
    for name in found:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            raise UsageError(
                f"{what}: {name!r}",
                why=f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}",
                fix="rename it or take it out",
            )


def _inside(folder: Path, split: str, name: str) -> Path:
    """The file of a split; one that lies outside the folder, also through a link, is refused."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{folder / HEAD}: the file of split {split!r} leaves the folder",
            why=f"{name!r} is {path.resolve()}",
            fix="put the file into the folder and give its plain name",
        )
    return path


def _read_split(path: Path, models: Sequence[str], *, costs: bool) -> Split:
    if not path.is_file():
        raise UsageError(f"{path} does not exist", why=f"{HEAD} names it as a split", fix="correct `splits`")
    rows = parquet.Columns(path)
    names = rows.column_names
    if repeated := repeated_in(names):
        raise UsageError(f"{path} has the column {repeated!r} twice", fix="keep one of them")
    known_p = any(name.startswith("p_correct/") for name in names)
    kinds = ["correct", *(["cost"] if costs else []), *(["p_correct"] if known_p else [])]
    _check_columns(path, names, models, kinds, costs=costs)
    ids = parquet.texts(path, rows, "id")
    matrices = {kind: parquet.matrix(path, rows, kind, models, ids) for kind in kinds}
    return Split(
        ids=ids,
        queries=parquet.texts(path, rows, "query", ids),
        tasks=parquet.texts(path, rows, "task", ids) if "task" in names else [""] * len(ids),
        labels=matrices["correct"],
        costs=matrices.get("cost"),
        p_correct=matrices.get("p_correct"),
        reasons=parquet.reasons(path, rows, models, ids),
        languages=parquet.texts(path, rows, "language", ids, nulls=True) if "language" in names else (),
    )


def _check_columns(
    path: Path, names: Sequence[str], models: Sequence[str], kinds: Sequence[str], *, costs: bool
) -> None:
    for name in ("id", "query"):
        if name not in names:
            raise UsageError(
                f"{path} has no column {name!r}", why=f"its columns: {', '.join(names)}", fix="add it"
            )
    if costs and not any(name.startswith("cost/") for name in names):
        raise UsageError(
            f"{path} has no cost columns",
            why=f"{HEAD} says `costs: usd`",
            fix="add a column cost/<model> for every model, or write `costs: null`",
        )
    expected = ["id", "query", *(f"{kind}/{model}" for kind in kinds for model in models)]
    known = {*expected, "task", "language", *(f"hole/{model}" for model in models)}
    extra = [name for name in names if name not in known]
    missing = [name for name in expected if name not in set(names)]
    if missing:
        close = difflib.get_close_matches(missing[0], extra, n=1)
        raise UsageError(
            f"{path} has no column {missing[0]!r}",
            why=f"it has {close[0]!r}; did you mean that?"
            if close
            else f"{len(missing)} of {len(expected)} columns that {HEAD} implies are missing",
            fix="add or rename the column, or correct `models`",
        )
    others = [name for name in extra if "/" not in name]  # of no kind: the owner's notes
    if others:
        warnings.warn(f"{path}: columns not used: {', '.join(others)}", stacklevel=2)
    extra = [name for name in extra if "/" in name]
    if extra:
        unpriced = not costs and all(name.startswith("cost/") for name in extra)
        raise UsageError(
            f"{path} has {len(extra)} unknown column(s): {', '.join(map(repr, extra[:5]))}",
            why=f"{HEAD} says `costs: null`"
            if unpriced
            else f"{HEAD} lists no such model, and the form has no such column",
            fix="write `costs: usd`" if unpriced else "add the model to `models`, or take the column out",
        )


# --- writing ----------------------------------------------------------------------------------------


def write(
    dataset: RoutingDataset,
    folder: Path,
    *,
    citation: str,
    source: str,
    description: str = "",
    labels: str = "",
) -> None:
    """Write the benchmark as a new folder, whole or not at all; `labels` says how a label was decided."""
    check(dataset)
    if folder.exists():
        raise UsageError(
            f"{folder} exists already", why="a benchmark is never written over", fix="choose another folder"
        )
    with disk.new_folder(folder, "a benchmark") as temporary:
        _write_files(
            dataset, temporary, citation=citation, source=source, description=description, labels=labels
        )


def _write_files(dataset: RoutingDataset, folder: Path, **said: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import yaml

    head = {
        "format": FORMAT,
        "name": dataset.name,
        "models": list(dataset.models),
        "costs": "usd" if dataset.has_costs else None,
        "splits": {name: f"{name}.parquet" for name in SPLITS},
        "subset": dataset.subset,
        **said,
    }
    head = {key: value for key, value in head.items() if value != ""} | _holes_said(dataset.holes)
    (folder / HEAD).write_text(yaml.safe_dump(head, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for name, split in dataset.splits():
        columns: dict[str, Any] = {
            key: pa.array(texts, pa.large_string())
            for key, texts in (("id", split.ids), ("query", split.queries), ("task", split.tasks))
        }
        for kind, matrix in (
            ("correct", split.labels),
            ("cost", split.costs),
            ("p_correct", split.p_correct),
        ):
            if matrix is not None:
                columns |= {f"{kind}/{model}": matrix[:, m] for m, model in enumerate(dataset.models)}
        if split.languages:
            columns["language"] = pa.array(split.languages, pa.large_string())
        if split.reasons is not None:
            words = np.array(REASONS, dtype=np.object_)
            columns |= {
                f"hole/{dataset.models[m]}": pa.array(words[split.reasons[:, m]], pa.string())
                for m in np.flatnonzero(split.reasons.any(axis=0))
            }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", compression="zstd")


def _holes_said(holes: Holes) -> dict[str, Any]:
    """The keys of bench.yaml that say what is known of missing labels."""
    blocks: dict[str, list[str]] = {}
    plan: dict[str, dict[str, float]] = {}
    for task, model in sorted(holes.blocks):
        blocks.setdefault(task, []).append(model)
    for (task, model), share in holes.plan.items():
        plan.setdefault(task, {})[model] = share
    said = {"holes": "planned" if holes.planned else "", "plan": plan, "blocks": blocks}
    return {key: value for key, value in said.items() if value}


# --- converted benchmarks ---------------------------------------------------------------------------


def cached(name_and_key: str, build: Callable[[], RoutingDataset]) -> RoutingDataset:
    """The benchmark converted earlier under this name, else what `build` gives, kept for the next time.

    `name_and_key` must change with everything that decides the content. A damaged copy is said and built again.
    Processes that ask at once wait for one of them to build.
    """
    from filelock import FileLock

    folder = disk.home() / "benchmarks" / name_and_key
    if _is_sound(folder):
        return read(folder)
    with disk.disk_errors("a converted benchmark", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{name_and_key}.lock")
        lock.acquire()
    try:
        if not _is_sound(folder):
            if folder.exists():
                warnings.warn(
                    f"the converted benchmark in {folder} is damaged: converting again", stacklevel=2
                )
                shutil.rmtree(folder)
            dataset = build()
            check(dataset)
            with disk.new_folder(folder, "a converted benchmark") as temporary:
                _write_files(dataset, temporary, source=CONVERTED)
                sums = {file.name: disk.sha256_file(file) for file in temporary.iterdir()}
                (temporary / CHECKSUMS).write_text(json.dumps(sums), encoding="utf-8")
        return read(folder)
    finally:
        lock.release()


def _is_sound(folder: Path) -> bool:
    """Whether the folder holds exactly the bytes that were written."""
    try:
        sums: dict[str, str] = json.loads((folder / CHECKSUMS).read_bytes())
        return bool(sums) and all(disk.sha256_file(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, AttributeError):
        return False
