"""embedllm: a learnt vector per model meets a projection of the query; their product predicts correctness.

Paper: Zhuang et al. 2024, EmbedLLM (arXiv:2410.02223). For model m with vector p_m and the frozen embedding x,

    q = W (x + noise) + b,    two logits (wrong, correct) = A (p_m * q) + c,    P(correct) = their softmax,

trained by the cross-entropy of every observed (model, query) pair; noise ~ N(0, alpha^2) in training only. The route
goes to the greatest difference of the two logits. That difference is z = q . (p_m * (A_1 - A_0)) + (c_1 - c_0), so all
K models of a batch are one product, and only its observed cells count.

For r >= K the functions are those of multi-label logistic regression (centred logits have rank at most r); what is
left of the method then is how it regularises, by the factors and the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rph import RouterCard, RouterSpec, VariantCard, hookimpl
from rph.lazy import torch
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, bce_loss, chance, level, product, queries_of

if TYPE_CHECKING:
    from rph.training.heads import Draw, Forward, Parameters

    Tensor = torch.Tensor


@dataclass(frozen=True)
class Config:
    size: int = 232  # r, of a model's vector
    noise: float = 0.05  # alpha
    absolute: bool = (
        True  # alpha in units of the embedding itself, as in the original; else of its coordinates' RMS
    )
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5  # an L2 penalty
    projection: bool = False  # the query passes a layer of r ReLUs before W


BASE = Config()
CELLS = 2048  # (model, query) pairs of a minibatch, as in the original
GRID = (
    *(replace(BASE, learning_rate=rate) for rate in (1e-3, 3e-3, 1e-4)),  # the last is the paper's
    *(replace(BASE, size=size, learning_rate=rate) for size in (16, 64, 512) for rate in (1e-3, 3e-3)),
    *(replace(BASE, size=size, absolute=False) for size in (64, 232)),
    replace(BASE, noise=0.0),
    replace(BASE, weight_decay=1e-4),
    *(replace(BASE, projection=True, learning_rate=rate) for rate in (1e-3, 3e-3)),
)


class EmbedLlmRouter(HeadRouter):
    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward_projected if variant.projection else forward

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        parameters = initial(data, variant, chance(seed, "initial"))
        return Head(
            parameters=parameters,
            forward=self.forward(variant),
            loss=bce_loss,
            X=data.X,
            targets=data.labels,
            val=data.validation,
            training=Training(
                learning_rate=variant.learning_rate,
                cosine=False,
                weight_decay=variant.weight_decay,
                batch=queries_of(CELLS, len(data.means)),
                epochs=50,
                optimiser="adam",
            ),
            seed=seed,
            likelihood=True,
        )

    def finish(self, data: Data) -> None:
        self.buffers["never"] = ~data.seen  # [K] models without a label
        self.buffers["means"] = torch.tensor(data.means, device=data.device)  # [K], of those the pool's mean

    def read(self, outputs: Tensor) -> Tensor:
        return torch.where(self.buffers["never"], self.buffers["means"], torch.sigmoid(outputs))


def initial(data: Data, variant: Config, generator: torch.Generator) -> Parameters:
    """Parameters of the head, drawn as PyTorch's layers draw them; models' vectors from N(0, 1).

    The classifier's bias starts at the odds of the pool's mean label. A model never observed has the vector 0, which
    no gradient moves. The weight decay spares no bias, as in the original: no name but that of the noise, which is
    not learnt, begins with `bias`.
    """
    d, r, K = data.X.shape[1], variant.size, len(data.means)
    inner = _linear(d, r, generator, "inner") if variant.projection else {}
    models = torch.randn((K, r), generator=generator)
    models[~data.seen.cpu()] = 0
    parameters = {
        "models": models,
        **inner,
        **_linear(r if variant.projection else d, r, generator, "projection"),
        **_linear(r, 2, generator, "classes"),
        "bias_noise": torch.full(
            (1, 1), variant.noise if variant.absolute else variant.noise * _scale(data.X)
        ),
    }
    half = level(data.means.mean()) / 2
    parameters["classes_shift"][:] = torch.stack([-half, half])
    return parameters


def _linear(inputs: int, outputs: int, generator: torch.Generator, name: str) -> Parameters:
    bound = inputs**-0.5
    drawn = (torch.rand((inputs + 1, outputs), generator=generator) * 2 - 1) * bound
    return {name: drawn[:-1].clone(), f"{name}_shift": drawn[-1:].clone()}


def _scale(X: Tensor) -> float:
    """The root mean square of the coordinates of X [N, d]."""
    squares = float(torch.linalg.vector_norm(X, dtype=torch.float64)) ** 2
    return math.sqrt(squares / X.numel())


def forward(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> logits [..., B, K]: the classifier's logit of correct minus that of wrong."""
    return _meet(parameters, _noisy(parameters, X, draw, "projection"))


