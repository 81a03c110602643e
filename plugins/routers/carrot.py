"""carrot: what each model will get right on a query and what it will cost, estimated apart, then weighed.

Paper: Somerstep et al. 2025, CARROT (arXiv:2502.03261). With estimates P(x) of the label and C(x) of the cost of
each model, a query goes to

    argmax over m of (1 - mu) P_m(x) - mu C_m(x).

`scores` are P and `costs` C, in US dollars; the harness scales C and takes this argmax at each mu. Two families of
estimators, each fitted to labels and to costs:

knn: the mean over the k nearest training queries by cosine on which the model was observed. `k="cv"` is the
     paper's rule: the k of 2, 4, ..., 512 with the best R^2, averaged over models; for labels and for costs apart.
head: a network with an output per model, trained by masked cross-entropy; another of the same shape, trained by
      the squared error of the standardised log cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, Trial, VariantCard, hookimpl
from rph.lazy import np, torch
from rph.training.costheads import CostHead
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, bce_loss, chance, feed_forward, layers, level
from rph.training.localmeans import Memory, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rph.api import Float32
    from rph.training.heads import Forward, Parameters

CANDIDATES = (2, 4, 8, 16, 32, 64, 128, 256, 512)  # k of the paper
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


class LabelHead(HeadRouter):
    """P: each model's probability of being correct, by cross-entropy."""

    @staticmethod
    def forward(variant: Config) -> Forward:
        return feed_forward

    def head(self, data: Data, seed: int) -> Head:
        return Head(
            parameters=initial(data, self.variant, level(data.means), chance(seed, "initial")),
            forward=feed_forward,
            loss=bce_loss,
            X=data.X,
            targets=data.labels,
            val=data.validation,
            training=training(self.variant, len(data.X)),
            seed=seed,
            likelihood=True,
        )


class PriceHead(CostHead):
    """C: each model's cost, by the squared error of its standardised logarithm."""

    @staticmethod
    def forward(variant: Config) -> Forward:
        return feed_forward

    def head(self, data: Data, seed: int) -> Head:
        start = initial(data, self.variant, torch.zeros(len(data.means)), chance(seed, "initial of costs"))
        return self.cost_head(data, start, training(self.variant, len(data.X)), seed)


def initial(data: Data, variant: Config, bias: Tensor, generator: torch.Generator) -> Parameters:
    """A network whose outputs start at `bias` [K]: its last weights are 0."""
    return layers((data.X.shape[1], *variant.hidden, len(bias)), generator, start=bias)


def training(variant: Config, queries: int) -> Training:
    batch = 512 if queries > FEW else 128
    return Training(learning_rate=1e-3, weight_decay=1e-2, dropout=variant.dropout, batch=batch, epochs=50)


HEADS: dict[str, type[HeadRouter]] = {"labels": LabelHead, "costs": PriceHead}


class CarrotRouter:
    """Either `memory` and a k for labels and one for costs, or a head for each; without costs, labels alone."""

    variant: Config
    memory: Memory | None = None
    k: int
    k_of_costs: int
    heads: dict[str, HeadRouter]  # by the names of HEADS

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        _fit([self], train, val, [Trial(variant=variant, seed=seed)], device)

    def scores(self, queries: Queries) -> Float32:
        return CarrotGroup([self]).scores(queries)[0]

    def costs(self, queries: Queries) -> Float32 | None:
        """C [N, K], US dollars per call; NaN for a model without any cost. None where train has no costs."""
        return CarrotGroup([self]).costs(queries)[0]

    def left_out_scores(self) -> Float32 | None:
        """Of the memory; None of a head, which looks nothing up."""
        return None if self.memory is None else self.memory.left_out_scores((self.k, self.variant.weights))

    def state(self) -> dict[str, NDArray[Any]]:
        if self.memory is None:
            states = {of: head.state() for of, head in self.heads.items()}
            return {f"{of}/{name}": value for of, state in states.items() for name, value in state.items()}
        memory = self.memory
        state = {"X": memory.X, "Y": memory.Y, "k": np.array([self.k, self.k_of_costs])}
        return state if memory.C is None else {**state, "C": memory.C}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> CarrotRouter:
        router = cls()
        router.variant, router.heads = variant, {}
        if variant.estimator == "knn":
            router.memory = Memory(state["X"], state["Y"], state.get("C"), device)
            router.k, router.k_of_costs = (int(k) for k in state["k"])
            return router
        for of, kind in HEADS.items():
            own = {name.removeprefix(f"{of}/"): a for name, a in state.items() if name.startswith(f"{of}/")}
            if own:
                router.heads[of] = kind.from_state(own, variant=variant, device=device)
        return router


@dataclass(frozen=True)
class CarrotGroup:
    """Routers that were fitted together: those with neighbours have one memory, which is searched once."""

    routers: Sequence[CarrotRouter]

    def scores(self, queries: Queries) -> list[Float32]:
        """P [N, K] per router: of neighbours bit for bit those of each alone, of heads within 1e-4."""
        local = {(r.k, r.variant.weights): r.memory for r in self.routers if r.memory is not None}
        for memory in set(local.values()):
            found = dict(zip(local, memory.scores(queries, list(local)), strict=True))
        return [
            r.heads["labels"].scores(queries) if r.memory is None else found[r.k, r.variant.weights]
            for r in self.routers
        ]

    def costs(self, queries: Queries) -> list[Float32 | None]:
        """C per router, as `CarrotRouter.costs`."""
        local = {(r.k_of_costs, r.variant.weights): r.memory for r in self.routers if r.memory is not None}
        for memory in set(local.values()):
            found = dict(zip(local, memory.costs(queries, list(local)), strict=True))
        return [
            found[r.k_of_costs, r.variant.weights]
            if r.memory is not None
            else r.heads["costs"].scores(queries)
            if "costs" in r.heads
            else None
            for r in self.routers
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
    chosen = any(t.variant.estimator == "knn" and t.variant.k == "cv" for t in trials)
    best = memory.best(CANDIDATES) if chosen else (0, 0)
    networks = []
    for router, trial in zip(routers, trials, strict=True):
        router.variant, router.heads = trial.variant, {}
        if trial.variant.estimator == "head":
            networks.append((router, trial))
            continue
        k = trial.variant.k
        router.memory = memory
        router.k, router.k_of_costs = best if k == "cv" else (k, k)
    for of, kind in HEADS.items() if networks else ():
        if of == "labels" or known.C is not None:
            heads = stacked(kind)(known, val, [trial for _, trial in networks], device).routers
            for (router, _), head in zip(networks, heads, strict=True):
                router.heads[of] = head


def describe(variant: Config) -> VariantCard:
    if variant.estimator == "head":
        return VariantCard(original=True, why="a trained network", deterministic=False)
    if variant.k == "cv" and variant.weights == "uniform":
        why = "k by R^2 within train, the authors' rule, and so always one of the fixed k"
        return VariantCard(original=True, why=why, deterministic=True)
    return VariantCard(original=False, why="k or the weights are set by hand", deterministic=True)


CARD = RouterCard(
    name="carrot",
    title="Label and cost of each model estimated apart, by neighbours or by a network",
    paper="arXiv:2502.03261",
    year=2025,
    version=2,
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
        "Utility chooses by these costs at each mu; only the scale that makes dollars comparable is the harness's.",
        "A model never observed gets the pool's mean label, and no cost where it never had one.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=CarrotRouter, fit_many=fit_many, describe=describe)
