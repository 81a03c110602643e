"""model-spider: a token for each model attends to the query's token; what it becomes is scored, by a ranking loss.

Paper: Zhang et al. 2023, Model Spider (arXiv:2306.03900), which ranks pre-trained vision models for a task. Here a
query is the task. For model m with token theta_m and task tokens z = W_u x, the sequence [theta_m; z] goes
through one block of self-attention, read at the model's place:

    a = softmax(q_m . [k_m; k_z] / sqrt h),    t_m = LN(theta_m + W_o (a_0 v_m + sum over n of a_n v_zn) + b),

    score_m(x) = w . LN(t_m).

All models share every weight but their token. Trained so that the better model ranks higher. The original's loss
is that of Plackett and Luce on a strict ranking; binary labels tie, so each model stands against the worse only:

    L = mean over i of log(1 + sum over j with y_j < y_i of exp(s_j - s_i)),

over the models i that any model is worse than, and the queries that have such a model. On a strict ranking of K
models it is the Plackett-Luce negative log-likelihood over K - 1. `listnet`: cross-entropy of softmax(s) to
softmax(y), over the observed models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Literal

from rph import Queries, RouterCard, RouterSpec, VariantCard, hookimpl
from rph.arrays import to_device
from rph.lazy import torch
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, Validation, chance, observed, outputs_of, product
from rph.training.neighbours import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from rph.api import Float32
    from rph.training.heads import Batch, Draw, Forward, Parameters

DROPOUT = 0.1  # of the attention weights and of the block's output
NEVER = -1e9  # a score that adds nothing to a sum of exponentials
FEW = 10_000  # training queries up to which batches of 256 would be too few steps
NUMBERS = 1 << 24  # of model tokens held at once when not training: 64 MB
ROWS = 1024  # bags scored at once


@dataclass(frozen=True)
class Config:
    width: int = 128  # h
    loss: Literal["tie-pl", "listnet"] = "tie-pl"
    learning_rate: float = 2.5e-4
    tokens: int = 1  # task tokens of a query
    heads: int = 1  # of the attention, each as wide as the tokens
    bag: int = 1  # queries in a task: the query and its nearest training queries


BASE = Config()
GRID = (
    BASE,
    Config(128, "tie-pl", 1e-3),
    *(Config(128, "listnet", rate) for rate in (2.5e-4, 1e-3)),
    *(
        Config(width, loss, rate)
        for width in (64, 256)
        for loss in ("tie-pl", "listnet")
        for rate in (2.5e-4, 1e-3)
    ),
    replace(BASE, tokens=4),
    replace(BASE, heads=4),
    replace(BASE, bag=16),
)


@dataclass(frozen=True, kw_only=True)
class Ranking(Validation):
    """Val routing accuracy, where a model without any train label ranks last."""

    seen: Tensor  # [K] bool: the models with any train label

    def scores(self, outputs: Tensor) -> Tensor:
        return unseen_last(outputs, self.seen)


def unseen_last(scores: Tensor, seen: Tensor) -> Tensor:
    """Scores [..., N, K], those of the models without any train label one below the lowest of the others."""
    lowest = torch.where(seen, scores, torch.inf).amin(dim=-1, keepdim=True)
    return torch.where(seen, scores, lowest - 1)


class ModelSpiderRouter(HeadRouter):
    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward_bags if variant.bag > 1 else forward

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        seen = self.buffers["seen"] = data.seen
        X, targets, val = data.X, data.labels, data.validation
        run: Forward = forward
        if variant.bag > 1:
            self.buffers["train"] = data.X
            bags = data.once(("bags", variant.bag), lambda: Bags(data, variant.bag))
            X, targets, run = bags.train, bags.labels, bags.forward
            val = replace(val, X=bags.val)
        start = initial(data.X.shape[1], len(seen), variant, chance(seed, "initial"))
        return Head(
            parameters=start,
            forward=run,
            loss=LOSSES[variant.loss],
            X=X,
            targets=targets,
            val=Ranking(X=val.X, Y=val.Y, means=val.means, pool=val.pool, weight=val.weight, seen=seen),
            training=Training(
                learning_rate=variant.learning_rate,
                weight_decay=0.0,
                dropout=DROPOUT,
                optimiser="adam",
                batch=256 if len(X) > FEW else 64,
                epochs=30,
            ),
            seed=seed,
        )

    def read(self, outputs: Tensor) -> Tensor:
        return unseen_last(outputs, self.buffers["seen"])

    def scores(self, queries: Queries) -> Float32:
        variant: Config = self.variant
        if variant.bag == 1:
            return super().scores(queries)
        train = self.buffers["train"]
        X = to_device(queries.unit, self.device)
        near = neighbours(queries.unit, train, variant.bag - 1, self.device)
        parts = []
        for x, rows in zip(torch.split(X, ROWS), torch.split(near, ROWS), strict=True):
            bags = torch.cat([x[:, None], train[rows]], dim=1)
            parts.append(self.read(outputs_of(forward_bags, self.parameters, bags)))
        result: Float32 = torch.cat(parts).cpu().numpy()
        return result


# --- the network ------------------------------------------------------------------------------------


def initial(inputs: int, models: int, variant: Config, generator: torch.Generator) -> Parameters:
    """Starting values with the deviations of the authors' code; `models` [K, h] are the models' tokens."""
    h, heads = variant.width, variant.heads

    def normal(shape: tuple[int, ...], deviation: float) -> Tensor:
        return torch.randn(shape, generator=generator) * deviation

    def uniform(shape: tuple[int, ...], bound: float) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * bound

    return {
        "models": normal((models, h), 1.0),
        "weight_task": uniform((inputs, variant.tokens * h), 1 / sqrt(inputs)),
        "bias_task": uniform((1, variant.tokens * h), 1 / sqrt(inputs)),
        "weight_query": normal((h, heads * h), 1 / sqrt(h)),
        "weight_key": normal((h, heads * h), 1 / sqrt(h)),
        "weight_value": normal((h, heads * h), 1 / sqrt(h)),
        "weight_out": normal((heads, h, h), sqrt(2 / (heads * h + h))),
        "bias_out": uniform((1, h), 1 / sqrt(heads * h)),
        "gain_block": torch.ones(1, h),
        "bias_block": torch.zeros(1, h),
        "gain_score": torch.ones(1, h),
        "weight_score": uniform((1, h), 1 / sqrt(h)),
    }


def forward(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> scores [..., B, K]."""
    return forward_bags(parameters, X[..., None, :], draw)


