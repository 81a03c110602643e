"""Checks that a router learns: planted clusters, labels without meaning, and probabilities where its card promises them."""

from __future__ import annotations

from rph.api import Queries, RouterSpec
from rph.arrays import observed_means
from rph.conformance.requirements import (
    expected_accuracy,
    fit_router,
    require,
    require_probabilities,
    scores_of,
)
from rph.conformance.suite import NotApplicable, owed_once_trained
from rph.conformance.worlds import calibration_world, cluster_world, smooth_world, unrelated_world
from rph.lazy import np
from rph.results import metrics, probabilities


@owed_once_trained
def planted_clusters(spec: RouterSpec) -> None:
    """Where each cluster of queries has its specialist, at least 80% of what Bayes gains is gained."""
    world = cluster_world()
    best = float(world.P.mean(axis=0).max())
    bayes = metrics.bayes_expected(world.P)
    found = expected_accuracy(scores_of(spec, world), world)
    gained = (found - best) / (bayes - best)
    require(
        gained >= 0.8,
        f"{gained:.0%} of the gain: expected accuracy {found:.3f}, best single model {best:.3f}, Bayes {bayes:.3f}",
    )


@owed_once_trained
def unrelated_labels(spec: RouterSpec) -> None:
    """Where labels have nothing to do with queries, accuracy is within 3 s.e. of the best single model's."""
    world = unrelated_world((0.5, 0.75, 0.35, 0.55))
    best = float(world.P[0].max())
    standard_error = (best * (1 - best) / len(world.test)) ** 0.5
    found = expected_accuracy(scores_of(spec, world), world)
    require(
        found >= best - 3 * standard_error,
        f"expected accuracy {found:.3f} where always the best model gives {best:.3f}, s.e. {standard_error:.3f}",
    )


def _require_calibrated_card(spec: RouterSpec) -> None:
    if not spec.variant_card(spec.grid[0]).calibrated:
        raise NotApplicable("the card does not say calibrated")


@owed_once_trained
def calibrated_probabilities(spec: RouterSpec) -> None:
    """Calibrated scores on a logistic law: each model's mean is within .02 of its mean P, and 10-bin ECE < .05."""
    _require_calibrated_card(spec)
    world = calibration_world()
    scores = scores_of(spec, world)
    require_probabilities(scores)
    off = np.abs(scores.mean(axis=0, dtype=np.float64) - world.P.mean(axis=0, dtype=np.float64))
    require(off.max() < 0.02, f"a model's mean score is {off.max():.3f} off its mean P(correct)")
    ece = probabilities.ece(scores, world.P, bins=10)  # against P itself: no luck of labels in it
    require(ece is not None and ece < 0.05, f"the expected calibration error is {ece:.3f}")


@owed_once_trained
def better_than_the_base_rate(spec: RouterSpec) -> None:
    """Calibrated scores on the training queries have a lower cross-entropy than each model's mean label."""
    _require_calibrated_card(spec)
    world = smooth_world(600)
    train = world.train
    found = probabilities.bce(fit_router(spec, world).scores(Queries(X=train.X, texts=train.texts)), train.Y)
    base = probabilities.base_rate_bce(observed_means(train.Y), train.Y)
    require(
        found is not None and base is not None and found < base,
        f"BCE {found:.3f} on the training queries; the mean labels have {base:.3f}",
    )
