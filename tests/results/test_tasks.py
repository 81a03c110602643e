"""Accuracy per task and language, and the row that knows the task alone: worked out by hand, and read back from files."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import entries

from rph import RoutingDataset, Split
from rph.data.routing_table import read
from rph.holes import REASONS, Holes
from rph.results import blocks, files, metrics, recompute, tasks

NAN = float("nan")
# On train a is best on maths (3 of 4), b on law (2 of 2), and a in all (4 of 6; b has 3 of 6).
TRAIN = [[1, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]]
TRAIN_TASKS = ["maths"] * 4 + ["law"] * 2
#           maths            law              art: not on train
TEST = [[1, 0], [0, 1], [0, 1], [1, 1], [0, 0], [1, 0]]
TEST_TASKS = ["maths", "maths", "law", "law", "art", ""]
ROUTES = [[0, 0, 0, 1, 0, 1], [0, 1, 1, 1, 0, 0]]  # two seeds: right on 2 and on 5 of 6


def cell(labels=TEST, routes=ROUTES, **changes):
    how = {"train": TRAIN, "tasks": TEST_TASKS, "train_tasks": TRAIN_TASKS} | changes
    return entries.entry(labels, routes, **how)


def exactly(value):
    return tasks.Accuracy(value=value, low=value, high=value)


def test_accuracy_per_task_by_hand():
    found = tasks.of(cell().result)
    assert [(one.name, one.n_test, one.model) for one in found.tasks] == [
        ("", 1, "a"), ("art", 1, "a"), ("law", 2, "b"), ("maths", 2, "a"),
    ]  # fmt: skip
    unknown, art, law, maths = found.tasks
    assert (maths.router, maths.best_single, maths.best_per_task) == (
        exactly(0.75),
        exactly(0.5),
        exactly(0.5),
    )
    assert (law.router, law.best_single, law.best_per_task) == (exactly(0.75), exactly(0.5), exactly(1))
    assert (art.router, art.best_per_task, art.oracle) == (exactly(0), exactly(0), 0)
    assert (unknown.router, unknown.best_per_task, unknown.oracle) == (exactly(0.5), exactly(1), 1)
    # a on maths, b on law, a elsewhere: right on 0, 2, 3 and 5; the oracle on all but 4, the seeds on 2 and on 5
    assert found.best_per_task == exactly(4 / 6)
    assert found.gap_closed == pytest.approx((3.5 - 4) / (5 - 4))


def test_the_row_is_chosen_on_train_alone():
    again = [[1 - a, 1 - b] for a, b in TEST]
    one, other = (cell(labels).queries.blocks["tasks/best_route"].tolist() for labels in (TEST, again))
    assert one == other == [0, 0, 1, 1, 0, 0]


def test_equals_go_by_level_and_a_label_makes_no_best_model():
    # law: a is right on 3 of 6, b on its one label; missing counts 0. art: b on 1 of 1; a has no label.
    train = [[1, 1], [1, NAN], [1, NAN], [0, NAN], [0, NAN], [0, NAN], [NAN, 1], [NAN, NAN]]
    found = cell(
        [[1, 0]] * 3,
        [0] * 3,
        tasks=["law", "art", "none"],
        train=train,
        train_tasks=["law"] * 6 + ["art", "none"],
    )
    # nothing is known of `none` but that it is there: best single, which is a, right on 3 of 8
    assert found.queries.blocks["tasks/best_route"].tolist() == [0, 1, 0]
    equal = cell(
        [[1, 0]],
        [0],
        tasks=["law"],
        train=[[0, 1], [1, 0], [1, 1], [1, 0]],
        train_tasks=["law"] * 2 + ["x"] * 2,
    )
    assert equal.queries.blocks["tasks/best_route"].tolist() == [0]


def dataset(train, test, *, holes, reasons=None):
    def split(name, labels, named, reasons=None):
        Y = np.array(labels, np.float32)
        ids = [f"{name}{i}" for i in range(len(Y))]
        return Split(ids=ids, queries=ids, tasks=named, labels=Y, reasons=reasons)

    of_test = split("test", test[0], test[1], reasons)
    return RoutingDataset(
        name="bench", models=("a", "b", "c"), train=split("train", *train), val=split("val", *test), test=of_test,
        holes=holes,
    )  # fmt: skip


def block(of, routes):
    """The block of a cell on this dataset."""
    queries = files.per_query(of, tuple(range(len(routes))), np.array(routes))
    return tasks.make(of, queries.arrays()), queries


def test_a_model_that_was_not_run_on_a_task_is_not_chosen_there():
    # c was run on maths only, where it is best; on law b is. The policy of c is best on train: c on maths, else a or b.
    train = ([[0, 0, 1], [1, 0, 1], [0, 1, NAN], [0, 1, NAN]], ["maths"] * 2 + ["law"] * 2)
    test = ([[0, 1, 1], [0, 1, NAN]], ["maths", "law"])
    of = dataset(train, test, holes=Holes(blocks=frozenset({("law", "c")})))
    found, queries = block(of, [[2, 1]])
    assert queries.blocks["tasks/best_route"].tolist() == [2, 1]
    assert found.best_per_task == exactly(1)
    assert {one.name: one.model for one in found.tasks} == {"law": "b", "maths": "c"}
    assert found.gap_closed is None  # there is no gap


def test_missing_labels_leave_bounds():
    train = ([[1, 0, 0]] * 2, ["law"] * 2)
    test = ([[1, 0, 0], [NAN, 0, 1], [0, 0, 1], [NAN, 1, 1]], ["law"] * 4)
    found, _ = block(dataset(train, test, holes=Holes()), [[0, 0, 2, 1]])
    assert found.best_per_task == tasks.Accuracy(value=0.5, low=0.25, high=0.75)
    (law,) = found.tasks
    assert law.router == tasks.Accuracy(value=1, low=0.75, high=1)
    assert law.best_single == law.best_per_task
    assert found.gap_closed is None  # from (3 - 2) / (4 - 2) on: not known to .02


def test_what_was_not_asked_by_plan_counts_nothing():
    # a is asked on half of the law queries: each that was counts 2.
    reasons = np.zeros((4, 3), np.uint8)
    reasons[:2, 0] = REASONS.index("planned")
    train = ([[1, 0, 0]] * 2, ["law"] * 2)
    test = ([[NAN, 0, 0], [NAN, 0, 0], [1, 0, 0], [0, 1, 1]], ["law"] * 4)
    found, queries = block(dataset(train, test, holes=Holes(), reasons=reasons), [[0, 1, 0, 1]])
    assert queries.blocks["tasks/best_weight"].tolist() == [0, 0, 2, 2]
    assert found.best_per_task == exactly(0.5)
    # the seed: a on 0 and 2, b on 1 and 3; 0 counts nothing, 1 and 3 count 1, 2 counts 2
    assert found.tasks[0].router == exactly((1 * 0 + 2 * 1 + 1 * 1) / 4)


def test_accuracy_per_language_by_hand():
    of = cell(tasks=[""] * 6, languages=["en", "en", "de", "de", "de", "en"])
    assert tasks.of(of.result) is None
    german, english = tasks.languages_of(of.result).languages
    assert (german.name, german.n_test, german.router, german.best_single) == (
        "de",
        3,
        exactly(0.5),
        exactly(1 / 3),
    )
    assert (english.name, english.router, english.oracle) == ("en", exactly(2 / 3), 1)


def test_without_tasks_and_with_one_per_query_there_is_no_block():
    none = cell(tasks=None, train_tasks=None).result
    assert none.blocks == {} and tasks.of(none) is None and tasks.languages_of(none) is None
    many = tasks.MOST + 1
    ids = SimpleNamespace(test=SimpleNamespace(tasks=[str(i) for i in range(many)]))
    assert tasks.draw(ids, None) is None


def test_what_is_written_comes_back_and_is_computed_again(tmp_path):
    of = cell(languages=["en"] * 6)
    again = files.read(files.write(tmp_path, of.result, of.queries))
    assert again.result == of.result
    assert recompute.recomputed(again) == of.result
    assert not list(blocks.unverified(of.result.blocks))
    row = tasks.line(again.queries.arrays())
    assert (row.labels.tolist(), row.route.tolist(), row.weight.tolist()) == (
        [1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 0, 0], [1] * 6,
    )  # fmt: skip
    assert tasks.line(dataclasses.replace(again.queries, blocks={}).arrays()) is None


def refuted(of):
    return list(recompute.differences(of.result.model_dump(), recompute.recomputed(of).model_dump()))


@pytest.mark.parametrize("array", ["tasks/task", "tasks/best_route", "languages/language"])
@pytest.mark.parametrize("number", [2, 65535])
def test_a_claim_whose_arrays_lead_nowhere_does_not_hold(array, number):
    of = cell(languages=["en"] * 6)
    numbers = {name: values.copy() for name, values in of.queries.blocks.items()}
    numbers[array][0] = number
    assert not refuted(of)
    assert refuted(dataclasses.replace(of, queries=dataclasses.replace(of.queries, blocks=numbers)))


def test_tasks_that_are_renamed_moved_repeated_or_made_up_do_not_hold():
    of = cell()
    listed = of.result.blocks["tasks"]["tasks"]
    renamed = [{**listed[0], "name": "history"}, *listed[1:]]
    for claimed in (
        renamed,
        listed[::-1],
        [*listed, listed[-1]],
        [*listed, {**listed[-1], "name": "z"}],
        listed[1:],
    ):
        content = {"tasks": {**of.result.blocks["tasks"], "tasks": claimed}}
        assert refuted(dataclasses.replace(of, result=of.result.model_copy(update={"blocks": content})))


@given(data=st.data())
def test_tasks_add_up_to_the_whole(data):
    n = data.draw(st.integers(1, 12))
    labels = data.draw(
        st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=2), min_size=n, max_size=n)
    )
    routes = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=n, max_size=n), min_size=1, max_size=3))
    named = data.draw(st.lists(st.sampled_from(["x", "y", "z"]), min_size=n, max_size=n))
    result = cell(labels, routes, tasks=named, train_tasks=["x", "x", "y", "y", "y", "y"]).result
    found = tasks.of(result)
    assert sum(one.n_test for one in found.tasks) == n
    for read_, whole in (
        (lambda one: one.router, result.test_accuracy_mean),
        (lambda one: one.best_single, result.best_single),
        (lambda one: one.best_per_task, found.best_per_task.value),
    ):
        assert all(read_(one).low == read_(one).value == read_(one).high for one in found.tasks)
        assert sum(one.n_test * read_(one).value for one in found.tasks) == pytest.approx(n * whole)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("table", "per_task", "single"),
    [
        ("routerdc7", 0.622, 0.573),
        ("mmlupro", 0.711, 0.699),
        ("carrot-ollb2", 0.603, 0.560),
        ("llmrouter9", 0.587, 0.563),
    ],
)
def test_the_row_on_real_tables(real_data, table, per_task, single):
    of = read(real_data / table)
    Y, mask = of.test.labels, of.mask("test")
    for route, wanted in ((tasks.best_per_task(of), per_task), (metrics.floor_route(of), single)):
        assert metrics.accuracy(route, Y, mask).value == pytest.approx(wanted, abs=5e-4)
