"""Result files: what is written comes back, and what is no result is refused with the reason."""

import json

import numpy as np
import pytest
from tests import entries

from rph.distribution import OURS
from rph.errors import UsageError
from rph.results import files
from rph.results.cell import CellResult
from rph.results.files import EASY, HARD, NEITHER

NAN = np.nan
# Model a is the best on train. Hard: one correct model, or few and a wrong. The last two: unsolvable, unobserved.
LABELS = [[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0], [NAN, NAN, NAN]]
ENTRY = entries.entry(
    LABELS, [[0, 1, 1, 2, 0], [0, 0, 2, 2, 1]], train=[[1, 1, 0], [1, 0, 0]], costs=[3, 2, 1]
)


@pytest.fixture
def written(tmp_path):
    return files.write(tmp_path, ENTRY.result, ENTRY.queries)


def test_what_every_query_met_by_hand():
    queries = ENTRY.queries
    np.testing.assert_array_equal(queries.labels, [[1, 0, 1, 0, NAN], [1, 1, 1, 0, NAN]])
    assert queries.difficulty.tolist() == [EASY, HARD, HARD, NEITHER, NEITHER]
    np.testing.assert_array_equal(queries.best, [1, 1, 1, 0, NAN])
    np.testing.assert_array_equal(queries.floor, [1, 1, 0, 0, NAN])


def test_what_is_written_comes_back(written, tmp_path):
    assert written == tmp_path / "bench" / "router" / "encoder.json"
    again = files.read(written)
    assert again.result == ENTRY.result
    assert again.queries.arrays().keys() == ENTRY.queries.arrays().keys() > files.ARRAYS.keys()
    for name, array in again.queries.arrays().items():
        np.testing.assert_array_equal(array, ENTRY.queries.arrays()[name])
    assert list(files.find(tmp_path)) == [written]


def test_an_encoders_name_may_hold_dots(tmp_path):
    dotted = entries.entry(LABELS, [0, 0, 0, 0, 0], encoder="qwen2.5-0.5b")
    path = files.write(tmp_path, dotted.result, dotted.queries)
    assert (path.name, files.queries_path(path).name) == (
        "qwen2.5-0.5b.json",
        "qwen2.5-0.5b.queries.npz",
    )
    assert files.read(path).result == dotted.result


@pytest.mark.parametrize("strict", [False, True])
def test_the_distributions_former_name_is_read_as_its_own(written, strict):
    content = json.loads(written.read_text())
    assert content["router_distribution"] == OURS and OURS in content["packages"]
    content["router_distribution"], content["packages"] = "rph", {"rph": "0.1.0"}
    former = json.dumps(content)
    assert CellResult.model_validate_json(former, strict=strict) == ENTRY.result
    other = former.replace('"rph"', '"rph-mine"')  # and no other name is
    result = CellResult.model_validate_json(other, strict=strict)
    assert (result.router_distribution, result.packages) == ("rph-mine", {"rph-mine": "0.1.0"})


@pytest.mark.parametrize("name", ["..", "a/b", "a b", "", ".hidden", "<b>"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    result = ENTRY.result.model_copy(update={"router": name})
    with pytest.raises(UsageError, match="cannot be a file"):
        files.write(tmp_path, result, ENTRY.queries)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": "rph-result/4"}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"test_accuracy_mean": "high"}, "test_accuracy_mean"),
        ({"seeds": [1, 2]}, "seeds"),
        ({"n_test": 4}, "not int64|not uint16"),
        ({"models": ["a", "b"]}, "reference.model_accuracy has 3 values for 2 models"),
        ({"models": ["a", "b", "d"]}, "selection_share is not of the models"),
    ],
)
def test_a_json_that_is_no_result_is_refused(written, change, why):
    written.write_text(json.dumps(json.loads(written.read_text()) | change))
    with pytest.raises(UsageError, match=why):
        files.read(written)


def test_missing_damaged_and_foreign_queries_are_refused(written):
    file = files.queries_path(written)
    good = ENTRY.queries.arrays()
    for bad, why in (
        (good | {"routes": good["routes"].astype(np.int16)}, "int16"),
        (good | {"labels": good["labels"].T.copy()}, "labels"),
        (good | {"routes": good["routes"] + np.uint16(2)}, "a route leads to no model: there are 3"),
        (good | {"more": np.zeros(1)}, "more"),
        (good | {"more/low": np.zeros(1)}, "more/low"),
        ({name: good[name] for name in good if name != "seeds"}, "seeds"),
        ({name: good[name] for name in good if name != "holes/cells"}, "holes/cells"),
        (good | {"best": np.array([{}] * 5)}, "pickle"),
    ):
        np.savez(file, **bad)
        with pytest.raises(UsageError, match=why):
            files.read(written)
    file.write_bytes(b"no zip")
    with pytest.raises(UsageError):
        files.read(written)
    file.unlink()
    with pytest.raises(UsageError, match="No such file"):
        files.read(written)
    files.write(written.parents[2], ENTRY.result, ENTRY.queries)
    assert files.read(written).result == ENTRY.result
