"""Routers that pay: the paper's Tab. 2 and 9 to 12, and Fig. 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rph.board.sets import (
    Average,
    Group,
    average,
    averages,
    encoder_notes,
    groups,
)
from rph.errors import UsageError
from rph.results.cell import CellResult, utility_unknown
from rph.results.files import Entry
from rph.results.missing import PRICES, Prices, priced_pool, without_utility
from rph.results.sheets import Column, Sheet, Value
from rph.results.utility import LAMBDAS as EVERY
from rph.results.utility import CostScale
from rph.study.plateau import NEAR, TIER, is_near, spread, without_unknown

# --- Tab. 2 and 9 to 12: utility --------------------------------------------------------------------

LAMBDAS = tuple(f"{lam:g}" for lam in EVERY)


@dataclass(frozen=True, kw_only=True)
class Utilities:
    """Realised utility of the routers on one benchmark that has costs."""

    name: str
    utility: dict[
        str, dict[str, Average]
    ]  # router -> lambda -> utility; the best at 0.5 first, as in the paper
    calibrated: dict[str, bool]  # router -> are its scores probabilities of their own


def utilities(entries: Sequence[Entry]) -> list[Utilities]:
    """U(lambda) of each router, mean over encoders: the paper's Tab. 2 and 9 to 12. A group without costs has none.

    The paper's tables hold its "16 calibrated methods", which it does not define. Here every router stands in them:
    scores that are no probabilities enter through one monotone map fitted on val (rph.results.cell).
    """
    return [one for group in groups(entries) if (one := _utilities(group)) is not None]


def _utilities(group: Group) -> Utilities | None:
    found = {lam: averages(group, partial(_utility_at, lam)) for lam in LAMBDAS}
    if all(one.mean is None for means in found.values() for one in means.values()):
        return None
    return Utilities(
        name=group.name,
        utility={router: {lam: found[lam][router] for lam in LAMBDAS} for router in found["0.5"]},
        calibrated={router: group.of(router)[0].result.method.calibrated for router in group.routers},
    )


def _utility_at(lam: str, result: CellResult) -> float | None:
    return None if result.utility is None else result.utility[lam]


def utility_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """One per benchmark with costs. Raises UsageError where there is none."""
    found = utilities(entries)
    if not found:
        raise UsageError(
            "no result has a utility",
            why="; ".join(f"{group.name}: {_why_none(group)}" for group in groups(entries)),
            fix="give --bench a benchmark with costs, or run `rph eval` with --price MODEL=USD",
        )
    notes = {group.name: [*encoder_notes(group), *_unknown(group)] for group in groups(entries)}
    return [_utility_sheet(one, notes[one.name]) for one in found]


def _why_none(group: Group) -> str:
    found = (without_utility(entry.result) for entry in group.entries)
    return next((why for why in found if why is not None), "no test label of the chosen models was observed")


def _unknown(group: Group) -> Iterator[str]:
    for entry in group.entries:
        if why := utility_unknown(entry.result):
            yield f"{entry.result.router} x {entry.result.encoder}: {why}."


def _utility_sheet(found: Utilities, notes: Sequence[str]) -> Sheet:
    columns = [Column("router"), Column("scores")]
    for lam in LAMBDAS:
        columns += [Column(f"U({lam})", "percent"), Column(f"± U({lam})", "percent")]
    rows = []
    for router, utility in found.utility.items():
        row: list[Value] = [router, "own" if found.calibrated[router] else "mapped"]
        for lam in LAMBDAS:
            row += utility[lam][:2]
        rows.append((*row, average([utility[lam].mean for lam in LAMBDAS if lam != "0"]).mean))
    last: list[Value] = [f"spread of the top {TIER}", ""]
    for lam in LAMBDAS:
        last += [spread(utility[lam].mean for utility in found.utility.values()), None]
    averaged = [row[-1] for row in rows]
    rows.append((*last, spread(value for value in averaged if isinstance(value, float))))
    columns.append(Column("average, λ > 0", "percent"))
    columns, rows = without_unknown(columns, rows)
    return Sheet(
        f"{found.name}: realised utility U(λ) = (1 - λ) label - λ cost, mean over encoders ± std over encoders (paper, Tab. 2)",
        tuple(columns),
        tuple(rows),
        (*notes, "Scores: own, probabilities of the router's; mapped, by one sigmoid fitted on val."),
    )


# --- Fig. 1: accuracy against cost ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A router or a constant route in the plane of accuracy and cost."""

    name: str
    family: str  # of the router; empty for a model
    accuracy: float | None
    cost: float | None  # mean US dollars per query; None: unknown
    normalised_cost: float | None  # 0: the cheapest model's mean; 1: the dearest's


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The paper's Fig. 1 on one benchmark."""

    name: str
    routers: tuple[Spot, ...]  # best first
    models: tuple[Spot, ...]  # as constant routes, in the order of the pool
    band: tuple[float, float] | None  # the plateau: from NEAR below the best router up to it
    oracle: float | None
    over: str | None = None  # where some models have no price: what all of this is over


