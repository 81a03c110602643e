"""Elo (Eagle): a global rating per model, moved for each query by outcomes on its nearest training queries.

Paper: Zhao, Jin & Mao 2024, Eagle (arXiv:2409.15518). Like theirs: the local ratings start at the global
ones, ties count one half, and the score is P * global + (1 - P) * local. Unlike theirs: the feedback is not
one sampled comparison per query but every pair of models observed on it, in expectation, so nothing is left
to chance. Not all pairs at the full step: every model would play K - 1 matches per query, and its rating
would remember the last neighbour or two only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, RphError, Trial, VariantCard, hookimpl
from rph.arrays import to_device
from rph.lazy import np, torch
from rph.training.neighbours import nearest, nearest_others

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rph.api import Float32

    Float64 = NDArray[np.float64]

POINTS = 400 / math.log(10)  # Elo points per nat of log-odds
MEAN = 1000.0  # of the global ratings; Elo is a matter of differences
UNSEEN = 4000.0  # points below the mean for a model never observed: odds of 1 to 10^10
PRIOR_TIES = 1.0  # virtual ties added to every pair of models, so that no rating is infinite
FARTHEST = 6000.0  # points from the mean at which 10^(R/400) is cut, long before it overflows
ROWS = 8192  # training queries counted at once
# Expected outcomes held at once, V x b x K x K: near the cache on a CPU, enough for a launch on a GPU.
PAIRS = {"cpu": 1 << 20, "cuda": 1 << 26}
GATHERED = {"cpu": 1 << 22, "cuda": 1 << 26}  # neighbour labels held at once


@dataclass(frozen=True)
class Config:
    neighbours: int = 100  # N; all training queries where there are fewer
    step: float = 16.0  # Kf, Elo points per comparison
    pairs: Literal["all-opponents", "one"] = "all-opponents"  # comparisons per query: m - 1 or 1
    global_weight: float = 0.5  # P


GRID = (
    Config(100, 16.0, "all-opponents", 0.5),
    *(Config(20, step, "all-opponents", 0.5) for step in (32.0, 16.0)),
    *(Config(50, step, "all-opponents", p) for step, p in ((8.0, 0.0), (16.0, 0.5))),
    *(Config(100, step, "all-opponents", 0.0) for step in (4.0, 8.0)),
    *(Config(200, step, "all-opponents", p) for step, p in ((4.0, 0.0), (8.0, 0.5))),
    # A neighbour keeps about 1 - .0029 Kf of what the one before it moved: small steps remember many.
    *(Config(n, step, "all-opponents", 0.0) for n, step in ((400, 2.0), (400, 1.0), (512, 1.0))),
    *(Config(n, 0.5, "all-opponents", 0.0) for n in (512, 1000)),
    Config(20, 32.0, "one", 0.5),  # the paper's
)


# --- global ratings ---------------------------------------------------------------------------------


def global_ratings(Y: Float32) -> Float32:
    """Y [N, K] labels, NaN = not observed -> ratings [K] in Elo points, mean 1000 over the observed models.

    The Bradley-Terry maximum-likelihood ratings of all pairwise outcomes and `PRIOR_TIES` virtual ties per
    pair. A model never observed lies 4000 points below the mean.
    """
    ratings = np.full(Y.shape[1], MEAN - UNSEEN)
    seen = ~np.isnan(Y).all(axis=0)
    if seen.any():
        ratings[seen] = MEAN + POINTS * bradley_terry(wins(Y[:, seen]) + PRIOR_TIES / 2)
    result: Float32 = ratings.astype(np.float32)
    return result


def wins(Y: Float32) -> Float64:
    """Y [N, K] -> W [K, K]: i's outcomes against j, (1 + y_i - y_j) / 2, summed where both were observed."""
    K = Y.shape[1]
    W = np.zeros((K, K))
    for start in range(0, len(Y), ROWS):
        y = Y[start : start + ROWS].astype(np.float64)
        seen = (~np.isnan(y)).astype(np.float64)
        right = np.nan_to_num(y, nan=0.0).T @ seen  # [K, K]: the sum of y_i where j was seen too
        W += (seen.T @ seen + right - right.T) / 2
    return W


