"""What routers see of a benchmark: labels, pools and weights of train and val; of test, and of val to route, the queries alone."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np

from rph import Holes, Queries, RoutingDataset, Split
from rph.engine.inputs import inputs_of

NAN = np.nan
EMBEDDINGS = SimpleNamespace(
    **{name: np.ones((n, 2), np.float32) for name, n in (("train", 6), ("val", 4), ("test", 4))}
)


def split(prefix, labels):
    n = len(labels)
    return Split(
        ids=[f"{prefix}{i}" for i in range(n)],
        queries=["q"] * n,
        tasks=["t", "u"] * (n // 2),
        labels=np.array(labels, np.float32),
    )


DATA = RoutingDataset(
    name="d",
    models=("a", "b"),
    train=split("r", [[1, NAN], [0, 1], [NAN, NAN], [0, NAN], [1, NAN], [1, 1]]),
    val=split("v", [[1, NAN], [NAN, 1], [NAN, NAN], [1, 1]]),
    test=split("t", [[1, 1], [NAN, 1], [1, NAN], [1, 0]]),
    holes=Holes(planned=True, blocks=frozenset({("t", "b")}), plan={("t", "a"): 0.25}),
)


def test_train_and_val_come_with_their_pools_and_weights():
    inputs = inputs_of(DATA, EMBEDDINGS, "cpu")
    assert inputs.train.pool.tolist() == [[True, False], [True, True]] * 3
    assert inputs.val.pool.tolist() == [[True, False], [True, True]] * 2
    assert inputs.val.mask == (inputs.val.pool, inputs.val.weight)
    # t, a: by the plan; t, b: a block, of which nothing was asked; u: as many of two as were asked here
    assert inputs.val.weight.tolist() == [[4, 1], [0, 1], [0, 1], [2, 1]]
    np.testing.assert_array_equal(
        inputs.train.weight, np.float32([[4, 1], [1, 1.5], [0, 1], [1, 0], [4, 1], [1, 1.5]])
    )


def test_without_holes_there_is_neither():
    full = {name: replace(part, labels=np.nan_to_num(part.labels)) for name, part in DATA.splits()}
    inputs = inputs_of(replace(DATA, holes=Holes(), **full), EMBEDDINGS, "cpu")
    assert (inputs.train.mask, inputs.val.mask) == ((None, None), (None, None))


def test_the_queries_to_route_are_queries_and_nothing_else():
    inputs = inputs_of(DATA, EMBEDDINGS, "cpu")
    for queries in (inputs.val_queries, inputs.test_queries):
        assert type(queries) is Queries and {field.name for field in fields(queries)} == {"X", "texts"}


def test_other_holes_of_test_change_nothing_that_routers_see():
    for labels in ([[NAN, NAN]] * 4, [[1, 1]] * 4):
        other = replace(DATA, test=replace(DATA.test, labels=np.array(labels, np.float32)))
        assert (
            other.mask("test").weight is None or (other.mask("test").weight != DATA.mask("test").weight).any()
        )
        for name in ("train", "val", "val_queries", "test_queries"):
            mine, theirs = (vars(getattr(inputs_of(one, EMBEDDINGS, "cpu"), name)) for one in (DATA, other))
            assert mine.keys() == theirs.keys()
            for field, value in mine.items():
                np.testing.assert_array_equal(theirs[field], value)


def test_the_observed_queries_keep_their_pools_and_weights():
    known = inputs_of(DATA, EMBEDDINGS, "cpu").train.observed
    assert len(known) == len(known.pool) == len(known.weight) == 5
    assert known.pool.tolist() == [[True, False], [True, True], [True, True], [True, False], [True, True]]
    np.testing.assert_array_equal(known.weight, np.float32([[4, 1], [1, 1.5], [1, 0], [4, 1], [1, 1.5]]))
