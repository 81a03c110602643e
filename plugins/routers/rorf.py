"""RoRF: random forests on the embedding; a model's score is its mean label in the leaves the query falls into.

Paper: none; Not Diamond's RoRF, blog post and repository of September 2024. The original routes between two
models, A and B: a forest of Gini trees predicts which of four outcomes a query has, 0: A better, 1: both wrong,
2: both right, 3: B better, and A is chosen iff p0 + p1 >= threshold. With labels 0 and 1 that sum is
1 - P(B right). The marginals P(A right) = p0 + p2 and P(B right) = p2 + p3 are scores for any number of models,
and if all pairs shared one forest, p0 - p3 would be the difference of the two models' scores in every leaf.
So the default is one forest for the whole pool ("shared"): a split lowers the models' summed label variance,

    s_m(x) = 1/T sum_t (sum_j M_jm Y_jm + a p_m) / (sum_j M_jm + a),    j: the training queries in x's leaf of tree t

with M the mask of observed labels, p_m the level of m and a = 1. scikit-learn grows the trees; leaf values
and predictions are ours, for scikit-learn accepts no missing label and its threaded sums differ from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, Trial, UsageError, VariantCard, hookimpl
from rph.arrays import model_means
from rph.lazy import np, torch
from rph.training.heads import chance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32

    Float64 = NDArray[np.float64]
    Ints = NDArray[np.integer[Any]]

PRIOR = 1.0  # labels at the model's overall mean that each leaf counts besides its own: a
DEEPEST = 20  # trees are grown this deep, and shallower variants cut them
SAMPLES = 20_000  # training queries a tree is grown on, at most; its leaves count all of them
LARGEST_POOL = 13  # of the pairwise form: 78 forests
RANK = 1e-6  # a principal component of less variance than this share of the first is rounding
POSITIONS = 1 << 17  # places in trees that are followed at once: they stay in the cache
ROWS = 8192  # queries projected at once


@dataclass(frozen=True)
class Config:
    depth: int = 20  # of a tree, at most
    features: Literal["sqrt"] | float = "sqrt"  # tried at a split: their number's root, or a share of them
    leaf: int = 8  # training queries in a leaf, at least
    forest: Literal["shared", "independent", "pairwise"] = "shared"  # all models, each, two
    components: int = 0  # principal components the trees see; 0: the embedding itself
    trees: int = 100  # per forest


GRID = (
    *(Config(20, "sqrt", leaf) for leaf in (8, 1, 32)),
    *(Config(20, 0.1, leaf) for leaf in (1, 8, 32)),
    *(Config(10, features, leaf) for features in ("sqrt", 0.1) for leaf in (1, 8)),
    *(Config(20, 1.0, leaf, components=64) for leaf in (1, 16, 32)),
    Config(20, "sqrt", 8, "independent"),
    Config(20, "sqrt", 8, "pairwise", trees=20),  # RoRF's own form: a forest per pair has trees enough in sum
)


# --- trees as arrays ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trees:
    """Trees of one or several forests. A leaf is its own child, so that every walk can take the same number of steps."""

    roots: Ints  # [T] nodes
    feature: Ints  # [nodes] the feature that is compared
    threshold: Float64  # [nodes]
    child: Ints  # [2 * nodes] of node i: [2i] where the feature is <= the threshold, else [2i + 1]

    def reached(self, X: Float32, roots: Ints, depth: int) -> Ints:
        """X [B, d], roots [T] -> [B, T] nodes where the queries stand after `depth` steps."""
        flat, start = np.ascontiguousarray(X).ravel(), np.arange(len(X))[:, None] * X.shape[1]
        node = np.tile(roots, (len(X), 1))
        for _ in range(depth):
            right = flat[start + self.feature[node]] > self.threshold[node]
            following = self.child[2 * node + right]
            if np.array_equal(following, node):
                break
            node = following
        return node


def flatten(trees: Sequence[Any]) -> Trees:
    """Fitted scikit-learn trees as arrays."""
    parts = [tree.tree_ for tree in trees]
    roots = np.cumsum([0, *(part.node_count for part in parts)])
    feature, threshold, child = [], [], []
    for root, part in zip(roots, parts, strict=False):
        node = np.arange(part.node_count)
        inner = part.children_left >= 0
        sides = np.stack([part.children_left, part.children_right], axis=1)
        feature.append(np.where(inner, part.feature, 0))
        threshold.append(part.threshold)
        child.append((root + np.where(inner[:, None], sides, node[:, None])).ravel())
    return Trees(roots[:-1], np.concatenate(feature), np.concatenate(threshold), np.concatenate(child))


def leaf_means(node: Ints, Y: Float32, prior: Float64, weight: float) -> tuple[Ints, Float64]:
    """Mean labels of the queries that share a node: the nodes [leaves], ascending, and their means [leaves, K].

    node [N] is each query's; Y [N, K], NaN = not observed. The prior [K] counts as `weight` labels, and stands
    alone where nothing was observed.
    """
    seen = ~np.isnan(Y)
    order = np.argsort(node, kind="stable")
    first = np.flatnonzero(np.diff(node[order], prepend=-1))
    sums = np.add.reduceat(np.where(seen, Y, 0).astype(np.float64)[order], first, axis=0)
    counts = np.add.reduceat(seen.astype(np.float64)[order], first, axis=0)
    total = counts + weight
    means = np.where(total > 0, (sums + weight * prior) / np.where(total > 0, total, 1), prior)
    return node[order][first], means


# --- growing ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What the trees see of an embedding: all of it where there are no directions, else its projections."""

    mean: Float64  # [d]
    directions: Float64  # [d, components]

    def of(self, X: Float32) -> Float32:
        """X [N, d] -> [N, components]. In float64, whose rounding depends on the batch; float32's then does not."""
        if not self.directions.shape[1]:
            return X
        result = np.empty((len(X), self.directions.shape[1]), np.float32)
        for i in range(0, len(X), ROWS):
            result[i : i + ROWS] = (X[i : i + ROWS].astype(np.float64) - self.mean) @ self.directions
        return result


