"""The LSA encoder: what a term is, what a row depends on, and how well it routes the real queries."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from rph_plugins.encoders import lsa

from rph import RoutingDataset, RphError, Split
from rph.encoding import cache

TRAIN = [
    "a cat sat on a mat",
    "a dog sat on a log",
    "the cat and the dog",
    "佛教四大天王",
    "天王是谁",
    "2 + x = 5",
]


def fitted(texts=TRAIN):
    encoder = lsa.LSA()
    encoder.fit(texts)
    return encoder


def encode(texts, encoder=None):
    return (encoder or fitted()).encode(texts, device="cpu")


def test_a_term_is_a_run_of_word_characters_or_one_ideograph():
    assert re.findall(lsa.TERM, "A TCP/x2 f_1: 天王, カ 5") == [
        "A",
        "TCP",
        "x2",
        "f_1",
        "天",
        "王",
        "カ",
        "5",
    ]


def test_rows_have_norm_one_and_as_many_dimensions_as_the_train_queries_span():
    X = encode(TRAIN)
    assert X.dtype == np.float32
    assert X.shape == (6, 6)
    assert np.allclose(np.linalg.norm(X, axis=1), 1, atol=1e-6)
    assert encode(TRAIN, fitted([*TRAIN, TRAIN[0]])).shape == (6, 6)  # a repeated query spans nothing new


def test_with_all_dimensions_kept_products_are_those_of_tfidf():
    from sklearn.feature_extraction.text import TfidfVectorizer

    T = TfidfVectorizer(token_pattern=lsa.TERM, ngram_range=(1, 2), sublinear_tf=True).fit_transform(TRAIN)
    X = encode(TRAIN)
    assert np.allclose(X @ X.T, (T @ T.T).toarray(), atol=1e-5)


def test_of_terms_that_are_as_frequent_as_the_last_the_first_by_their_letters_are_kept(monkeypatch):
    monkeypatch.setattr(lsa, "TERMS", 3)
    assert lsa.vocabulary(["d d d", "c b", "b a c"]) == [
        "b",
        "c",
        "d",
    ]  # "d d" and b, c are there twice, d thrice
    monkeypatch.setattr(lsa, "TERMS", 2)
    assert lsa.vocabulary(["d d d", "c b", "b a c"]) == ["b", "d"]


def test_the_vocabulary_is_that_of_scikit_learn_where_no_tie_is_cut():
    from sklearn.feature_extraction.text import TfidfVectorizer

    theirs = TfidfVectorizer(token_pattern=lsa.TERM, ngram_range=(1, 2)).fit(TRAIN)
    assert lsa.vocabulary(TRAIN) == theirs.get_feature_names_out().tolist()


def test_another_processor_keeps_the_same_terms():
    """Many terms of one frequency, of which some are cut; without its SIMD sorts numpy leaves equals in another order."""
    from numpy._core._multiarray_umath import __cpu_dispatch__  # all that this build can be told to leave out

    script = (
        "import hashlib, json, numpy as np; from rph_plugins.encoders import lsa; lsa.TERMS = 500\n"
        "rng = np.random.default_rng(0)\n"
        "texts = [' '.join(f'w{i}' for i in rng.integers(0, 2000, 12)) for _ in range(900)]\n"
        "encoder = lsa.LSA(); encoder.fit(texts)\n"
        "print(json.dumps([lsa.vocabulary(texts), encoder.encode(texts[:50], device='cpu').tolist()]))"
    )
    found = []
    for disabled in ("", " ".join(__cpu_dispatch__)):
        environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout))
    assert found[0][0] == found[1][0]
    rows = [np.array(vectors) for _, vectors in found]
    # Directions may be turned where singular values are equal: what is read of vectors are their products.
    assert np.allclose(rows[0] @ rows[0].T, rows[1] @ rows[1].T, atol=1e-5)


def test_queries_that_share_words_are_near_and_others_are_not():
    X = encode(["the cat sat", "a dog and a cat", "谁是天王", "5 = x"])
    similar = X @ X.T
    assert similar[0, 1] > 0.3
    assert abs(similar[0, 2]) < 1e-5 and abs(similar[2, 3]) < 1e-5


def test_a_query_without_a_known_term_is_a_zero_row():
    assert encode(["zebra", "", "!?", "cat"]).any(axis=1).tolist() == [False, False, False, True]


def test_a_row_does_not_depend_on_the_other_texts():
    encoder = fitted()
    together = encode(["cat", *TRAIN, "dog 5"], encoder)
    alone = np.concatenate([encode([text], encoder) for text in ["cat", *TRAIN, "dog 5"]])
    assert np.array_equal(together, alone)


def test_two_fits_give_the_same_bits_with_one_thread_or_two(tmp_path):
    code = (
        "import sys, numpy as np; from rph_plugins.encoders.lsa import LSA;"
        "rng = np.random.default_rng(0); words = [f'w{i}' for i in range(300)];"
        "texts = [' '.join(rng.choice(words, 20)) for _ in range(1500)];"
        "e = LSA(); e.fit(texts); np.save(sys.argv[1], e.encode(texts[:50], device='cpu'))"
    )
    saved = []
    for run, threads in enumerate(["1", "2", "2"]):
        path = tmp_path / f"{run}.npy"
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        subprocess.run(
            [sys.executable, "-c", code, path], check=True, env={**dict.fromkeys(names, threads), "PATH": ""}
        )
        saved.append(np.load(path))
    assert saved[0].shape == (50, 256)
    assert np.array_equal(saved[0], saved[1]) and np.array_equal(saved[1], saved[2])


def test_a_term_of_one_query_counts_only_where_queries_are_few():
    common = [f"shared{i % 50}" for i in range(1000)]
    few, many = fitted([*common[:998], "rare"]), fitted([*common, "rare"])
    assert encode(["rare"], few).any()
    assert not encode(["rare"], many).any()


def test_train_queries_without_any_term_are_said():
    with pytest.raises(RphError, match="'lsa' found no terms in 2 train queries"):
        fitted(["", "?!"])


def test_encoding_before_fitting_is_said():
    with pytest.raises(RphError, match="before it was fitted"):
        lsa.LSA().encode(["a"], device="cpu")


def test_the_identity_names_the_library_that_decides_the_vectors():
    import sklearn

    assert lsa.LSA().identity() == f"scikit-learn {sklearn.__version__}"


def test_importing_the_plugin_imports_no_heavy_library():
    code = (
        "import sys; from rph_plugins.encoders.lsa import register_encoder as r; r().build().identity();"
        "print([m for m in ('numpy', 'sklearn', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.real_data
def test_on_real_queries_its_neighbours_route_better_than_the_best_single_model(real_data):
    import pandas as pd

    splits = {}
    for name in ("train", "val", "test"):
        table = pd.read_parquet(real_data / "routerdc7" / f"{name}.parquet")
        labels = table.filter(like="correct/").to_numpy(np.float32)
        splits[name] = Split(ids=list(table["id"]), queries=list(table["query"]), tasks=[], labels=labels)
    data = RoutingDataset(name="routerdc7", models=tuple("abcdefg"), **splits)
    spec, encoder = lsa.register_encoder(), lsa.LSA()
    started = time.process_time()
    got = cache.embed(data, spec, encoder, device="cpu")
    assert time.process_time() - started < 60  # 13 seconds on a quiet core
    assert got.train.shape == (14395, 256)
    means = data.train.labels.mean(axis=0)
    nearest = np.argpartition(-(got.test @ got.train.T), 100, axis=1)[:, :100]
    scores = data.train.labels[nearest].mean(axis=1) + 1e-6 * means
    accuracy = data.test.labels[np.arange(len(scores)), scores.argmax(axis=1)].mean()
    best_single = data.test.labels[:, means.argmax()].mean()
    assert best_single == pytest.approx(0.573, abs=0.001)
    assert accuracy == pytest.approx(0.611, abs=0.005)
