"""Measures the routers beside the algorithms of peers, as their authors run them, and beside careful plain code.

    python perf/peers.py [--only knn mlp] [--rounds 3]

The peers' loops are written here after their published behaviour: a DataLoader where they have one, a fit per model,
pandas rows. One process, one thread, made-up data of a RouterBench-like size; the ways of one case are interleaved
round by round and read in CPU-seconds. Where `run` does a part of identical work, `times` says how often it would
be done ("times" in the table). `acc.` is test routing accuracy, or what the case says. The floor of one of ours is
what its matrix products alone take in the same round, or a pass over its labels; it is left out where there is neither.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, pairwise
from typing import Any

import machine
import numpy as np
import pandas as pd
import torch
from rph_plugins.routers import carrot, elo, embedllm, kmeans, knn, linucb, mlp, optllm, rorf, routerdc
from tables import Column, Report, ratio

from rph import Labelled, Queries, Trial
from rph.training.headrouter import Data
from rph.training.heads import feed_forward, outputs_of
from rph.training.stacks import fit_heads

SIZES = {"train": 20_000, "val": 3_000, "test": 10_000}
DIM, MODELS, FACTORS, DOMAINS = 384, 11, 24, 30


@dataclass(frozen=True)
class Way:
    """One way to do the work of a case."""

    what: str
    run: Callable[[], float]  # returns the accuracy, NaN where it measures none
    times: float = 1.0  # the whole work is so often what `run` does
    target: float | None = None  # ours should be so many times as fast as this way
    floor: Callable[[], machine.Floor] | None = None
    most: float | None = None  # ours should take at most so many times its floor


def ours_of(what: str, run: Callable[[], float], most: float | None = None) -> Way:
    """One of ours whose floor is its matrix products. They are listened to after the first round, to warm nothing up."""
    return Way(what, run, floor=cache(lambda: machine.products(run)), most=most)


# --- data -------------------------------------------------------------------------------------------


@cache
def world() -> dict[str, Labelled]:
    return made_up(SIZES)


def made_up(sizes: dict[str, int], dim: int = DIM, models: int = MODELS) -> dict[str, Labelled]:
    """Queries around 30 domains in 24 latent factors; each model's labels are Bernoulli draws of a law in them."""
    rng = np.random.default_rng(0)
    lift = rng.standard_normal((FACTORS, dim)) / FACTORS**0.5
    centres = rng.standard_normal((DOMAINS, FACTORS))
    skill, level = rng.standard_normal((FACTORS, models)) * 0.12, rng.normal(-0.2, 0.3, models)
    parts = {}
    for name, n in sizes.items():
        z = centres[rng.integers(0, DOMAINS, n)] + 0.6 * rng.standard_normal((n, FACTORS))
        X = z @ lift + 0.05 * rng.standard_normal((n, dim))
        Y = rng.random((n, models)) < 1 / (1 + np.exp(-(z @ skill + level)))
        parts[name] = Labelled(
            X=(X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32),
            texts=[""] * n,
            Y=Y.astype(np.float32),
            C=None,
            models=tuple(f"m{i}" for i in range(models)),
        )
    return parts


def part(name: str) -> tuple[np.ndarray, np.ndarray]:
    return world()[name].X, world()[name].Y


def accuracy(scores: np.ndarray) -> float:
    labels = world()["test"].Y
    return float(labels[np.arange(len(labels)), scores.argmax(axis=1)].mean())


def scored(plugin: Any, variants: Sequence[Any], data: dict[str, Labelled]) -> list[np.ndarray]:
    """Test scores [N, K] of each variant, all fitted together."""
    trials = [Trial(variant=variant, seed=42) for variant in variants]
    test = Queries(X=data["test"].X, texts=data["test"].texts)
    return list(plugin.register_router().fit_many(data["train"], data["val"], trials, "cpu").scores(test))


def ours(plugin: Any, variants: Sequence[Any]) -> Callable[[], float]:
    """The accuracy of the first of a router's variants, all fitted and scored on test together."""

    return lambda: accuracy(scored(plugin, variants, world())[0])


# --- neighbours and clusters ------------------------------------------------------------------------


def routerbench_knn() -> float:
    """RouterBench's knn router: scikit-learn's cosine search, then a pandas mean per query and model."""
    from sklearn.neighbors import NearestNeighbors

    X, Y = part("train")
    near = NearestNeighbors(n_neighbors=40, metric="cosine").fit(X).kneighbors(part("test")[0])[1]
    labels = pd.DataFrame(Y[near.ravel()])
    return accuracy(labels.groupby(np.repeat(np.arange(len(near)), 40)).mean().to_numpy())