def forward_projected(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """As `forward`, the query passing a layer of ReLUs first."""
    inner = _noisy(parameters, X, draw, "inner").relu()
    return _meet(parameters, inner @ parameters["projection"] + parameters["projection_shift"])


def _noisy(parameters: Parameters, X: Tensor, draw: Draw, name: str) -> Tensor:
    """The linear layer of this name at X + noise, [..., B, r]; one noise per query in training, none outside it."""
    weight = parameters[name]
    found = product(X, weight) + parameters[f"{name}_shift"]
    noise = draw.normal(X.shape[-2:])
    if noise.dim() == 0:
        return found
    # By itself, so that a stack of heads multiplies X once; the size of the noise is not to be learnt.
    return found + parameters["bias_noise"].detach() * product(noise, weight)


def _meet(parameters: Parameters, q: Tensor) -> Tensor:
    """Queries q [..., B, r] meet all models: [..., B, K]."""
    wrong, correct = parameters["classes"].unbind(dim=-1)  # [..., r]
    shift = parameters["classes_shift"]  # [..., 1, 2]
    vectors = parameters["models"] * (correct - wrong)[..., None, :]  # [..., K, r]
    return q @ vectors.mT + (shift[..., 1:] - shift[..., :1])


def describe(variant: Config) -> VariantCard:
    own = variant.absolute and not variant.projection
    return VariantCard(
        original=own,
        why="one bilinear form, noise in units of the embedding"
        if own
        else (
            "a hidden layer before the projection"
            if variant.projection
            else "noise in units of the embeddings' scale"
        ),
    )


CARD = RouterCard(
    name="embedllm",
    title="A vector per model, multiplied with the projected query, predicts correctness",
    paper="arXiv:2410.02223",
    year=2024,
    family="latent-factor",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    version=2,
    fidelity=(
        "Noise is drawn per query and step, not per (model, query) pair.",
        "In two variants noise is measured in the root mean square of the embeddings' coordinates.",
        "Noise is off at prediction, as the paper has it; one published evaluator leaves it on.",
        "Batches are shuffled queries with all their observed models, about 2,048 pairs (16 to 512 queries), not pairs in file order.",
        "The learning rate is 1e-3 or 3e-3 but in one variant, which has the original's 1e-4.",
        "The checkpoint of the best val routing accuracy is kept, at half epochs, within 50 epochs (2,000 steps if that is more), not that of the 50th epoch.",
        "The classifier's bias starts at the odds of the pool's mean label, not at random.",
        "A model never observed scores the pool's mean.",
        "Queries are embedded by the encoder of the cell, scaled to length 1, not by all-mpnet-base-v2.",
        "The hidden layer before the projection (two variants) is ours.",
    ),
    expected_failures=(
        (
            "calibrated-probabilities",
            "the protocol keeps the checkpoint that routes best on val; on few queries that one is overconfident",
        ),
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD, grid=GRID, router=EmbedLlmRouter, fit_many=stacked(EmbedLlmRouter), describe=describe
    )
