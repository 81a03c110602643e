"""OptLLM: gradient-boosted trees predict for each model whether it answers the query correctly.

Paper: Liu et al. 2024, OptLLM (arXiv:2405.15130), its XGBoost form: one booster of logistic trees per model,

    F_m = logit p_m + eta sum_t f_mt(x),    minimising sum_j M_jm [BCE(sigma(F_m(x_j)), Y_jm)] + 1/2 sum leaf^2

with M the mask of observed labels and p_m the level of m. Its uncertainty is kept too: B boosters on
bootstrap resamples of the training queries give S_m = sum_b w_b sigma(F_mb) + alpha std_b sigma(F_mb), with w_b
the share of resample b in the val accuracies. B = 1 is the training queries themselves, and S = sigma(F).
Its search over assignments needs no code here: total accuracy and total cost are sums over queries, so the
utility of each query, (1 - lambda) S - lambda cost, gives every supported Pareto point as lambda moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, Trial, VariantCard, hookimpl
from rph.arrays import level, model_means
from rph.lazy import np, torch
from rph.training.heads import chance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32

    Float64 = NDArray[np.float64]
    Ints = NDArray[np.integer[Any]]

PATIENCE = 30  # rounds without a better val logloss that end the boosting
BINS = 64  # of each dimension: half the time of 256
SUBSAMPLE = 0.8  # share of the training queries that a tree sees
LEAST = 10.0  # sum of p (1 - p) over the queries of a node
SURE = 1e-6  # a booster starts no closer to certainty than this


@dataclass(frozen=True)
class Config:
    depth: int = 4  # of a tree, at most
    eta: float = 0.05  # learning rate
    rounds: int = 400  # trees per model, at most
    columns: float = 0.3  # share of the dimensions that a tree sees
    resamples: int = 1  # B; 1: no resampling
    alpha: float = 0.0  # standard deviations over the resamples that are added to a score
    trees: Literal["per-model", "joint"] = "per-model"  # joint: each leaf has a value for every model


GRID = (
    *(Config(4, 0.05, 400, columns) for columns in (0.3, 0.7)),
    *(Config(2, 0.1, 300, columns) for columns in (0.3, 0.7)),
    *(Config(3, 0.1, 200, columns) for columns in (0.3, 0.7)),
    *(Config(3, 0.05, 400, columns) for columns in (0.3, 0.7)),
    *(Config(4, 0.03, 600, columns) for columns in (0.3, 0.7)),
    *(Config(6, 0.05, 300, columns) for columns in (0.3, 0.7)),
    *(Config(3, 0.1, 200, 0.3, resamples=5, alpha=alpha) for alpha in (0.0, -0.5)),
    Config(6, 0.1, 200, 0.3, trees="joint"),
)


# --- boosting -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Train or val queries as XGBoost holds them, binned once; each model in turn sets its labels and weights."""

    matrix: Any  # xgboost.DMatrix
    Y: Float32  # [N, K] labels, 0 where not observed: XGBoost takes no NaN
    seen: Float32  # [N, K] 1 where observed

    @classmethod
    def of(cls, matrix: Any, Y: Float32) -> Part:
        seen = ~np.isnan(Y)
        return cls(matrix, np.where(seen, Y, np.float32(0)), seen.astype(np.float32))

    def set(self, models: Ints, weights: Float32) -> None:
        """Labels of these models, and the first one's weights of [N, K]: an objective of ours brings its own."""
        self.matrix.set_label(np.ascontiguousarray(self.Y[:, models]))
        self.matrix.set_weight(np.ascontiguousarray(weights[:, models[0]]))


def boost(
    train: Part, val: Part, models: Ints, weights: Float32, start: Float64, variant: Config, seed: int
) -> bytes:
    """A booster for the logits of these models, up to its best round, as UBJSON.

    Weights [N, K] are 0 where not observed; `start` [K] are the probabilities before the first round. Without any val
    label of the models, all rounds are kept.
    """
    import xgboost

    means = start[models].clip(SURE, 1 - SURE)  # levels may lie beyond
    params: dict[str, Any] = {
        "tree_method": "hist",
        "max_depth": variant.depth,
        "eta": variant.eta,
        "colsample_bytree": variant.columns,
        "subsample": SUBSAMPLE,
        "min_child_weight": LEAST,
        "lambda": 1.0,
        "max_bin": BINS,
        "nthread": 1,  # the histograms' sums depend on the number of threads
        "seed": seed,
    }
    how: dict[str, Any] = {}
    if variant.trees == "per-model":
        params |= {"objective": "binary:logistic", "eval_metric": "logloss", "base_score": float(means[0])}
    else:
        params |= {"multi_strategy": "multi_output_tree", "disable_default_eval_metric": 1}
        params["base_score"] = [float(logit) for logit in np.log(means / (1 - means))]
        how |= _masked_logloss(train, val, models, weights)
    train.set(models, weights)
    if val.seen[:, models].any():
        val.set(models, val.seen)
        how |= {"evals": [(val.matrix, "val")], "early_stopping_rounds": PATIENCE}
    booster = xgboost.train(params, train.matrix, variant.rounds, verbose_eval=False, **how)
    rounds = booster.best_iteration + 1 if "evals" in how else variant.rounds
    return bytes(booster[:rounds].save_raw("ubj"))