def embedllm_knn() -> float:
    """EmbedLLM's: a scikit-learn classifier of 131 neighbours for each model; here one. Its accuracy."""
    from sklearn.neighbors import KNeighborsClassifier

    (X, Y), (T, labels) = part("train"), part("test")
    found = KNeighborsClassifier(131).fit(X, Y[:, 0])
    return float((found.predict(T) == labels[:, 0]).mean())


def our_correctness() -> float:
    """The accuracy of the same prediction for the first model, from knn's scores of all models."""
    test = world()["test"]
    trial = Trial(variant=knn.Config(131), seed=42)
    scores = knn.fit_many(world()["train"], world()["val"], [trial], "cpu").scores(test)[0]
    return float(((scores[:, 0] > 0.5) == test.Y[:, 0]).mean())


def carrot_search() -> float:
    """CARROT's train_knn: 5-fold cross-validation for each of nine k; here for one."""
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsRegressor

    X, Y = part("train")
    cross_val_score(KNeighborsRegressor(64, metric="cosine"), X.astype(np.float64), Y, cv=5)
    return float("nan")


def our_search() -> float:
    X, Y = part("train")
    carrot.chosen_k(X, [Y], "cpu")
    return float("nan")


def sklearn_kmeans(starts: int) -> float:
    """k-means of 64 clusters and each model's mean in them."""
    from sklearn.cluster import KMeans

    X, Y = part("train")
    found = KMeans(64, n_init=starts, random_state=42).fit(X)
    means = pd.DataFrame(Y).groupby(found.labels_).mean().to_numpy()
    return accuracy(means[found.predict(part("test")[0])])


# --- ratings and linear models ----------------------------------------------------------------------


def battles(queries: int = 1000) -> float:
    """LLMRouter's elo: a row for each pair of models on a query, read by iterrows, then a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    Y = part("train")[1][:queries]
    pairs = list(combinations(range(MODELS), 2))
    frame = pd.DataFrame(
        [(a, b, y[a], y[b]) for y in Y for a, b in pairs if y[a] != y[b]], columns=["a", "b", "ya", "yb"]
    )
    design, won = [], []
    for _, row in frame.iterrows():
        line = np.zeros(MODELS)
        line[int(row["a"])], line[int(row["b"])] = 1, -1
        design.append(line)
        won.append(row["ya"] > row["yb"])
    fitted = LogisticRegression(fit_intercept=False).fit(np.array(design), np.array(won))
    return accuracy(np.tile(fitted.coef_[0], (SIZES["test"], 1)))


def pass_over_labels() -> machine.Floor:
    return machine.Floor(Counter(), passed=part("train")[1].nbytes)


def our_ratings() -> float:
    return accuracy(np.tile(elo.global_ratings(part("train")[1]), (SIZES["test"], 1)))


def linear_svr() -> float:
    """RouterBench's svm router: a LinearSVR for each model."""
    from sklearn.svm import LinearSVR

    (X, Y), T = part("train"), part("test")[0]
    return accuracy(np.stack([LinearSVR().fit(X, Y[:, k]).predict(T) for k in range(MODELS)], axis=1))


STEPS = {"inverse": 40, "sherman-morrison": 1000}


def inverse_per_step() -> float:
    """Textbook LinUCB: every step inverts the matrix of every arm."""
    return _linucb(STEPS["inverse"], invert=True)


def sherman_morrison() -> float:
    """LinUCB that updates the inverse of the played arm."""
    return _linucb(STEPS["sherman-morrison"], invert=False)


def _linucb(steps: int, *, invert: bool) -> float:
    X, Y = part("train")
    X = np.hstack([X, np.ones((len(X), 1))]).astype(np.float64)
    A = np.tile(np.eye(DIM + 1), (MODELS, 1, 1))
    inverse, b = A.copy(), np.zeros((MODELS, DIM + 1))
    for x, y in zip(X[:steps], Y[:steps], strict=True):
        if invert:
            inverse = np.stack([np.linalg.inv(a) for a in A])
        q = inverse @ x  # [K, D]
        k = int(((q * b).sum(axis=1) + np.sqrt(q @ x)).argmax())
        if invert:
            A[k] += np.outer(x, x)
        else:
            inverse[k] -= np.outer(q[k], q[k]) / (1 + q[k] @ x)
        b[k] += x * y[k]
    return float("nan")


# --- heads ------------------------------------------------------------------------------------------


