"""The paper's Sec. 4 from result files, against tables worked out by hand and against the paper's own numbers."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.entries import entry

from rph import UsageError
from rph.board import sets
from rph.results.cell import Configuration
from rph.study import plateau, utility

REFERENCE = Path(__file__).parents[2] / "leaderboard" / "reference"

# Four queries; a is right on 3, b on 2, c on 1.
Y = [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 1]]
ALWAYS_A, ALWAYS_B = [0, 0, 0, 0], [1, 1, 1, 1]  # 3/4 and 2/4
PERFECT = [0, 0, 0, 1]


def test_accuracy_is_the_mean_over_encoders_of_the_mean_over_seeds():
    entries = [
        entry(Y, [ALWAYS_A, ALWAYS_B], router="r", encoder="e1"),  # (.75 + .5) / 2 = .625
        entry(Y, [PERFECT, PERFECT], router="r", encoder="e2"),  # 1
        entry(Y, ALWAYS_B, router="s", encoder="e1"),
        entry(Y, ALWAYS_B, router="s", encoder="e2"),
    ]
    (group,) = sets.groups(entries)
    found = sets.accuracies(group)
    assert list(found) == ["r", "s"]
    assert found["r"].mean == pytest.approx(0.8125) and found["r"].encoders == 2
    assert found["r"].std == pytest.approx(0.375 / 2**0.5)  # of .625 and 1, with n - 1
    assert found["s"] == sets.Average(0.5, 0.0, 2)


def test_one_encoder_has_no_spread_between_encoders_and_an_unknown_number_stays_unknown():
    (group,) = sets.groups(
        [entry(Y, PERFECT, encoder="e1"), entry(Y, PERFECT, encoder="e2", test_accuracy_mean=None)]
    )
    assert sets.accuracies(group)["router"] == sets.Average(None, None, 2)
    (alone,) = sets.groups([entry(Y, PERFECT)])
    assert sets.accuracies(alone)["router"] == sets.Average(1.0, None, 1)


def test_only_the_same_rows_and_protocol_stand_side_by_side():
    other = [[1, 0, 0], [0, 0, 1]]
    entries = [
        entry(Y, PERFECT),
        entry(other, [0, 0], router="second"),
        entry(Y, PERFECT, router="third", protocol="quick"),
        entry(Y, ALWAYS_A, router="fourth"),
    ]
    found = sets.groups(entries)
    assert [group.routers for group in found] == [("router", "fourth"), ("second",), ("third",)]
    first, second, third = (group.name for group in found)
    assert first == f"bench {entries[0].result.bench_fingerprint[:8]}" and second != first
    assert third == f"{first}, protocol quick"


def test_two_results_of_one_router_and_encoder_are_refused():
    with pytest.raises(UsageError, match="same router and encoder"):
        sets.groups([entry(Y, PERFECT), entry(Y, ALWAYS_A)])


def test_a_mean_over_fewer_encoders_is_said_to_be_one():
    entries = [entry(Y, PERFECT, router=r, encoder=e) for r, e in (("r", "e1"), ("r", "e2"), ("s", "e1"))]
    table, _ = plateau.accuracy_sheets(entries)
    assert "bench: encoders e1, e2." in table.notes
    assert "bench: not comparable, a mean over fewer encoders: s 1." in table.notes


def test_the_spread_of_the_papers_own_table_1_is_the_one_it_prints():
    with (REFERENCE / "table1_accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    printed = {"routerbench": 0.04, "nine30k": 0.07, "embedllm": 0.52, "r2": 0.23, "sprout": 0.21}
    for bench, value in printed.items():
        values = [float(row[bench]) if row[bench] else None for row in rows]
        assert plateau.spread(values) == pytest.approx(value, abs=0.0051), bench
    average = [sets.average([float(row[b]) if row[b] else None for b in printed]).mean for row in rows]
    assert plateau.spread(average) == pytest.approx(0.22, abs=0.0051)
    assert average[-1] is None  # OptLLM has no result on EmbedLLM


@given(st.lists(st.floats(0, 1), min_size=5))
def test_the_spread_needs_five_and_no_router_below_them_changes_it(values):
    assert plateau.spread(values[:4]) is None
    assert 0 <= plateau.spread(values) <= max(values) - min(values)
    assert plateau.spread([*values, min(values)]) == plateau.spread(values)


def test_the_plateau_by_hand():
    entries = [entry(Y, routes, router=router) for router, routes in (("knn", ALWAYS_A), ("best", PERFECT))]
    (found,) = plateau.plateaus(entries)
    assert (found.best, found.accuracy, found.knn_rank) == ("best", 1.0, 2)
    assert found.knn_behind == pytest.approx(0.25)
    assert (found.best_single, found.oracle, found.oracle_gap) == (0.75, 1.0, 0.0)
    assert found.top_spread is None  # two routers are not five
    (without,) = plateau.plateaus(entries[1:])
    assert without.knn_rank is None and without.knn_behind is None


def test_table_1_averages_over_full_benchmarks_only_and_over_routers_that_have_all():
    entries = [
        entry(Y, PERFECT, router="r", bench="one"),
        entry(Y, ALWAYS_B, router="r", bench="two"),
        entry(Y, ALWAYS_B, router="r", bench="part", subset="four rows"),
        entry(Y, PERFECT, router="s", bench="one"),
    ]
    table, _ = plateau.accuracy_sheets(entries)
    assert [column.name for column in table.columns] == ["router", "one", "two", "part", "average"]
    assert table.rows[:2] == (("r", 1.0, 0.5, 0.5, 0.75), ("s", 1.0, None, None, None))
    assert table.rows[2] == ("spread of the top 5", None, None, None, None)
    assert "part is a subset: four rows." in table.notes


def test_utility_by_hand():
    # a costs 3 dollars and b 1: scaled 1 and 0. A route that is sure of itself by .9 to .1 keeps to it at .2:
    # .8 * .9 - .2 = .52 > .8 * .1; at .5, .45 - .5 < .05: everything goes to b.
    two = [row[:2] for row in Y]
    costs = [3, 1]
    first = entry(two, ALWAYS_A, router="a", costs=costs)
    second = entry(two, ALWAYS_B, router="b", costs=costs, calibrated=False)
    (found,) = utility.utilities([first, second, entry(two, ALWAYS_A, bench="free")])
    assert found.utility["a"]["0"].mean == 0.75
    assert found.utility["a"]["0.2"].mean == pytest.approx(0.8 * 0.75 - 0.2)
    assert found.utility["a"]["0.5"].mean == pytest.approx(0.5 * 0.5)  # b's accuracy, at no cost
    assert found.calibrated == {"a": True, "b": False}
    (sheet,) = utility.utility_sheets([first, second])
    row = dict(zip((column.name for column in sheet.columns), sheet.rows[0], strict=True))
    average = (0.4 + 0.25 + 0.3 * 0.5 + 0.1 * 0.5) / 4
    assert row["router"] == "a" and row["average, λ > 0"] == pytest.approx(average)
    with pytest.raises(UsageError, match="no result has a utility"):
        utility.utility_sheets([entry(two, ALWAYS_A, bench="free")])


def test_the_plane_by_hand():
    costs = [3, 1, 2]
    entries = [
        entry(Y, routes, router=name, costs=costs) for name, routes in (("p", PERFECT), ("b", ALWAYS_B))
    ]
    (plane,) = utility.planes(entries)
    perfect, worse = plane.routers
    assert (perfect.name, perfect.accuracy, perfect.cost) == ("p", 1.0, 2.5)
    assert perfect.normalised_cost == pytest.approx(0.75)  # (2.5 - 1) / (3 - 1)
    assert (worse.cost, worse.normalised_cost) == (1.0, 0.0)
    assert [(spot.name, spot.accuracy, spot.normalised_cost) for spot in plane.models] == [
        ("a", 0.75, 1.0), ("b", 0.5, 0.0), ("c", 0.25, 0.5),
    ]  # fmt: skip
    assert plane.band == (pytest.approx(0.98), 1.0) and plane.oracle == 1.0
    (sheet,) = utility.plane_sheets(entries)
    assert [row[4] for row in sheet.rows] == ["yes", "no", "no", "no", "no"]


PRICES = {"unpriced": ["c"], "queries": 4, "best_single_model": "a", "best_single": 0.75, "oracle": 1.0}


def test_where_some_models_have_no_price_the_plane_is_of_the_others():
    # The last query goes to c, which is right; of a and b, which are even, to a, which is better and wrong.
    routes, costs, blocks = [0, 0, 0, 2], [3, 1, float("nan")], {"prices": PRICES}
    one = entry(Y, routes, router="r", costs=costs, blocks=blocks)
    (plane,) = utility.planes([one])
    assert one.result.test_accuracy_mean == 1.0
    (spot,) = plane.routers
    assert (spot.accuracy, spot.cost, spot.normalised_cost) == (0.75, 3.0, 1.0)
    assert [spot.normalised_cost for spot in plane.models] == [1.0, 0.0, None]
    assert plane.over.startswith(
        "No price is known of c: cost, utility and cost curves are of choices among the"
    )
    assert plane.over in utility.plane_sheets([one])[0].notes
    assert f"bench: {plane.over}" in utility.utility_sheets([one])[0].notes


def test_why_there_is_no_utility_is_told_for_each_benchmark():
    before = entry(
        Y, PERFECT, bench="before", costs=[1, 2, float("nan")], utility=None
    )  # as rph once wrote it
    with pytest.raises(UsageError) as told:
        utility.utility_sheets([entry(Y, PERFECT, bench="free"), before])
    assert told.value.why == "free: no costs; before: no price is known of c"


def test_without_costs_the_plane_has_one_axis():
    (plane,) = utility.planes([entry(Y, PERFECT)])
    assert plane.routers[0].cost is None and plane.routers[0].normalised_cost is None
    assert all(spot.cost is None and spot.normalised_cost is None for spot in plane.models)


def trained(*accuracies):
    return tuple(
        Configuration(variant_name=f"v{i}", seed=42, val_accuracy=0.5, test_accuracy=accuracy)
        for i, accuracy in enumerate(accuracies)
    )


def test_configurations_by_hand():
    # Ceiling .70: .70, .69 and .68 (the bound itself) are within .02; .60 and .50 are not. The unknown one is left out.
    first = entry(Y, PERFECT, router="r", configurations=trained(0.60, 0.70, None, 0.68))
    second = entry(Y, PERFECT, router="s", configurations=trained(0.69, 0.50))
    (found,) = plateau.configurations([first, second])
    assert [point.accuracy for point in found.points] == [0.70, 0.69, 0.68, 0.60, 0.50]
    assert (found.points[1].router, found.points[1].variant_name) == ("s", "v0")
    assert found.ceiling == 0.70 and found.near == pytest.approx(3 / 5)
    assert found.band[0] == pytest.approx(0.696)  # the 90th percentile of five: .6 of the way from .69 to .70
    summary, by_router = plateau.configuration_sheets([first, second])
    assert summary.rows[0][:3] == ("bench", 5, 0.70)
    assert by_router.rows[1] == ("s", 2, 0.69, pytest.approx(0.595), 0.50, 0.5)


def test_without_a_trained_configuration_there_is_no_figure_2():
    assert plateau.configurations([entry(Y, PERFECT, configurations=trained(None))]) == []


def test_the_spread_between_encoders_by_hand():
    entries = [
        entry(Y, PERFECT, router="r", encoder="e1"),
        entry(Y, ALWAYS_A, router="r", encoder="e2"),
        entry(Y, ALWAYS_B, router="s", encoder="e1"),
        entry(Y, ALWAYS_B, router="s", encoder="e2"),
        entry(Y, ALWAYS_B, router="t", encoder="e1"),
    ]
    (found,) = plateau.encoder_spreads(entries)
    std = 0.25 / 2**0.5
    assert found.std == {"r": pytest.approx(std), "s": 0.0}
    assert found.mean_std == pytest.approx(std / 2) and found.small == 0.5
    summary, by_encoder = plateau.encoder_sheets(entries)
    assert summary.rows == (("bench", 2, 2, pytest.approx(std / 2), 0.0, pytest.approx(std), 0.5),)
    assert by_encoder.rows[-1] == ("t", 0.5, None, None)
    with pytest.raises(UsageError, match="two encoders"):
        plateau.encoder_sheets(entries[-1:])


def test_where_labels_are_missing_the_order_goes_by_the_lower_end_and_both_are_told():
    Y = np.array([[1, 1, 0], [1, 0, 1], [np.nan, 1, 0], [np.nan, 0, 1]], np.float32)
    avoids, answers = (
        np.zeros(4, int),
        np.array([1, 2, 1, 0]),
    )  # 1 of 1 and 3 of 3 known: 2 to 4, and 3 to 4 right
    sheets = plateau.accuracy_sheets([entry(Y, avoids, router="avoids"), entry(Y, answers, router="answers")])
    assert [row[0] for row in sheets[0].rows[:2]] == ["answers", "avoids"]
    assert "avoids 50.00 to 100.00" in str(sheets[0].notes) and "answers 75.00 to 100.00" in str(
        sheets[0].notes
    )
    (summary, *_) = plateau.configuration_sheets([entry(Y, avoids, router="avoids")])
    assert "labels of what was chosen are missing" in str(summary.notes)
