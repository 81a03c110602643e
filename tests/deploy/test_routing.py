"""An exported router routes as it was measured: by hand-computed scores, prices and ties."""

import dataclasses
import json

import numpy as np
import pytest
from tests import exported, toys

import rph
from rph import RphError, UsageError, disk
from rph.deploy import export
from rph.deploy.routing import Judged
from rph.engine import resolve
from rph.engine.store import digest
from rph.results import probabilities, utility
from rph.training import neighbours, states


@pytest.fixture
def loaded(tmp_path):
    out, found = exported.write(tmp_path)
    return rph.load(out, device="cpu", registry=found)


def test_each_query_gets_a_model_scores_a_cost_and_the_time(loaded):
    routes = loaded.route(["number 4", "number 7"])
    large = float(toys.tables()["train"]["correct/large"].mean())
    for routed in routes:
        assert routed.model == "large" and routed.cost == pytest.approx(0.01)
        assert routed.scores == pytest.approx(exported.MEANS | {"large": large})
        assert routed.seconds > 0
    assert loaded.calibrated and loaded.models == toys.MODELS
    assert loaded.route([]) == []


def test_the_price_counts_by_lambda(loaded):
    # Scaled costs are 0, 1/9 and 1; P are .5, 1/3 and that of large: U(.5) = .25, .11 and less than 0.
    large = float(toys.tables()["train"]["correct/large"].mean())
    (routed,) = loaded.route(["number 4"], lam=0.5)
    assert (routed.model, routed.cost) == ("small", pytest.approx(0.001))
    even = (large - 0.5) / (large - 0.5 + 1)  # (1 - l) large - l = (1 - l) / 2
    assert loaded.route(["number 4"], lam=even - 1e-3)[0].model == "large"
    assert loaded.route(["number 4"], lam=even + 1e-3)[0].model == "small"


def test_ties_go_to_the_model_that_is_better_on_train(loaded):
    equal = np.full((1, 3), 0.5, np.float32)
    assert loaded.chosen(Judged(equal), 0.0, 0.0)[0].model == "large"


def test_a_routers_own_costs_decide_above_lambda_0(loaded):
    """Train means say small .001, large .01; the router says the reverse of one query, and nothing of another."""

    class Dear:
        def scores(self, queries):
            return np.tile(np.array([0.5, 0.0, 0.6], np.float32), (len(queries), 1))

        def costs(self, queries):
            return np.array([[0.01, np.nan, 0.001], [np.nan] * 3], np.float32)[: len(queries)]

    loaded._router = Dear()
    queries = ["number 4", "number 6"]
    assert [one.model for one in loaded.route(queries, lam=0.5)] == ["large", "small"]
    assert [one.model for one in loaded.route(queries)] == ["large", "large"]
    judged = loaded.judge(queries)
    assert [part.costs.shape for part in judged.split([1, 1])] == [(1, 3), (1, 3)]
    loaded._router.costs = lambda queries: np.full((len(queries), 3), -1.0)
    with pytest.raises(RphError, match="costs of shape \\(2, 3\\) that are no prices"):
        loaded.route(queries)


@pytest.mark.parametrize("router", ["elo", "knn"])
def test_routes_are_those_of_the_stored_scores_at_every_lambda(tmp_path, router):
    out, found = exported.write(tmp_path, router=router)
    loaded = rph.load(out, device="cpu", registry=found)
    cell = exported.names(tmp_path, router=router)
    dataset = resolve.benchmark_loader(found, cell["bench"])()
    scores = loaded.scores(dataset.test.queries)
    P = (
        np.clip(scores, 0, 1)
        if router == "knn"
        else probabilities.apply_sigmoid(scores, *loaded.manifest.sigmoid)
    )
    scale = utility.CostScale.fit(dataset.train.costs)
    for lam in utility.LAMBDAS:
        wanted = utility.utility_route(P, scale, lam, dataset.level)
        routes = loaded.route(dataset.test.queries, lam)
        assert [one.model for one in routes] == [dataset.models[place] for place in wanted]


def test_a_model_without_a_price_is_chosen_at_lambda_0_alone(tmp_path):
    frames = toys.tables()
    frames["train"]["cost/large"] = np.nan
    out, found = exported.write(tmp_path, frames)
    loaded = rph.load(out, device="cpu", registry=found)
    (routed,) = loaded.route(["number 4"])
    assert (routed.model, routed.cost) == ("large", None)
    # Of the other two small is better, .5 against 1/3, and cheaper.
    for lam in (1e-9, 0.2, 1.0):
        assert loaded.route(["number 4"], lam=lam)[0].model == "small"


def test_an_export_from_before_partial_prices_chooses_among_the_priced_too(tmp_path):
    frames = toys.tables()
    frames["train"]["cost/large"] = np.nan
    out, found = exported.write(tmp_path, frames)
    rewritten(out, cost_scale=None)
    loaded = rph.load(out, device="cpu", registry=found)
    assert loaded.route(["number 4"], lam=0.2)[0].model == "small"


