"""Intervals and verdicts: against a plain loop, against what is known by hand, and by how often they hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rph.results import uncertainty
from rph.results.uncertainty import interval, resample, resample_boards, verdicts, wins

NAN = np.nan


def drawn(N, resamples):
    """How often each of N queries is drawn in each resample: the means of N routers that are right on one query each."""
    one_right = {str(q): np.eye(N)[[q]] for q in range(N)}
    return np.rint(resample(one_right, resamples=resamples) * N)


def seed_weights(name, S, resamples):
    """The weight of each of a router's seeds: the means of a router that is right with one seed only."""
    return np.stack(
        [resample({name: np.eye(S)[:, [s]]}, resamples=resamples)[:, 0] for s in range(S)], axis=1
    )


def naive(labels, weights, of_seeds):
    """One router's accuracy in one resample, query by query."""
    total = 0.0
    for seed, weight in zip(labels, of_seeds, strict=True):
        counted = [(n, label) for n, label in zip(weights, seed, strict=True) if not np.isnan(label)]
        total += weight * sum(n * label for n, label in counted) / sum(n for n, _ in counted)
    return total


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_resample_is_what_a_plain_loop_makes_of_its_draws(missing):
    rng = np.random.default_rng(1)
    N, B = 40, 230  # two blocks and a part of one
    outcomes = {
        "one": rng.random((1, N)),
        "three": (rng.random((3, N)) < 0.6).astype(np.float32),
        "five": rng.random((5, N)),
    }
    for labels in outcomes.values():
        labels[rng.random(labels.shape) < missing] = NAN
    weights = drawn(N, B)
    found = resample(outcomes, resamples=B)
    assert found.shape == (B, 3)
    for r, (name, labels) in enumerate(outcomes.items()):
        S = len(labels)
        of_seeds = seed_weights(name, S, B)
        expected = [naive(labels, weights[b], of_seeds[b]) for b in range(B)]
        np.testing.assert_allclose(found[:, r], expected, rtol=0, atol=uncertainty.EQUAL)


def test_the_draws_of_queries_are_multinomial():
    N, B = 20, 20_000
    weights = drawn(N, B)
    assert (weights.sum(axis=1) == N).all() and (weights >= 0).all()
    covariance = np.cov(weights.T)
    # N p (1 - p) and -N p p with p = 1/N; the standard error of a covariance here is about 1 / sqrt(B) = 0.007
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(np.diag(covariance), 1 - 1 / N, atol=0.05)
    off = covariance[~np.eye(N, dtype=bool)]
    np.testing.assert_allclose(off, -1 / N, atol=0.04)


def test_the_draws_of_seeds_give_the_variance_of_their_mean_without_bias():
    # Five seeds that differ and queries that do not: only the seeds vary. Their sample variance is 0.00025.
    accuracies = np.array([0.50, 0.51, 0.52, 0.53, 0.54])
    found = resample({"r": np.repeat(accuracies[:, None], 30, axis=1)})[:, 0]
    assert found.mean() == pytest.approx(0.52, abs=0.0005)
    assert found.var() == pytest.approx(
        0.00025 / 5, rel=0.05
    )  # a draw of five from five would give 4/5 of it


def test_each_routers_seeds_are_drawn_on_their_own():
    labels = np.repeat([[0.4], [0.5], [0.6]], 10, axis=1)
    found = resample({"a": labels, "b": labels})
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.03


def test_a_resample_is_the_same_each_time_whoever_else_is_on_the_board():
    rng = np.random.default_rng(2)
    outcomes = {name: (rng.random((S, 50)) < 0.5).astype(float) for name, S in [("a", 1), ("b", 5), ("c", 2)]}
    found = resample(outcomes, resamples=150)
    np.testing.assert_array_equal(resample(outcomes, resamples=150), found)
    turned = resample({name: outcomes[name] for name in ("c", "a", "b")}, resamples=150)
    np.testing.assert_array_equal(turned, found[:, [2, 0, 1]])
    np.testing.assert_array_equal(resample({"b": outcomes["b"]}, resamples=150)[:, 0], found[:, 1])


