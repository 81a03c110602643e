"""One or many cells, end to end: names -> plugins, data, embeddings, protocol, store -> results.

The only module where names, files and arithmetic meet. A cell that fails stops no other; what is finished is
read from the store and not trained again. With `train=False` nothing is trained: `rph score`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from rph import (
    arrays,
    clusters,
    disk,
    embed,
    headrouter,
    heads,
    metrics,
    neighbours,
    protocol,
    results,
    sweep,
    table,
    trials,
)
from rph.api import (
    BenchmarkSpec,
    Encoder,
    EncoderSpec,
    Labelled,
    Queries,
    RouterSpec,
    RoutingDataset,
    Split,
    Trial,
    variant_name,
    variant_with,
)
from rph.errors import RphError, UsageError
from rph.executors import Executor
from rph.registry import ALL, OURS, Kind, Plugin, Registry, plugin_errors
from rph.results import CellResult
from rph.store import Failed, Identity, Scored, Store, digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32

T = TypeVar("T")
PACKAGES = ("numpy", "torch", "scikit-learn")  # their versions can change a result
RESULT_CODE = (metrics, protocol, results, sys.modules[__name__])  # what makes a result of stored scores
SHARED_CODE = (arrays, neighbours, clusters, heads, headrouter)  # numeric code that routers share


class Reporter(Protocol):
    """What a run tells its user while it goes on."""

    def note(self, text: str) -> None:
        """Something legal that the user should know."""

    def embedding(self, what: str, done: int, total: int) -> None:
        """`done` of `total` queries are encoded."""

    def trial(self, cell: str, done: int, total: int) -> None:
        """`done` of `total` trials of the cell's present stage are finished."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that could not be run, or a trial of a cell that failed."""

    what: str  # the cell, benchmark or encoder
    error: RphError
    traceback: str = ""


def exit_code(failures: Sequence[Failure], *, anything: bool) -> int:
    """0 all well; 2 nothing was done because the input is wrong; 1 something failed."""
    if not failures:
        return 0
    only_input = all(isinstance(failure.error, UsageError) for failure in failures)
    return 2 if only_input and not anything else 1


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished cell with the way to its stored scores, and to what its router saw."""

    result: CellResult
    dataset: RoutingDataset
    spec: RouterSpec
    inputs: Callable[[], trials.Inputs]
    test_scores: Callable[[], list[Float32]]  # [N, K] per seed of the result, read from the store when called

    def routes(self) -> NDArray[np.int64]:
        """[S, N] the model that each seed's scores route each test query to."""
        return np.stack([metrics.route(scores, self.dataset.prior) for scores in self.test_scores()])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a call of `evaluate` produced."""

    cells: list[Finished] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def results(self) -> list[CellResult]:
        return [cell.result for cell in self.cells]

    @property
    def exit_code(self) -> int:
        return exit_code(self.failures, anything=bool(self.results))


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


# --- names to things --------------------------------------------------------------------------------


def parse_name(text: str) -> tuple[str, dict[str, str]]:
    """`name:key=value,key=value` -> name and options.

    >>> parse_name("synthetic:n=20000,k=11")
    ('synthetic', {'n': '20000', 'k': '11'})
    """
    name, _, rest = text.partition(":")
    options = {}
    for part in re.split(r",(?=\w+=)", rest) if rest else []:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UsageError(
                f"{text!r} cannot be read",
                why=f"{part!r} is not key=value",
                fix="write name:key=value,key=value",
            )
        options[key] = value
    return name, options


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


CONVERT: dict[Any, Callable[[str], Any]] = {int: int, float: float, str: str, bool: _truth, Path: Path}


def typed_options(function: Any, options: dict[str, str], what: str) -> dict[str, Any]:
    """The options as `function`'s keyword arguments, converted by their annotations: those in CONVERT, also `| None`."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {p.name: p for p in inspect.signature(function).parameters.values() if p.kind in by_name}
    typed = {}
    for key, value in options.items():
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1)
            known = ", ".join(parameters) or "none"
            raise UsageError(
                f"{what} has no option {key!r}",
                why=f"did you mean {close[0]!r}?" if close else f"its options: {known}",
                fix=f"`rph show {what.split()[-1].strip(chr(39))}` explains them",
            )
        kind = _stated_type(function, parameters[key])
        if kind not in CONVERT:
            raise UsageError(
                f"option {key!r} of {what} cannot be given as text",
                why="it states no type"
                if kind is inspect.Parameter.empty
                else f"its type is {inspect.formatannotation(kind)}",
                fix=f"leave it out; its authors can state {', '.join(one.__name__ for one in CONVERT)}",
            )
        try:
            typed[key] = CONVERT[kind](value)
        except ValueError as error:
            raise UsageError(f"option {key}={value} of {what} is not a valid {kind.__name__}") from error
    required = [name for name, p in parameters.items() if p.default is p.empty and name not in typed]
    if required:
        raise UsageError(
            f"{what} needs a value for {' and '.join(required)}",
            why="there is no default",
            fix="write it after the name: NAME:" + ",".join(f"{name}=..." for name in required),
        )
    return typed


