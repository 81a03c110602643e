"""Is a result what it claims to be? Judged from its two files, from the board's other results, and from the
benchmark where that is at hand.

A result file holds no scores, so what is a function of them alone is not verified; each verdict says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rph import protocol
from rph.board import strictfiles
from rph.board.ranking import RANKED, why_unranked
from rph.errors import UsageError
from rph.results import blocks, cell, files, metrics, missing, probabilities, tasks, utility, variants
from rph.results.files import Entry
from rph.results.recompute import ROUNDING, choice, differences, recomputed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import RoutingDataset

LONGEST = 400  # characters of a problem that are kept: a claim can be a page

AGAIN = "write it again with `rph eval ... --out FOLDER`; nothing that is in the store is trained twice"
FIXES = {
    "plain": "submit plain files in plain folders: <bench>/<router>/<encoder>.json and <encoder>.queries.npz",
    "size": "submit the files as `rph eval --out` wrote them",
    "json": AGAIN,
    "schema": AGAIN,
    "name": "rename it: letters, digits, dots, dashes and underscores, and no marks of HTML in a model's name",
    "place": "move both files there",
    "arrays": AGAIN,
    "protocol": f"run `rph eval --protocol {RANKED}` with this version of rph",
    "benchmark": "run it on the benchmark that the leaderboard ranks (`rph data pull NAME`), or name yours otherwise",
    "encoder": "run it with the weights and libraries of the board's other results, or name the encoder otherwise",
    "router": "name the router otherwise: this name is another package's on the leaderboard",
    "labels": AGAIN,
    "pool": AGAIN,
    "metrics": AGAIN,
    "selection": AGAIN,
}
UNVERIFIED = (
    "BCE, ECE, utility, the accuracy-cost curve, APGR and CPT: they need the scores, which result files do not hold",
    "the accuracies of the variants that were not chosen, and all on val: they need the run",
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A reason to refuse a file."""

    rule: str  # in a word
    file: Path
    what: str
    fix: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What was found about one result."""

    path: Path  # of the JSON
    entry: Entry | None  # None: it could not be read
    problems: tuple[Problem, ...]
    unverified: tuple[str, ...]  # what was taken on trust


def validate(
    paths: Sequence[Path],
    *,
    board: Sequence[Entry] = (),
    datasets: Mapping[str, RoutingDataset] | None = None,
) -> list[Verdict]:
    """A verdict per result, in order. `board` are results that are trusted; `datasets` are benchmarks by name.

    A result without a problem counts among those of the board for the ones after it.
    """
    trusted, verdicts = _Trusted(board), []
    for path in paths:
        problems: list[Problem] = []

        def refuse(rule: str, file: Path, what: str, found: list[Problem] = problems) -> None:
            found.append(Problem(rule=rule, file=file, what=printable(what[:LONGEST]), fix=FIXES[rule]))

        entry = strictfiles.read(path, refuse)
        unverified: list[str] = []
        if entry is not None:
            dataset = (datasets or {}).get(entry.result.bench)
            for rule, what in _problems(entry, trusted, dataset):
                refuse(rule, path, what)
            unverified = list(_unverified(entry, bool(trusted.peers(entry)), dataset))
            if not problems:
                trusted.add(entry)
        verdicts.append(
            Verdict(path=path, entry=entry, problems=tuple(problems), unverified=tuple(unverified))
        )
    return verdicts


def _unverified(entry: Entry, has_peers: bool, dataset: RoutingDataset | None) -> Iterator[str]:
    yield from UNVERIFIED
    yield from blocks.unverified(entry.result.blocks)
    if entry.result.format == "rph-result/2" and np.isnan(entry.queries.labels).any():
        yield "which models could be chosen where labels are missing: a result of this version says so"
    if entry.result.router_distribution == "local file":
        yield "who can run the router again: it is a local file of the submitter, and no package"
    if dataset is not None:
        return
    if entry.result.cost is not None:
        yield "what the routes cost: give the benchmark with --bench"
    if has_peers:
        yield "labels of models that no other result chose for the same query: give the benchmark with --bench"
    else:
        yield "all labels: the board has no other result of this benchmark, and it was not given with --bench"


Found = Iterator[tuple[str, str]]  # rule, what is wrong


def _problems(entry: Entry, trusted: _Trusted, dataset: RoutingDataset | None) -> Found:
    yield from _protocol(entry)
    yield from _board(entry, trusted)
    yield from _labels(entry)
    yield from _holes(entry)
    yield from _metrics(entry)
    yield from _selection(entry)
    if dataset is not None:
        yield from _dataset(entry, dataset)


# --- the result alone -------------------------------------------------------------------------------


def _protocol(entry: Entry) -> Found:
    result = entry.result
    if why := why_unranked(entry):
        yield "protocol", why
    seeds = protocol.PRESETS[RANKED].seeds[: 1 if result.deterministic else None]
    if result.seeds != seeds:
        kind = "deterministic" if result.deterministic else "stochastic"
        yield "protocol", f"a {kind} variant has the seeds {list(seeds)}, not {list(result.seeds)}"
    if result.times_test_was_scored < result.trials:
        yield "protocol", "test was scored less often than trials were finished"


def _labels(entry: Entry) -> Found:
    """What must hold of labels, whatever the benchmark."""
    q, result = entry.queries, entry.result
    for name, values in (("labels", q.labels), ("best", q.best), ("floor", q.floor)):
        if not (np.isnan(values) | ((values >= 0) & (values <= 1))).all():
            yield "labels", f"{name} holds values outside [0, 1]"
    if not np.isin(q.difficulty, (files.NEITHER, files.EASY, files.HARD)).all():
        yield "labels", "difficulty holds something else than 0, 1 and 2"
    for name, values in (("the chosen model's label", q.labels), ("the best single model's label", q.floor)):
        above = ~np.isnan(values) & ~(
            values <= q.best
        )  # so written that an unknown best is below every label
        if above.any():
            yield "labels", f"{name} is above the best label of the query on {_queries(above)}"
    unsolved = (q.difficulty != files.NEITHER) & ~(q.best >= 0.5)
    if unsolved.any():
        yield "labels", f"queries that no model solved are called hard or easy: {_queries(unsolved)}"
    single = result.models.index(result.reference.best_single_model)
    other = (q.routes == q.blocks.get("holes/floor_route", single)) & ~_equal(
        q.labels, np.broadcast_to(q.floor, q.labels.shape)
    )
    if other.any():
        yield "labels", f"the best single model's label is not the one in floor on {_queries(other)}"
    conflicts = _Labels(entry).conflicts(entry)
    if conflicts.any():
        yield "labels", f"two seeds give one model different labels on {_queries(conflicts)}"


def _holes(entry: Entry) -> Found:
    """What must hold of missing labels: what is chosen is in the pool, and what is missing is said to be."""
    q = entry.queries
    if missing.NAME not in entry.result.blocks:
        if np.isnan(q.labels).any() and entry.result.format != "rph-result/2":
            yield "labels", f"labels are missing, and it has no block {missing.NAME}"
        return
    mine = {name: q.blocks[f"{missing.NAME}/{name}"] for name in missing.ARRAYS}
    cells = mine["cells"]
    known = np.where(cells == missing.OBSERVED, 1, np.nan)
    lines = [
        ("a route", q.routes, q.labels, mine["weight"]),
        ("the best single model's route", mine["floor_route"], q.floor, mine["floor_weight"]),
        ("the control's route", mine["control_route"], mine["control"], None),
    ]
    for what, routes, labels, weight in lines:
        at = np.atleast_2d(routes).astype(np.int64)
        if (at >= cells.shape[1]).any():
            yield "labels", f"{what} leads to no model"
            continue
        cell = np.stack([np.take_along_axis(cells, one[:, None], axis=1)[:, 0] for one in at])
        if (outside := cell == missing.BLOCK).any():
            yield "pool", f"{what} leaves the pool on {_queries(outside)}"
        elif (wrong := np.isnan(np.atleast_2d(labels)) != (cell != missing.OBSERVED)).any():
            yield (
                "labels",
                f"{what}: a label is missing where cells say it is there, or the reverse: {_queries(wrong)}",
            )
        if weight is not None and (odd := (np.atleast_2d(weight) == 0) != (cell == missing.UNASKED)).any():
            yield (
                "labels",
                f"{what}: weights are not 0 where, and only where, nothing was asked: {_queries(odd)}",
            )
    if (wrong := np.isnan(q.best) != np.isnan(known).all(axis=1)).any():
        yield "labels", f"best is missing where a label is known, or the reverse: {_queries(wrong)}"
    planned = bool((cells == missing.UNASKED).any())
    for (_, model), weights in _counted(entry).items():
        name = entry.result.models[model]
        if len(weights) > 1:
            yield (
                "labels",
                f"choices of {name} count differently on queries of one task: {sorted(weights)[:2]}",
            )
            return
        if not planned and weights != {1}:
            yield "labels", f"a choice of {name} counts {max(weights):g}, and no label is missing by plan"
            return


def _counted(entry: Entry) -> dict[tuple[int, int], set[float]]:
    """(task, model) -> what its choices count where they were asked: one number in a result that is what it claims to be.

    Nothing where the tasks are known and too many to stand in the result.
    """
    q = entry.queries
    holes = missing.of(entry.result)
    task = q.blocks.get(f"{tasks.NAME}/task")
    if holes is None or (task is None and holes.tasks_known):
        return {}
    task = np.zeros(len(q.best), np.uint64) if task is None else task
    mine = {name: q.blocks[f"{missing.NAME}/{name}"] for name in missing.ARRAYS}
    rows = [*zip(q.routes, mine["weight"], strict=True), (mine["floor_route"], mine["floor_weight"])]
    if (line := tasks.line(q.arrays())) is not None:
        rows.append((line.route, line.weight.astype(np.float32)))
    found: dict[tuple[int, int], set[float]] = {}
    for route, weight in rows:
        asked = weight != 0
        each = zip(task[asked].tolist(), route[asked].tolist(), weight[asked].tolist(), strict=True)
        for of_task, model, counts in set(each):
            if model < len(entry.result.models):  # else it is refused as a route to no model
                found.setdefault((of_task, model), set()).add(counts)
    return found


def _equal(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays of one shape have the same value, or are both NaN."""
    same: NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return same


