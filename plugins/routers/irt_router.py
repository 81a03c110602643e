"""irt-router: a monotone network over the query's relevant abilities, and how far each model exceeds their difficulty.

Paper: Song et al. 2025, IRT-Router (arXiv:2506.01048), its NIRT-Router. Of n knowledge components, a query's embedding
e gives the relevance r, the difficulties k = sigmoid(W_k e + c_k) in (0, 1)^n and one discrimination
a = 9 sigmoid(w_a . e + c_a); a model m has proficiencies t_m in (0, 1)^n. Then z = a (t_m - k) * r (elementwise) and
P(m is correct) = sigmoid(|W_2| drop(tanh(|W_1| z + c_1)) + c_2): weights act through their absolute value, so that more
proficiency never lowers a score. Fitted by binary cross-entropy over the observed (query, model) cells.

Relevance is what routes: were r the same for all queries, the difference of two models would to first order have the
same sign on every query. There it comes from a language model that marks the abilities which clusters of queries need;
here the components are the clusters themselves: `soft` is r_c = softmax_c(cos(e, centre_c) / .1), `onehot` marks the
nearest centre, and `learn` is softmax(V e).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rph import RouterCard, RouterSpec, VariantCard, hookimpl
from rph.lazy import torch
from rph.training.clusters import kmeans
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, bce_loss, chance, product, queries_of

if TYPE_CHECKING:
    from rph.training.heads import Draw, Forward, Parameters

    Relevance = Callable[
        [Parameters, torch.Tensor], torch.Tensor
    ]  # X [..., B, d] -> [..., B, n], rows of sum 1

CELLS = 512  # (query, model) cells of a minibatch
HIGHEST = 9  # discrimination
TEMPERATURE = 0.1  # of the softmax over cosines
HELD = 1 << 24  # numbers in the hidden layer held at once when not training: 64 MB


@dataclass(frozen=True)
class Config:
    relevance: Literal["soft", "onehot", "learn"] = "soft"
    components: int = 25  # n; fewer where there are fewer distinct queries to cluster
    hidden: int = 64
    learning_rate: float = 1e-3
    dropout: float = 0.5
    standardise: bool = False  # inputs of mean 0 and variance 1 on train, instead of rows of length 1


BASE = Config()
GRID = (
    *(
        Config(relevance, hidden=hidden, learning_rate=learning_rate)
        for relevance in ("soft", "learn")
        for hidden in (64, 256)
        for learning_rate in (1e-3, 3e-3)
    ),
    # A table of a number per component and model, which neither the width nor the learning rate changes.
    *(Config("onehot", components=components) for components in (25, 64)),
    *(Config(relevance, components=64, hidden=256, learning_rate=3e-3) for relevance in ("soft", "learn")),
    replace(BASE, components=64),
    replace(BASE, dropout=0.2),
    replace(BASE, standardise=True),
)


class IrtRouter(HeadRouter):
    double = True  # the softmax over cosines / .1 would show the rounding of another batch size

    @staticmethod
    def forward(variant: Config) -> Forward:
        return FORWARDS[variant.relevance]

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        X, validation = self.standardise(data) if variant.standardise else (data.X, data.validation)
        labels, seen = data.labels
        observed = seen.any(dim=0).cpu()
        relevance = {} if variant.relevance == "learn" else {"centres": centres(data, X, variant, seed)}
        return Head(
            parameters=initial(
                X.shape[1], observed, relevance, variant, chance(seed, "initial"), data.device
            ),
            forward=self.forward(variant),
            loss=bce_loss,
            X=X,
            targets=(labels, seen),
            val=validation,
            training=Training(
                learning_rate=variant.learning_rate,
                cosine=False,
                weight_decay=0.0,
                dropout=variant.dropout,
                batch=queries_of(CELLS, len(observed)),
                epochs=20,
                optimiser="adam",
            ),
            seed=seed,
            likelihood=True,
        )


def centres(data: Data, X: torch.Tensor, variant: Config, seed: int) -> torch.Tensor:
    """The directions [n, d] of k-means centres of the rows of X, as the head reads them, scaled to length 1.

    Heads that are fitted together cluster once.
    """

    def cluster() -> torch.Tensor:
        found = kmeans(directions(X), variant.components, generator=chance(seed, "clusters"))
        return directions(found.centres)

    key = "centres", variant.components, variant.standardise, seed
    return data.once(key, cluster).clone()  # parameters are used up


def directions(X: torch.Tensor) -> torch.Tensor:
    """X [..., d] with rows of length 1."""
    return torch.nn.functional.normalize(X, dim=-1)


def initial(
    inputs: int,
    seen: torch.Tensor,
    relevance: Parameters,
    variant: Config,
    generator: torch.Generator,
    device: str,
) -> Parameters:
    """Parameters of the original's start: weights Xavier-normal, biases uniform within 1 / sqrt(inputs of the layer).

    `relevance` holds the cluster centres, if any; `seen` [K] says which models were observed in train. `table` [K, n],
    the logits of t, is NaN where one was not.
    """
    K, h = len(seen), variant.hidden
    n = len(relevance["centres"]) if relevance else variant.components

    def layer(name: str, rows: int, columns: int) -> Parameters:
        weight = torch.randn((rows, columns), generator=generator) * (2 / (rows + columns)) ** 0.5
        bias = (torch.rand((1, columns), generator=generator) * 2 - 1) / rows**0.5
        return {f"weight_{name}": weight, f"bias_{name}": bias}

    table = torch.randn((K, n), generator=generator) * (2 / (K + n)) ** 0.5
    parameters = {
        "table": torch.where(seen[:, None], table, torch.nan),
        **layer("difficulty", inputs, n),
        **layer("discrimination", inputs, 1),
        **layer("1", n, h),
        **layer("2", h, 1),
        **(relevance or {"weight_relevance": layer("relevance", inputs, n)["weight_relevance"]}),
    }
    return {name: value.to(device) for name, value in parameters.items()}


def soft(parameters: Parameters, X: torch.Tensor) -> torch.Tensor:
    return torch.softmax(cosines(parameters, X) / TEMPERATURE, dim=-1)


def onehot(parameters: Parameters, X: torch.Tensor) -> torch.Tensor:
    to_centre = cosines(parameters, X)
    return torch.zeros_like(to_centre).scatter_(-1, to_centre.argmax(dim=-1, keepdim=True), 1.0)


def learn(parameters: Parameters, X: torch.Tensor) -> torch.Tensor:
    return torch.softmax(product(X, parameters["weight_relevance"]), dim=-1)


def cosines(parameters: Parameters, X: torch.Tensor) -> torch.Tensor:
    """X [..., B, d] -> cosines with the centres [..., B, n]. The centres are no weights: nothing trains them."""
    return product(directions(X), parameters["centres"].detach().mT)


def respond(parameters: Parameters, X: torch.Tensor, r: torch.Tensor, draw: Draw) -> torch.Tensor:
    """X [..., B, d] and relevance r [..., B, n] -> logits [..., B, K]."""
    k = torch.sigmoid(product(X, parameters["weight_difficulty"]) + parameters["bias_difficulty"])
    slope = product(X, parameters["weight_discrimination"]) + parameters["bias_discrimination"]
    weight = HIGHEST * torch.sigmoid(slope) * r  # [..., B, n]
    t = proficiencies(parameters["table"])
    rows = k.shape[-2]
    if not torch.is_grad_enabled():  # a minibatch is small
        rows = max(1, HELD // (t[..., 0].numel() * parameters["bias_1"].shape[-1]))
    parts = zip(torch.split(weight, rows, dim=-2), torch.split(k, rows, dim=-2), strict=True)
    return torch.cat([_network(parameters, w, t, part, draw) for w, part in parts], dim=-2)


def _network(
    parameters: Parameters, weight: torch.Tensor, t: torch.Tensor, k: torch.Tensor, draw: Draw
) -> torch.Tensor:
    """weight = a r and difficulties k [..., B, n], proficiencies t [..., K, n] -> logits [..., B, K]."""
    z = weight[..., :, None, :] * (t[..., None, :, :] - k[..., :, None, :])  # [..., B, K, n]
    B, K = z.shape[-3:-1]
    # One row per cell: [..., B * K, n]
    hidden = torch.tanh(z.flatten(-3, -2) @ parameters["weight_1"].abs() + parameters["bias_1"])
    logits = draw(hidden) @ parameters["weight_2"].abs() + parameters["bias_2"]
    return logits.view(*logits.shape[:-2], B, K)


def proficiencies(table: torch.Tensor) -> torch.Tensor:
    """table [..., K, n], NaN rows where never observed -> t [..., K, n]; those rows get the mean logits of the pool."""
    return torch.sigmoid(torch.where(table.isnan(), table.nanmean(dim=-2, keepdim=True), table))


def _forward(relevance: Relevance) -> Forward:
    def forward(parameters: Parameters, X: torch.Tensor, draw: Draw) -> torch.Tensor:
        return respond(parameters, X, relevance(parameters, X), draw)

    return forward


FORWARDS = {"soft": _forward(soft), "onehot": _forward(onehot), "learn": _forward(learn)}


def describe(variant: Config) -> VariantCard:
    own = variant.relevance == "soft" and not variant.standardise
    return VariantCard(
        original=own,
        why="relevance by a softmax" if own else "the relevance or the inputs' scale is ours",
    )


CARD = RouterCard(
    name="irt-router",
    title="Neural item response theory: relevance, difficulty and proficiency through a monotone network",
    paper="arXiv:2506.01048",
    year=2025,
    family="latent-factor",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    version=2,
    aliases=("irt_router",),
    fidelity=(
        "Components are k-means clusters of the training queries, not abilities that a language model marks.",
        "Relevance is a softmax of cosines, one-hot or learnt; the original takes a softmax of marks in {0, 1}.",
        "A new query's relevance comes from the centres, not from its 5 nearest training queries.",
        "A model's proficiencies are free parameters, not a linear map of an embedding of its description.",
        "Which of the paper's two routers the study calls irt_router is inferred.",
        "The hidden layer is 64 or 256 wide, not 512; its dropout is off when predicting, as the paper means it.",
        "The unused 25 x 25 layer of the original is left out.",
        "Inputs are rows of length 1, or standardised in one variant, which clusters the standardised inputs.",
        "A minibatch is 512 / K queries with all their observed models (16 to 512), not 512 single cells.",
        "At most 20 epochs, or 2,000 steps if that is more, with the checkpoint of the best val routing accuracy.",
        "64 components, the rate 0.003 and dropout .2 are ours; no warm-up.",
        "A model never observed has the mean proficiency logits of the pool.",
        "Costs are left to the harness's utility.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=IrtRouter, fit_many=stacked(IrtRouter), describe=describe)