def _stated_type(function: Any, parameter: inspect.Parameter) -> Any:
    """What the parameter's annotation stands for, without `None`; for an unknown name the annotation itself.

    Other annotations are left alone: they may name what is imported for type checkers only.
    """
    alone = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    code = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    try:
        hint = get_type_hints(alone, getattr(code, "__globals__", {}))[parameter.name]
    except NameError:
        return parameter.annotation
    if get_origin(hint) not in (Union, UnionType):
        return hint
    return next(kind for kind in get_args(hint) if kind is not NoneType)


def benchmark_loader(registry: Registry, text: str) -> Callable[[], RoutingDataset]:
    """What `--bench text` names, ready to be loaded: a benchmark by name with options, or a routing-table/1 folder.

    Raises UsageError for a name or an option that does not exist; nothing is read yet.
    """
    path = Path(text).expanduser()
    before_options = text.partition(":")[0]
    is_path = bool({"/", os.sep} & set(before_options)) or text.startswith((".", "~"))
    # Any other folder that happens to have a benchmark's name, as one of results, must not hide the benchmark.
    if table.is_table(path) or (is_path and path.is_dir()):
        return lambda: table.read(path)
    if is_path:
        raise UsageError(
            f"benchmark folder {text!r} does not exist", fix="give a folder with a bench.yaml, or a name"
        )
    name, options = parse_name(text)
    plugin = registry.load("benchmark", name)
    spec: BenchmarkSpec = plugin.spec
    with plugin_errors(f"benchmark {name!r} cannot be used", plugin.source.remedy):
        typed = typed_options(spec.load, options, f"benchmark {name!r}")

    def load() -> RoutingDataset:
        with plugin_errors(f"benchmark {name!r} cannot be loaded", plugin.source.remedy):
            dataset = spec.load(**typed)
            if not isinstance(dataset, RoutingDataset):
                raise TypeError(f"its load returned {type(dataset).__name__}, not RoutingDataset")
            table.check(dataset)
        return dataset

    return load


@dataclass(frozen=True, kw_only=True)
class BuiltEncoder:
    """An encoder with its options; no weights are loaded yet."""

    label: str  # as results name it
    spec: EncoderSpec
    encoder: Encoder


def build_executor(
    registry: Registry, name: str, workers: int | None, limit: float | None, device: str
) -> Executor:
    """An executor by name; see `ExecutorSpec` for the rest."""
    plugin = registry.load("executor", name)
    with plugin_errors(f"executor {name!r} cannot be started", plugin.source.remedy):
        executor: Executor = plugin.spec.build(workers, limit, device)
    return executor


