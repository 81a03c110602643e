"""Whole cells on a toy benchmark: what is reported, what is stored, and what a router can never see."""

import re
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Optional

import numpy as np
import pytest
from rph_plugins.executors.local import Local
from tests import toys

from rph import RoutingDataset, Split, Trial
from rph.encoding import cache
from rph.engine import resolve
from rph.engine.cell import Cell, Pair, Settings
from rph.engine.evaluate import evaluate
from rph.engine.resolve import benchmark_loader, build_encoder, parse_name, typed_options, with_prices
from rph.engine.store import Store
from rph.errors import RphError, UsageError
from rph.protocol import PRESETS
from rph.registry import Registry
from rph.results import variants

PAPER = Settings(preset=PRESETS["paper"], device="cpu")
SMOKE = Settings(preset=PRESETS["smoke"], device="cpu")


class World:
    """A toy benchmark, a toy plugin and a store in a folder, and a log of what was trained and encoded."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.log = folder, folder / "log"
        monkeypatch.setenv("TOY_LOG", str(self.log))
        self.bench = toys.write_bench(folder / "bench")
        self.plugin = toys.write_plugin(folder / "plugin.py")
        self.store = folder / "store"

    def evaluate(self, settings=PAPER, bench=None, store=None, more="", registry=None, **names):
        """`more` is the source of another plugin file; `names` are other benches, encoders or routers."""
        if registry is None:
            registry = Registry(entry_points(group="rph"))
            registry.add_file(self.plugin)
        if more:
            # A name of its own for each: a process imports a file once.
            file = self.folder / f"more{'+' * len(list(self.folder.glob('more*')))}.py"
            file.write_text(more)
            registry.add_file(file)
        opened = Store(store or self.store)
        self.report = toys.Silent()
        return evaluate(
            registry,
            opened,
            settings,
            self.report,
            **({"benches": [str(bench or self.bench)], "encoders": ["numbers"], "routers": ["toy"]} | names),
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


def turned(frames):
    """Test labels turned round and test costs absurd: whoever reads them gives other scores."""
    test = frames["test"]
    for column in test.columns:
        if column.startswith("correct/"):
            test[column] = 1 - test[column]
        if column.startswith("cost/"):
            test[column] = 1000.0
    return frames


def hidden(frames):
    """Other holes in test: a model has no label there, the others on half of the queries each."""
    test = frames["test"]
    test["correct/large"] = np.nan
    test.loc[test.index % 2 == 0, "correct/small"] = np.nan
    test.loc[test.index % 2 == 1, "correct/middle"] = np.nan
    return frames


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("change", [turned, hidden])
@pytest.mark.parametrize("router", ["knn", "elo", "kmeans", "mlp", "toy"])
def test_other_test_labels_holes_and_costs_change_nothing_a_router_does(world, router, change, sparse):
    """Also where train and val have holes of their own, a block among them."""
    frames = [toys.tables(), change(toys.tables())]
    for each in frames if sparse else ():
        for frame in each.values():
            frame["task"] = np.where(frame.index % 2, "odd", "even")
        for frame in (each["train"], each["val"]):
            frame.loc[frame.index % 5 == 0, "correct/large"] = np.nan
        each["train"].loc[each["train"]["task"] == "odd", "correct/small"] = np.nan  # 30 queries: a block
    benches = [toys.write_bench(world.folder / f"changed{i}", each) for i, each in enumerate(frames)]
    scores = []
    for bench, store in zip(benches, ("clean", "poisoned"), strict=True):
        registry = Registry(entry_points(group="rph"))
        registry.add_file(world.plugin)
        opened = Store(world.folder / store)
        preset = PRESETS["quick"]
        outcome = evaluate(
            registry,
            opened,
            Settings(preset=preset, device="cpu"),
            toys.Silent(),
            benches=[str(bench)],
            encoders=["numbers"],
            routers=[router],
            executor=Local(),
        )
        (result,) = outcome.results
        dataset = benchmark_loader(registry, str(bench))()
        pair = Pair(dataset, build_encoder(registry, "numbers"), PAPER, toys.Silent())
        cell = Cell(pair, registry.load("router", router), opened)
        trials = [
            Trial(variant=variant, seed=seed)
            for variant in cell.spec.grid[: preset.variants]
            for seed in (preset.seeds[:1] if cell.spec.card.deterministic else preset.seeds)
        ]
        scores.append(([opened.get(cell.identify(trial)) for trial in trials], result))
    (clean, clean_result), (bad, bad_result) = scores
    assert clean[0] is not None and [one is None for one in clean] == [one is None for one in bad]
    for one, another in zip(clean, bad, strict=True):
        if one is None:  # of variants that route alike one goes on to the other seeds
            continue
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


def test_blocks_of_a_result_are_kept_with_it(world, monkeypatch):
    found, content = Cell._result, {"other": {"a": [1, {"b": None}], "c": 0.1}}

    def with_blocks(cell, selection):
        return found(cell, selection).model_copy(update={"blocks": content})

    monkeypatch.setattr(Cell, "_result", with_blocks)
    (first,) = world.evaluate().results
    (score,) = world.evaluate(Settings(preset=PRESETS["paper"], device="cpu", train=False)).results
    monkeypatch.undo()
    (kept,) = world.evaluate().results
    assert first.blocks == content and first == score == kept


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
    assert outcome.failures[-1].what.startswith("toy on toy x numbers")
    error = outcome.failures[-1].error
    assert error.what == "no variant finished" and "tracebacks above" in error.fix


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
    assert "did you mean 'small'?" in str(outcome.failures[0].error)
    assert outcome.exit_code == 2


def test_what_is_found_in_a_benchmark_is_told_and_stands_in_the_result(world):
    (clean,) = world.evaluate(SMOKE).results
    assert "data" not in clean.blocks and world.report.notes == []
    frames = toys.tables()
    frames["test"].loc[:4, "query"] = frames["train"].loc[:4, "query"]
    bench = toys.write_bench(world.folder / "leaking", frames, name="leaking")
    (result,) = world.evaluate(SMOKE, bench=bench).results
    (finding,) = result.blocks["data"]["findings"]
    assert (finding["kind"], finding["count"]) == ("leak", 5)
    (note,) = world.report.notes
    assert note.startswith("leaking: queries whose text is also in an earlier split")
    (again,) = world.evaluate(SMOKE, bench=bench).results  # as it was kept
    assert again == result and world.report.notes == [note]


def test_prices_are_of_models_without_known_costs():
    def split(prefix, costs):
        names = [f"{prefix}{i}" for i in range(2)]
        return Split(
            ids=names,
            queries=names,
            tasks=[""] * 2,
            labels=np.ones((2, 3), np.float32),
            costs=None if costs is None else np.array(costs, np.float32),
        )

    def bench(train, other):
        splits = {name: split(name, other) for name in ("val", "test")}
        return RoutingDataset(name="d", models=("a", "b", "c"), train=split("train", train), **splits)

    partly = bench([[1, np.nan, np.nan], [np.nan] * 3], [[1, 2, np.nan], [3, np.nan, np.nan]])
    assert with_prices(partly, {}) is partly
    found = with_prices(partly, {"b": 0.5})
    # What is known stays: of b one call on val and test each; of a call without its cost nothing is invented.
    assert np.array_equal(found.train.costs, [[1, 0.5, np.nan], [np.nan, 0.5, np.nan]], equal_nan=True)
    for one in (found.val, found.test):
        assert np.array_equal(one.costs, [[1, 2, np.nan], [3, 0.5, np.nan]], equal_nan=True)
    with pytest.raises(UsageError, match="--price a: 'd' has the costs of this model") as told:
        with_prices(partly, {"b": 1.0, "a": 1.0})
    assert told.value.fix.endswith("models without a price: b, c")
    free = with_prices(bench(None, None), {"c": 2.0})
    assert np.array_equal(free.train.costs, [[np.nan, np.nan, 2]] * 2, equal_nan=True)


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
        raise RphError("the encoder broke", fix="mend it")

    original = cache.embed
    cache.embed = broken
    try:
        outcome = world.evaluate()
    finally:
        cache.embed = original
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


if TYPE_CHECKING:
    from nowhere import Unknown


class Takes:
    def __init__(self, path: Path, *, n: "int | None" = None, on: bool = False) -> "Unknown":
        pass


@pytest.mark.parametrize(
    ("function", "given", "typed"),
    [
        (lambda: None, {}, {}),
        (Takes, {"path": "x", "n": "3", "on": "True"}, {"path": Path("x"), "n": 3, "on": True}),
        (Takes, {"path": "x", "on": "false"}, {"path": Path("x"), "on": False}),
    ],
)
def test_options_of_functions_and_classes_are_typed_by_what_their_annotations_stand_for(
    function, given, typed
):
    assert typed_options(function, given, "it") == typed


def test_annotations_are_read_as_they_are_and_as_text():
    def load(
        a: int = 3,
        b: str = "",
        c: Optional[int] = None,  # noqa: UP045 - as others write it
        d: float | None = None,
        e: "str" = "",
        **others,
    ):
        pass

    given = dict.fromkeys("abcde", "7")
    assert typed_options(load, given, "it") == {"a": 7, "b": "7", "c": 7, "d": 7.0, "e": "7"}
    with pytest.raises(UsageError, match="no option 'others'"):
        typed_options(load, {"others": "1"}, "it")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bare", "it states no type"),
        ("many", r"its type is list\[int\]"),
        ("some", "its type is .*Literal"),
        ("unknown", "its type is 'Unknown'"),
    ],
)
def test_an_option_of_a_type_that_text_cannot_give_is_refused(name, why):
    def load(bare=1, many: list[int] = (), some: Literal["a"] = "a", unknown: "Unknown" = None):
        pass

    with pytest.raises(UsageError, match=why):
        typed_options(load, {name: "1"}, "benchmark 'b'")


def test_an_option_without_a_default_is_asked_for_and_a_truth_is_true_or_false():
    with pytest.raises(UsageError, match="encoder 'e' needs a value for path"):
        typed_options(Takes, {"n": "3"}, "encoder 'e'")
    with pytest.raises(UsageError, match=r"on=maybe .* not a valid bool"):
        typed_options(Takes, {"path": "x", "on": "maybe"}, "encoder 'e'")


BENCHMARK = """
import dataclasses, sys
import numpy as np
import rph

