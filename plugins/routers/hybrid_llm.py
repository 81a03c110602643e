"""hybrid-llm: the cheapest model that probably answers no worse than the best one, else the best one.

Paper: Ding et al. 2024, Hybrid LLM (arXiv:2404.14618), for two models; for K as the authors have it in BEST-Route
(`prob_nlabels`). The reference L is the model of the best train level. With the quality gap H_k = q_k - q_L, a head with
an output per model learns p_k = P(H_k >= -t | query) by binary cross-entropy over the pairs (k, L) of which both
labels are observed. A query goes to the cheapest model with p_k >= tau, and L always qualifies: the score is
2 - rank_k / K where p_k >= tau (rank 0 the cheapest), else p_k.

The paper's label r_trans takes t = argmax_t mean |y_i - y_j|. Labels are of one answer each, so with binary ones t is
0 and r_trans = r_det = r_prob. Two wrong answers match: most pairs do, and at tau = .5 nearly every query goes to the
cheapest model. So tau is fitted after training, on a tenth of train that the head does not learn from: as in the paper
it hands on as many queries as cost at most 1 % of L's accuracy, or else a given share of them. Variants that differ
in it share a head.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rph import RouterCard, RouterSpec, VariantCard, arrays, hookimpl
from rph.arrays import model_means, observed_means
from rph.lazy import np, torch
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import (
    Head,
    Training,
    Validation,
    bce_loss,
    chance,
    feed_forward,
    held_out,
    layers,
    level,
    masked_mean,
    queries_of,
)
from rph.training.heads import observed as labels_and_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32
    from rph.training.heads import Draw, Forward, Parameters

    Tensor = torch.Tensor

CELLS = 512  # (query, model) cells of a minibatch
SLACKS = tuple(i / 20 for i in range(20))  # t from 0 to .95: at 1 everything matches
CALIBRATION = 0.1  # of the train queries: the threshold is fitted on them
SHARES = tuple(i / 100 for i in range(1, 101))  # of queries handed on, of which the threshold is one's
MOST_LOST = 0.01  # of the reference's accuracy


@dataclass(frozen=True)
class Config:
    hidden: tuple[int, ...] = (256,)  # widths; () is logistic regression
    # pair: the cheapest model or the reference, as in the paper. ties-half: no cascade; y is 1/2 where the labels
    # are equal, and the score is p_k, 1/2 for the reference: the best of all, not the cheapest that is no worse.
    form: Literal["nlabel", "pair", "ties-half"] = "nlabel"
    # Of the queries, how many are handed on; paper: the most of which no more than 1 % of accuracy is lost.
    share: float | Literal["paper"] = "paper"


BASE = Config()
GRID = (
    BASE,
    *(
        variant
        for hidden in ((256,), (), (128, 64))
        for share in ("paper", 0.1, 0.3, 0.5)
        if (variant := Config(hidden, "nlabel", share)) != BASE
    ),
    Config((256,), "pair"),
    Config((), "pair"),
    Config((256,), "pair", 0.3),
)


@dataclass(frozen=True, kw_only=True)
class MatchValidation(Validation):
    """A check measures how well the matches on val are predicted: routing accuracy would depend on tau."""

    match: Tensor  # [V, K]
    mask: Tensor  # [V, K]

    def accuracy(self, scores: Tensor) -> Tensor:
        """Probabilities [..., V, K] -> [...], minus the cross-entropy over the observed pairs."""
        match = self.match.expand(scores.shape)
        loss = torch.nn.functional.binary_cross_entropy(scores, match, reduction="none")
        return -masked_mean(loss, self.mask)

    def loss(self, outputs: Tensor, likelihood: bool) -> Tensor:
        return -self.accuracy(outputs)


class HybridRouter(HeadRouter):
    double = True  # a p_k at the threshold does not fall to another side in another batch

    @staticmethod
    def calibration_rows(n: int, seed: int) -> NDArray[np.int64]:
        """Places among n labelled training queries of those that the threshold is fitted on, and no parameter."""
        return held_out(n, CALIBRATION, seed).nonzero()[:, 0].numpy()

    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward

    @staticmethod
    def trained_as(variant: Config) -> Hashable:
        return variant.hidden, variant.form == "ties-half"

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        ties_half = variant.form == "ties-half"
        held = held_out(len(data.X), CALIBRATION, seed)
        Y = data.train.Y[~held.numpy()]
        reference = reference_model(Y)
        slack = best_slack(Y, reference)

        def matches(Y: Float32) -> tuple[Tensor, Tensor]:
            return labels_and_mask(match_labels(Y, reference, slack, ties_half=ties_half), data.device)

        match, mask = matches(data.train.Y)
        mask = mask * (~held)[:, None].to(mask)
        rank = torch.tensor(cost_ranks(data.train.C, model_means(Y)), device=data.device)
        K = len(rank)
        compared = mask.any(dim=0)
        compared[reference] = True
        self.buffers["reference"] = torch.tensor(reference, device=data.device)
        # What is not known to match is never the cheaper one.
        self.buffers["rank"] = torch.where(compared, rank, K)
        val = data.validation
        readout: Callable[[Tensor], Tensor] = identity
        if not ties_half:
            on_val, mask_on_val = matches(data.val.Y)
            val = MatchValidation(X=val.X, Y=val.Y, means=val.means, match=on_val, mask=mask_on_val)
            readout = torch.sigmoid
        start = initial(data.X.shape[1], match.cpu(), mask.cpu(), reference, variant, chance(seed, "initial"))
        return Head(
            parameters=start,
            forward=forward,
            loss=bce_loss,
            X=data.X,
            targets=(match, mask),
            val=val,
            training=Training(
                learning_rate=1e-3 if variant.hidden else 1e-2,
                dropout=0.05,
                batch=queries_of(CELLS, K),
                epochs=30,
            ),
            seed=seed,
            readout=readout,
        )

    def finish(self, data: Data) -> None:
        """Fit the threshold."""
        if self.variant.form == "ties-half":
            return
        held = held_out(len(data.X), CALIBRATION, self.seed)
        p = torch.sigmoid(self.outputs(data.X[held.to(data.device)].double())).cpu()
        rank, reference = self.buffers["rank"].cpu(), int(self.buffers["reference"])
        if self.variant.share == "paper":
            Y = torch.tensor(data.train.Y[held.numpy()], dtype=torch.float64)
            tau = paper_threshold(p, Y, rank, reference, self.variant.form)
        else:
            tau = threshold_of(chances(p, rank, reference, self.variant.form), self.variant.share)
        self.buffers["threshold"] = torch.tensor(tau, dtype=torch.float64, device=data.device)

    def read(self, outputs: Tensor) -> Tensor:
        p, reference = torch.sigmoid(outputs), int(self.buffers["reference"])
        if self.variant.form == "ties-half":
            p[:, reference] = 0.5
            return p
        return routed(p, self.buffers["rank"], reference, self.variant.form, float(self.buffers["threshold"]))


def identity(outputs: Tensor) -> Tensor:
    return outputs


def cheaper(rank: Tensor, reference: int, form: str) -> Tensor:
    """Places by cost [K] -> which models queries may be handed to [K]: those cheaper than the reference; the cheapest."""
    found = rank < rank[reference]
    return found & (rank == rank.min()) if form == "pair" else found


def routed(p: Tensor, rank: Tensor, reference: int, form: str, tau: float) -> Tensor:
    """P(match) [N, K], of the reference any number, and ranks [K] by cost, 0 the cheapest -> scores [N, K]."""
    K = p.shape[1]
    may = cheaper(rank, reference, form)
    if form == "pair":
        scores = torch.where(may, p, -1)
        scores[:, reference] = tau
        return scores
    qualifies = (p >= tau) & may
    qualifies[:, reference] = True
    return torch.where(qualifies, 2 - rank / K, p)


def chances(p: Tensor, rank: Tensor, reference: int, form: str) -> Tensor:
    """P(match) [n, K] -> [n]: the greatest of the models that a query may be handed to, 0 where there is none."""
    return p.masked_fill(~cheaper(rank, reference, form), 0).amax(dim=1)


def threshold_of(m: Tensor, share: float) -> float:
    """The tau that this share of m [n], rounded, exceeds: halfway to the next; above 1 where none is to exceed it."""
    edges = torch.cat([m.new_full((1,), 2), m.sort(descending=True).values, m.new_zeros(1)])
    handed = round(share * len(m))
    return float(edges[handed : handed + 2].mean())


def paper_threshold(p: Tensor, Y: Tensor, rank: Tensor, reference: int, form: str) -> float:
    """The tau of the largest share of queries that can be handed on for at most 1 % of the reference's accuracy.

    P(match) and labels [n, K], NaN where not observed. What is lost on the queries handed on is the mean over those
    with both labels; a share of which no loss is known is not handed on.
    """
    m = chances(p, rank, reference, form)
    best = threshold_of(m, 0)
    most = MOST_LOST * Y[:, reference].nanmean()
    for share in SHARES:
        tau = threshold_of(m, share)
        chosen = routed(p, rank, reference, form, tau).argmax(dim=1)
        handed = chosen != reference
        lost = (Y[:, reference] - Y.gather(1, chosen[:, None])[:, 0])[handed]
        if handed.double().mean() * lost.nanmean() <= most:  # no number is false
            best = tau
    return best


def reference_model(Y: Float32) -> int:
    """Y [N, K] -> the model of the best level; the first of equals, none that was never observed."""
    return int(np.nanargmax(arrays.level(Y)))


def cost_ranks(C: Float32 | None, means: Float32) -> NDArray[np.int64]:
    """Costs [N, K] in dollars, NaN where unknown, and train means [K] -> [K] each model's place, 0 the cheapest.

    By mean known cost, then the higher mean; models of unknown cost come last. Without any cost a model counts as the
    cheaper the lower its mean.
    """
    costs = np.full(len(means), np.nan) if C is None else observed_means(C)
    if np.isnan(costs).all():
        order = np.argsort(means, kind="stable")
    else:
        order = np.lexsort((-means, np.where(np.isnan(costs), np.inf, costs)))
    return np.argsort(order)


def match_labels(Y: Float32, reference: int, slack: float, *, ties_half: bool = False) -> Float32:
    """Y [N, K] -> [N, K]: 1 where a model's label is at most `slack` below the reference's, else 0.

    NaN where one of the two was not observed, and for the reference itself. `ties_half`: .5 for equal labels instead.
    """
    gap = Y - Y[:, [reference]]
    match = (np.sign(gap) + 1) / 2 if ties_half else gap >= -slack
    labels = np.where(np.isnan(gap), np.nan, match).astype(np.float32)
    labels[:, reference] = np.nan
    return labels


def best_slack(Y: Float32, reference: int) -> float:
    """The t that spreads the match labels most, argmax_t mean |y_i - y_j| over all observed pairs; the least of equals."""
    rates = [np.nan_to_num(observed_means(match_labels(Y, reference, t).reshape(-1, 1)))[0] for t in SLACKS]
    return SLACKS[int(np.argmax([rate * (1 - rate) for rate in rates]))]


def initial(
    inputs: int, match: Tensor, mask: Tensor, reference: int, variant: Config, generator: torch.Generator
) -> Parameters:
    """A network whose outputs start at the logit of each model's match rate, the reference's at 0.

    A model never observed together with the reference stays at the lowest level there is, so that no query is handed
    to it.
    """
    rates = (match * mask).sum(dim=0) / mask.sum(dim=0).clamp(min=1)  # [K], 0 where never observed
    rates[reference] = 0.5
    return layers((inputs, *variant.hidden, match.shape[1]), generator, start=level(rates))


def forward(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> logits [..., B, K] of P(match)."""
    return feed_forward(parameters, X, draw)