def build_encoder(registry: Registry, text: str) -> BuiltEncoder:
    """An encoder by name, with options."""
    name, options = parse_name(text)
    plugin = registry.load("encoder", name)
    spec: EncoderSpec = plugin.spec
    with plugin_errors(f"encoder {name!r} cannot be built", plugin.source.remedy):
        built = spec.build(**typed_options(spec.build, options, f"encoder {name!r}"))
        identity = built.identity()
        if not isinstance(identity, str):
            raise TypeError(f"its identity is {identity!r}, not text")
    return BuiltEncoder(label=spec.name, spec=spec, encoder=built)


def expand(registry: Registry, kind: Kind, names: Sequence[str]) -> list[str]:
    """`all` becomes every installed name of the kind; repeated names count once."""
    every = [n for name in names for n in (registry.names(kind) if name == ALL else [name])]
    return list(dict.fromkeys(every))


def usable(
    registry: Registry,
    kind: Kind,
    names: Sequence[str],
    make: Callable[[str], T],
    failures: list[Failure],
) -> list[tuple[str, T]]:
    """Each name, `all` expanded, with what `make` gives for it. A plugin that is broken becomes a failure.

    Raises UsageError for a wrong name or option that was given; one that only `all` stands for is a failure too.
    """
    found = []
    for name in expand(registry, kind, names):
        with failing(failures, "plugins", also_usage=name not in names):
            found.append((name, make(name)))
    return found


@contextlib.contextmanager
def failing(failures: list[Failure], what: str, *, also_usage: bool = True) -> Iterator[None]:
    """An RphError in the block is recorded, and the run goes on with the next thing."""
    try:
        yield
    except RphError as error:
        if isinstance(error, UsageError) and not also_usage:
            raise
        failures.append(Failure(what=what, error=error))


