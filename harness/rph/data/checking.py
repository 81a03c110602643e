"""What makes the numbers of a benchmark that can be run wrong or weak: it is told, nothing is changed or refused.

What keeps a benchmark from being run is another matter (`rph.data.validity`). `check` is a pure function of the content;
`checked` keeps what it found under RPH_HOME, by the fingerprint.

The kinds in `WRONG` make every number computed from the table wrong:

- `misaligned`: labels stand at the wrong queries. A query that is hard for one model is hard for others, so that within a
  task the labels of a model go with those of the rest. In tables whose rows are known to be in order the median over the
  models of that correlation is .42 to .72; where 15 of 19 models had their rows in another order it is .19. A single model
  may be low in a clean table (.05), and so may a pool of a few: judged is the median, of `POOL` models or more.
- `leak`: a text stands in two splits.

The others are for the owner to look at: `near-leak`, `repeated-text`, `constant-model`, `unobserved-model`, `block`,
`never-asked`, `plan-differs`, `no-tasks`, `agreeing-models`, `similar-names`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from rph import disk
from rph.api import SPLITS, RoutingDataset
from rph.data.alike import near_pairs, normal_form
from rph.data.columns import short
from rph.errors import RphError
from rph.holes import SUPPORT, found_blocks, planned_cells
from rph.lazy import np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rph.api import Float32

    Ints = NDArray[np.int64]

VERSION = 1  # raised when what `check` gives changes: then what is kept is not read again
WRONG = ("misaligned", "leak")

ALIGNED = 0.3  # median correlation of a model with the rest, within tasks, in a table that is in order
POOL, LEAST = 5, 100  # models and queries without which the median says nothing
SAME = 0.95  # correlation of two models; one model served by two providers has .76
JOINT = 20  # queries on which both of two models must be observed
STRAY = 5  # standard errors by which the share asked may differ from the plan's
SHOWN = 3  # examples
CONSTANT = 1e-9  # a sum of squares below this is rounding


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of thing that was found."""

    kind: str
    what: str  # what is counted
    count: int
    examples: tuple[str, ...]  # the first few
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.count:,}, the first: {self.examples[0]}"


@dataclass(frozen=True, kw_only=True)
class Check:
    """All that was found in a benchmark."""

    findings: tuple[Finding, ...]
    # Of each model with the rest of the pool, within tasks; None: it is constant within them.
    correlations: dict[str, float | None] = field(default_factory=dict)

    @property
    def median(self) -> float | None:
        """Of the correlations."""
        known = [value for value in self.correlations.values() if value is not None]
        return float(np.median(known)) if known else None


def told(findings: Sequence[Finding]) -> list[str]:
    """Findings in a few lines: one for each that makes numbers wrong, and one for all others."""
    others = [f"{one.kind} ({one.count:,})" for one in findings if one.kind not in WRONG]
    return [
        *(str(one) for one in findings if one.kind in WRONG),
        *([f"rph data check also finds: {', '.join(others)}"] if others else []),
    ]


# --- kept -------------------------------------------------------------------------------------------


def checked(dataset: RoutingDataset) -> Check:
    """What `check` gives, computed once for each content; a damaged file is computed again."""
    path = disk.home() / "checks" / f"{dataset.fingerprint}-v{VERSION}.json"
    if (kept := _read(path)) is not None:
        return kept
    found = check(dataset)
    # A home that cannot be written costs the time again, and nothing else.
    with contextlib.suppress(RphError), disk.new_file(path, "what a check found") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(found)), encoding="utf-8")
    return found