def loader_mlp(hidden: tuple[int, ...], batch: int, epochs: int) -> Callable[[], float]:
    """An MLP trained as RouterEval's MLPR: a DataLoader over the training queries."""
    return lambda: _plain_mlp(hidden, batch, epochs, loader=True)


def careful_mlp(hidden: tuple[int, ...], batch: int, epochs: int) -> Callable[[], float]:
    """The same without a DataLoader: slices of a permutation, the fused optimiser."""
    return lambda: _plain_mlp(hidden, batch, epochs, loader=False)


def _plain_mlp(hidden: tuple[int, ...], batch: int, epochs: int, *, loader: bool) -> float:
    torch.manual_seed(0)
    X, Y = (torch.from_numpy(a) for a in part("train"))
    widths = (DIM, *hidden)
    modules: list[torch.nn.Module] = []
    for a, b in pairwise(widths):
        modules += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    net = torch.nn.Sequential(*modules, torch.nn.Linear(widths[-1], MODELS))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4, fused=not loader or None)
    steps = -(-len(X) // batch) * epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    loss = torch.nn.BCEWithLogitsLoss()
    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=batch, shuffle=True)
    for _ in range(epochs):
        order = torch.randperm(len(X))
        slices = rows if loader else ((X[part], Y[part]) for part in torch.split(order, batch))
        for x, y in slices:
            optimiser.zero_grad()
            loss(net(x), y).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        return accuracy(net(torch.from_numpy(part("test")[0])).numpy())


def our_heads(hidden: tuple[int, ...], batch: int, epochs: int, count: int) -> Callable[[], float]:
    """`count` heads of one shape at three rates, trained as a stack. Includes the check every half epoch."""

    def run() -> float:
        data = Data(world()["train"], world()["val"], "cpu")
        variants = [mlp.Config(hidden, dropout=0.0, learning_rate=1e-3 * (1 + i % 3)) for i in range(count)]
        heads = []
        for variant in variants:
            router = mlp.MlpRouter(variant)
            head = router.head(data, 42)
            training = replace(head.training, batch=batch, epochs=epochs, patience=1000)
            heads.append(replace(head, training=training))
        best = fit_heads(heads)[0]
        return accuracy(outputs_of(feed_forward, best, torch.from_numpy(part("test")[0])).numpy())

    return run


def sklearn_mlp() -> float:
    """RouterBench's mlp router: a scikit-learn regressor for each model, three layers of 100; here for one."""
    from sklearn.neural_network import MLPRegressor

    X, Y = part("train")
    MLPRegressor(hidden_layer_sizes=(100, 100, 100), random_state=0).fit(X, Y[:, 0])
    return float("nan")


class TextMF(torch.nn.Module):
    """EmbedLLM's matrix factorisation: a model's vector times the projected query, two logits; one pair a row."""

    def __init__(self) -> None:
        super().__init__()
        self.P = torch.nn.Embedding(MODELS, 232)
        self.Q = torch.nn.Embedding.from_pretrained(torch.from_numpy(part("train")[0]))
        self.project, self.classify = torch.nn.Linear(DIM, 232), torch.nn.Linear(232, 2)

    def forward(self, model: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        q = self.Q(query)
        q = q + torch.randn_like(q) * 0.05
        return self.classify(torch.nn.functional.normalize(self.P(model), dim=1) * self.project(q))


def pair_loader_mf() -> float:
    """One epoch of it, a DataLoader over all (query, model) pairs in batches of 2048."""
    Y = torch.from_numpy(part("train")[1])
    query, model = torch.arange(len(Y)).repeat_interleave(MODELS), torch.arange(MODELS).repeat(len(Y))
    pairs = torch.utils.data.TensorDataset(query, model, Y.flatten().long())
    net = TextMF()
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-4)
    for q, m, y in torch.utils.data.DataLoader(pairs, batch_size=2048, shuffle=True):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(m, q), y).backward()
        optimiser.step()
    return float("nan")


def our_mf() -> float:
    data = Data(world()["train"], world()["val"], "cpu")
    head = embedllm.EmbedLlmRouter(embedllm.BASE).head(data, 42)
    fit_heads([replace(head, training=replace(head.training, epochs=1))])
    return float("nan")


DUAL = 20  # steps of the dual contrastive losses