def test_boards_resampled_together_are_what_each_is_alone():
    rng = np.random.default_rng(4)
    one = {name: (rng.random((S, 40)) < 0.5).astype(float) for name, S in [("a", 5), ("b", 1)]}
    other = {name: (rng.random((S, 40)) < 0.7).astype(float) for name, S in [("b", 2), ("c", 5)]}
    other["c"][:, :38] = NAN  # few are left: some resamples say nothing, of this board alone
    together = resample_boards([one, other], resamples=250)
    for outcomes, found in zip([one, other], together, strict=True):
        np.testing.assert_array_equal(found, resample(outcomes, resamples=250))
    assert len(together[0]) == 250 > len(together[1])


def test_the_number_of_threads_changes_nothing(monkeypatch):
    outcomes = {"a": np.random.default_rng(3).random((2, 50))}
    several = resample(outcomes, resamples=1000)
    monkeypatch.setattr(uncertainty, "cores", lambda: 1)
    np.testing.assert_array_equal(resample(outcomes, resamples=1000), several)


def test_a_missing_label_is_left_out_and_not_taken_for_wrong():
    found = resample({"a": np.array([[1.0, 1.0, NAN, NAN, NAN]])}, resamples=500)
    assert (found == 1).all()
    # The share of resamples without the two observed queries is (3/5)^5 = 0.078: they say nothing.
    assert 0.04 < 1 - len(found) / 500 < 0.12


def test_the_interval_is_that_of_the_percentiles():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.full(10, 0.5)) == (0.5, 0.5)


def test_a_win_is_shared_by_those_who_tie():
    accuracies = np.array([[0.5, 0.4, 0.5], [0.5, 0.6, 0.1], [0.2, 0.1, 0.1], [0.7, 0.7, 0.7 + 1e-9]])
    assert wins(accuracies) == pytest.approx(
        [(1 / 2 + 0 + 1 + 1 / 3) / 4, (1 + 1 / 3) / 4, (1 / 2 + 1 / 3) / 4]
    )


def test_verdicts_by_hand():
    # b is a and 0.1 less, always; c is a in another order of the same values, and no better.
    a = np.linspace(0.4, 0.6, 101)
    accuracies = np.stack([a, a - 0.1, a[::-1], a], axis=1)
    observed = accuracies.mean(axis=0)
    found = verdicts(observed, accuracies)
    assert found.tolist() == [[0, 1, 0, 0], [-1, 0, 0, -1], [0, 0, 0, 0], [0, 1, 0, 0]]


def test_one_difference_is_held_against_the_quantile_of_its_own_noise():
    noise = np.linspace(-1, 1, 2001)
    accuracies = np.stack([np.zeros_like(noise), noise], axis=1)  # 95 % of |noise| is below 0.95

    def told_apart(difference):
        return verdicts(np.array([0.0, difference]), np.add(accuracies, [0.0, difference])).tolist()

    assert told_apart(0.949) == [[0, 0], [0, 0]]
    assert told_apart(0.951) == [[0, -1], [1, 0]]


def test_routers_without_rivals_or_with_the_same_labels_are_not_told_apart():
    labels = np.array([[1.0, 0.0, 1.0, 1.0]])
    assert verdicts(np.array([0.75]), resample({"a": labels})).tolist() == [[0]]
    found = resample({"a": labels, "b": labels})
    assert verdicts(np.array([0.75, 0.75]), found).tolist() == [[0, 0], [0, 0]]
    assert wins(found).tolist() == [0.5, 0.5]


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(5, 40), st.floats(0, 0.4), st.integers(0, 10_000))
def test_what_holds_for_any_labels(R, N, missing, seed):
    rng = np.random.default_rng(seed)
    outcomes = {f"r{r}": (rng.random((rng.integers(1, 4), N)) < 0.5).astype(float) for r in range(R)}
    for labels in outcomes.values():
        labels[:, 1:][rng.random(labels[:, 1:].shape) < missing] = NAN
    found = resample(outcomes, resamples=200)
    assert ((found >= 0) & (found <= 1)).all()
    assert wins(found).sum() == pytest.approx(1)
    observed = np.array([np.nanmean(labels, axis=1).mean() for labels in outcomes.values()])
    verdict = verdicts(observed, found)
    better = observed[:, None] > observed[None, :]
    assert (better[verdict == 1]).all() and (better.T[verdict == -1]).all()


