"""Figures: what is drawn is what was measured, read back from the figures, and no name breaks them."""

import itertools
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from tests.entries import entry

from rph.board import ranking
from rph.study import bottleneck, figures, panels, plateau, utility

SVG = "{http://www.w3.org/2000/svg}"
# Four queries, three models: a is right on the first three, b on the last two, c on none.
LABELS = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
COSTS = [0.001, 0.003, 0.002]
HOSTILE = "$\\frac{<script>alert(1)</script>&\x1b'\""


def board(*entries):
    (found,) = ranking.boards(entries, resamples=200)
    return found


def marks(figure, name):
    """The artists that were drawn under this name."""
    return [artist for ax in figure.axes for artist in ax.get_children() if artist.get_label() == name]


def points(figure, name):
    return [tuple(point) for artist in marks(figure, name) for point in artist.get_xydata().tolist()]


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def drawings(*entries):
    return {d.name: d for d in figures.draw(entries, ranking.boards(entries, resamples=200))}


# --- Fig. 1 -----------------------------------------------------------------------------------------


def test_accuracy_against_normalised_cost_with_band_and_oracle():
    (plane,) = utility.planes(
        [
            entry(LABELS, [0, 0, 0, 1], router="r", costs=COSTS),
            entry(LABELS, [2, 2, 2, 2], router="s", costs=COSTS),
        ]
    )
    figure = figures.accuracy_cost(plane).figure
    # r pays 3 x 0.001 + 0.003 over four queries: 0.0015, a quarter of the way from 0.001 to 0.003
    assert points(figure, "routers") == [(pytest.approx(0.25), 100.0), (pytest.approx(0.5), 0.0)]
    assert sorted(points(figure, "models")) == [(0.0, 75.0), (pytest.approx(0.5), 0.0), (1.0, 50.0)]
    (band,) = marks(figure, "plateau")
    assert (band.get_y(), band.get_height()) == (pytest.approx(98), pytest.approx(2))
    (oracle,) = marks(figure, "oracle")
    assert oracle.get_ydata() == [100, 100] and "oracle 100.0" in texts(figure)
    assert {"a", "b", "c"} <= set(texts(figure))


def test_what_has_no_known_cost_is_counted_and_not_drawn():
    spots = [
        utility.Spot(name=name, family="", accuracy=0.5, cost=None, normalised_cost=x)
        for name, x in (("known", 0.5), ("unknown", None))
    ]
    plane = utility.Plane(name="bench", routers=tuple(spots), models=(), band=None, oracle=None)
    drawing = figures.accuracy_cost(plane)
    assert points(drawing.figure, "routers") == [(0.5, 50)]
    assert "Not shown: 1, of unknown" in drawing.caption


def test_without_costs_accuracies_alone_are_drawn_and_it_says_so():
    (plane,) = utility.planes([entry(LABELS, [0, 0, 0, 0], router="r"), entry(LABELS, [1] * 4, router="s")])
    drawing = figures.accuracy_cost(plane)
    assert points(drawing.figure, "routers") == [(1, 75), (2, 50)]
    assert points(drawing.figure, "models") == [(1, 75), (2, 50), (3, 0)]
    assert "no costs" in drawing.figure.axes[0].get_xlabel() and "no costs" in drawing.caption


# --- Fig. 2 and 3 -----------------------------------------------------------------------------------


def test_every_configuration_is_a_dot_and_the_band_holds_the_best_tenth():
    routes = [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]]  # 75, 50 and 100 %
    found = plateau.configurations([entry(LABELS, routes), entry(LABELS, [2] * 4, bench="other")])
    figure = figures.configurations(found).figure
    assert [len(ax.lines[0].get_xdata()) for ax in figure.axes] == [3, 1]
    assert points(figure, "configurations")[:3] == [(1, 100), (2, 75), (3, 50)]
    band = marks(figure, "plateau")[0]
    assert (band.get_y(), band.get_y() + band.get_height()) == (pytest.approx(95), pytest.approx(100))


def test_the_spread_needs_two_encoders_and_is_their_sample_deviation():
    one = entry(LABELS, [0] * 4, encoder="e1")
    alone = figures.encoder_spread(plateau.encoder_spreads([one]))
    assert alone.figure is None and "two encoders" in alone.caption
    two = entry(LABELS, [1] * 4, encoder="e2")
    figure = figures.encoder_spread(plateau.encoder_spreads([one, two])).figure
    std = 25 / np.sqrt(2)  # of 75 and 50
    assert points(figure, "routers") == [(pytest.approx(std), 0)]
    assert points(figure, "mean") == [(pytest.approx(std), 0)]
    assert texts(figure) == ["router"]


