"""K-means against scikit-learn, brute force and cases small enough to see through."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worlds import grouped

from rph import Trial
from rph.training import clusters
from rph.training.clusters import ClusterRouter, cluster_means, clustered, kmeans, nearest_centre

NAN = np.nan


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, d=8, seed=0):
    return torch.randn(n, d, generator=chance(seed))


def blobs(n=3000, d=16, groups=12, noise=0.7, seed=0):
    g = chance(seed)
    centres = torch.randn(groups, d, generator=g)
    return centres[torch.randint(groups, (n,), generator=g)] + noise * torch.randn(n, d, generator=g)


@pytest.mark.parametrize(("count", "noise"), [(12, 0.3), (12, 1.0), (60, 1.0)])
def test_the_inertia_is_within_two_percent_of_scikit_learns(count, noise):
    from sklearn.cluster import KMeans

    X = blobs(noise=noise)
    ours = [kmeans(X, count, generator=chance(seed)).inertia for seed in range(8)]
    theirs = [
        KMeans(count, n_init=1, max_iter=100, tol=1e-4, random_state=seed).fit(X.numpy()).inertia_
        for seed in range(8)
    ]
    assert min(ours) <= 1.01 * min(theirs)
    assert np.median(ours) <= 1.02 * np.median(theirs)


def test_the_inertia_is_the_sum_of_squared_distances_to_the_returned_centres():
    X = blobs(500)
    found = kmeans(X, 7, generator=chance())
    assert found.inertia == pytest.approx(float((X - found.centres[found.assignment]).square().sum()), 1e-5)
    assert torch.equal(found.assignment, nearest_centre(X, found.centres))


def test_centres_are_the_means_of_their_rows():
    X = blobs(400, noise=0.1)
    found = kmeans(X, 5, generator=chance())
    for c, centre in enumerate(found.centres):
        assert torch.allclose(centre, X[found.assignment == c].mean(dim=0), atol=1e-2)


def test_well_separated_groups_are_found():
    X = torch.cat([rows(50, seed=1) * 0.01 + 10 * i for i in range(4)])
    found = kmeans(X, 4, generator=chance())
    labels = found.assignment.view(4, 50)
    assert (labels == labels[:, :1]).all() and len(labels[:, 0].unique()) == 4


def test_one_cluster_is_the_mean():
    X = rows(100)
    found = kmeans(X, 1, generator=chance())
    assert torch.allclose(found.centres[0], X.mean(dim=0), atol=1e-6)
    assert (found.assignment == 0).all()


def test_as_many_clusters_as_distinct_rows_puts_every_row_alone():
    X = torch.nn.functional.normalize(rows(60), dim=1)
    found = kmeans(X, 60, generator=chance())
    assert sorted(found.assignment.tolist()) == list(range(60))
    assert found.inertia == 0


@pytest.mark.parametrize("count", [5, 6, 40])
def test_there_are_never_more_centres_than_distinct_rows(count):
    X = torch.nn.functional.normalize(rows(5), dim=1).repeat(8, 1)
    found = kmeans(X, count, generator=chance())
    assert found.centres.shape == (5, 8)
    assert found.inertia == pytest.approx(0, abs=1e-10)
    assert torch.isfinite(found.centres).all()


def test_more_clusters_than_rows_gives_a_cluster_per_row():
    found = kmeans(rows(3), 50, generator=chance())
    assert len(found.centres) == 3 and sorted(found.assignment.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("X", [torch.zeros(20, 4), torch.ones(20, 4), torch.ones(1, 4)])
def test_identical_rows_are_one_cluster(X):
    found = kmeans(X, 7, generator=chance())
    assert len(found.centres) == 1 and found.inertia == 0


def test_a_centre_without_rows_moves_to_the_row_farthest_from_its_own_centre():
    X = torch.tensor([[0.0], [1.0], [9.0]])
    moved = clusters._means(X, torch.tensor([[0.5], [100.0]]), torch.tensor([0, 0, 0]))
    assert moved.tolist() == [[0.5], [9.0]]  # row 9.0 leaves the first cluster, whose mean is of 0 and 1


def test_a_cluster_that_gives_all_its_rows_away_keeps_its_centre():
    X = torch.tensor([[0.0], [9.0]])
    moved = clusters._means(X, torch.tensor([[4.0], [100.0], [200.0]]), torch.tensor([0, 0]))
    assert moved[0].tolist() == [4.0]
    assert sorted(moved[1:, 0].tolist()) == [0.0, 9.0]


def test_the_same_seed_gives_the_same_clusters_and_another_seed_others():
    X = rows(500)
    first, again, other = (kmeans(X, 20, generator=chance(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.centres, again.centres) and torch.equal(first.assignment, again.assignment)
    assert not torch.equal(first.centres, other.centres)


def test_clustering_leaves_its_input_and_torchs_global_state_alone():
    X = rows(200)
    before, state = X.clone(), torch.get_rng_state()
    kmeans(X, 10, generator=chance())
    assert torch.equal(X, before) and torch.equal(torch.get_rng_state(), state)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 10**6))
def test_nearest_is_the_centre_at_the_smallest_distance_in_any_block_size(n, count, seed):
    X, centres = rows(n, 5, seed), rows(count, 5, seed + 1)
    brute = ((X[:, None] - centres) ** 2).sum(dim=2).argmin(dim=1)
    block, clusters.BLOCK = clusters.BLOCK, 37
    try:
        in_blocks = nearest_centre(X, centres)
    finally:
        clusters.BLOCK = block
    assert torch.equal(in_blocks, brute) and torch.equal(nearest_centre(X, centres), brute)


def test_rows_added_in_order_have_the_same_sums():
    X, assignment = rows(300), torch.randint(9, (300,), generator=chance())
    assignment[assignment == 4] = 3  # an empty cluster
    counts = torch.bincount(assignment, minlength=10)
    sums = clusters._sums(X, assignment, counts)
    assert torch.allclose(sums, clusters._sums_in_order(X, assignment, counts), atol=1e-4)
    assert (sums[4] == 0).all() and (sums[9] == 0).all()


def test_cluster_means_by_hand():
    Y = np.array([[1, 0, NAN], [0, NAN, NAN], [1, 1, NAN], [1, 1, NAN]], np.float32)
    assignment = torch.tensor([0, 0, 1, 1])  # cluster 2 is empty
    # Where no label is, the levels stand in. The first is complete: its mean. The second was observed on three of the four
    # queries, where it is 1/3 behind the first: 3/4 - 1/3 = 5/12, drawn to the pool's middle by 3 / (3 + 20 (1 - 3/4)),
    # which is what it counts there.
    middle = (0.75 + 3 / 8 * 5 / 12) / (1 + 3 / 8)
    p = [0.75, middle + (5 / 12 - middle) * 3 / 8, 0]
    p[2] = (p[0] + p[1]) / 2  # the last was never run: the mean of the others
    plain = cluster_means(Y, assignment, 3, shrinkage=0)
    assert plain == pytest.approx(np.array([[0.5, 0, p[2]], [1, 1, p[2]], p]))
    shrunk = cluster_means(Y, assignment, 3, shrinkage=2)
    row0 = [(1 + 2 * p[0]) / 4, (0 + 2 * p[1]) / 3, p[2]]
    row1 = [(2 + 2 * p[0]) / 4, (2 + 2 * p[1]) / 4, p[2]]
    assert shrunk == pytest.approx(np.array([row0, row1, p]))
    assert plain.dtype == np.float32


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 10**6))
def test_cluster_means_weighted_by_size_are_the_overall_means(n, count, seed):
    rng = np.random.default_rng(seed)
    Y = (rng.random((n, 3)) < 0.5).astype(np.float32)
    assignment = rng.integers(0, count, n)
    means = cluster_means(Y, torch.tensor(assignment), count, shrinkage=0)
    sizes = np.bincount(assignment, minlength=count)
    assert sizes @ means / n == pytest.approx(Y.mean(axis=0), abs=1e-5)


# --- routers that learn from clusters -----------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    clusters: int
    scale: float = 1.0


class Sizes(ClusterRouter):
    """Every query has the sizes of the clusters as scores."""

    def learn(self, found, known, variant, device):
        self.known = known
        self.sizes = variant.scale * np.bincount(found.assignment.numpy(), minlength=len(found.centres))

    def scores(self, queries):
        return np.tile(self.sizes, (len(queries), 1))


def test_a_router_learns_from_the_clusters_of_the_queries_with_a_label():
    train = grouped(100)
    train.Y[:30] = NAN
    router = Sizes()
    router.fit(train, train, variant=Config(clusters=3), seed=5, device="cpu")
    assert len(router.known) == 70
    X = torch.tensor(router.known.unit)
    wanted = kmeans(X, 3, generator=chance(5)).assignment.bincount()
    assert router.sizes.tolist() == wanted.tolist()


@pytest.mark.parametrize(("queries", "most"), [(19, 1), (39, 1), (40, 2), (199, 9)])
def test_there_is_at_most_one_cluster_per_twenty_queries(queries, most):
    router = Sizes()
    router.fit(grouped(queries), grouped(10), variant=Config(clusters=50), seed=0, device="cpu")
    assert len(router.sizes) == most


def test_trials_of_equal_seed_and_number_of_clusters_share_one_clustering(monkeypatch):
    calls = []
    monkeypatch.setattr(clusters, "kmeans", lambda X, n, **how: calls.append(n) or kmeans(X, n, **how))
    train = grouped(200)
    variants = [Config(4), Config(4, scale=2.0), Config(10), Config(50)]  # the cap is 10
    trials = [Trial(variant=variant, seed=seed) for seed in (1, 2) for variant in variants]
    together = clustered(Sizes)(train, train, trials, "cpu").scores(train)
    assert calls == [4, 10, 4, 10]
    for trial, found in zip(trials, together, strict=True):
        router = Sizes()
        router.fit(train, train, variant=trial.variant, seed=trial.seed, device="cpu")
        assert np.array_equal(found, router.scores(train))
