"""Routers beside the best model per task, against tables worked out by hand."""

import pytest
from tests.entries import entry

from rph import UsageError
from rph.study import tasks

NAN = float("nan")
# On train a is best on maths (3 of 4), b on law (2 of 2), and a in all.
TRAIN = [[1, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]]
TRAIN_TASKS = ["maths"] * 4 + ["law"] * 2
TEST = [
    [1, 0],
    [0, 1],
    [0, 1],
    [0, 1],
]  # best per task is right on 0, 2 and 3; a on 0 alone; the oracle on all
TASKS = ["maths", "maths", "law", "law"]


def cell(routes, router, *, labels=TEST, **changes):
    how = {"train": TRAIN, "tasks": TASKS, "train_tasks": TRAIN_TASKS} | changes
    return entry(labels, routes, router=router, **how)


def test_routers_beside_the_best_model_per_task_by_hand():
    cells = [
        cell([0, 0, 0, 0], "single"),
        cell([0, 1, 1, 0], "good", encoder="e1"),  # right on 0, 1, 2
        cell([0, 1, 1, 1], "good", encoder="e2"),  # on all
    ]
    whole, per_task = tasks.task_sheets(cells)
    assert [column.name for column in whole.columns] == [
        "route", "accuracy", "minus best per task", "gap closed beyond",
        "tasks above best single", "tasks above best per task",
    ]  # fmt: skip
    assert whole.rows == (
        ("oracle", 1, None, None, None, None),
        ("best model per task, chosen on train", 0.75, None, None, None, None),
        ("best single", 0.25, None, None, None, None),
        ("good", 0.875, 0.125, 0.5, 2, 1),
        ("single", 0.25, -0.5, -2, 0, 0),
    )
    assert per_task.rows == (("law", 2, 1, 1, "b", 0, 0.75, 0), ("maths", 2, 1, 0.5, "a", 0.5, 1, 0.5))
    assert [column.name for column in per_task.columns] == [
        "task name", "test queries", "the oracle", "best per task", "model per task", "best single", "good", "single",
    ]  # fmt: skip
    assert "bench: encoders encoder, e1, e2." in whole.notes


def test_missing_labels_give_every_accuracy_two_ends_and_order_by_the_lower():
    labels = [[1, 0], [NAN, 1], [0, 1], [0, NAN]]
    cells = [cell([1, 0, 1, 1], "risky", labels=labels), cell([0, 0, 0, 1], "r", labels=labels)]
    whole, *per_task = tasks.task_sheets(cells)
    # Both earn 1 of 4, at most 3, and half of what was observed. Best per task: 1, unknown, 1, unknown.
    rows = {row[0]: row[1:] for row in whole.rows}
    assert rows["best model per task, chosen on train"][:3] == (1, 0.5, 1)
    assert rows["risky"][:3] == (0.5, 0.25, 0.75) and rows["r"][:3] == (0.5, 0.25, 0.75)
    # only where they choose otherwise: risky has 0 for 1 on the first; r has 0 for 1 on the third
    assert rows["risky"][3:5] == rows["r"][3:5] == (-0.25, -0.25)
    assert rows["risky"][5] is None and rows["r"][6:] == (0, 0)
    assert [column.name for column in per_task[0].columns][-2:] == ["r low", "r high"]
    assert any("low, high" in note for note in per_task[-1].notes)


def test_many_routers_stand_in_several_tables_over_the_same_rows():
    cells = [cell([0, 0, 0, i % 2], f"r{i}") for i in range(tasks.ROUTERS_WIDE + 1)]
    _, first, second = tasks.task_sheets(cells)
    assert [sheet.title for sheet in (first, second)] == [
        f"bench: accuracy per task, {i} of 2" for i in (1, 2)
    ]
    assert [row[0] for row in first.rows] == [row[0] for row in second.rows] == ["law", "maths"]
    assert len(second.columns) == 7 and not first.notes and second.notes


def test_languages_have_a_table_where_they_are_known():
    one = cell([0, 0, 0, 1], "r", tasks=None, train_tasks=None, languages=["en", "en", "de", ""])
    (sheet,) = tasks.task_sheets([one])
    assert sheet.title == "bench: accuracy per language"
    assert sheet.rows == (("(none)", 1, 1, 0, 1), ("de", 1, 1, 0, 0), ("en", 2, 1, 0.5, 0.5))


def test_results_without_tasks_are_left_out_and_named():
    bare = cell([0, 0, 0, 0], "old", tasks=None, train_tasks=None)
    whole, _ = tasks.task_sheets([cell([0, 0, 0, 0], "new"), bare])
    assert [row[0] for row in whole.rows[3:]] == ["new"]
    assert "bench: left out, without tasks: old x encoder." in whole.notes
    with pytest.raises(UsageError, match="no result has tasks"):
        tasks.task_sheets([bare])
