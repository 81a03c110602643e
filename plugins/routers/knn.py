"""kNN: a model's score is its mean label on the training queries most similar to this one.

Paper: Hu et al. 2024, RouterBench (arXiv:2403.12031); studied alone by Li 2025 (arXiv:2505.12601). Like
theirs: cosine similarity, mean over k. Unlike theirs: a label may be missing, so each model's mean runs over
the neighbours that have one. This is not the vote over each neighbour's best model that some call kNN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, Trial, VariantCard, hookimpl
from rph.arrays import model_means, to_device
from rph.lazy import np, torch
from rph.training.neighbours import nearest, nearest_others

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rph.api import Float32

TEMPERATURE = 0.05  # of the softmax over cosines
GATHERED = 1 << 21  # neighbour labels gathered at once: bounds memory at 16 MiB


@dataclass(frozen=True)
class Config:
    k: int = 100  # neighbours; all of them where there are fewer
    weights: Literal["uniform", "softmax"] = "uniform"  # softmax: of cosine / 0.05, over the k neighbours


GRID = (
    *(Config(k) for k in (100, 10, 20, 40, 80, 131, 200, 256, 320, 400, 512, 1000)),
    *(Config(k, "softmax") for k in (100, 200, 400)),
)


@dataclass(frozen=True)
class KnnGroup:
    """Variants of kNN that share one search for their largest k.

    With binary labels and uniform weights the scores are those of fitting one by one, bit for bit: sums of
    zeros and ones are exact in any order. Otherwise they agree within 1e-7, one float32 rounding.
    """

    X: Float32  # [N, d] unit rows
    Y: Float32  # [N, K] labels, NaN = not observed
    variants: Sequence[Config]
    device: str

    def scores(self, queries: Queries) -> list[Float32]:
        """One array [B, K] per variant: s_m = sum_j w_j M_jm Y_jm / sum_j w_j M_jm over the k nearest j.

        RouterBench's KNN router, without pseudo-counts. Where no neighbour observed m, its level on train.
        """
        largest = max(variant.k for variant in self.variants)
        return self._scored(nearest(queries.unit, self.X, largest, self.device), len(queries))

    def left_out_scores(self) -> list[Float32]:
        """As `scores` of the training queries [N, K], each without itself among its neighbours."""
        largest = max(variant.k for variant in self.variants)
        return self._scored(nearest_others(self.X, largest, self.device), len(self.X))

    @cached_property
    def _labels(self) -> tuple[Tensor, Tensor, Tensor]:
        """The label table, its weight columns and the levels: kept, as a query alone costs less than they do."""
        return *_label_table(self.Y, self.device), to_device(model_means(self.Y), self.device)

    def _scored(self, found: Iterable[tuple[slice, Tensor, Tensor]], count: int) -> list[Float32]:
        """Scores of `count` queries from each block's neighbours and cosines [b, k]."""
        K = self.Y.shape[1]
        table, weight_column, fallback = self._labels
        scores = np.empty((len(self.variants), count, K), np.float32)
        for block, neighbours, cosines in found:
            rows = max(1, GATHERED // max(1, neighbours.shape[1] * table.shape[1]))
            done = block.start
            parts = zip(torch.split(neighbours, rows), torch.split(cosines, rows), strict=True)
            for near, cosine in parts:
                # [b, V, k] @ [b, k, columns]: the label sums and the weights' sums of every variant at once
                sums = torch.bmm(_weights(cosine, self.variants), table[near])
                weight = sums[..., weight_column]
                mean = torch.where(weight > 0, sums[..., :K] / weight, fallback)  # [b, V, K]
                scores[:, done : done + len(near)] = mean.transpose(0, 1).cpu().numpy()
                done += len(near)
        return list(scores)


def _label_table(Y: Float32, device: str) -> tuple[Tensor, Tensor]:
    """What is summed over neighbours, [N, columns], and for each model the column that sums its weights, [K].

    Columns: the K labels, 0 where missing; one of ones, for the models observed everywhere; and for each
    other model 1 where it was observed. So a complete table is one column wider than its labels, not K.

    In float64, like the weights: the order in which a product sums depends on its shape, so on the batch and
    on the other variants; rounded to float32 afterwards, the scores do not.
    """
    seen = ~np.isnan(Y)
    gaps = np.flatnonzero(~seen.all(axis=0))  # models with a missing label
    N, K = Y.shape
    table = np.empty((N, K + 1 + len(gaps)))
    table[:, :K] = np.where(seen, Y, 0)
    table[:, K] = 1
    table[:, K + 1 :] = seen[:, gaps]
    weight_column = np.full(K, K)
    weight_column[gaps] = K + 1 + np.arange(len(gaps))
    return to_device(table, device), to_device(weight_column, device)


def _weights(cosines: Tensor, variants: Sequence[Config]) -> Tensor:
    """What each neighbour weighs in each variant, [b, V, k], from cosines [b, k], nearest first."""
    place = torch.arange(cosines.shape[1], device=cosines.device)
    k = torch.tensor([v.k for v in variants], device=cosines.device)
    softmax = torch.tensor([v.weights == "softmax" for v in variants], device=cosines.device)
    within = (place < k[:, None]).double()  # [V, k]: the first k neighbours
    # Softmax up to its normaliser, which the weighted mean divides by anyway; the nearest weighs 1.
    closeness = torch.exp((cosines - cosines[:, :1]).double() / TEMPERATURE)  # [b, k]
    return within * torch.where(softmax[:, None], closeness[:, None, :], 1.0)


class KnnRouter:
    group: KnnGroup

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        self.group = fit_many(train, val, [Trial(variant=variant, seed=seed)], device)

    def scores(self, queries: Queries) -> Float32:
        return self.group.scores(queries)[0]

    def left_out_scores(self) -> Float32:
        return self.group.left_out_scores()[0]

    def state(self) -> dict[str, NDArray[Any]]:
        return {"X": self.group.X, "Y": self.group.Y}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> KnnRouter:
        router = cls()
        router.group = KnnGroup(state["X"], state["Y"], (variant,), device)
        return router


def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> KnnGroup:
    """Fit trials together: one neighbour search, at the largest k, serves them all."""
    known = train.observed
    return KnnGroup(known.unit, known.Y, [trial.variant for trial in trials], device)


def describe(variant: Config) -> VariantCard:
    """The mean label of the nearest queries is RouterBench's router; weights by distance are ours."""
    own = variant.weights == "uniform"
    return VariantCard(
        original=own, why="uniform weights, as RouterBench has" if own else "neighbours weigh by their cosine"
    )


CARD = RouterCard(
    name="knn",
    title="mean label of the k nearest training queries (also Li, arXiv:2505.12601)",
    paper="arXiv:2403.12031",
    year=2024,
    family="neighbours",
    licence="MIT",
    deterministic=True,
    calibrated=True,
    needs=("labels", "train-neighbours"),
    fidelity=(
        "The grid is ours: RouterBench ships k of 5, 10 and 40, Li studies 10 and 100.",
        "Softmax weights, of cosine / 0.05, are ours.",
        "Neighbours are shared by all models; with missing labels each mean runs over the observed ones.",
        "Where no neighbour observed a model its level on train stands in.",
        "A model never observed gets the pool's mean.",
        "Training queries without any label are left out of the search.",
        "k is clipped to the number of training queries.",
        "RouterBench's rule (willingness to pay x score - price) is left to the harness's utility.",
        "The embeddings are the harness's encoders, not the MiniLM-L12 of RouterBench's configuration.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=KnnRouter, fit_many=fit_many, describe=describe)