def planes(entries: Sequence[Entry]) -> list[Plane]:
    """Routing accuracy at lambda = 0 against normalised cost: the paper's Fig. 1, one per group.

    Where some models have no price, a router's accuracy is that of its choices among the others, as its cost is.
    The paper defines neither axis nor band. Here a cost is scaled min-max over the pool's mean test costs, and the
    plateau reaches NEAR below the best router, which is what Sec. 4.2 calls near the ceiling.
    """
    return [_plane(group) for group in groups(entries)]


def _plane(group: Group) -> Plane:
    reference = group.reference
    scale = _pool_scale(reference.model_cost)
    accuracy, cost = averages(group, _accuracy_for_money), averages(group, lambda result: result.cost)
    best = next(iter(accuracy.values())).mean
    models = group.entries[0].result.models
    prices = reference.model_cost or (None,) * len(models)
    return Plane(
        name=group.name,
        routers=tuple(
            _spot(router, group.of(router)[0].result.method.family, one.mean, cost[router].mean, scale)
            for router, one in accuracy.items()
        ),
        models=tuple(
            _spot(model, "", known, price, scale)
            for model, known, price in zip(models, reference.model_accuracy, prices, strict=True)
        ),
        band=None if best is None else (best - NEAR, best),
        oracle=_oracle_for_money(group.entries[0].result),
        over=priced_pool(group.entries[0].result),
    )


def _accuracy_for_money(result: CellResult) -> float | None:
    """Accuracy at lambda = 0 of the choices that the cost is of."""
    if PRICES in result.blocks and result.utility is not None:
        return result.utility["0"]
    return result.test_accuracy_mean


def _oracle_for_money(result: CellResult) -> float | None:
    if PRICES in result.blocks:
        return Prices.model_validate(result.blocks[PRICES]).oracle
    return result.oracle


def _pool_scale(model_cost: tuple[float | None, ...] | None) -> CostScale | None:
    mean = np.array([] if model_cost is None else model_cost, float)  # an unknown price becomes NaN
    return CostScale.fit(mean[None]) if len(mean) else None


def _spot(
    name: str,
    family: str,
    accuracy: float | None,
    cost: float | None,
    scale: CostScale | None,
) -> Spot:
    known = cost is not None and scale is not None
    return Spot(
        name=name,
        family=family,
        accuracy=accuracy,
        cost=cost,
        normalised_cost=float(scale.scaled(np.array(cost))) if known and scale else None,
    )


def plane_sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """Fig. 1 as one table per group, the routers and below them the models as constant routes."""
    return [_plane_sheet(plane) for plane in planes(entries)]


def _plane_sheet(plane: Plane) -> Sheet:
    def row(kind: str, spot: Spot) -> tuple[Value, ...]:
        on = plane.band is not None and spot.accuracy is not None and is_near(spot.accuracy, plane.band[1])
        return (
            kind, spot.name, spot.family, spot.accuracy, "yes" if on else "no", spot.cost, spot.normalised_cost,
        )  # fmt: skip

    rows = [row("router", spot) for spot in plane.routers] + [row("model", spot) for spot in plane.models]
    oracle = "unknown" if plane.oracle is None else f"{100 * plane.oracle:.2f} %"
    return Sheet(
        f"{plane.name}: accuracy against normalised cost at λ = 0 (paper, Fig. 1)",
        (
            Column("kind"),
            Column("name"),
            Column("family"),
            Column("accuracy", "percent"),
            Column("on the plateau"),
            Column("$ per query", "number", 6),
            Column("normalised cost", "number", 3),
        ),
        tuple(rows),
        (
            f"On the plateau: at most {100 * NEAR:g} points below the best router. Oracle: {oracle}.",
            "Normalised cost: 0 is the cheapest model's mean test cost, 1 the dearest's.",
            *([] if plane.over is None else [plane.over]),
        ),
    )