def forward_bags(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, b, d], b queries to a task -> scores [..., B, K]."""
    rows = len(X)
    if (
        draw.rates is None
    ):  # not training: a part at a time, since every query and model has a token of its own
        rows = max(1, NUMBERS // parameters["models"].numel())
    return torch.cat([_fitness(parameters, part, draw) for part in torch.split(X, rows)], dim=-2)


def _fitness(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    models, out = parameters["models"], parameters["weight_out"]
    B, d = X.shape[-3], X.shape[-1]
    heads, h = out.shape[-3:-1]
    # At length sqrt d: numbers of order one, as in the original's features.
    tasks = product(X.flatten(-3, -2) * sqrt(d), parameters["weight_task"]) + parameters["bias_task"]
    tasks = tasks.reshape(*tasks.shape[:-2], -1, h)  # [..., B * n, h], n tokens to a task

    def split(tokens: Tensor, name: str) -> Tensor:  # [..., t, h] -> [..., t, heads, h]
        flat = tokens @ parameters[f"weight_{name}"]
        return flat.view(*flat.shape[:-1], heads, h)

    def by_task(tokens: Tensor) -> Tensor:  # [..., B * n, heads, h] -> [..., B, n, heads, h]
        return tokens.reshape(*tokens.shape[:-3], B, -1, heads, h)

    def values(tokens: Tensor) -> Tensor:  # what a token adds to the block's output, [..., t, heads, h]
        return torch.einsum("...tav,...avh->...tah", split(tokens, "value"), out)

    query = split(models, "query") / sqrt(h)  # [..., K, heads, h]
    own = (query * split(models, "key")).sum(dim=-1)  # [..., K, heads]
    others = torch.einsum("...kah,...bnah->...bkan", query, by_task(split(tasks, "key")))
    logits = torch.cat([own[..., None, :, :, None].expand_as(others[..., :1]), others], dim=-1)
    attention = draw(logits.softmax(dim=-1))  # [..., B, K, heads, 1 + n]
    mixed = torch.einsum("...bka,...kah->...bkh", attention[..., 0], values(models)) + torch.einsum(
        "...bkan,...bnah->...bkh", attention[..., 1:], by_task(values(tasks))
    )
    block = models[..., None, :, :] + draw(mixed + parameters["bias_out"][..., None, :, :])
    token = (
        _norm(block) * parameters["gain_block"][..., None, :, :] + parameters["bias_block"][..., None, :, :]
    )
    # No bias from here on: it would be the same for all models, the losses could not tell, and Adam would have
    # it wander with the rounding of a gradient that is 0.
    weight = parameters["gain_score"] * parameters["weight_score"]  # [..., 1, h]
    return torch.einsum("...bkh,...h->...bk", _norm(token), weight[..., 0, :])


def _norm(tokens: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])


# --- the losses -------------------------------------------------------------------------------------


def tie_aware_plackett_luce(outputs: Tensor, batch: Batch) -> Tensor:
    """Scores [..., B, K] against labels and mask -> [...], see the top of this file."""
    labels, mask = batch.targets
    seen = mask > 0
    worse = labels[..., None, :] < labels[..., :, None]  # [..., B, i, j]: j is worse than i
    worse = worse & seen[..., None, :] & seen[..., :, None]
    against = torch.where(worse, outputs[..., None, :], NEVER).logsumexp(dim=-1)  # [..., B, K]
    ranked = worse.any(dim=-1)
    each = torch.nn.functional.softplus(against - outputs) * ranked
    count = ranked.sum(dim=-1)  # [..., B]
    return (each.sum(dim=-1) / count.clamp(min=1)).sum(dim=-1) / (count > 0).sum(dim=-1).clamp(min=1)


def listnet(outputs: Tensor, batch: Batch) -> Tensor:
    """Scores [..., B, K] against labels and mask -> [...], over the queries with two observed models or more."""
    labels, mask = batch.targets
    seen = mask > 0
    target = torch.where(seen, labels, NEVER).softmax(dim=-1)
    chosen = torch.where(seen, outputs, NEVER).log_softmax(dim=-1)
    several = seen.sum(dim=-1) > 1  # [..., B]
    each = -(target * chosen).sum(dim=-1) * several
    return each.sum(dim=-1) / several.sum(dim=-1).clamp(min=1)


LOSSES = {"tie-pl": tie_aware_plackett_luce, "listnet": listnet}


# --- tasks of several queries -----------------------------------------------------------------------


class Bags:
    """Tasks of b queries: each one of train or val and its nearest training queries, as rows of one table."""

    def __init__(self, data: Data, size: int) -> None:
        X = data.X
        near = neighbours(data.train.unit, X, size, data.device)
        itself = torch.arange(len(X), device=X.device)[:, None]
        # The query itself is among its nearest, unless as many others are equal to it; it goes to the front.
        others = (near != itself).long().argsort(dim=1, descending=True, stable=True)[:, : near.shape[1] - 1]
        self.train = torch.cat([itself, near.gather(1, others)], dim=1)  # [N, b]
        near = neighbours(data.val.unit, X, size - 1, data.device)
        places = len(X) + torch.arange(len(data.val), device=X.device)[:, None]
        self.val = torch.cat([places, near], dim=1)  # [V, b]
        self.table = torch.cat([X, data.validation.X])  # [N + V, d]
        self.labels = self._means(*data.labels)

    def _means(self, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The mean observed label of each model in each training task [N, K], and where there is one."""
        parts = []
        for rows in torch.split(self.train, ROWS):
            count = mask[rows].sum(dim=1)
            parts.append(torch.where(count > 0, (labels * mask)[rows].sum(dim=1) / count, torch.nan))
        return observed(torch.cat(parts).cpu().numpy(), str(labels.device))

    def forward(self, parameters: Parameters, rows: Tensor, draw: Draw) -> Tensor:
        """As `forward_bags`, with the places [..., B, b] of the queries in the table."""
        if draw.rates is None:
            parts = [forward_bags(parameters, self.table[part], draw) for part in torch.split(rows, ROWS)]
            return torch.cat(parts, dim=-2)
        return forward_bags(parameters, self.table[rows], draw)


