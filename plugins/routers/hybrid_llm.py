"""hybrid-llm: the cheapest model that probably answers no worse than the best one, else the best one.

Paper: Ding et al. 2024, Hybrid LLM (arXiv:2404.14618), for two models; for K as the authors have it in BEST-Route
(`prob_nlabels`). The reference L is the model of the best train level. With the quality gap H_k = q_k - q_L, a head with
an output per model learns p_k = P(H_k >= -t | query) by binary cross-entropy over the pairs (k, L) of which both
labels are observed. A query goes to the cheapest model with p_k >= tau, and L always qualifies: the score is
2 - rank_k / K where p_k >= tau (rank 0 the cheapest), else p_k.

The paper's label r_trans takes t = argmax_t mean |y_i - y_j|. Labels are of one answer each, so with binary ones t is
0 and r_trans = r_det = r_prob. Two wrong answers match: most pairs do, and at tau = .5 nearly every query goes to the
cheapest model. tau is chosen after training: variants that differ in it share a head.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rph import RouterCard, RouterSpec, arrays, hookimpl
from rph.arrays import observed_means
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


@dataclass(frozen=True)
class Config:
    hidden: tuple[int, ...] = (256,)  # widths; () is logistic regression
    threshold: float = 0.95  # tau
    # pair: the cheapest model or the reference, as in the paper. ties-half: no cascade; y is 1/2 where the labels
    # are equal, and the score is p_k, 1/2 for the reference: the best of all, not the cheapest that is no worse.
    form: Literal["nlabel", "pair", "ties-half"] = "nlabel"


BASE = Config()
GRID = (
    BASE,
    *(
        variant
        for hidden in ((256,), (), (128, 64))
        for threshold in (0.5, 0.8, 0.9, 0.95, 0.98)
        if (variant := Config(hidden, threshold)) != BASE
    ),
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
    def forward(variant: Config) -> Forward:
        return forward

    @staticmethod
    def trained_as(variant: Config) -> Hashable:
        return variant.hidden, variant.form == "ties-half"

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        ties_half = variant.form == "ties-half"
        K = len(data.means)
        reference = reference_model(data.train.Y)
        slack = best_slack(data.train.Y, reference)
        self.buffers["reference"] = torch.tensor(reference, device=data.device)
        self.buffers["rank"] = torch.tensor(cost_ranks(data.train.C, data.means), device=data.device)

        def matches(Y: Float32) -> tuple[Tensor, Tensor]:
            return labels_and_mask(match_labels(Y, reference, slack, ties_half=ties_half), data.device)

        match, mask = matches(data.train.Y)
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

    def read(self, outputs: Tensor) -> Tensor:
        return routed(
            torch.sigmoid(outputs), self.buffers["rank"], int(self.buffers["reference"]), self.variant
        )


def identity(outputs: Tensor) -> Tensor:
    return outputs


def routed(p: Tensor, rank: Tensor, reference: int, variant: Config) -> Tensor:
    """P(match) [N, K], of the reference any number, and ranks [K] by cost, 0 the cheapest -> scores [N, K]."""
    K = p.shape[1]
    if variant.form == "ties-half":
        scores = p.clone()
        scores[:, reference] = 0.5
        return scores
    if variant.form == "pair":
        small = int(rank.argmin())
        scores = torch.full_like(p, -1)
        scores[:, small] = p[:, small]
        scores[:, reference] = variant.threshold
        return scores
    qualifies = p >= variant.threshold
    qualifies[:, reference] = True
    return torch.where(qualifies, 2 - rank / K, p)


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
    fidelity=(
        "K models, as in the authors' BEST-Route: one output per model beside the reference; the paper's pair is a form.",
        "One answer per query and model, not ten: the labels r_det and r_prob are the same.",
        "r_trans takes one t for all pairs; it is 0 where labels are binary.",
        "The reference is the model of the best train level (its mean, where no label is missing), not the largest; without costs, a lower mean counts as cheaper.",
        "The threshold is one of a grid, chosen with the head by val routing accuracy; the paper allows 1% less quality.",
        "A head on frozen embeddings instead of a fine-tuned DeBERTa; all outputs share its hidden layers.",
        "AdamW at 1e-3 (logistic regression: 1e-2) with a cosine, decay 1e-4; not 1e-5 with warm-up, decay .1.",
        "Up to 30 epochs, or 1,000 steps if that is more, not 5; the checkpoint is of the best val cross-entropy.",
        "A minibatch is 512 / K queries (16 to 512).",
        "The form `pair` reads the heads of all pairs; `ties-half` is not the paper's. Both are outside the grid.",
        "A model never observed together with the reference has P(match) .001: no query is handed to it.",
    ),
    expected_failures=(
        (
            "planted-clusters",
            "The rule takes the cheapest model that is probably no worse than the reference, also where both are wrong.",
        ),
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=HybridRouter, fit_many=stacked(HybridRouter))
