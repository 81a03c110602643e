"""softmax: multinomial logistic regression on which model of the pool gets a query right.

A query on which c of the observed models are right is c examples of weight 1/c, one for each of them. The softmax of a
query runs over the models observed on it, so that a missing label is neither right nor wrong. With all labels
observed and one model right on each query this is the textbook softmax regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rph

if TYPE_CHECKING:
    import numpy as np
    import torch

STEPS = 500  # of L-BFGS at most; it ends earlier where the gradient vanishes
GRADIENT = 1e-9  # its largest entry at the optimum


@dataclass(frozen=True)
class Config:
    """One variant of the grid."""

    l2: float = 1e-3  # weight of the squared coefficients beside the mean cross-entropy


class SoftmaxRouter:
    """Model m's score is the logit w_m . x + b_m, x the embedding scaled to length 1."""

    def fit(self, train: rph.Labelled, val: rph.Labelled, *, variant: Config, seed: int, device: str) -> None:
        import torch

        X = torch.from_numpy(train.unit.astype("float64")).to(device)  # [N, d]
        Y = torch.from_numpy(train.Y.astype("float64")).to(device)  # [N, K], NaN = not observed
        solvable = Y.nansum(dim=1) > 0  # a query that no model gets right says nothing of which to choose
        self.weights, self.biases = _fitted(X[solvable], Y[solvable], variant.l2)

    def scores(self, queries: rph.Queries) -> np.ndarray:
        """Logits [N, K]: higher is better, no probabilities of being correct."""
        return (queries.unit.astype("float64") @ self.weights + self.biases).astype("float32")

    def state(self) -> dict[str, np.ndarray]:
        return {"weights": self.weights, "biases": self.biases}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray], *, variant: Config, device: str) -> SoftmaxRouter:
        router = cls()
        router.weights, router.biases = state["weights"], state["biases"]
        return router


def _fitted(X: torch.Tensor, Y: torch.Tensor, l2: float) -> tuple[Any, Any]:
    """Weights [d, K] and biases [K] at the minimum of the masked cross-entropy plus l2 times the squared weights.

    The problem is convex, so that the start and the seed do not matter; only differences of biases do.
    """
    import torch

    observed = ~Y.isnan()
    target = Y.nan_to_num() / Y.nansum(dim=1, keepdim=True)  # [N, K], each row sums to 1
    weights = X.new_zeros(X.shape[1], Y.shape[1], requires_grad=True)
    biases = X.new_zeros(Y.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, biases],
        max_iter=STEPS,
        tolerance_grad=GRADIENT,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = torch.where(observed, X @ weights + biases, -torch.inf)
        shares = torch.where(observed, logits.log_softmax(dim=1), 0)
        value = -(target * shares).sum() / max(1, len(X)) + l2 * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach().cpu().numpy(), biases.detach().cpu().numpy()


@rph.hookimpl
def register_router() -> rph.RouterSpec:
    card = rph.RouterCard(
        name="softmax",
        title="softmax regression on which model is right",
        paper="none; the textbook method, Bishop 2006, Pattern Recognition and Machine Learning, 4.3.4",
        year=2006,
        family="classifier",
        licence="MIT",
        deterministic=True,
        calibrated=False,
        fidelity=(
            "A query that several models get right counts for each of them, with equal parts.",
            "The softmax runs over the models observed on a query.",
            "Queries that no observed model gets right are left out.",
            "A model never observed has logit 0, the mean of the pool's biases.",
        ),
    )
    grid = tuple(Config(l2) for l2 in (1e-3, 1e-5, 1e-4, 3e-4, 3e-3, 1e-2))
    return rph.RouterSpec(card=card, grid=grid, router=SoftmaxRouter, api=1)