def neighbours(unit: Float32, train: Tensor, k: int, device: str) -> Tensor:
    """unit [N, d] -> rows of the k nearest in train, [N, min(k, len(train))]."""
    found = [rows for _, rows, _ in nearest(unit, train.cpu().numpy(), k, device)]
    empty = torch.zeros((0, min(k, len(train))), dtype=torch.long, device=device)
    return torch.cat([empty, *found])


def describe(variant: Config) -> VariantCard:
    own = variant.loss == "tie-pl" and variant.tokens == 1 and variant.heads == 1
    return VariantCard(
        original=own,
        why="one head of attention and the Plackett-Luce loss"
        if own
        else "the loss, tokens or heads are a choice of ours",
    )


CARD = RouterCard(
    name="model-spider",
    title="Attention between a model's token and the query's, trained to rank the models",
    paper="arXiv:2306.03900",
    year=2023,
    family="ranking",
    licence="MIT",
    deterministic=False,
    calibrated=False,
    version=2,
    needs=("labels", "train-neighbours"),
    aliases=("model_spider",),
    fidelity=(
        "The original ranks vision models for a data set; here a query is the task, with one token.",
        "The re-ranking by features of the models themselves is left out: it would have to run the models.",
        "Binary labels tie: each model stands against the worse ones only. On a strict ranking the loss is theirs.",
        "Queries on which all observed models tie are left out of the loss and of its mean; ListNet makes them even.",
        "A missing label takes no part in the ranking.",
        "Tokens are 64, 128 or 256 wide, not 1024.",
        "ListNet as a loss, four task tokens and four heads are variants; up to 30 epochs in batches of 256 (64 up to 10000 queries).",
        "The bag variant's task is the query and its 15 nearest training queries, its labels their mean labels.",
        "The learning rate falls to 0 along a cosine, not to 5e-6; the best val routing accuracy is kept.",
        "The last normalisation and the score have no bias, which no ranking can tell.",
        "Embeddings are scaled to length sqrt(d).",
        "A model without any train label ranks last: one below the lowest score of the others.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD, grid=GRID, router=ModelSpiderRouter, fit_many=stacked(ModelSpiderRouter), describe=describe
    )
