"""irt-router: what neural item response theory promises, and what every router owes."""

import numpy as np
import pytest
import torch
from rph_plugins.routers import irt_router
from rph_plugins.routers.irt_router import CARD, GRID, Config, IrtRouter, register_router
from tests import routers, worlds
from tests.worlds import as_queries, labelled, planted, world

from rph import Queries, Trial, UsageError
from rph.training.heads import Draw, chance

NAN = np.nan

WORLD = world(550)
TRAIN, VAL, TEST = (worlds.part(WORLD, *rows) for rows in ((0, 300), (300, 400), (400, 550)))
SMALL = {"components": 6, "hidden": 8, "learning_rate": 3e-3}
FORMS = [{}, {"relevance": "onehot"}, {"relevance": "learn"}, {"standardise": True}]
each_form = pytest.mark.parametrize(
    "form", FORMS, ids=lambda form: "-".join(map(str, form.values())) or "soft"
)


def fit(train=TRAIN, val=VAL, seed=0, **config):
    router = IrtRouter()
    router.fit(train, val, variant=Config(**{**SMALL, **config}), seed=seed, device="cpu")
    return router


def scores(queries=TEST, **how):
    return fit(**how).scores(queries)


def with_labels(Y, of=TRAIN):
    return labelled(of.X, Y)


def relevance(router, queries=TEST):
    rule = {"soft": irt_router.soft, "onehot": irt_router.onehot, "learn": irt_router.learn}
    return rule[router.variant.relevance](router.parameters, router.inputs(queries)).numpy()


# --- the card and the grid ----------------------------------------------------------------------------


def test_the_grid_is_the_specified_one_with_the_default_first():
    kinds = ("soft", "learn")
    wanted = {Config(r, hidden=h, learning_rate=lr) for r in kinds for h in (64, 256) for lr in (1e-3, 3e-3)}
    wanted |= {Config(r, components=64, hidden=256, learning_rate=3e-3) for r in kinds}
    wanted |= {Config("onehot"), Config("onehot", components=64), Config(components=64)}
    wanted |= {Config(dropout=0.2), Config(standardise=True)}
    assert GRID[0] == Config() and (Config().components, Config().dropout) == (25, 0.5)
    assert len(GRID) == 15 and set(GRID) == wanted


def test_the_card_says_stochastic_and_calibrated_and_has_the_papers_name_as_alias():
    assert (CARD.name, CARD.aliases, CARD.paper) == ("irt-router", ("irt_router",), "arXiv:2506.01048")
    assert not CARD.deterministic and CARD.calibrated
    assert register_router().router is IrtRouter


# --- the method ---------------------------------------------------------------------------------------


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z)))


def test_a_score_is_the_monotone_network_of_what_exceeds_the_difficulty_by_hand():
    parameters = {
        "table": [[0.5, -0.5], [2.0, 1.0]],  # [K, n]
        "weight_difficulty": [[1.0, 0.0], [0.0, -1.0]],
        "bias_difficulty": [[0.1, 0.2]],
        "weight_discrimination": [[0.5], [0.5]],
        "bias_discrimination": [[-0.3]],
        "weight_1": [[1.0, -2.0], [0.5, 1.0]],  # [n, h]: it acts as [[1, 2], [.5, 1]]
        "bias_1": [[0.1, -0.1]],
        "weight_2": [[-1.5], [0.5]],  # as [1.5, .5]
        "bias_2": [[0.2]],
        "centres": [[1.0, 0.0], [0.0, 1.0]],
    }
    state = {f"parameter/{name}": np.array(value) for name, value in parameters.items()}
    router = IrtRouter.from_state(state, variant=Config(components=2), device="cpu")
    e = np.array([0.6, 0.8])
    r = np.exp(e / 0.1) / np.exp(e / 0.1).sum()
    k = sigmoid([0.6 + 0.1, -0.8 + 0.2])
    a = 9 * sigmoid(0.5 * 0.6 + 0.5 * 0.8 - 0.3)
    wanted = []
    for logits in parameters["table"]:
        z = a * (sigmoid(logits) - k) * r
        hidden = np.tanh([z[0] * 1 + z[1] * 0.5 + 0.1, z[0] * 2 + z[1] * 1 - 0.1])
        wanted.append(sigmoid(1.5 * hidden[0] + 0.5 * hidden[1] + 0.2))
    assert router.scores(as_queries([2 * e]))[0] == pytest.approx(wanted, abs=1e-6)


