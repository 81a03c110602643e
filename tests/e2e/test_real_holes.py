"""Boards on real tables with holes: what they once got wrong, down to the sign, and what is true."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rph_plugins.executors.local import Local
from tests import toys

from rph.api import RoutingDataset
from rph.board import ranking
from rph.data import routing_table
from rph.engine.cell import Settings, disk
from rph.engine.evaluate import evaluate
from rph.engine.store import Store
from rph.protocol import PRESETS
from rph.registry import installed
from rph.results import files, metrics, missing
from rph.results.files import Entry

pytestmark = pytest.mark.real_data
ROUTERS = ("knn", "kmeans", "mlp", "elo")
OPEN = ("too close to call", "depends on missing labels")


def board_of(bench, routers=ROUTERS):
    """The board of these routers on a table, with lsa and the protocol smoke, ranked as the paper's are."""
    outcome = evaluate(
        installed(),
        Store(disk.home() / "store"),
        Settings(preset=PRESETS["smoke"], device="cpu"),
        toys.Silent(),
        benches=[str(bench)],
        encoders=["lsa"],
        routers=list(routers),
        executor=Local(),
    )
    assert outcome.failures == []
    found = [
        Entry(
            path=Path(cell.result.router),
            result=cell.result.model_copy(update={"protocol": "paper"}),
            queries=files.per_query(cell.dataset, cell.result.seeds, cell.routes()),
        )
        for cell in outcome.cells
    ]
    (board,) = ranking.boards(found, resamples=1000)
    return board


def of_router(board):
    return {row.entry.result.router: row for row in board.rows}


def test_a_model_of_the_easy_half_is_not_best_and_no_router_beats_the_one_that_saw_all(real_data):
    board = board_of(real_data / "zeroeval")
    assert board.reference.best_single_model == "o1-mini-2024-09-12"
    floor = next(fixed for fixed in board.fixed if fixed.name.startswith("best single"))
    for row in board.rows:
        gain = missing.of(row.entry.result).gain
        # On the very same queries, whatever the missing labels are.
        assert gain.high < 0 and row.against != "better" and row.bounds[1] < floor.accuracy
        assert row.entry.result.coverage > 0.98


def test_half_a_percent_of_missing_labels_can_leave_a_sign_open(real_data):
    row = of_router(board_of(real_data / "mmlupro", ["knn"]))["knn"]
    assert row.against in OPEN and row.gain[0] < 0 < row.gain[1]
    assert row.entry.result.gap_closed is None and row.gap_closed is None


def test_one_label_makes_no_best_model(real_data, tmp_path):
    dataset = routing_table.read(real_data / "llmrouter9")
    once = with_model(dataset, "once", lambda split: np.arange(len(split)) == 0)
    routing_table.write(once, tmp_path / "once", citation="none", source="made by a test")
    with_it, without = board_of(tmp_path / "once"), board_of(real_data / "llmrouter9")
    assert with_it.reference.best_single_model == without.reference.best_single_model
    assert with_it.reference.best_single == without.reference.best_single
    for row in with_it.rows:
        plain = of_router(without)[row.entry.result.router]
        assert row.accuracy < with_it.reference.oracle and row.entry.result.coverage > 0.9
        assert row.bounds[0] < plain.accuracy + 0.01


def with_model(dataset, name, right):
    """The table with one more model, right on the queries that `right` says [N] and observed nowhere else."""

    def wider(split):
        column = np.where(right(split), 1, np.nan).astype(np.float32)[:, None]
        costs = None if split.costs is None else np.hstack([split.costs, np.full_like(column, np.nan)])
        return replace(split, labels=np.hstack([split.labels, column]), costs=costs)

    return RoutingDataset(
        name=f"{dataset.name}-{name}",
        models=(*dataset.models, name),
        **{key: wider(split) for key, split in dataset.splits()},
    )


def test_the_worst_model_without_half_of_its_wrong_answers_is_still_the_worst_choice(real_data):
    dataset = routing_table.read(real_data / "routerdc7")
    worst = int(np.argmin(dataset.level))
    assert "zephyr" in dataset.models[worst]
    labels = dataset.train.labels.copy()
    wrong = np.flatnonzero(labels[:, worst] == 0)
    labels[np.random.default_rng(0).permutation(wrong)[: len(wrong) // 2], worst] = np.nan
    thinned = replace(dataset, train=replace(dataset.train, labels=labels))
    assert (
        np.nanmean(labels[:, worst]) > np.delete(dataset.level, worst).max()
    )  # what its mean would make of it
    assert thinned.best_single == dataset.best_single != worst


@pytest.mark.parametrize("blocked", [True, False], ids=["block", "no task column"])
def test_who_sends_unsure_queries_to_a_model_that_never_answered_gains_nothing(real_data, blocked):
    """The router that abstains, in the only way that a table leaves it, on the tasks that a model was never run on."""
    dataset = routing_table.read(real_data / "zeroeval")
    if not blocked:
        dataset = replace(
            dataset, **{name: replace(split, tasks=[""] * len(split)) for name, split in dataset.splits()}
        )
    never = [m for m in range(len(dataset.models)) if np.isnan(dataset.test.labels[:, m]).mean() > 0.5]
    sure = np.random.default_rng(0).random(len(dataset.test)) < 0.3
    plain = np.tile(dataset.level, (len(dataset.test), 1))
    abstains = plain.copy()
    abstains[np.ix_(~sure, never)] += 10
    pool = dataset.mask("test").pool
    low = [
        metrics.accuracy_bounds(
            metrics.route(scores, dataset.level, pool), dataset.test.labels, dataset.mask("test")
        ).low
        for scores in (plain, abstains)
    ]
    assert low[1] < low[0] < metrics.oracle(dataset.test.labels, dataset.mask("test")).value
