"""zooter: distils the normalised rewards of a query, smoothed over its tags, into a network on the embedding.

Paper: Lu et al. 2023, Zooter (arXiv:2311.08692, NAACL 2024); `zooter_lite` in the study of the routing plateau.
Like theirs: a query's rewards become a distribution over the models, s(q) = softmax_m(r_m(q) / tau); a tag's is
the mean over its queries, s_t; the target mixes the two,

    s*(q) = beta s(q) + (1 - beta) mean over t in T(q) of s_t,

and the router's distribution is trained by KL(s* || softmax(z(q))). Unlike theirs: the reward is the label, tags
are k-means clusters of train embeddings, and w_b times the binary cross-entropy of sigmoid(z) is added, which
fixes the level that KL leaves open. The score of a model is sigmoid(z), or softmax(z) where w_b = 0: see
`fidelity` on the card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rph import RouterCard, RouterSpec, VariantCard, hookimpl
from rph.lazy import np, torch
from rph.training.clusters import kmeans
from rph.training.headrouter import Data, HeadRouter, stacked
from rph.training.heads import Head, Training, chance, feed_forward, layers, level, masked_bce

if TYPE_CHECKING:
    from rph.api import Float32
    from rph.training.heads import Batch, Draw, Forward, Parameters

    Tensor = torch.Tensor

ROWS_PER_TAG = 20  # a tag of fewer queries on average smooths little
ROWS = 8192  # queries whose tags are found at once
ABSENT = -1e9  # logit of a model that was not observed: out of the softmax, and finite


@dataclass(frozen=True)
class Config:
    beta: float = 0.3  # weight of the query's own rewards in its target; the rest is its tags'
    temperature: float = 0.1  # tau of the softmax over labels
    bce_weight: float = 1.0  # w_b; 0: distillation alone, scores that only rank
    tags: int = 60  # at most; never more than one per ROWS_PER_TAG training queries
    per_query: int = 1  # tags of a query: its nearest clusters
    hidden: tuple[int, ...] = (512, 256)  # widths; () is a linear head


BASE = Config()
GRID = (
    *(replace(BASE, beta=beta) for beta in (0.3, 0.0, 0.5, 1.0)),
    *(replace(BASE, temperature=tau) for tau in (1.0, 0.3, 0.05)),
    *(replace(BASE, bce_weight=weight) for weight in (0.0, 0.3, 3.0)),
    *(replace(BASE, tags=tags) for tags in (20, 150)),
    replace(BASE, per_query=3),
    *(replace(BASE, hidden=hidden) for hidden in ((), (1024, 512))),
)


# --- targets ----------------------------------------------------------------------------------------


def own_targets(Y: Float32, temperature: float) -> Tensor:
    """Y [N, K] labels, NaN = not observed -> s [N, K] float64: softmax of Y / tau over the observed models, else 0.

    Every row must have a label.
    """
    return torch.from_numpy(Y.astype(np.float64) / temperature).nan_to_num_(nan=-torch.inf).softmax(dim=1)


def smoothed_targets(Y: Float32, tags: Tensor, *, beta: float, temperature: float) -> Tensor:
    """Y [N, K] labels, tags [N, t] -> s* [N, K] float32: rows sum to 1 over the observed models and are 0 elsewhere.

    s_t of a model is its mean s over those queries of the tag on which it was observed. A query's mean over its
    tags is restricted to its own observed models, made to sum to 1 again, and only then mixed with its own s.
    """
    own = own_targets(Y, temperature)
    seen = torch.from_numpy(~np.isnan(Y)).double()
    sums = torch.zeros(int(tags.max()) + 1, Y.shape[1], dtype=torch.float64)
    counts = torch.zeros_like(sums)
    for tag in tags.T:
        sums.index_add_(0, tag, own)
        counts.index_add_(0, tag, seen)
    table = sums / counts.clamp(min=1)  # [T, K]
    shared = torch.zeros_like(own)
    for tag in tags.T:
        shared += table[tag]
    shared *= seen
    shared /= shared.sum(dim=1, keepdim=True)
    return (beta * own + (1 - beta) * shared).float()


def nearest_tags(X: Tensor, centres: Tensor, t: int) -> Tensor:
    """X [N, d], centres [C, d] -> [N, min(t, C)] places of the nearest centres."""
    # |x - c|^2 is smallest where x.c - |c|^2 / 2 is largest.
    offset = -centres.square().sum(dim=1) / 2  # [C]
    t = min(t, len(centres))
    return torch.cat([torch.addmm(offset, rows, centres.T).topk(t).indices for rows in torch.split(X, ROWS)])


def targets_of(data: Data, variant: Config, seed: int) -> Tensor:
    """s* [N, K] of the train queries, on the device: tags are clustered anew for each seed."""
    clusters = min(variant.tags, max(1, len(data.X) // ROWS_PER_TAG))

    def cluster() -> Tensor:
        return kmeans(data.X, clusters, generator=chance(seed, "tags")).centres

    def smooth() -> Tensor:
        centres = data.once(("tags", clusters, seed), cluster)
        tags = nearest_tags(data.X, centres, variant.per_query).cpu()
        return smoothed_targets(data.train.Y, tags, beta=variant.beta, temperature=variant.temperature).to(
            data.device
        )

    key = "targets", clusters, seed, variant.per_query, variant.beta, variant.temperature
    return data.once(key, smooth)


# --- the head ---------------------------------------------------------------------------------------


def masked_kl(z: Tensor, target: Tensor, M: Tensor) -> Tensor:
    """Logits z [..., B, K], s* and mask M [..., B, K] -> [...]: KL(s* || softmax of z over the observed models).

    Its mean over the queries on which two models or more were observed; with one there is nothing to tell.
    """
    log_p = z.masked_fill(M == 0, ABSENT).log_softmax(dim=-1)
    divergence = (torch.xlogy(target, target) - target * log_p).sum(dim=-1)  # [..., B]
    several = (M.sum(dim=-1) > 1).to(divergence.dtype)
    return (divergence * several).sum(dim=-1) / several.sum(dim=-1).clamp(min=1)


def distillation(outputs: Tensor, batch: Batch) -> Tensor:
    """KL + w_b * BCE of logits [..., B, K]; the targets are labels, mask and s*."""
    Y, M, target = batch.targets
    return masked_kl(outputs, target, M) + batch.constants["bce_weight"] * masked_bce(outputs, Y, M)


def forward(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> logits [..., B, K]."""
    return feed_forward(parameters, X, draw)


