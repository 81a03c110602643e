"""p2l (Prompt-to-Leaderboard): a head maps the query to a Bradley-Terry coefficient beta_m(x) of every model.

Paper: Frick et al. 2025, Prompt-to-Leaderboard (arXiv:2502.14855). It learns from pairwise outcomes; here a pair of
models observed on one query is such a vote, whose four outcomes are those of two binary labels: i wins (1, 0), j wins
(0, 1), tie (1, 1), tie, both bad (0, 0). With D = beta_i - beta_j, a vote costs

    bt       -log sigma(D) where i wins, -log sigma(-D) where j wins, nothing where they tie
    bt_tie   half of both for either kind of tie: the cross-entropy of sigma(D) and t = (1 + y_i - y_j) / 2
    grk      grounded Rao-Kupper: -log of the outcome's probability, with pi = e^beta and theta = 1 + e^eta(x),
             P(i wins) = pi_i / (pi_i + theta pi_j + 1), P(both bad) = 1 / (1 + pi_i + pi_j), P(tie) the rest

bt and bt_tie leave a constant per query open. The anchor closes it: games against a virtual opponent of beta = 0
that loses to correct models and beats wrong ones; their loss is the binary cross-entropy of sigma(beta_m). The route
is argmax beta. A label between 0 and 1 counts as the chance of being correct, independently for each model.

The default is bt_tie with the anchor. bt_tie ranks models by mean accuracy where labels are complete (the row sums
of its gradient are Borda's count); bt and grk need not. bt_tie and the anchor pull on the spread of beta with
different strength, so even anchored coefficients are not quite log-odds: the score is sigma(a beta + b), one
monotone map for all models and queries: a is fitted on a tenth of train that the head does not learn from, b so that the
mean score on train is the mean label. It changes no route:
where float32 would round two coefficients to one score, the lower one's is a last digit lower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rph import RouterCard, RouterSpec, VariantCard, hookimpl
from rph.arrays import model_means
from rph.lazy import np, torch
from rph.results.probabilities import fit_sigmoid
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import (
    Head,
    Training,
    chance,
    feed_forward,
    held_out,
    layers,
    level,
    masked_bce,
    product,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32
    from rph.training.heads import Batch, Draw, Forward, Parameters

    Tensor = torch.Tensor

STEPS = 40  # an epoch has as many at least: where train is small, minibatches have fewer than 512 queries
FEWEST = 32  # but no fewer than this
PAIRS = 128  # pairs of models that a minibatch compares: all of them in pools up to 16
CALIBRATION = 0.1  # of the train queries: the map is fitted on them
LEAST = 1e-30  # score, so that there are some below it
FLOOR = 1e-6  # least probability of an outcome, and least theta - 1


@dataclass(frozen=True)
class Config:
    loss: Literal["bt", "bt_tie", "grk"] = "bt_tie"
    anchor: float = 1.0  # weight of the games against the virtual opponent
    hidden: int = 256  # width of one hidden layer; 0 is a linear head
    rank: int = 0  # of a linear head made of two linear maps; 0 is full rank
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2


BASE = Config()
GRK = Config("grk", 0.0)
LINEAR = replace(BASE, hidden=0, learning_rate=3e-3)
GRID = (
    *(replace(BASE, hidden=h) for h in (256, 512)),
    *(replace(GRK, hidden=h) for h in (256, 512)),
    replace(BASE, anchor=0.0),
    Config("bt", 0.0),
    # Linear heads, the paper's: a layer alone needs larger steps than two.
    *(replace(v, hidden=0, learning_rate=rate) for v in (BASE, GRK) for rate in (3e-3, 1e-2)),
    replace(BASE, anchor=0.0, hidden=0, learning_rate=3e-3),
    Config("bt", 0.0, 0, learning_rate=1e-2),
    replace(LINEAR, rank=32),
    replace(LINEAR, anchor=0.25),
    replace(LINEAR, weight_decay=0.1),
)


class P2lRouter(HeadRouter):
    double = True  # coefficients apart by less than float32 holds beside them keep their order

    @staticmethod
    def calibration_rows(n: int, seed: int) -> NDArray[np.int64]:
        """Places among n labelled training queries of those that the map is fitted on, and no parameter."""
        return held_out(n, CALIBRATION, seed).nonzero()[:, 0].numpy()

    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward_low_rank if variant.rank else feed_forward

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        held = held_out(len(data.X), CALIBRATION, seed)
        Y, M = data.labels
        means = model_means(data.train.Y[~held.numpy()])
        return Head(
            parameters=initial(data.X.shape[1], means, variant, chance(seed, "initial")),
            forward=self.forward(variant),
            loss=LOSSES[variant.loss],
            X=data.X,
            targets=(Y, M * (~held)[:, None].to(M)),
            val=data.validation,
            training=Training(
                learning_rate=variant.learning_rate,
                weight_decay=variant.weight_decay,
                batch=max(FEWEST, min(512, len(data.X) // STEPS)),
                epochs=30,
            ),
            seed=seed,
            constants={"anchor": variant.anchor},
            readout=coefficients_beside_eta if variant.loss == "grk" else coefficients,
        )

    def finish(self, data: Data) -> None:
        held = held_out(len(data.X), CALIBRATION, self.seed).numpy()
        beta = self._coefficients(self.outputs(data.X.double())).cpu().numpy()
        Y = data.train.Y
        # On what the head learnt from it is surer than it is right: the slope is of the others alone.
        slope = 0.0 if np.isnan(Y[held]).all() else fit_sigmoid(beta[held], Y[held])[0]
        # Where no map fits, routes must stay those of the coefficients all the same.
        pair = (slope, offset_of(slope * beta, Y)) if slope > 0 else (1.0, 0.0)
        self.buffers["slope"], self.buffers["offset"] = torch.tensor(
            pair, dtype=torch.float64, device=data.device
        )

    def read(self, outputs: Tensor) -> Tensor:
        beta = self._coefficients(outputs)
        return in_order(torch.sigmoid(self.buffers["slope"] * beta + self.buffers["offset"]), beta)

    def _coefficients(self, outputs: Tensor) -> Tensor:
        return coefficients_beside_eta(outputs) if self.variant.loss == "grk" else outputs


def offset_of(z: NDArray[np.float64], Y: Float32) -> float:
    """Logits z [N, K], labels Y [N, K], NaN = not observed -> b with which the mean of sigma(z + b) is the mean label.

    Where labels are all equal, what takes the mean within 1e-6 of them.
    """
    known = ~np.isnan(Y)
    wanted = float(Y[known].mean(dtype=np.float64).clip(1e-6, 1 - 1e-6))
    low, high = -100 - float(z[known].max()), 100 - float(z[known].min())
    for _ in range(100):
        middle = (low + high) / 2
        above = float((1 / (1 + np.exp(-np.clip(z[known] + middle, -50, 50)))).mean()) > wanted
        low, high = (low, middle) if above else (middle, high)
    return (low + high) / 2


def in_order(P: Tensor, beta: Tensor) -> Tensor:
    """P [N, K], which rises with beta [N, K] -> float32 that does so strictly: models tie where their betas are equal.

    From the best downwards each is at least one step of float32 below the one before it.
    """
    order = beta.argsort(dim=-1, descending=True, stable=True)
    sorted_beta = beta.gather(-1, order)
    falls = torch.zeros_like(order)
    falls[..., 1:] = (sorted_beta[..., 1:] < sorted_beta[..., :-1]).cumsum(dim=-1)
    # Of positive floats the bits are in their order, one apart where they are neighbours.
    bits = P.float().clamp(min=LEAST).gather(-1, order).view(torch.int32).long()
    strict = (bits + falls).cummin(dim=-1).values - falls
    return torch.empty_like(P, dtype=torch.float32).scatter_(-1, order, strict.int().view(torch.float32))


# --- the head ---------------------------------------------------------------------------------------


def initial(inputs: int, means: Float32, variant: Config, generator: torch.Generator) -> Parameters:
    """Parameters of the head of a pool with levels [K]; of grk, the last output is eta.

    The coefficients start at logit(p_m) and eta at 0: hidden weights are He-uniform, those of the last layer 0, so
    that a model never observed stays at its prior.
    """
    K, between = len(means), variant.rank or variant.hidden
    outputs = K + 1 if variant.loss == "grk" else K
    widths = (inputs, between, outputs) if between else (inputs, outputs)
    return layers(widths, generator, start=torch.cat([level(means), torch.zeros(outputs - K)]))


def forward_low_rank(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> outputs [..., B, O] of two linear maps with nothing between."""
    between = product(X, parameters["weight0"]) + parameters["bias0"]
    return between @ parameters["weight1"] + parameters["bias1"]