def test_without_any_price_no_lambda_above_0_chooses(tmp_path):
    out, found = exported.write(tmp_path, toys.tables(costs=False))
    loaded = rph.load(out, device="cpu", registry=found)
    assert loaded.route(["number 4"])[0].cost is None
    with pytest.raises(UsageError, match="no prices to choose by") as told:
        loaded.route(["number 4"], lam=0.2)
    assert told.value.why == "no price is known of any model"


# --- tasks --------------------------------------------------------------------------------------------


@pytest.fixture
def blocked(tmp_path):
    """Large was never run on the task odd; of its labels on even it has the best mean."""
    out, found = exported.write(tmp_path, exported.blocked())
    return rph.load(out, device="cpu", registry=found)


def test_of_a_task_only_models_that_were_run_on_it_are_chosen(blocked):
    models = {task: blocked.route(["number 4"], task=task)[0].model for task in (None, "", "even", "odd")}
    assert models == {None: "large", "": "large", "even": "large", "odd": "small"}
    assert blocked.route(["number 4"], task="odd")[0].scores.keys() == set(toys.MODELS)
    # Scaled costs are 0, 1/9 and 1, P are .5 and 1/3 of the pool, and about .7 of large.
    assert blocked.route(["number 4"], lam=0.05, task="odd")[0].model == "small"


def test_where_all_models_were_run_on_all_tasks_any_task_will_do(loaded):
    assert loaded.route(["number 4"], task="anything")[0].model == "large"


def test_a_task_that_is_not_known_is_refused_where_tasks_have_pools(blocked):
    with pytest.raises(UsageError, match="knows no task 'oddd'") as told:
        blocked.route(["number 4"], task="oddd")
    assert told.value.why == "did you mean 'odd'?"
    with pytest.raises(UsageError, match="knows no task") as told:
        blocked.route(["number 4"], task="x" * 1000)
    assert told.value.why == "its tasks: even, odd" and len(told.value.what) < 200
    for task in (1, ["odd"], b"odd"):
        with pytest.raises(UsageError, match="not a text"):
            blocked.route(["number 4"], task=task)


def test_a_pool_without_a_price_is_told(tmp_path):
    frames = exported.blocked()
    for frame in frames.values():
        frame[["cost/small", "cost/middle"]] = np.nan
    out, found = exported.write(tmp_path, frames)
    loaded = rph.load(out, device="cpu", registry=found)
    assert loaded.route(["number 4"], lam=0.2)[0].model == "large"
    assert loaded.route(["number 4"], task="odd")[0].model == "small"
    with pytest.raises(UsageError, match="no prices to choose by") as told:
        loaded.route(["number 4"], lam=0.2, task="odd")
    assert told.value.why == "no price is known of any model that was run on task 'odd'"


HUGE = pytest.param(10**400, id="400 digits")


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan"), float("inf"), HUGE, "0.5", None, [0.5]])
def test_lambda_is_in_0_to_1(loaded, lam):
    with pytest.raises(UsageError, match=r"not in \[0, 1\]"):
        loaded.route(["number 4"], lam=lam)


def test_one_string_and_broken_unicode_are_the_callers_mistakes(loaded):
    with pytest.raises(UsageError, match="list of queries"):
        loaded.route("number 4")
    with pytest.raises(UsageError, match="no valid Unicode"):
        loaded.route(["number \ud800"])
    for queries in ([1], [b"a"], [None], b"a", None, 4):
        with pytest.raises(UsageError, match="not"):
            loaded.route(queries)
    assert loaded.route(("number 4",))[0].model == loaded.route(iter(["number 4"]))[0].model == "large"


def test_what_a_plugin_raises_is_told_without_its_traceback(loaded):
    with pytest.raises(RphError, match="encoder 'numbers' or router 'knn' failed on a query") as told:
        loaded.route(["no number"])
    assert told.value.why.startswith("ValueError")


def test_scores_that_are_not_finite_are_an_error(loaded):
    class Broken:
        def scores(self, queries):
            return np.full((len(queries), 3), np.nan, np.float32)

    loaded._router = Broken()
    with pytest.raises(RphError, match="router 'knn' gave scores"):
        loaded.route(["number 4"])


def test_few_queries_are_searched_in_small_blocks_and_score_the_same(loaded, monkeypatch):
    many = loaded.scores([f"number {i}" for i in range(300)])
    heights, mm = [], neighbours.torch.mm
    monkeypatch.setattr(neighbours.torch, "mm", lambda a, b, **kw: heights.append(len(a)) or mm(a, b, **kw))
    few = loaded.scores([f"number {i}" for i in range(5)])
    assert heights == [8]
    assert np.allclose(few, many[:5], atol=1e-6)


