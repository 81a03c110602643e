"""The conformance suite of rph, a test per check, and the method against hand-computed and independent values."""

import numpy as np
from rph import Labelled, Queries
from rph.testing import parametrize_with_router_checks

from rph_softmax_router import Config, SoftmaxRouter

NAN = np.nan


@parametrize_with_router_checks(["softmax"])
def test_it_conforms(spec, check):
    check(spec)


def fitted(X, Y, l2=1e-3):
    X, Y = np.array(X, np.float32), np.array(Y, np.float32)
    models = tuple(f"model-{m}" for m in range(Y.shape[1]))
    train = Labelled(X=X, texts=[""] * len(X), Y=Y, C=None, models=models)
    router = SoftmaxRouter()
    router.fit(train, train, variant=Config(l2), seed=0, device="cpu")
    return router


def shares(router, X):
    """The softmax of the scores: what the regression estimates."""
    scores = np.exp(router.scores(Queries(X=np.array(X, np.float32), texts=[""] * len(X))).astype(float))
    return scores / scores.sum(axis=1, keepdims=True)


def test_with_nothing_to_tell_queries_apart_the_shares_are_those_of_the_labels():
    # Three right for the first model alone, one for the second alone; both right on two: 4 and 2 of 6.
    Y = [[1, 0], [1, 0], [1, 0], [0, 1], [1, 1], [1, 1]]
    X = np.zeros((6, 2))  # a query with a zero embedding has only the biases
    assert np.allclose(shares(fitted(X, Y), X[:1]), [[4 / 6, 2 / 6]], atol=1e-6)


def test_a_missing_label_is_left_out_of_the_softmax():
    # The third model is right where it is observed, once, beside the second; the odds 3 : 1 of the first two stay.
    Y = [[1, 0, NAN]] * 3 + [[0, 1, NAN]] + [[0, 1, 1]]
    found = shares(fitted(np.zeros((5, 2)), Y), np.zeros((1, 2)))[0]
    # By hand: the shares s solve d/db = 0, that is 3 = 4 s0/(s0+s1) + s0 and 1/2 = s2 (with s0+s1+s2 = 1).
    # With s2 = 1/2: s0 + s1 = 1/2, so 3 = 8 s0 + s0.
    assert np.allclose(found, [1 / 3, 1 / 6, 1 / 2], atol=1e-6)


def test_queries_that_nobody_gets_right_change_nothing():
    X, Y = [[1, 0], [0, 1], [1, 1]], [[1, 0], [0, 1], [1, 0]]
    more = fitted([*X, [-1, 0]], [*Y, [0, 0]])
    assert np.array_equal(shares(fitted(X, Y), X), shares(more, X))


def test_it_is_scikit_learns_where_one_model_is_right_on_each_query():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 4))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    right = (X @ rng.standard_normal((4, 3)) + rng.gumbel(size=(200, 3))).argmax(axis=1)
    # scikit-learn minimises the sum, not the mean, and halves the square: 1 / C = 2 * l2 * N.
    theirs = LogisticRegression(C=1 / (2 * 1e-3 * 200), tol=1e-10, max_iter=1000).fit(X, right)
    assert np.allclose(shares(fitted(X, np.eye(3)[right]), X), theirs.predict_proba(X), atol=1e-4)
