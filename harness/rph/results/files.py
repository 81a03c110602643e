"""Result files: what a leaderboard, an analysis and a report are functions of.

`<bench>/<router>/<encoder>.json` is a CellResult; `<encoder>.queries.npz` beside it says what happened to every test
query, so that intervals and comparisons need neither the benchmark nor the run store. No pickle.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from rph import disk
from rph.errors import RphError, UsageError
from rph.holes import chosen
from rph.results import blocks, metrics
from rph.results.cell import CellResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import RoutingDataset

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]*")  # a benchmark, router or encoder that can be a file
NEITHER, EASY, HARD = 0, 1, 2  # of `difficulty`


@dataclass(frozen=True, kw_only=True, eq=False)
class PerQuery:
    """Each of the N test queries of a cell, in the benchmark's order; S seeds. `difficulty` to `floor` know no router."""

    seeds: NDArray[np.int64]  # [S]
    routes: NDArray[np.uint16]  # [S, N] the chosen model's place in CellResult.models
    labels: NDArray[np.float32]  # [S, N] the chosen model's label, NaN where it was not observed
    difficulty: NDArray[np.uint8]  # [N] NEITHER, EASY or HARD (metrics.hard_easy)
    # [N] the best observed label of any model: what the oracle gets; NaN: none observed.
    best: NDArray[np.float32]
    # [N] the label of the best single model, chosen on train (metrics.floor_route); NaN: not observed.
    floor: NDArray[np.float32]
    blocks: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # "holes/low": those of its blocks

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, by the names in the npz."""
        return {**self.blocks, **{name: getattr(self, name) for name in ARRAYS}}


ARRAYS: dict[str, blocks.Kind] = {
    "seeds": ("int64", "S"),
    "routes": ("uint16", "SN"),
    "labels": ("float32", "SN"),
    "difficulty": ("uint8", "N"),
    "best": ("float32", "N"),
    "floor": ("float32", "N"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One result and its queries, as read from its files."""

    path: Path  # of the JSON
    result: CellResult
    queries: PerQuery


def per_query(dataset: RoutingDataset, seeds: tuple[int, ...], routes: NDArray[np.int64]) -> PerQuery:
    """What `routes` [S, N] mean on the dataset's test split."""
    Y, mask = dataset.test.labels, dataset.mask("test")
    floor = chosen(Y, metrics.floor_route(dataset))
    hard, easy = metrics.hard_easy(Y, floor, mask.pool)
    return PerQuery(
        seeds=np.array(seeds, dtype=np.int64),
        routes=routes.astype(np.uint16),
        labels=np.stack([chosen(Y, route) for route in routes]).astype(np.float32),
        difficulty=np.where(hard, HARD, np.where(easy, EASY, NEITHER)).astype(np.uint8),
        best=metrics.best_labels(Y, mask)[0].astype(np.float32),
        floor=floor.astype(np.float32),
        blocks=blocks.draw(dataset, routes),
    )


def write(folder: Path, result: CellResult, queries: PerQuery) -> Path:
    """Write both files under `folder`; returns the path of the JSON. Raises RphError for what could not be read again."""
    names = (result.bench, result.router, result.encoder)
    for name in names:
        if not NAME.fullmatch(name):
            raise UsageError(
                f"the result of {' x '.join(names)} cannot be a file",
                why=f"{name!r} is no name for a file",
                fix="rename the benchmark or the plugin: letters, digits, dots, dashes and underscores",
            )
    arrays: dict[str, Any] = {name: np.asarray(array, order="C") for name, array in queries.arrays().items()}
    if wrong := [*blocks.problems(result), *misfits(result, arrays)]:
        raise RphError(f"the result of {' x '.join(names)} is not written", why="; ".join(wrong))
    path = folder / result.bench / result.router / f"{result.encoder}.json"
    with disk.new_file(queries_path(path), "writing a result's queries") as file, file.open("wb") as to:
        np.savez_compressed(to, **arrays)
    with disk.new_file(path, "writing a result") as file:
        without = {"blocks"} if result.format == "rph-result/2" else None
        file.write_text(result.model_dump_json(indent=1, exclude=without) + "\n")
    return path


def queries_path(path: Path) -> Path:
    """`<encoder>.json` -> `<encoder>.queries.npz`: an encoder's name may hold dots."""
    return path.with_name(path.name.removesuffix(".json") + ".queries.npz")


def find(folder: Path) -> Iterator[Path]:
    """The JSON of every result under a folder of result files, in the order of their names."""
    yield from sorted(folder.glob("*/*/*.json"))


def read(path: Path) -> Entry:
    """One result. Raises UsageError where a file is missing, damaged, of another format, or the two disagree."""
    try:
        result = CellResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _unreadable(
            path, f"{where}: {first['msg']} ({error.error_count()} problem(s) in all)"
        ) from error
    if wrong := list(blocks.problems(result)):
        raise _unreadable(path, "; ".join(wrong))
    return Entry(path=path, result=result, queries=_read_queries(queries_path(path), result))


def misnamed(result: CellResult, names: Iterable[str]) -> list[str]:
    """The arrays that are missing beside a result, and those that belong neither to the core nor to a block of it."""
    odd = set(names) ^ (ARRAYS.keys() | blocks.kinds(result).keys())
    return sorted(name for name in odd if not blocks.unknown(result, name))


def misfit(result: CellResult, name: str, found: blocks.Form) -> str | None:
    """What is wrong with the dtype and shape of an array that is not misnamed; None: nothing."""
    kind = (ARRAYS | blocks.kinds(result)).get(name)
    dtype, shape = found
    if kind is None:
        numeric = dtype.kind in "biuf" and dtype.itemsize <= 8
        return None if numeric else f"{name} is {dtype}: of an unknown block only numbers are kept"
    want = blocks.form(kind, result)
    return None if found == want else f"{name} is {dtype} {shape}, not {want[0]} {want[1]}"


def misfits(result: CellResult, arrays: blocks.Arrays) -> Iterator[str]:
    """What is wrong with the names, dtypes and shapes of the arrays beside a result."""
    if odd := misnamed(result, arrays):
        yield f"arrays that are missing or unknown: {', '.join(odd)}"
        return
    for name, array in arrays.items():
        if why := misfit(result, name, (array.dtype, array.shape)):
            yield why


def _read_queries(path: Path, result: CellResult) -> PerQuery:
    try:
        with np.load(path, allow_pickle=False) as kept:
            # What is no array comes as bytes, and is then one of a dtype that fits nowhere.
            arrays = {name: np.asarray(kept[name]) for name in kept.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, str(error)) from error
    if wrong := list(misfits(result, arrays)):
        raise _unreadable(path, "; ".join(wrong))
    if tuple(arrays["seeds"].tolist()) != result.seeds:
        raise _unreadable(
            path, f"its seeds are {arrays['seeds'].tolist()}, the result's {list(result.seeds)}"
        )
    if (arrays["routes"] >= len(result.models)).any():
        raise _unreadable(path, f"a route leads to no model: there are {len(result.models)}")
    if wrong := list(blocks.wrong_values(result, arrays)):
        raise _unreadable(path, "; ".join(wrong))
    return PerQuery(
        **{name: arrays[name] for name in ARRAYS},
        blocks={name: array for name, array in arrays.items() if name not in ARRAYS},
    )


def _unreadable(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is no result file of this version",
        why=why,
        fix="write it again with `rph eval ... --out FOLDER`, which trains nothing that is in the store",
    )