def principal_components(X: Float32, components: int) -> Inputs:
    """The first directions of X [N, d], by variance: as many as asked for, or as there are."""
    mean = X.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((X.shape[1], X.shape[1]))
    for i in range(0, len(X), ROWS):
        centred = X[i : i + ROWS] - mean
        covariance += centred.T @ centred
    variance, directions = np.linalg.eigh(covariance)  # ascending
    real = max(1, int((variance > RANK * variance[-1]).sum()))
    return Inputs(mean, np.ascontiguousarray(directions[:, ::-1][:, : min(components, real)]))


@dataclass(frozen=True)
class Grown:
    """Forests without leaf values: what variants of different depth share."""

    inputs: Inputs
    trees: Trees
    columns: tuple[tuple[int, ...], ...]  # per forest, the models it scores


def grow(known: Labelled, variant: Config, seed: int) -> Grown:
    """Grow the variant's forests, to at least `DEEPEST`. All of a seed's forests see the same bootstrap draws."""
    X, Y, K = known.X, known.Y, len(known.models)
    inputs = Inputs(np.empty(0), np.empty((X.shape[1], 0)))
    if variant.components:
        inputs = principal_components(X, variant.components)
        X = inputs.of(X)
    state = int(torch.randint(2**31, (), generator=chance(seed, "forest")))
    columns = _columns(variant.forest, K)
    found: list[tuple[tuple[int, ...], list[Any]]] = []
    for models in columns:
        rows, targets = _targets(Y[:, models], variant.forest)
        if len(rows):
            found.append((models, _forest(X[rows], targets, variant, state)))
    if not found:
        raise UsageError(
            "rorf: forest=pairwise needs two models that were observed on the same training query",
            why=f"there is none such pair among the {K} models",
            fix="use forest=shared or forest=independent",
        )
    return Grown(inputs, flatten([tree for _, trees in found for tree in trees]), tuple(m for m, _ in found))


