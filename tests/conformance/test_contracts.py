"""What an encoder and a benchmark owe: sound ones pass, and each fault is found and named."""

from dataclasses import replace

import numpy as np
import pytest
from tests import toys

from rph import BenchmarkCard, BenchmarkSpec, EncoderSpec, RoutingDataset, Split, UsageError
from rph.conformance.benchmarks import wrong_with_benchmark
from rph.conformance.encoders import wrong_with_encoder
from rph.registry import installed

pytest_plugins = ["pytester"]


# --- encoders -----------------------------------------------------------------------------------------


class Lengths:
    """A text's length and its words, scaled to length 1."""

    def identity(self):
        return "lengths 1"

    def fit(self, train_texts):
        raise AssertionError("the card does not say fitted")

    def encode(self, texts, *, device):
        X = np.array([[len(text), len(text.split())] for text in texts], np.float32)
        return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1)


CARD = toys.encoder_card(name="lengths", dim=2, pooling="none", normalise=True, citation="c")


class AnotherEachTime(Lengths):
    made = 0

    def identity(self):
        AnotherEachTime.made += 1
        return f"number {AnotherEachTime.made}"


class Doubles(Lengths):
    def encode(self, texts, *, device):
        return super().encode(texts, device=device).astype(np.float64)


class Lists(Lengths):
    def encode(self, texts, *, device):
        return super().encode(texts, device=device).tolist()


class NotFinite(Lengths):
    def encode(self, texts, *, device):
        X = super().encode(texts, device=device)
        X[[not text for text in texts]] = np.nan
        return X


class Long(Lengths):
    def encode(self, texts, *, device):
        return 2 * super().encode(texts, device=device)


class OfTheBatch(Lengths):
    def encode(self, texts, *, device):
        X = super().encode(texts, device=device)
        return X if len(texts) > 1 else X[:, ::-1].copy()


class OfTheOrder(Lengths):
    def encode(self, texts, *, device):
        X = super().encode(texts, device=device)
        X[0] = X[0, ::-1]
        return X if len(texts) > 1 else super().encode(texts, device=device)


class Raises(Lengths):
    def encode(self, texts, *, device):
        raise ValueError("too long")


def encoder(kind, **card):
    return EncoderSpec(card=replace(CARD, **card), build=kind)


def test_sound_encoders_have_nothing_wrong():
    assert wrong_with_encoder(encoder(Lengths)) == []
    assert wrong_with_encoder(encoder(Long, normalise=False)) == []
    assert wrong_with_encoder(installed().load("encoder", "lsa").spec) == []  # a fitted one


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (encoder(AnotherEachTime), "identity() is no text, or not the same"),
        (encoder(Doubles), "give float64 (7, 2), not a float32 array"),
        (encoder(Lists), "give list, not a float32 array"),
        (encoder(NotFinite), "1 of 7 vectors are not finite"),
        (encoder(Long), "the card says normalise, and vectors have lengths from 0 to 2"),
        (encoder(Lengths, dim=3), "vectors have 2 dimensions, and the card says 3"),
        (encoder(OfTheBatch), "6 of 7 texts have another vector when encoded alone"),
        (encoder(OfTheOrder), "have another vector when encoded in another order"),
        (encoder(Raises), "ValueError: too long"),
        (encoder(Lengths, fitted=True), "AssertionError: the card does not say fitted"),
    ],
)
def test_a_fault_of_an_encoder_is_named(spec, says):
    assert any(says in problem for problem in wrong_with_encoder(spec))


def test_all_faults_are_named_and_options_reach_the_encoder():
    class Sized(Long):
        def __init__(self, size=2):
            self.size = size

        def encode(self, texts, *, device):
            return np.tile(super().encode(texts, device=device), self.size // 2)

    spec = encoder(Sized)
    assert len(wrong_with_encoder(spec)) == 1  # the length
    assert len(wrong_with_encoder(spec, size=4)) == 2  # and the dimension


# --- benchmarks ---------------------------------------------------------------------------------------


def split(start, costs=True):
    ids = [f"q{i}" for i in range(start, start + 3)]
    labels = np.array([[1, 0], [0, np.nan], [1, 1]], np.float32)
    return Split(
        ids=ids,
        queries=ids,
        tasks=[""] * 3,
        labels=labels,
        costs=np.full((3, 2), 0.01, np.float32) if costs else None,
    )


def load(costs=True, shift=0):
    return RoutingDataset(
        name="toy", models=("a", "b"), train=split(shift, costs), val=split(10, costs), test=split(20, costs)
    )


def benchmark(load=load, **card):
    plain = BenchmarkCard(
        name="toy",
        title="t",
        citation="c",
        url="",
        licence="MIT",
        models=("a", "b"),
        splits={"train": 3, "val": 3, "test": 3},
        costs=True,
        label_rule="l",
        split_rule="s",
    )
    return BenchmarkSpec(card=replace(plain, **card), load=load)


def refuses():
    raise UsageError("no file", fix="pull it")


def test_sound_benchmarks_have_nothing_wrong():
    assert wrong_with_benchmark(benchmark()) == []
    assert wrong_with_benchmark(benchmark(models=(), splits=None)) == []
    assert wrong_with_benchmark(benchmark(splits={"train": 9, "val": 3, "test": 3}, load=subset)) == []
    assert wrong_with_benchmark(installed().load("benchmark", "synthetic").spec, n=50, k=3) == []


def subset():
    return replace(load(), subset="a third of the train queries")


def another_each_time():
    another_each_time.shift = getattr(another_each_time, "shift", 100) + 10
    return load(shift=another_each_time.shift)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (benchmark(models=("b", "a")), "the card names 2 models, b, a; the data have a, b"),
        (benchmark(splits={"train": 4, "val": 3, "test": 3}), "the card says {'train': 4"),
        (benchmark(costs=False), "the card says no costs, and there are some"),
        (benchmark(load=lambda: load(costs=False)), "the card says costs, and there are none"),
        (benchmark(load=another_each_time), "the fingerprints differ"),
        (benchmark(load=lambda: load(shift=10)), "id 'q10' is also in split 'train'"),
        (benchmark(load=refuses), "no file fix: pull it"),
        (benchmark(load=lambda: 1 / 0), "ZeroDivisionError"),
    ],
)
def test_a_fault_of_a_benchmark_is_named(spec, says):
    assert any(says in problem for problem in wrong_with_benchmark(spec))


# --- pytest's face ------------------------------------------------------------------------------------


def test_the_fixtures_in_a_plugin_authors_tests(pytester):
    pytester.makepyfile(
        """
        from dataclasses import replace
        from rph.registry import installed

        pytest_plugins = ["rph.testing"]
        SYNTHETIC = installed().load("benchmark", "synthetic").spec

        def test_by_name(check_encoder, check_benchmark):
            check_encoder("lsa")
            check_benchmark("synthetic", n=50, k=3)

        def test_wrong_cards(check_benchmark):
            check_benchmark(replace(SYNTHETIC, card=replace(SYNTHETIC.card, costs=False)), n=50)
        """
    )
    outcome = pytester.runpytest("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=1, failed=1)
    outcome.stdout.fnmatch_lines(
        ["*benchmark 'synthetic' does not conform:", "*no costs, and there are some*"]
    )