# --- how often they hold: worlds whose truth is known -------------------------------------------------


def worlds(times, seeds, spread, N=300, R=2):
    """R routers of equal true accuracy 0.6 on fresh queries: P(correct) varies by query and by seed."""
    rng = np.random.default_rng(4)
    for _ in range(times):
        query = rng.normal(0, 1, N)
        yield {
            f"r{r}": (
                rng.random((seeds, N)) < 0.6 + 0.15 * np.tanh(query) + spread * rng.normal(size=(seeds, 1))
            ).astype(float)
            for r in range(R)
        }


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (5, 0.0), (5, 0.02)])
def test_an_interval_holds_the_true_accuracy_as_often_as_it_says(seeds, spread):
    holds = []
    for outcomes in worlds(300, seeds, spread):
        for values in resample(outcomes, resamples=400).T:
            low, high = interval(values)
            holds.append(low <= 0.6 <= high)
    # 600 intervals: the standard error is 0.009. With seeds it may hold more often: see Owen and Eckles.
    assert 0.92 <= np.mean(holds) <= (0.97 if seeds == 1 else 0.995)


def test_routers_of_equal_worth_are_rarely_told_apart_however_many_there_are():
    wrong = []
    for outcomes in worlds(200, seeds=1, spread=0.0, R=12):
        observed = np.array([labels.mean() for labels in outcomes.values()])
        verdict = verdicts(observed, resample(outcomes, resamples=400))
        wrong += (verdict != 0).any(axis=0).tolist()
    # Per router at most 1 in 20. Eleven comparisons without a correction would be wrong for about every third.
    assert np.mean(wrong) <= 0.065


def test_a_router_that_is_much_better_is_told_apart():
    rng = np.random.default_rng(5)
    outcomes = {f"r{r}": (rng.random((3, 2000)) < (0.7 if r == 2 else 0.6)).astype(float) for r in range(5)}
    observed = np.array([labels.mean() for labels in outcomes.values()])
    verdict = verdicts(observed, resample(outcomes, resamples=1000))
    assert verdict[2].tolist() == [1, 1, 0, 1, 1]
    assert verdict[:, 2].tolist() == [-1, -1, 0, -1, -1]


# --- where labels are missing ------------------------------------------------------------------------


def choices(labels, routes, weight=None):
    labels = np.atleast_2d(labels).astype(np.float32)
    return uncertainty.Choices(
        low=np.nan_to_num(labels),
        high=np.nan_to_num(labels, nan=1.0),
        routes=np.atleast_2d(routes),
        weight=None if weight is None else np.atleast_2d(weight).astype(np.float32),
    )