def _columns(form: str, K: int) -> list[tuple[int, ...]]:
    if form == "shared":
        return [tuple(range(K))]
    if form == "independent":
        return [(m,) for m in range(K)]
    if K > LARGEST_POOL:
        raise UsageError(
            f"rorf: forest=pairwise has {K * (K - 1) // 2} forests for {K} models",
            why=f"pairs are affordable up to {LARGEST_POOL} models",
            fix="use forest=shared, which ranks the models as pairs that share their trees would",
        )
    return list(combinations(range(K), 2))


def _targets(Y: Float32, form: str) -> tuple[Ints, Float64]:
    """Y [N, c] labels of one forest's models -> the rows it is grown on, and what it is to predict there.

    Summed over the columns, the variance of 0/1 labels, or of the indicators of four outcomes, is half the Gini
    impurity: the splits are those of a classifier, and an imputed label may be a fraction.
    """
    seen = ~np.isnan(Y)
    if form == "shared":
        return np.arange(len(Y)), np.where(seen, Y, model_means(Y)).astype(np.float64)
    rows = np.flatnonzero(seen.all(axis=1))
    if form == "independent":
        return rows, Y[rows].astype(np.float64)
    a, b = Y[rows].T
    return rows, np.stack([a > b, (a == b) & (a == 0), (a == b) & (a != 0), a < b], axis=1).astype(np.float64)


def _forest(X: Float32, targets: Float64, variant: Config, state: int) -> list[Any]:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        variant.trees,
        max_depth=max(variant.depth, DEEPEST),
        max_features=variant.features,
        min_samples_leaf=variant.leaf,
        max_samples=min(len(X), SAMPLES),
        random_state=state,
        n_jobs=torch.get_num_threads(),  # the trees do not depend on it
    )
    trees: list[Any] = forest.fit(X, targets if targets.shape[1] > 1 else targets[:, 0]).estimators_
    return trees


# --- the router ---------------------------------------------------------------------------------------


