"""A trained router as a folder: what `rph export` writes and `rph.load` reads. No pickle, no code.

- `router.json`: what it is, what it was trained on, what it needs, and a checksum of all that (`Manifest`);
- `router.safetensors`: what the router learnt;
- `encoder.safetensors`: what its encoder learnt, where that was fitted on the train queries.

The run store keeps scores, not routers. So the selected variant is trained once more with the first seed, and what is
written is read back and must score the val queries as the store says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from rph import __version__, disk
from rph.api import EncoderCard, RouterSpec, Trial, variant_name, variant_with
from rph.arrays import observed_means
from rph.encoding import cache
from rph.engine import evaluate, resolve
from rph.engine.cell import Cell, Reporter, Settings
from rph.engine.keys import reach_of
from rph.engine.store import Store, digest
from rph.errors import RphError, UsageError
from rph.registry import FAILURES, Plugin, Registry
from rph.results import metrics, probabilities, utility
from rph.results.cell import CellResult, Distribution, Record
from rph.training import states

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32, Queries, Router, RoutingDataset
    from rph.training.states import State

FORMAT = "rph-router/1"
MANIFEST, ROUTER, ENCODER = "router.json", "router.safetensors", "encoder.safetensors"
ELSEWHERE = 0.005  # share of val queries that may go elsewhere where the training is not repeated bit for bit
OFF = 0.02  # and how far a score may then be off on average, in standard deviations of the stored scores
AGAIN = "export the router again, or copy it again"
SAME_VECTOR = 1e-5  # how far a fitted encoder's vectors may be off the cached ones


class Method(Record):
    """The router's implementation. Another one may read the arrays differently, so `rph.load` wants this one."""

    name: str
    version: int  # of the method, from its card
    distribution: Distribution
    distribution_version: str
    code: str  # hash of its code and of all that this reaches


class Encoding(Record):
    """The encoder. All of it decides the vectors."""

    name: str
    identity: str  # of the weights
    decides: dict[str, Any]  # fields of its card

    @classmethod
    def of(cls, built: resolve.BuiltEncoder) -> Self:
        """Of an encoder as it is installed here; the weights are not loaded."""
        return cls(name=built.spec.name, identity=built.encoder.identity(), decides=decides(built.spec.card))


class Bench(Record):
    """What it was trained on."""

    name: str
    subset: str
    fingerprint: str


class Licences(Record):
    """As the cards state them; None: not stated. A router may hold its training data (knn does)."""

    benchmark: str | None
    encoder: str | None
    router: str | None


class Check(Record):
    """How the exported router's val scores compare with the stored ones of the benchmark run."""

    bit_for_bit: bool
    largest_difference: float
    routes_changed: int
    queries: int