def bradley_terry(W: Float64) -> Float64:
    """Wins W [K, K] -> log-strengths r [K] of mean 0 that maximise sum_ij W_ij log sigma(r_i - r_j).

    By Newton's method. Every pair must have positive wins on both sides; the diagonal cancels.
    """
    K = len(W)
    games = W + W.T
    r = np.zeros(K)
    for _ in range(100):
        p = _win_probability(r)
        gradient = (W - games * p).sum(axis=1)
        curvature = games * p * p.T
        np.fill_diagonal(curvature, 0)
        # The likelihood does not change when all ratings move together; the added constant fixes their mean.
        hessian = np.diag(curvature.sum(axis=1)) - curvature + 1 / K
        step = np.linalg.solve(hessian, gradient)
        # A long step can overshoot; near the top the likelihood's own rounding would stop a short one.
        while np.abs(step).max() > 1e-3 and _log_likelihood(W, r + step) < _log_likelihood(W, r):
            step /= 2
        r += step
        if np.abs(step).max() <= 1e-9:
            centred: Float64 = r - r.mean()
            return centred
    raise RphError(
        "elo: the global ratings did not converge",
        why=f"Newton's method still moves them by {np.abs(step).max():.1e} nats after 100 steps",
        fix="check the train labels: are there models that are almost never observed together?",
    )


def _win_probability(r: Float64) -> Float64:
    result: Float64 = np.exp(-np.logaddexp(0, r[None, :] - r[:, None]))
    return result


def _log_likelihood(W: Float64, r: Float64) -> float:
    return -float((W * np.logaddexp(0, r[None, :] - r[:, None])).sum())


# --- local ratings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """One way to replay neighbours; variants that differ in the global weight only share it."""

    neighbours: int
    step: float
    pairs: str


def local_ratings(start: Tensor, labels: Tensor, replays: Sequence[Replay]) -> Tensor:
    """Ratings [V, b, K] after each replay, from `start` [K] and neighbours' labels [k, b, K], nearest first.

    In Elo points around 0. The neighbours are replayed farthest to nearest. On a query with m observed models
    each of them moves by kk * (sum_j S_ij - sum_j E_ij) over its observed opponents j, with
    S_ij = (1 + y_i - y_j) / 2, E_ij = a_i / (a_i + a_j), a = 10^(R / 400), and kk = Kf * M / (m (m - 1) / 2),
    which amounts to M comparisons per query. A model not observed there stays.
    `replays` must be sorted by neighbours, most first.
    """
    depth, b, K = labels.shape
    seen = (~labels.isnan()).float()
    y = labels.nan_to_num(0.0)
    m = seen.sum(dim=2, keepdim=True)
    some = (m > 1).float()  # one model alone has no opponent
    share = {  # M / (m (m - 1) / 2)
        "all-opponents": some * 2 / m.clamp(min=2),
        "one": some * 2 / (m * (m - 1)).clamp(min=2),
    }
    # sum_j S_ij, plus the 1/2 that the sum of E_ij below counts for j = i; 0 where i was not seen
    won = seen * (m + m * y - y.sum(dim=2, keepdim=True)) / 2
    steps = torch.tensor([r.step for r in replays], device=labels.device)[:, None, None]
    kk = steps[:, None] * torch.stack([share[r.pairs] for r in replays])  # [V, k, b, 1]
    ratings = start.expand(len(replays), b, K).clone()
    for t in reversed(range(depth)):
        active = sum(r.neighbours > t for r in replays)
        R = ratings[:active]  # a view: those that reach this far
        a = torch.exp(R.clamp(-FARTHEST, FARTHEST) / POINTS)
        odds = torch.add(a[..., :, None], a[..., None, :]).reciprocal_()  # [active, b, K, K]: 1 / (a_i + a_j)
        # A plain sum: twice as fast as a matrix product here, and its rounding does not depend on the batch.
        expected = a * seen[t] * odds.mul_(seen[t][:, None, :]).sum(dim=-1)
        R += kk[:active, t] * (won[t] - expected)
    return ratings


