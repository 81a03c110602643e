"""equi: one scorer for all models, conditioned on a learned embedding of each, trained to rank the models of a query.

Paper: Lai & Ye 2026, EquiRouter (arXiv:2602.03478). Like theirs: the query's embedding goes through a trunk to
z in R^D; each model m has a learned e_m, from which come (gamma_m, beta_m) and v_m in R^D; the shared head scores
[z_m, v_m, z_m * v_m, |z_m - v_m|] with z_m = gamma_m * z + beta_m (FiLM). The loss is

    MSE(s, y) + w * mean over pairs (i, j) of one query with y_i > y_j of log(1 + exp(-(s_i - s_j))),

so that the order of the models on a query counts more than the level of their scores. The score of a model is s
itself, which only ranks. See `fidelity` on the card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from rph import RouterCard, RouterSpec, VariantCard, hookimpl
from rph.arrays import to_device
from rph.lazy import torch
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, chance, masked_bce, masked_mean, product

if TYPE_CHECKING:
    from rph.training.heads import Batch, Draw, Forward, Parameters

    Tensor = torch.Tensor

WIDTH = 512  # of the head's hidden layer
STEPS = 500  # at least, and not the 2,000 of other heads: a step costs as much as fifty of mlp's
SPREAD = 0.02  # deviation of the models' embeddings before training
AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 27}  # numbers in z_m of the rows that are scored at once


@dataclass(frozen=True)
class Config:
    rank_weight: float = 50.0  # w
    trunk: tuple[int, ...] = (1024, 512)  # widths before the last layer, which has `dimensions`
    dimensions: int = 512  # D
    embedding: int = 128  # E, numbers in e_m
    learning_rate: float = 1e-4
    dropout: float = 0.0  # after every hidden layer of the trunk
    pair_norm: Literal["batch", "query"] = "batch"  # mean over a batch's pairs, or over queries' means
    pointwise: Literal["mse", "bce"] = "mse"  # bce: s is a logit, and the score is sigmoid(s)
    tie_by_cost: bool = False  # of equally good models the cheaper is preferred (paper, Eq. 8)


BASE = Config()
GRID = (
    *(replace(BASE, rank_weight=w) for w in (50.0, 1.0, 5.0, 10.0)),
    *(replace(BASE, rank_weight=w, pair_norm="query") for w in (5.0, 50.0)),
    *(replace(BASE, rank_weight=w, trunk=(512,), dimensions=256) for w in (5.0, 50.0)),
    replace(BASE, rank_weight=10.0, dimensions=128, embedding=32),
    *(replace(BASE, rank_weight=w, learning_rate=3e-4) for w in (5.0, 50.0)),
    replace(BASE, rank_weight=10.0, dropout=0.2),
    *(replace(BASE, rank_weight=w, pointwise="bce") for w in (1.0, 5.0)),
    replace(BASE, rank_weight=10.0, tie_by_cost=True),
)


# --- the scorer -------------------------------------------------------------------------------------


def initial(inputs: int, models: int, variant: Config, generator: torch.Generator, device: str) -> Parameters:
    """Parameters before training: Xavier-uniform weights, biases 0, models' embeddings normal with deviation .02."""
    D, E = variant.dimensions, variant.embedding
    parameters: Parameters = {}

    def linear(name: str, width: int, following: int) -> None:
        bound = (6 / (width + following)) ** 0.5
        parameters[f"weight_{name}"] = (torch.rand((width, following), generator=generator) * 2 - 1) * bound
        parameters[f"bias_{name}"] = torch.zeros(1, following)

    def norm(name: str, width: int) -> None:
        parameters[f"scale_{name}"] = torch.ones(1, width)
        parameters[f"bias_norm_{name}"] = torch.zeros(1, width)

    for layer, (width, following) in enumerate(pairwise((inputs, *variant.trunk, D))):
        linear(f"trunk{layer}", width, following)
        norm(f"trunk{layer}", following)
    parameters["embedding"] = torch.randn((models, E), generator=generator) * SPREAD
    linear("film", E, 2 * D)
    linear("value", E, D)
    linear("head", 4 * D, WIDTH)
    norm("head", WIDTH)
    linear("score", WIDTH, 1)
    return {name: value.to(device) for name, value in parameters.items()}