def _masked_logloss(train: Part, val: Part, models: Ints, weights: Float32) -> dict[str, Any]:
    """The objective and the metric of trees with a value for each model: XGBoost's own know no mask of cells."""
    Y, W, val_Y, val_seen = train.Y[:, models], weights[:, models], val.Y[:, models], val.seen[:, models]

    def objective(logits: Float32, _: Any) -> tuple[Float32, Float32]:
        p = sigmoid(logits.reshape(Y.shape))
        return W * (p - Y), W * p * (1 - p)

    def metric(logits: Float32, _: Any) -> tuple[str, float]:
        z = logits.reshape(val_Y.shape).astype(np.float64)
        return "logloss", float((val_seen * (np.logaddexp(0, z) - val_Y * z)).sum() / val_seen.sum())

    return {"obj": objective, "custom_metric": metric}


def sigmoid(logits: Float32) -> Float32:
    result: Float32 = 1 / (1 + np.exp(-logits.clip(-50, 50)))
    return result


def _loaded(raw: bytes) -> Any:
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(raw))
    return booster


# --- the router ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boosters:
    """The boosters of a variant and a seed: resample after resample, and in it model after model or all in one."""

    raw: Sequence[bytes]
    loaded: Sequence[Any]
    groups: Ints  # [boosters per resample, models of each]; a model whose labels are all the same has none
    weights: Float32  # [B, K] of the resamples; they sum to 1
    prior: Float32  # [K] levels: the scores of models without a booster

    def probabilities(self, X: Float32) -> Iterator[Float32]:
        """X [N, d] -> P(correct) [N, K] by each resample."""
        import xgboost

        matrix = xgboost.DMatrix(X, nthread=1)
        for b in range(len(self.weights)):
            p = np.tile(self.prior, (len(X), 1))
            for i, models in enumerate(self.groups, b * len(self.groups)):
                logits = self.loaded[i].predict(matrix, output_margin=True)
                p[:, models] = sigmoid(logits.reshape(len(X), -1))
            yield p


def _learn(train: Part, val: Part, train_X: Float32, prior: Float32, variant: Config, seed: int) -> Boosters:
    varied = np.flatnonzero(_varies(train))
    groups = varied.reshape(-1, max(1, len(varied)) if variant.trees == "joint" else 1)
    state = int(torch.randint(2**30, (), generator=chance(seed, "boosting")))
    start = level(np.where(train.seen > 0, train.Y, np.nan))
    draws = list(_resamples(len(train.Y), variant.resamples, seed))
    raw = [
        boost(train, val, models, train.seen * counts[:, None], start, variant, state + b)
        for b, counts in enumerate(draws)
        for models in groups
    ]
    equal = np.full((variant.resamples, len(prior)), 1 / variant.resamples, np.float32)
    found = Boosters(raw, [_loaded(booster) for booster in raw], groups, equal, prior)
    if variant.resamples == 1:
        return found
    left_out = [train.seen * (counts == 0)[:, None] for counts in draws]
    return replace(found, weights=resample_weights(list(found.probabilities(train_X)), train.Y, left_out))


def _varies(part: Part) -> NDArray[np.bool_]:
    """[K]: whether a model has different labels; where not, there is nothing to learn."""
    highest = np.where(part.seen > 0, part.Y, -np.inf).max(axis=0)
    lowest = np.where(part.seen > 0, part.Y, np.inf).min(axis=0)
    return np.asarray(lowest < highest)


def _resamples(N: int, resamples: int, seed: int) -> Iterator[Float32]:
    """How often each training query [N] is drawn, per resample: all models see the same draws."""
    generator = chance(seed, "resamples")
    for _ in range(resamples):
        if resamples == 1:
            yield np.ones(N, np.float32)
        else:
            drawn = torch.randint(N, (N,), generator=generator).numpy()
            yield np.bincount(drawn, minlength=N).astype(np.float32)