def resolve_device(name: str) -> str:
    """`auto` is cuda where there is one, else cpu."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {name!r} is not known", fix="--device auto, cpu or cuda")
    if name == "cpu":
        return name
    has_cuda = _sees_cuda()
    if name == "cuda" and not has_cuda:
        raise UsageError(
            "--device cuda: no CUDA device is visible", fix="use --device auto, or check the driver"
        )
    return "cuda" if has_cuda else "cpu"


def _sees_cuda() -> bool:
    if version("torch").endswith(
        "+cpu"
    ):  # a build for CPUs alone: no need to import it, which takes a second
        return False
    import torch

    return torch.cuda.is_available()


def with_prices(dataset: RoutingDataset, prices: dict[str, float]) -> RoutingDataset:
    """A benchmark without costs, with one price per model and call given by the user."""
    if not prices or dataset.has_costs:
        return dataset
    unknown = sorted(set(prices) - set(dataset.models))
    missing = [model for model in dataset.models if model not in prices]
    if unknown or missing:
        raise UsageError(
            f"the prices given do not fit the pool of {dataset.name!r}",
            why=f"unknown models: {', '.join(unknown) or 'none'}; models without a price: {', '.join(missing) or 'none'}",
            fix="give --price MODEL=USD once for every model of the pool",
        )
    row = np.array([prices[model] for model in dataset.models], np.float32)

    def priced(split: Split) -> Split:
        return dataclasses.replace(split, costs=np.tile(row, (len(split), 1)))

    return dataclasses.replace(
        dataset, train=priced(dataset.train), val=priced(dataset.val), test=priced(dataset.test)
    )


# --- running ----------------------------------------------------------------------------------------


def evaluate(
    registry: Registry,
    store: Store,
    settings: Settings,
    report: Reporter,
    *,
    benches: Sequence[str],
    encoders: Sequence[str],
    routers: Sequence[str],
    executor: Executor,
) -> Outcome:
    """Run the protocol on every (benchmark, encoder, router). Unknown names are refused before anything runs."""
    outcome = Outcome()
    started: list[Cell] = []
    cells = plan(
        registry, store, settings, report, outcome, benches=benches, encoders=encoders, routers=routers
    )

    def remembered() -> Iterator[Cell]:
        for cell in cells:
            started.append(cell)
            yield cell

    def waiting(title: str) -> None:
        report.note(f"{title}: another rph is at it; waiting")

    sweep.Driver(executor, waiting=waiting).run(remembered())
    for cell in started:  # in the order of the call, not in that of their ends
        outcome.failures.extend(cell.failures())
        if cell.result is not None:
            outcome.cells.append(
                Finished(
                    result=cell.result,
                    dataset=cell.pair.dataset,
                    spec=cell.spec,
                    inputs=functools.partial(operator.attrgetter("inputs"), cell.pair),
                    test_scores=functools.partial(cell.test_scores, cell.result),
                )
            )
    for notice in store.notices:
        report.note(notice)
    return outcome


def plan(
    registry: Registry,
    store: Store,
    settings: Settings,
    report: Reporter,
    outcome: Outcome,
    *,
    benches: Sequence[str],
    encoders: Sequence[str],
    routers: Sequence[str],
) -> Iterator[Cell]:
    """The cells, one after the other; a benchmark is read when its first cell is asked for.

    Raises UsageError for unknown names at once; a plugin that is broken and a benchmark that cannot be read become
    failures of `outcome`.
    """
    failures = outcome.failures
    plugins = usable(registry, "router", routers, lambda name: registry.load("router", name), failures)
    built = usable(registry, "encoder", encoders, lambda name: build_encoder(registry, name), failures)
    loaders = usable(registry, "benchmark", benches, lambda name: benchmark_loader(registry, name), failures)

    def cells() -> Iterator[Cell]:
        for bench, load in loaders if plugins and built else ():
            dataset = None
            with failing(failures, f"benchmark {bench}"):
                dataset = with_prices(load(), settings.prices)
            if dataset is None:
                continue
            if dataset.subset:
                report.note(f"{dataset.name}: {dataset.subset}")
            for _, encoder in built:
                pair = Pair(dataset, encoder, settings, report)
                yield from (Cell(pair, plugin, store) for _, plugin in plugins)

    return cells()


class Pair:
    """A benchmark and an encoder: what all routers on them share. Embeddings are made at first need."""

    def __init__(
        self, dataset: RoutingDataset, encoder: BuiltEncoder, settings: Settings, report: Reporter
    ) -> None:
        self.dataset, self.encoder, self.settings, self.report = dataset, encoder, settings, report

    @cached_property
    def identity(self) -> str:
        """The embedding cache's key: computed without weights."""
        return embed.key(self.dataset, self.encoder.spec.card, self.encoder.encoder.identity())

    @cached_property
    def reference(self) -> results.Reference:
        return results.reference(self.dataset)

    @cached_property
    def inputs(self) -> trials.Inputs:
        """What routers see. Test labels and costs are not in it."""
        what = f"{self.dataset.name} x {self.encoder.label}"
        embeddings = embed.embed(
            self.dataset,
            self.encoder.spec,
            self.encoder.encoder,
            device=self.settings.device,
            progress=lambda done, total: self.report.embedding(what, done, total),
        )
        train, val, test = self.dataset.train, self.dataset.val, self.dataset.test
        models = self.dataset.models
        return trials.Inputs(
            train=Labelled(
                X=embeddings.train, texts=train.queries, Y=train.labels, C=train.costs, models=models
            ),
            val=Labelled(X=embeddings.val, texts=val.queries, Y=val.labels, C=val.costs, models=models),
            val_queries=Queries(X=embeddings.val, texts=val.queries),
            test_queries=Queries(X=embeddings.test, texts=test.queries),
            device=self.settings.device,
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
        self._tested: dict[Trial, float | None] = {}  # the same on test: reported, never selected by
        self._seconds: dict[Trial, float] = {}  # of the same
        self._goal = self._shown = 0  # trials of the present stage, and how many of them are done
        self._noted = False  # one note is enough: what is said of one trial holds for many

    @cached_property
    def cell_key(self) -> str:
        return digest([self.pair.dataset.fingerprint, self.pair.identity, self.spec.name])

    @cached_property
    def _decided_by(self) -> dict[str, Any]:
        """Everything that decides the scores of all its trials."""
        source = self.plugin.source
        return {
            "protocol": protocol.VERSION,
            "benchmark": self.pair.dataset.fingerprint,
            "embeddings": self.pair.identity,
            "router": self.spec.name,
            "distribution": source.distribution,
            "version": self.spec.card.version,
            "code": self.plugin.code,
            "shared code": _shared_code(),
            "device": self.pair.settings.device,
            "packages": _packages(),
        }

    def identify(self, trial: Trial) -> Identity:
        """Everything that decides the trial's scores."""
        variant = dataclasses.asdict(trial.variant)
        decided_by = {**self._decided_by, "variant": variant, "seed": trial.seed}
        return Identity(cell=self.cell_key, decided_by=decided_by)

    def outlook(self, seconds_per_trial: dict[tuple[str, str], float]) -> Outlook:
        """What a run would still have to do, and for how long, by the trials of this router that are in the store."""
        card, preset, grid = self.spec.card, self.pair.settings.preset, self.spec.grid
        trials_ = protocol.most_trials(grid, deterministic=card.deterministic, preset=preset)
        seeds = preset.seeds[:1] if card.deterministic else preset.seeds
        every = [Trial(variant=v, seed=s) for v in grid[: preset.variants] for s in seeds]
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
    def inputs(self) -> trials.Inputs:
        return self.pair.inputs

    def hold(self, seconds: float) -> Callable[[], None] | None:
        lock = self.store.hold(self.cell_key, seconds)
        return None if lock is None else lock.release

    def steps(self) -> Iterator[list[Trial]]:
        """Both stages of the protocol, then the result; yields the trials that are not in the store."""
        card = self.spec.card
        if (known := self._known_result()) is not None:
            self.result = known
            return
        asking = protocol.select(
            self.spec.grid, deterministic=card.deterministic, preset=self.pair.settings.preset
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
                why="none sends a val query to a model that was observed on it",
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
                [pair.dataset.name, pair.dataset.subset, pair.encoder.label, self.plugin.source.version],
                [dataclasses.asdict(variant) for variant in self.spec.grid],
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
        self._accuracies[trial] = results.accuracy(scored.val, dataset.val, dataset.prior)
        self._tested[trial] = results.accuracy(scored.test, dataset.test, dataset.prior)

    def _in_order(self, trials_: Iterable[Trial]) -> list[Trial]:
        """By seed and variant: the same in every run, whichever trial ended first."""
        seeds, grid = self.pair.settings.preset.seeds, self.spec.grid
        return sorted(trials_, key=lambda trial: (seeds.index(trial.seed), grid.index(trial.variant)))

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
        measured = [
            results.measure(dataset, card, self._stored(trial), realised_selector=settings.realised_selector)
            for trial in selection.trials
        ]
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
                calibrated=card.calibrated,
                fidelity=card.fidelity,
            ),
            encoder=pair.encoder.label,
            encoder_identity=pair.encoder.encoder.identity(),
            protocol=settings.preset.name,
            protocol_version=protocol.VERSION,
            models=dataset.models,
            variant=dataclasses.asdict(selection.variant),
            variant_name=variant_name(selection.variant),
            deterministic=card.deterministic,
            seeds=tuple(trial.seed for trial in selection.trials),
            test_accuracy_std=results.accuracy_std(measured, deterministic=card.deterministic),
            val_accuracy=selection.val_accuracy,
            score_scale="native" if card.calibrated else "sigmoid fitted on val",
            selector_cost="realised (oracle leak)" if settings.realised_selector else "train mean",
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
            packages=_packages(),
            **results.summary(measured, pair.reference, dataset.models),
        )


@functools.cache
def _packages() -> dict[str, str]:
    return {OURS: version(OURS), **{name: version(name) for name in PACKAGES}}


@functools.cache  # the code that was imported is what runs, whatever is edited meanwhile
def _shared_code() -> str:
    return _digest_of(SHARED_CODE)


@functools.cache
def _result_code() -> str:
    return _digest_of(RESULT_CODE)


def _digest_of(modules: Sequence[ModuleType]) -> str:
    return digest([disk.sha256_file(Path(str(module.__file__))) for module in modules])
