"""What an export holds, and what is refused: a cell that is not finished, another training, a file that was changed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests import exported, toys

from rph import RphError, UsageError
from rph.deploy import export
from rph.engine.store import digest
from rph.results.outcomes import Scored


@pytest.fixture
def out(tmp_path):
    return exported.write(tmp_path)[0]


def test_the_manifest_says_what_the_router_is_and_was_trained_on(out):
    manifest = export.read(out).manifest
    assert (manifest.router.name, manifest.variant_name, manifest.seed) == (
        "knn",
        "k=100,weights=uniform",
        42,
    )
    assert manifest.models == toys.MODELS
    assert manifest.prior[:2] == (0.5, 20 / 60)
    assert manifest.costs == pytest.approx(tuple(exported.COSTS.values()), rel=1e-6)
    assert manifest.cost_scale == (manifest.costs[0], manifest.costs[2])
    assert manifest.sigmoid is None  # the card says calibrated
    assert manifest.encoder.identity == "numbers" and manifest.encoder.decides["dim"] == 5
    assert manifest.licences.model_dump() == {"benchmark": None, "encoder": "MIT", "router": "MIT"}
    assert manifest.check.model_dump() == {
        "bit_for_bit": True,
        "largest_difference": 0.0,
        "routes_changed": 0,
        "queries": 24,
    }
    assert set(manifest.files) == {"router.safetensors"} == {f.name for f in out.iterdir()} - {"router.json"}


def test_scores_that_are_no_probabilities_come_with_the_map_that_results_are_measured_by(tmp_path):
    out, _ = exported.write(tmp_path, router="elo")
    a, _ = export.read(out).manifest.sigmoid
    assert a > 0


def test_an_unknown_price_stays_unknown(tmp_path):
    frames = toys.tables()
    frames["train"]["cost/middle"] = np.nan
    manifest = export.read(exported.write(tmp_path, frames)[0]).manifest
    assert manifest.costs[1] is None and manifest.costs[0] == pytest.approx(0.001)
    assert manifest.cost_scale == (manifest.costs[0], manifest.costs[2])  # of those that are known
    assert manifest.unpriced == ("middle",)


def test_without_costs_there_are_none(tmp_path):
    manifest = export.read(exported.write(tmp_path, toys.tables(costs=False))[0]).manifest
    assert manifest.costs == (None, None, None) and manifest.cost_scale is None


def test_where_models_were_not_run_on_some_tasks_each_tasks_pool_is_told(tmp_path):
    manifest = export.read(exported.write(tmp_path, exported.blocked())[0]).manifest
    assert manifest.tasks == {"even": None, "odd": ("small", "middle")}
    # Of its 30 labels large has the best mean, so that all 24 val queries go there, and half of them are odd.
    assert manifest.leaves_pool == 0.5


def test_where_all_models_were_run_on_all_tasks_no_route_leaves_its_pool(out):
    manifest = export.read(out).manifest
    assert manifest.tasks == {} and manifest.leaves_pool == 0


def test_an_export_from_before_there_were_tasks_and_partial_prices_is_read(tmp_path):
    frames = toys.tables()
    frames["train"]["cost/middle"] = np.nan
    out, _ = exported.write(tmp_path, frames)
    content = json.loads((out / "router.json").read_text()) | {"cost_scale": None}
    for name in ("checksum", "tasks", "leaves_pool"):
        del content[name]
    (out / "router.json").write_text(json.dumps({**content, "checksum": digest(content)}))
    manifest = export.read(out).manifest
    assert (manifest.cost_scale, manifest.tasks, manifest.leaves_pool) == (None, {}, None)


def test_an_encoder_that_was_fitted_is_exported_with_what_it_learnt(tmp_path):
    out, _ = exported.write(tmp_path, encoder="lsa")
    found = export.read(out)
    assert set(found.manifest.files) == {"router.safetensors", "encoder.safetensors"}
    assert "number" in found.encoder["tfidf/_terms/terms"].tolist()


def again(tmp_path, cell, store, found, **changes):
    kept = exported.settings(train=False)
    options = {"folder": tmp_path / "again", "command": "rph eval --router knn", **cell, **changes}
    return export.export(found, store, kept, toys.Silent(), **options)


def test_a_cell_that_is_not_finished_is_told_the_command(tmp_path):
    found, cell = exported.plugins(tmp_path), exported.names(tmp_path)
    with pytest.raises(UsageError, match="knn on toy x numbers is not finished") as told:
        again(tmp_path, cell, exported.Store(tmp_path / "store"), found)
    assert "`rph eval --router knn` finishes it" in told.value.fix
    assert not (tmp_path / "again").exists()


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    found, cell = exported.plugins(tmp_path), exported.names(tmp_path)
    (tmp_path / "again").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        again(tmp_path, cell, exported.evaluate(tmp_path, found, cell), found)


def changed_scores(tmp_path, change):
    """A store whose val scores are not what training gives."""
    found, cell = exported.plugins(tmp_path), exported.names(tmp_path, router="toy")
    store = exported.evaluate(tmp_path, found, cell)
    real = store.get

    def get(identity):
        stored = real(identity)
        return Scored(val=change(stored.val), test=stored.test, seconds=stored.seconds)

    store.get = get
    found.load("router", "toy").spec.router.from_state = classmethod(from_state)
    return found, cell, store


def from_state(cls, state, *, variant, device):
    router = cls()
    router.weights, router.fault = state["weights"], variant.fault
    return router


def test_rounding_is_told(tmp_path):
    found, cell, store = changed_scores(tmp_path, lambda val: np.nextafter(val, np.float32(2)))
    check = again(tmp_path, cell, store, found).check
    assert not check.bit_for_bit and 0 < check.largest_difference < 1e-6 and check.routes_changed == 0


@pytest.mark.parametrize(
    "change", [lambda val: val[:, ::-1].copy(), lambda val: val * np.float32(1.05)], ids=["routes", "scores"]
)
def test_another_training_is_an_error_and_nothing_is_written(tmp_path, change):
    found, cell, store = changed_scores(tmp_path, change)
    with pytest.raises(RphError, match="trained again, it is another router"):
        again(tmp_path, cell, store, found)
    assert not (tmp_path / "again").exists()


def test_a_router_that_cannot_be_built_from_its_state_is_named(tmp_path):
    found, cell = exported.plugins(tmp_path), exported.names(tmp_path, router="toy")
    store = exported.evaluate(tmp_path, found, cell)
    with pytest.raises(RphError, match="router 'toy' cannot be exported") as told:
        again(tmp_path, cell, store, found)
    assert "from_state" in told.value.why and not (tmp_path / "again").exists()


# --- reading ----------------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda out: flip(out / "router.safetensors"), "router.safetensors was changed"),
        (lambda out: (out / "router.safetensors").unlink(), "router.safetensors is missing"),
        (lambda out: edit(out / "router.json", seed=43), "router.json was changed"),
        (lambda out: edit(out / "router.json", costs=[0, 0, 0]), "router.json was changed"),
        (lambda out: (out / "router.json").write_text("{"), "router.json cannot be read"),
        (lambda out: (out / "router.json").write_text("[]"), "router.json cannot be read"),
        (lambda out: (out / "router.json").write_text("[" * 200_000), "router.json cannot be read"),
    ],
    ids=["arrays", "missing", "seed", "costs", "half", "list", "deep"],
)
def test_a_changed_file_is_refused(out, damage, told):
    damage(out)
    with pytest.raises(RphError, match=told):
        export.read(out)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"more": 1}, "more"),
        ({"prior": [0.5, 0.5]}, "prior has 2 values for 3 models"),
        ({"costs": [1.0] * 11}, "costs has 11 values for 3 models"),
        ({"models": ["a"] * 3}, "names one twice"),
        ({"models": [], "prior": [], "costs": []}, "models is empty"),
        ({"cost_scale": None}, "the least and the largest known cost"),
        ({"cost_scale": [0.0, 1.0]}, "the least and the largest known cost"),
        ({"costs": [1.0, None, 2.0]}, "the least and the largest known cost"),
        ({"costs": [None] * 3}, "the least and the largest known cost"),
        ({"tasks": {"odd": []}}, "the pool of task 'odd' is empty"),
        (
            {"tasks": {"odd": ["huge"]}},
            "the pool of task 'odd' is empty or has a model that is not in models",
        ),
        ({"leaves_pool": 1.5}, "leaves_pool"),
        ({"prior": [0.5, 0.5, float("nan")]}, "finite"),
        ({"files": {}}, "files are none"),
        ({"files": {"router.safetensors": "0", "../x": "0"}}, "files are ../x"),
    ],
)
def test_what_does_not_fit_together_is_refused_even_with_a_right_checksum(out, changes, told):
    content = json.loads((out / "router.json").read_text()) | changes
    del content["checksum"]
    (out / "router.json").write_text(json.dumps({**content, "checksum": digest(content)}))
    with pytest.raises(RphError, match=told):
        export.read(out)


@pytest.mark.parametrize("name", ["router.json", "router.safetensors"])
def test_a_file_that_may_not_be_read_is_a_usage_error(out, monkeypatch, name):
    """By a patch, since the tests may run as root, who may read all."""
    real = Path.open

    def refuses(self, *arguments, **options):
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(UsageError, match=f"{name} cannot be read") as told:
        export.read(out)
    assert told.value.why == "Permission denied" and told.value.fix


def test_a_folder_that_may_not_be_looked_into_is_a_usage_error(out, monkeypatch):
    def refuses(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuses)
    with pytest.raises(UsageError, match="cannot be read"):
        export.read(out)


def test_another_format_is_named(out):
    edit(out / "router.json", format="rph-router/2")
    with pytest.raises(UsageError, match="this rph reads 'rph-router/1'"):
        export.read(out)


def test_a_folder_without_a_router_is_a_usage_error(out):
    shutil.rmtree(out)
    with pytest.raises(UsageError, match="holds no exported router"):
        export.read(out)
