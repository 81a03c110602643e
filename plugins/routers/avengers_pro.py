"""avengers-pro: each cluster stretches its models' accuracies to [0, 1]; a query adds up its nearest clusters.

Paper: Zhang et al. 2025, Avengers-Pro (arXiv:2508.12631). In cluster j model i scores
x_j^i = alpha * p~ + (1 - alpha) * (1 - q~), where p~ and q~ are its accuracy and its cost there, min-max
normalised over the models of that cluster. A query goes to the model with the largest sum of x_j^i over its p
nearest clusters; here the sum is divided by p. The variants `ranks` follow the released code instead: the
clusters are weighed by softmax(-9 d), d = 1 - x.c, and a model counts with 1 / (its place in the cluster).
Unlike theirs: see `fidelity` on the card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, UsageError, VariantCard, hookimpl
from rph.arrays import model_means, to_device
from rph.lazy import np, torch
from rph.training.clusters import Clustering, ClusterRouter, cluster_means, clustered
from rph.training.neighbours import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32

    Float64 = NDArray[np.float64]

SHARPNESS = {"scores": 0.0, "ranks": 9.0}  # of the softmax over the p nearest clusters; 0: all count the same


@dataclass(frozen=True)
class Config:
    clusters: int = 60  # k, at most; never more than one per 20 training queries
    top: int = 4  # p, the clusters that a query adds up; all of them where there are fewer
    scoring: Literal["scores", "ranks"] = "scores"  # the paper's, or the released code's
    alpha: float = 1.0  # weight of accuracy against cost; 1 leaves the trade-off to the harness's utility
    shrinkage: float = 5.0  # labels at the model's overall mean that each cluster counts besides its own


GRID = (
    Config(60, 4),
    *(Config(60, top) for top in (1, 2)),
    *(Config(clusters, top) for clusters in (30, 100, 200) for top in (1, 2, 4)),
    *(Config(clusters, 4, "ranks") for clusters in (60, 100, 200)),
)


# --- what a model scores in a cluster ---------------------------------------------------------------


def cluster_scores(accuracy: Float32, cost: Float32 | None, overall: Float32, variant: Config) -> Float32:
    """Accuracy and mean cost [C, K] in each cluster, overall accuracy [K] -> the table [C, K] that queries add up.

    `cost` may be None where alpha is 1. Ties in a ranking go to the higher overall accuracy; models equal in
    both share a place, the upper one.
    """
    table = stretched(accuracy)
    if cost is not None:
        table = variant.alpha * table + (1 - variant.alpha) * (1 - stretched(cost))
    if variant.scoring == "ranks":
        mine, other = table[:, :, None], table[:, None, :]
        ahead = (other > mine) | ((other == mine) & (overall[None, :] > overall[:, None]))  # [C, K, K]
        table = 1 / (1 + ahead.sum(axis=2))
    result: Float32 = table.astype(np.float32)
    return result


def stretched(values: Float32) -> Float64:
    """Each row of [C, K] mapped linearly onto [0, 1]; a row of equal values gives ones."""
    exact = values.astype(np.float64)
    low = exact.min(axis=1, keepdims=True)
    width = exact.max(axis=1, keepdims=True) - low
    result: Float64 = np.divide(exact - low, width, out=np.ones_like(exact), where=width > 0)
    return result


# --- the router -------------------------------------------------------------------------------------


class AvengersProRouter(ClusterRouter):
    variant: Config
    device: str
    centres: Float32  # [C, d]
    table: Float32  # [C, K]

    def learn(self, found: Clustering, known: Labelled, variant: Config, device: str) -> None:
        self.variant, self.device = variant, device
        self.centres = found.centres.cpu().numpy()
        clusters, cost = len(self.centres), None
        accuracy = cluster_means(known.Y, found.assignment, clusters, shrinkage=variant.shrinkage)
        if variant.alpha < 1:
            cost = cluster_means(_costs(known), found.assignment, clusters, shrinkage=0.0)
        self.table = cluster_scores(accuracy, cost, model_means(known.Y), variant)

    def scores(self, queries: Queries) -> Float32:
        """Scores [B, K] in [0, 1]: the rows of the table of each query's p nearest clusters, averaged."""
        scoring, top = self.variant.scoring, self.variant.top
        points, centres = queries.unit, self.centres
        if scoring == "scores":
            points, centres = _euclidean(points, centres)
        table = to_device(self.table, self.device).double()
        scores = np.empty((len(queries), self.table.shape[1]), np.float32)
        for block, clusters, closeness in nearest(points, centres, top, self.device):
            # In the order of the table, not of closeness: queries with the same clusters score exactly the same.
            clusters, order = clusters.sort(dim=1)
            weights = torch.softmax(SHARPNESS[scoring] * closeness.gather(1, order).double(), dim=1)  # [b, p]
            scores[block] = (weights[:, :, None] * table[clusters]).sum(dim=1).cpu().numpy()
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        return {"centres": self.centres, "table": self.table}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> AvengersProRouter:
        router = cls()
        router.variant, router.device = variant, device
        router.centres, router.table = state["centres"], state["table"]
        return router


def _euclidean(X: Float32, centres: Float32) -> tuple[Float32, Float32]:
    """One more column each, so that the largest product means the smallest distance: x.c - |c|^2 / 2."""
    offset = -np.square(centres, dtype=np.float64).sum(axis=1, keepdims=True) / 2
    ones = np.ones((len(X), 1), np.float32)
    return np.hstack([X, ones]), np.hstack([centres, offset.astype(np.float32)])


def _costs(known: Labelled) -> Float32:
    if known.C is None:
        raise UsageError(
            "avengers-pro: alpha below 1 weighs costs, and there are none",
            why="the benchmark has no costs",
            fix="use alpha=1, or a benchmark with costs",
        )
    return known.C


def describe(variant: Config) -> VariantCard:
    return VariantCard(
        original=True, why="the paper's sum" if variant.scoring == "scores" else "the released code's ranks"
    )


CARD = RouterCard(
    name="avengers-pro",
    title="Min-max normalised accuracies, summed over the query's nearest k-means clusters",
    paper="arXiv:2508.12631",
    year=2025,
    family="clusters",
    licence="MIT",
    deterministic=False,
    calibrated=False,
    aliases=("avengers_pro",),
    fidelity=(
        "Every variant has alpha = 1: costs enter through the harness's utility, not twice.",
        "The paper has k = 60 and p = 4; the other k and p are ours, chosen by val routing accuracy.",
        "K-means starts once, from greedy k-means++, not ten times: ten starts route no better.",
        "There is at most one cluster per 20 training queries.",
        "A model's accuracy in a cluster is shrunk towards its overall one (5 labels' worth).",
        "A model without a label in a cluster has its overall accuracy there, where the released code gives 0.",
        "A model never observed gets the pool's mean.",
        "In a cluster where all models are equal each of them gets 1.",
        "Scores are divided by p, which changes no route.",
        "Scores are not P(correct): utility and BCE use one shared monotone map, fitted by the harness.",
        "The variants `ranks` follow the released code (softmax over clusters, reciprocal ranks), not the paper.",
        "Ties in their rankings go to the higher overall accuracy, where the released code takes the file's order.",
        "With alpha below 1 they too min-max normalise costs, which the released code divides by the largest.",
        "The embeddings are the harness's encoders, scaled to length 1, not Qwen3-Embedding-8B.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD,
        grid=GRID,
        router=AvengersProRouter,
        fit_many=clustered(AvengersProRouter),
        describe=describe,
    )
