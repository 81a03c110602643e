"""tag-router: what TagRouter promises, and what every router owes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from rph_plugins.routers import tag_router
from rph_plugins.routers.tag_router import GRID, Config, TagRouter, Vocabulary, fit_many, learn_vocabulary
from tests import routers, worlds
from tests.worlds import grouped, labelled, planted

from rph import Queries, Trial, UsageError

NAN = np.nan

TRAIN, VAL, TEST = grouped(), grouped(200, seed=1), grouped(300, seed=2)
BEST = TRAIN.Y.mean(axis=0).argmax()  # the reference on TRAIN
EMB = {"tagger": "emb", "tags": 16, "per_query": 3}
TEXT = {"tagger": "text", "tags": 0, "per_query": 4}
KINDS = [{**t, "scorer": s} for t, s in product((EMB, TEXT), ("rate", "smoothed", "sum"))]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind['tagger']}-{kind['scorer']}")


def fit(train=TRAIN, val=VAL, seed=0, **config):
    router = TagRouter()
    router.fit(train, val, variant=Config(**{**EMB, **config}), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def tags_of(router, queries):
    return router.fitted.tagger.tags(queries, router.fitted.variant.per_query)


def with_labels(Y, train=TRAIN):
    return labelled(train.X, Y, texts=train.texts)


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_card_names_both_papers_that_the_key_may_mean():
    card = tag_router.register_router().card
    assert (card.name, card.aliases, card.paper) == ("tag-router", ("tag_router",), "arXiv:2506.12473")
    assert any("FORC" in note and "2308.06077" in note for note in card.fidelity)
    assert not card.deterministic and not card.calibrated


# --- outcomes and the table ---------------------------------------------------------------------------


def test_outcomes_against_the_best_model_are_the_hand_computed_ones():
    Y = np.array(
        [[1, 1, 0], [0, 0, 1], [1, 0, 0], [1, NAN, 1], [NAN, 1, 1], [1, 0, NAN]], "f4"
    )  # means .8 .4 .6
    expected = [
        [0.15, 0.15, -1],
        [0.15, 0.15, 1],
        [0.15, -1, -1],
        [0.15, NAN, 0.15],
        [NAN] * 3,
        [0.15, -1, NAN],
    ]
    assert tag_router.outcomes(Y, -1.0) == pytest.approx(np.array(expected, "f4"), nan_ok=True)
    lenient = np.where(np.equal(expected, -1), 0, expected)
    assert tag_router.outcomes(Y, 0.0) == pytest.approx(lenient.astype("f4"), nan_ok=True)


def test_one_label_makes_no_reference():
    Y = np.array([[1, 0, NAN], [1, 0, NAN], [0, 1, 1], [1, 0, NAN]] * 5, "f4")
    Y[3:, 2] = NAN  # one label, of 1, where the first is wrong
    assert tag_router.outcomes(Y, -1.0)[:, 0] == pytest.approx(tag_router.TIE)


def test_the_reference_has_the_highest_level_not_the_most_right_answers():
    Y = np.zeros((100, 2), "f4")
    Y[:60, 0], Y[:50, 1], Y[50:, 1] = 1, 1, NAN  # 60 of 100 against 50 of 50
    Y[:20, 0], Y[60:80, 0] = 0, 1
    assert (tag_router.outcomes(Y, -1.0)[:50, 1] == np.float32(tag_router.TIE)).all()


def test_text_variants_say_that_they_read_the_text_and_know_no_seed():
    spec = tag_router.register_router()
    for variant in GRID:
        card, text = spec.variant_card(variant), variant.tagger == "text"
        assert (card.reads == "text", card.deterministic) == (text, text)
        assert card.original == (variant.scorer != "smoothed")


def test_mean_outcomes_are_not_cut_as_labels_are():
    Y = np.array([[1, 0], [1, 0], [1, 1]], "f4")  # all known: the mean of -1, -1, .15
    assert tag_router.mean_outcomes(tag_router.outcomes(Y, -1.0)) == pytest.approx([0.15, -1.85 / 3])
    table = tag_router.tag_table(Y, np.array([[0], [0], [0]]), 2, Config(scorer="rate", shrinkage=1.0))
    assert table[:, 1] == pytest.approx([(-1.85 - 1.85 / 3) / 4, -1.85 / 3])


def test_the_table_of_each_scorer_is_the_hand_computed_one():
    Y = np.array([[1, 1], [1, 0], [1, 0], [0, 1], [1, NAN], [1, NAN]], "f4")  # the first is the reference
    # Its own outcomes are ties; the other's .15, -1, -1, 1, none, none: on these four .15 + .85 / 4 behind the first.
    # Four of six labels count 4 / (4 + 20 / 3) = 3/8; the level of the other is drawn to the pool's mean by as much.
    tags = np.array([[0, 1], [0, 2], [0, 1], [1, 2], [2, 3], [0, 3]])  # no query of tag 3 observed the other

    def table(scorer, shrinkage):
        return tag_router.tag_table(Y, tags, 4, Config(scorer=scorer, shrinkage=shrinkage)).T

    def drawn(complete, other):
        middle = (complete + 3 / 8 * other) / (1 + 3 / 8)
        return middle + 3 / 8 * (other - middle)

    overall = drawn(0.15, -0.85 / 4)
    rate = [[0.15] * 4, [-1.85 / 3, 0.15 / 3, 0, overall]]
    assert table("rate", 0.0) == pytest.approx(np.array(rate), abs=1e-6)
    shrunk = [[0.15] * 4, [(-1.85 + 2 * overall) / 5, (0.15 + 2 * overall) / 5, 2 * overall / 4, overall]]
    assert table("rate", 2.0) == pytest.approx(np.array(shrunk), abs=1e-6)
    literal = [[0.6, 0.45, 0.45, 0.3], [-1.85, 0.15, 0, 0]]
    assert table("sum", 5.0) == pytest.approx(np.array(literal), abs=1e-6)
    mean, other = (
        5 / 6,
        drawn(5 / 6, 5 / 6 - (3 - 2) / 4),
    )  # on four queries three right of the first, two of the other
    smoothed = [[(c + 2 * mean) / (n + 2) for c, n in ((4, 4), (2, 3), (2, 3), (2, 2))]]
    smoothed += [[(c + 2 * other) / (n + 2) for c, n in ((1, 3), (2, 3), (1, 2), (0, 0))]]
    assert table("smoothed", 2.0) == pytest.approx(np.array(smoothed), abs=1e-6)


@pytest.mark.parametrize("scorer", ["rate", "smoothed"])
def test_scores_add_up_the_tags_of_a_query_and_probabilities_average_them(scorer):
    router = fit(scorer=scorer)
    added = router.fitted.table[tags_of(router, TEST)].sum(axis=1)
    assert router.scores(TEST) == pytest.approx(added / (3 if scorer == "smoothed" else 1), abs=1e-6)


def test_what_a_loss_counts_changes_the_scores():
    assert not np.array_equal(scores(loss=0.0), scores())


@pytest.mark.parametrize("tagger", [EMB, TEXT])
def test_duplicating_every_row_leaves_rates_unchanged_and_doubles_literal_sums(tagger):
    texts = list(TRAIN.texts) * 2
    twice = labelled(np.tile(TRAIN.X, (2, 1)), np.tile(TRAIN.Y, (2, 1)), texts=texts)
    once = fit(**tagger)
    T = len(once.fitted.tagger)
    tags = [once.fitted.tagger.tags(queries, tagger["per_query"]) for queries in (TRAIN, twice)]
    for scorer, factor in (("rate", 1), ("smoothed", 1), ("sum", 2)):
        variant = Config(**tagger, scorer=scorer, shrinkage=0.0)
        single = tag_router.tag_table(TRAIN.Y, tags[0], T, variant)
        assert np.array_equal(tag_router.tag_table(twice.Y, tags[1], T, variant), factor * single)
        assert np.abs(single).max() > 0


@each_kind
def test_a_new_model_leaves_the_columns_of_the_others_bit_identical(kind):
    worse = (np.random.default_rng(4).random((len(TRAIN), 1)) < 0.1).astype("f4")
    more = fit(train=with_labels(np.hstack([TRAIN.Y, worse])), **kind)
    alone = fit(**kind)
    assert np.array_equal(more.fitted.table[:, :4], alone.fitted.table)
    assert np.array_equal(more.scores(TEST)[:, :4], alone.scores(TEST))


def test_a_new_best_model_becomes_the_reference():
    best = np.ones((len(TRAIN), 1), "f4")
    found = fit(train=with_labels(np.hstack([TRAIN.Y, best]))).fitted.table
    assert found[:, 4] == pytest.approx(0.15, abs=1e-6) and (found[:, :4] <= 0.15 + 1e-6).all()
    assert fit().fitted.table[:, BEST] == pytest.approx(0.15, abs=1e-6)


@pytest.mark.parametrize("scorer", ["rate", "smoothed", "sum"])
def test_flipping_a_label_changes_its_models_column_in_the_rows_of_its_tags_only(scorer):
    k = (BEST + 1) % 4
    Y = TRAIN.Y.copy()
    Y[17, k] = 1 - Y[17, k]
    before = fit(scorer=scorer, shrinkage=0.0)
    after = fit(train=with_labels(Y), scorer=scorer, shrinkage=0.0)
    changed = np.zeros_like(before.fitted.table, bool)
    changed[tags_of(before, TRAIN)[17], k] = True
    assert np.array_equal(before.fitted.table != after.fitted.table, changed)


def test_flipping_a_label_of_the_reference_changes_the_others_and_not_its_own_ties():
    Y = TRAIN.Y.copy()
    Y[17, BEST] = 1 - Y[17, BEST]
    assert Y.mean(axis=0).argmax() == BEST
    before, after = fit(shrinkage=0.0), fit(train=with_labels(Y), shrinkage=0.0)
    tags = tags_of(before, TRAIN)[17]
    others = [k for k in range(4) if k != BEST]
    assert (before.fitted.table != after.fitted.table)[tags][:, others].all()
    assert np.array_equal(before.fitted.table[:, BEST], after.fitted.table[:, BEST])


# --- the taggers --------------------------------------------------------------------------------------


def test_a_query_has_the_tags_of_the_nearest_unit_centroids():
    router = fit()
    centroids = router.fitted.tagger.centroids
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1, abs=1e-5)
    nearest = np.argsort(-(TEST.unit @ centroids.T), axis=1)[:, :3]
    assert np.array_equal(tags_of(router, TEST), np.sort(nearest, axis=1))


def test_the_codebook_of_a_large_train_split_is_learned_from_a_sample(monkeypatch):
    seen, once = [], tag_router.kmeans
    monkeypatch.setattr(tag_router, "kmeans", lambda X, *a, **k: seen.append(X.numpy()) or once(X, *a, **k))
    monkeypatch.setattr(tag_router, "SAMPLED", 100)
    first, again, other = fit(seed=1), fit(seed=1), fit(seed=2)
    rows = {row.tobytes() for row in TRAIN.unit}
    assert [len(X) for X in seen] == [100] * 3 and len({row.tobytes() for row in seen[0]}) == 100
    assert all(row.tobytes() in rows for row in seen[0])
    assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])
    assert np.array_equal(first.scores(TEST), again.scores(TEST))
    assert not np.array_equal(first.scores(TEST), other.scores(TEST))


def test_terms_and_idf_are_those_of_scikit_learn():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [*TRAIN.texts, *(["rare once"] * 4), "x" * 65 + " five"]
    found = learn_vocabulary(texts)
    theirs = TfidfVectorizer(min_df=5, max_df=0.2).fit(texts)
    assert found.terms.tolist() == theirs.get_feature_names_out().tolist()
    assert len(found) == 48 and found.terms.dtype.kind == "U"  # neither "the", nor "rare"
    assert found.idf == pytest.approx(theirs.idf_)
    longest = [f"{'y' * 65} {'z' * 64}"] * 5 + [f"other{i}" for i in range(30)]
    assert learn_vocabulary(longest).terms.tolist() == ["z" * 64]


def test_a_text_has_its_terms_of_highest_tf_idf_equals_alphabetically():
    tagger = Vocabulary(np.array(["ant", "bee", "cat", "dog"]), np.array([1.0, 2.0, 2.0, 3.5]))
    texts = ["ant bee cat dog", "Cat, bee!", "ant ant ant ant dog", "ant eel", "", "eel"]
    found = tagger.tags(Queries(X=np.zeros((6, 1), "f4"), texts=texts), 2)
    assert found.tolist() == [[1, 3], [1, 2], [0, 3], [0, 4], [4, 4], [4, 4]]
    one = tagger.tags(Queries(X=np.zeros((6, 1), "f4"), texts=texts), 1)
    assert one.ravel().tolist() == [3, 1, 0, 0, 4, 4]


def test_texts_are_tagged_alike_in_one_block_or_many(monkeypatch):
    router = fit(**TEXT)
    whole = tags_of(router, TEST)
    monkeypatch.setattr(tag_router, "ROWS", 7)
    assert np.array_equal(tags_of(router, TEST), whole)
    assert len(np.unique(whole)) > 40


@pytest.mark.parametrize("scorer", ["rate", "smoothed", "sum"])
def test_a_query_without_tags_scores_exactly_the_mean_labels(scorer):
    router = fit(**TEXT, scorer=scorer)
    X = TEST.X[:3]
    found = router.scores(Queries(X=X, texts=["", "the", f"unknown words {TRAIN.texts[0]}"]))
    means = TRAIN.Y.mean(axis=0, dtype="f8").astype("f4")
    assert np.array_equal(found[:2], [means, means])
    assert np.array_equal(found[2], router.scores(TRAIN)[0]) and not np.array_equal(found[2], means)


def test_train_texts_without_a_usable_term_leave_the_mean_labels():
    bare = labelled(TRAIN.X, TRAIN.Y)
    router = fit(train=bare, **TEXT)
    assert router.fitted.table.shape == (0, 4)
    assert (router.scores(TEST) == TRAIN.Y.mean(axis=0, dtype="f8").astype("f4")).all()


def test_only_the_text_tagger_reads_texts_and_only_the_other_reads_embeddings():
    plain = Queries(X=TEST.X, texts=[""] * len(TEST))
    assert np.array_equal(scores(plain, train=labelled(TRAIN.X, TRAIN.Y)), scores())
    zeros = Queries(X=np.zeros_like(TEST.X), texts=TEST.texts)
    assert np.array_equal(scores(zeros, **TEXT), scores(**TEXT))


# --- the router as a whole ----------------------------------------------------------------------------


@each_kind
def test_it_beats_the_best_single_model_where_groups_differ(kind):
    routers.check_beats_best_single(scores(**kind), TRAIN, TEST)


def test_two_planted_specialists_each_get_their_own_queries():
    cases = [(0, "rate", 0.0, 1), (1, "rate", 0.0, 1), (1, "sum", 0.4, 1), (0, "smoothed", 0.4, 20)]
    for seed, scorer, missing, guessing in cases:
        train, _ = planted(4000, seed, 2 + guessing, missing, noise=0.1)
        test, specialist = planted(1000, seed + 10, 2 + guessing, noise=0.1)
        found = scores(test, train=train, tags=64, per_query=5, scorer=scorer, seed=seed)
        assert (found.argmax(axis=1) == specialist).mean() >= 0.98


@each_kind
def test_labels_that_have_nothing_to_do_with_queries_give_about_the_best_single_model(kind):
    rng, p = np.random.default_rng(3), [0.4, 0.5, 0.6, 0.75]

    def independent(n):
        text = [" ".join(f"w{i}" for i in row) for row in rng.integers(0, 60, (n, 6))]
        return labelled(
            rng.normal(size=(n, 8)).astype("f4"), (rng.random((n, 4)) < p).astype("f4"), texts=text
        )

    train, test = independent(2000), independent(2000)
    chosen = test.Y[np.arange(2000), scores(test, train=train, **kind).argmax(axis=1)]
    assert chosen.mean() > test.Y[:, 3].mean() - 2 * np.sqrt(0.75 * 0.25 / 2000)


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_bit_for_bit():
    trials = [Trial(variant=Config(**kind), seed=seed) for seed in (42, 7) for kind in KINDS]
    trials += [Trial(variant=Config(**{**EMB, "per_query": 5}), seed=7), Trial(variant=GRID[0], seed=7)]
    together = fit_many(TRAIN, VAL, trials, "cpu").scores(TEST)
    assert len(together) == len(trials)
    for trial, found in zip(trials, together, strict=True):
        router = TagRouter()
        router.fit(TRAIN, VAL, variant=trial.variant, seed=trial.seed, device="cpu")
        assert np.array_equal(found, router.scores(TEST))


def test_trials_share_codebooks_of_equal_size_and_seed_and_one_vocabulary(monkeypatch):
    sizes, once = [], tag_router.kmeans
    monkeypatch.setattr(tag_router, "kmeans", lambda *a, **k: sizes.append(a[1]) or once(*a, **k))
    read, learn = [], tag_router.learn_vocabulary
    monkeypatch.setattr(tag_router, "learn_vocabulary", lambda texts: read.append(len(texts)) or learn(texts))
    small = [replace(v, tags=v.tags // 16) for v in GRID]
    fit_many(TRAIN, VAL, [Trial(variant=v, seed=s) for s in (1, 2) for v in small], "cpu")
    assert sorted(sizes) == sorted([4, 8, 16, 32, 64] * 2)
    assert read == [len(TRAIN)]


# --- what every router owes ---------------------------------------------------------------------------


@each_kind
def test_permuting_the_models_permutes_the_scores(kind):
    order = [2, 0, 3, 1]
    permuted = with_labels(np.ascontiguousarray(TRAIN.Y[:, order]))
    assert np.array_equal(scores(train=permuted, **kind), scores(**kind)[:, order])


@each_kind
def test_scores_do_not_depend_on_batch_or_order(kind):
    router = fit(**kind)
    routers.check_batch_and_order(router, TEST, 40)
    assert router.scores(Queries(X=TEST.X[:0], texts=[])).shape == (0, 4)


def test_test_labels_val_labels_and_costs_are_never_read():
    assert np.array_equal(scores(worlds.poisoned(worlds.without_labels(TEST))), scores())
    costs = worlds.poisoned(TRAIN)
    blind = worlds.without_labels(VAL)
    assert np.array_equal(scores(train=costs, val=blind), scores())


@each_kind
def test_unobserved_labels_are_no_losses_and_any_nan_is_a_nan(kind):
    sparse = grouped(missing=0.5)
    found = scores(train=sparse, **kind)
    assert np.array_equal(scores(train=worlds.with_other_nans(sparse), **kind), found)
    assert not np.array_equal(scores(train=with_labels(np.nan_to_num(sparse.Y), sparse), **kind), found)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_models_keep_their_rates_whatever_share_of_their_labels_is_missing(kind):
    large = grouped(6000)
    Y = large.Y.copy()
    hidden = np.array([k for k in range(4) if k != np.nanmean(Y, axis=0).argmax()])
    Y[np.ix_(np.random.default_rng(0).random(6000) < 0.5, hidden)] = NAN
    full = fit(train=large, shrinkage=0.0, **kind).fitted.table
    half = fit(train=with_labels(Y, large), shrinkage=0.0, **kind).fitted.table
    assert np.abs(full - half).max() < 0.15
    assert np.abs(full).max() > 0.3


@each_kind
@pytest.mark.parametrize("rows", [1, 7])
def test_fewer_queries_than_tags_work(rows, kind):
    few = labelled(TRAIN.X[:rows], TRAIN.Y[:rows], texts=TRAIN.texts[:rows])
    found = scores(train=few, **{**kind, "per_query": 20})
    assert found.shape == TEST.Y.shape and np.isfinite(found).all()


@each_kind
def test_a_model_that_is_always_right_is_always_chosen(kind):
    assert (scores(train=worlds.always_right(TRAIN), **kind).argmax(axis=1) == 2).all()


@each_kind
def test_a_model_never_run_gets_the_documented_prior(kind):
    Y = TRAIN.Y.copy()
    k = (BEST + 1) % 4
    Y[:, k] = NAN
    others = [i for i in range(4) if i != k]
    router = fit(train=with_labels(Y), **kind)
    values = Y if kind["scorer"] == "smoothed" else tag_router.outcomes(Y, -1.0)
    prior = 0 if kind["scorer"] == "sum" else values[:, others].mean(dtype="f8")
    assert router.fitted.table[:, k] == pytest.approx(prior, abs=1e-5)
    assert np.array_equal(router.fitted.table[:, others], fit(**kind).fitted.table[:, others])
    if kind["scorer"] != "smoothed":  # against the reference, it is below a tie
        assert (router.scores(TEST).argmax(axis=1) != k).all()


def test_constant_embeddings_give_one_tag_and_constant_scores():
    found = scores(train=labelled(np.ones((100, 8), "f4"), TRAIN.Y[:100]))
    assert (found == found[0]).all() and np.isfinite(found).all()


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_a_seed_fixes_the_scores_and_another_changes_those_of_the_codebook_only():
    assert np.array_equal(scores(seed=1), scores(seed=1))
    assert not np.array_equal(scores(seed=1), scores(seed=2))
    assert np.array_equal(scores(seed=1, **TEXT), scores(seed=2, **TEXT))


@each_kind
def test_a_router_from_its_state_gives_the_same_scores(kind, tmp_path):
    router = fit(**kind)
    np.savez(tmp_path / "state.npz", **router.state())
    state = dict(np.load(tmp_path / "state.npz", allow_pickle=False))
    again = TagRouter.from_state(state, variant=Config(**kind), device="cpu")
    assert np.array_equal(again.scores(TEST), router.scores(TEST))
    if kind["tagger"] == "text":
        assert state["terms"].dtype.kind == "U" and state["terms"].tolist() == sorted(state["terms"].tolist())


MUTATIONS = [
    (
        "np.select([lead > 0, lead == 0, lead < 0], [WIN, TIE, loss], np.nan)",
        "np.select([lead > 0, lead == 0], [WIN, TIE], loss)",
        "a pair that was not observed counts as a loss",
    ),
    ("np.where(count > 0, total, self.overall)", "total", "a query without tags scores 0 for every model"),
    (
        "(weights.col, -weights.data, weights.row)",
        "(weights.col, weights.data, weights.row)",
        "a text gets its terms of lowest TF-IDF",
    ),
    ("np.nanargmax(level(Y))", "np.nansum(Y, axis=0).argmax()", "the reference has the most right answers"),
    ("outcomes(Y, variant.loss)", "outcomes(Y, -1.0)", "a loss counts the same in every variant"),
]
