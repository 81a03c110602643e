"""Whole cells on a toy benchmark: what is reported, what is stored, and what a router can never see."""

from importlib.metadata import entry_points

import numpy as np
import pytest
from rph_plugins.executors.local import Local
from tests import toys

from rph import embed, run
from rph.errors import UsageError
from rph.protocol import PRESETS
from rph.registry import Registry
from rph.run import Settings, benchmark_loader, build_encoder, evaluate, parse_name, typed_options
from rph.store import Store

PAPER = Settings(preset=PRESETS["paper"], device="cpu")


class Silent:
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def embedding(self, what, done, total):
        pass

    def trial(self, cell, done, total):
        pass


class World:
    """A toy benchmark, a toy plugin and a store in a folder, and a log of what was trained and encoded."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.log = folder, folder / "log"
        monkeypatch.setenv("TOY_LOG", str(self.log))
        self.bench = toys.write_bench(folder / "bench")
        self.plugin = toys.write_plugin(folder / "plugin.py")
        self.store = folder / "store"

    def evaluate(self, settings=PAPER, bench=None, store=None):
        registry = Registry(entry_points(group="rph"))
        registry.add_file(self.plugin)
        opened = Store(store or self.store)
        self.report = Silent()
        return evaluate(
            registry,
            opened,
            settings,
            self.report,
            benches=[str(bench or self.bench)],
            encoders=["numbers"],
            routers=["toy"],
            executor=Local(),
        )

    def lines(self, start):
        return [line for line in self.log.read_text().splitlines() if line.startswith(start)]


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_the_headline_is_computed_from_the_labels_by_hand(world):
    (result,) = world.evaluate().results
    frames = toys.tables()
    train, test = (frames[name].filter(like="correct/").to_numpy() for name in ("train", "test"))
    best = train.mean(axis=0).argmax()
    assert result.best_single == pytest.approx(test[:, best].mean())
    assert result.oracle == pytest.approx(test.max(axis=1).mean())
    assert result.random == pytest.approx(test.mean())
    assert result.reference.best_single_model == "large"
    assert (result.n_test, result.coverage) == (30, 1.0)
    gap = (result.test_accuracy_mean - result.best_single) / (result.oracle - result.best_single)
    assert result.gap_closed == pytest.approx(gap)
    accuracies = [seed.test_accuracy for seed in result.per_seed]
    assert result.test_accuracy_mean == pytest.approx(np.mean(accuracies))
    assert result.test_accuracy_std == pytest.approx(np.std(accuracies, ddof=1))
    assert result.seeds == (42, 1337, 2026, 7, 99)
    assert result.trials == 7 + 5 * 4 == result.times_test_was_scored
    assert sum(result.selection_share.values()) == pytest.approx(1)
    assert list(result.utility) == ["0", "0.2", "0.5", "0.7", "0.9"]
    assert result.utility["0"] == pytest.approx(result.test_accuracy_mean)
    assert result.score_scale == "sigmoid fitted on val" and result.utility_native is not None
    assert (
        result.test_accuracy_mean > result.best_single
    )  # 'small' on even numbers, else 'large' is easy to learn


def test_nothing_finished_is_trained_or_encoded_again(world):
    first = world.evaluate()
    fits, encoded = world.lines("fit"), world.lines("encode")
    assert len(fits) == len(set(fits)) == 27
    assert len(encoded) == len(set(encoded)) == sum(toys.SIZES.values())
    second = world.evaluate()
    assert (world.lines("fit"), world.lines("encode")) == (fits, encoded)
    assert second.results == first.results


def test_equal_rows_under_another_name_share_trials_and_keep_their_own_name(world):
    (first,) = world.evaluate().results
    fits = world.lines("fit")
    (other,) = world.evaluate(bench=toys.write_bench(world.folder / "again", name="twin")).results
    assert (first.bench, other.bench) == ("toy", "twin")
    assert first.bench_fingerprint == other.bench_fingerprint and world.lines("fit") == fits
    assert world.evaluate().results == [first]


def test_a_small_preset_is_continued_by_the_full_protocol(world):
    world.evaluate(Settings(preset=PRESETS["smoke"], device="cpu"))
    assert len(world.lines("fit")) == 1
    (result,) = world.evaluate().results
    assert len(world.lines("fit")) == 27
    assert result.protocol == "paper"


def test_an_edited_router_is_trained_again(world):
    world.evaluate(Settings(preset=PRESETS["smoke"], device="cpu"))
    source = world.plugin.read_text()
    other = world.folder / "edited.py"
    other.write_text(
        source.replace("lstsq(train.X, Y, rcond=None)[0]", "lstsq(train.X, 1 - Y, rcond=None)[0]")
    )
    world.plugin = other
    (result,) = world.evaluate(Settings(preset=PRESETS["smoke"], device="cpu")).results
    assert len(world.lines("fit")) == 2
    assert result.times_test_was_scored == 2  # both versions looked at test


def test_one_seed_has_no_standard_deviation(world):
    (result,) = world.evaluate(Settings(preset=PRESETS["smoke"], device="cpu")).results
    assert result.test_accuracy_std is None and result.seeds == (42,)


def stored_scores(folder):
    return {path.name: np.load(path) for path in folder.glob("scores/*/*.npz")}


def poisoned(frames):
    """Test labels turned round and test costs absurd: whoever reads them gives other scores."""
    test = frames["test"]
    for column in test.columns:
        if column.startswith("correct/"):
            test[column] = 1 - test[column]
        if column.startswith("cost/"):
            test[column] = 1000.0
    return frames


@pytest.mark.parametrize("router", ["knn", "elo", "kmeans", "mlp", "toy"])
def test_poisoned_test_labels_and_costs_change_nothing_a_router_does(world, router):
    other = toys.write_bench(world.folder / "poisoned", poisoned(toys.tables()))
    scores = []
    for bench, store in ((world.bench, "clean"), (other, "poisoned")):
        registry = Registry(entry_points(group="rph"))
        registry.add_file(world.plugin)
        opened = Store(world.folder / store)
        preset = PRESETS["quick"]
        outcome = evaluate(
            registry,
            opened,
            Settings(preset=preset, device="cpu"),
            Silent(),
            benches=[str(bench)],
            encoders=["numbers"],
            routers=[router],
            executor=Local(),
        )
        (result,) = outcome.results
        dataset = benchmark_loader(registry, str(bench))()
        pair = run.Pair(dataset, build_encoder(registry, "numbers"), PAPER, Silent())
        cell = run.Cell(pair, registry.load("router", router), opened)
        trials = [
            run.Trial(variant=variant, seed=seed)
            for variant in cell.spec.grid[: preset.variants]
            for seed in (preset.seeds[:1] if cell.spec.card.deterministic else preset.seeds)
        ]
        scores.append(([opened.get(cell.identify(trial)) for trial in trials], result))
    (clean, clean_result), (bad, bad_result) = scores
    for one, another in zip(clean, bad, strict=True):
        np.testing.assert_array_equal(one.val, another.val)
        np.testing.assert_array_equal(one.test, another.test)
    assert clean_result.variant == bad_result.variant
    assert clean_result.val_accuracy == bad_result.val_accuracy
    assert clean_result.test_accuracy_mean != bad_result.test_accuracy_mean  # only the measurement moved


def test_score_recomputes_everything_and_trains_nothing(world):
    (first,) = world.evaluate().results
    fits = world.lines("fit")
    (again,) = world.evaluate(Settings(preset=PRESETS["paper"], device="cpu", train=False)).results
    assert again == first
    assert world.lines("fit") == fits


def test_score_says_what_is_missing(world):
    outcome = world.evaluate(Settings(preset=PRESETS["paper"], device="cpu", train=False))
    assert outcome.results == [] and outcome.exit_code == 1
    assert "7 of 7 trials are not in the store" in str(outcome.failures[0].error)
    assert not world.log.exists()


def test_a_failing_variant_costs_only_itself(world):
    grid = '(Config(noise=0.0), Config(fault="raise"), Config(fault="nan"), Config(fault="shape"))'
    toys.write_plugin(world.folder / "faulty.py", grid)
    world.plugin = world.folder / "faulty.py"
    outcome = world.evaluate()
    assert outcome.exit_code == 1
    (result,) = outcome.results
    assert result.variant == {"noise": 0.0, "fault": ""}
    assert len(result.failed_trials) == len(outcome.failures) == 3
    assert "RuntimeError: this variant is broken" in outcome.failures[0].traceback
    before = len(world.lines("fit"))
    world.evaluate()
    assert len(world.lines("fit")) == before + 3  # failures are tried again, nothing else


def test_a_router_whose_every_variant_fails_fails_its_cell(world):
    toys.write_plugin(world.folder / "faulty.py", '(Config(fault="raise"),)')
    world.plugin = world.folder / "faulty.py"
    outcome = world.evaluate()
    assert outcome.results == [] and outcome.exit_code == 1
    assert "no variant finished" in str(outcome.failures[-1].error)


def test_unobserved_labels_lower_coverage_and_are_never_wrong_answers(world):
    frames = toys.tables()
    frames["test"]["correct/large"] = np.nan
    bench = toys.write_bench(world.folder / "partial", frames, name="partial")
    (result,) = world.evaluate(Settings(preset=PRESETS["smoke"], device="cpu"), bench=bench).results
    assert 0 < result.selection_share["large"] < 1
    assert result.coverage == pytest.approx(1 - result.selection_share["large"])
    # What is left was sent to 'small', which is right on every even number and sent no other.
    assert result.test_accuracy_mean == 1.0


def test_without_costs_there_is_no_utility_unless_prices_are_given(world):
    bench = toys.write_bench(world.folder / "free", toys.tables(costs=False), name="free")
    smoke = Settings(preset=PRESETS["smoke"], device="cpu")
    (result,) = world.evaluate(smoke, bench=bench).results
    assert result.utility is None and result.cost is None
    prices = {"small": 0.001, "middle": 0.002, "large": 0.01}
    priced = Settings(preset=PRESETS["smoke"], device="cpu", prices=prices)
    (result,) = world.evaluate(priced, bench=bench).results
    assert result.utility["0.9"] is not None and 0.001 <= result.cost <= 0.01
    outcome = world.evaluate(
        Settings(preset=PRESETS["smoke"], device="cpu", prices={"smal": 1.0}), bench=bench
    )
    assert "unknown models: smal" in str(outcome.failures[0].error)
    assert outcome.exit_code == 2


def test_damaged_scores_are_said_and_trained_again(world):
    (first,) = world.evaluate().results
    fits = len(world.lines("fit"))
    path = min(world.store.glob("scores/*/*.npz"))
    path.write_bytes(b"damaged")
    (again,) = world.evaluate().results
    assert len(world.lines("fit")) == fits + 1
    assert any("damaged" in note for note in world.report.notes)
    same = {"seconds"}
    assert again.model_dump(exclude=same) == first.model_dump(exclude=same)


def test_an_encoder_and_its_cells_fail_alone(world):
    def broken(*_, **__):
        raise run.RphError("the encoder broke", fix="mend it")

    original = embed.embed
    embed.embed = broken
    try:
        outcome = world.evaluate()
    finally:
        embed.embed = original
    assert outcome.exit_code == 1
    assert "the encoder broke" in str(outcome.failures[0].error)
    assert len(world.evaluate().results) == 1


def test_names_with_options_are_read():
    assert parse_name("knn") == ("knn", {})
    assert parse_name("routerbench:shots=5,path=/a:b,c/d.pkl") == (
        "routerbench",
        {"shots": "5", "path": "/a:b,c/d.pkl"},
    )
    with pytest.raises(UsageError, match="is not key=value"):
        parse_name("synthetic:20000")


def test_options_are_typed_and_unknown_ones_refused():
    def load(*, n: int = 5, path: "str | None" = None, share: float = 0.5):
        pass

    load.__annotations__ = {"n": "int", "path": "str | None", "share": "float"}
    assert typed_options(load, {"n": "7", "path": "x", "share": "1"}, "it") == {
        "n": 7,
        "path": "x",
        "share": 1.0,
    }
    with pytest.raises(UsageError, match="did you mean 'share'"):
        typed_options(load, {"shar": "1"}, "benchmark 'b'")
    with pytest.raises(UsageError, match=r"n=many .* not a valid int"):
        typed_options(load, {"n": "many"}, "benchmark 'b'")


def test_unknown_names_are_refused_before_anything_runs(world):
    registry = Registry(entry_points(group="rph"))
    registry.add_file(world.plugin)
    for routers, encoders, benches, message in (
        (["knm"], ["numbers"], [str(world.bench)], "did you mean 'knn'"),
        (["toy"], ["minilmm"], [str(world.bench)], "did you mean 'minilm'"),
        (["toy"], ["numbers"], [str(world.bench), "sinthetic"], "did you mean 'synthetic'"),
        (["toy"], ["numbers"], ["./nowhere"], "does not exist"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate(
                registry,
                Store(world.store),
                PAPER,
                Silent(),
                benches=benches,
                encoders=encoders,
                routers=routers,
                executor=Local(),
            )
    assert not world.log.exists()
