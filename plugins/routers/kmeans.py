"""kmeans: a model's score is its mean label on the training queries of the query's cluster.

Paper: Jitkrittum et al. 2025, UniRoute (arXiv:2502.08773), its k-means form: one minus a model's error rate in
the cluster. Like theirs: Euclidean k-means on the query embeddings, no labels; one cluster per query. Unlike
theirs: see `fidelity` on the card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rph import Labelled, Queries, RouterCard, RouterSpec, VariantCard, hookimpl
from rph.arrays import to_device
from rph.lazy import torch
from rph.training.clusters import Clustering, ClusterRouter, cluster_means, clustered, nearest_centre

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32


@dataclass(frozen=True)
class Config:
    clusters: int = 100  # at most; never more than one per 20 training queries
    shrinkage: float = 5.0  # labels at the model's overall mean that each cluster counts besides its own


GRID = (
    *(Config(clusters) for clusters in (100, 5, 7, 10, 15, 20, 30, 50, 75, 150)),
    # Of complete labels two models differ by one at least, which no shrinkage of a few labels turns round.
    *(Config(clusters, shrinkage=50.0) for clusters in (20, 50, 75, 100, 300)),
)


class KMeansRouter(ClusterRouter):
    centres: torch.Tensor  # [C, d]
    means: torch.Tensor  # [C, K]

    def learn(self, found: Clustering, known: Labelled, variant: Config, device: str) -> None:
        means = cluster_means(known.Y, found.assignment, len(found.centres), shrinkage=variant.shrinkage)
        self.centres = found.centres
        self.means = torch.from_numpy(means).to(found.centres.device)

    def scores(self, queries: Queries) -> Float32:
        X = to_device(queries.unit, str(self.centres.device))
        result: Float32 = self.means[nearest_centre(X, self.centres)].cpu().numpy()
        return result

    def state(self) -> dict[str, NDArray[Any]]:
        return {"centres": self.centres.cpu().numpy(), "means": self.means.cpu().numpy()}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> KMeansRouter:
        router = cls()
        router.centres = torch.tensor(state["centres"], device=device)
        router.means = torch.tensor(state["means"], device=device)
        return router


def describe(variant: Config) -> VariantCard:
    """A shrinkage of 5 labels moves no route where labels are complete; one of 50 does."""
    own = variant.shrinkage == Config.shrinkage
    why = (
        "a cluster's mean label decides" if own else "a cluster's mean is shrunk far towards the overall one"
    )
    return VariantCard(original=own, why=why)


CARD = RouterCard(
    name="kmeans",
    title="Mean label in the query's k-means cluster",
    paper="arXiv:2502.08773",
    year=2025,
    family="clusters",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    fidelity=(
        "Error rates are estimated on the train split, not on a labelled set of their own: val chooses the variant.",
        "The number of clusters is one of a grid of ours, by val routing accuracy; the paper's list is not known.",
        "A model's mean in a cluster is shrunk towards its overall mean (5 labels' worth; 50 in 5 variants).",
        "A cluster in which a model has no label gives the model's overall mean, or the pool's where it was never observed.",
        "There is at most one cluster per 20 training queries: on small benchmarks several variants are one.",
        "K-means starts once, by k-means++, not ten times.",
        "Queries are embedded by the encoder of the cell, scaled to length 1, not by Gecko.",
        "The learned assignment of queries to clusters (LearnedMap) is not part of this router.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(
        card=CARD, grid=GRID, router=KMeansRouter, fit_many=clustered(KMeansRouter), describe=describe
    )