class Gone(BaseException):
    pass

def split(name):
    texts = [f"number {{i}}" for i in range(6)]
    labels = np.eye(6, 2, dtype=np.float32)
    return rph.Split(ids=[name + text for text in texts], queries=texts, tasks=[""] * 6, labels=labels)

def load({parameters}):
    made = rph.RoutingDataset(
        name="mine", models=("a", "b"), train=split("train"), val=split("val"), test=split("test")
    )
    {body}

@rph.hookimpl
def register_benchmark():
    card = rph.BenchmarkCard(
        name="mine", title="t", citation="c", url="", licence="MIT", models=(), splits=None, costs=False,
        label_rule="", split_rule="",
    )
    return rph.BenchmarkSpec(card=card, load=load)
"""


def benchmark(body, parameters=""):
    return BENCHMARK.format(body=body, parameters=parameters)


BROKEN_LOADS = {
    "exits": ("sys.exit(0)", "SystemExit: 0 (more.py:"),
    "raises": ("open('/nowhere/at/all')", "FileNotFoundError: [Errno 2]"),
    "an exception of its own kind": ("raise Gone('away')", "Gone: away (more.py:"),
    "nothing": ("return None", "its load returned NoneType, not RoutingDataset"),
    "no name": ("return dataclasses.replace(made, name=None)", "benchmark name None cannot be used"),
    "labels in lists": (
        "return dataclasses.replace(made, val=dataclasses.replace(made.val, labels=[[0.0, 1.0]] * 6))",
        "labels are of type list",
    ),
    "models that are numbers": ("return dataclasses.replace(made, models=(1, 2))", "`models` are not names"),
    "ids that are a number": (
        "return dataclasses.replace(made, val=dataclasses.replace(made.val, ids=6))",
        "TypeError: object of type 'int' has no len()",
    ),
}


@pytest.mark.parametrize(("body", "why"), BROKEN_LOADS.values(), ids=BROKEN_LOADS)
def test_a_benchmark_that_breaks_in_its_load_fails_alone(world, body, why):
    outcome = world.evaluate(SMOKE, benches=["mine", str(world.bench)], more=benchmark(body))
    assert [result.bench for result in outcome.results] == ["toy"]
    (failure,) = outcome.failures
    assert failure.what == "benchmark mine" and why in str(failure.error) and outcome.exit_code == 1
    assert "mine" in str(failure.error) or "name None" in str(failure.error)


def test_the_options_of_a_third_partys_benchmark_reach_it(world):
    source = benchmark("return dataclasses.replace(made, name=f'mine-{n}')", "n: int = 3")
    outcome = world.evaluate(SMOKE, benches=["mine:n=5"], more=source)
    assert outcome.failures == [] and outcome.results[0].bench == "mine-5"


ENCODER = """
import sys
import rph
import numpy as np

