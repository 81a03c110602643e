"""mlp: a feed-forward network predicts, from the embedding, each model's probability of being correct.

Paper: Hu et al. 2024, RouterBench (arXiv:2403.12031); `mlp_cn` in the study of the routing plateau. Like theirs:
ReLU networks of the same widths on frozen embeddings, a model's rows without a label left out. Unlike theirs: see
`fidelity` on the card; above all, the models share one network, and the best checkpoint is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from rph import RouterCard, RouterSpec, VariantCard, hookimpl
from rph.lazy import torch
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, bce_loss, chance, feed_forward, layers, level, mse_loss

if TYPE_CHECKING:
    from rph.api import Float32
    from rph.training.heads import Draw, Forward, Parameters

LARGE = 50_000  # training queries beyond which batches are larger


@dataclass(frozen=True)
class Config:
    hidden: tuple[int, ...] = (100, 100)  # widths; () is a linear head
    dropout: float = 0.1  # after every hidden layer
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    loss: Literal["bce", "mse"] = "bce"  # mse: squared error of the probability
    per_model: bool = False  # a network of its own for each model, instead of one with K outputs
    standardise: bool = False  # inputs of mean 0 and variance 1 on train, instead of rows of length 1


BASE = Config()
GRID = (
    *(
        replace(BASE, hidden=h)
        for h in ((100, 100), (256,), (512, 256), (100,), (512,), (100, 100, 100), (1024, 512))
    ),
    replace(BASE, hidden=(), learning_rate=1e-2),  # alone, a layer needs large weights
    *(replace(BASE, hidden=h, learning_rate=3e-4) for h in ((256,), (512, 256))),
    *(replace(BASE, hidden=h, dropout=0.3, weight_decay=1e-2) for h in ((100, 100), (512, 256))),
    replace(BASE, loss="mse"),
    replace(BASE, per_model=True),
    replace(BASE, hidden=(512, 256), standardise=True),
)
LOSSES = {"bce": bce_loss, "mse": mse_loss}


class MlpRouter(HeadRouter):
    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward_per_model if variant.per_model else forward

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        X, validation = self.standardise(data) if variant.standardise else (data.X, data.validation)
        return Head(
            parameters=initial(X.shape[1], data.means, variant, chance(seed, "initial"), data.device),
            forward=self.forward(variant),
            loss=LOSSES[variant.loss],
            X=X,
            targets=data.labels,
            val=validation,
            training=Training(
                learning_rate=variant.learning_rate,
                weight_decay=variant.weight_decay,
                dropout=variant.dropout,
                batch=256 if len(X) <= LARGE else 1024,
            ),
            seed=seed,
            likelihood=True,
        )


def initial(
    inputs: int, means: Float32, variant: Config, generator: torch.Generator, device: str
) -> Parameters:
    """Parameters of one network, or of K networks with a first layer in one piece: `weight0` [d, K * h].

    The outputs start at logit(p_m): hidden weights are He-uniform, those of the last layer 0, so that a model
    never run stays at its prior.
    """
    K, last = len(means), len(variant.hidden)
    if variant.per_model and last:
        parameters = layers((inputs, K * variant.hidden[0]), generator)
        for layer, (width, following) in enumerate(pairwise((*variant.hidden, 1)), start=1):
            each = [layers((width, following), generator) for _ in range(K)]
            parameters[f"weight{layer}"] = torch.stack([one["weight0"] for one in each])  # [K, h, h']
            parameters[f"bias{layer}"] = torch.stack([one["bias0"] for one in each])  # [K, 1, h']
        parameters[f"bias{last}"] = level(means).view(K, 1, 1)
        parameters[f"weight{last}"].zero_()
    else:
        parameters = layers((inputs, *variant.hidden, K), generator, start=level(means))
    return {name: value.to(device) for name, value in parameters.items()}


def forward(parameters: Parameters, X: torch.Tensor, draw: Draw) -> torch.Tensor:
    """X [..., B, d] -> logits [..., B, K]."""
    return feed_forward(parameters, X, draw)


def forward_per_model(parameters: Parameters, X: torch.Tensor, draw: Draw) -> torch.Tensor:
    """X [..., B, d] -> logits [..., B, K] of K networks, which all read the same X: their first layer is one product."""
    hidden = X @ parameters["weight0"] + parameters["bias0"]  # [..., B, K * h]
    if "weight1" not in parameters:
        return hidden  # linear: h is 1
    K = parameters["weight1"].shape[-3]
    width = hidden.shape[-1] // K  # given, so that no query has a shape too
    hidden = hidden.view(*hidden.shape[:-1], K, width).transpose(-3, -2)  # [..., K, B, h]
    for layer in range(1, len(parameters) // 2):
        hidden = draw(hidden.relu()) @ parameters[f"weight{layer}"] + parameters[f"bias{layer}"]
    return hidden[..., 0].mT


def describe(variant: Config) -> VariantCard:
    """RouterBench's is one network per model; what is shared by all variants the card's fidelity says."""
    own = variant.per_model and not variant.standardise
    why = "a network per model" if own else "one network for all models"
    return VariantCard(original=own, why=why)


CARD = RouterCard(
    name="mlp",
    title="Feed-forward network on the embedding, one output per model",
    paper="arXiv:2403.12031",
    year=2024,
    family="classifier",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    version=2,
    aliases=("mlp_cn",),
    fidelity=(
        "One network with an output per model, not one network per model (a variant here).",
        "Binary cross-entropy on logits, not the squared error of an unbounded output (a variant squares p).",
        "AdamW with a cosine learning rate, not Adam at a constant one with an L2 penalty of 1e-4.",
        "Dropout after every hidden layer, of which the original has none.",
        "The checkpoint of the best val routing accuracy is kept; the original runs at most 200 epochs, to its train loss.",
        "Batches of 256 or 1024, not of 200; queries are scaled to length 1.",
        "In the variant with one network per model, all networks are checked and stopped together.",
        "Output weights start at 0 and output biases at the logit of each model's level on train.",
        "Widths beyond (100), (100, 100) and (100, 100, 100), the linear head and standardised inputs are ours.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=MlpRouter, fit_many=stacked(MlpRouter), describe=describe)
