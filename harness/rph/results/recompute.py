"""A result computed again from its own queries, and where a claim differs from what it should be.

The functions that made the claims are called again; what needs scores, which result files do not hold, is kept as claimed,
and so is a block that does not say how it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from rph import protocol
from rph.results import blocks, cell, files, metrics, missing, variants
from rph.results.cell import CellResult
from rph.results.files import Entry

ROUNDING = 1e-9  # relative, between the sums of two machines

Key = tuple[str, int]  # variant name, seed


def differences(
    claimed: Any, known: Any, where: str = "", rounding: float = ROUNDING
) -> Iterator[tuple[str, Any, Any]]:
    """(path, claimed, known) of every leaf that differs by more than rounding, of two nests of the same form.

    >>> list(differences({"a": [1.0, 2.0]}, {"a": [1.0, 2.5]}))
    [('a.1', 2.0, 2.5)]
    """
    if isinstance(claimed, dict) and isinstance(known, dict) and claimed.keys() == known.keys():
        for key in known:
            yield from differences(claimed[key], known[key], f"{where}.{key}".lstrip("."), rounding)
    elif isinstance(claimed, list | tuple) and isinstance(known, list | tuple) and len(claimed) == len(known):
        for i, (one, other) in enumerate(zip(claimed, known, strict=True)):
            yield from differences(one, other, f"{where}.{i}".lstrip("."), rounding)
    elif isinstance(claimed, int | float) and isinstance(known, int | float):
        if not math.isclose(claimed, known, rel_tol=rounding, abs_tol=rounding):
            yield where, claimed, known
    elif claimed != known:
        yield where, claimed, known


def recomputed(entry: Entry) -> CellResult:
    """The result with every number that is a function of its queries and of its other claims computed again.

    Lists that belong together must be equally long (rph.results.cell sees to it).
    """
    result, reference = entry.result, _reference(entry)
    arrays = entry.queries.arrays()
    # The block first: whether there may be a number of the gap closed is in it.
    holes = missing.recomputed(result, arrays) if missing.NAME in result.blocks else None
    measured = tuple(_measured(entry, seed) for seed in range(len(result.seeds)))
    known = result.model_copy(
        update={
            **cell.summary(measured, reference, result.models, sure=missing.sure(holes)),
            "test_accuracy_std": cell.accuracy_std(measured, deterministic=result.deterministic),
            "reference": reference,
            "per_seed": measured,
        }
    )
    return known.model_copy(update={"blocks": blocks.recomputed(known, arrays)})


def _reference(entry: Entry) -> cell.Reference:
    claimed, q = entry.result.reference, entry.queries
    floor = metrics.mean_of(q.floor, q.blocks.get("holes/floor_weight")).value
    by_model, hindsight = list(claimed.model_accuracy), claimed.best_single_hindsight
    if missing.NAME not in entry.result.blocks:  # else the floor may be of several models
        by_model[entry.result.models.index(claimed.best_single_model)] = floor
        hindsight = max((one for one in by_model if one is not None), default=None)
    return claimed.model_copy(
        update={
            "best_single": floor,
            "model_accuracy": tuple(by_model),
            "best_single_hindsight": hindsight,
            "oracle": metrics.mean_of(q.best).value,
            "hard_share": float((q.difficulty == files.HARD).mean()),
            "easy_share": float((q.difficulty == files.EASY).mean()),
            "n_test": len(q.best),
        }
    )


def _measured(entry: Entry, seed: int) -> cell.Measured:
    q, K = entry.queries, len(entry.result.models)
    route, labels = q.routes[seed].astype(np.int64), q.labels[seed]
    weight = q.blocks["holes/weight"][seed] if missing.NAME in entry.result.blocks else None

    def mean(which: Any = slice(None)) -> metrics.Mean:
        return metrics.mean_of(labels[which], None if weight is None else weight[which])

    hard, easy = (q.difficulty == kind for kind in (files.HARD, files.EASY))
    accuracy, counts = mean(), metrics.selection_counts(route, K)
    claimed = entry.result.per_seed[seed]
    at_zero, curve = {"0": accuracy.value}, claimed.curve
    if missing.PRICES in entry.result.blocks:
        at_zero = {}  # there only models with a price are chosen, by scores that are not here
    elif curve is not None:
        curve = (curve[0].model_copy(update={"accuracy": accuracy.value}), *curve[1:])
    return claimed.model_copy(
        update={
            "utility": claimed.utility and claimed.utility | at_zero,
            "utility_native": claimed.utility_native and claimed.utility_native | at_zero,
            "curve": curve,
            "test_accuracy": accuracy.value,
            "coverage": accuracy.coverage,
            "hard_accuracy": mean(hard).value,
            "easy_accuracy": mean(easy).value,
            "selections": tuple(int(count) for count in counts),
            "hard_selections": tuple(int(count) for count in metrics.selection_counts(route[hard], K)),
            "selection_entropy": metrics.selection_entropy(counts),
        }
    )


def choice(result: CellResult, preset: protocol.Preset) -> tuple[protocol.Selection | None, set[Key]]:
    """What the protocol chooses by the val accuracies of a result's configurations, and the trials it asks for.

    The grid is the variants of the first seed, in their order; what is said of them is taken as claimed. The
    selection's variant is a name.
    """
    accuracies = {(one.variant_name, one.seed): one.val_accuracy for one in result.configurations}
    groups, said = blocks.alike(result), variants.of(result)
    grid = [name for name, seed in accuracies if seed == preset.seeds[0]]
    steps = protocol.select(
        grid,
        preset=preset,
        deterministic=lambda name: said[name].deterministic if name in said else result.deterministic,
        competes=lambda name: name not in said or said[name].reads == "embedding",
        routes=lambda name: groups.get(name, name),
    )
    asked: set[Key] = set()
    try:
        wanted = next(steps)
        while True:
            keys = [(trial.variant, trial.seed) for trial in wanted]
            asked.update(keys)
            wanted = steps.send([accuracies.get(key) for key in keys])
    except StopIteration as end:
        return end.value, asked
