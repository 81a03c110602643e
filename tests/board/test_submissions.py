"""Submissions on a table with holes: what is chosen is in the pool, and what is missing is said to be."""

from dataclasses import replace

import numpy as np
import pytest
from tests import entries

from rph.board import submissions
from rph.holes import Holes
from rph.results import files, missing

N = 60
RNG = np.random.default_rng(0)
LABELS = (RNG.random((N, 3)) < (0.8, 0.6, 0.5)).astype(np.float32)
TASKS = np.where(np.arange(N) < 30, "sums", "words").tolist()
LABELS[:30, 1] = np.nan  # b was never run on the sums
LABELS[42, 0] = np.nan  # and one call of a was lost
ROUTES = np.where(np.arange(N) < 30, 0, np.arange(N) % 3)


@pytest.fixture
def submitted(tmp_path):
    return entries.write(tmp_path, entries.entry(LABELS, ROUTES, tasks=TASKS)) / "bench/router/encoder.json"


def rules(path, **arrays):
    """What is refused of it with other arrays in its npz: (rule, what)."""
    entry = files.read(path)
    core = {name: arrays.pop(name) for name in list(arrays) if "/" not in name}
    queries = replace(entry.queries, **core, blocks={**entry.queries.blocks, **arrays})
    np.savez_compressed(files.queries_path(path), **queries.arrays())
    (verdict,) = submissions.validate([path])
    return [
        (problem.rule, problem.what) for problem in verdict.problems if problem.rule in ("pool", "labels")
    ]


def test_the_routes_of_the_harness_stay_in_the_pool(submitted):
    assert rules(submitted) == []
    holes = missing.of(files.read(submitted).result)
    assert holes.cells == {"observed": 3 * N - 31, "block": 30, "unknown": 1} and holes.small_pools == 0


def test_a_route_that_leaves_the_pool_is_refused(submitted):
    q = files.read(submitted).queries
    routes, labels = q.routes.copy(), q.labels.copy()
    routes[0, 7], labels[0, 7] = 1, np.nan
    found = rules(submitted, routes=routes, labels=labels)
    assert ("pool", "a route leaves the pool on 1 query, the first is number 7") in found


def test_a_label_that_is_there_cannot_be_called_missing(submitted):
    labels = files.read(submitted).queries.labels.copy()
    wrong = int(np.flatnonzero(labels[0] == 0)[0])
    labels[0, wrong] = np.nan
    (_, what), *_ = rules(submitted, labels=labels)
    assert f"the first is number {wrong}" in what


def test_a_choice_cannot_be_weighed_away(submitted):
    weight = files.read(submitted).queries.blocks["holes/weight"].copy()
    weight[0, 3] = 0
    found = rules(submitted, **{"holes/weight": weight})
    assert any("weights are not 0 where, and only where, nothing was asked" in what for _, what in found)


def test_a_result_without_the_block_is_refused_where_labels_are_missing(submitted, tmp_path):
    plain = files.read(submitted)
    result = plain.result.model_copy(
        update={"blocks": {k: v for k, v in plain.result.blocks.items() if k != "holes"}}
    )
    kept = {name: array for name, array in plain.queries.blocks.items() if not name.startswith("holes/")}
    path = files.write(tmp_path / "other", result, replace(plain.queries, blocks=kept))
    assert ("labels", "labels are missing, and it has no block holes") in rules(path)


def test_what_a_choice_counts_is_one_number_for_a_task_and_a_model(submitted):
    q = files.read(submitted).queries
    name = "holes/weight"
    assert (q.blocks[name] == 1).all()  # nothing is missing by plan
    right = np.where(q.labels == 1, 1e6, 1e-6).astype(np.float32)
    found = rules(submitted, **{name: right})
    assert any("count differently on queries of one task" in what for _, what in found)
    twice = np.where(q.routes == 0, 2, 1).astype(np.float32)
    floor = np.where(q.blocks["holes/floor_route"] == 0, 2, 1).astype(np.float32)
    per_task = np.where(q.blocks["tasks/best_route"] == 0, 2, 1).astype(np.float32)
    changed = {name: twice, "holes/floor_weight": floor, "tasks/best_weight": per_task}
    assert ("labels", "a choice of a counts 2, and no label is missing by plan") in rules(
        submitted, **changed
    )


def test_choices_count_what_they_do_in_the_boards_other_results(tmp_path):
    labels = np.where(RNG.random((N, 3)) < 0.3, np.nan, LABELS)
    mine, other = (
        entries.entry(labels, route, tasks=TASKS, holes=Holes(planned=True), router=name)
        for name, route in (("router", ROUTES), ("other", (ROUTES + 2) % 3))
    )
    path = entries.write(tmp_path, mine) / "bench/router/encoder.json"

    def told():
        (verdict,) = submissions.validate([path], board=[other])
        return [what for what in (problem.what for problem in verdict.problems) if "count" in what]

    assert told() == []
    weight = mine.queries.blocks["holes/weight"]
    first = (np.array(TASKS) == "words") & (mine.queries.routes == 2)  # one task and one model
    gamed = np.where(first, 10 * weight, weight).astype(np.float32)
    queries = replace(mine.queries, blocks={**mine.queries.blocks, "holes/weight": gamed})
    np.savez_compressed(files.queries_path(path), **queries.arrays())
    assert "choices of c do not count what they do in the board's other results" in told()