def _queries(where: NDArray[np.bool_]) -> str:
    """`3 queries, the first is number 17`: where is [N] or [S, N]."""
    hit = np.flatnonzero(where.reshape(-1, where.shape[-1]).any(axis=0))
    return f"{len(hit):,} {'query' if len(hit) == 1 else 'queries'}, the first is number {hit[0]}"


class _Labels:
    """Labels [N, K] as far as results tell them: a route shows the chosen model's label."""

    def __init__(self, first: Entry) -> None:
        shape = (first.result.n_test, len(first.result.models))
        self.values, self.seen = np.full(shape, np.nan, np.float32), np.zeros(shape, bool)
        self.add(first)

    def add(self, entry: Entry) -> None:
        rows = np.arange(len(self.values))
        for route, labels in zip(entry.queries.routes, entry.queries.labels, strict=True):
            self.values[rows, route], self.seen[rows, route] = labels, True

    def conflicts(self, entry: Entry) -> NDArray[np.bool_]:
        """[S, N] where the entry shows another label than is known."""
        rows, routes = np.arange(len(self.values)), entry.queries.routes
        return self.seen[rows, routes] & ~_equal(self.values[rows, routes], entry.queries.labels)


# --- beside the board's other results ---------------------------------------------------------------


class _Trusted:
    """What trusted results say of names, benchmarks and labels."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.distributions: dict[str, str] = {}  # of routers
        self._by_bench: dict[str, list[Entry]] = {}
        self._labels: dict[str, _Labels] = {}  # of the benchmarks that were asked for
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        result = entry.result
        self.distributions.setdefault(result.router, result.router_distribution)
        self._by_bench.setdefault(result.bench, []).append(entry)
        if result.bench in self._labels:
            self._labels[result.bench].add(entry)

    def peers(self, entry: Entry) -> list[Entry]:
        """The results of its benchmark."""
        return self._by_bench.get(entry.result.bench, [])

    def labels(self, entry: Entry) -> _Labels:
        """What is known of the labels of its benchmark, which has results."""
        bench = entry.result.bench
        if bench not in self._labels:
            first, *others = self._by_bench[bench]
            self._labels[bench] = _Labels(first)
            for other in others:
                self._labels[bench].add(other)
        return self._labels[bench]


def _board(entry: Entry, trusted: _Trusted) -> Found:
    result, peers = entry.result, trusted.peers(entry)
    owner = trusted.distributions.get(result.router, result.router_distribution)
    if owner != result.router_distribution:
        yield "router", f"{result.router} is of {owner!r} on the board, not of {result.router_distribution!r}"
    if not peers:
        return
    first = peers[0].result  # the board's results agree with one another
    if first.bench_fingerprint != result.bench_fingerprint:
        yield "benchmark", _fingerprints(result, first.bench_fingerprint, "of the board's other results")
        return
    if first.models != result.models or first.subset != result.subset or first.n_test != result.n_test:
        yield "benchmark", "its models, its test queries or its subset are not the board's"
        return
    for other in peers:
        theirs = other.result
        if theirs.encoder == result.encoder and theirs.encoder_identity != result.encoder_identity:
            yield "encoder", f"{result.encoder} is {theirs.encoder_identity!r} on the board"
            break
    # The facts of one that has the blocks: one from before they were known cannot tell.
    fullest = max(peers, key=lambda other: len(other.queries.blocks))
    yield from _same_facts(entry, fullest.queries, first.reference, "the board's other results")
    conflicts = trusted.labels(entry).conflicts(entry)
    if conflicts.any():
        yield "labels", f"labels are not those of the board's other results on {_queries(conflicts)}"
    mine = _counted(entry)
    for other in peers:
        known = _counted(other)
        for kind in sorted(mine.keys() & known.keys()):
            if mine[kind] != known[kind]:
                name = result.models[kind[1]]
                yield "labels", f"choices of {name} do not count what they do in the board's other results"
                return


def _fingerprints(result: cell.CellResult, known: str, whose: str) -> str:
    return f"its fingerprint is {result.bench_fingerprint[:16]!r}..., that {whose} is {known[:16]!r}..."


def _same_facts(entry: Entry, queries: files.PerQuery, reference: cell.Reference, whose: str) -> Found:
    """What no router decides is the same for all."""
    for name in ("difficulty", "best", "floor"):
        differ = ~_equal(getattr(entry.queries, name), getattr(queries, name))
        if differ.any():
            yield "labels", f"{name} is not that of {whose} on {_queries(differ)}"
    mine, theirs = entry.queries.blocks, queries.blocks
    for name, (_, dimensions) in blocks.kinds(entry.result).items():
        # A result from before a block was known has none of its arrays.
        if "S" not in dimensions and name in theirs and not _equal(mine[name], theirs[name]).all():
            yield "labels", f"{name} is not that of {whose}"
    for block in (missing.NAME, tasks.NAME):
        if any(name.startswith(f"{block}/") for name in theirs) and block not in entry.result.blocks:
            yield "labels", f"it has no block {block}, which {whose} have"
    for where, claimed, known in differences(entry.result.reference.model_dump(), reference.model_dump()):
        yield "benchmark", f"reference.{where} is {claimed}, that of {whose} is {known}"


# --- beside what it says itself ---------------------------------------------------------------------


def _metrics(entry: Entry) -> Found:
    """The claims beside what the two files give, by the functions that made the claims."""
    found = list(differences(entry.result.model_dump(), recomputed(entry).model_dump()))
    for where, claimed, value in found[: strictfiles.SHOWN]:
        yield "metrics", f"{where} is {claimed}; its queries give {value}"
    if len(found) > strictfiles.SHOWN:
        yield "metrics", f"and {len(found) - strictfiles.SHOWN} more numbers"
    yield from _bounds(entry.result)


def _bounds(result: cell.CellResult) -> Found:
    """What cannot be computed again must at least be possible."""
    for i, one in enumerate(result.per_seed):
        ranges = {
            "bce": (one.bce, -math.log(probabilities.CLIP)),
            "ece": (one.ece, 1),
            "cost": (one.cost, math.inf),
        }
        ranges |= {f"curve.{j}.accuracy": (point.accuracy, 1) for j, point in enumerate(one.curve or ())}
        ranges |= {f"curve.{j}.cost": (point.cost, math.inf) for j, point in enumerate(one.curve or ())}
        for name, (value, most) in ranges.items():
            if value is not None and not 0 <= value <= most + ROUNDING:
                yield "metrics", f"per_seed.{i}.{name} is {value}, which cannot be"


def _selection(entry: Entry) -> Found:
    """The protocol's choice, made again from the val accuracies of all configurations."""
    result = entry.result
    by_trial = {(one.variant_name, one.seed): one for one in result.configurations}
    if len(by_trial) < len(result.configurations) or len(by_trial) != result.trials:
        yield "selection", f"of {result.trials} trials it lists {len(by_trial)} different configurations"
        return
    preset = protocol.PRESETS[RANKED]
    tried = sum(seed == preset.seeds[0] for _, seed in by_trial)
    if tried > preset.variants:
        yield "selection", f"it tried {tried} variants; the protocol allows {preset.variants}"
        return
    accuracies = {trial: one.val_accuracy for trial, one in by_trial.items()}
    alike = blocks.alike(result)
    first = {name: accuracies.get((name, preset.seeds[0])) for name in alike}
    if any(first[name] != first.get(group) for name, group in alike.items()):
        yield "selection", "variants that are said to route alike have different val accuracies"
        return
    said = variants.of(result)
    if said and {name for name, _ in by_trial} - said.keys():
        yield "selection", "it tried variants of which its block `variants` says nothing"
        return
    own = said.get(result.variant_name)
    if own is not None and (own.deterministic, own.calibrated) != (
        result.deterministic,
        result.method.calibrated,
    ):
        yield "selection", "the chosen variant is not what its block `variants` says of it"
    chosen, asked = choice(result, preset)
    if by_trial.keys() - asked or len(asked - by_trial.keys()) > len(result.failed_trials):
        yield "selection", "its configurations are not those that the protocol asks for"
    if chosen is None or chosen.variant != result.variant_name:
        name = "none" if chosen is None else chosen.variant
        yield "selection", f"the protocol chooses {name!r} by val, not {result.variant_name!r}"
        return
    if not math.isclose(chosen.val_accuracy, result.val_accuracy, rel_tol=ROUNDING):
        yield "selection", f"val_accuracy is {result.val_accuracy}; its trials give {chosen.val_accuracy}"
    for seed, measured in zip(result.seeds, result.per_seed, strict=True):
        one = by_trial.get((result.variant_name, seed))
        if one is None or next(differences(one.test_accuracy, measured.test_accuracy), None):
            yield "selection", f"the chosen configuration of seed {seed} has another test accuracy"