def coefficients(outputs: Tensor) -> Tensor:
    """Outputs [..., K] of a head without eta -> beta [..., K]: the same."""
    return outputs


def coefficients_beside_eta(outputs: Tensor) -> Tensor:
    """Outputs [..., K + 1] of a grk head -> beta [..., K]."""
    return outputs[..., :-1]


# --- the losses -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Votes:
    """Pairs of models on the queries of a minibatch, one row per query and one column per pair."""

    first: Tensor  # [..., K, P] which model is i, one-hot columns
    second: Tensor  # [..., K, P] which is j
    y_i: Tensor  # [..., B, P] labels
    y_j: Tensor
    weight: Tensor  # [..., B, P] sum to about 1 over the pairs observed on a query and to 1 over queries

    @property
    def outcomes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How likely each outcome is given the labels [..., B, P]: i wins, j wins, both good, both bad."""
        y_i, y_j = self.y_i, self.y_j
        return y_i * (1 - y_j), y_j * (1 - y_i), y_i * y_j, (1 - y_i) * (1 - y_j)

    def mean(self, costs: Tensor) -> Tensor:
        """costs [..., B, P] -> [...]: over the pairs of a query, then over the queries with a pair."""
        return (costs * self.weight).sum(dim=(-2, -1))


def votes(batch: Batch) -> Votes:
    """The votes that a minibatch counts; its targets are labels Y [..., B, K], 0 where missing, and the mask M.

    All pairs in a small pool. In a large one the models are seated in a circle, by lot, and each is compared
    with its nearest neighbours on both sides: every pair is as likely, and every model plays as often.
    """
    Y, M = batch.targets
    K = Y.shape[-1]
    total = K * (K - 1) // 2
    if total <= PAIRS:
        i, j = torch.triu_indices(K, K, 1, device=Y.device)
    else:
        seats = torch.arange(K, device=Y.device).repeat(max(1, PAIRS // K))  # [P]
        apart = 1 + torch.arange(len(seats), device=Y.device) // K
        seated = batch.draw.uniform((K,)).argsort(dim=-1)  # [K], or [G, K]
        i, j = seated[..., seats], seated[..., (seats + apart) % K]
    first, second = (torch.nn.functional.one_hot(of, K).mT.to(Y.dtype) for of in (i, j))
    seen = (M @ first) * (M @ second)
    n = M.sum(dim=-1, keepdim=True)
    pairs = n * (n - 1) / 2  # [..., B, 1] observed on each query
    queries = (pairs > 0).sum(dim=-2, keepdim=True).clamp(min=1)
    weight = seen / (pairs.clamp(min=1) * queries) * (total / max(1, i.shape[-1]))
    return Votes(first, second, Y @ first, Y @ second, weight)


def bt_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """Bradley-Terry on the votes that are no ties, plus the anchor; beta [..., B, K] -> [...]."""
    found = votes(batch)
    lead = outputs @ (found.first - found.second)
    wins, losses, _, _ = found.outcomes
    costs = wins * torch.nn.functional.softplus(-lead) + losses * torch.nn.functional.softplus(lead)
    return found.mean(costs) + anchor(outputs, batch)


def bt_tie_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """Bradley-Terry in which a tie is half a win each, plus the anchor; beta [..., B, K] -> [...]."""
    found = votes(batch)
    lead = outputs @ (found.first - found.second)
    won = (1 + found.y_i - found.y_j) / 2
    return found.mean(torch.nn.functional.softplus(lead) - won * lead) + anchor(outputs, batch)


def grk_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """Grounded Rao-Kupper, plus the anchor; beta and, last, eta [..., B, K + 1] -> [...]."""
    found = votes(batch)
    beta = coefficients_beside_eta(outputs)
    logs = grk_log_probabilities(beta @ found.first, beta @ found.second, outputs[..., -1:])
    wins, losses, good, bad = (share * log for share, log in zip(found.outcomes, logs, strict=True))
    return found.mean(-(wins + losses + good + bad)) + anchor(beta, batch)


def grk_log_probabilities(
    beta_i: Tensor, beta_j: Tensor, eta: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability, at least log FLOOR, of: i wins, j wins, tie of good ones, both bad. Shapes broadcast.

    In logarithms, since e^beta overflows.
    """
    log_theta = torch.logaddexp(eta, torch.full_like(eta, math.log1p(FLOOR)))
    ground = torch.zeros_like(beta_i)  # the fictitious model of beta = 0 that both must beat
    wins = beta_i - torch.logaddexp(torch.logaddexp(beta_i, log_theta + beta_j), ground)
    losses = beta_j - torch.logaddexp(torch.logaddexp(beta_j, log_theta + beta_i), ground)
    bad = -torch.logaddexp(torch.logaddexp(beta_i, beta_j), ground)
    tie = (1 - wins.exp() - losses.exp() - bad.exp()).clamp(min=FLOOR).log()
    least = math.log(FLOOR)
    return wins.clamp(min=least), losses.clamp(min=least), tie, bad.clamp(min=least)


