"""mirt: multidimensional item response theory; a query asks for abilities, and models have them.

Paper: Song et al. 2025, IRT-Router (arXiv:2506.01048), its MIRT-Router. The query's embedding e gives how much it
discriminates along each of n latent abilities, a = softplus(W_a e) > 0, and how hard it is, b = w_b . e; a model k has
abilities theta_k, and P(k is correct) = sigmoid(a . theta_k - b), fitted by binary cross-entropy over the observed
(query, model) cells. No biases, as there. As a > 0, a model at least as able along every axis scores at least as high
on every query. b is the same for all models: it calibrates and cannot change a route.

Warm-up, when predicting only: e becomes (1 - omega) e + omega * mean of the 5 nearest training embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rph import Queries, RouterCard, RouterSpec, VariantCard, hookimpl
from rph.arrays import to_device, unit_rows
from rph.lazy import np, torch
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, bce_loss, chance, level, product, queries_of
from rph.training.neighbours import nearest

if TYPE_CHECKING:
    from rph.api import Float32
    from rph.training.heads import Draw, Forward, Parameters

CELLS = 512  # (query, model) cells of a minibatch
NEIGHBOURS = 5  # of the warm-up
SPREAD = 0.1  # deviation of the abilities at the start


@dataclass(frozen=True)
class Config:
    standardise: bool = True  # inputs of mean 0 and variance 1 on train, instead of rows of length 1
    abilities: int = 25  # n
    learning_rate: float = 1e-3
    bias: bool = False  # constants beside W_a e and w_b . e
    warm_up: float = 0.0  # omega
    weight_decay: float = 0.0  # L2


BASE = Config()
GRID = (
    BASE,
    *(
        variant
        for standardise in (True, False)
        for abilities in (25, 8, 64)
        for learning_rate in (1e-3, 5e-3)
        if (variant := Config(standardise, abilities, learning_rate)) != BASE
    ),
    replace(BASE, bias=True),
    replace(BASE, warm_up=0.3),
    replace(BASE, weight_decay=1e-4),
)


class MirtRouter(HeadRouter):
    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward

    @staticmethod
    def trained_as(variant: Config) -> Hashable:
        return replace(variant, warm_up=0.0)

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        X, validation = self.standardise(data) if variant.standardise else (data.X, data.validation)
        labels, seen = data.labels
        observed = seen.any(dim=0).cpu()
        return Head(
            parameters=initial(
                X.shape[1], data.means, observed, variant, chance(seed, "initial"), data.device
            ),
            forward=forward,
            loss=bce_loss,
            X=X,
            targets=(labels, seen),
            val=validation,
            training=Training(
                learning_rate=variant.learning_rate,
                cosine=False,
                weight_decay=variant.weight_decay,
                batch=queries_of(CELLS, len(observed)),
                epochs=30,
                optimiser="adam",
            ),
            seed=seed,
            likelihood=True,
        )

    def finish(self, data: Data) -> None:
        if self.variant.warm_up:
            self.buffers["memory"] = to_device(data.train.X, "cpu")

    def inputs(self, queries: Queries) -> torch.Tensor:
        if self.variant.warm_up:
            queries = warmed_up(queries, self.buffers["memory"], self.variant.warm_up, self.device)
        return super().inputs(queries)


def initial(
    inputs: int, means: Float32, seen: torch.Tensor, variant: Config, generator: torch.Generator, device: str
) -> Parameters:
    """Weights and biases as torch starts linear layers; abilities that give each model about its level p_k.

    `means` [K] and `seen` [K]: the models observed in train. `theta` [n, K] is NaN where one was not. The checkpoint
    is chosen by routing accuracy, which may be at its best early: what it scores should be probabilities by then.
    """
    n = variant.abilities

    def uniform(rows: int, columns: int) -> torch.Tensor:
        return (torch.rand((rows, columns), generator=generator) * 2 - 1) / math.sqrt(inputs)

    # At W_a e = 0 every a is softplus(0) = log 2, so that a . theta_k = logit(p_k) but for the noise.
    theta = level(means) / (n * math.log(2)) + SPREAD * torch.randn((n, len(seen)), generator=generator)
    parameters = {
        "weight_a": uniform(inputs, n),
        "weight_b": uniform(inputs, 1),
        "theta": torch.where(seen, theta, torch.nan),
    }
    if variant.bias:
        parameters |= {"bias_a": uniform(1, n), "bias_b": uniform(1, 1)}
    return {name: value.to(device) for name, value in parameters.items()}


def forward(parameters: Parameters, X: torch.Tensor, draw: Draw) -> torch.Tensor:
    """X [..., B, d] -> logits [..., B, K]: a . theta_k - b."""
    a, b = product(X, parameters["weight_a"]), product(X, parameters["weight_b"])  # [..., B, n], [..., B, 1]
    if "bias_a" in parameters:
        a, b = a + parameters["bias_a"], b + parameters["bias_b"]
    return torch.matmul(torch.nn.functional.softplus(a), abilities(parameters["theta"])) - b


def abilities(theta: torch.Tensor) -> torch.Tensor:
    """theta [..., n, K], with the mean over the pool in the place of NaN: the abilities of a model never observed."""
    return torch.where(theta.isnan(), theta.nanmean(dim=-1, keepdim=True), theta)


def warmed_up(queries: Queries, memory: torch.Tensor, omega: float, device: str) -> Queries:
    """The queries with each embedding moved by `omega` to the mean of its nearest (cosine) in `memory` [N, d]."""
    known = memory.cpu().numpy()
    X = np.empty_like(queries.X)
    for rows, near, _ in nearest(queries.unit, unit_rows(known), NEIGHBOURS, device):
        X[rows] = (1 - omega) * queries.X[rows] + omega * known[near.cpu().numpy()].mean(axis=1)
    return Queries(X=X, texts=queries.texts)


def describe(variant: Config) -> VariantCard:
    own = not variant.bias and variant.weight_decay == 0
    return VariantCard(
        original=own, why="softplus(W_a e) . theta - w_b . e" if own else "constants or a penalty are ours"
    )


CARD = RouterCard(
    name="mirt",
    title="Item response theory: the query's discrimination times each model's latent abilities",
    paper="arXiv:2506.01048",
    year=2025,
    family="latent-factor",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    version=2,
    needs=("labels", "train-neighbours"),
    fidelity=(
        "A model's abilities are free parameters, not a linear map of an embedding of its description.",
        "Which of the paper's two routers the study calls mirt is inferred from the name.",
        "Inputs are standardised on train (unit rows in 6 variants); the original reads BERT embeddings as they are.",
        "A minibatch is 512 / K queries with all their observed models (16 to 512), not 512 single cells.",
        "At most 30 epochs, or 2,000 steps if that is more, not 9.",
        "The checkpoint of the best val routing accuracy is kept; the original has no validation.",
        "The numbers of abilities besides 25, the rates besides 0.001, biases and weight decay are ours.",
        "Warm-up is in one variant only (omega .3, nearest by cosine); the checkpoint is chosen without it.",
        "A model never observed has the mean abilities of the pool.",
        "Abilities start at random around the level that gives each model its level, not around 0.",
        "Costs are left to the harness's utility.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD, grid=GRID, router=MirtRouter, fit_many=stacked(MirtRouter), describe=describe
    )