def dual_contrastive_steps() -> float:
    """RouterDC's losses in batches of 32 as in its code: a loop over positives, and one over the batch's queries."""
    rng = np.random.default_rng(0)
    X, Y = (torch.from_numpy(a) for a in part("train"))
    clusters = torch.from_numpy(rng.integers(0, 8, len(X)))
    project, models = torch.nn.Linear(DIM, DIM), torch.nn.Parameter(torch.randn(MODELS, DIM))
    optimiser = torch.optim.AdamW([*project.parameters(), models], lr=5e-4)
    for step in range(DUAL):
        rows = slice(32 * step, 32 * step + 32)
        x = torch.nn.functional.normalize(project(X[rows]), dim=1)
        cosine = x @ torch.nn.functional.normalize(models, dim=1).T / 0.2
        order = Y[rows].argsort(dim=1, descending=True)
        loss = torch.zeros(())
        for i in range(3):
            chosen = torch.cat([order[:, i : i + 1], order[:, -3:]], dim=1)
            right = torch.gather(Y[rows], 1, order[:, i : i + 1])[:, 0]
            loss = loss - (torch.log_softmax(cosine.gather(1, chosen), dim=1)[:, 0] * right).mean()
        mine = clusters[rows].numpy()
        for i in range(32):
            same, other = np.flatnonzero(mine == mine[i]), np.flatnonzero(mine != mine[i])
            chosen = torch.from_numpy(np.concatenate([rng.choice(same, 1), rng.choice(other, 3)]))
            loss = loss - torch.log_softmax(x[i] @ x[chosen].T / 0.2, dim=0)[0] / 32
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float("nan")


def our_dual_steps() -> float:
    """As many queries through ours, in its batches of 64."""
    train = world()["train"]
    some = Labelled(
        X=train.X[: 32 * DUAL],
        texts=train.texts[: 32 * DUAL],
        Y=train.Y[: 32 * DUAL],
        C=None,
        models=train.models,
    )
    data = Data(some, some, "cpu")
    head = routerdc.RouterDcRouter(routerdc.Config(hidden=0)).head(data, 42)
    fit_heads([replace(head, training=replace(head.training, epochs=1, steps=0))])
    return float("nan")


# --- trees ------------------------------------------------------------------------------------------


def forest_per_model() -> float:
    """A scikit-learn forest of 20 trees for each model; here for one."""
    from sklearn.ensemble import RandomForestClassifier

    X, Y = part("train")
    RandomForestClassifier(20, random_state=0, n_jobs=1).fit(X, Y[:, 0]).predict_proba(part("test")[0])
    return float("nan")


def rorf_tree() -> float:
    """RoRF: trees that try every feature at every split, on the four outcomes of one pair of models; here one tree."""
    from sklearn.ensemble import RandomForestClassifier

    X, Y = part("train")
    outcome = (2 * Y[:, 0] + Y[:, 1]).astype(int)
    RandomForestClassifier(1, max_features=1.0, max_depth=20, random_state=0, n_jobs=1).fit(X, outcome)
    return float("nan")


def boosting_per_model() -> float:
    """An XGBClassifier with its defaults for each model; here for one."""
    import xgboost

    X, Y = part("train")
    xgboost.XGBClassifier(n_jobs=1).fit(X, Y[:, 0]).predict_proba(part("test")[0])
    return float("nan")


# --- the cases --------------------------------------------------------------------------------------