class Mine:
    def __init__(self):
        {init}

    def identity(self):
        {identity}

    def fit(self, texts):
        {fit}

    def encode(self, texts, *, device):
        {encode}

@rph.hookimpl
def register_encoder():
    card = rph.EncoderCard(
        name="mine", title="t", hf_id="", revision="", dim=None, pooling="none", normalise=False, prefix="",
        max_tokens=None, dtype="float32", licence="MIT", citation="none", fitted=True,
    )
    return rph.EncoderSpec(card=card, build={build})
"""
SOUND = {"init": "pass", "identity": "return 'mine'", "fit": "pass", "encode": "return []", "build": "Mine"}
BROKEN_ENCODERS = {
    "raises when built": ({"init": "raise ValueError('bad')"}, "ValueError: bad (more.py:"),
    "raises when asked for its identity": (
        {"identity": "raise OSError('no weights')"},
        "OSError: no weights",
    ),
    "has no identity": ({"identity": "return None"}, "its identity is None, not text"),
    "is not an encoder": ({"build": "lambda: None"}, "'NoneType' object has no attribute 'identity'"),
    "exits when fitted": ({"fit": "sys.exit(0)"}, "SystemExit: 0 (more.py:"),
    "exits when it encodes": ({"encode": "sys.exit(0)"}, "SystemExit: 0 (more.py:"),
}


@pytest.mark.parametrize(("change", "why"), BROKEN_ENCODERS.values(), ids=BROKEN_ENCODERS)
def test_an_encoder_that_breaks_anywhere_fails_alone(world, change, why):
    outcome = world.evaluate(SMOKE, encoders=["mine", "numbers"], more=ENCODER.format(**(SOUND | change)))
    assert [result.encoder for result in outcome.results] == ["numbers"]
    (failure,) = outcome.failures
    assert why in failure.error.why and "encoder 'mine'" in failure.error.what and outcome.exit_code == 1


def test_an_executor_that_breaks_at_its_start_is_named(tmp_path):
    (tmp_path / "more.py").write_text(
        "import rph, sys\n@rph.hookimpl\ndef register_executor():\n"
        "    card = rph.ExecutorCard(name='mine', title='t')\n"
        "    return rph.ExecutorSpec(card=card, build=lambda *_: sys.exit(0))"
    )
    registry = Registry(())
    registry.add_file(tmp_path / "more.py")
    with pytest.raises(RphError, match="executor 'mine' cannot be started") as error:
        resolve.build_executor(registry, "mine", None, None, "cpu")
    assert error.value.why == "SystemExit: 0 (more.py:5)"


@pytest.mark.parametrize("names", [["all"], ["toy", "broken"]])
def test_a_broken_plugin_fails_alone_whether_named_or_among_all(world, names):
    registry = Registry(())
    registry.add_file(world.plugin)
    bad = toys.write_plugin(world.folder / "broken.py", '({"noise": 0.0},)')
    bad.write_text(
        bad.read_text().replace('"toy", title', '"broken", title').replace('"numbers", title', '"x", title')
    )
    registry.add_file(bad)
    outcome = world.evaluate(SMOKE, routers=names, registry=registry)
    assert [result.router for result in outcome.results] == ["toy"]
    (failure,) = outcome.failures
    assert "its grid holds {'noise': 0.0}" in failure.error.why and outcome.exit_code == 1


def test_what_is_wrong_with_a_name_that_only_all_stands_for_is_a_failure(world):
    registry = Registry(())
    registry.add_file(world.plugin)
    (world.folder / "more.py").write_text(benchmark("return made", "path: str"))
    registry.add_file(world.folder / "more.py")
    outcome = world.evaluate(SMOKE, benches=["all", str(world.bench)], registry=registry)
    assert [result.bench for result in outcome.results] == ["toy"]
    assert outcome.failures[0].error.what == "benchmark 'mine' needs a value for path"
    with pytest.raises(UsageError, match="needs a value for path"):
        world.evaluate(SMOKE, benches=["mine"], registry=registry)


def test_a_folder_hides_no_benchmark_unless_it_is_one(world, monkeypatch):
    found = Registry(entry_points(group="rph"))
    monkeypatch.chdir(world.folder)
    (world.folder / "synthetic").mkdir()
    assert benchmark_loader(found, "synthetic:n=60")().name.startswith("synthetic-n60")
    assert benchmark_loader(found, "synthetic").__qualname__.endswith("load")
    assert benchmark_loader(found, "bench")().name == "toy"
    with pytest.raises(UsageError, match="is not a benchmark folder"):
        benchmark_loader(found, "./synthetic")()


def unlabelled_where_chosen():
    """Tables whose val labels are all of models that the router does not choose there."""
    frames = toys.tables()
    val = frames["val"]
    even = val["correct/small"] == 1.0  # there the router chooses 'small'
    val.loc[even, "correct/small"] = np.nan
    val.loc[~even, ["correct/middle", "correct/large"]] = np.nan
    return frames


def test_missing_labels_of_what_is_chosen_on_val_earn_nothing(world):
    bench = toys.write_bench(world.folder / "unseen", unlabelled_where_chosen(), name="unseen")
    (result,) = world.evaluate(SMOKE, bench=bench).results
    assert result.val_accuracy == 0


def test_where_by_plan_nothing_was_asked_of_what_is_chosen_no_variant_can_be(world):
    bench = toys.write_bench(world.folder / "unasked", unlabelled_where_chosen(), name="unasked")
    with (bench / "bench.yaml").open("a") as file:
        file.write("holes: planned\n")
    (failure,) = world.evaluate(SMOKE, bench=bench).failures
    assert failure.error.what == "no variant can be chosen" and "router" not in failure.error.fix


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
                toys.Silent(),
                benches=benches,
                encoders=encoders,
                routers=routers,
                executor=Local(),
            )
    assert not world.log.exists()


def test_variants_that_route_val_alike_share_one_place_and_the_result_says_so(world):
    toys.write_plugin(
        world.plugin, "tuple(Config(noise=noise) for noise in (0.0, 0.01, 0.02, 0.7, 2.0, 3.0))"
    )
    (result,) = world.evaluate(PAPER).results
    groups = [
        ["noise=0,fault=", "noise=0.01,fault=", "noise=0.02,fault="],
        ["noise=2,fault=", "noise=3,fault="],
    ]
    assert result.blocks["alike"] == {"variants": groups}
    assert result.trials == 6 + 3 * 4
    assert {one.variant_name for one in result.configurations if one.seed != 42} == {
        "noise=0,fault=", "noise=0.7,fault=", "noise=2,fault=",
    }  # fmt: skip


# --- what holds of a variant ----------------------------------------------------------------------------

VARIANTS = '''
from dataclasses import dataclass
import numpy as np
import rph


@dataclass(frozen=True)
class Config:
    kind: str = "even"


class Known:
    """Scores by the parity of the number; as it would be, with its costs, by `kind`."""

    def fit(self, train, val, *, variant, seed, device):
        self.kind, self.seed = variant.kind, seed

    def scores(self, queries):
        even = queries.X[:, 0] if self.kind != "text" else np.array([float(int(t.split()[1]) % 2 == 0) for t in queries.texts])
        shift = {"even": 0, "text": 0, "theirs": 1, "priced": 0, "reversed": 0}[self.kind]
        chosen = np.where(even == 1, 0, 2)
        scores = np.full((len(queries), 3), 0.2, np.float32)
        scores[np.arange(len(queries)), (chosen + shift) % 3] = 0.8
        if self.kind == "theirs":
            scores += np.float32(1e-3) * np.random.default_rng(self.seed).random(scores.shape, np.float32)
        return scores

    def costs(self, queries):
        order = {"priced": [0.001, 0.002, 0.01], "reversed": [0.01, 0.002, 0.001]}.get(self.kind)
        return None if order is None else np.tile(np.array(order, np.float32), (len(queries), 1))

    def state(self):
        return {}


class Together:
    def __init__(self, train, val, trials, device):
        self.all = [Known() for _ in trials]
        for one, trial in zip(self.all, trials):
            one.fit(train, val, variant=trial.variant, seed=trial.seed, device=device)

    def scores(self, queries):
        return [one.scores(queries) for one in self.all]

    def costs(self, queries):
        return [one.costs(queries) for one in self.all]


def describe(variant):
    return rph.VariantCard(
        original=variant.kind == "theirs", why=f"by {variant.kind}", calibrated=variant.kind != "text",
        deterministic=variant.kind != "theirs", reads="text" if variant.kind == "text" else "embedding",
        most_models=2 if variant.kind == "pairs" else None,
    )


@rph.hookimpl
def register_router():
    return rph.RouterSpec(
        card=rph.RouterCard(
            name="known", title="a toy", paper="none", year=2026, family="toy", licence="MIT",
            deterministic=False, calibrated=False,
        ),
        grid=GRID, router=Known, fit_many=TOGETHER, describe=describe,
    )
'''


def variants_of(world, kinds, together="None", preset=PAPER):
    grid = f"tuple(map(Config, {kinds!r}))"
    (result,) = world.evaluate(
        preset, more=VARIANTS.replace("GRID", grid).replace("TOGETHER", together), routers=["known"]
    ).results
    return result


def test_a_row_is_what_its_variant_is_and_shows_the_best_original_form(world):
    result = variants_of(world, ["even", "text", "theirs", "pairs"])
    assert result.variant == {"kind": "even"}  # as good as `text`, which does not read the embedding
    assert (result.deterministic, result.seeds, result.test_accuracy_std) == (True, (42,), 0.0)
    assert result.method.calibrated and result.score_scale == "native" and result.utility_native is None
    assert result.trials == 3 + 4  # `theirs` alone knows chance; `pairs` is for other pools
    assert [one["variant_name"] for one in result.blocks["variants"]["variants"]] == [
        "kind=even", "kind=text", "kind=theirs",
    ]  # fmt: skip
    original = variants.best_original(result)
    assert (original.variant_name, original.seeds) == ("kind=theirs", PAPER.preset.seeds)
    theirs = [one.test_accuracy for one in result.configurations if one.variant_name == "kind=theirs"]
    assert original.test_accuracy == pytest.approx(np.mean(theirs))
    text, form = variants.notes(result)
    assert text.startswith("reads the text, not the encoder, and is not chosen beside an encoder: kind=text")
    assert form.startswith("not the authors' form (by even); the best original one: kind=theirs, test ")


def test_where_all_variants_read_the_text_the_row_says_so(world):
    result = variants_of(world, ["text"])
    assert list(variants.notes(result)) == [
        "reads the text, not the encoder", "not the authors' form (by text)",
    ]  # fmt: skip


@pytest.mark.parametrize("together", ["None", "Together"])
def test_a_routers_own_costs_decide_its_utility_alone_and_in_a_group(world, together):
    """Equal scores and reversed costs: at lambda .5, small where it is thought dear is given up for large."""
    found = {}
    for kind in ("even", "priced", "reversed"):
        kinds = [kind, "theirs"]  # two trials, so that there is a group
        settings = Settings(preset=replace(PAPER.preset, variants=2, finalists=1), device="cpu")
        found[kind] = variants_of(world, kinds, together, settings)
        assert found[kind].variant == {"kind": kind}
    train_means = found["even"]
    assert train_means.selector_cost == "train mean"
    assert found["priced"].selector_cost == found["reversed"].selector_cost == "router's own"
    assert found["priced"].utility == pytest.approx(train_means.utility)  # its costs are the train means
    assert found["reversed"].utility["0"] == train_means.utility["0"]
    assert found["reversed"].utility["0.5"] < train_means.utility["0.5"] - 0.1
    assert found["reversed"].curve != train_means.curve
    assert "utility chooses by the router's own estimates of the costs" in variants.notes(found["reversed"])


@pytest.mark.parametrize(
    ("costs", "says"),
    [
        ("np.zeros((len(queries), 2), np.float32)", "costs have shape (24, 2), not (30, 3)"),
        ("np.full((len(queries), 3), -1.0)", "90 of 90 costs are negative or infinite"),
        ("np.full((len(queries), 3), np.inf)", "90 of 90 costs are negative or infinite"),
        ("np.zeros((len(queries), 3), int)", "costs are int64, not floating point"),
    ],
)
def test_costs_that_break_the_contract_fail_the_trial(world, costs, says):
    broken = VARIANTS.replace("GRID", "(Config(),)").replace("TOGETHER", "None")
    broken = broken.replace("return None if order is None else", f"return {costs} if True else")
    outcome = world.evaluate(SMOKE, more=broken, routers=["known"])
    assert any(says.replace("24", "30") in str(failure.error.what) for failure in outcome.failures)


def test_what_a_fitted_encoder_learned_stands_in_the_result(world):
    (result,) = world.evaluate(SMOKE, encoders=["lsa"]).results
    learned = result.blocks["encoding"]["learned"]
    assert re.fullmatch("vocabulary sha256 [0-9a-f]{64}", learned)
    (again,) = world.evaluate(SMOKE, encoders=["lsa"], store=world.folder / "another").results
    assert again.blocks["encoding"]["learned"] == learned  # from the cache: it is not fitted again