# --- beside the benchmark ---------------------------------------------------------------------------


def _dataset(entry: Entry, dataset: RoutingDataset) -> Found:
    result, q = entry.result, entry.queries
    if dataset.fingerprint != result.bench_fingerprint:
        yield "benchmark", _fingerprints(result, dataset.fingerprint, "of the benchmark")
        return
    if (
        dataset.models != result.models
        or dataset.subset != result.subset
        or len(dataset.test) != result.n_test
    ):
        yield "benchmark", "its models, its test queries or its subset are not the benchmark's"
        return
    known = files.per_query(dataset, result.seeds, q.routes.astype(np.int64))
    yield from _same_facts(entry, known, cell.reference(dataset), "the benchmark")
    differ = ~_equal(q.labels, known.labels)
    if differ.any():
        yield "labels", f"labels are not the benchmark's on {_queries(differ)}"
    weight = f"{missing.NAME}/weight"  # the one array of a block that is of the routes
    if (
        weight in q.blocks
        and weight in known.blocks
        and not _equal(q.blocks[weight], known.blocks[weight]).all()
    ):
        yield "labels", "its choices do not count what they do on the benchmark"
    scale = None if dataset.train.costs is None else utility.CostScale.fit(dataset.train.costs)
    # Where a model has no price, costs are those of choices among the others, which are not here.
    if dataset.test.costs is not None and scale is not None and scale.priced.all():
        for i, route in enumerate(q.routes.astype(np.int64)):
            cost = metrics.cost(route, dataset.test.costs, scale.mean).value
            if next(differences(result.per_seed[i].cost, cost), None):
                yield "metrics", f"per_seed.{i}.cost is {result.per_seed[i].cost}; its routes cost {cost}"


def board_of(root: Path, besides: Sequence[Path] = ()) -> list[Entry]:
    """The results under a folder of result files, without those named. Raises UsageError where one cannot be read."""
    if not root.is_dir():
        raise UsageError(
            f"the folder of results {root} does not exist", fix="give it with --root; an empty folder will do"
        )
    left_out = {path.resolve() for path in besides}
    return [files.read(path) for path in files.find(root) if path.resolve() not in left_out]


def printable(text: str) -> str:
    """Without control characters, and what else a stranger's text could do to a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
