"""The shared neighbour search: exact, in one order, and blind to how queries are grouped."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rph import Labelled, UsageError
from rph.arrays import to_device
from rph.training.neighbours import BLOCK, blocks_for, nearest


def unit(n, d=8, seed=0):
    X = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def search(queries, train, k):
    found = list(nearest(queries, train, k, "cpu"))
    rows = np.concatenate([rows.numpy() for _, rows, _ in found])
    cosines = np.concatenate([cosines.numpy() for _, _, cosines in found])
    return rows, cosines


def test_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    train, queries = unit(700, 32), unit(40, 32, seed=1)
    rows, cosines = search(queries, train, 25)
    distances, expected = NearestNeighbors(n_neighbors=25, metric="cosine").fit(train).kneighbors(queries)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(1 - cosines, distances, atol=1e-6)


def test_the_slices_cover_the_queries_in_order_and_the_last_block_is_not_padded():
    slices = [block for block, _, _ in nearest(unit(2 * BLOCK + 3), unit(20), 2, "cpu")]
    assert [(s.start, s.stop) for s in slices] == [
        (0, BLOCK),
        (BLOCK, 2 * BLOCK),
        (2 * BLOCK, 2 * BLOCK + 3),
    ]
    assert [len(rows) for _, rows, _ in nearest(unit(BLOCK + 3), unit(20), 2, "cpu")] == [BLOCK, 3]


def test_no_queries_give_no_blocks():
    assert list(nearest(unit(0), unit(5), 2, "cpu")) == []


def test_k_is_clipped_to_the_number_of_training_queries():
    rows, _ = search(unit(3), unit(5), 512)
    assert rows.shape == (3, 5)
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in rows.tolist())


@pytest.mark.parametrize("k", [0, 3])
def test_without_neighbours_the_arrays_are_empty(k):
    train = unit(5) if k == 0 else unit(0)
    rows, cosines = search(unit(4), train, k)
    assert rows.shape == cosines.shape == (4, 0)


def test_equal_cosines_are_ordered_by_train_row_inside_and_at_the_edge():
    train = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    rows, cosines = search(np.array([[1, 0]], np.float32), train, 5)
    assert rows.tolist() == [[1, 3, 4, 0, 2]]
    assert cosines.tolist() == [[1, 1, 1, 0, 0]]
    assert search(np.array([[1, 0]], np.float32), train, 2)[0].tolist() == [[1, 3]]


def test_a_query_of_zeros_is_as_near_to_every_training_query_and_gets_the_first():
    rows, _ = search(np.zeros((2, 8), np.float32), unit(50), 4)
    assert rows.tolist() == [[0, 1, 2, 3]] * 2


@settings(max_examples=60)
@given(st.data())
def test_with_repeated_rows_neighbours_are_a_stable_sort_and_its_prefixes(data):
    seed = data.draw(st.integers(0, 10_000))
    distinct = data.draw(st.integers(1, 12))
    n = data.draw(st.integers(1, 80))
    k = data.draw(st.integers(1, 90))
    picked = np.random.default_rng(seed).integers(0, distinct, n)
    train, queries = unit(distinct, seed=seed)[picked], unit(70, seed=seed + 1)
    # The cosines of distinct rows, looked up, so that copies of one row have one value in the check too.
    cosines = (queries.astype(np.float64) @ unit(distinct, seed=seed).T.astype(np.float64))[:, picked]
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(search(queries, train, k)[0], expected)


def test_neighbours_do_not_depend_on_the_batch():
    train, queries = unit(1003, 48), unit(BLOCK + 90, 48, seed=1)
    rows, cosines = search(queries, train, 100)
    for some in (slice(0, 1), slice(7, 9), slice(200, BLOCK + 50), slice(None, None, -1)):
        part_rows, part_cosines = search(np.ascontiguousarray(queries[some]), train, 100)
        np.testing.assert_array_equal(part_rows, rows[some])
        np.testing.assert_array_equal(part_cosines, cosines[some])


def heights(queries):
    return [len(rows) for _, rows, _ in nearest(unit(queries), unit(20), 2, "cpu")]


@pytest.mark.parametrize(
    ("queries", "expected"),
    [(1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (200, 256), (257, 256)],
)
def test_few_queries_are_searched_in_small_blocks_and_others_afterwards_are_not(queries, expected):
    with blocks_for(queries), blocks_for(queries):
        assert heights(600)[:-1] == [expected] * (-(-600 // expected) - 1)
        with ThreadPoolExecutor() as others:
            assert others.submit(heights, 600).result() == [256, 256, 88]
    assert heights(600) == [256, 256, 88]


def test_the_search_in_small_blocks_finds_the_same_neighbours():
    train, queries = unit(1003, 48), unit(300, 48, seed=1)
    whole = search(queries, train, 10)
    with blocks_for(1):
        rows, cosines = search(queries, train, 10)
    np.testing.assert_array_equal(rows, whole[0])
    np.testing.assert_allclose(cosines, whole[1], rtol=0, atol=1e-6)


def test_a_read_only_memory_mapped_array_is_used_in_place_and_without_a_warning(tmp_path):
    np.save(tmp_path / "X.npy", unit(300))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = to_device(mapped, "cpu")
        rows, _ = search(mapped[:10], mapped, 1)
    assert tensor.data_ptr() == mapped.ctypes.data
    assert rows[:, 0].tolist() == list(range(10))


def test_sharing_a_read_only_array_leaves_other_warnings_alone():
    before = list(warnings.filters)
    read_only = unit(3)
    read_only.flags.writeable = False
    to_device(read_only, "cpu")
    assert list(warnings.filters) == before


def test_the_search_writes_to_none_of_its_inputs():
    train, queries = unit(60), unit(9, seed=1)
    copies = train.copy(), queries.copy()
    search(queries, train, 7)
    np.testing.assert_array_equal(train, copies[0])
    np.testing.assert_array_equal(queries, copies[1])


def labelled(X, Y):
    return Labelled(X=X, texts=[""] * len(X), Y=Y, C=None, models=tuple("abcdefgh"[: Y.shape[1]]))


def test_observed_is_the_training_data_itself_where_every_query_has_a_label():
    X, Y = unit(4), np.array([[1, np.nan], [0, 1], [np.nan, 0], [1, 1]], np.float32)
    train = labelled(X, Y)
    assert train.observed is train and train.unit is X


def test_observed_leaves_out_queries_without_any_label():
    X, Y = unit(3), np.array([[1, np.nan], [np.nan, np.nan], [np.nan, 0]], np.float32)
    known = labelled(X, Y).observed
    np.testing.assert_array_equal(known.X, X[[0, 2]])
    np.testing.assert_array_equal(known.Y, Y[[0, 2]])
    assert len(known.texts) == 2


def test_observed_says_so_where_nothing_was():
    with pytest.raises(UsageError, match="no training query has a label"):
        _ = labelled(unit(2), np.full((2, 2), np.nan, np.float32)).observed


@pytest.mark.gpu
def test_the_gpu_finds_the_same_neighbours():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    train, queries = unit(2000, 64), unit(300, 64, seed=1)
    on_gpu = np.concatenate([rows.cpu().numpy() for _, rows, _ in nearest(queries, train, 50, "cuda")])
    assert (on_gpu == search(queries, train, 50)[0]).mean() > 0.999  # rounding differs between devices
