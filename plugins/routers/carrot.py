"""carrot: what each model will get right on a query and what it will cost, estimated apart, then weighed.

Paper: Somerstep et al. 2025, CARROT (arXiv:2502.03261). With estimates P(x) of the label and C(x) of the cost of
each model, a query goes to

    argmax over m of (1 - mu) P_m(x) - mu C_m(x).

The scores are P; `costs` gives C, in US dollars, and mu is the harness's. Two families of estimators, each fitted
to labels and to costs:

knn: the mean over the k nearest training queries by cosine on which the model was observed. `k="cv"` is the
     paper's rule: the k of 2, 4, ..., 512 with the best R^2, averaged over models; for labels and for costs apart.
head: a network with an output per model, trained by masked cross-entropy and stopped on that of val; another of
     the same shape, trained by the squared error of the standardised log cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, Trial, VariantCard, hookimpl
from rph.arrays import model_means, observed_means, to_device
from rph.lazy import np, torch
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import (
    Head,
    Training,
    Validation,
    bce_loss,
    chance,
    feed_forward,
    layers,
    level,
    masked_mean,
    observed,
)
from rph.training.neighbours import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rph.api import Float32
    from rph.arrays import Float64
    from rph.training.heads import Batch, Draw, Forward, Parameters

    Rule = tuple[int, "Weights"]  # k, and how the k are weighed

Weights = Literal["uniform", "cosine"]
CANDIDATES = (2, 4, 8, 16, 32, 64, 128, 256, 512)  # k of the paper
SCORED = 20_000  # training queries that R^2 is measured on, at most
GATHERED = 1 << 21  # neighbour labels gathered at once: bounds memory at 16 MiB an array
DEEPER = 1.25  # the shared search goes this much deeper than the usual share of missing labels asks for
FARTHEST = 1e-6  # what a neighbour weighs at least
CHEAPEST = 1e-3  # of a model's mean cost: calls that cost less count as that, since 0 has no logarithm
FEW = 10_000  # training queries up to which batches of 512 would be too few steps


@dataclass(frozen=True)
class Config:
    estimator: Literal["knn", "head"] = "knn"
    k: int | Literal["cv"] = "cv"  # neighbours; cv: chosen within train
    weights: Weights = "uniform"  # of the neighbours; cosine: closer ones weigh more
    hidden: tuple[int, ...] = ()  # widths of the head; () is linear
    dropout: float = 0.0


GRID = (
    Config(),
    *(Config(k=k) for k in (4, 8, 16, 32, 64, 128, 256, 512)),
    Config(k=64, weights="cosine"),
    *(Config("head", hidden=hidden) for hidden in ((), (256,), (512,), (256, 256))),
    Config("head", hidden=(256,), dropout=0.3),
)


# --- neighbours -------------------------------------------------------------------------------------


def local_means(
    queries: Float32,
    X: Float32,
    T: Float32,
    rules: Sequence[Rule],
    device: str,
    own: NDArray[np.int64] | None = None,
) -> Float32:
    """Each model's mean of T over the k nearest queries on which it was observed, for several k: [V, B, K].

    `queries` [B, d] and `X` [N, d] have unit rows; T [N, K], NaN = not observed; `own` [B] is a row of X that is
    left out. A model with fewer than k uses all it has; one without any gets NaN.

    One search serves all models and rules. Where it did not reach k observations of a model, which can only be
    where some are missing, the model's own rows are searched for that query.
    """
    largest = max(k for k, _ in rules)
    table = to_device(T, device)
    left_out = None if own is None else to_device(own, device)
    available = (~torch.isnan(table)).sum(dim=0)  # [K]
    out = np.full((len(rules), len(queries), T.shape[1]), np.nan, np.float32)
    short = np.zeros((len(queries), T.shape[1]), bool)

    depth = _depth(T, largest) + (own is not None)
    for part, near, cosines in _parts(queries, X, depth, T.shape[1], device):
        labels = table[near]  # [b, L, K]
        enough = available
        if left_out is not None:
            itself = left_out[part, None]
            enough = available - (~torch.isnan(table[itself[:, 0]])).long()
            labels = labels.masked_fill((near == itself)[..., None], torch.nan)
        reached = (~torch.isnan(labels)).sum(dim=1)
        short[part] = (reached < enough.clamp(max=largest)).cpu().numpy()
        out[:, part] = _first(labels, cosines, rules).cpu().numpy()

    for m in np.flatnonzero(short.any(axis=0)):
        some = np.flatnonzero(short[:, m])
        rows = np.flatnonzero(~np.isnan(T[:, m]))
        column = table[to_device(rows, device), m]
        for part, near, cosines in _parts(queries[some], X[rows], largest + (own is not None), 1, device):
            labels = column[near][..., None]  # [b, L, 1]
            if own is not None:
                itself = to_device(own[some[part]], device)[:, None]
                labels = labels.masked_fill((to_device(rows, device)[near] == itself)[..., None], torch.nan)
            out[:, some[part], m] = _first(labels, cosines, rules)[..., 0].cpu().numpy()
    return out


def _depth(T: Float32, k: int) -> int:
    """How many neighbours usually hold k observations of a model."""
    share = (~np.isnan(T)).mean(axis=0)
    known = share[share > 0]
    if not known.size or known.min() == 1:
        return k
    return int(np.ceil(DEEPER * k / np.median(known)))


def _parts(
    queries: Float32, X: Float32, k: int, models: int, device: str
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The blocks of `nearest`, cut so that the labels gathered for one are not too many."""
    for block, near, cosines in nearest(queries, X, k, device):
        rows = max(1, GATHERED // max(1, near.shape[1] * models))
        start = block.start
        for some, close in zip(torch.split(near, rows), torch.split(cosines, rows), strict=True):
            yield slice(start, start + len(some)), some, close
            start += len(some)


def _first(labels: Tensor, cosines: Tensor, rules: Sequence[Rule]) -> Tensor:
    """labels [b, L, K], nearest first, NaN = not observed -> [V, b, K] means over the first k observed.

    In float64: the order of a sum depends on the batch; rounded to float32 afterwards, the means do not.
    """
    seen = ~torch.isnan(labels)
    place = seen.cumsum(dim=1, dtype=torch.int32)  # 1 at the nearest observed
    values = labels.nan_to_num(0.0).double()
    closeness = cosines.double().clamp(min=FARTHEST)[..., None]  # [b, L, 1]
    means = []
    for k, weights in rules:
        end = int((place < k).sum(dim=1).max()) + 1 if len(labels) else 0  # beyond it nothing counts
        weight = (seen[:, :end] & (place[:, :end] <= k)).double()
        if weights == "cosine":
            weight = weight * closeness[:, :end]
        means.append((values[:, :end] * weight).sum(dim=1) / weight.sum(dim=1))  # 0 / 0 is NaN
    return torch.stack(means)


def r_squared(found: Float32, T: Float32) -> Float64:
    """found [V, N, K] against T [N, K], NaN = not observed -> [V], R^2 averaged over the models whose T varies.

    NaN where there is no such model.
    """
    seen = ~np.isnan(T) & ~np.isnan(found[0])
    count = seen.sum(axis=0)
    truth = np.where(seen, T, 0).astype(np.float64)
    centred = np.where(seen, truth - truth.sum(axis=0) / np.maximum(count, 1), 0)
    total = np.square(centred).sum(axis=0)  # [K]
    errors = np.where(seen, found - truth, 0)
    varies = total > 1e-12 * np.square(truth).sum(axis=0)
    if not varies.any():
        return np.full(len(found), np.nan)
    quality: Float64 = 1 - (np.square(errors).sum(axis=1)[:, varies] / total[varies]).mean(axis=1)
    return quality


def chosen_k(X: Float32, tables: Sequence[Float32], device: str) -> list[int]:
    """For each table [N, K] the k of CANDIDATES whose leave-one-out means have the best R^2; the smallest of equals.

    Leaving one out does not depend on the order of the queries, as folds do. Of many queries an even selection is
    scored.
    """
    candidates = [k for k in CANDIDATES if k < len(X)] or [1]
    rules: list[Rule] = [(k, "uniform") for k in candidates]
    rows = np.linspace(0, len(X) - 1, min(len(X), SCORED)).astype(np.int64)
    found = local_means(X[rows], X, np.concatenate(tables, axis=1), rules, device, own=rows)
    chosen = []
    for means, T in zip(np.split(found, len(tables), axis=2), tables, strict=True):
        quality = r_squared(means, T[rows])
        chosen.append(candidates[-1 if np.isnan(quality).all() else int(np.nanargmax(quality))])
    return chosen


class Memory:
    """The training queries, which all nearest-neighbour variants share."""

    def __init__(self, X: Float32, Y: Float32, C: Float32 | None, device: str) -> None:
        self.X = X  # [N, d] unit rows
        self.Y = Y  # [N, K] labels, NaN = not observed
        self.C = C  # [N, K] US dollars, NaN = unknown
        self.device = device

    @cached_property
    def best(self) -> tuple[int, int]:
        """The k chosen for labels and that for costs, which without costs means nothing."""
        chosen = chosen_k(self.X, [self.Y] if self.C is None else [self.Y, self.C], self.device)
        return chosen[0], chosen[-1]

    def scores(self, queries: Queries, rules: Sequence[Rule]) -> Float32:
        """[V, B, K] mean labels; a model never observed gets the pool's mean."""
        return self._filled(local_means(queries.unit, self.X, self.Y, rules, self.device))

    def left_out_scores(self, rule: Rule) -> Float32:
        """[N, K], as `scores` of the training queries, each without itself."""
        own = np.arange(len(self.X))
        result: Float32 = self._filled(local_means(self.X, self.X, self.Y, [rule], self.device, own=own))[0]
        return result

    def _filled(self, found: Float32) -> Float32:
        np.copyto(found, model_means(self.Y), where=np.isnan(found))
        return found

    def costs(self, queries: Queries, rule: Rule) -> Float32 | None:
        """[B, K] mean costs in US dollars; NaN for a model without any. None where the benchmark has none."""
        if self.C is None:
            return None
        found: Float32 = local_means(queries.unit, self.X, self.C, [rule], self.device)[0]
        return found


# --- heads ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CostCheck(Validation):
    """A check measures the squared error; Y are standardised log costs. Without any, the last check stands."""

    def accuracy(self, outputs: Tensor) -> Tensor:
        return -masked_mean((outputs - self.Y.nan_to_num(0.0)).square(), (~torch.isnan(self.Y)).float())

    def loss(self, outputs: Tensor, likelihood: bool) -> Tensor:
        return -self.accuracy(outputs)


class LabelHead(HeadRouter):
    """P: each model's probability of being correct."""

    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward

    def head(self, data: Data, seed: int) -> Head:
        return Head(
            parameters=initial(data, self.variant, level(data.means), chance(seed, "initial")),
            forward=forward,
            loss=bce_loss,
            X=data.X,
            targets=data.labels,
            val=data.validation,
            training=training(self.variant, len(data.X)),
            seed=seed,
            likelihood=True,
        )


class CostHead(HeadRouter):
    """C: each model's cost, from the standardised logarithm that the head predicts."""

    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward

    def head(self, data: Data, seed: int) -> Head:
        val = data.validation
        train_costs, val_costs = data.train.C, data.val.C
        assert train_costs is not None
        scale = LogScale(train_costs)
        self.buffers["log"] = to_device(np.stack([scale.mean, scale.deviation]), data.device)  # [2, K]
        missing = np.full_like(data.val.Y, np.nan)
        return Head(
            parameters=initial(
                data, self.variant, torch.zeros(len(data.means)), chance(seed, "initial of costs")
            ),
            forward=forward,
            loss=squared_error,
            X=data.X,
            targets=observed(scale(train_costs), data.device),
            val=CostCheck(
                X=val.X,
                Y=to_device(missing if val_costs is None else scale(val_costs), data.device),
                means=val.means,
            ),
            training=training(self.variant, len(data.X)),
            seed=seed,
        )

    def finish(self, data: Data) -> None:
        """The mean of a logarithm is not the logarithm of the mean: estimates get the mean of the train costs."""
        costs = data.train.C
        assert costs is not None
        self.buffers["factor"] = torch.ones(len(data.means), device=data.device)  # [K]
        estimates = np.where(np.isnan(costs), np.nan, self.scores(data.train))
        sums = np.nansum(costs, axis=0, dtype=np.float64), np.nansum(estimates, axis=0, dtype=np.float64)
        factor = np.divide(*sums, out=np.full(len(data.means), np.nan), where=sums[1] > 0)
        self.buffers["factor"] = to_device(factor.astype(np.float32), data.device)

    def read(self, outputs: Tensor) -> Tensor:
        mean, deviation = self.buffers["log"][0], self.buffers["log"][1]
        return (outputs * deviation + mean).exp() * self.buffers["factor"]


class LogScale:
    """Costs to logarithms of mean 0 and variance 1 for each model, by the train costs [N, K]."""

    def __init__(self, costs: Float32) -> None:
        dollars = np.nan_to_num(observed_means(costs))
        self.least = np.maximum(dollars * CHEAPEST, 1e-12).astype(np.float32)  # [K]
        logarithms = np.log(np.maximum(costs, self.least), dtype=np.float64)
        mean = np.nan_to_num(observed_means(logarithms))
        deviation = np.sqrt(np.nan_to_num(observed_means(np.square(logarithms - mean))))
        self.mean = mean.astype(np.float32)
        self.deviation = np.where(deviation > 1e-6, deviation, 1).astype(np.float32)  # 1: one price for all

    def __call__(self, costs: Float32) -> Float32:
        """[N, K] US dollars, NaN = unknown -> [N, K], NaN alike."""
        result: Float32 = (np.log(np.maximum(costs, self.least)) - self.mean) / self.deviation
        return result


def initial(data: Data, variant: Config, bias: Tensor, generator: torch.Generator) -> Parameters:
    """A network whose outputs start at `bias` [K]: its last weights are 0."""
    return layers((data.X.shape[1], *variant.hidden, len(bias)), generator, start=bias)


def forward(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> [..., B, K]."""
    return feed_forward(parameters, X, draw)


def squared_error(outputs: Tensor, batch: Batch) -> Tensor:
    """Squared error of the outputs themselves; targets are values and mask."""
    values, mask = batch.targets
    return masked_mean((outputs - values).square(), mask)


def training(variant: Config, queries: int) -> Training:
    return Training(
        learning_rate=1e-3,
        weight_decay=1e-2,
        dropout=variant.dropout,
        batch=512 if queries > FEW else 128,
        epochs=50,
    )


# --- the router -------------------------------------------------------------------------------------


class CarrotRouter:
    """Either `memory` and two k, or a head for labels and, where there are costs, one for them."""

    variant: Config
    memory: Memory | None = None
    k: int
    k_of_costs: int
    label_head: HeadRouter
    cost_head: HeadRouter | None = None

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        _fit([self], train, val, [Trial(variant=variant, seed=seed)], device)

    @property
    def rule(self) -> Rule:
        return self.k, self.variant.weights

    def scores(self, queries: Queries) -> Float32:
        return CarrotGroup([self]).scores(queries)[0]

    def left_out_scores(self) -> Float32 | None:
        """Of the memory; None of a head, which looks nothing up."""
        return None if self.memory is None else self.memory.left_out_scores(self.rule)

    def costs(self, queries: Queries) -> Float32 | None:
        """Estimated cost of each model on each query [N, K], US dollars per call; NaN for a model without any cost.

        None where the benchmark has no costs.
        """
        if self.memory is not None:
            return self.memory.costs(queries, (self.k_of_costs, self.variant.weights))
        return None if self.cost_head is None else self.cost_head.scores(queries)

    def state(self) -> dict[str, NDArray[Any]]:
        if self.memory is not None:
            memory = self.memory
            state = {"X": memory.X, "Y": memory.Y, "k": np.array([self.k, self.k_of_costs])}
            return state if memory.C is None else {**state, "C": memory.C}
        heads = {"labels": self.label_head, "costs": self.cost_head}
        return {
            f"{of}/{name}": value
            for of, head in heads.items()
            if head is not None
            for name, value in head.state().items()
        }

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> CarrotRouter:
        router = cls()
        router.variant = variant
        if variant.estimator == "knn":
            router.memory = Memory(state["X"], state["Y"], state.get("C"), device)
            router.k, router.k_of_costs = (int(k) for k in state["k"])
            return router
        parts: dict[str, dict[str, NDArray[Any]]] = {"labels": {}, "costs": {}}
        for name, value in state.items():
            of, own = name.split("/", 1)
            parts[of][own] = value
        router.label_head = LabelHead.from_state(parts["labels"], variant=variant, device=device)
        if parts["costs"]:
            router.cost_head = CostHead.from_state(parts["costs"], variant=variant, device=device)
        return router


@dataclass(frozen=True)
class CarrotGroup:
    """Routers that were fitted together: those with neighbours have one memory."""

    routers: Sequence[CarrotRouter]

    def scores(self, queries: Queries) -> list[Float32]:
        """One array [N, K] per router: of neighbours bit for bit those of each alone, of heads within 1e-4."""
        rules = list(dict.fromkeys(router.rule for router in self.routers if router.memory is not None))
        memory = next((router.memory for router in self.routers if router.memory is not None), None)
        local = {} if memory is None else dict(zip(rules, memory.scores(queries, rules), strict=True))
        return [
            router.label_head.scores(queries) if router.memory is None else local[router.rule]
            for router in self.routers
        ]


def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> CarrotGroup:
    """Fit trials together: neighbours share memory, search and the choice of k; heads of one shape are a stack."""
    routers = [CarrotRouter() for _ in trials]
    _fit(routers, train, val, trials, device)
    return CarrotGroup(routers)


def _fit(
    routers: Sequence[CarrotRouter], train: Labelled, val: Labelled, trials: Sequence[Trial], device: str
) -> None:
    known = train.observed
    memory = Memory(known.unit, known.Y, known.C, device)
    for router, trial in zip(routers, trials, strict=True):
        router.variant = trial.variant
        if trial.variant.estimator == "knn":
            k = trial.variant.k
            router.memory = memory
            router.k, router.k_of_costs = memory.best if k == "cv" else (k, k)

    heads = [router for router in routers if router.memory is None]
    own = [trial for router, trial in zip(routers, trials, strict=True) if router.memory is None]
    if heads:
        for router, head in zip(heads, stacked(LabelHead)(known, val, own, device).routers, strict=True):
            router.label_head = head
    if heads and known.C is not None:
        for router, head in zip(heads, stacked(CostHead)(known, val, own, device).routers, strict=True):
            router.cost_head = head


def describe(variant: Config) -> VariantCard:
    knn = variant.estimator == "knn"
    own = not knn or (variant.k == "cv" and variant.weights == "uniform")
    why = (
        (
            "k by R^2 within train, the authors' rule, and so always one of the fixed k"
            if knn
            else "a trained network"
        )
        if (own)
        else "k or the weights are set by hand"
    )
    return VariantCard(original=own, why=why, deterministic=knn)


CARD = RouterCard(
    name="carrot",
    title="Label and cost of each model estimated apart, by neighbours or by a network",
    paper="arXiv:2502.03261",
    year=2025,
    family="neighbours",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    needs=("labels", "train-neighbours"),
    fidelity=(
        "The variants with neighbours are deterministic; those with a network depend on the seed.",
        "k is chosen by leaving one query out, not by five unshuffled folds, whose choice depends on the order.",
        "R^2 is measured on 20000 evenly selected training queries where there are more.",
        "Each model's neighbours are the nearest queries on which it was observed; the original has no gaps.",
        "The fixed k and the weights by cosine (1e-6 at least) are ours.",
        "The networks read frozen embeddings; the original fine-tunes RoBERTa.",
        "The networks' cost is learned as a standardised logarithm and scaled to the mean train cost.",
        "AdamW at 1e-3 with a cosine, batches of 512 (128 up to 10000 queries), patience 10 checks of the val loss.",
        "mu and the scale of the costs are the harness's.",
        "A model never observed gets the pool's mean label, and no cost where it never had one.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=CarrotRouter, fit_many=fit_many, describe=describe)