def describe(variant: Config) -> VariantCard:
    """The paper's forms are those whose threshold is set by its rule."""
    if variant.form == "ties-half":
        return VariantCard(original=False, why="the best of all models, not the cheapest that is no worse")
    if variant.share == "paper":
        return VariantCard(
            original=True,
            why="as many queries as cost at most 1% of the accuracy go to cheaper models",
            no_gain="it saves costs, for at most 1% of the accuracy of the reference",
        )
    return VariantCard(
        original=False,
        why="a given share of the queries goes to cheaper models, whatever that costs in accuracy",
        no_gain="it saves costs: what it hands on goes to models that are probably no worse, not better",
    )


CARD = RouterCard(
    name="hybrid-llm",
    title="The cheapest model predicted to be no worse than the best one",
    paper="arXiv:2404.14618",
    year=2024,
    family="classifier",
    licence="MIT",
    deterministic=False,
    calibrated=False,
    aliases=("hybrid_llm",),
    version=2,  # 1: the threshold was a number of the grid
    fidelity=(
        "K models, as in the authors' BEST-Route: one output per model beside the reference; the paper's pair is a form.",
        "One answer per query and model, not ten: the labels r_det and r_prob are the same.",
        "r_trans takes one t for all pairs; it is 0 where labels are binary.",
        "The reference is the model of the best train level (its mean, where no label is missing), not the largest; without costs, a lower mean counts as cheaper.",
        "The threshold is fitted on a tenth of train, which the head does not learn from, not on validation data; `share` fixes what it hands on instead.",
        "A head on frozen embeddings instead of a fine-tuned DeBERTa; all outputs share its hidden layers.",
        "AdamW at 1e-3 (logistic regression: 1e-2) with a cosine, decay 1e-4; not 1e-5 with warm-up, decay .1.",
        "Up to 30 epochs, or 2,000 steps if that is more, not 5; the checkpoint is of the best val cross-entropy.",
        "A minibatch is 512 / K queries (16 to 512).",
        "The form `pair` reads the heads of all pairs; `ties-half` is not the paper's and outside the grid.",
        "A model never observed together with the reference has P(match) .001, and no query is handed to it.",
    ),
    expected_failures=(
        (
            "planted-clusters",
            "The rule takes the cheapest model that is probably no worse than the reference, also where both are wrong.",
        ),
        (
            "always-right-model",
            "On 24 held-out queries the paper's 1% cannot be told from luck: the threshold hands some on.",
        ),
        (
            "missing-is-not-wrong",
            "On 50 held-out queries, most without the reference's label, the threshold hands some on by luck.",
        ),
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD, grid=GRID, router=HybridRouter, fit_many=stacked(HybridRouter), describe=describe
    )
