"""The control world: P(correct) is known, can be read off the text, and looks like a real benchmark."""

import time

import numpy as np
import pytest
from rph_plugins.benchmarks.synthetic import DIFFICULTIES, TOPICS, load

from rph import UsageError
from rph.data.validity import check
from rph.registry import installed

PINNED = "fe74bfbfef4dfc97f7211b8bcaa55afbc76547fbf6d82e599808a0873561ac53"


@pytest.fixture(scope="module")
def world():
    return load(n=20_000)


def stack(dataset, what):
    return np.vstack([getattr(split, what) for _, split in dataset.splits()])


def queries(dataset):
    return [query for _, split in dataset.splits() for query in split.queries]


def tasks(dataset):
    return [task for _, split in dataset.splits() for task in split.tasks]


def test_it_is_registered_under_its_name():
    plugin = installed().load("benchmark", "synthetic")
    assert set(plugin.spec.options) == {"n", "k", "seed", "missing"}


def test_equal_options_give_equal_content_on_every_platform():
    assert load(n=200, k=5, seed=3).fingerprint == PINNED


def test_every_option_changes_the_content():
    fingerprints = {
        load(n=200, **option).fingerprint for option in ({}, {"k": 5}, {"seed": 1}, {"missing": 0.2})
    }
    assert len(fingerprints) == 4


def test_the_default_world_has_the_plain_name_and_others_say_their_options():
    assert load().name == "synthetic"
    assert load(n=20, k=3).name == "synthetic-n20-k3-seed0"
    assert load(n=200, missing=0.3).name == "synthetic-n200-k11-seed0-missing0.3"


@pytest.mark.parametrize("n", [20, 33, 5000])
def test_the_splits_follow_the_cumulative_rule(n):
    dataset = load(n=n)
    sizes = tuple(len(split) for _, split in dataset.splits())
    assert sizes == (int(0.6 * n), int(0.7 * n) - int(0.6 * n), n - int(0.7 * n))
    check(dataset)


def test_every_query_is_another_text(world):
    assert len(set(queries(world))) == 20_000


def test_topic_and_difficulty_can_be_read_off_the_words(world):
    """Words that never stand beside each other's queries sort the texts into exactly topics x difficulties groups."""
    P = stack(world, "p_correct")
    states = {}  # the row of P names topic and difficulty
    seen_in = {}  # word -> states
    for query, p in zip(queries(world), P, strict=True):
        state = states.setdefault(p.tobytes(), len(states))
        for word in query.split(": ")[1].rstrip("?").split():
            seen_in.setdefault(word, set()).add(state)
    assert len(states) == TOPICS * len(DIFFICULTIES)
    sizes = {len(found) for found in seen_in.values()}
    assert sizes == {len(DIFFICULTIES), TOPICS, len(states)}  # topic words, difficulty words, filler
    for query, p in zip(queries(world), P, strict=True):
        words = query.split(": ")[1].rstrip("?").split()
        possible = set.intersection(*(seen_in[word] for word in words))
        assert possible == {states[p.tobytes()]}


def test_the_labels_are_draws_with_the_known_probabilities(world):
    P, Y = stack(world, "p_correct"), stack(world, "labels")
    assert set(np.unique(Y)) == {0.0, 1.0}
    for low in np.arange(0, 1, 0.1):
        cells = (low <= P) & (low + 0.1 > P)
        if cells.sum() > 1000:
            error = 5 * 0.5 / np.sqrt(cells.sum())
            assert abs(Y[cells].mean() - P[cells].mean()) < error


def test_labels_of_one_query_are_independent_given_p(world):
    P, Y = stack(world, "p_correct"), stack(world, "labels")
    z = (Y - P) / np.sqrt(P * (1 - P))
    correlation = z.T @ z / len(z)
    assert np.abs(correlation - np.diag(np.diag(correlation))).max() < 5 / np.sqrt(len(z))


@pytest.mark.parametrize("seed", range(4))
def test_it_looks_like_a_real_benchmark(seed):
    dataset = load(n=5000, seed=seed)
    P, Y = dataset.test.p_correct, dataset.test.labels
    best = P[:, dataset.train.labels.mean(axis=0).argmax()].mean()
    bayes = P.max(axis=1).mean()
    assert 0.60 <= best <= 0.70
    assert 0.08 <= bayes - best <= 0.15
    assert Y.max(axis=1).mean() > 0.95


def test_dearer_models_are_better_on_average(world):
    costs, p = stack(world, "costs").mean(axis=0), stack(world, "p_correct").mean(axis=0)
    assert np.corrcoef(np.log(costs), p)[0, 1] > 0.8


def test_a_cost_is_the_models_price_times_the_length_of_the_text(world):
    lengths = np.array([len(query) for query in queries(world)])
    price = stack(world, "costs") / lengths[:, None]
    np.testing.assert_allclose(price, np.tile(price[0], (len(price), 1)), rtol=1e-5)
    assert (price > 0).all()


def test_more_queries_are_of_the_same_world():
    def states(dataset):
        return {row.tobytes() for row in stack(dataset, "p_correct")}

    assert states(load(n=2000)) == states(load(n=4000))


def test_the_share_of_missing_labels_is_as_asked_and_changes_nothing_else():
    dense, sparse = load(n=2000), load(n=2000, missing=0.3)
    gone = np.isnan(stack(sparse, "labels"))
    assert 0.28 < gone.mean() < 0.32
    assert all(np.isnan(split.labels).any() for _, split in sparse.splits())
    np.testing.assert_array_equal(stack(dense, "labels")[~gone], stack(sparse, "labels")[~gone])
    np.testing.assert_array_equal(stack(dense, "p_correct"), stack(sparse, "p_correct"))
    assert queries(dense) == queries(sparse)


@pytest.mark.parametrize("options", [{"n": 19}, {"k": 1}, {"seed": -1}, {"missing": 1.0}, {"missing": -0.1}])
def test_options_that_make_no_world_are_refused_by_name(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        load(**options)


def test_a_large_world_takes_seconds():
    start = time.process_time()
    assert len(load(n=150_000).train) == 90_000
    assert time.process_time() - start < 20  # about 3 s; a loop over cells would take minutes


def test_what_can_be_read_off_the_text_lets_a_simple_router_close_most_of_the_gap(world):
    """TF-IDF, SVD to 256 dimensions and the mean over 100 neighbours close over 70% of Bayes - best single."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    terms = TfidfVectorizer(dtype=np.float32)
    train = terms.fit_transform(world.train.queries)
    svd = TruncatedSVD(256, random_state=0).fit(train)
    X, Z = (normalize(svd.transform(T)) for T in (train, terms.transform(world.test.queries[:2000])))
    near = np.argpartition(-(Z @ X.T), 99, axis=1)[:, :100]
    route = world.train.labels[near].mean(axis=1).argmax(axis=1)
    P = world.test.p_correct[:2000]
    best = P[:, world.train.labels.mean(axis=0).argmax()].mean()
    closed = (P[np.arange(2000), route].mean() - best) / (P.max(axis=1).mean() - best)
    assert closed > 0.7