def initial(
    inputs: int, means: Float32, hidden: tuple[int, ...], generator: torch.Generator, device: str
) -> Parameters:
    """The network before training. Its outputs are logit(p_m), where those of a model never observed stay."""
    parameters = layers((inputs, *hidden, len(means)), generator, start=level(means))
    return {name: value.to(device) for name, value in parameters.items()}


class ZooterRouter(HeadRouter):
    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        return Head(
            parameters=initial(
                data.X.shape[1], data.means, variant.hidden, chance(seed, "initial"), data.device
            ),
            forward=forward,
            loss=distillation,
            X=data.X,
            targets=(*data.labels, targets_of(data, variant, seed)),
            val=data.validation,
            training=Training(learning_rate=1e-3, weight_decay=1e-4, dropout=0.1, batch=256, epochs=50),
            seed=seed,
            constants={"bce_weight": variant.bce_weight},
            likelihood=variant.bce_weight > 0,
        )

    def read(self, outputs: Tensor) -> Tensor:
        """Logits [N, K] -> sigmoid(z), estimates of P(correct); without BCE softmax(z): rows sum to 1, ranks only."""
        return torch.sigmoid(outputs) if self.variant.bce_weight > 0 else outputs.softmax(dim=-1)


def describe(variant: Config) -> VariantCard:
    pure = variant.bce_weight == 0
    return VariantCard(
        original=pure,
        why="distillation alone" if pure else "cross-entropy is added, which makes scores probabilities",
        calibrated=not pure,
    )


CARD = RouterCard(
    name="zooter",
    title="Network distilled from labels smoothed over clusters of queries",
    paper="arXiv:2311.08692",
    year=2023,
    family="distillation",
    licence="MIT",
    deterministic=False,
    calibrated=False,
    version=2,
    aliases=("zooter_lite",),
    fidelity=(
        "The reward is the label, divided by a temperature: there is no reward model.",
        "A query's tags are its nearest k-means clusters among the train embeddings, not InsTag's tags.",
        "There is at most one tag per 20 training queries, and tags are clustered anew for each seed.",
        "Binary cross-entropy is added to KL (one variant leaves it out), as the study of the plateau does.",
        "The direction is KL(target || router), that of distillation; the paper prints KLD(router, target).",
        "Scores are sigmoid(z), P(correct), in 14 variants; without cross-entropy softmax(z), which only ranks.",
        "Utility and BCE read that one through a shared monotone map, the others as they are.",
        "Softmax and the tags' means run over the models observed.",
        "A query with one label counts in the cross-entropy only.",
        "A frozen encoder and a network on its embedding, not a fine-tuned mDeBERTa-v3-base.",
        "AdamW at 1e-3 with a cosine learning rate, at most 50 epochs or, if that is more, 2,000 steps, the checkpoint of best val routing accuracy.",
        "A model never observed stays at the pool's mean level; without cross-entropy the softmax moves it.",
    ),
    expected_failures=(
        (
            "calibrated-probabilities",
            "the divergence moves a model's level by its share among the others: a mean score is .022 off",
        ),
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD, grid=GRID, router=ZooterRouter, fit_many=stacked(ZooterRouter), describe=describe
    )