def anchor(beta: Tensor, batch: Batch) -> Tensor:
    """The games against the virtual opponent of beta = 0, times their weight; beta [..., B, K] -> [...].

    The opponent beats wrong models and loses to correct ones: masked binary cross-entropy.
    """
    Y, M = batch.targets
    return batch.constants["anchor"] * masked_bce(beta, Y, M)


LOSSES = {"bt": bt_loss, "bt_tie": bt_tie_loss, "grk": grk_loss}


def describe(variant: Config) -> VariantCard:
    """The paper's head is linear and its losses have no anchor, without which no level of a query is known."""
    own = variant.anchor == 0 and variant.hidden == 0 and variant.rank == 0
    return VariantCard(
        original=own,
        why="a linear head, pairs alone" if own else "the anchor or the hidden layer is ours",
        calibrated=variant.anchor > 0,
    )


CARD = RouterCard(
    name="p2l",
    title="Bradley-Terry coefficients of every model, predicted from the embedding",
    paper="arXiv:2502.14855",
    year=2025,
    family="ranking",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    version=3,  # 1: the map to probabilities was fitted on train, 2: on val
    fidelity=(
        "A head on frozen embeddings; the original fine-tunes a language model of 1.5B to 7B with it.",
        "Votes are the pairs of labels of one query, averaged over pairs and then over queries, not human preferences.",
        "The anchor, games against a virtual opponent that fix each query's constant, is ours.",
        "Scores are sigma(a beta + b) with one a > 0 fitted on a tenth of train, which the head does not learn from, and b by the mean label; the original gives beta, or sigma(beta) of grk.",
        "Without an anchor (bt, bt_tie) a query's constant is open: there that map is right on average only.",
        "The default head has a hidden layer of 256 ReLUs; the linear head of the paper is a variant.",
        "Coefficients start at the logit of each model's level on the other nine tenths of train and output weights at 0, not at random.",
        "At most 30 shuffled epochs (2,000 steps if that is more) with a cosine rate and the checkpoint of the best val accuracy, not one pass in vote order.",
        "Minibatches of 512 queries shrink, to 32 at least, where an epoch would have fewer than 40 steps.",
        "Pools of more than 16 models compare about 128 pairs per minibatch, drawn by lot, not all pairs.",
        "A missing label is in no pair. A model never observed keeps the coefficient of the pool's mean, which the map moves.",
        "Rao-Kupper without grounding (rk) and the linear programme of the cost-aware router are left out.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=P2lRouter, fit_many=stacked(P2lRouter), describe=describe)