# --- Fig. 4 -----------------------------------------------------------------------------------------


def widths(ax, name):
    return [bar.get_width() for bars in ax.containers if bars.get_label() == name for bar in bars]


def test_selections_stand_beside_the_truth():
    (found,) = bottleneck.selections([entry(LABELS, [0, 0, 0, 1])])
    figure = figures.selections(found).figure
    truth, router = figure.axes
    assert truth.get_title(loc="left") == "truth" and router.get_title(loc="left") == "router"
    assert widths(truth, "all") == pytest.approx([62.5, 37.5, 0])  # the third query is shared by a and b
    assert widths(router, "all") == [75, 25, 0]
    assert widths(router, "hard") == pytest.approx([200 / 3, 100 / 3, 0])  # hard: one model alone is right
    assert [label.get_text() for label in truth.get_yticklabels()] == ["a", "b", "c"]


def test_models_beyond_the_last_bar_are_added_up():
    labels = np.eye(20)
    (found,) = bottleneck.selections([entry(labels, np.arange(20))])
    figure = figures.selections(found).figure
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == panels.BARS and names[-1] == "9 others"
    for ax in figure.axes:
        assert widths(ax, "all") == pytest.approx([5.0] * 11 + [45.0])


def test_without_hard_queries_there_are_no_hard_bars():
    (found,) = bottleneck.selections([entry([[1, 1]] * 4, [0, 0, 1, 1])])
    for ax in figures.selections(found).figure.axes:
        assert widths(ax, "all") == [50, 50] and not widths(ax, "hard")


# --- of one board -----------------------------------------------------------------------------------


def test_intervals_are_those_of_the_board_and_the_plateau_is_red():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 2)) < [0.9, 0.1]).astype(float)
    found = board(
        entry(labels, np.zeros(300, int), router="good"),
        entry(labels, [0] * 299 + [1], router="twin"),
        entry(labels, np.ones(300, int), router="bad"),
    )
    figure = figures.intervals(found).figure
    assert [y for _, y in points(figure, "accuracy")] == [0, 1, 2]
    assert [x for x, _ in points(figure, "accuracy")] == pytest.approx([100 * r.accuracy for r in found.rows])
    drawn = [tuple(line.get_xdata()) for line in marks(figure, "interval")]
    assert drawn == [(100 * low, 100 * high) for low, high in (row.interval for row in found.rows)]
    colors = [to_hex(line.get_color()) for line in marks(figure, "interval")]
    assert colors == [panels.RED, panels.RED, panels.BLUE]
    assert {"tier 1", "tier 2"} <= set(texts(figure)) and len(marks(figure, "tier")) == 1
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [name.split()[0] for name in names] == [row.entry.result.router for row in found.rows]


def test_reference_rows_are_lines_or_stand_at_the_edge():
    labels = np.tile([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]], (200, 1))
    figure = figures.intervals(board(entry(labels, np.zeros(800, int)))).figure
    (line,) = marks(figure, "best single: a")
    assert line.get_xdata() == [75, 75]
    assert any(text.startswith("← random 33.3") and text.endswith("oracle 100.0 →") for text in texts(figure))


def test_the_frontier_steps_through_what_no_router_beats():
    # The utility prefers the cheap model a as soon as costs count, so each curve has two ends at most.
    found = board(
        entry(LABELS, [0, 0, 0, 1], router="r", costs=COSTS), entry(LABELS, [1] * 4, router="s", costs=COSTS)
    )
    figure = figures.frontier(found).figure
    assert set(points(figure, "routers")) == {
        (1000 * p.cost, 100 * p.accuracy) for row in found.rows for p in row.entry.result.curve
    }
    steps = points(figure, "frontier")
    assert steps == [pytest.approx(corner) for corner in ((1, 75), (1.5, 75), (1.5, 100))]
    mixture = dict(points(figure, "mixture"))
    assert mixture[max(mixture)] == 75  # b is dearer than a, and worse
    assert len(points(figure, "models")) == 3 and "best of 2 routers" in texts(figure)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "costs, scale", [([0, 0, 0], "linear"), ([0, 0.003, 0.002], "linear"), (COSTS, "log")]
)
def test_a_free_model_has_no_place_on_a_logarithmic_axis(costs, scale):
    figure = figures.frontier(board(entry(LABELS, [0, 0, 0, 1], costs=costs))).figure
    assert figure.axes[0].get_xscale() == scale and len(points(figure, "models")) == 3
    assert points(figure, "mixture")[-1] == (pytest.approx(1000 * max(costs)), 75)