def _read(path: Path) -> Check | None:
    try:
        kept = json.loads(path.read_bytes())
        findings = [Finding(**{**one, "examples": tuple(one["examples"])}) for one in kept["findings"]]
        return Check(findings=tuple(findings), correlations=dict(kept["correlations"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


# --- found ------------------------------------------------------------------------------------------


def check(dataset: RoutingDataset) -> Check:
    """Everything that is found in a benchmark that passed `validity.check`."""
    rows = _Rows(dataset)
    correlations = rest_correlations(rows.labels, rows.task)
    findings = (
        *_misaligned(rows, correlations),
        *_texts(rows),
        *_constant(rows),
        *_unobserved(rows),
        *_blocks(rows),
        *_planned(rows),
        *_no_tasks(rows),
        *_agreeing(rows),
        *_similar_names(rows),
    )
    known = (None if np.isnan(value) else round(float(value), 4) for value in correlations)
    return Check(findings=findings, correlations=dict(zip(dataset.models, known, strict=True)))


class _Rows:
    """The N queries of all splits one under the other: train, val, test."""

    def __init__(self, dataset: RoutingDataset) -> None:
        self.dataset, self.models = dataset, dataset.models
        splits = [split for _, split in dataset.splits()]
        self.ids = [one for split in splits for one in split.ids]
        self.tasks = [one for split in splits for one in split.tasks]
        self.texts = [one for split in splits for one in split.queries]
        self.labels: Float32 = np.concatenate([split.labels for split in splits])  # [N, K]
        # [N] each query's place in SPLITS
        self.split = np.repeat(np.arange(len(splits)), [len(split) for split in splits])

    @cached_property
    def task(self) -> Ints:
        """[N] the number of each query's task."""
        return _numbered(self.tasks)

    def name(self, i: int) -> str:
        return f"{SPLITS[self.split[i]]} {short(self.ids[i])}"


def _numbered(names: Sequence[str]) -> Ints:
    """Equal names get equal numbers, in the order in which they come."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _finding(kind: str, what: str, found: Sequence[str], fix: str) -> Iterator[Finding]:
    """A finding of all that is named, if anything is."""
    if found:
        yield Finding(kind=kind, what=what, count=len(found), examples=tuple(found[:SHOWN]), fix=fix)


# --- labels at the wrong queries --------------------------------------------------------------------


def rest_correlations(labels: Float32, task: Ints) -> NDArray[np.float64]:
    """Labels [N, K] and the task of each query [N] -> [K]: Pearson correlation of a model with the rest of the pool.

    Of its labels with the mean of the other models' observed labels of the same query, both less their means over the
    task, over the queries where the model and another one were observed. NaN where either is constant within tasks.
    """
    seen = ~np.isnan(labels)
    total, count = np.where(seen, labels, 0).sum(axis=1, dtype=np.float64), seen.sum(axis=1)  # [N]
    found = np.full(labels.shape[1], np.nan)
    for m in range(labels.shape[1]):
        rows = np.flatnonzero(seen[:, m] & (count > 1))
        own = labels[rows, m].astype(np.float64)
        rest = (total[rows] - own) / (count[rows] - 1)
        own, rest = _centred(own, task[rows]), _centred(rest, task[rows])
        if min(own @ own, rest @ rest) > CONSTANT:
            found[m] = own @ rest / np.sqrt((own @ own) * (rest @ rest))
    return found


def _centred(values: NDArray[np.float64], task: Ints) -> NDArray[np.float64]:
    means = np.bincount(task, values) / np.maximum(np.bincount(task), 1)  # [tasks]
    centred: NDArray[np.float64] = values - means[task]
    return centred


def _misaligned(rows: _Rows, correlations: NDArray[np.float64]) -> Iterator[Finding]:
    known = correlations[~np.isnan(correlations)]
    if len(known) < POOL or len(rows.ids) < LEAST or (median := np.median(known)) >= ALIGNED:
        return
    low = [m for m in np.argsort(correlations) if correlations[m] < ALIGNED]
    yield from _finding(
        "misaligned",
        "models whose labels seem to stand at other queries (within tasks, a model's median correlation with the rest "
        f"is {median:.2f}; where rows are in order it is above {ALIGNED})",
        [f"{rows.models[m]!r} ({correlations[m]:.2f})" for m in low],
        "put the rows of each model in the order of the queries: outputs of several processes are often written one "
        "process after the other",
    )


# --- texts ------------------------------------------------------------------------------------------


def _texts(rows: _Rows) -> Iterator[Finding]:
    forms = [normal_form(text) for text in rows.texts]
    code = _numbered(forms)  # [N] the T distinct texts, in the order in which they come
    first = np.unique(code, return_index=True)[1]  # [T] rows
    owner = rows.split[first]  # [T] the split that has a text first
    leaked = owner[code] < rows.split
    yield from _finding(
        "leak",
        "queries whose text is also in an earlier split, under another id",
        [f"{rows.name(i)} is {rows.name(first[code[i]])}" for i in np.flatnonzero(leaked).tolist()],
        "keep a text in one split; without a column `split`, `rph data import` does",
    )
    pairs = near_pairs([forms[i] for i in first.tolist()])
    earliest = np.arange(len(first))  # [T] of what is near to a text; itself, where none of that came before
    np.minimum.at(earliest, pairs[:, 1], pairs[:, 0])
    close = ~leaked & (owner[earliest[code]] < rows.split)
    yield from _finding(
        "near-leak",
        "queries whose text is nearly that of a query of an earlier split",
        [
            f"{rows.name(i)} is nearly {rows.name(first[earliest[code[i]]])}"
            for i in np.flatnonzero(close).tolist()
        ],
        "look at them: the same question in other words belongs into one split",
    )
    _, place, back = np.unique(code * len(SPLITS) + rows.split, return_index=True, return_inverse=True)
    again = np.flatnonzero(place[back] != np.arange(len(code)))
    yield from _finding(
        "repeated-text",
        "queries whose text their split has already, under another id",
        [f"{rows.name(i)} is {rows.name(place[back[i]])}" for i in again.tolist()],
        "leave them out, unless a text counts as often as it was asked",
    )


# --- models -----------------------------------------------------------------------------------------


def _constant(rows: _Rows) -> Iterator[Finding]:
    low, high = np.fmin.reduce(rows.labels, axis=0), np.fmax.reduce(rows.labels, axis=0)  # [K]
    yield from _finding(
        "constant-model",
        "models of which all labels are equal",
        [f"{rows.models[m]!r}, always {low[m]:g}" for m in np.flatnonzero(low == high).tolist()],
        "check how their answers were judged",
    )


def _unobserved(rows: _Rows) -> Iterator[Finding]:
    yield from _finding(
        "unobserved-model",
        "models without a label in val or in test",
        [
            f"{rows.models[m]!r} in {name}"
            for name, split in rows.dataset.splits()
            for m in np.flatnonzero(np.isnan(split.labels).all(axis=0)).tolist()
        ],
        "add labels, or take such a model out of the pool: nothing says how good routing to it is",
    )


def _blocks(rows: _Rows) -> Iterator[Finding]:
    blocks = sorted(rows.dataset.blocks)
    yield from _finding(
        "block",
        f"models never observed on a task with {SUPPORT} or more train queries, or said to be so",
        [f"{model!r} on {task!r}" for task, model in blocks],
        "such a model is not in the pool of that task: for no router, and for no row beside them",
    )


def _planned(rows: _Rows) -> Iterator[Finding]:
    """Where a table that says that its holes are planned does not look so, on train."""
    dataset = rows.dataset
    if not dataset.holes.planned:
        return
    train = dataset.train
    never = sorted(found_blocks(train.tasks, dataset.models, train.labels) - dataset.blocks)
    yield from _finding(
        "never-asked",
        f"models that a plan never asked on a task with {SUPPORT} or more train queries",
        [f"{model!r} on {task!r}" for task, model in never],
        "say so: `blocks: {task: [model]}` in bench.yaml; else their labels count as lost, and not as planned",
    )
    odd = []
    for (task, model), share in sorted(dataset.holes.plan.items()):
        of_task = np.array([name == task for name in train.tasks])
        if model not in dataset.models or not of_task.any():
            continue
        m = dataset.models.index(model)
        reasons = None if train.reasons is None else train.reasons[of_task][:, [m]]
        asked = 1 - float(planned_cells(train.labels[of_task][:, [m]], reasons, True).mean())
        if abs(asked - share) > STRAY * np.sqrt(share * (1 - share) / of_task.sum()) + 1e-9:
            odd.append(f"{model!r} on {task!r}: {share:g} planned, {asked:.3g} asked")
    yield from _finding(
        "plan-differs",
        "shares of a plan that are not those of the train split, beyond chance",
        odd,
        "correct `plan` in bench.yaml, or leave it out: then the shares are counted",
    )


def _no_tasks(rows: _Rows) -> Iterator[Finding]:
    if not any(rows.tasks) and (holes := np.argwhere(np.isnan(rows.labels))).size:
        i, m = holes[0].tolist()
        yield Finding(
            kind="no-tasks",
            what="labels are missing, and no query has a task",
            count=len(holes),
            examples=(f"{rows.name(i)}, model {rows.models[m]!r}",),
            fix="add a column `task`: a model that was not run on a task cannot be told from one whose answers were lost",
        )


def _agreeing(rows: _Rows) -> Iterator[Finding]:
    correlation = _pair_correlations(rows)
    yield from _finding(
        "agreeing-models",
        f"pairs of models whose labels have a correlation of {SAME} or more",
        [
            f"{rows.models[a]!r} and {rows.models[b]!r} ({correlation[a, b]:.2f})"
            for a, b in np.argwhere(np.triu(correlation >= SAME, k=1)).tolist()
        ],
        "check that they are two models, and each has labels of its own",
    )


def _pair_correlations(rows: _Rows) -> NDArray[np.float64]:
    """[K, K] Pearson correlation of two models' labels where both were observed; 0 on less than `JOINT` queries."""
    K = len(rows.models)
    n, sums, squares, products = (np.zeros((K, K)) for _ in range(4))
    for _, split in rows.dataset.splits():
        seen = ~np.isnan(split.labels)
        S, V = seen.astype(np.float64), np.where(seen, split.labels, 0).astype(np.float64)
        n += S.T @ S
        sums += V.T @ S  # [a, b] of a's labels where b was observed too
        squares += (V * V).T @ S
        products += V.T @ V
    n = np.maximum(n, 1)
    spread = squares - sums**2 / n  # [a, b] of a's labels, the same
    judged = (n >= JOINT) & (np.minimum(spread, spread.T) > CONSTANT)
    correlation: NDArray[np.float64] = np.divide(
        products - sums * sums.T / n, np.sqrt(np.abs(spread * spread.T)), out=np.zeros((K, K)), where=judged
    )
    return correlation


def _similar_names(rows: _Rows) -> Iterator[Finding]:
    alike = defaultdict(list)
    for model in rows.models:
        alike["".join(unicodedata.normalize("NFKC", normal_form(model)).casefold().split())].append(model)
    yield from _finding(
        "similar-names",
        "models whose names differ only in blanks, case or Unicode form",
        [" and ".join(map(repr, models)) for models in alike.values() if len(models) > 1],
        "if they are one model, give it one name, and its labels one column",
    )
