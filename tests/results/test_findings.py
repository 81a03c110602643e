"""The block `data`: what was found in the benchmark comes back from a result as it was told."""

import pytest
from tests import entries

from rph.data.checking import VERSION, Check, Finding, told
from rph.results import blocks, findings

LEAK = Finding(kind="leak", what="texts in two splits", count=2, examples=("x", "y"), fix="mend it")
BLOCK = Finding(kind="block", what="never observed", count=7, examples=("z",), fix="compare with care")
FOUND = Check(findings=(LEAK, BLOCK))


def having(content):
    return entries.entry([[1, 0]], [0], blocks=content).result


def test_the_block_of_a_check_is_held_to_its_record_and_told_again():
    content = {"data": findings.record(FOUND).model_dump(mode="json")}
    assert content["data"]["version"] == VERSION
    assert [one["kind"] for one in content["data"]["findings"]] == ["leak", "block"]
    result = having(content)
    assert list(blocks.problems(result)) == []
    assert findings.told(result) == told(FOUND.findings)


def test_where_nothing_was_found_there_is_no_block():
    assert findings.record(Check(findings=())) is None
    assert findings.told(having({})) == []


@pytest.mark.parametrize(
    ("field", "value"), [("examples", []), ("count", 0), ("count", "2"), ("kind", None), ("more", 1)]
)
def test_a_finding_that_could_not_be_told_is_refused(field, value):
    content = {"data": findings.record(FOUND).model_dump(mode="json")}
    content["data"]["findings"][1][field] = value
    (problem,) = blocks.problems(having(content))
    assert problem.startswith(f"blocks.data.findings.1.{field}: ")
