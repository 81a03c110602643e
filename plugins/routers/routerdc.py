"""routerdc: an embedding for each model, learned by two contrastive losses; a query goes to the closest one.

Paper: Chen et al. 2024, RouterDC (arXiv:2409.19886). With h = g(x) and e_k the embedding of model k,

    score_k(x) = z_k = cos(h, e_k) / T.

Loss of a query and its models: for each of K+ models that answered it correctly, against K- that did not,

    L1 = sum over i+ of -log[ exp z_i+ / (exp z_i+ + sum over i- of exp z_i-) ].

Loss of a query and other queries, which were clustered beforehand: against one query x+ of its own cluster in the
minibatch stand H queries x- of other clusters,

    L2 = -log[ exp s(x, x+) / (exp s(x, x+) + sum over x- of exp s(x, x-)) ],    s(x, x') = cos(g(x), g(x')) / T.

Minimised: mean L1 + lambda mean L2. The paper trains its encoder; on frozen embeddings g must be trainable, since
otherwise L2 has no gradient. With binary labels nearly all models tie, and a sort would always choose the same
few: positives are drawn at random among the correct models and negatives among the wrong, anew in each step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from rph import RouterCard, RouterSpec, VariantCard, hookimpl
from rph.lazy import torch
from rph.training.clusters import kmeans
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, Validation, chance, feed_forward, layers

if TYPE_CHECKING:
    from torch import Tensor

    from rph.training.heads import Batch, Draw, Forward, Parameters

OTHERS = 3  # H: queries of other clusters in L2
DEVIATION = 0.1  # of the initial model embeddings: no cosine sees their length, but shorter ones turn faster
LARGE = 50_000  # training queries beyond which batches are larger
NEVER = -1e9  # a similarity that adds nothing to a sum of exponentials


@dataclass(frozen=True)
class Config:
    hidden: int = 0  # width of g's hidden layer; 0: g is linear
    temperature: float = 0.2  # T
    learning_rate: float = 5e-4
    positives: int = 3  # K+; 0: all models that were correct
    negatives: int = 3  # K-; 0: all models that were wrong
    weight: float = 1.0  # lambda, of L2
    clusters: int = 8  # of training queries
    steps: int = 2000  # at least, where queries are few: embeddings start at random and move slowly


BASE = Config()
GRID = (
    BASE,
    Config(0, 0.2, 1e-3),
    *(Config(0, 0.07, rate) for rate in (5e-4, 1e-3)),
    *(Config(0, temperature, rate) for temperature, rate in ((0.1, 1e-3), (0.2, 3e-3))),
    *(Config(0, 1.0, rate) for rate in (5e-4, 1e-3)),
    *(Config(512, temperature, 5e-4) for temperature in (0.07, 0.2)),
    replace(BASE, positives=0, negatives=0),
    replace(BASE, positives=1, negatives=1),
    *(replace(BASE, weight=weight) for weight in (0.0, 0.2)),
    replace(BASE, clusters=32),
)


@dataclass(frozen=True, kw_only=True)
class Cosines(Validation):
    """Val routing accuracy of a head whose outputs begin with the cosines."""

    seen: Tensor  # [K] bool: the models with any train label

    def scores(self, outputs: Tensor) -> Tensor:
        return cosines(outputs, self.seen)


def cosines(outputs: Tensor, seen: Tensor) -> Tensor:
    """Outputs [..., B, K + d] -> [..., B, K]. A model without any train label has the lowest cosine there is."""
    return torch.where(seen, outputs[..., : len(seen)], -1.0)


class RouterDcRouter(HeadRouter):
    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        seen = self.buffers["seen"] = data.seen
        val = data.validation
        start = initial(data.X.shape[1], len(seen), variant, chance(seed, "initial"))
        return Head(
            parameters=start,
            forward=forward,
            loss=loss,
            X=data.X,
            targets=(*data.labels, _clusters(data, variant.clusters, seed)),
            val=Cosines(X=val.X, Y=val.Y, means=val.means, pool=val.pool, weight=val.weight, seen=seen),
            training=training(variant, len(data.X)),
            seed=seed,
            constants={
                "temperature": variant.temperature,
                "positives": variant.positives or inf,
                "negatives": variant.negatives or inf,
                "weight": variant.weight,
            },
        )

    def read(self, outputs: Tensor) -> Tensor:
        variant: Config = self.variant
        return cosines(outputs, self.buffers["seen"]) / variant.temperature


def _clusters(data: Data, clusters: int, seed: int) -> Tensor:
    """The cluster of each training query [N], found once for all heads that are fitted together."""

    def cluster() -> Tensor:
        generator = chance(seed, "clusters")
        return kmeans(data.X, clusters, generator=generator).assignment

    return data.once(("clusters", clusters, seed), cluster)


def training(variant: Config, queries: int) -> Training:
    return Training(
        learning_rate=variant.learning_rate,
        weight_decay=1e-2,
        cosine=False,
        batch=64 if queries <= LARGE else 256,
        epochs=20,
        steps=variant.steps,
    )


def initial(inputs: int, models: int, variant: Config, generator: torch.Generator) -> Parameters:
    """g, which starts as the identity, and the model embeddings [K, d]."""
    embeddings = torch.randn((models, inputs), generator=generator) * DEVIATION
    widths = (inputs, variant.hidden, inputs) if variant.hidden else (inputs, inputs)
    parameters = layers(widths, generator)
    parameters[f"weight{len(widths) - 2}"].zero_()
    return {**parameters, "models": embeddings}


def forward(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> [..., B, K + d]: cosines with the models, then g(x) at length 1.

    g(x) = x + f(x), where f is the network of `layers`.
    """
    mapped = torch.nn.functional.normalize(X + feed_forward(parameters, X, draw), dim=-1)
    models = torch.nn.functional.normalize(parameters["models"], dim=-1)
    return torch.cat([mapped @ models.mT, mapped], dim=-1)


