"""A cell (benchmark, encoder, router): what its trials are, which of them are stored, and the result when all are.

The protocol asks for trials, the store is looked into, the driver trains what is missing. With `train=False` nothing is
trained: `rph score`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rph import api, arrays, disk, holes, protocol
from rph.api import (
    RouterSpec,
    RoutingDataset,
    Trial,
    variant_name,
    variant_with,
)
from rph.data import alike, checking
from rph.distribution import OURS
from rph.encoding import cache
from rph.engine import keys, trials
from rph.engine.failures import Failure
from rph.engine.inputs import Inputs, inputs_of
from rph.engine.resolve import BuiltEncoder
from rph.engine.store import Identity, Store, digest
from rph.errors import RphError
from rph.lazy import np
from rph.registry import Plugin
from rph.results import blocks, files, findings, metrics, missing, probabilities, tasks, utility, variants
from rph.results import cell as results
from rph.results.cell import CellResult
from rph.results.outcomes import Failed, Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32

# What makes a result of stored scores.
RESULT_CODE = (
    api, arrays, holes, alike, checking, metrics, utility, probabilities, protocol, results, files, blocks, missing, tasks,
    findings, variants, sys.modules[__name__],
)  # fmt: skip


class Reporter(Protocol):
    """What a run tells its user while it goes on."""

    def note(self, text: str) -> None:
        """Something legal that the user should know."""

    def embedding(self, what: str, done: int, total: int) -> None:
        """`done` of `total` queries are encoded."""

    def trial(self, cell: str, done: int, total: int) -> None:
        """`done` of `total` trials of the cell's present stage are finished."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A cell before it is run."""

    bench: str
    encoder: str
    router: str
    trials: int  # at most
    done: int
    seconds: float | None  # of training that is left, on one worker; None: this router was never run


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is done; what is run are the arguments of `evaluate`."""

    preset: protocol.Preset
    device: str  # cpu or cuda
    train: bool = True  # False: compute from stored scores only
    retry_failed: bool = True  # trials that failed in an earlier run
    force: bool = False  # train again what is finished
    realised_selector: bool = False  # choose by realised test cost: an oracle leak, for comparison
    prices: dict[str, float] = field(
        default_factory=dict
    )  # US dollars per call, for a benchmark without costs


class Pair:
    """A benchmark and an encoder: what all routers on them share. Embeddings are made at first need."""

    def __init__(
        self, dataset: RoutingDataset, encoder: BuiltEncoder, settings: Settings, report: Reporter
    ) -> None:
        self.dataset, self.encoder, self.settings, self.report = dataset, encoder, settings, report

    @cached_property
    def identity(self) -> str:
        """The embedding cache's key: computed without weights."""
        return cache.key(self.dataset, self.encoder.spec.card, self.encoder.encoder.identity())

    @cached_property
    def reference(self) -> results.Reference:
        return results.reference(self.dataset)

    @cached_property
    def learned(self) -> str | None:
        """What the encoder's fit found, where it says so."""
        return self.embeddings.learned if hasattr(self.encoder.encoder, "learned") else None

    @cached_property
    def inputs(self) -> Inputs:
        """What routers see."""
        return inputs_of(self.dataset, self.embeddings, self.settings.device)

    @cached_property
    def embeddings(self) -> cache.Embeddings:
        """Encoded at first need."""
        what = f"{self.dataset.name} x {self.encoder.label}"
        return cache.embed(
            self.dataset,
            self.encoder.spec,
            self.encoder.encoder,
            device=self.settings.device,
            progress=lambda done, total: self.report.embedding(what, done, total),
        )