class Manifest(Record):
    """The content of `router.json`."""

    format: Literal["rph-router/1"] = "rph-router/1"
    rph: str
    router: Method
    variant: dict[str, Any]
    variant_name: str
    seed: int
    protocol: str
    device: str
    models: tuple[str, ...]
    # The models' levels on train (rph.arrays.level), which break ties; on a dense table their mean labels, as the name
    # says, from before there were levels. None: never observed.
    prior: tuple[FiniteFloat | None, ...]
    costs: tuple[FiniteFloat | None, ...]  # mean US dollars per call on train; None: unknown
    # What is scaled to 0 and to 1: the least and the largest known cost; None: none is known.
    cost_scale: tuple[FiniteFloat, FiniteFloat] | None
    # a and b of P = sigma(a score + b), fitted on val; None: scores are P.
    sigmoid: tuple[FiniteFloat, FiniteFloat] | None
    encoder: Encoding
    bench: Bench
    licences: Licences
    check: Check
    files: dict[str, str]  # name -> sha256
    # Where some models were never run on some tasks (rph.holes): every known task's pool; None: all models. Else empty.
    tasks: dict[str, tuple[str, ...] | None] = Field(default_factory=dict)
    # Share of the val routes at lambda 0 that lead out of their task's pool where no task is given; None: not counted, in
    # an export from before there were tasks.
    leaves_pool: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def unpriced(self) -> tuple[str, ...]:
        """The models without a known price: above lambda 0 they are not chosen."""
        return tuple(model for model, cost in zip(self.models, self.costs, strict=True) if cost is None)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """A checksum finds damage. Whoever computes it anew must still write what can route."""
        K = len(self.models)
        if K == 0 or len(set(self.models)) < K:
            raise ValueError("models is empty or names one twice")
        for name, values in (("prior", self.prior), ("costs", self.costs)):
            if len(values) != K:
                raise ValueError(f"{name} has {len(values)} values for {K} models")
        known = [cost for cost in self.costs if cost is not None]
        scale = (min(known), max(known)) if known else None
        # Exports from before some prices were enough have no scale where one is unknown.
        if self.cost_scale != scale and (self.cost_scale is not None or None not in self.costs):
            raise ValueError("cost_scale is not the least and the largest known cost")
        for task, pool in self.tasks.items():
            if pool is not None and not (pool and set(pool) <= set(self.models)):
                raise ValueError(f"the pool of task {task!r} is empty or has a model that is not in models")
        if ROUTER not in self.files or not set(self.files) <= {ROUTER, ENCODER}:
            raise ValueError(
                f"files are {', '.join(sorted(self.files)) or 'none'}; {ROUTER} is always one of them"
            )
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """An export as read from its folder, checked."""

    manifest: Manifest
    router: State
    encoder: State | None  # None: the encoder learns nothing


# --- making one -------------------------------------------------------------------------------------


