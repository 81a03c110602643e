"""Boards of results made by hand: who stands where, what may stand together, and what is not ranked."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import entries

from rph.board import ranking
from rph.board.sheets import board_sheet, overall_sheet, unranked_sheet
from rph.data.checking import Check, Finding
from rph.errors import UsageError
from rph.results import findings, utility

NAN = np.nan
N = 400


def labels(N=N, K=3, seed=0):
    """Model a is right on 60 % of the queries, b on 40 %, the others on 20 %."""
    shares = np.array([0.6, 0.4, *[0.2] * (K - 2)])
    return (np.random.default_rng(seed).random((N, K)) < shares).astype(float)


LABELS = labels()
ALWAYS_A, ALWAYS_B, ALWAYS_C = (np.full(N, k) for k in range(3))
ORACLE = LABELS.argmax(axis=1)


def boards(*found, resamples=400):
    return ranking.boards(found, resamples=resamples)


def places(board):
    return {row.entry.result.router: (row.rank, row.tier, row.in_plateau, row.ranks) for row in board.rows}


def test_a_board_by_hand():
    a, b, c = LABELS.mean(axis=0)
    (board,) = boards(
        entries.entry(LABELS, ALWAYS_C, router="last"),
        entries.entry(LABELS, ALWAYS_A, router="first"),
        entries.entry(LABELS, ALWAYS_B, router="middle"),
        entries.entry(LABELS, ALWAYS_A, router="also-first"),
    )
    assert (board.bench, board.encoder, board.subset) == ("bench", "encoder", "")
    assert [row.accuracy for row in board.rows] == [a, a, b, c]
    # 400 queries: the standard error of a difference is about 0.035, and the differences are about 0.2
    assert places(board) == {
        "also-first": (1, 1, True, (1, 2)),
        "first": (1, 1, True, (1, 2)),
        "middle": (3, 2, False, (3, 3)),
        "last": (4, 3, False, (4, 4)),
    }
    assert [row.win for row in board.rows] == [0.5, 0.5, 0.0, 0.0]
    first = board.rows[0]
    assert first.gain == (0.0, 0.0) and first.gap_closed == (0.0, 0.0)  # it is the best single model
    # Binomial: a +- 1.96 sqrt(a (1 - a) / N)
    half = 1.96 * np.sqrt(a * (1 - a) / N)
    assert first.interval == pytest.approx((a - half, a + half), abs=0.008)
    assert [(fixed.name, fixed.accuracy) for fixed in board.fixed] == [
        ("oracle", pytest.approx(LABELS.max(axis=1).mean())),
        ("best single: a", pytest.approx(a)),
        ("random", pytest.approx(LABELS.mean())),
    ]
    oracle, floor, random = (fixed.interval for fixed in board.fixed)
    assert floor == first.interval and random is None
    assert oracle[0] < board.fixed[0].accuracy < oracle[1]


def test_means_that_differ_by_rounding_alone_share_a_rank():
    accuracy = LABELS[:, 0].mean()
    (board,) = boards(
        entries.entry(LABELS, ALWAYS_A, router="x", test_accuracy_mean=accuracy),
        entries.entry(LABELS, ALWAYS_A, router="y", test_accuracy_mean=np.nextafter(accuracy, 1)),
    )
    assert [(row.entry.result.router, row.rank) for row in board.rows] == [("x", 1), ("y", 1)]


def test_the_gap_closed_is_resampled_as_one():
    # A router that is the oracle closes all of the gap in every resample, though both ends of the gap vary.
    (board,) = boards(
        entries.entry(LABELS, ORACLE, router="oracle"), entries.entry(LABELS, ALWAYS_B, router="b")
    )
    assert board.rows[0].gap_closed == pytest.approx((1.0, 1.0))
    low, high = board.rows[0].gain
    assert 0.1 < low < board.reference.oracle - board.reference.best_single < high < 0.3
    low, high = board.rows[1].gap_closed
    assert low < board.rows[1].entry.result.gap_closed < high < 0


def test_without_a_gap_there_is_no_share_of_it():
    perfect = np.ones((20, 2))
    (board,) = boards(entries.entry(perfect, np.zeros(20, int)))
    assert board.rows[0].gap_closed is None
    assert board.rows[0].gain == (0.0, 0.0)


def test_seeds_widen_an_interval():
    rng = np.random.default_rng(1)
    # Five seeds that each send another share of the queries to the better model.
    routes = np.stack([rng.random(N) > share for share in (0.1, 0.3, 0.5, 0.7, 0.9)]).astype(int)
    (many,) = boards(entries.entry(LABELS, routes))
    (one,) = boards(entries.entry(LABELS, routes[2]))

    def width(board):
        low, high = board.rows[0].interval
        return high - low

    assert width(many) > 1.2 * width(one)


def test_missing_labels_are_left_out_of_the_value_and_counted_for_the_worst_in_the_order():
    Y = LABELS.copy()
    Y[: N // 2, 0] = NAN  # model a is observed on half of the queries
    (board,) = boards(
        entries.entry(Y, ALWAYS_A, router="a", train=LABELS),
        entries.entry(Y, ALWAYS_B, router="b", train=LABELS),
    )
    b, a = board.rows
    right = np.nansum(Y[:, 0]) / N
    assert a.accuracy == pytest.approx(Y[N // 2 :, 0].mean()) and a.accuracy > b.accuracy
    assert a.bounds == pytest.approx((right, right + 0.5)) and b.bounds == (b.accuracy, b.accuracy)
    low, high = (1.96 * np.sqrt(p * (1 - p) / N) for p in a.bounds)
    assert a.interval == pytest.approx((right - low, right + 0.5 + high), abs=0.012)
    # a is the best single model of train; where it stands depends on what it would have said.
    assert (a.against, b.against) == ("too close to call", "depends on missing labels")
    assert a.gain == pytest.approx((0, 0)) and a.ranks == b.ranks == (1, 2)


def test_a_pool_of_two_models():
    Y = labels(K=2)
    (board,) = boards(
        entries.entry(Y, np.zeros(N, int), router="strong"), entries.entry(Y, np.ones(N, int), router="weak")
    )
    assert places(board) == {"strong": (1, 1, True, (1, 1)), "weak": (2, 2, False, (2, 2))}


def test_what_was_measured_on_other_queries_has_its_own_board():
    found = boards(
        entries.entry(LABELS, ALWAYS_A, router="x"),
        entries.entry(LABELS, ALWAYS_A, router="x", encoder="other"),
        entries.entry(labels(seed=1), ALWAYS_A, router="y"),  # another release under the same name
        entries.entry(LABELS, ALWAYS_A, router="z", bench="bench-subset", subset="half of it"),
    )
    held = sorted(
        (board.bench, board.encoder, board.subset, [row.entry.result.router for row in board.rows])
        for board in found
    )
    assert held == [
        ("bench", "encoder", "", ["x"]),
        ("bench", "encoder", "", ["y"]),
        ("bench", "other", "", ["x"]),
        ("bench-subset", "encoder", "half of it", ["z"]),
    ]
    assert len({board.fingerprint for board in found if board.bench == "bench"}) == 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": "quick"}, "protocol quick: only paper is ranked"),
        ({"protocol_version": 0}, "version 0 of the protocol: version 1 is ranked"),
        (
            {"selector_cost": "realised (oracle leak)"},
            "selector cost realised (oracle leak): a router must not",
        ),
        ({"test_accuracy_mean": None}, "no test label of the models it chose was observed"),
    ],
)
def test_what_is_not_ranked_is_said(changes, why):
    good = entries.entry(LABELS, ALWAYS_B, router="good")
    other = entries.entry(LABELS, ORACLE, router="other", **changes)
    (board,) = boards(good, other)
    assert [row.entry for row in board.rows] == [good]
    ((entry, reason),) = ranking.unranked([good, other])
    assert entry is other and reason.startswith(why)
    assert boards(other) == [] and ranking.overall([other]) == []
    sheet = unranked_sheet([(entry, reason)])
    assert sheet.rows == (("bench", "encoder", "other", reason),)


def test_two_results_for_one_place_are_refused():
    one = entries.entry(LABELS, ALWAYS_A)
    with pytest.raises(UsageError, match="the same router on the same board"):
        boards(one, entries.entry(LABELS, ALWAYS_B))


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("the oracle's labels", {"queries": "best"}),
        ("the best single model's labels", {"queries": "floor"}),
        ("the subset", {"result": {"subset": "half of it"}}),
        ("the models", {"result": {"models": ("a", "b", "z")}}),
        ("the encoder's identity", {"result": {"encoder_identity": "another revision"}}),
    ],
)
def test_results_that_contradict_one_another_are_refused(what, change):
    one = entries.entry(LABELS, ALWAYS_A, router="one")
    two = entries.entry(LABELS, ALWAYS_A, router="two")
    if "queries" in change:
        name = change["queries"]
        queries = dataclasses.replace(two.queries, **{name: 1 - getattr(two.queries, name)})
        two = dataclasses.replace(two, queries=queries)
    else:
        two = dataclasses.replace(two, result=two.result.model_copy(update=change["result"]))
    with pytest.raises(UsageError, match=f"{what} differ"):
        boards(one, two)


@settings(max_examples=20)
@given(st.permutations(range(5)))
def test_the_order_of_the_results_changes_nothing(order):
    rng = np.random.default_rng(2)
    made = [entries.entry(LABELS, rng.integers(0, 3, (1 + 2 * (r % 2), N)), router=f"r{r}") for r in range(5)]

    def facts(found):
        (board,) = boards(*found, resamples=100)
        return [
            (row.entry.result.router, row.rank, row.tier, row.interval, row.gain, row.ranks, row.win)
            for row in board.rows
        ]

    assert facts([made[i] for i in order]) == facts(made)


def test_a_tier_holds_those_not_told_apart_from_its_first():
    # Down the order: 0 and 1 alike; 2 is told apart from 0 and begins a tier; 3 from 0 but not from 2; 4 from 2.
    verdict = np.zeros((5, 5), np.int8)
    verdict[0, [2, 3, 4]] = 1
    verdict[1, [3, 4]] = 1
    verdict[2, 4] = 1
    assert ranking._tiers(range(5), verdict) == {0: 1, 1: 1, 2: 2, 3: 2, 4: 3}


# --- what a row derives -------------------------------------------------------------------------------


def test_a_collapsed_router_is_one_whose_every_seed_has_one_model():
    almost = np.zeros(N, int)
    almost[:4] = 1  # 99 % to a
    (board,) = boards(
        entries.entry(LABELS, [almost, 1 - almost], router="each-seed-another"),
        entries.entry(LABELS, np.repeat([0, 1], N // 2), router="half"),
    )
    rows = {row.entry.result.router: row for row in board.rows}
    assert rows["each-seed-another"].top_share == 0.99 and rows["each-seed-another"].collapsed
    assert rows["half"].top_share == 0.5 and not rows["half"].collapsed


def test_aiq_spans_the_pools_costs():
    cost = (0.001, 0.002, 0.003)
    (board,) = boards(entries.entry(LABELS, ALWAYS_A, costs=cost[::-1]))  # a is the dearest
    a, b, c = LABELS.mean(axis=0)
    # Mixtures of the pool: from c through b to a, where b stands above the line from c to a or is skipped.
    middle = max(b, (a + c) / 2)
    assert board.pool_aiq == pytest.approx((c + 2 * middle + a) / 4)
    row = board.rows[0]
    points = row.entry.result.curve
    costs, accuracies = ([getattr(point, name) for point in points] for name in ("cost", "accuracy"))
    low, high = board.reference.model_cost[2], board.reference.model_cost[0]
    assert row.aiq == pytest.approx(utility.aiq(np.array(costs), np.array(accuracies), low, high))
    assert c < row.aiq <= a


def test_without_prices_there_is_no_aiq():
    (board,) = boards(entries.entry(LABELS, ALWAYS_A))
    assert board.rows[0].aiq is None and board.pool_aiq is None
    (board,) = boards(entries.entry(LABELS, ALWAYS_A, costs=(NAN, NAN, NAN)))  # no price is known
    assert board.rows[0].aiq is None and board.pool_aiq is None


def test_the_aiq_is_over_the_models_with_a_price():
    (board,) = boards(entries.entry(LABELS, ALWAYS_A, costs=(0.001, 0.002, NAN)))
    a, b = LABELS[:, :2].mean(axis=0)
    assert board.rows[0].aiq == pytest.approx(a)  # a alone, from its own cost to that of b
    assert board.pool_aiq == pytest.approx(max(a, (a + b) / 2))


def test_a_control_world_splits_the_gap_to_the_oracle():
    p = np.tile([0.6, 0.4, 0.2], (N, 1))  # the best possible router always chooses a
    (board,) = boards(entries.entry(LABELS, ALWAYS_B, p_correct=p))
    a, b, _ = LABELS.mean(axis=0)
    gap = board.rows[0].oracle_gap
    assert gap == (pytest.approx(board.reference.oracle - a), pytest.approx(a - b))
    assert [fixed.name for fixed in board.fixed] == ["oracle", "Bayes", "best single: a", "random"]
    sheet = board_sheet(board)
    assert sheet.columns[-1].name == "learnable"
    learnable = {row[2]: row[-1] for row in sheet.rows}
    assert learnable == {"router": pytest.approx(a - b), "oracle": "", "Bayes": "", "best single: a": "", "random": ""}  # fmt: skip


# --- over several boards ------------------------------------------------------------------------------


def constant(share, router, bench="one", encoder="e", **changes):
    """A result with this accuracy."""
    Y = np.zeros((10, 2))
    Y[:7, 0] = 1
    return entries.entry(
        Y, np.zeros(10, int), router=router, bench=bench, encoder=encoder, **changes, test_accuracy_mean=share
    )


def test_the_overall_rank_is_by_the_mean_over_benchmarks_of_the_mean_over_encoders():
    found = ranking.overall(
        [
            *(constant(share, "x", encoder=e) for e, share in [("e", 0.50), ("f", 0.70)]),
            *(constant(share, "y", encoder=e) for e, share in [("e", 0.70), ("f", 0.70)]),
            constant(0.90, "x", bench="two"),
            constant(0.60, "y", bench="two"),
        ]
    )
    assert [(row.router, row.rank) for row in found] == [("x", 1), ("y", 2)]
    assert found[0].accuracy == {
        "one": (pytest.approx(0.6), pytest.approx(np.sqrt(0.02)), 2),
        "two": (0.9, None, 1),
    }
    assert found[0].average == pytest.approx(0.75) and found[1].average == pytest.approx(0.65)
    assert found[0].method.title == "x, by hand"


def test_a_router_that_lacks_a_board_has_no_average_and_costs_the_others_nothing():
    found = ranking.overall(
        [
            *(constant(0.5, name) for name in ("x", "y", "new")),
            *(constant(0.6, name, bench="two") for name in ("x", "y")),
            constant(0.99, "new", bench="three"),
        ]
    )
    assert [(row.router, row.average, row.rank) for row in found] == [
        ("x", pytest.approx(0.55), 1),
        ("y", pytest.approx(0.55), 1),
        ("new", None, 3),
    ]
    assert found[2].accuracy == {"one": (0.5, None, 1)}  # a board of its own is not counted


def test_a_router_that_lacks_an_encoder_has_no_average():
    pairs = [("x", "e"), ("x", "f"), ("y", "e"), ("y", "f"), ("z", "e")]
    found = ranking.overall([constant(0.5, name, encoder=encoder) for name, encoder in pairs])
    assert [(row.router, row.average, row.rank) for row in found] == [
        ("x", 0.5, 1),
        ("y", 0.5, 1),
        ("z", None, 3),
    ]
    assert found[2].accuracy == {"one": (0.5, None, 1)}


def test_a_subset_has_its_own_column_and_is_in_no_average():
    made = [
        constant(share, name, bench=bench, subset=subset)
        for name, plain in [("x", 0.5), ("y", 0.4)]
        for bench, subset, share in [("one", "", plain), ("one-subset", "a third of it", 1 - plain)]
    ]
    found = ranking.overall(made)
    assert [(row.router, row.average) for row in found] == [("x", 0.5), ("y", 0.4)]
    assert found[0].accuracy.keys() == {"one", "one-subset"}
    sheet = overall_sheet(found, boards(*made))
    assert [column.name for column in sheet.columns] == ["#", "router", "one", "one-subset", "average"]
    assert sheet.rows == ((1, "x", 0.5, 0.5, 0.5), (2, "y", 0.4, 0.6, 0.4))
    assert "Subsets, in no average: one-subset." in sheet.notes


def test_a_control_world_has_its_own_column_and_is_in_no_average():
    p_correct = np.full((10, 2), 0.5)
    made = [
        constant(share, name, bench=bench, p_correct=p)
        for name, plain in [("x", 0.5), ("y", 0.4)]
        for bench, p, share in [("one", None, plain), ("world", p_correct, 1 - plain)]
    ]
    found = ranking.overall(made)
    assert [(row.router, row.average) for row in found] == [("x", 0.5), ("y", 0.4)]
    assert found[0].accuracy.keys() == {"one", "world"}
    assert "Control worlds, in no average: world." in overall_sheet(found, boards(*made)).notes


def test_two_releases_under_one_name_are_two_columns():
    old, new = entries.entry(LABELS, ALWAYS_A), entries.entry(labels(seed=1), ALWAYS_A)
    (row,) = ranking.overall([old, new])
    names = {f"bench ({each.result.bench_fingerprint[:8]})" for each in (old, new)}
    assert row.accuracy.keys() == names


# --- as a table ---------------------------------------------------------------------------------------


def test_what_was_found_in_a_benchmark_stands_on_its_board_once():
    leak = Finding(kind="leak", what="texts in two splits", count=2, examples=("x",), fix="mend it")
    content = {"data": findings.record(Check(findings=(leak,))).model_dump(mode="json")}
    (board,) = boards(
        entries.entry(LABELS, ALWAYS_A, router="a", blocks=content),
        entries.entry(LABELS, ALWAYS_B, router="b", blocks=content),
        entries.entry(LABELS, ORACLE, router="from before the checks"),
    )
    assert board_sheet(board).notes[0] == "Data: texts in two splits: 2, the first: x."
    assert [note for note in board_sheet(board).notes if "Data:" in note] == [board_sheet(board).notes[0]]


def test_the_table_of_a_board():
    (board,) = boards(
        entries.entry(LABELS, ALWAYS_A, router="a", subset="half"),
        entries.entry(LABELS, ALWAYS_B, router="b", subset="half"),
    )
    sheet = board_sheet(board)
    names = [column.name for column in sheet.columns]
    rows = [dict(zip(names, row, strict=True)) for row in sheet.rows]
    assert [row["router"] for row in rows] == ["oracle", "a", "best single: a", "random", "b"]
    assert (rows[1]["#"], rows[1]["tier"], rows[1]["plateau"], rows[1]["best"]) == (1, 1, "yes", 1.0)
    assert (rows[1]["low"], rows[1]["high"]) == board.rows[0].interval
    assert (rows[4]["gain low"], rows[4]["gain high"]) == board.rows[1].gain
    assert rows[0]["#"] == "" and rows[2]["accuracy"] == rows[1]["accuracy"]
    assert sheet.notes[0] == "SUBSET: half"
    assert any("Collapsed, at least 99% to one model: a, b." in note for note in sheet.notes)