def board_with_holes(seed=0, n=120, planned=False):
    """Three routers of 2, 1 and 3 seeds on labels [n, 4] of which a fifth is missing; and the labels as they truly are."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 4)) < 0.6).astype(np.float32)
    Y = np.where(rng.random((n, 4)) < 0.2, np.nan, truth)
    weight = np.where(np.isnan(Y), 0, 1 / 0.8)
    found, true = {}, {}
    for name, seeds in (("a", 2), ("b", 1), ("c", 3)):
        routes = np.minimum(rng.integers(0, 6, (seeds, n)), 3)  # half of all choices are the last model
        rows = np.arange(n)
        weights = np.stack([weight[rows, route] for route in routes]) if planned else None
        found[name] = choices(np.stack([Y[rows, route] for route in routes]), routes, weights)
        true[name] = np.stack([truth[rows, route] for route in routes])
    return found, true


def test_without_missing_labels_both_ends_are_what_the_plain_resamples_give():
    _, true = board_with_holes()
    full = {name: choices(labels, np.zeros(labels.shape, int)) for name, labels in true.items()}
    assert not any(one.open for one in full.values())
    plain = uncertainty.resample(true, resamples=300)
    (bounded,) = uncertainty.resample_bounds([full], resamples=300)
    np.testing.assert_allclose(bounded.low, plain, atol=1e-6)
    np.testing.assert_allclose(bounded.high, plain, atol=1e-6)
    np.testing.assert_allclose(bounded.least, plain[:, :, None] - plain[:, None], atol=1e-6)
    np.testing.assert_allclose(bounded.most, bounded.least, atol=1e-6)
    observed = np.array([labels.mean() for labels in true.values()])
    np.testing.assert_array_equal(
        uncertainty.verdicts_of_bounds(uncertainty.observed_bounds(full), bounded),
        uncertainty.verdicts(observed, plain),
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_ends_hold_the_truth_and_a_difference_is_of_the_queries_on_which_two_chose_apart(seed):
    found, true = board_with_holes(seed)
    ends = uncertainty.observed_bounds(found)
    means = np.array([labels.mean(axis=1).mean() for labels in true.values()])
    assert (ends.low[0] <= means).all() and (means <= ends.high[0]).all()
    difference = means[:, None] - means
    assert (ends.least[0] <= difference + 1e-9).all() and (difference <= ends.most[0] + 1e-9).all()
    # Tighter than the ends of the two accuracies: what both chose is one label.
    apart = ends.low[0][:, None] - ends.high[0][None]
    off = ~np.eye(3, dtype=bool)
    assert (ends.least[0] > apart)[off].all()


def test_a_difference_by_hand():
    nan = np.nan
    # Query 0: apart. 1: the same choice, missing. 2: a's is missing. 3: b's is missing.
    a = choices([1, nan, nan, 1], [0, 1, 2, 2])
    b = choices([0, nan, 1, nan], [1, 1, 1, 1])
    ends = uncertainty.observed_bounds({"a": a, "b": b})
    assert ends.least[0, 0, 1] == pytest.approx((1 + 0 - 1 + 0) / 4)
    assert ends.most[0, 0, 1] == pytest.approx((1 + 0 + 0 + 1) / 4)
    (drawn,) = uncertainty.resample_bounds([{"a": a, "b": a}], resamples=200)
    assert np.abs(drawn.least[:, 0, 1]).max() < uncertainty.EQUAL  # the same choices: nothing parts them


def test_a_missing_label_that_two_share_parts_them_by_what_it_counts_to_each():
    nan = np.nan
    # Both chose alike on query 0, whose label is missing. It is 1 of 3 to a, and 1 of 2 to b.
    a = choices([nan, 1], [0, 1], weight=[1, 2])
    b = choices([nan, 1], [0, 0], weight=[1, 1])
    ends = uncertainty.observed_bounds({"a": a, "b": b})
    assert ends.least[0, 0, 1] == pytest.approx(1 - 1)  # 2/3 - 1/2 where it is 0
    assert ends.most[0, 0, 1] == pytest.approx(2 / 3 - 1 / 2)
    assert ends.least[0, 1, 0] == pytest.approx(1 / 2 - 2 / 3)
    assert ends.most[0, 1, 0] == pytest.approx(0)


def test_what_was_not_asked_by_plan_is_in_no_mean():
    found, _ = board_with_holes(planned=True)
    ends = uncertainty.observed_bounds(found)
    np.testing.assert_allclose(ends.low, ends.high, atol=1e-9)
    for i, one in enumerate(found.values()):
        by_hand = [np.average(low, weights=weight) for low, weight in zip(one.low, one.weight, strict=True)]
        assert ends.low[0, i] == pytest.approx(np.mean(by_hand))


def test_nobody_is_better_by_labels_that_are_missing():
    n = 200
    right, wrong = np.ones(n), np.zeros(n)
    half = np.where(np.arange(n) % 2, np.nan, 1.0)
    names = ("right", "wrong", "half")
    board = dict(
        zip(names, (choices(y, np.full(n, i)) for i, y in enumerate((right, wrong, half))), strict=True)
    )
    ends = uncertainty.observed_bounds(board)
    (drawn,) = uncertainty.resample_bounds([board], resamples=500)
    verdict = uncertainty.verdicts_of_bounds(ends, drawn)
    # `half` is between 1/2 and 1: better than `wrong` whatever the labels are, perhaps as good as `right`.
    np.testing.assert_array_equal(verdict, [[0, 1, 0], [-1, 0, -1], [0, 1, 0]])
