"""An exported router for tests: kNN with all 60 train queries of the toy benchmark, so that scores are train means."""

import numpy as np
from tests import toys

from rph import protocol, registry
from rph.deploy import export
from rph.engine import resolve
from rph.engine.cell import Settings
from rph.engine.evaluate import evaluate as evaluate_cells
from rph.engine.store import Store

MEANS = {"small": 0.5, "middle": 1 / 3}  # by construction; that of large is its 60 labels'
COSTS = {"small": 0.001, "middle": 0.002, "large": 0.01}


def blocked():
    """The toy benchmark with two tasks of 30 train queries, of which large was never run on the odd one."""
    frames = toys.tables()
    for frame in frames.values():
        odd = np.arange(len(frame)) % 2 == 1  # each split begins with an even number
        frame["task"] = np.where(odd, "odd", "even")
        frame.loc[odd, ["correct/large", "cost/large"]] = np.nan
    return frames


def plugins(folder):
    """The installed plugins and the toy encoder and router."""
    found = registry.installed()
    found.add_file(toys.write_plugin(folder / "plugin.py"))
    return found


def names(folder, frames=None, router="knn", encoder="numbers"):
    bench = folder / "bench"
    if not bench.exists():
        toys.write_bench(bench, frames)
    return {"bench": str(bench), "encoder": encoder, "router": router}


def settings(**changes):
    return Settings(preset=protocol.PRESETS["smoke"], device="cpu", **changes)


def evaluate(folder, found, cell):
    """Run the cell's protocol into the store of the folder."""
    store = Store(folder / "store")
    executor = resolve.build_executor(found, "local", None, None, "cpu")
    outcome = evaluate_cells(
        found,
        store,
        settings(),
        toys.Silent(),
        benches=[cell["bench"]],
        encoders=[cell["encoder"]],
        routers=[cell["router"]],
        executor=executor,
    )
    assert not outcome.failures
    return store


def write(folder, frames=None, **cell):
    """Evaluate and export: (the export's folder, the plugins)."""
    found = plugins(folder)
    cell = names(folder, frames, **cell)
    store = evaluate(folder, found, cell)
    out = folder / "exported"
    export.export(
        found, store, settings(train=False), toys.Silent(), **cell, folder=out, command="rph eval ..."
    )
    store.close()
    return out, found