def test_without_costs_there_is_no_frontier():
    drawing = figures.frontier(board(entry(LABELS, [0] * 4)))
    assert drawing.figure is None and "no costs" in drawing.caption


def test_cells_hold_the_share_of_queries_routed_apart():
    found = board(
        entry(LABELS, [0, 0, 0, 0], router="x"),
        entry(LABELS, [0, 0, 0, 1], router="y"),
        entry(LABELS, [1, 1, 1, 1], router="z"),
    )
    figure = figures.agreement(found).figure
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    apart = {"xy": "25", "yz": "75", "xz": "100"}
    pairs = ["".join(sorted(pair)) for pair in itertools.permutations(names, 2)]
    assert texts(figure) == [apart[pair] for pair in pairs]
    figure.draw_without_rendering()
    (cells,) = marks(figure, "cells")
    assert cells.get_facecolor()[:, 3].max() == pytest.approx(0.9)  # the diagonal is darkest


def test_one_router_is_compared_with_nobody():
    drawing = figures.agreement(board(entry(LABELS, [0] * 4)))
    assert drawing.figure is None and "nothing to compare" in drawing.caption


# --- all of them ------------------------------------------------------------------------------------


@pytest.fixture
def hostile():
    names = {"bench": HOSTILE, "encoder": HOSTILE}
    return [
        entry(LABELS, [0, 0, 0, 1], router=HOSTILE, costs=COSTS, **names),
        entry(LABELS, [1] * 4, router="other", costs=COSTS, **names),
    ]


@pytest.mark.filterwarnings("error")
def test_a_hostile_name_is_text_in_every_figure(hostile):
    shown = HOSTILE.replace("\x1b", "�")
    for drawing in drawings(*hostile).values():
        if drawing.figure is None:
            continue
        root = ElementTree.fromstring(figures.svg(drawing.figure))
        assert root.tag == f"{SVG}svg" and not list(root.iter(f"{SVG}script"))
        written = "".join(text.text or "" for text in root.iter(f"{SVG}text"))
        assert panels.short(shown, 18) in written or panels.short(shown) in written or shown in written


def test_a_hostile_benchmark_does_not_leave_the_folder(tmp_path):
    found = drawings(entry(LABELS, [0] * 4, bench="../../x/y", encoder="..", costs=COSTS))
    for drawing in found.values():
        if (path := figures.save(drawing, tmp_path, "svg")) is not None:
            assert path.parent == tmp_path and path.is_file()


def test_two_releases_of_a_benchmark_are_two_files():
    names = [d.name for d in figures.draw(*_two_releases())]
    assert len(names) == len(set(names))


def _two_releases():
    entries = [entry(LABELS, [0] * 4), entry(LABELS[:3], [0] * 3)]
    return entries, ranking.boards(entries, resamples=200)


@pytest.mark.parametrize("form, start", [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_figures_are_written_and_the_same_results_give_the_same_bytes(tmp_path, form, start):
    made = []
    for folder in (tmp_path / "1", tmp_path / "2"):
        (plane,) = utility.planes([entry(LABELS, [0, 0, 0, 1], costs=COSTS)])
        path = figures.save(figures.accuracy_cost(plane), folder, form)
        assert path.name == f"fig1-cost-bench.{form}"
        made.append(path.read_bytes())
    assert made[0].startswith(start) and made[0] == made[1]


def test_drawing_leaves_matplotlib_as_it_was(hostile):
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawings(*hostile)
    assert dict(matplotlib.rcParams) == before


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.text("abcdef-/", min_size=1, max_size=30)),
        min_size=1,
        max_size=15,
    )
)
def test_labels_cover_neither_each_other_nor_a_point(found):
    spots = tuple(
        utility.Spot(name=name, family="", accuracy=y, cost=x, normalised_cost=x) for x, y, name in found
    )
    plane = utility.Plane(name="bench", routers=spots[:1], models=spots, band=None, oracle=None)
    figure = figures.accuracy_cost(plane).figure
    (ax,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    places = ax.transData.transform([(x, 100 * y) for x, y, _ in found])
    assert not any(box.contains(*place) for box in boxes for place in places)