def export(
    registry: Registry,
    store: Store,
    settings: Settings,
    report: Reporter,
    *,
    bench: str,
    encoder: str,
    router: str,
    folder: Path,
    command: str,
) -> Manifest:
    """Train the cell's selected variant once more with its first seed and write it to `folder`, which must be new.

    `command` finishes the cell. UsageError where it is not finished in the store; RphError where training again gives
    other scores than those stored.
    """
    try:
        taken = folder.exists()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise UsageError(
            f"{folder} cannot be written", why=str(error.strerror), fix="give --out another folder"
        ) from error
    if taken:
        raise UsageError(f"{folder} exists already", fix="give --out a folder that does not exist yet")
    cell = _cell(registry, store, settings, report, bench=bench, encoder=encoder, router=router)
    result = _finished(cell, command)
    spec, dataset, inputs = cell.spec, cell.pair.dataset, cell.inputs
    variant = variant_with(spec.grid, result.variant)
    trial = Trial(variant=variant, seed=result.seeds[0])
    stored = store.get(cell.identify(trial))
    if stored is None:
        raise RphError(
            f"{cell.title}: the stored scores are damaged", fix=f"run `{command}`, then this again"
        )
    fitted = _fitted(spec, trial, inputs)
    built = cell.pair.encoder
    costs = None if dataset.train.costs is None else observed_means(dataset.train.costs)
    scale = None if dataset.train.costs is None else utility.CostScale.fit(dataset.train.costs)
    with disk.new_folder(folder, "exporting a router") as temporary:
        with cannot(spec.name, "be exported"):
            files = {ROUTER: fitted.state()}
        if built.spec.card.fitted:
            files[ENCODER] = _encoder_state(built, dataset, inputs.val_queries, settings.device)
        for name, state in files.items():
            states.save(temporary / name, state)
        read_back = states.load(temporary / ROUTER)
        with cannot(spec.name, "be exported"):
            loaded = spec.router.from_state(read_back, variant=variant, device=settings.device)
            found = loaded.scores(inputs.val_queries)
        check = _check(cell.title, found, stored.val, dataset)
        manifest = Manifest(
            rph=__version__,
            router=method(cell.plugin),
            variant=result.variant,
            variant_name=result.variant_name,
            seed=trial.seed,
            protocol=result.protocol,
            device=settings.device,
            models=dataset.models,
            prior=_known(dataset.level),
            costs=(None,) * len(dataset.models) if costs is None else _known(costs),
            cost_scale=None if scale is None else (scale.low, scale.high),
            sigmoid=None
            if spec.variant_card(variant).calibrated
            else probabilities.fit_sigmoid(stored.val, dataset.val.labels),
            encoder=Encoding.of(built),
            bench=Bench(name=dataset.name, subset=dataset.subset, fingerprint=dataset.fingerprint),
            licences=Licences(
                benchmark=_licence(registry, bench),
                encoder=built.spec.card.licence or None,
                router=spec.card.licence or None,
            ),
            check=check,
            tasks=_pools(dataset),
            leaves_pool=_leaving(found, dataset),
            files={name: disk.sha256_file(temporary / name) for name in files},
        )
        content = manifest.model_dump(mode="json")
        text = json.dumps({**content, "checksum": digest(content)}, indent=1, ensure_ascii=False)
        (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


@contextlib.contextmanager
def cannot(router: str, what: str) -> Iterator[None]:
    """A router's exception, where it gives or takes its state, as an RphError."""
    try:
        yield
    except RphError:
        raise
    except FAILURES as error:
        raise RphError(
            f"router {router!r} cannot {what}",
            why=f"{type(error).__name__}: {error}",
            fix=f"`rph check router {router} --only state-round-trip` shows it to the router's author",
        ) from error


def method(plugin: Plugin) -> Method:
    """The implementation of a router as it is installed here."""
    return Method(
        name=plugin.spec.name,
        version=plugin.spec.card.version,
        distribution=plugin.source.distribution,
        distribution_version=plugin.source.version,
        code=reach_of(plugin).code,
    )


def decides(card: EncoderCard) -> dict[str, Any]:
    """What on an encoder's card decides its vectors, and the precision they are kept in."""
    return {name: getattr(card, name) for name in (*cache.DECIDES, "stored")}


def _cell(
    registry: Registry,
    store: Store,
    settings: Settings,
    report: Reporter,
    *,
    bench: str,
    encoder: str,
    router: str,
) -> Cell:
    outcome = evaluate.Outcome()
    names = {"benches": [bench], "encoders": [encoder], "routers": [router]}
    cells = list(evaluate.plan(registry, store, settings, report, outcome, **names))
    if outcome.failures:
        raise outcome.failures[0].error
    if len(cells) != 1:
        raise UsageError(f"{len(cells)} routers were named", fix="export one after the other")
    return cells[0]


def _finished(cell: Cell, command: str) -> CellResult:
    """The cell's result from the store alone: `settings.train` is off."""
    try:
        list(cell.steps())
    except RphError as error:
        why = error.what.removeprefix(f"{cell.title}: ")
        raise UsageError(f"{cell.title} is not finished", why=why, fix=f"`{command}` finishes it") from error
    assert cell.result is not None, "steps() ends with a result or raises"
    return cell.result


def _fitted(spec: RouterSpec, trial: Trial, inputs: Any) -> Router:
    router = spec.router()
    try:
        router.fit(inputs.train, inputs.val, variant=trial.variant, seed=trial.seed, device=inputs.device)
    except FAILURES as error:
        raise RphError(
            f"training {spec.name} {variant_name(trial.variant)} again failed",
            why=f"{type(error).__name__}: {error}",
        ) from error
    return router


def _check(title: str, found: Float32, stored: Float32, dataset: RoutingDataset) -> Check:
    """RphError where these are not the scores of one training.

    A repeated training is the same bit for bit, but where the stored one shared its work with other variants
    (`fit_many`), or was done on another kind of processor. Then the sums were taken in another order, and scores
    and a few routes may move as far as the conformance check of `fit_many` lets them.
    """
    check = Check(
        bit_for_bit=bool(np.array_equal(found, stored)),
        largest_difference=float(np.abs(found - stored).max(initial=0)),
        routes_changed=int(
            (metrics.route_of(found, dataset, "val") != metrics.route_of(stored, dataset, "val")).sum()
        ),
        queries=len(stored),
    )
    off = float(np.abs(found - stored).mean()) / (float(stored.std()) or 1.0)
    if check.routes_changed > ELSEWHERE * len(stored) or off > OFF:
        raise RphError(
            f"{title}: trained again, it is another router",
            why=f"{check.routes_changed} of {check.queries} val queries are routed otherwise than in the store, and a score"
            f" is off by {off:.2g} standard deviations on average; allowed are {ELSEWHERE:.1%} and {OFF:g}",
            fix="evaluate and export on the same kind of machine",
        )
    return check


def _encoder_state(built: resolve.BuiltEncoder, dataset: RoutingDataset, val: Queries, device: str) -> State:
    """What a fitted encoder learnt, from an encoder that gives the vectors which the router was trained on."""
    card, encoder = built.spec.card, built.encoder
    encoder.fit([card.prefix + query for query in dataset.train.queries])
    X = encoder.encode([card.prefix + query for query in val.texts], device=device)
    if X.shape != val.X.shape or float(np.abs(X - val.X).max(initial=0)) > SAME_VECTOR:
        raise RphError(
            f"encoder {card.name!r}, fitted again, gives other vectors than those the router was trained on",
            why="the cached embeddings were made on another machine or with other library versions",
            fix="evaluate and export on the same kind of machine",
        )
    return states.of_encoder(encoder)


def _pools(dataset: RoutingDataset) -> dict[str, tuple[str, ...] | None]:
    """Every task's pool, None: all models; nothing where all tasks have all models."""
    every = sorted({task for _, split in dataset.splits() for task in split.tasks} - {""})
    pools: dict[str, tuple[str, ...] | None] = {}
    for task in every:
        pool = tuple(model for model in dataset.models if (task, model) not in dataset.blocks)
        pools[task] = None if len(pool) == len(dataset.models) else pool
    return pools if any(pools.values()) else {}


def _leaving(scores: Float32, dataset: RoutingDataset) -> float:
    """The share of the val queries that scores [V, K] send out of their pool where all models may be chosen."""
    pool = dataset.mask("val").pool
    if pool is None:
        return 0.0
    route = metrics.route(scores, dataset.level)
    return float((~pool[np.arange(len(route)), route]).mean())


def _known(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _licence(registry: Registry, bench: str) -> str | None:
    """The licence of a benchmark by name; a folder states none."""
    if Path(bench).expanduser().is_dir():
        return None
    stated: str = registry.load("benchmark", resolve.parse_name(bench)[0]).spec.card.licence
    return stated or None


# --- reading one ------------------------------------------------------------------------------------


def read(folder: Path) -> Exported:
    """The export in `folder`. UsageError where there is none or it may not be read; RphError where a file is not what
    was written."""
    try:
        return _read(folder)
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be read",
            why=str(error.strerror or error),
            fix="give the folder that `rph export` wrote, and make it and its files readable to you",
        ) from error


def _read(folder: Path) -> Exported:
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no exported router", why=f"it has no {MANIFEST}", fix="`rph export` makes one"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
        if content.get("format") != FORMAT:
            raise UsageError(
                f"{path} is in the format {content.get('format')!r}; this rph reads {FORMAT!r}",
                fix="use the version of rph that wrote it, or export the router again",
            )
        if checksum != digest(content):
            raise RphError(f"{path} was changed", why="its checksum is of another content", fix=AGAIN)
        manifest = Manifest.model_validate(content)
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError, RecursionError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RphError(f"{path} cannot be read", why=why, fix=AGAIN) from error
    found = {}
    for name in manifest.files:
        if not (folder / name).is_file():
            raise RphError(f"{folder / name} is missing", fix=AGAIN)
        if disk.sha256_file(folder / name) != manifest.files[name]:
            raise RphError(f"{folder / name} was changed", why="its sha256 is another", fix=AGAIN)
        found[name] = states.load(folder / name)
    return Exported(manifest=manifest, router=found[ROUTER], encoder=found.get(ENCODER))
