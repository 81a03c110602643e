"""The paper's Sec. 5 from result files, against tables worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.entries import entry

from rph import UsageError
from rph.results import metrics
from rph.study import bottleneck

# a is the best on train. Hard: 0 and 1 (one right), 2 (a is wrong); easy: 3 and 4; nobody is right on 5.
Y = [[1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]]
TRAIN = [[1, 0, 0]]
ALWAYS_A = [0, 0, 0, 0, 0, 0]  # right on 0, 3, 4: accuracy 3/6, hard 1/3, easy 1
MIXED = [1, 1, 1, 2, 1, 1]  # right on 1, 2, 4: accuracy 3/6, hard 2/3, easy 1/2


def cell(routes, router, **changes):
    return entry(Y, routes, router=router, train=TRAIN, **changes)


def test_hard_and_easy_queries_by_hand():
    (found,) = bottleneck.difficulties([cell(ALWAYS_A, "x"), cell(MIXED, "y")])
    assert found.hard_share == 0.5
    assert found.hard_spread == pytest.approx(1 / 3)
    assert found.hard_gap == pytest.approx(1 / 2)  # 1 - (1/3 + 2/3) / 2
    assert found.easy_gap == pytest.approx(1 / 4)
    assert found.ratio == pytest.approx(2)
    # the oracle misses one of six: 5/6 - 1/2 = 1/3 in all, of which 3/6 * 1/2 on hard queries
    assert found.explained == pytest.approx(3 / 4)


def test_what_does_not_exist_is_unknown_and_no_zero():
    all_easy = [[1, 1], [1, 1]]
    (found,) = bottleneck.difficulties([entry(all_easy, [0, 0])])
    assert (found.hard_share, found.hard_gap, found.hard_spread, found.explained) == (0.0, None, None, None)
    assert found.easy_gap == 0 and found.ratio is None
    (selected,) = bottleneck.selections([entry(all_easy, [0, 0])])
    assert selected.hard_truth is None and selected.hard_routers == {}
    (change, _) = bottleneck.selection_sheets([entry(all_easy, [0, 0])])
    assert change.rows[1] == ("router", 1.0, None, None, None)


def test_twelve_routers_lead_by_accuracy():
    routes = [[0] * 6] * 12 + [[2] * 6]  # the last is right on 2 of 6
    cells = [cell(route, f"r{i:02}") for i, route in enumerate(routes)]
    (found,) = bottleneck.difficulties(cells[::-1])
    assert sorted(found.routers) == [f"r{i:02}" for i in range(12)]


def test_selections_by_hand():
    (found,) = bottleneck.selections([cell(ALWAYS_A, "x"), cell(MIXED, "y")])
    assert found.models == ("a", "b", "c")  # a is the best on train, b on test
    # right: 0 a; 1 b; 2 b, c; 3 a, b; 4 a, b, c
    assert found.truth == pytest.approx(
        np.array([1 + 1 / 2 + 1 / 3, 1 + 1 / 2 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3]) / 5
    )
    assert found.hard_truth == pytest.approx(np.array([1, 1.5, 0.5]) / 3)
    assert found.routers["y"] == pytest.approx([0, 5 / 6, 1 / 6])
    assert found.hard_routers["y"] == pytest.approx([0, 1, 0])
    change, shares = bottleneck.selection_sheets([cell(ALWAYS_A, "x"), cell(MIXED, "y")])
    assert change.rows[2] == ("y", 0.0, 0.0, pytest.approx(1 / 6), pytest.approx(0.5))
    assert shares.rows[1] == ("b", pytest.approx(7 / 15), pytest.approx(5 / 12), 0.5, 0.5)


def test_selections_are_means_over_encoders():
    (found,) = bottleneck.selections([cell(ALWAYS_A, "x", encoder="e1"), cell([1] * 6, "x", encoder="e2")])
    assert found.routers["x"].tolist() == [0.5, 0.5, 0]


def test_a_pair_by_hand():
    (found,) = bottleneck.exchanges([cell(ALWAYS_A, "x"), cell(MIXED, "y")])
    (pair,) = found.pairs
    assert (pair.a, pair.b, pair.disagreement) == ("x", "y", 1.0)
    assert pair.accuracy_gap == 0.0
    assert pair.change == pytest.approx(4 / 6)  # x wins 0 and 3, y wins 1 and 2
    assert pair.signed_change == 0.0 and found.ratio is None  # all of it cancels out


def test_pairs_are_compared_on_the_same_encoder_with_the_first_seed():
    entries = [
        cell([ALWAYS_A, MIXED], "x", encoder="e1"),
        cell([ALWAYS_A, ALWAYS_A], "y", encoder="e1"),
        cell(ALWAYS_A, "x", encoder="e2"),
        cell([1, 0, 0, 0, 0, 0], "y", encoder="e2"),  # differs on 0 alone, which x wins
        cell(MIXED, "z", encoder="e3"),
    ]
    (found,) = bottleneck.exchanges(entries)
    (pair,) = found.pairs  # z has no encoder in common with the others
    assert pair.disagreement == pytest.approx((0 + 1 / 6) / 2)
    assert pair.accuracy_gap == pytest.approx((0 + 1 / 6) / 2)
    assert pair.change == pair.signed_change == 1  # of e2: on e1 they never disagree
    assert found.known == 1


def test_medians_over_pairs():
    third = [0, 0, 0, 0, 0, 1]  # as ALWAYS_A but for one query, on which nobody is right
    (found,) = bottleneck.exchanges([cell(ALWAYS_A, "x"), cell(MIXED, "y"), cell(third, "z")])
    assert sorted(round(pair.disagreement * 6) for pair in found.pairs) == [1, 5, 6]
    # changes: x-y 4/6; x-z 0 (one query, both wrong); y-z 4/5
    assert found.median(lambda pair: pair.change) == pytest.approx(4 / 6)
    assert found.median(lambda pair: pair.signed_change) == 0.0
    (sheet,) = bottleneck.exchange_sheets([cell(ALWAYS_A, "x"), cell(MIXED, "y"), cell(third, "z")])
    assert sheet.rows[0][:4] == ("bench", 3, pytest.approx(1 / 6), 1.0)


def test_the_pairs_that_never_disagree_are_counted_and_told():
    cells = [cell(ALWAYS_A, "x"), cell(ALWAYS_A, "y"), cell(MIXED, "z")]
    (found,) = bottleneck.exchanges(cells)
    assert (len(found.pairs), found.known) == (3, 2)
    (sheet,) = bottleneck.exchange_sheets(cells)
    assert "bench: ΔY of 2 of the 3 pairs; the others never disagree." in sheet.notes


def test_one_router_has_no_pair():
    with pytest.raises(UsageError, match="two routers"):
        bottleneck.exchange_sheets([cell(ALWAYS_A, "x")])


def test_knn_against_the_others_by_hand():
    entries = [
        cell(ALWAYS_A, "knn", bce=0.50),
        cell(MIXED, "worse", bce=0.60),
        cell(MIXED, "better", bce=0.45),
        cell(ALWAYS_A, "unknown", bce=None),
    ]
    (found,) = bottleneck.against_knn(entries)
    assert found.bce == 0.50 and found.hard_accuracy == pytest.approx(1 / 3)
    assert found.bce_differences == pytest.approx([-0.05, 0.10])
    assert found.better == ("better",)
    assert found.others["unknown"] == (None, 0.0)
    assert found.hard_difference == pytest.approx(1 / 3)  # of 1/3, 1/3 and 0
    summary, _ = bottleneck.knn_sheets(entries)
    assert "TEST BCE" in summary.title and summary.rows[0][5] == 1
    with pytest.raises(UsageError, match="no benchmark has a result of knn"):
        bottleneck.knn_sheets(entries[1:])


def test_knn_meets_eleven_others_also_where_it_is_not_among_the_best_twelve():
    cells = [cell(MIXED, f"r{i:02}") for i in range(14)] + [cell([2] * 6, "knn")]
    (found,) = bottleneck.against_knn(cells)
    assert len(found.others) == 11


routes = st.lists(st.integers(0, 2), min_size=6, max_size=6)


@given(routes, routes)
def test_an_exchange_is_symmetric_and_its_numbers_fit_together(a, b):
    labels = np.array(Y, np.float32)
    rows = np.arange(6)
    a, b = np.array(a), np.array(b)
    one = metrics.exchange(a, labels[rows, a], b, labels[rows, b])
    assert one == metrics.exchange(b, labels[rows, b], a, labels[rows, a])
    if one.change is None:
        assert one.disagreement == 0 and one.signed_change is None and one.accuracy_gap == 0
    else:
        assert one.signed_change <= one.change + 1e-12 <= 1 + 1e-9
        assert one.accuracy_gap == pytest.approx(one.disagreement * one.signed_change)


def test_a_missing_label_counts_in_the_disagreement_alone():
    nan = float("nan")
    found = metrics.exchange(
        np.array([0, 0, 0]), np.array([1.0, 1.0, 0.0]), np.array([1, 1, 0]), np.array([nan, 0.0, 0.0])
    )
    assert found == (pytest.approx(2 / 3), 0.5, 1.0, 1.0)
    never = metrics.exchange(np.array([0]), np.array([nan]), np.array([1]), np.array([1.0]))
    assert never == (1.0, None, None, None)


@given(
    st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.lists(st.floats(0.01, 1), min_size=3, max_size=3)
)
def test_total_variation_is_a_distance_up_to_one(p, q):
    p, q = (np.array(x) / np.sum(x) for x in (p, q))
    assert metrics.total_variation(p, p) == 0
    assert metrics.total_variation(p, q) == metrics.total_variation(q, p)
    assert 0 <= metrics.total_variation(p, q) <= 1 + 1e-12
    # the most that the two can differ by on any set of models
    subsets = [[bool(mask >> i & 1) for i in range(3)] for mask in range(8)]
    most = max(abs(p[subset].sum() - q[subset].sum()) for subset in subsets)
    assert metrics.total_variation(p, q) == pytest.approx(most)