class RorfRouter:
    depth: int
    inputs: Inputs
    trees: Trees  # forest after forest
    columns: Ints  # [forests, models of each]
    slot: Ints  # [nodes] a node's row in `values`, where queries end there
    values: Float32  # [leaves, models of each forest]
    prior: Float32  # [K], for models without a forest

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        self._estimate(train.observed, grow(train.observed, variant, seed), variant)

    def _estimate(self, known: Labelled, grown: Grown, variant: Config) -> None:
        """Cut the trees to the variant's depth and learn the leaves' values from all observed labels."""
        self.depth, self.inputs, self.trees = variant.depth, grown.inputs, grown.trees
        self.columns = np.array(grown.columns, dtype=np.int64)
        self.prior = model_means(known.Y)
        self.slot = np.zeros(len(self.trees.feature), np.int64)
        X, values, leaves = self.inputs.of(known.X), [], 0
        for models, roots in zip(self.columns, self._roots(), strict=True):
            labels = known.Y[:, models]
            rows, _ = _targets(labels, variant.forest)
            seen, Y, prior = X[rows], labels[rows], self.prior[models].astype(np.float64)
            for root in roots:
                node = self.trees.reached(seen, root[None], self.depth)[:, 0]
                ends, means = leaf_means(node, Y, prior, PRIOR)
                self.slot[ends] = leaves + np.arange(len(ends))
                values.append(means.astype(np.float32))
                leaves += len(ends)
        self.values = np.concatenate(values)

    def _roots(self) -> Ints:
        """[forests, trees]"""
        return self.trees.roots.reshape(len(self.columns), -1)

    def scores(self, queries: Queries) -> Float32:
        """[N, K]: the mean over a forest's trees, then over the forests that score the model."""
        X, roots = self.inputs.of(queries.X), self._roots()
        forests = np.bincount(self.columns.ravel(), minlength=len(self.prior))  # [K]
        scores = np.empty((len(X), len(self.prior)), np.float32)
        rows = max(1, POSITIONS // roots.size)
        for i in range(0, len(X), rows):
            leaf = self.slot[self.trees.reached(X[i : i + rows], roots.ravel(), self.depth)]
            total = np.zeros((len(leaf), len(self.prior)))
            for place, models in enumerate(np.repeat(self.columns, roots.shape[1], axis=0)):
                total[:, models] += self.values[leaf[:, place]]
            mean = total / np.maximum(forests * roots.shape[1], 1)
            scores[i : i + rows] = np.where(forests > 0, mean, self.prior)
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        return {
            "mean": self.inputs.mean,
            "directions": self.inputs.directions,
            "roots": self.trees.roots,
            "feature": self.trees.feature,
            "threshold": self.trees.threshold,
            "child": self.trees.child,
            "columns": self.columns,
            "slot": self.slot,
            "values": self.values,
            "prior": self.prior,
        }

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> RorfRouter:
        router = cls()
        router.depth = variant.depth
        router.inputs = Inputs(state["mean"], state["directions"])
        router.trees = Trees(state["roots"], state["feature"], state["threshold"], state["child"])
        router.columns, router.slot = state["columns"], state["slot"]
        router.values, router.prior = state["values"], state["prior"]
        return router


@dataclass(frozen=True)
class RorfGroup:
    routers: Sequence[RorfRouter]

    def scores(self, queries: Queries) -> list[Float32]:
        return [router.scores(queries) for router in self.routers]


def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> RorfGroup:
    """Trials that differ in depth only share one growth; scores equal those of `fit`, bit for bit."""
    known = train.observed
    grown: dict[tuple[Config, int], Grown] = {}
    routers = []
    for trial in trials:
        key = replace(trial.variant, depth=max(trial.variant.depth, DEEPEST)), trial.seed
        if key not in grown:
            grown[key] = grow(known, *key)
        router = RorfRouter()
        router._estimate(known, grown[key], trial.variant)
        routers.append(router)
    return RorfGroup(routers)


def describe(variant: Config) -> VariantCard:
    own = variant.forest == "pairwise"
    return VariantCard(
        original=own,
        why="a forest per pair of models" if own else "a forest for all models, or one per model",
        most_models=LARGEST_POOL if own else None,
    )


CARD = RouterCard(
    name="rorf",
    title="Random forests on the embedding: mean label in the query's leaves (RoRF)",
    paper="Not Diamond, RoRF, 2024 (github.com/Not-Diamond/RoRF)",
    year=2024,
    family="trees",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    fidelity=(
        "One forest for all models, or one per model in a variant; RoRF's, one per two models, is one for at most 13 models.",
        "A model's score is its marginal P(correct); RoRF thresholds P(weaker model correct) between two models.",
        "A split tries the square root or a tenth of the dimensions; RoRF tries all.",
        "Three variants try all, of 64 principal components instead of the whole embedding.",
        "Leaf values are re-estimated from all observed training labels, not from the tree's bootstrap sample.",
        "Each leaf counts one label at the model's overall mean besides its own; RoRF's leaves count none.",
        "Trees of the shared forest are grown with missing labels replaced by the model's mean.",
        "A forest per model, or per two models, is grown and estimated where those models were observed.",
        "A tree of depth 10 is the top of one grown to depth 20, so that both need one growth.",
        "A tree is grown on at most 20,000 training queries; its leaves count all of them.",
        "Trees minimise the summed variance of labels, which for labels 0 and 1 is half the Gini impurity.",
        "In the pairwise form a pair has 20 trees, so that a model has 20 for every other one.",
        "A leaf has at least 1, 8, 16 or 32 training queries; RoRF has no minimum.",
        "A model never observed gets the pool's mean.",
        "The embeddings are the harness's encoders, not jina-embeddings-v3 or voyage-large-2-instruct.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=RorfRouter, fit_many=fit_many, describe=describe)