def loss(outputs: Tensor, batch: Batch) -> Tensor:
    """L1 + lambda L2, each a mean over the minibatch; targets are labels, mask and clusters."""
    labels, mask, clusters = batch.targets
    constants = {name: value[..., None, None] for name, value in batch.constants.items()}
    B, K = labels.shape[-2:]
    similarity = outputs[..., :K] / constants["temperature"]
    mapped = outputs[..., K:]
    seen, right = mask > 0, labels > 0.5
    chances = batch.draw.uniform((B, K))  # right and wrong models are never the same: one draw serves both
    with_models = contrast(
        similarity,
        some(seen & right, chances, constants["positives"]),
        some(seen & ~right, chances, constants["negatives"]),
    )

    same = clusters[..., :, None] == clusters[..., None, :]  # [..., B, B]
    itself = torch.eye(B, dtype=torch.bool, device=same.device)
    chances = batch.draw.uniform((B, B))
    partner, others = some(same & ~itself, chances, 1), some(~same, chances, OTHERS)
    with_queries = contrast(mapped @ mapped.mT / constants["temperature"], partner, others)
    usable = (partner.any(dim=-1) & others.any(dim=-1)).sum(dim=-1)
    second = with_queries.sum(dim=-1) / usable.clamp(min=1)
    return with_models.mean(dim=-1) + batch.constants["weight"] * second


def some(candidates: Tensor, chances: Tensor, count: Tensor | int) -> Tensor:
    """`count` random candidates of each row, all where there are fewer: masks [..., B, n], uniform chances alike."""
    order = torch.where(candidates, chances, 2.0).argsort(dim=-1).argsort(dim=-1)  # 0: the first to be taken
    return candidates & (order < count)


def contrast(similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """[..., B, n] each -> [..., B], sum over positives i of -log[exp s_i / (exp s_i + sum over negatives exp s_j)].

    0 where a row has no positive or no negative.
    """
    against = torch.where(negatives, similarity, NEVER).logsumexp(dim=-1, keepdim=True)
    counted = positives & negatives.any(dim=-1, keepdim=True)
    return (torch.nn.functional.softplus(against - similarity) * counted).sum(dim=-1)


def describe(variant: Config) -> VariantCard:
    theirs = variant.weight == 1 and variant.hidden == 0
    why = (
        "both losses at weight 1" if theirs else ("the weight of the second loss or the hidden layer is ours")
    )
    return VariantCard(original=theirs, why=why)


CARD = RouterCard(
    name="routerdc",
    title="Query and model embeddings, learned by dual contrastive losses",
    paper="arXiv:2409.19886",
    year=2024,
    family="ranking",
    licence="MIT",
    deterministic=False,
    calibrated=False,
    version=2,
    aliases=("router_dc",),
    fidelity=(
        "The encoder is frozen: a map g on its embeddings is trained, linear or with one hidden layer of 512.",
        "g is the identity plus a network that starts at 0.",
        "Model embeddings start 0.1 in size; with the 0.78 of the authors' code they hardly turn on frozen embeddings.",
        "Positives and negatives are drawn at random among correct and wrong models; the original sorts by score.",
        "A graded label counts as correct above one half; the original weighs real-valued scores.",
        "Missing labels are neither positives nor negatives.",
        "A query that all observed models solve, or none, adds nothing to the first loss (mended in their code).",
        "Clusters are k-means on the frozen embeddings at length 1, without t-SNE.",
        "The positive of the second loss is never the query itself; a query without a partner adds nothing to it.",
        "Both losses are divided by the temperature; of the authors' two training scripts one does so, the other divides the first.",
        "Temperatures below 1, larger learning rates, all positives or one and 32 clusters are ours.",
        "Weights below 1 of the second loss are ours, as is its weight 0.",
        "Up to 20 epochs, or 2000 steps where that is more, best val routing accuracy; the original takes 1000 steps.",
        "Batches of 64 queries, of 256 where there are more than 50000.",
        "A model without any train label gets the lowest score there is, -1 / T.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD, grid=GRID, router=RouterDcRouter, fit_many=stacked(RouterDcRouter), describe=describe
    )