def resample_weights(p: Sequence[Float32], Y: Float32, left_out: Sequence[Float32]) -> Float32:
    """Each resample's share in the accuracies of p > 1/2 on the labels it left out, [B, K]; equal shares without any hit.

    p [N, K] and left_out [N, K], 1 where the label was observed and not drawn, per resample; Y [N, K] train labels,
    any number where not observed.
    """
    accuracies = np.stack(
        [
            (out * (1 - np.abs((q > 0.5) - Y))).sum(axis=0, dtype=np.float64) / out.sum(axis=0).clip(min=1)
            for q, out in zip(p, left_out, strict=True)
        ]
    )
    total = accuracies.sum(axis=0)
    even = np.full_like(accuracies, 1 / len(p))
    shares: Float32 = np.divide(accuracies, total, out=even, where=total > 0).astype(np.float32)
    return shares


class OptLlmRouter:
    boosters: Boosters
    alpha: float

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        trial = Trial(variant=variant, seed=seed)
        self.boosters, self.alpha = fit_many(train, val, [trial], device).routers[0].boosters, variant.alpha

    def scores(self, queries: Queries) -> Float32:
        p = np.stack(list(self.boosters.probabilities(queries.X)))  # [B, N, K]
        mean = (self.boosters.weights[:, None] * p).sum(axis=0)
        scores: Float32 = (mean + np.float32(self.alpha) * p.std(axis=0)).clip(0, 1)
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        return {
            "boosters": np.frombuffer(b"".join(self.boosters.raw), np.uint8),
            "sizes": np.array([len(raw) for raw in self.boosters.raw], np.int64),
            "groups": self.boosters.groups,
            "weights": self.boosters.weights,
            "prior": self.boosters.prior,
        }

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> OptLlmRouter:
        router = cls()
        ends = np.cumsum(state["sizes"])
        whole = state["boosters"].tobytes()
        raw = [whole[end - size : end] for end, size in zip(ends, state["sizes"], strict=True)]
        loaded = [_loaded(booster) for booster in raw]
        router.boosters = Boosters(raw, loaded, state["groups"], state["weights"], state["prior"])
        router.alpha = variant.alpha
        return router


@dataclass(frozen=True)
class OptLlmGroup:
    routers: Sequence[OptLlmRouter]

    def scores(self, queries: Queries) -> list[Float32]:
        return [router.scores(queries) for router in self.routers]


def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> OptLlmGroup:
    """Trials share the binned queries, and those that differ in alpha only their boosters; scores are those of `fit`."""
    import xgboost

    known = train.observed
    parts = (
        Part.of(xgboost.QuantileDMatrix(known.X, max_bin=BINS, nthread=1), known.Y),
        Part.of(xgboost.DMatrix(val.X, nthread=1), val.Y),
    )
    prior = model_means(known.Y)
    learned: dict[tuple[Config, int], Boosters] = {}
    routers = []
    for trial in trials:
        key = replace(trial.variant, alpha=0.0), trial.seed
        if key not in learned:
            learned[key] = _learn(*parts, known.X, prior, *key)
        router = OptLlmRouter()
        router.boosters, router.alpha = learned[key], trial.variant.alpha
        routers.append(router)
    return OptLlmGroup(routers)


def describe(variant: Config) -> VariantCard:
    own = variant.trees == "per-model"
    return VariantCard(original=own, why="a booster per model" if own else "trees that all models share")


CARD = RouterCard(
    name="optllm",
    title="Gradient-boosted trees, one booster per model (OptLLM, XGBoost form)",
    paper="arXiv:2405.15130",
    year=2024,
    family="trees",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    version=2,
    aliases=("optllm_xgb",),
    fidelity=(
        "XGBoost is the single-objective form of the official code; its main form boosts nothing (random forests).",
        "Scores are probabilities; the official XGBoost form multiplies hard 0/1 predictions by train accuracies.",
        "Trees have depth 2 to 6 and boosting stops early on val logloss; the official 1000 trees of depth 100 overfit.",
        "Without a val label of a model, its booster keeps all rounds.",
        "5 bootstrap resamples in two variants and none in the others, not 100.",
        "Resamples are weighted by accuracy on the train queries they left out; the official code compares val with test predictions.",
        "The variant with alpha = -0.5 scores below P(correct) where resamples disagree; alpha is 0 in all others.",
        "One variant grows trees with a value for each model, masked by an objective of ours.",
        "Missing labels have weight 0; a model never observed gets the pool's mean.",
        "A model whose observed labels are all the same gets that label.",
        "The search over assignments is left to the harness's utility: totals are sums over queries.",
        "All training queries are used, not 1 % of the data.",
        "It runs on one CPU thread, whatever the device, so that scores are repeatable bit for bit.",
        "The embeddings are the harness's encoders, not mean fastText vectors.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=OptLlmRouter, fit_many=fit_many, describe=describe)
