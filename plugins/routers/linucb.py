"""linucb: a ridge regression of each model's label on the embedding; as a bandit, with a bonus for the unknown.

Paper: Li, Chu, Langford & Schapire 2010 (arXiv:1003.0146), Algorithm 1, LinUCB with disjoint linear models. For
model k: A_k = lambda I + sum x x', b_k = sum r x over the queries on which its label r was revealed, and

    theta_k = A_k^-1 b_k,    plays    argmax_k  theta_k' x + alpha sqrt(x' A_k^-1 x).

Two kinds of feedback. `bandit`, the paper's: one pass over the training queries in a seeded order, at each of
them only the played model's label is read. `full`: every observed label is read. Where all are observed, all A_k
are one matrix, the bonus is the same for all models, and what remains is ridge regression with K outputs.

Scores are theta_k' x: the bonus serves the learning, not the routing. x is the embedding at length 1 (or its
principal components, fitted on train, at length 1) and a constant 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, Trial, VariantCard, hookimpl
from rph.arrays import model_means, to_device
from rph.lazy import np, torch
from rph.training.heads import chance

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rph.api import Float32

ROWS = 8192  # queries whose features are held at once, in float64
MATRICES = 1 << 25  # entries of the matrices factorised at once: 256 MB
BLOCK = 128  # queries of the stream whose similarities are held at once
FLAT = 1e-10  # directions of less than this share of the largest variance are rounding


@dataclass(frozen=True)
class Config:
    feedback: Literal["full", "bandit"] = "full"
    ridge: float = 1.0  # lambda
    components: int = 0  # principal components of the embeddings; 0: the embeddings themselves
    alpha: float = (
        0.0  # width of the bonus by which the bandit explores; full feedback has nothing to explore
    )


GRID = (
    *(Config("full", ridge) for ridge in (1.0, 0.1, 10.0, 100.0, 300.0)),
    *(Config("full", ridge, components=128) for ridge in (0.1, 1.0, 10.0, 100.0, 300.0)),
    *(Config("bandit", components=64, alpha=alpha) for alpha in (0.1, 0.5, 1.0, 2.0)),
    Config("bandit", alpha=1.0),
)


# --- features ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """From an embedding of length 1 to the regression's x: [projection at length 1, 1]."""

    centre: Tensor  # [d] float64
    axes: Tensor | None  # [d, m] float64; None: no projection

    def of(self, X: Float32) -> Tensor:
        """X [B, d], unit rows -> [B, D] float64, D = m + 1."""
        x = to_device(X, str(self.centre.device)).double()
        if self.axes is not None:
            x = torch.nn.functional.normalize((x - self.centre) @ self.axes, dim=1)
        return torch.cat([x, x.new_ones(len(x), 1)], dim=1)

    @property
    def width(self) -> int:
        return (len(self.centre) if self.axes is None else self.axes.shape[1]) + 1


class Known:
    """The training queries, and the features made from them: shared by the variants that use the same ones."""

    def __init__(self, known: Labelled, device: str) -> None:
        self.X, self.Y, self.device = known.unit, known.Y, device

    def features(self, components: int) -> Features:
        """The first principal components, without directions in which the training queries do not vary."""
        centre, axes = self._principal if components else (torch.zeros(self.X.shape[1]).double(), None)
        axes = None if axes is None else axes[:, :components].contiguous()
        return Features(centre.to(self.device), axes)

    @cached_property
    def _principal(self) -> tuple[Tensor, Tensor]:
        """Mean [d] and axes [d, rank], those of the largest variance first."""
        d = self.X.shape[1]
        total = torch.zeros(d, dtype=torch.float64, device=self.device)
        square = torch.zeros(d, d, dtype=torch.float64, device=self.device)
        for rows in _blocks(len(self.X), ROWS):
            x = to_device(self.X[rows], self.device).double()
            total += x.sum(dim=0)
        centre = total / len(self.X)
        for rows in _blocks(len(self.X), ROWS):
            x = to_device(self.X[rows], self.device).double() - centre
            square += x.T @ x
        variance, axes = torch.linalg.eigh(square)  # smallest first
        kept = variance > FLAT * variance[-1].clamp(min=FLAT)
        return centre, axes[:, kept].flip(1)


def _blocks(n: int, rows: int) -> Iterator[slice]:
    return (slice(i, min(i + rows, n)) for i in range(0, n, rows))


# --- full feedback ----------------------------------------------------------------------------------