def forward(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> s [..., B, K]."""
    z, layer = X, 0
    while f"weight_trunk{layer}" in parameters:
        z = draw(z) if layer else z
        z = product(z, parameters[f"weight_trunk{layer}"]) + parameters[f"bias_trunk{layer}"]
        z = _activate(parameters, f"trunk{layer}", z)
        layer += 1
    e = parameters["embedding"]  # [..., K, E]
    film = e @ parameters["weight_film"] + parameters["bias_film"]
    gamma, beta = film.chunk(2, dim=-1)  # each [..., K, D]
    v = e @ parameters["weight_value"] + parameters["bias_value"]
    # A part of the rows at a time: z_m of all of them would take K times the room of z.
    rows = max(1, AT_ONCE[X.device.type] // gamma.numel())
    return torch.cat(
        [_score(parameters, part, gamma, beta, v) for part in torch.split(z, rows, dim=-2)], dim=-2
    )


def _activate(parameters: Parameters, name: str, hidden: Tensor) -> Tensor:
    """GELU, then a layer norm."""
    normed = torch.nn.functional.layer_norm(torch.nn.functional.gelu(hidden), hidden.shape[-1:])
    return normed * parameters[f"scale_{name}"] + parameters[f"bias_norm_{name}"]


def _score(parameters: Parameters, z: Tensor, gamma: Tensor, beta: Tensor, v: Tensor) -> Tensor:
    """z [..., B, D] and gamma, beta, v [..., K, D] -> s [..., B, K]."""
    K, D = v.shape[-2:]
    B = z.shape[-2]
    of_z, of_v, of_product, of_distance = torch.split(parameters["weight_head"], D, dim=-2)
    z_m = gamma[..., :, None, :] * z[..., None, :, :] + beta[..., :, None, :]  # [..., K, B, D]
    value = v[..., :, None, :]
    # The concatenation's product, part by part: v_m is the same for every query, and z_m * v_m costs no product of
    # its own once v_m scales the rows of the weights.
    hidden = z_m @ (of_z[..., None, :, :] + v[..., :, :, None] * of_product[..., None, :, :])
    own = v @ of_v + parameters["bias_head"]  # [..., K, WIDTH]
    distance = (z_m - value).abs().flatten(-3, -2) @ of_distance  # [..., K * B, WIDTH]
    hidden = (hidden + own[..., :, None, :]).flatten(-3, -2) + distance
    s = _activate(parameters, "head", hidden) @ parameters["weight_score"] + parameters["bias_score"]
    return s.view(*s.shape[:-2], K, B).mT


# --- the loss ---------------------------------------------------------------------------------------


def preferred(Y: Tensor, M: Tensor, C: Tensor | None = None) -> Tensor:
    """Labels Y, mask M [..., B, K] -> [..., B, K, K] bool: i is better than j, both observed.

    With costs C (NaN = unknown) also where i is as good and cheaper.
    """
    seen = M > 0
    better = Y[..., :, None] > Y[..., None, :]
    if C is not None:
        cheaper = C[..., :, None] < C[..., None, :]  # never true of NaN
        better = better | ((Y[..., :, None] == Y[..., None, :]) & cheaper)
    return better & seen[..., :, None] & seen[..., None, :]


def ranking_loss(s: Tensor, pairs: Tensor, power: Tensor) -> Tensor:
    """Scores s [..., B, K], pairs [..., B, K, K] -> [...]: mean of softplus(-(s_i - s_j)); 0 where there is no pair.

    A query with n pairs weighs n^power: all pairs of the batch alike (1), or all queries that have one (0).
    """
    losses = torch.nn.functional.softplus(s[..., None, :] - s[..., :, None])
    n = pairs.sum(dim=(-2, -1)).to(s.dtype)  # [..., B]
    mean = (losses * pairs).sum(dim=(-2, -1)) / n.clamp(min=1)
    weight = torch.where(n > 0, n.clamp(min=1) ** power[..., None], 0)
    return (weight * mean).sum(dim=-1) / weight.sum(dim=-1).clamp(min=1)


def _ranked(pointwise: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
    ranking = ranking_loss(outputs, preferred(*batch.targets), batch.constants["power"])
    return pointwise + batch.constants["rank_weight"] * ranking


def ranked_mse(outputs: Tensor, batch: Batch) -> Tensor:
    """Squared error of s plus the ranking loss; the targets are labels, mask and, to settle ties, costs."""
    Y, M = batch.targets[:2]
    return _ranked(masked_mean((outputs - Y).square(), M), outputs, batch)


def ranked_bce(outputs: Tensor, batch: Batch) -> Tensor:
    """As `ranked_mse`, with the binary cross-entropy of sigmoid(s)."""
    return _ranked(masked_bce(outputs, *batch.targets[:2]), outputs, batch)


# --- the router -------------------------------------------------------------------------------------


class EquiRouter(HeadRouter):
    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        K = len(data.means)
        self.buffers["unseen"] = ~data.seen
        targets: tuple[Tensor, ...] = data.labels
        if variant.tie_by_cost and data.train.C is not None:
            targets = (*targets, to_device(data.train.C, data.device))
        return Head(
            parameters=initial(data.X.shape[1], K, variant, chance(seed, "initial"), data.device),
            forward=forward,
            loss=ranked_mse if variant.pointwise == "mse" else ranked_bce,
            X=data.X,
            targets=targets,
            val=data.validation,
            training=Training(
                learning_rate=variant.learning_rate,
                cosine=False,
                weight_decay=0.0,
                dropout=variant.dropout,
                batch=128,
                epochs=20,
                steps=STEPS,
                optimiser="adam",
            ),
            seed=seed,
            constants={
                "rank_weight": variant.rank_weight,
                "power": 1.0 if variant.pair_norm == "batch" else 0.0,
            },
            likelihood=variant.pointwise == "bce",
        )

    def read(self, outputs: Tensor) -> Tensor:
        """s [N, K] -> scores: s or sigmoid(s). A model never observed gets the mean over the others on the query."""
        s = torch.sigmoid(outputs) if self.variant.pointwise == "bce" else outputs
        unseen = self.buffers["unseen"]
        # A sum over all columns, so that its order does not depend on how many rows there are.
        mean = s.masked_fill(unseen, 0).sum(dim=-1, keepdim=True) / (~unseen).sum()
        return torch.where(unseen, mean, s)


def describe(variant: Config) -> VariantCard:
    own = variant.pointwise == "mse" and variant.pair_norm == "batch" and not variant.tie_by_cost
    theirs = variant.tie_by_cost and variant.pointwise == "mse"
    why = (
        "the loss of the authors' code"
        if own
        else "the loss of the paper's Eq. 8"
        if theirs
        else ("the pointwise loss or the mean over pairs is ours")
    )
    no_gain = "the cheaper model wins every tie, so costs decide where few models differ"
    return VariantCard(
        original=own or theirs,
        why=why,
        calibrated=variant.pointwise == "bce",
        no_gain=no_gain if variant.tie_by_cost else "",
    )


CARD = RouterCard(
    name="equi",
    title="FiLM-conditioned scorer shared by the models, trained to rank them on each query",
    paper="arXiv:2602.03478",
    year=2026,
    family="ranking",
    licence="MIT",
    deterministic=False,
    calibrated=False,
    version=2,
    aliases=("equi_router",),
    fidelity=(
        "The loss is that of the authors' code, without the cost tie-break of the paper's Eq. 8 (one variant has it).",
        "Without costs that variant is that of w = 10; a pair with an unknown cost is no pair.",
        "Where most queries tie, its order by cost outweighs the order by correctness, as the equation has it.",
        "Scores are raw s, which the ranking term stretches: utility and BCE use a map fitted by the harness.",
        "With the pointwise cross-entropy (2 variants, ours) scores are sigmoid(s).",
        "A pair counts where both models were observed, and the squared error runs over observed labels.",
        "All pairs of a query are counted, whatever the size of the pool.",
        "At most 20 epochs (500 steps if that is more) at a constant learning rate; the checkpoint of best val routing accuracy is kept.",
        "The trunk reads the harness's embedding, of length 1; there is no cost network.",
        "The grid (weights, widths, normalisation of pairs) is ours around the published configuration.",
        "A model never observed gets the mean score of the others on each query.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD, grid=GRID, router=EquiRouter, fit_many=stacked(EquiRouter), describe=describe
    )