@dataclass(frozen=True)
class EloGroup:
    """Variants of Elo that share global ratings, one neighbour search and the replays they have in common.

    The scores are those of fitting one by one, within 0.001 Elo points.
    """

    X: Float32  # [N, d] unit rows
    Y: Float32  # [N, K] labels, NaN = not observed
    ratings: Float32  # [K] global, Elo points
    variants: Sequence[Config]
    device: str

    def scores(self, queries: Queries) -> list[Float32]:
        """One array [B, K] of Elo points per variant: P * global + (1 - P) * local."""
        return self._scored(nearest(queries.unit, self.X, self._depth, self.device), len(queries))

    def left_out_scores(self) -> list[Float32]:
        """As `scores` of the training queries [N, K], each without itself among its neighbours.

        It stays in the global ratings, where it is one of N.
        """
        return self._scored(nearest_others(self.X, self._depth, self.device), len(self.X))

    @property
    def _depth(self) -> int:
        return max(variant.neighbours for variant in self.variants)

    def _scored(self, found: Iterable[tuple[slice, Tensor, Tensor]], count: int) -> list[Float32]:
        """Scores of `count` queries from each block's neighbours [b, k]."""
        replays = sorted({_replay(v) for v in self.variants}, key=lambda r: -r.neighbours)
        scores = np.empty((len(self.variants), count, len(self.ratings)), np.float32)
        labels = to_device(self.Y, self.device)
        centred = to_device(self.ratings - np.float32(MEAN), self.device)  # float32 is finest around 0
        which = torch.tensor([replays.index(_replay(v)) for v in self.variants], device=self.device)
        local_weight = torch.tensor([1 - v.global_weight for v in self.variants], device=self.device)
        for block, neighbours, _ in found:
            done = block.start
            for near in torch.split(neighbours, self._rows(len(replays), neighbours.shape[1])):
                local = local_ratings(centred, labels[near.T], replays)[which]  # [variants, b, K]
                # In this form a query without neighbours, or P = 1, scores exactly the global ratings.
                mixed = centred + local_weight[:, None, None] * (local - centred)
                scores[:, done : done + len(near)] = (mixed + MEAN).cpu().numpy()
                done += len(near)
        return list(scores)

    def _rows(self, replays: int, depth: int) -> int:
        """Queries replayed at once, so that memory is bounded whatever K is."""
        kind, K = torch.device(self.device).type, len(self.ratings)
        return max(1, min(PAIRS[kind] // (replays * K * K), GATHERED[kind] // max(1, depth * K)))


def _replay(variant: Config) -> Replay:
    return Replay(variant.neighbours, variant.step, variant.pairs)


# --- the router -------------------------------------------------------------------------------------


class EloRouter:
    group: EloGroup

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        self.group = fit_many(train, val, [Trial(variant=variant, seed=seed)], device)

    def scores(self, queries: Queries) -> Float32:
        return self.group.scores(queries)[0]

    def left_out_scores(self) -> Float32:
        return self.group.left_out_scores()[0]

    def state(self) -> dict[str, NDArray[Any]]:
        return {"X": self.group.X, "Y": self.group.Y, "ratings": self.group.ratings}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> EloRouter:
        router = cls()
        router.group = EloGroup(state["X"], state["Y"], state["ratings"], (variant,), device)
        return router


def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> EloGroup:
    """Fit trials together: one neighbour search, at the largest N, and one global rating serve them all."""
    known = train.observed
    ratings = global_ratings(known.Y)
    return EloGroup(known.unit, known.Y, ratings, [trial.variant for trial in trials], device)


def describe(variant: Config) -> VariantCard:
    own = variant.pairs == "one"
    return VariantCard(
        original=own,
        why="one comparison per neighbour, in expectation"
        if own
        else "all m - 1 comparisons of each neighbour",
    )


CARD = RouterCard(
    name="elo",
    title="global Elo ratings, refined by the outcomes on the nearest training queries (Eagle)",
    paper="arXiv:2409.15518",
    year=2024,
    family="ranking",
    licence="MIT",
    deterministic=True,
    calibrated=False,
    needs=("labels", "train-neighbours"),
    aliases=("elo_router",),
    fidelity=(
        "Eagle learns from one sampled comparison per query; here all pairs observed count, in expectation.",
        "On a query with m observed models they count as m - 1 comparisons, or as 1 as in the paper.",
        "The global ratings are Bradley-Terry maximum-likelihood ratings, where Eagle averages Elo ratings.",
        "One virtual tie per pair of models keeps the global ratings finite.",
        "Neighbours are replayed farthest to nearest; the paper names no order.",
        "Scores are raw Elo points: utility and BCE use one shared monotone map, fitted by the harness.",
        "On a query only the models observed there are updated.",
        "A model never observed lies 4000 points below the mean.",
        "Training queries without any label are left out, and N is clipped to the number of the others.",
        "The embeddings are the harness's encoders, not stella_en_1.5B_v5.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=EloRouter, fit_many=fit_many, describe=describe)
