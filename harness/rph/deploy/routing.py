"""An exported router at work: texts in, models out.

router = rph.load("my-router/")
for routed in router.route(["What is 2 + 2?"], lam=0.2):
    print(routed.model, routed.cost)
"""

from __future__ import annotations

import contextlib
import difflib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rph import registry
from rph.api import EncoderCard, Queries, variant_with
from rph.deploy import export
from rph.deploy.export import Exported, Manifest, Method
from rph.engine import resolve
from rph.errors import RphError, UsageError
from rph.registry import FAILURES, Registry
from rph.results import metrics, probabilities, utility
from rph.training import neighbours, states

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Encoder, Float32, Router


SHOWN = 100  # characters of a task that is not known


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Where one query goes."""

    model: str
    scores: dict[str, float]  # model -> the router's score, higher is better; P(correct) where `calibrated`
    cost: float | None  # US dollars per call of the chosen model, its mean on train; None: unknown
    seconds: float  # from the call to its answer: the queries of one call are answered together


@dataclass(frozen=True, eq=False)
class Judged:
    """What a router says of N queries: all that a choice is made of."""

    scores: Float32  # [N, K]
    costs: Float32 | None = None  # [N, K] US dollars, NaN = none: the router's own; None: it predicts none

    def split(self, sizes: Sequence[int]) -> list[Judged]:
        """Parts of so many queries each."""
        at = np.cumsum(sizes)[:-1]
        scores = np.split(self.scores, at)
        costs = [None] * len(scores) if self.costs is None else np.split(self.costs, at)
        return [Judged(*part) for part in zip(scores, costs, strict=True)]


def load(
    folder: str | Path,
    *,
    device: str = "auto",
    encoder: str | None = None,
    registry: Registry | None = None,
) -> LoadedRouter:
    """The router in a folder of `rph export`, with its encoder: ready to route.

    `encoder` is for weights that lie in a folder of yours: `minilm:path=FOLDER`. `registry` holds the plugins
    [default: those installed]. The encoder's weights are read at the first query.

    Raises UsageError where the folder holds no router or this installation is not the one it needs: another version
    of the router's code, another encoder; RphError where a file was damaged.
    """
    return LoadedRouter(export.read(Path(folder)), resolve.resolve_device(device), encoder, registry)


class LoadedRouter:
    """A trained router, its encoder and what is known of the models. Threads may share one: they take turns."""

    def __init__(
        self, exported: Exported, device: str, encoder: str | None, plugins: Registry | None
    ) -> None:
        self.manifest: Manifest = exported.manifest
        self.device = device
        plugins = plugins or registry.installed()
        self._router = _router(exported, plugins, device)
        self._encoder, self._card = _encoder(exported, plugins, encoder)
        self._turn = threading.Lock()  # a plugin need not stand two threads
        manifest = exported.manifest
        self._level = np.array(manifest.prior, np.float64)  # None becomes NaN
        self._scale = utility.CostScale.fit(np.array([manifest.costs], np.float64))

    @property
    def models(self) -> tuple[str, ...]:
        """The pool, in the order of the scores' columns."""
        return self.manifest.models

    @property
    def calibrated(self) -> bool:
        """Whether a score estimates P(correct)."""
        return self.manifest.sigmoid is None

    def route(self, queries: Sequence[str], lam: float = 0.0, *, task: str | None = None) -> list[Routed]:
        """The chosen model of each query, by the utility at `lam` in [0, 1]: 0 is quality alone, 1 price alone.

        Only models that were run on the queries' `task` are chosen; without one (None, or "" as in tables) all may be.
        Above 0 only those with a known price are. Raises UsageError where `lam` is not in [0, 1], or above 0 and no price
        or no P(correct) is known; and for a task that the benchmark does not have, where its tasks have pools of their
        own: a misspelt one must not let in the models that its pool keeps out.
        """
        start = time.perf_counter()
        self.check(lam, task)
        judged = self.judge(queries)
        return self.chosen(judged, lam, time.perf_counter() - start, task)

    def scores(self, queries: Sequence[str]) -> Float32:
        """The router's scores [N, K] of N texts."""
        return self.judge(queries).scores

    def judge(self, queries: Sequence[str]) -> Judged:
        """Scores, and costs where the router predicts them, of N texts."""
        queries = _texts(queries)
        if not queries:
            return Judged(np.empty((0, len(self.models)), np.float32))
        with self._turn, neighbours.blocks_for(len(queries)), self._failures():
            X = self._encoder.encode([self._card.prefix + q for q in queries], device=self.device)
            # As kept in the embedding cache, from which the router learnt.
            X = np.asarray(X, np.dtype(self._card.stored)).astype(np.float32, copy=False)
            asked = Queries(X=X, texts=queries)
            scores = np.asarray(self._router.scores(asked), np.float32)
            costs = self._router.costs(asked) if hasattr(self._router, "costs") else None
        if scores.shape != (len(queries), len(self.models)) or not np.isfinite(scores).all():
            raise RphError(
                f"router {self.manifest.router.name!r} gave scores of shape {scores.shape} that are no finite"
                f" number per query and model",
                why="a router gives one finite score per query and model",
                fix="report it to the router's authors",
            )
        if costs is not None and (costs.shape != scores.shape or np.isinf(costs).any() or (costs < 0).any()):
            raise RphError(
                f"router {self.manifest.router.name!r} gave costs of shape {costs.shape} that are no prices",
                why="a router that predicts costs gives US dollars, or NaN, per query and model",
                fix="report it to the router's authors",
            )
        return Judged(scores, costs)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Whatever a plugin raises, as an RphError that names it."""
        try:
            yield
        except RphError:
            raise
        except FAILURES as error:
            raise RphError(
                f"encoder {self._card.name!r} or router {self.manifest.router.name!r} failed on a query",
                why=f"{type(error).__name__}: {error}",
                fix="report it to their authors",
            ) from error

    def check(self, lam: float, task: str | None = None) -> None:
        """UsageError where this router cannot choose at `lam` for queries of `task`."""
        try:
            inside, shown = bool(0 <= lam <= 1), f"{lam:g}"
        except (TypeError, ValueError, OverflowError):  # no number, or one that no float holds
            inside, shown = False, f"of type {type(lam).__name__}"
        if not inside:
            raise UsageError(f"lambda is {shown}, not in [0, 1]", fix="give 0 for quality alone")
        if lam > 0 and self.manifest.sigmoid is not None and self.manifest.sigmoid[0] == 0:
            raise UsageError(
                f"lambda is {lam:g}, and this router has no P(correct) to weigh against a price",
                why="on the benchmark's val split, no rising map of its scores to P(correct) was better than a constant",
                fix="use lambda 0, or export another router or seed",
            )
        pool = self._pool(task)
        priced = None if self._scale is None else self._scale.pool(pool)
        if lam > 0 and (self._scale is None or (priced is not None and not priced.any())):
            whose = "any model" if pool is None else f"any model that was run on task {task!r}"
            raise UsageError(
                f"lambda is {lam:g}, and there are no prices to choose by",
                why=f"no price is known of {whose}",
                fix="use lambda 0, or evaluate and export with --price MODEL=USD",
            )

    def chosen(self, judged: Judged, lam: float, seconds: float, task: str | None = None) -> list[Routed]:
        """What was judged, and the time it took, as routes at `lam`: the choice itself costs next to nothing."""
        self.check(lam, task)
        found = []
        for row, place in zip(judged.scores.tolist(), self._choice(judged, lam, task).tolist(), strict=True):
            found.append(
                Routed(
                    model=self.models[place],
                    scores=dict(zip(self.models, row, strict=True)),
                    cost=self.manifest.costs[place],
                    seconds=seconds,
                )
            )
        return found

    def _pool(self, task: str | None) -> NDArray[np.bool_] | None:
        """[1, K] the models that were run on a task; None: all. UsageError for a task that is not among those known."""
        if task is not None and not isinstance(task, str):
            raise UsageError(f"a task is of type {type(task).__name__}, not a text", fix="give it as a str")
        tasks = self.manifest.tasks
        if not task or not tasks:
            return None
        if task not in tasks:
            close = difflib.get_close_matches(task, tasks, n=1)
            raise UsageError(
                f"this router knows no task {task[:SHOWN]!r}",
                why=f"did you mean {close[0]!r}?" if close else f"its tasks: {', '.join(tasks)}",
                fix="give one of its tasks, or none: then every model may be chosen",
            )
        pool = tasks[task]
        return None if pool is None else np.isin(self.models, pool)[None]

    def _choice(self, judged: Judged, lam: float, task: str | None) -> NDArray[np.int64]:
        """The places [N] of the chosen models. As results are measured: above lambda 0 by P(correct) and price."""
        pool, scores = self._pool(task), judged.scores
        if lam == 0:
            return metrics.route(scores, self._level, pool)
        if self.manifest.sigmoid is None:
            P: Any = np.clip(scores, 0, 1)
        else:
            P = probabilities.apply_sigmoid(scores, *self.manifest.sigmoid)
        return utility.utility_route(P, self._scale, lam, self._level, pool=pool, selector_costs=judged.costs)


def _router(exported: Exported, plugins: Registry, device: str) -> Router:
    manifest = exported.manifest
    plugin = plugins.load("router", manifest.router.name)
    here = export.method(plugin)
    if here != manifest.router:
        raise UsageError(
            f"router {here.name!r} is not the one that was exported",
            why=f"here it is {_named(here)}; exported was {_named(manifest.router)}",
            fix="install that version, or export again with this one",
        )
    try:
        variant = variant_with(plugin.spec.grid, manifest.variant)
    except StopIteration as error:  # not of this code's grid, which is the one that was exported
        raise UsageError(
            f"router {here.name!r} has no variant {manifest.variant_name}",
            why="the exported router's manifest was changed",
            fix=export.AGAIN,
        ) from error
    with export.cannot(here.name, "be loaded"):
        router: Router = plugin.spec.router.from_state(exported.router, variant=variant, device=device)
    return router


def _named(method: Method) -> str:
    return f"version {method.version} of {method.distribution} {method.distribution_version}, code {method.code[:10]}"


def _encoder(exported: Exported, plugins: Registry, name: str | None) -> tuple[Encoder, EncoderCard]:
    wanted = exported.manifest.encoder
    built = resolve.build_encoder(plugins, name or wanted.name)
    here = export.Encoding.of(built)
    if here != wanted:
        differs = [
            f"its {key} here is {there!r}, not {known!r}"
            for key, known, there in (
                ("name", wanted.name, here.name),
                ("identity", wanted.identity, here.identity),
                *((key, wanted.decides.get(key), here.decides.get(key)) for key in here.decides),
            )
            if known != there
        ]
        raise UsageError(
            f"encoder {here.name!r} is not the one that the router was trained with",
            why="; ".join(differs),
            fix=f"install what it was, or give its files: --encoder {wanted.name}:path=FOLDER; or export again",
        )
    if built.spec.card.fitted != (exported.encoder is not None):
        raise RphError(
            f"the export does not fit encoder {here.name!r}",
            why="what a fitted encoder learnt is exported with it, and nothing for any other",
            fix=export.AGAIN,
        )
    if exported.encoder is not None:
        states.into_encoder(built.encoder, exported.encoder)
    return built.encoder, built.spec.card


def _texts(queries: Sequence[str]) -> list[str]:
    """The queries as a list. UsageError where they are not a list of texts."""
    if isinstance(queries, str):
        raise UsageError("route() takes a list of queries, not one string", fix="write [query]")
    try:
        texts = list(queries)
    except TypeError as error:
        raise UsageError(
            f"route() takes a list of queries, not {type(queries).__name__}", fix="write [query]"
        ) from error
    for text in texts:
        _check_text(text)
    return texts


def _check_text(query: object) -> None:
    if not isinstance(query, str):
        raise UsageError(f"a query is of type {type(query).__name__}, not a text", fix="give each as a str")
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"a query is no valid Unicode text: {query!r}", why="it has half of a surrogate pair"
        ) from error