@each_form
def test_more_proficiency_of_a_model_lowers_no_score(form):
    router = fit(**form)
    before, table = router.scores(TEST), router.state()["parameter/table"]
    for n in range(6):
        more = table.copy()
        more[2, n] += 0.5
        after = routers.changed(router, table=more).scores(TEST)
        assert (after[:, 2] >= before[:, 2]).all() and (after[:, 2] > before[:, 2]).any()
        assert np.array_equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])


def test_predicting_twice_and_one_by_one_gives_the_same_though_training_drops():
    router = fit(dropout=0.5)
    first = router.scores(TEST)
    assert np.array_equal(first, router.scores(TEST))
    single = [router.scores(Queries(X=TEST.X[i : i + 1], texts=[""]))[0] for i in range(20)]
    assert np.array(single) == pytest.approx(first[:20], abs=1e-6)


def test_dropout_acts_while_training():
    assert not np.allclose(scores(dropout=0.5), scores(dropout=0.0), atol=1e-4)


@each_form
def test_relevance_sums_to_one_for_unseen_queries_too(form):
    router = fit(**form)
    for queries in (TRAIN, as_queries(7 * TEST.X), as_queries(np.zeros((1, 8)))):
        r = relevance(router, queries)
        assert r.sum(axis=1) == pytest.approx(1, abs=1e-6) and (r >= 0).all()


def test_onehot_relevance_marks_the_component_that_soft_relevance_prefers():
    soft, onehot = relevance(fit()), relevance(fit(relevance="onehot"))
    assert np.array_equal(soft.argmax(axis=1), onehot.argmax(axis=1))
    assert set(np.unique(onehot)) == {0, 1} and len(set(onehot.argmax(axis=1))) == 6
    assert soft.max(axis=1).mean() < 0.999


