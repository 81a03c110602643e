"""cp-router: a head scores the models where its conformal prediction sets are small, else the best model is taken.

Paper: Su et al. 2025, CP-Router (arXiv:2505.19970). There the softmax of a cheap LLM over the options of a question
is made into prediction sets by split conformal prediction: nonconformity S(x, y) = 1 - f_y(x), q the
ceil((n + 1)(1 - alpha))-th smallest S of n calibration questions, C(x) = {y: S(x, y) <= q}. A small set keeps the
cheap LLM, else the reasoning model answers. Here no option logits exist, so a trained head takes the place of the
LLM's distribution, and the model of the best level on train that of the reasoning model:

    set      f is a softmax over models, with target y / sum y on the observed models of a query. S of a query is
             1 - max f over its correct models, so C(x) = {m: 1 - f_m <= q} holds a correct model with probability at
             least 1 - alpha where there is one. Trusted: 1 <= |C(x)| <= tau.
    binary   f_m is a sigmoid per model, with a set over {wrong, correct} for each (query, model) and one q for all.
             Trusted: some model's set is {correct}.

The scores of a trusted query are f(x), those of any other the levels (set: scaled to sum 1). alpha is given or
chosen by full and binary entropy, FBE(alpha) = 3 H(sizes) + H(size is 1), greatest over 0.01, ..., 0.99. Calibration and
FBE use a slice of train that the head has not learnt from.

The rule only interpolates between the best single model (alpha -> 0) and the argmax of the head, so validation
should favour the variants that abstain least. FBE does not carry over: in set form it tends to the edge of its grid,
and in binary form, where sizes take two values at a time, both entropies are one and it merely seeks 50% singletons,
so that nearly every query is trusted. Labels do not exclude each other: a large set can mean that every model is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rph import RouterCard, RouterSpec, VariantCard, hookimpl
from rph.arrays import model_means
from rph.lazy import np, torch
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, bce_loss, chance, feed_forward, held_out, layers, level

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from rph.api import Float32
    from rph.training.heads import Batch, Forward, Parameters

    Tensor = torch.Tensor

CALIBRATION = 0.2  # share of the training queries that the head does not learn from
LARGE = 50_000  # training queries beyond which batches are larger
ALPHAS = tuple(i / 100 for i in range(1, 100))  # that FBE chooses from
FULL_TO_BINARY = 3  # weights of the two entropies in FBE
CORRECT = 0.5  # a label from here on is that of a correct answer
SLACK = 1e-6  # added to q, so that rounding of f puts no query at q outside its own set


@dataclass(frozen=True)
class Config:
    form: Literal["set", "binary"] = "set"
    alpha: float | Literal["fbe"] = 0.1  # the share of sets that may miss
    tau: int | Literal["half"] = "half"  # set: largest set that is trusted; half of the pool, rounded up
    hidden: tuple[int, ...] = (256,)  # widths; () is a linear head


BASE = Config()
TAUS: tuple[int | Literal["half"], ...] = (2, 3, "half")
GRID = (
    BASE,
    *(
        variant
        for variant in (Config("set", alpha, tau) for alpha in (0.05, 0.1, 0.2) for tau in TAUS)
        if variant != BASE
    ),
    replace(BASE, alpha="fbe"),
    *(Config("binary", alpha) for alpha in (0.1, 0.2, 0.3)),
    Config("binary", "fbe"),
    replace(BASE, hidden=()),
)


class CpRouter(HeadRouter):
    @staticmethod
    def calibration_rows(n: int, seed: int) -> NDArray[np.int64]:
        """Places among n labelled training queries of those that calibrate, and train no parameter."""
        return held_out(n, CALIBRATION, seed).nonzero()[:, 0].numpy()

    @staticmethod
    def forward(variant: Config) -> Forward:
        return feed_forward

    @staticmethod
    def trained_as(variant: Config) -> Hashable:
        return variant.form, variant.hidden

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        held = held_out(len(data.X), CALIBRATION, seed)
        Y, M = data.labels
        means = model_means(data.train.Y[~held.numpy()])
        parameters = initial(data.X.shape[1], means, variant, chance(seed, "initial"))
        return Head(
            parameters=parameters,
            forward=self.forward(variant),
            loss=set_loss if variant.form == "set" else bce_loss,
            X=data.X,
            targets=(Y, M * (~held)[:, None].to(M)),
            val=data.validation,
            training=Training(dropout=0.1, batch=256 if len(data.X) <= LARGE else 1024),
            seed=seed,
            likelihood=variant.form == "binary",
        )

    def finish(self, data: Data) -> None:
        """Calibrate: find q, and alpha where FBE chooses it."""
        variant: Config = self.variant
        held = held_out(len(data.X), CALIBRATION, self.seed).to(data.device)
        f = self._f(self.outputs(data.X[held]))
        Y, seen = (part[held] for part in data.labels)
        misses, scores = nonconformity(f, Y >= CORRECT, seen > 0, variant.form)
        alpha = choose_alpha(misses, scores) if variant.alpha == "fbe" else variant.alpha
        self.buffers["threshold"] = order_statistics(scores, [alpha])[0] + SLACK
        prior = torch.tensor(data.means, device=data.device)
        total = prior.sum() if variant.form == "set" else prior.new_tensor(1.0)
        self.buffers["prior"] = prior / torch.where(total > 0, total, 1)

    def read(self, outputs: Tensor) -> Tensor:
        f = self._f(outputs)
        trusted = trust(f, self.buffers["threshold"], self.variant)
        return torch.where(trusted[:, None], f, self.buffers["prior"])

    def _f(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(dim=-1) if self.variant.form == "set" else torch.sigmoid(outputs)


# --- the head ---------------------------------------------------------------------------------------


def initial(inputs: int, means: Float32, variant: Config, generator: torch.Generator) -> Parameters:
    """Parameters of a head whose outputs start at the levels [K]: f_m = p_m, or p_m / sum p in set form.

    A model never observed stays at its prior.
    """
    start = level(means)
    if variant.form == "set":
        start = torch.sigmoid(start).log()
    return layers((inputs, *variant.hidden, len(means)), generator, start=start)


def set_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of a softmax over the observed models and y / sum y; logits [..., B, K] -> [...].

    Averaged over the queries with a correct model. Models not observed on a query are no part of its softmax: their
    absence says nothing against them.
    """
    Y, M = batch.targets
    correct = Y * M
    total = correct.sum(dim=-1, keepdim=True)
    solvable = total > 0
    share = correct / torch.where(solvable, total, 1)
    logs = outputs.masked_fill(M == 0, -1e9).log_softmax(dim=-1)
    return -(share * logs).sum(dim=(-2, -1)) / solvable.sum(dim=(-2, -1)).clamp(min=1)


