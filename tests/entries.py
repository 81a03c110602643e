"""Result files made by hand: say what each query's labels are and where it was sent, get an Entry that is consistent."""

from pathlib import Path

import numpy as np

from rph import RouterCard, RoutingDataset, Split
from rph.distribution import OURS
from rph.holes import Holes
from rph.results import blocks, cell, files, findings, missing
from rph.results.files import Entry
from rph.results.outcomes import Scored

SEEDS = (42, 1337, 2026, 7, 99)


def entry(
    labels,
    routes,
    *,
    bench="bench",
    router="router",
    encoder="encoder",
    costs=None,
    scores=None,
    p_correct=None,
    train=None,
    models=None,
    tasks=None,
    train_tasks=None,
    languages=(),
    holes=Holes(),  # noqa: B008 - frozen
    deterministic=False,
    calibrated=True,
    subset="",
    **changes,
):
    """A finished cell on N test queries and K models, named a, b, c ... or as `models`.

    labels [N, K], NaN = not observed; routes [N], or [S, N] for S seeds; costs [N, K] or, per model, [K], in US
    dollars; scores [S, N, K] are what probabilities and utilities are computed from, by default 0.9 for the chosen
    model and 0.1 for the others; train [M, K] are the labels of the train split, by default those of the test
    split, and so decide the best single model; tasks [N] are those of val and test, and of train where it is theirs,
    else train_tasks [M]; languages [N] are those of test; `holes` is what the benchmark says of its missing labels.
    `changes` replace fields of the CellResult as they are.
    """
    Y = np.asarray(labels, np.float32)
    K = Y.shape[1]
    routes = np.atleast_2d(np.asarray(routes, np.int64))
    if scores is None:
        scores = np.where(routes[:, :, None] == np.arange(K), 0.9, 0.1)
    if costs is not None:
        costs = np.broadcast_to(np.asarray(costs, np.float32), Y.shape).copy()
    learned = Y if train is None else np.asarray(train, np.float32)
    prices = None if costs is None else np.broadcast_to(costs.mean(axis=0), learned.shape).copy()
    dataset = RoutingDataset(
        name=bench,
        models=models or tuple("abcdefghijklmnopqrstuvwxyz"[:K]),
        train=_split("train", learned, prices, tasks=tasks if train is None else train_tasks),
        val=_split("val", Y, costs, tasks=tasks),
        test=_split("test", Y, costs, p_correct, tasks, languages),
        subset=subset,
        holes=holes,
    )
    card = RouterCard(
        name=router,
        title=f"{router}, by hand",
        paper="none",
        year=2026,
        family="hand-made",
        licence="MIT",
        deterministic=deterministic,
        calibrated=calibrated,
    )
    scored = [Scored(val=S, test=S, seconds=1.0) for S in np.asarray(scores, np.float32)]
    measured = [cell.measure(dataset, one, calibrated=calibrated) for one in scored]
    seeds = SEEDS[: len(routes)]
    reference = cell.reference(dataset)
    accuracies = [one.test_accuracy for one in measured]
    queries = files.per_query(dataset, seeds, routes)
    made = {
        name: block.make(dataset, queries.arrays())
        for name, block in blocks.KNOWN.items()
        if block.make is not None and name != findings.NAME  # of texts, which are all the same here
    }
    known = {name: record for name, record in made.items() if record is not None}
    fields = {
        "bench": bench,
        "subset": subset,
        "bench_fingerprint": dataset.fingerprint,
        "router": router,
        "router_distribution": OURS,
        "router_version": "0.1.0",
        "method": cell.Method(
            title=card.title,
            paper=card.paper,
            year=card.year,
            family=card.family,
            licence=card.licence,
            calibrated=calibrated,
            fidelity=(),
        ),
        "encoder": encoder,
        "encoder_identity": f"{encoder}@hand",
        "protocol": "paper",
        "protocol_version": 1,
        "models": dataset.models,
        "variant": {},
        "variant_name": "default",
        "deterministic": deterministic,
        "seeds": seeds,
        "test_accuracy_std": cell.accuracy_std(measured, deterministic=deterministic),
        "val_accuracy": accuracies[0],
        "score_scale": "native" if calibrated else "sigmoid fitted on val",
        "selector_cost": "train mean",
        "reference": reference,
        "per_seed": tuple(measured),
        "configurations": tuple(
            cell.Configuration(
                variant_name="default", seed=seed, val_accuracy=accuracy, test_accuracy=accuracy
            )
            for seed, accuracy in zip(seeds, accuracies, strict=True)
        ),
        "seconds": float(len(seeds)),
        "trials": len(seeds),
        "failed_trials": (),
        "times_test_was_scored": len(seeds),
        "device": "cpu",
        "packages": {OURS: "0.1.0"},
        "blocks": {name: record.model_dump(mode="json") for name, record in known.items()},
        **cell.summary(measured, reference, dataset.models, sure=missing.sure(known.get(missing.NAME))),
    }
    return Entry(
        path=Path(bench) / router / f"{encoder}.json",
        result=cell.CellResult(**(fields | changes)),
        queries=queries,
    )


def write(folder, *entries):
    """Write entries as `rph eval --out` would; returns the folder."""
    for one in entries:
        files.write(folder, one.result, one.queries)
    return folder


def _split(prefix, labels, costs, p_correct=None, tasks=None, languages=()):
    n = len(labels)
    return Split(
        ids=[f"{prefix}{i}" for i in range(n)],
        queries=["a question"] * n,
        tasks=tasks or [""] * n,
        labels=labels,
        costs=costs,
        p_correct=None if p_correct is None else np.asarray(p_correct, np.float32),
        languages=languages,
    )
