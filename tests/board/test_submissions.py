"""Submissions on a table with holes: what is chosen is in the pool, and what is missing is said to be."""

from dataclasses import replace

import numpy as np
import pytest
from tests import entries

from rph.board import submissions
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
