"""The control world: P(correct) is known, can be read off the text, and looks like a real benchmark."""

import time

import numpy as np
import pytest
from rph_plugins.benchmarks.synthetic import ASKED, DIFFICULTIES, HOLES, TOPICS, load

from rph import UsageError
from rph.data.validity import check
from rph.holes import REASONS, Holes, found_blocks
from rph.registry import installed

PINNED = "fe74bfbfef4dfc97f7211b8bcaa55afbc76547fbf6d82e599808a0873561ac53"
THINNED = "9c4211930fd1e5429eeb6608ed1331714791ba586335f831e3b67d75e894fa26"  # its splits all thinned


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
    assert set(plugin.spec.options) == {"n", "k", "seed", "missing", "missing_in", "holes"}


def test_equal_options_give_equal_content_on_every_platform():
    assert load(n=200, k=5, seed=3).fingerprint == PINNED
    assert load(n=200, k=5, seed=3, missing=0.3, missing_in="all").fingerprint == THINNED


def test_every_option_changes_the_content():
    options = [{}, {"k": 5}, {"seed": 1}, {"missing": 0.2}, {"missing": 0.2, "missing_in": "all"}]
    made = [load(n=200, **option) for option in [*options, *({"holes": kind} for kind in HOLES)]]
    assert len({dataset.fingerprint for dataset in made}) == len({dataset.name for dataset in made}) == 8


def test_the_default_world_has_the_plain_name_and_others_say_their_options():
    assert load().name == "synthetic"
    assert load(n=20, k=3).name == "synthetic-n20-k3-seed0"
    assert load(n=200, missing=0.3).name == "synthetic-n200-k11-seed0-missing0.3-train"
    assert load(n=200, missing=0.3, missing_in="all").name == "synthetic-n200-k11-seed0-missing0.3"
    assert load(holes="block").name == "synthetic-n5000-k11-seed0-block"


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


@pytest.mark.parametrize("where", ["train", "all"])
def test_the_share_of_missing_labels_is_as_asked_and_changes_nothing_else(where):
    dense, sparse = load(n=2000), load(n=2000, missing=0.3, missing_in=where)
    for name, split in sparse.splits():
        share = np.isnan(split.labels).mean()
        assert 0.27 < share < 0.33 if where == "all" or name == "train" else share == 0
    assert_same_world(sparse, dense)


def assert_same_world(sparse, dense):
    gone = np.isnan(stack(sparse, "labels"))
    np.testing.assert_array_equal(stack(dense, "labels")[~gone], stack(sparse, "labels")[~gone])
    for what in ("p_correct", "costs"):
        np.testing.assert_array_equal(stack(dense, what), stack(sparse, what))
    assert (queries(dense), tasks(dense)) == (queries(sparse), tasks(sparse))


@pytest.mark.parametrize("kind", HOLES)
@pytest.mark.parametrize(("n", "k", "seed"), [(2000, 11, 0), (2000, 3, 1), (60, 5, 2)])
def test_a_world_with_holes_is_that_without_them_less_some_labels(kind, n, k, seed):
    sparse = load(n=n, k=k, seed=seed, holes=kind)
    assert np.isnan(stack(sparse, "labels")).any()
    assert_same_world(sparse, load(n=n, k=k, seed=seed))
    check(sparse)


@pytest.mark.parametrize("k", [3, 4, 11])
@pytest.mark.parametrize("seed", range(5))
def test_blocks_leave_two_models_to_a_topic_and_a_topic_to_a_model_and_can_be_found(k, seed):
    dataset = load(n=3000, k=k, seed=seed, holes="block")
    blocks = dataset.holes.blocks
    assert blocks and found_blocks(dataset.train.tasks, dataset.models, dataset.train.labels) == blocks
    for topic in set(tasks(dataset)):
        assert sum((topic, model) not in blocks for model in dataset.models) >= 2
    for model in dataset.models:
        assert sum(model == blocked for _, blocked in blocks) < TOPICS
    gone = [
        [(task, model) in blocks for model in dataset.models] for task in tasks(dataset)
    ]  # in all splits, and nothing else
    np.testing.assert_array_equal(np.isnan(stack(dataset, "labels")), gone)


def test_blocks_are_said_of_topics_that_have_a_query():
    dataset = load(n=20, k=5, holes="block")
    assert {task for task, _ in dataset.holes.blocks} <= set(tasks(dataset))


def test_a_planned_world_says_the_shares_that_were_asked():
    dataset = load(n=20_000, k=5, holes="planned")
    assert dataset.holes == Holes(planned=True, plan=dataset.holes.plan)
    topics, seen = np.array(tasks(dataset)), ~np.isnan(stack(dataset, "labels"))
    assert len(dataset.holes.plan) == 5 * TOPICS
    for (topic, model), share in dataset.holes.plan.items():
        of_topic = seen[topics == topic, dataset.models.index(model)]
        assert ASKED[0] <= share <= ASKED[1]
        assert abs(of_topic.mean() - share) < 5 * 0.5 / np.sqrt(len(of_topic))


def test_who_was_asked_says_nothing_of_the_answer(world):
    """Within a topic and a model right and wrong answers are missing alike, so the weighted mean is that of all labels."""
    dataset = load(n=20_000, holes="planned")
    Y, weight = dataset.train.labels, dataset.mask("train").weight
    weighted = (np.nan_to_num(Y) * weight).sum(axis=0) / weight.sum(axis=0)
    np.testing.assert_allclose(
        weighted, world.train.labels.mean(axis=0), atol=5 * 0.5 / np.sqrt(0.4 * 12_000)
    )


def test_calls_fail_where_the_answer_is_wrong_and_the_query_hard(world):
    dataset = load(n=20_000, holes="failures")
    assert dataset.holes == Holes() and dataset.blocks == frozenset()
    Y, gone = stack(world, "labels"), np.isnan(stack(dataset, "labels"))
    np.testing.assert_array_equal(stack(dataset, "reasons"), np.where(gone, REASONS.index("failed"), 0))
    assert gone[Y == 0].mean() > 5 * gone[Y == 1].mean() > 0
    hard = stack(world, "p_correct").mean(axis=1) < 0.5
    for answer in (0, 1):
        assert gone[hard][Y[hard] == answer].mean() > 1.5 * gone[~hard][Y[~hard] == answer].mean()
    assert gone.mean(axis=0).max() > 2 * gone.mean(axis=0).min()  # some models are shakier


@pytest.mark.parametrize(
    "options",
    [
        {"n": 19},
        {"k": 1},
        {"seed": -1},
        {"missing": 1.0},
        {"missing": -0.1},
        {"missing_in": "test"},
        {"holes": "blocks"},
        {"holes": "block", "missing": 0.1},
        {"holes": "block", "k": 2},
    ],
)
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