def test_centres_are_directions_of_train_queries_that_training_leaves_alone():
    short, long = fit(), fit(learning_rate=1e-2)
    centres = short.parameters["centres"].numpy()
    assert centres.shape == (6, 8) and np.linalg.norm(centres, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(centres, long.parameters["centres"].numpy())
    nearest = (TRAIN.unit @ centres.T).argmax(axis=1)
    for c in range(6):
        mean = TRAIN.unit[nearest == c].mean(axis=0)
        assert mean @ centres[c] / np.linalg.norm(mean) > 0.99


def test_there_are_no_more_components_than_queries_to_cluster():
    few = labelled(TRAIN.X[:4], TRAIN.Y[:4])
    assert fit(train=few, components=25).parameters["table"].shape == (4, 4)
    assert fit(train=few, components=25, relevance="learn").parameters["table"].shape == (4, 25)


def share_of_specialists(seed, missing=0.0, **config):
    train, _ = planted(4000, seed, missing=missing)
    val, _ = planted(500, seed + 10, missing=missing)
    test, specialist = planted(2000, seed + 20)
    router = IrtRouter()
    router.fit(train, val, variant=Config(learning_rate=3e-3, **config), seed=seed, device="cpu")
    return (router.scores(test).argmax(axis=1) == specialist).mean()


@pytest.mark.parametrize(
    ("seed", "missing", "config"),
    [
        (0, 0.0, {"relevance": "soft"}),
        (1, 0.4, {"relevance": "soft"}),
        (0, 0.0, {"relevance": "onehot"}),
    ],
)
def test_planted_specialists_get_their_queries(enough_steps, seed, missing, config):
    assert share_of_specialists(seed, missing, **config) >= 0.98


def test_with_one_relevance_for_all_queries_the_specialists_get_half_of_theirs(monkeypatch):
    def constant(parameters, X, draw):
        n = parameters["table"].shape[-1]
        return irt_router.respond(parameters, X, torch.full((*X.shape[:-1], n), 1 / n, dtype=X.dtype), draw)

    monkeypatch.setitem(irt_router.FORWARDS, "soft", constant)
    assert share_of_specialists(0, relevance="soft") < 0.6


def test_planted_specialists_get_their_queries_among_110_models_that_guess():
    train, _ = planted(400, 0, K=112)
    val, _ = planted(200, 10, K=112)
    test, specialist = planted(500, 20, K=112)
    router = IrtRouter()
    variant = Config("onehot", components=4, hidden=16, learning_rate=1e-2)
    router.fit(train, val, variant=variant, seed=0, device="cpu")
    assert (router.scores(test).argmax(axis=1) == specialist).mean() >= 0.98


def test_the_loss_reads_observed_labels_only(monkeypatch):
    heads, sparse = routers.heads_of(monkeypatch, irt_router), world(missing=0.5).observed
    fit(train=sparse)
    routers.check_loss_is_cross_entropy(heads[0], sparse.Y)


def test_a_minibatch_is_512_cells_and_there_are_at_most_20_epochs(monkeypatch):
    heads = routers.heads_of(monkeypatch, irt_router)
    routers.check_minibatch_is_512_cells(fit, heads)
    training = heads[-1].training
    assert (training.optimiser, training.cosine, training.weight_decay) == ("adam", False, 0)
    assert training.epochs == 20


def test_scores_are_the_same_however_many_rows_are_held_at_once(monkeypatch):
    router = fit()
    whole = router.scores(TEST)
    monkeypatch.setattr(irt_router, "HELD", 7 * 4 * 8)  # 7 rows of K * h numbers
    assert router.scores(TEST) == pytest.approx(whole, abs=1e-7)
    monkeypatch.setattr(irt_router, "HELD", 1)
    assert router.scores(worlds.part(TEST, 0, 10)) == pytest.approx(whole[:10], abs=1e-7)


def test_only_the_standardised_form_minds_the_length_of_an_embedding():
    longer = as_queries(3 * TEST.X)
    plain, standardised = fit(), fit(standardise=True)
    assert plain.scores(longer) == pytest.approx(plain.scores(TEST), abs=1e-5)
    assert not np.allclose(standardised.scores(longer), standardised.scores(TEST), atol=1e-3)


# --- fitting many at once -----------------------------------------------------------------------------


def test_fitting_many_equals_fitting_one_by_one_within_1e_4():
    configs = [*FORMS, {"components": 4}, {"dropout": 0.2}]
    trials = [Trial(variant=Config(**{**SMALL, **c}), seed=seed) for seed in (0, 3) for c in configs]
    for _, found, alone in routers.fitted_both_ways(register_router(), TRAIN, VAL, trials, TEST):
        assert found == pytest.approx(alone, abs=1e-4)


def test_heads_that_are_fitted_together_cluster_once_per_seed_and_number(monkeypatch):
    calls, real = [], irt_router.kmeans
    monkeypatch.setattr(
        irt_router, "kmeans", lambda X, clusters, **how: calls.append(clusters) or real(X, clusters, **how)
    )
    configs = [{}, {"hidden": 4}, {"relevance": "onehot"}, {"relevance": "learn"}, {"components": 4}]
    trials = [Trial(variant=Config(**{**SMALL, **c}), seed=seed) for seed in (0, 1) for c in configs]
    register_router().fit_many(TRAIN, VAL, trials, "cpu")
    assert sorted(calls) == [4, 4, 6, 6]


def test_a_stack_of_heads_computes_what_each_computes_alone():
    seen = torch.tensor([True, False, True])
    centres = {"centres": irt_router.directions(torch.tensor(TRAIN.X[:5]))}
    heads = [
        irt_router.initial(8, seen, centres, Config(hidden=7), chance(s, "test"), "cpu") for s in range(3)
    ]
    together = {name: torch.stack([head[name] for head in heads]) for name in heads[0]}
    forward, X = irt_router.FORWARDS["soft"], torch.tensor(TEST.X)
    for found, head in zip(forward(together, X, Draw()), heads, strict=True):
        assert torch.allclose(found, forward(head, X, Draw()), atol=1e-5)


# --- what every router owes ---------------------------------------------------------------------------


@each_form
def test_a_router_from_its_state_gives_the_same_scores(form):
    router = fit(**form)
    routers.check_state(router, router.variant, TEST)


@each_form
def test_scores_do_not_depend_on_batch_or_order(form):
    routers.check_batch_and_order(fit(**form), TEST, 30, abs=1e-6)


def test_permuting_the_models_permutes_the_scores_where_their_starts_are_permuted(monkeypatch):
    order, start = [2, 0, 3, 1], irt_router.initial

    def permuted(*args):
        parameters = start(*args)
        return parameters | {"table": parameters["table"][order]}

    wanted = scores(dropout=0.0)[:, order]  # which cells drop what depends on their order
    monkeypatch.setattr(irt_router, "initial", permuted)
    train, val = (worlds.reordered(s, order) for s in (TRAIN, VAL))
    assert scores(train=train, val=val, dropout=0.0) == pytest.approx(wanted, abs=1e-4)


def test_what_stands_in_a_missing_label_changes_nothing():
    sparse = world(missing=0.5)
    assert np.array_equal(scores(train=worlds.with_other_nans(sparse)), scores(train=sparse))


@each_form
def test_a_model_never_run_has_the_mean_proficiency_logits_of_the_pool(form):
    Y = TRAIN.Y.copy()
    Y[:, 1] = NAN
    router = fit(train=with_labels(Y), **form)
    table = router.state()["parameter/table"].copy()
    assert np.isnan(table[1]).all() and np.isfinite(table[[0, 2, 3]]).all()
    table[1] = table[[0, 2, 3]].mean(axis=0)
    found = router.scores(TEST)
    assert np.isfinite(found).all()
    assert found == pytest.approx(routers.changed(router, table=table).scores(TEST), abs=1e-7)


def test_constant_labels_and_embeddings_work():
    Y = TRAIN.Y.copy()
    Y[:, 0], Y[:, 3] = 0, 1
    router = fit(train=labelled(np.ones_like(TRAIN.X), Y))
    assert np.isfinite(router.scores(TEST)).all() and len(router.parameters["centres"]) == 1


def test_no_label_at_all_is_an_error_that_says_so():
    with pytest.raises(UsageError, match="no training query has a label"):
        fit(train=worlds.without_labels(TRAIN))


def test_costs_and_test_labels_are_never_read():
    assert np.array_equal(scores(worlds.poisoned(worlds.without_labels(TEST))), scores())
    train, val = (worlds.poisoned(s) for s in (TRAIN, VAL))
    assert np.array_equal(scores(train=train, val=val), scores())


def test_the_learning_rate_and_the_relevance_change_the_scores():
    routers.check_fields_matter(
        lambda variant: scores(**vars(variant)), Config(**SMALL), learning_rate=1e-3, relevance="onehot"
    )


def test_a_learnt_relevance_is_learnt():
    few, many = (fit(relevance="learn", train=worlds.part(TRAIN, 0, n)) for n in (100, 300))
    assert not np.array_equal(few.parameters["weight_relevance"], many.parameters["weight_relevance"])


MUTATIONS = [
    ("- k[..., :, None, :])", "+ k[..., :, None, :])", "harder queries score higher"),
    ('parameters["weight_1"].abs()', 'parameters["weight_1"]', "more proficiency may lower a score"),
    (
        "targets=(labels, seen),",
        "targets=(labels, torch.ones_like(seen)),",
        "a missing label counts as wrong",
    ),
    ("learning_rate=variant.learning_rate,", "", "the learning rate is ignored"),
    (
        'product(X, parameters["weight_relevance"])',
        'product(X, parameters["weight_relevance"].detach())',
        "the learnt relevance is not learnt",
    ),
]