class Cell:
    """A router on a (benchmark, encoder)."""

    def __init__(self, pair: Pair, plugin: Plugin, store: Store) -> None:
        self.pair, self.plugin, self.store = pair, plugin, store
        self.spec: RouterSpec = plugin.spec
        self.title = f"{self.spec.name} on {pair.dataset.name} x {pair.encoder.label}"
        self.inputs_name = f"{pair.dataset.name}-{pair.encoder.label}-{id(pair):x}"
        self.error: RphError | None = None
        self.result: CellResult | None = None  # when all steps are done
        self._failed: dict[Trial, Failed] = {}
        self._accuracies: dict[Trial, float | None] = {}  # of the finished trials, on val
        self._routes: dict[Trial, str] = {}  # what trials with equal val routes have in common
        self._tested: dict[Trial, float | None] = {}  # the same on test: reported, never selected by
        self._seconds: dict[Trial, float] = {}  # of the same
        self._goal = self._shown = 0  # trials of the present stage, and how many of them are done
        self._noted = False  # one note is enough: what is said of one trial holds for many

    @cached_property
    def grid(self) -> tuple[Any, ...]:
        """The variants that are for a pool of this size."""
        return self.spec.variants(len(self.pair.dataset.models))

    def _deterministic(self, variant: Any) -> bool:
        return bool(self.spec.variant_card(variant).deterministic)

    @cached_property
    def cell_key(self) -> str:
        return digest([self.pair.dataset.fingerprint, self.pair.identity, self.spec.name])

    @cached_property
    def _software(self) -> keys.Software:
        return keys.software(self.plugin)

    @cached_property
    def _decided_by(self) -> dict[str, Any]:
        """Everything that decides the scores of all its trials."""
        software = self._software
        return {
            "protocol": protocol.VERSION,
            "benchmark": self.pair.dataset.fingerprint,
            "embeddings": self.pair.identity,
            "router": self.spec.name,
            "version": self.spec.card.version,
            "code": software.router,
            "trial code": software.trial,
            "packages": software.packages,
            "device": self.pair.settings.device,
        }

    def identify(self, trial: Trial) -> Identity:
        """Everything that decides the trial's scores."""
        variant = dataclasses.asdict(trial.variant)
        decided_by = {**self._decided_by, "variant": variant, "seed": trial.seed}
        return Identity(cell=self.cell_key, decided_by=decided_by)

    def outlook(self, seconds_per_trial: dict[tuple[str, str], float]) -> Outlook:
        """What a run would still have to do, and for how long, by the trials of this router that are in the store."""
        preset, grid = self.pair.settings.preset, self.grid
        trials_ = protocol.most_trials(grid, preset=preset, deterministic=self._deterministic)
        every = [
            Trial(variant=variant, seed=seed)
            for variant in grid[: preset.variants]
            for seed in (preset.seeds[:1] if self._deterministic(variant) else preset.seeds)
        ]
        done = 0 if self.pair.settings.force else self.store.done([self.identify(trial) for trial in every])
        known = seconds_per_trial.get((self.spec.name, self.pair.dataset.fingerprint))
        if known is None:
            elsewhere = [s for (router, _), s in seconds_per_trial.items() if router == self.spec.name]
            known = sum(elsewhere) / len(elsewhere) if elsewhere else None
        left = max(0, trials_ - done)
        return Outlook(
            bench=self.pair.dataset.name,
            encoder=self.pair.encoder.label,
            router=self.spec.name,
            trials=trials_,
            done=min(done, trials_),
            seconds=None if known is None else left * known,
        )

    # --- what the driver asks for -------------------------------------------------------------------

    @property
    def inputs(self) -> Inputs:
        return self.pair.inputs

    def hold(self, seconds: float) -> Callable[[], None] | None:
        lock = self.store.hold(self.cell_key, seconds)
        return None if lock is None else lock.release

    def steps(self) -> Iterator[list[Trial]]:
        """Both stages of the protocol, then the result; yields the trials that are not in the store."""
        if (known := self._known_result()) is not None:
            self.result = known
            return
        preset = self.pair.settings.preset
        asking = protocol.select(
            self.grid,
            preset=preset,
            deterministic=self._deterministic,
            competes=lambda variant: self.spec.variant_card(variant).reads == "embedding",
            routes=lambda variant: self._routes[Trial(variant=variant, seed=preset.seeds[0])],
        )
        wanted = next(asking)
        while True:
            if missing := self._missing(wanted):
                self._goal = len(wanted)
                self._report(len(wanted) - len(missing))
                yield missing
            try:
                wanted = asking.send([self._accuracies.get(trial) for trial in wanted])
            except StopIteration as end:
                selection: protocol.Selection | None = end.value
                break
        if selection is None and self._failed:
            shown = any(failed.traceback for failed in self._failed.values())
            raise RphError(
                "no variant finished",
                why=f"{len(self._failed)} trial(s) failed",
                fix=f"repair the router{' (tracebacks above)' if shown else ''}, then run the same command",
            )
        if selection is None:
            raise RphError(
                "no variant can be chosen",
                why="no choice on val counts: by plan, none of them was asked",
                fix="give the val split of the benchmark more labels",
            )
        self.result = self._result(selection)
        if not self._failed:  # a failed trial is told in every run
            self.store.keep_result(self.cell_key, self._result_key, self.result.model_dump_json())

    @cached_property
    def _result_key(self) -> str:
        """Everything but the stored trials that decides the result."""
        pair, settings = self.pair, self.pair.settings
        return digest(
            [
                self._decided_by,
                # Names that scores do not depend on, but a result states: equal rows may have another one.
                [
                    pair.dataset.name,
                    pair.dataset.subset,
                    pair.encoder.label,
                    self.plugin.source.distribution,
                    self.plugin.source.version,
                ],
                [
                    [dataclasses.asdict(one) for one in (variant, self.spec.variant_card(variant))]
                    for variant in self.spec.grid
                ],
                dataclasses.asdict(settings.preset),
                settings.realised_selector,
                _result_code(),
            ]
        )

    def _known_result(self) -> CellResult | None:
        """The result as it was computed before, where no trial of the cell has changed since."""
        if self.pair.settings.force or not self.pair.settings.train:
            return None
        kept = self.store.result(self.cell_key, self._result_key)
        return None if kept is None else CellResult.model_validate_json(kept)

    def _missing(self, wanted: Sequence[Trial]) -> list[Trial]:
        """The trials that are neither in the store nor failed in this run."""
        missing = []
        for trial in wanted:
            if trial in self._accuracies or trial in self._failed:
                continue
            identity, settings = self.identify(trial), self.pair.settings
            if not settings.force and (stored := self.store.get(identity)) is not None:
                self._finish(trial, stored)
            elif not settings.retry_failed and (failed := self.store.failure(identity)) is not None:
                self._failed[trial] = failed
            else:
                missing.append(trial)
        if missing and not self.pair.settings.train:
            raise RphError(
                f"{len(missing)} of {len(wanted)} trials are not in the store",
                why="this command trains nothing",
                fix=f"`rph eval` with the same options trains {self.title}",
            )
        return missing

    def record(self, outcomes: trials.Outcomes) -> None:
        self.store.put([(self.identify(trial), outcome) for trial, outcome in outcomes])
        for trial, outcome in outcomes:
            if isinstance(outcome, Scored):
                self._finish(trial, outcome)
                if outcome.note and not self._noted:
                    self._noted = True
                    self.pair.report.note(f"{self.title}: {outcome.note}")
            else:
                self._failed[trial] = outcome
        self._report(self._shown + len(outcomes))

    def _report(self, done: int) -> None:
        self._shown = done
        self.pair.report.trial(self.title, done, self._goal)

    def _finish(self, trial: Trial, scored: Scored) -> None:
        self._seconds[trial] = scored.seconds
        dataset = self.pair.dataset
        route = metrics.route_of(scored.val, dataset, "val")
        self._routes[trial] = hashlib.sha256(route.tobytes()).hexdigest()
        self._accuracies[trial] = metrics.val_accuracy(route, dataset)
        self._tested[trial] = metrics.test_accuracy(metrics.route_of(scored.test, dataset), dataset)

    def _in_order(self, trials_: Iterable[Trial]) -> list[Trial]:
        """By seed and variant: the same in every run, whichever trial ended first."""
        seeds = self.pair.settings.preset.seeds
        return sorted(trials_, key=lambda trial: (seeds.index(trial.seed), self.grid.index(trial.variant)))

    def failures(self) -> list[Failure]:
        """Its trials that failed, and why there is no result, where that is so."""
        retry = "the next run" if self.pair.settings.retry_failed else "--retry-failed"
        found = [
            Failure(
                what=self.title,
                error=RphError(f"trial failed: {failed.reason}", fix=f"{retry} tries it again"),
                traceback=failed.traceback,
            )
            for failed in map(self._failed.__getitem__, self._in_order(self._failed))
        ]
        return found if self.error is None else [*found, Failure(what=self.title, error=self.error)]

    def _alike(self) -> tuple[tuple[str, ...], ...]:
        """The variants that stage 1 found to route val alike, in groups of two or more."""
        first = self.pair.settings.preset.seeds[0]
        groups: dict[str, list[str]] = {}
        for trial in self._in_order(self._routes):
            if trial.seed == first:
                groups.setdefault(self._routes[trial], []).append(variant_name(trial.variant))
        return tuple(tuple(names) for names in groups.values() if len(names) > 1)

    def _variants(self) -> variants.Variants:
        """What the cards say of the variants that stage 1 tries."""
        tried = self.grid[: self.pair.settings.preset.variants]
        return variants.Variants.model_validate(
            {
                "variants": [
                    {"variant_name": variant_name(variant), **_said(self.spec.variant_card(variant))}
                    for variant in tried
                ]
            }
        )

    # --- results ------------------------------------------------------------------------------------

    def _stored(self, trial: Trial) -> Scored:
        scored = self.store.get(self.identify(trial))
        if scored is None:
            raise RphError(
                f"{self.title}: the scores just stored cannot be read back",
                why="; ".join(self.store.notices[-1:]),
                fix="check the disk, then run the same command",
            )
        return scored

    def test_scores(self, result: CellResult) -> list[Float32]:
        """The stored scores [N, K] of the test queries, one array per seed of the result."""
        variant = variant_with(self.spec.grid, result.variant)
        return [self._stored(Trial(variant=variant, seed=seed)).test for seed in result.seeds]

    def _result(self, selection: protocol.Selection) -> CellResult:
        pair, card, source = self.pair, self.spec.card, self.plugin.source
        dataset, settings = pair.dataset, pair.settings
        own = self.spec.variant_card(selection.variant)
        calibrated, deterministic = bool(own.calibrated), bool(own.deterministic)
        stored = [self._stored(trial) for trial in selection.trials]
        measured = [
            results.measure(
                dataset, scored, calibrated=calibrated, realised_selector=settings.realised_selector
            )
            for scored in stored
        ]
        seeds = tuple(trial.seed for trial in selection.trials)
        queries = files.per_query(dataset, seeds, routes_of(dataset, [scored.test for scored in stored]))
        known = blocks.make(dataset, queries.arrays())
        sure = missing.sure(known.get(missing.NAME))
        known[variants.NAME] = self._variants()
        if pair.learned is not None:
            known[blocks.ENCODING] = blocks.Encoding(learned=pair.learned)
        if groups := self._alike():
            known[blocks.ALIKE] = blocks.Alike(variants=groups)
        return CellResult(
            bench=dataset.name,
            subset=dataset.subset,
            bench_fingerprint=dataset.fingerprint,
            router=card.name,
            router_distribution=source.distribution,
            router_version=source.version,
            method=results.Method(
                title=card.title,
                paper=card.paper,
                year=card.year,
                family=card.family,
                licence=card.licence,
                calibrated=calibrated,
                fidelity=card.fidelity,
            ),
            encoder=pair.encoder.label,
            encoder_identity=pair.encoder.encoder.identity(),
            protocol=settings.preset.name,
            protocol_version=protocol.VERSION,
            models=dataset.models,
            variant=dataclasses.asdict(selection.variant),
            variant_name=variant_name(selection.variant),
            deterministic=deterministic,
            seeds=seeds,
            test_accuracy_std=results.accuracy_std(measured, deterministic=deterministic),
            val_accuracy=selection.val_accuracy,
            score_scale="native" if calibrated else "sigmoid fitted on val",
            selector_cost=_selector(measured, stored, settings.realised_selector),
            reference=pair.reference,
            per_seed=tuple(measured),
            configurations=tuple(
                results.Configuration(
                    variant_name=variant_name(trial.variant),
                    seed=trial.seed,
                    val_accuracy=self._accuracies[trial],
                    test_accuracy=self._tested[trial],
                )
                for trial in self._in_order(self._accuracies)
            ),
            seconds=sum(self._seconds.values()),
            trials=len(self._seconds),
            failed_trials=tuple(self._failed[trial].reason for trial in self._in_order(self._failed)),
            times_test_was_scored=self.store.times_test_was_scored(self.cell_key),
            device=settings.device,
            packages={OURS: version(OURS), **self._software.packages},
            blocks={name: record.model_dump(mode="json") for name, record in known.items()},
            **results.summary(measured, pair.reference, dataset.models, sure=sure),
        )


def _selector(measured: Sequence[results.Measured], stored: Sequence[Scored], realised: bool) -> Any:
    """Whose costs the utility chose by."""
    if realised:
        return "realised (oracle leak)"
    priced = any(one.utility is not None for one in measured)
    return "router's own" if priced and any(one.costs is not None for one in stored) else "train mean"


def _said(card: api.VariantCard) -> dict[str, Any]:
    """A variant's card as a result holds it: which pools it is for, its pool says."""
    said = dataclasses.asdict(card)
    del said["most_models"]
    return said


def routes_of(dataset: RoutingDataset, scores: Iterable[Float32]) -> NDArray[np.int64]:
    """[S, N] the model that each seed's test scores [N, K] route each query to."""
    return np.stack([metrics.route_of(each, dataset) for each in scores])


@functools.cache  # the code that was imported is what runs, whatever is edited meanwhile
def _result_code() -> str:
    return digest([disk.sha256_file(Path(str(module.__file__))) for module in RESULT_CODE])
