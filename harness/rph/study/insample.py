"""How well routers predict the correctness of the queries they were trained on: the paper's Tab. 5 (a).

Trains the chosen variant of a finished cell once more, with its first seed: the run store keeps no train scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rph.api import Queries, variant_with
from rph.results import cell as results
from rph.results import probabilities
from rph.results.outcomes import Scored
from rph.results.sheets import Column, Sheet

if TYPE_CHECKING:
    from rph.engine.evaluate import Finished


@dataclass(frozen=True, kw_only=True)
class TrainBce:
    """Binary cross-entropy of P(correct), in nats per observed cell."""

    bench: str
    encoder: str
    router: str
    train: float | None
    test: float | None  # of the same seed
    left_out: bool  # each train query was scored without itself
    looks_up: bool  # the router searches its training queries, by its card


def train_bce(cells: Sequence[Finished]) -> list[TrainBce]:
    """One per cell. Scores that are no probabilities go through the map that was fitted on val, as on test.

    A router that looks its training queries up would find each one itself: it scores them left out, if it can
    (`left_out_scores`); else a note says so.
    """
    return [_trained_again(cell) for cell in cells]


def _trained_again(cell: Finished) -> TrainBce:
    result, spec = cell.result, cell.spec
    inputs = cell.inputs()
    train = inputs.train.observed
    router = spec.router()
    variant = variant_with(spec.grid, result.variant)
    router.fit(inputs.train, inputs.val, variant=variant, seed=result.seeds[0], device=inputs.device)
    left_out = router.left_out_scores() if hasattr(router, "left_out_scores") else None
    scores = router.scores(Queries(X=train.X, texts=train.texts)) if left_out is None else left_out
    scored = Scored(val=router.scores(inputs.val_queries), test=scores, seconds=0.0)
    P = results.probabilities(scored, inputs.val.Y, bool(spec.variant_card(variant).calibrated))
    return TrainBce(
        bench=result.bench,
        encoder=result.encoder,
        router=result.router,
        train=probabilities.bce(P, train.Y),
        test=result.per_seed[0].bce,
        left_out=left_out is not None,
        looks_up="train-neighbours" in spec.card.needs,
    )


def sheet(found: Sequence[TrainBce]) -> Sheet:
    """Lowest train BCE first, per (benchmark, encoder)."""
    order = list(dict.fromkeys((one.bench, one.encoder) for one in found))
    ranked = sorted(found, key=lambda one: (order.index((one.bench, one.encoder)), one.train or 0.0))
    return Sheet(
        "BCE of P(correct) on the training queries and on test (paper, Tab. 5 a)",
        (
            Column("benchmark"),
            Column("encoder"),
            Column("router"),
            Column("train BCE", "number", 3),
            Column("test BCE", "number", 3),
        ),
        tuple((one.bench, one.encoder, one.router, one.train, one.test) for one in ranked),
        tuple(
            f"{router} scored each training query without itself."
            if left_out
            else f"{router}: variants that search the training queries find each one itself."
            for router, left_out in dict.fromkeys(
                (one.router, one.left_out) for one in ranked if one.left_out or one.looks_up
            )
        ),
    )