def full_feedback(X: Float32, Y: Float32, features: Features, ridges: Sequence[float]) -> Tensor:
    """theta [R, D, K] for each of R ridges, from X [N, d], unit rows, and labels Y [N, K], NaN = not observed.

    Models observed on the same queries have one A. A model never observed scores the mean of the pool.
    """
    seen = ~np.isnan(Y)
    patterns, pattern_of = np.unique(seen, axis=1, return_inverse=True)  # [N, P], [K]
    D, device = features.width, features.centre.device
    penalty = torch.tensor(ridges, dtype=torch.float64, device=device)[:, None, None] * torch.eye(
        D, dtype=torch.float64, device=device
    )  # [R, D, D]
    moments = _moments(X, np.where(seen, Y, 0), features)
    theta = torch.empty(len(ridges), D, Y.shape[1], dtype=torch.float64, device=device)
    for some in _blocks(patterns.shape[1], max(1, MATRICES // penalty.numel())):
        A = _grams(X, patterns[:, some], features)[:, None] + penalty  # [P, R, D, D]
        factors = torch.linalg.cholesky(A)
        for place, factor in enumerate(factors, start=some.start):
            members = torch.from_numpy(np.flatnonzero(pattern_of.reshape(-1) == place)).to(device)
            theta[:, :, members] = torch.cholesky_solve(
                moments[:, members].expand(len(ridges), -1, -1), factor
            )
    never = torch.from_numpy(~seen.any(axis=0)).to(device)
    theta[:, -1, never] = to_device(model_means(Y), str(device)).double()[never]
    return theta


def _moments(X: Float32, labels: Float32, features: Features) -> Tensor:
    """b [D, K] of all models: sum of x r, labels [N, K] being 0 where not observed."""
    device = features.centre.device
    b = torch.zeros(features.width, labels.shape[1], dtype=torch.float64, device=device)
    for rows in _blocks(len(X), ROWS):
        b += features.of(X[rows]).T @ to_device(labels[rows], str(device)).double()
    return b


def _grams(X: Float32, patterns: NDArray[np.bool_], features: Features) -> Tensor:
    """[P, D, D]: sum of x x' over the rows of X [N, d] that each pattern [N, P] has."""
    D, device = features.width, features.centre.device
    grams = torch.zeros(patterns.shape[1], D, D, dtype=torch.float64, device=device)
    for rows in _blocks(len(X), ROWS):
        F = features.of(X[rows])
        whole = F.T @ F
        for gram, has in zip(grams, to_device(patterns[rows].T, str(device)), strict=True):
            # What is cheaper: to add the rows it has, or to take those it lacks from all of them.
            if 2 * int(has.sum()) < len(F):
                part = F[has]
                gram += part.T @ part
            else:
                part = F[~has]
                gram += whole - part.T @ part
    return grams


# --- bandit feedback --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """What one pass over the stream left."""

    theta: Tensor  # [D, K]; 0 for a model never played, as at the start
    rows: NDArray[np.int64]  # [N] training queries in the order they came
    played: NDArray[np.int64]  # [N] the model played on each


def bandit_feedback(
    X: Float32, Y: Float32, features: Features, *, ridge: float, alpha: float, seed: int
) -> Pass:
    """LinUCB over the rows of X [N, d], unit rows, in an order of the seed; reads the played label of Y [N, K] only.

    A model without a label on a query cannot be played there (every row has at least one). Ties go to the model
    that is first in an order of the seed: a rule by labels would read labels that were not revealed.

    The same as updating after every query, arranged in blocks: within one, all that the choices need of A_k^-1 are
    the products x_s' A_k^-1 x_t of its queries, and the Sherman-Morrison formula updates those of the played model.
    A_k^-1 itself is never kept: between blocks A_k is summed and factorised anew, so that no error builds up.
    """
    N, K = Y.shape
    D, device = features.width, features.centre.device
    playable = ~np.isnan(Y)
    preference = torch.randperm(K, generator=chance(seed, "ties")).numpy()
    order = torch.randperm(N, generator=chance(seed, "stream")).numpy()
    A = ridge * torch.eye(D, dtype=torch.float64, device=device).repeat(K, 1, 1)
    b = torch.zeros(K, D, 1, dtype=torch.float64, device=device)
    factor = torch.linalg.cholesky(A)
    played = np.empty(N, np.int64)
    for block in _blocks(N, BLOCK):
        rows = order[block]
        F = features.of(X[rows])  # [B, D]
        half = torch.linalg.solve_triangular(factor, F.T.expand(K, -1, -1), upper=False)  # [K, D, B]: L^-1 x
        product = (half.mT @ half).cpu().numpy()  # [K, B, B]
        estimate = (
            (torch.linalg.solve_triangular(factor, b, upper=False).mT @ half)[:, 0].cpu().numpy()
        )  # [K, B]
        played[block] = _play(estimate, product, Y[rows], playable[rows], preference, alpha)
        reward = torch.from_numpy(Y[rows, played[block]].astype(np.float64)).to(device)
        for k in np.unique(played[block]).tolist():
            mine = torch.from_numpy(played[block] == k).to(device)
            A[k] += F[mine].T @ F[mine]
            b[k, :, 0] += F[mine].T @ reward[mine]
            factor[k] = torch.linalg.cholesky(A[k])
    return Pass(torch.cholesky_solve(b, factor)[..., 0].T, order, played)


def _play(
    estimate: NDArray[np.float64],
    product: NDArray[np.float64],
    Y: Float32,
    playable: NDArray[np.bool_],
    preference: NDArray[np.int64],
    alpha: float,
) -> NDArray[np.int64]:
    """The models played on B queries, one after the other: [B].

    estimate [K, B]: theta_k' x_t; product [K, B, B]: x_s' A_k^-1 x_t, both as the block begins, and used up.
    """
    B = len(Y)
    variance = product.diagonal(axis1=1, axis2=2).copy()  # [K, B]
    played = np.empty(B, np.int64)
    for t in range(B):
        bound = estimate[:, t] + alpha * np.sqrt(np.maximum(variance[:, t], 0))
        k = played[t] = preference[np.where(playable[t], bound, -np.inf)[preference].argmax()]
        # Sherman-Morrison, for A_k + x_t x_t', as far as the later queries of the block can see it
        q = product[k, t, t:].copy()
        gain = q / (1 + q[0])
        estimate[k, t:] += gain * (float(Y[t, k]) - estimate[k, t])
        product[k, t:, t:] -= gain[:, None] * q
        variance[k, t:] -= gain * q
    return played


# --- the router -------------------------------------------------------------------------------------


class LinUcbRouter:
    features: Features
    theta: Tensor  # [D, K] float64

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        (fitted,) = fit_many(train, val, [Trial(variant=variant, seed=seed)], device).routers
        self.features, self.theta = fitted.features, fitted.theta

    def scores(self, queries: Queries) -> Float32:
        """theta_k' x [B, K], unbounded."""
        X = queries.unit
        scores = np.empty((len(X), self.theta.shape[1]), np.float32)
        for rows in _blocks(len(X), ROWS):
            scores[rows] = (self.features.of(X[rows]) @ self.theta).cpu().numpy()
        return scores

    def state(self) -> dict[str, NDArray[Any]]:
        named = {"theta": self.theta, "centre": self.features.centre}
        if self.features.axes is not None:
            named["axes"] = self.features.axes
        return {name: value.cpu().numpy() for name, value in named.items()}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> LinUcbRouter:
        named = {name: torch.tensor(value, device=device) for name, value in state.items()}
        return cls._of(Features(named["centre"], named.get("axes")), named["theta"])

    @classmethod
    def _of(cls, features: Features, theta: Tensor) -> LinUcbRouter:
        router = cls()
        router.features, router.theta = features, theta
        return router


@dataclass(frozen=True)
class LinUcbGroup:
    routers: Sequence[LinUcbRouter]

    def scores(self, queries: Queries) -> Sequence[Float32]:
        return [router.scores(queries) for router in self.routers]


def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> LinUcbGroup:
    """Fit trials together: one projection for all, one Gram matrix for all ridges; full feedback knows no seed.

    Scores equal those of fitting one by one, within float32 rounding.
    """
    known = Known(train.observed, device)
    features = {c: known.features(c) for c in sorted({trial.variant.components for trial in trials})}
    full: dict[tuple[int, float], Tensor] = {}
    for components, made in features.items():
        variants = [
            t.variant for t in trials if (t.variant.feedback, t.variant.components) == ("full", components)
        ]
        ridges = sorted({variant.ridge for variant in variants})
        if ridges:
            thetas = full_feedback(known.X, known.Y, made, ridges)
            full.update({(components, ridge): theta for ridge, theta in zip(ridges, thetas, strict=True)})
    routers = []
    for trial in trials:
        v = trial.variant
        made = features[v.components]
        if v.feedback == "full":
            theta = full[v.components, v.ridge]
        else:
            theta = bandit_feedback(
                known.X, known.Y, made, ridge=v.ridge, alpha=v.alpha, seed=trial.seed
            ).theta
        routers.append(LinUcbRouter._of(made, theta))
    return LinUcbGroup(routers)


LITTLE = "it learns from one label of each query, that of the model it played"
LEVELS = "on a few thousand queries so strong a ridge leaves little but each model's level"


def describe(variant: Config) -> VariantCard:
    bandit = variant.feedback == "bandit"
    return VariantCard(
        original=bandit,
        why="the bandit's own play" if bandit else "ridge regression on all labels, without the bandit",
        deterministic=not bandit,
        no_gain=LITTLE if bandit else LEVELS if variant.ridge >= 300 else "",
    )


CARD = RouterCard(
    name="linucb",
    title="ridge regression per model, from all labels or as an upper-confidence bandit (LinUCB)",
    paper="arXiv:1003.0146",
    year=2010,
    family="bandit",
    licence="MIT",
    deterministic=False,  # the bandit variants depend on the order of the stream; those of full feedback do not
    calibrated=False,
    fidelity=(
        "Ten of the 15 variants, the default among them, learn from every observed label: LinUCB without the bandit.",
        "With full feedback and no label missing alpha decides nothing, so these variants have none.",
        "A ridge strength lambda is swept with full feedback; the paper's identity matrix is lambda = 1.",
        "The bandit passes once over the training queries and is frozen: it does not learn while it routes.",
        "On a query, a model without a label cannot be played.",
        "Scores leave the bonus out.",
        "Ties between models in the stream go to the first in a random order fixed by the seed.",
        "Embeddings are scaled to length 1; in nine variants their principal components on train are, instead.",
        "A constant 1 is added to them, which the ridge shrinks too.",
        "Every model has a regression of its own; the paper's hybrid form with shared features is not part of this.",
        "With full feedback a model never observed gets the pool's mean; a model the bandit never played scores 0.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=LinUcbRouter, fit_many=fit_many, describe=describe)
