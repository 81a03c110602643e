"""What is found in a benchmark: each kind on a table made for it, by hand-computed values; and what is kept of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rph import RoutingDataset, Split
from rph.data import checking
from rph.data.checking import Check, Finding, check, checked, rest_correlations, told
from rph.holes import Holes

NAN = float("nan")


def split(name, labels, texts=None, tasks=None):
    n = len(labels)
    return Split(
        ids=[f"{name}-{i}" for i in range(n)],
        queries=texts or [f"the text {i} of {name}" for i in range(n)],
        tasks=tasks or ["a task"] * n,
        labels=np.asarray(labels, np.float32),
    )


def dataset(train=((0, 1), (1, 0)), val=((0, 1), (1, 0)), test=((0, 1), (1, 0)), models=None, **fields):
    """Fields are `texts` and `tasks`: split name -> of each query."""
    splits = {
        name: split(
            name, labels, **{field: values[name] for field, values in fields.items() if name in values}
        )
        for name, labels in (("train", train), ("val", val), ("test", test))
    }
    K = len(train[0])
    return RoutingDataset(name="made", models=models or tuple("abcdefghij"[:K]), **splits)


def found(of, kind):
    """The one finding of this kind; None where there is none."""
    matching = [finding for finding in check(of).findings if finding.kind == kind]
    assert len(matching) <= 1
    return matching[0] if matching else None


def test_a_table_without_faults_has_no_finding():
    assert check(dataset()).findings == ()
    alone = [(0,), (1,)]  # a pool of one model
    assert check(dataset(alone, alone, alone)) == Check(findings=(), correlations={"a": None})


# --- labels at the wrong queries ----------------------------------------------------------------------


def test_the_correlation_is_that_within_tasks_of_a_model_with_the_mean_of_the_others():
    # Task 0, models b and c on four queries: means 0, .5, .5, 1; a is 0, 0, 1, 1. About their means of .5 the rest is
    # -.5, 0, 0, .5 and a is -.5, -.5, .5, .5: products .25 + .25, squares .5 and 1, so .5 / sqrt(.5) = .7071.
    labels = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]], np.float32)
    assert rest_correlations(labels, np.zeros(4, int))[0] == pytest.approx(0.5**0.5)
    # A second task in which all are right, and a third in which all are wrong: across tasks they would agree better.
    easy = np.concatenate([labels, np.ones((5, 3)), np.zeros((5, 3))]).astype(np.float32)
    assert rest_correlations(easy, np.repeat([0, 1, 2], [4, 5, 5]))[0] == pytest.approx(0.5**0.5)
    assert rest_correlations(easy, np.zeros(14, int))[0] > 0.85


def test_queries_on_which_only_one_model_was_observed_and_constant_models_say_nothing():
    labels = np.array([[0, 0, NAN], [1, 1, NAN], [1, NAN, NAN], [0, NAN, NAN]], np.float32)
    np.testing.assert_array_equal(rest_correlations(labels, np.zeros(4, int)), [1, 1, NAN])
    constant = np.array([[1, 0, 0], [1, 1, 1], [1, 0, 0]], np.float32)
    np.testing.assert_allclose(rest_correlations(constant, np.zeros(3, int)), [NAN, 1, 1])
    assert check(dataset(constant, constant, constant)).correlations == {"a": None, "b": 1, "c": 1}


@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 4), st.floats(0, 0.6))
def test_correlations_are_those_of_a_loop_over_queries(seed, K, tasks, missing):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (30, K)).astype(np.float32) / 2
    labels[rng.random((30, K)) < missing] = NAN
    task = rng.integers(0, tasks, 30)
    for m, value in enumerate(rest_correlations(labels, task)):
        pairs = {t: [] for t in range(tasks)}
        for row, t in zip(labels, task, strict=True):
            others = [row[o] for o in range(K) if o != m and not np.isnan(row[o])]
            if others and not np.isnan(row[m]):
                pairs[t].append((row[m], sum(others) / len(others)))
        centred = np.concatenate(
            [np.array(each) - np.mean(each, axis=0) for each in pairs.values() if each] or [np.zeros((1, 2))]
        )
        if (np.square(centred).sum(axis=0) > 1e-6).all():
            expected = (centred[:, 0] @ centred[:, 1]) / np.sqrt(np.square(centred).sum(axis=0).prod())
            assert value == pytest.approx(expected, abs=1e-6)
        else:
            assert np.isnan(value)


def hard_and_easy(n=200, K=6, seed=0):
    """Labels [n, K]: half of the queries are hard, and each model errs against that on a fifth of them."""
    rng = np.random.default_rng(seed)
    easy = rng.integers(0, 2, (n, 1))
    return np.where(rng.random((n, K)) < 0.2, 1 - easy, easy).astype(np.float32)


def test_labels_in_another_order_are_told_by_the_median():
    labels = hard_and_easy()
    whole = dataset(labels[:100], labels[100:150], labels[150:])
    assert found(whole, "misaligned") is None and check(whole).median > 0.45
    rng = np.random.default_rng(1)
    mixed = labels.copy()
    for m in range(5):
        mixed[:, m] = rng.permutation(mixed[:, m])
    shuffled = dataset(mixed[:100], mixed[100:150], mixed[150:])
    finding = found(shuffled, "misaligned")
    assert finding.count >= 5 and "0.0" in finding.what
    one = labels.copy()  # one model alone is listed, and judges no table
    one[:, 0] = rng.permutation(one[:, 0])
    result = check(dataset(one[:100], one[100:150], one[150:]))
    assert result.correlations["a"] < 0.3 < result.median
    assert "misaligned" not in [finding.kind for finding in result.findings]


@pytest.mark.parametrize(("n", "K"), [(200, 4), (99, 6)])
def test_a_small_pool_or_table_is_not_judged(n, K):
    labels = np.random.default_rng(0).integers(0, 2, (n, K)).astype(np.float32)
    result = check(dataset(labels[:50], labels[50:70], labels[70:]))
    assert result.median < 0.3 and "misaligned" not in [finding.kind for finding in result.findings]


# --- texts --------------------------------------------------------------------------------------------


def test_a_text_of_an_earlier_split_is_a_leak_in_whatever_form():
    leaking = dataset(
        texts={"train": ["What is it?", "one"], "val": ["two", "ONE "], "test": ["what  is it?", "Two"]}
    )
    finding = found(leaking, "leak")
    assert finding.count == 3
    assert finding.examples == (
        "val 'val-1' is train 'train-1'",
        "test 'test-0' is train 'train-0'",
        "test 'test-1' is val 'val-0'",
    )
    assert found(leaking, "repeated-text") is None and found(leaking, "near-leak") is None


def test_a_text_twice_in_one_split_is_repeated_and_no_leak():
    again = dataset(train=[(0, 1)] * 4, texts={"train": ["it", "other", "It", "it\n"]})
    finding = found(again, "repeated-text")
    assert (finding.count, finding.examples[0]) == (2, "train 'train-2' is train 'train-0'")
    assert found(again, "leak") is None


LONG = " ".join(f"word{i}" for i in range(60))


def test_a_text_that_is_nearly_one_of_an_earlier_split_is_named_with_it():
    texts = {"train": ["other", LONG], "val": [LONG + "!", "two"], "test": ["three", LONG + " please"]}
    finding = found(dataset(texts=texts), "near-leak")
    assert finding.count == 2
    assert finding.examples == (
        "val 'val-0' is nearly train 'train-1'",
        "test 'test-1' is nearly train 'train-1'",
    )
    texts |= {"test": ["three", LONG]}  # equal to one of train: a leak, and not also near
    assert found(dataset(texts=texts), "near-leak").count == 1
    assert found(dataset(texts=texts), "leak").count == 1
    within = {"train": [LONG, LONG + "!"]}
    assert found(dataset(texts=within), "near-leak") is None


# --- models -------------------------------------------------------------------------------------------


def test_a_model_of_which_all_labels_are_equal_is_constant():
    labels = [(0, 1, 0.5), (1, 1, NAN)]
    finding = found(dataset(labels, labels, labels), "constant-model")
    assert finding.examples == ("'b', always 1", "'c', always 0.5")


def test_a_model_without_a_label_in_val_or_test_is_unobserved():
    finding = found(dataset(val=[(0, NAN), (1, NAN)], test=[(NAN, NAN)]), "unobserved-model")
    assert finding.examples == ("'b' in val", "'a' in test", "'b' in test")


def test_a_block_is_a_task_of_some_size_on_which_a_model_was_never_observed():
    tasks = ["sums"] * 20 + ["prose"] * 19
    labels = [(i % 2, NAN) for i in range(39)]
    labels[-1] = (0, 1)  # validity asks for one label
    finding = found(dataset(train=labels, tasks={"train": tasks}), "block")
    assert (finding.count, finding.examples) == (1, ("'b' on 'sums'",))
    labels[3] = (0, 1)
    assert found(dataset(train=labels, tasks={"train": tasks}), "block") is None


def test_missing_labels_without_any_task_are_told():
    labels = [(0, NAN), (NAN, 0)]
    tasks = {name: ["", ""] for name in ("train", "val", "test")}
    finding = found(dataset(labels, tasks=tasks), "no-tasks")
    assert (finding.count, finding.examples) == (2, ("train 'train-0', model 'b'",))
    assert found(dataset(labels), "no-tasks") is None
    assert found(dataset(tasks=tasks), "no-tasks") is None


def test_two_models_with_nearly_the_same_labels_are_named():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2, 200)
    near = one.copy()
    near[:2] = 1 - near[:2]  # 2 of 150 labels differ: a correlation of about .97
    far = one.copy()
    far[:20] = 1 - far[:20]  # 20 of 150: .73
    labels = np.stack([one, far, near], axis=1).astype(np.float32)
    labels[150:, 0] = NAN
    cut = dataset(labels[:100], labels[100:150], labels[150:])
    finding = found(cut, "agreeing-models")
    expected = np.corrcoef(labels[:150, 0], labels[:150, 2])[0, 1]
    assert (finding.count, finding.examples) == (1, (f"'a' and 'c' ({expected:.2f})",))
    few = np.where(np.arange(200)[:, None] < 19, labels, [[NAN, 0, 1]]).astype(np.float32)
    few[19:, 1] = one[19:]
    assert found(dataset(few[:100], few[100:150], few[150:]), "agreeing-models") is None


@pytest.mark.parametrize("other", ["small ", "Small", "s mall", "\uff53mall"])
def test_names_that_differ_in_blanks_case_or_form_alone_are_told(other):
    finding = found(dataset(models=("small", other)), "similar-names")
    assert finding.examples == (f"'small' and {other!r}",)
    assert found(dataset(models=("small", "small-2")), "similar-names") is None


# --- told and kept ------------------------------------------------------------------------------------


def finding(kind, count=1):
    return Finding(
        kind=kind, what=f"what {kind} is", count=count, examples=("the first", "another"), fix="mend it"
    )


def test_what_makes_numbers_wrong_has_a_line_of_its_own_and_the_others_share_one():
    assert told([]) == []
    lines = told([finding("block", 1200), finding("leak", 3), finding("near-leak")])
    assert lines == [
        "what leak is: 3, the first: the first",
        "rph data check also finds: block (1,200), near-leak (1)",
    ]


def test_what_was_found_is_kept_by_the_content_and_computed_again_where_it_is_damaged(rph_home, monkeypatch):
    made = dataset(texts={"train": ["it", "other"], "test": ["it", "more"]})
    first = checked(made)
    assert first == check(made) and first.findings
    (file,) = (rph_home / "checks").iterdir()
    assert file.name == f"{made.fingerprint}-v{checking.VERSION}.json"
    monkeypatch.setattr(checking, "check", lambda dataset: pytest.fail("it was computed again"))
    assert checked(made) == checked(replace(made, name="another")) == first
    again = Check(findings=(finding("leak"),), correlations={"a": None, "b": 0.25})
    monkeypatch.setattr(checking, "check", lambda dataset: again)
    for damaged in (b"", b"\xff", b"[]", b'{"findings": [{}]}', file.read_bytes()[:-9]):
        file.write_bytes(damaged)
        assert checked(made) == again
        assert json.loads(file.read_bytes())["correlations"] == {"a": None, "b": 0.25}


def test_a_home_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RPH_HOME", str(tmp_path / "file"))
    assert checked(dataset()).findings == ()


# --- holes that a plan made ---------------------------------------------------------------------------


def planned(**said):
    """On 100 queries a was asked all, b every second, c none."""
    rows = np.array([(1, i % 4 // 2 if i % 2 else NAN, NAN) for i in range(100)], np.float32)
    rest = [(1, 0, 1), (0, 1, 0)]
    return replace(dataset(rows, rest, rest), holes=Holes(planned=True, **said))


def test_a_model_that_a_plan_never_asked_is_to_be_declared():
    assert found(planned(), "never-asked").examples == ("'c' on 'a task'",)
    declared = planned(blocks=frozenset({("a task", "c")}))
    assert found(declared, "never-asked") is None and found(declared, "block").count == 1
    assert found(replace(planned(), holes=Holes()), "never-asked") is None  # there it is a block


def test_a_plan_is_held_against_what_was_asked():
    # The standard error of a share of .5 of 100 queries is .05: .5 was asked of b, and .2 is 7.5 errors of .04 away.
    assert found(planned(plan={("a task", "b"): 0.6}), "plan-differs") is None
    (odd,) = found(planned(plan={("a task", "b"): 0.2}), "plan-differs").examples
    assert odd == "'b' on 'a task': 0.2 planned, 0.5 asked"
    assert found(planned(plan={("a task", "a"): 0.9}), "plan-differs") is None  # .1 is 3.3 errors of .03
    assert found(planned(plan={("a task", "a"): 0.5}), "plan-differs").count == 1