N = SIZES["train"]
CASES: dict[str, tuple[Way, ...]] = {
    "knn": (
        ours_of("knn, k = 40", ours(knn, [knn.Config(40)]), most=1.6),
        Way("RouterBench's knn", routerbench_knn, target=3),
    ),
    "knn-grid": (
        ours_of("knn, grid of 15", ours(knn, knn.GRID), most=2.0),
        Way("RouterBench's knn", routerbench_knn, times=15, target=30),
    ),
    "knn-cv": (
        ours_of("carrot's choice of k", our_search, most=2.3),
        Way("CARROT's train_knn, float64", carrot_search, times=9, target=15),
    ),
    "knn-per-model": (
        ours_of("knn, k = 131; acc. of model 0", our_correctness),
        Way("EmbedLLM's knn; acc. of model 0", embedllm_knn, times=MODELS, target=15),
    ),
    "kmeans": (
        ours_of("kmeans, 64 clusters", ours(kmeans, [kmeans.Config(64)]), most=3.5),
        Way("Avengers-Pro's (scikit-learn, ten starts)", lambda: sklearn_kmeans(10), target=10),
        Way("scikit-learn, one start", lambda: sklearn_kmeans(1), target=1.5),
    ),
    "elo": (
        Way("elo's global ratings", our_ratings, floor=pass_over_labels),
        Way("LLMRouter's elo", battles, times=N / 1000, target=500),
    ),
    "linear": (
        ours_of("linucb, full feedback, 5 ridges", ours(linucb, linucb.GRID[:5])),
        Way("RouterBench's svm", linear_svr, target=40),
    ),
    "linucb": (
        ours_of("linucb, bandit, all steps", ours(linucb, [linucb.Config("bandit", alpha=1.0)])),
        Way("inverse per step", inverse_per_step, times=N / STEPS["inverse"], target=300),
        Way("Sherman-Morrison", sherman_morrison, times=N / STEPS["sherman-morrison"], target=3),
    ),
    "mlp": (
        ours_of("one head, 256-256, 6 epochs", our_heads((256, 256), 256, 6, 1), most=1.7),
        Way("RouterEval's MLPR", loader_mlp((256, 256), 256, 6), target=5),
        Way("careful loop", careful_mlp((256, 256), 256, 6)),
    ),
    "mlp-per-model": (
        ours_of("mlp, 100-100, early stop", ours(mlp, [mlp.Config()])),
        Way("RouterBench's mlp", sklearn_mlp, times=MODELS, target=40),
    ),
    "narrow": (
        ours_of("15 heads, 64-64, batch 64, 2 epochs", our_heads((64, 64), 64, 2, 15)),
        Way("DataLoader", loader_mlp((64, 64), 64, 2), times=15, target=6),
        Way("careful loop", careful_mlp((64, 64), 64, 2), times=15, target=5),
    ),
    "wide": (
        ours_of("5 heads, 256-256, batch 256, 2 epochs", our_heads((256, 256), 256, 2, 5), most=1.5),
        Way("DataLoader", loader_mlp((256, 256), 256, 2), times=5),
        Way("careful loop", careful_mlp((256, 256), 256, 2), times=5, target=1.3),
    ),
    "embedllm": (
        ours_of("embedllm, an epoch", our_mf, most=3),
        Way("EmbedLLM's mf.py, an epoch", pair_loader_mf, target=15),
    ),
    "routerdc": (
        ours_of("routerdc, 640 queries", our_dual_steps),
        Way("RouterDC's losses, 640 queries", dual_contrastive_steps, target=1.5),
    ),
    "forest": (
        Way("rorf, 20 trees for all models", ours(rorf, [rorf.Config(trees=20)])),
        Way("a forest of 20 per model", forest_per_model, times=MODELS, target=10),
        Way("RoRF, 20 trees, one pair", rorf_tree, times=20, target=50),
    ),
    "boosting": (
        Way("optllm, joint trees, 200 rounds", ours(optllm, [optllm.GRID[-1]])),
        Way("XGBClassifier per model", boosting_per_model, times=MODELS, target=10),
    ),
}


@dataclass
class Measured:
    """Of one way: CPU-seconds of the whole work and of its floor in each round, and the accuracy."""

    seconds: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    accuracy: float = float("nan")


def measure(ways: Sequence[Way], rounds: int) -> list[Measured]:
    found = [Measured() for _ in ways]
    for _ in range(rounds):
        for way, mine in zip(ways, found, strict=True):
            start = time.process_time()
            mine.accuracy = way.run()
            mine.seconds.append((time.process_time() - start) * way.times)
            if way.floor:
                mine.floors.append(way.floor().seconds())
    return found


def warm_up() -> None:
    """The first step of an optimiser in a process costs seconds of imports."""
    for fused in (True, None):
        weight = torch.ones(4, requires_grad=True)
        optimiser = torch.optim.AdamW([weight], fused=fused)
        weight.sum().backward()
        optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=CASES, default=list(CASES), metavar="case", help=" ".join(CASES)
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world()
    warm_up()
    with Report(__file__) as report:
        table = report.table(
            f"{SIZES}, d = {DIM}, K = {MODELS}, one thread",
            Column("case"),
            Column("way"),
            Column("times", digits=0),
            Column("median", "CPU-s", digits=3),
            Column("x ours", digits=1),
            Column("at least", digits=1),
            Column("x floor", digits=1),
            Column("at most", digits=1),
            Column("acc.", digits=4),
        )
        for name in options.only:
            measured = measure(CASES[name], options.rounds)
            for way, each in zip(CASES[name], measured, strict=True):
                table.add(
                    name,
                    way.what,
                    way.times,
                    statistics.median(each.seconds),
                    ratio(each.seconds, measured[0].seconds),
                    way.target,
                    ratio(each.seconds, each.floors) if each.floors else None,
                    way.most,
                    None if np.isnan(each.accuracy) else each.accuracy,
                )


if __name__ == "__main__":
    main()