# --- the conformal part -----------------------------------------------------------------------------


def nonconformity(f: Tensor, correct: Tensor, seen: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """f, correct labels and mask, [n, K] -> S of all candidates of all sets [sets, L], and S of the true ones.

    set: a set per query over its L = K models; the true S is the least of a correct model, for queries with one.
    binary: a set per query and model over L = 2 labels (wrong, correct); the true S is that of the observed label.
    """
    if form == "set":
        right = correct & seen
        misses = 1 - f
        return misses, misses.masked_fill(~right, math.inf).amin(dim=1)[right.any(dim=1)]
    misses = torch.stack([f, 1 - f], dim=-1)  # wrong has probability 1 - f
    return misses.view(-1, 2), torch.where(correct, 1 - f, f)[seen]


def order_statistics(scores: Tensor, alphas: Sequence[float]) -> Tensor:
    """The k-th smallest of n scores with k = ceil((n + 1)(1 - alpha)), for each alpha; infinite where k > n."""
    n = len(scores)
    # 1e-9: (n + 1) alpha can be a whole number whose float64 falls just short of it
    k = [n + 1 - math.floor((n + 1) * alpha + 1e-9) for alpha in alphas]
    ordered = torch.cat([scores.sort().values, scores.new_tensor([math.inf])])
    return ordered[torch.tensor([i - 1 for i in k], device=scores.device)]


def choose_alpha(misses: Tensor, scores: Tensor) -> float:
    """The alpha of greatest FBE on the calibration slice, the least of equals; arguments as from `nonconformity`."""
    thresholds = order_statistics(scores, ALPHAS) + SLACK
    return ALPHAS[int(fbe(sizes(misses, thresholds)).argmax())]


def sizes(misses: Tensor, thresholds: Tensor) -> Tensor:
    """How many sets are of size 0, ..., L at each threshold: S [sets, L], thresholds [T] -> [T, L + 1]."""
    ranked = (
        misses.sort(dim=1).values.mT.contiguous().sort(dim=1).values
    )  # [L, sets]: the j-th smallest, sorted
    L, total = ranked.shape
    reached = torch.searchsorted(ranked, thresholds.expand(L, -1).contiguous(), right=True)  # size j or more
    edges = torch.cat([reached.new_full((1, len(thresholds)), total), reached, torch.zeros_like(reached[:1])])
    return (edges[:-1] - edges[1:]).mT


def fbe(counts: Tensor) -> Tensor:
    """Full and binary entropy in nats of the sizes of sets, counts [T, L + 1] of size 0, ..., L -> [T]."""
    shares = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    single = torch.stack([shares[:, 1], 1 - shares[:, 1]])
    total: Tensor = FULL_TO_BINARY * torch.special.entr(shares).sum(dim=1) + torch.special.entr(single).sum(
        dim=0
    )
    return total


def trust(f: Tensor, threshold: Tensor, variant: Config) -> Tensor:
    """Whether the head is trusted with each query: f [N, K], threshold q -> [N]. An empty set is not trusted."""
    if variant.form == "binary":
        return ((1 - f <= threshold) & (f > threshold)).any(dim=1)  # correct is in the set, wrong is not
    size = (1 - f <= threshold).sum(dim=1)
    largest = math.ceil(f.shape[1] / 2) if variant.tau == "half" else variant.tau
    return (size >= 1) & (size <= largest)


def describe(variant: Config) -> VariantCard:
    wide = "where most sets are too large to be trusted, the best model of train gets the queries"
    return VariantCard(
        original=False,
        why="conformal sets of models; the paper's are of a cheap model's answer options",
        calibrated=variant.form == "binary",
        no_gain=""
        if variant.form == "set" and variant.tau == "half" and variant.alpha == Config.alpha
        else wide,
    )


CARD = RouterCard(
    name="cp-router",
    title="A head's scores where its conformal prediction sets are small, else the best single model",
    paper="arXiv:2505.19970",
    year=2025,
    family="conformal",
    licence="MIT",
    deterministic=False,
    calibrated=False,
    version=2,
    aliases=("cp_router",),
    fidelity=(
        "A head on the query's embedding, trained on labels, replaces the cheap LLM's distribution over answer options.",
        "Sets hold models of the pool (or labels of one model), not options: K models, not a pair.",
        "An uncertain query goes to the model of the best level on train, which stands for the reasoning model.",
        "The head does not learn from a fifth of the train split, drawn by the seed: it calibrates q.",
        "FBE is evaluated on that fifth, never on the queries to be routed as in the paper.",
        "The grid of alpha for FBE is 0.01 to 0.99: the paper's is not known.",
        "A model never observed keeps the logit of the pool's mean, so it can be in a set.",
        "A query without an observed correct model is left out of calibration in set form.",
        "In binary form one q serves all models, so its coverage holds on average over models only.",
        "Scores of set form sum to 1 and are no probabilities of being correct; those of binary form are.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=CpRouter, fit_many=stacked(CpRouter), describe=describe)