# --- what must be as it was -------------------------------------------------------------------------


def refused(tmp_path, kind, **changes):
    """The error where the plugin installed is another than the exported one: `changes` of its card."""
    out, found = exported.write(tmp_path)
    name = {"router": "knn", "encoder": "numbers"}[kind]
    plugin = found.load(kind, name)
    card = dataclasses.replace(plugin.spec.card, **changes)
    found._loaded[kind, name] = dataclasses.replace(plugin, spec=dataclasses.replace(plugin.spec, card=card))
    with pytest.raises(UsageError) as told:
        rph.load(out, device="cpu", registry=found)
    return told.value


def test_another_version_of_the_router_is_refused(tmp_path):
    assert refused(tmp_path, "router", version=2).what == "router 'knn' is not the one that was exported"


def test_another_encoder_is_refused_and_the_difference_named(tmp_path):
    assert "its prefix here is 'query: ', not ''" in refused(tmp_path, "encoder", prefix="query: ").why


def test_other_weights_are_refused(tmp_path, monkeypatch):
    out, found = exported.write(tmp_path)
    monkeypatch.setattr(found.load("encoder", "numbers").spec.build, "identity", lambda self: "other numbers")
    with pytest.raises(UsageError, match="'other numbers', not 'numbers'"):
        rph.load(out, device="cpu", registry=found)


def rewritten(out, **changes):
    """The export with another manifest and a checksum that is right."""
    content = json.loads((out / "router.json").read_text()) | changes
    del content["checksum"]
    (out / "router.json").write_text(json.dumps({**content, "checksum": digest(content)}))


def test_a_variant_that_is_not_in_the_grid_is_refused(tmp_path):
    out, found = exported.write(tmp_path)
    rewritten(out, variant={"k": 7, "weights": "uniform"}, variant_name="k=7")
    with pytest.raises(UsageError, match="router 'knn' has no variant k=7"):
        rph.load(out, device="cpu", registry=found)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {},
        lambda state: {"odd": np.zeros(1)},
        lambda state: {"tfidf/_terms/terms": np.zeros(1)},
        lambda state: {name: array for name, array in state.items() if not name.endswith("/idf")},
        lambda state: state | {"plain/x": np.array("{")},
    ],
    ids=["empty", "name", "part", "without weights", "half"],
)
def test_an_encoder_that_was_changed_is_told(tmp_path, change):
    out, found = exported.write(tmp_path, encoder="lsa")
    path = out / "encoder.safetensors"
    states.save(path, change(states.load(path)))
    files = {f.name: disk.sha256_file(f) for f in out.iterdir() if f.suffix == ".safetensors"}
    rewritten(out, files=files)
    with pytest.raises(RphError):
        rph.load(out, device="cpu", registry=found).route(["number 4"])


def test_what_a_fitted_encoder_learnt_must_be_there_and_for_no_other(tmp_path):
    out, found = exported.write(tmp_path, encoder="lsa")
    rewritten(out, files={"router.safetensors": disk.sha256_file(out / "router.safetensors")})
    with pytest.raises(RphError, match="does not fit encoder 'lsa'"):
        rph.load(out, device="cpu", registry=found)


def test_a_router_whose_plugin_is_not_installed_is_named(tmp_path):
    out, found = exported.write(tmp_path)
    del found._sources["router", "knn"], found._loaded["router", "knn"]
    with pytest.raises(UsageError, match="knn"):
        rph.load(out, device="cpu", registry=found)


def test_a_fitted_encoder_needs_no_train_queries(tmp_path):
    out, found = exported.write(tmp_path, encoder="lsa")
    loaded = rph.load(out, device="cpu", registry=found)
    train = toys.tables()["train"]["query"].tolist()
    fresh = found.load("encoder", "lsa").spec.build()
    fresh.fit(train)
    assert np.array_equal(loaded._encoder.encode(train, device="cpu"), fresh.encode(train, device="cpu"))
    assert loaded.route(["number 4"])[0].model in toys.MODELS


def test_vectors_have_the_precision_that_the_router_learnt_from(tmp_path):
    out, found = exported.write(tmp_path)
    loaded = rph.load(out, device="cpu", registry=found)
    seen = []

    class Seeing:
        def scores(self, queries):
            seen.append(queries.X)
            return np.zeros((len(queries), 3), np.float32)

    class Thirds:
        def encode(self, texts, *, device):
            return np.full((len(texts), 5), 1 / 3, np.float32)

    loaded._router, loaded._encoder = Seeing(), Thirds()
    loaded._card = dataclasses.replace(loaded._card, stored="float16")
    loaded.scores(["number 4"])
    assert seen[0].dtype == np.float32 and seen[0][0, 0] == np.float32(np.float16(1 / 3))
    assert export.decides(loaded._card)["stored"] == "float16"
