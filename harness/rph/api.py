"""What plugins and the harness hand each other: frozen records, and the shape of a router and an encoder.

Letters: N queries, d embedding dimensions, K models in the pool. Arrays are float32 unless they say
otherwise. Labels are in [0, 1], 1 = correct, NaN = not observed; costs are US dollars per call, NaN = unknown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rph.arrays import hash_array, hash_texts, level, unit_rows
from rph.errors import UsageError
from rph.holes import DENSE, Cell, Holes, Mask, best_policy, found_blocks, pool_of, said, weight_of
from rph.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.arrays import Float32 as Float32  # noqa: PLC0414 - plugins take it from here

MAX_VARIANTS = 15  # paper, App. E.4: at most 15 variants of a method, so that none gets more tries
SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


# --- a benchmark in memory --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Split:
    """The queries of one split. Row i is a query, column m a model of the pool."""

    ids: Sequence[str]  # N, unique over the whole benchmark
    queries: Sequence[str]  # N texts
    tasks: Sequence[str]  # N, "" where unknown
    labels: Float32  # [N, K], in [0, 1], NaN = not observed
    costs: Float32 | None = None  # [N, K], US dollars per call, NaN = unknown
    p_correct: Float32 | None = None  # [N, K], P(correct), only where a control world knows it
    reasons: NDArray[np.uint8] | None = None  # [N, K], why a label is missing: places in rph.holes.REASONS
    languages: Sequence[str] = ()  # N, "" where unknown; () where none is known

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class RoutingDataset:
    """One benchmark in memory: a pool of K models and three frozen splits.

    `subset` says, where the rows are not the full release, what they are; a subset carries another name
    and another fingerprint than the full benchmark, so that the two are never mixed.
    """

    name: str
    models: tuple[str, ...]  # K names, in a fixed order
    train: Split
    val: Split
    test: Split
    subset: str = ""
    holes: Holes = field(default_factory=Holes)  # what is said of missing labels

    def splits(self) -> Iterator[tuple[SplitName, Split]]:
        """The three splits in the order train, val, test."""
        yield "train", self.train
        yield "val", self.val
        yield "test", self.test

    @property
    def has_costs(self) -> bool:
        return self.train.costs is not None

    @cached_property
    def level(self) -> NDArray[np.float64]:
        """[K] each model's level on train (rph.arrays.level): what breaks ties. NaN of a model never observed."""
        return level(self.train.labels)

    @cached_property
    def has_holes(self) -> bool:
        """Whether any label of any split is missing."""
        return any(bool(np.isnan(split.labels).any()) for _, split in self.splits())

    @cached_property
    def blocks(self) -> frozenset[Cell]:
        """The (task, model) that were never run: said, or seen on the whole train split (rph.holes)."""
        if self.holes.settled or self.holes.planned:
            return self.holes.blocks
        return self.holes.blocks | found_blocks(self.train.tasks, self.models, self.train.labels)

    @cached_property
    def _masks(self) -> dict[str, Mask]:
        if not self.has_holes and not self.holes.blocks:
            return dict.fromkeys(SPLITS, DENSE)
        return {
            name: Mask(
                pool_of(split.tasks, self.models, self.blocks),
                weight_of(split.tasks, self.models, split.labels, split.reasons, self.holes),
            )
            for name, split in self.splits()
        }

    def mask(self, split: SplitName) -> Mask:
        """What may be chosen of a split, and how much a choice counts. No router sees that of test."""
        return self._masks[split]

    @cached_property
    def best_single(self) -> int:
        """The model of the floor one could deploy: "this one where it is in the pool, else the next in level" is best on train.

        By the lower bound (rph.holes.best_policy); on a dense table the model with the best train mean.
        """
        return best_policy(self.train.labels, self.level, self.mask("train"))

    def part(
        self, *, train: Split | None = None, val: Split | None = None, test: Split | None = None
    ) -> RoutingDataset:
        """The same table with other rows in some splits: blocks are those of the whole, which its parts inherit."""
        return replace(
            self,
            train=train or self.train,
            val=val or self.val,
            test=test or self.test,
            holes=replace(self.holes, blocks=self.blocks, settled=True),
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the models and every row of every split: equal content, equal fingerprint."""
        digest = hashlib.sha256(b"rph-dataset/1")
        hash_texts(digest, self.models)
        for name, split in self.splits():
            digest.update(name.encode())
            for texts in (split.ids, split.queries, split.tasks):
                hash_texts(digest, texts)
            for array in (split.labels, split.costs, split.p_correct):
                hash_array(digest, array)
            # What only some tables have, each under its name: the others keep the fingerprint they had before.
            if split.reasons is not None and split.reasons.any():
                digest.update(b"reasons" + split.reasons.tobytes())
            if split.languages:
                digest.update(b"languages")
                hash_texts(digest, split.languages)
        if (self.has_holes or self.holes.blocks) and self.holes != Holes():
            digest.update(b"holes" + json.dumps(said(self.holes)).encode())
        return digest.hexdigest()


# --- what a router sees -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries to be routed: embeddings and texts, nothing else. Test queries reach a router in this form."""

    X: Float32  # [N, d] embeddings, finite
    texts: Sequence[str]  # N

    def __len__(self) -> int:
        return len(self.X)

    @cached_property
    def unit(self) -> Float32:
        """X with rows of L2 norm 1 (zero rows stay zero): [N, d]. X itself, uncopied, where it is so already."""
        return unit_rows(self.X)


@dataclass(frozen=True, kw_only=True)
class Labelled(Queries):
    """Queries with what was observed of each model on them: the train or the val split."""

    Y: Float32  # [N, K] labels in [0, 1], NaN = not observed
    C: Float32 | None  # [N, K] US dollars per call, NaN = unknown; None: the benchmark has no costs
    models: tuple[str, ...]  # K names
    pool: NDArray[np.bool_] | None = None  # [N, K] False: the model was never run on the query's task
    weight: Float32 | None = None  # [N, K] what a label counts, 0 where it was not to be asked; None: 1

    @property
    def mask(self) -> Mask:
        """Which models may be chosen for these queries, and how much each choice counts (rph.holes)."""
        return Mask(self.pool, self.weight)

    @cached_property
    def observed(self) -> Labelled:
        """The queries on which any model was observed: the others must change nothing. Self where that is all.

        Raises UsageError where there is none.
        """
        seen = np.asarray(~np.isnan(self.Y).all(axis=1))  # [N]
        if not seen.any():
            raise UsageError(
                "no training query has a label",
                why=f"all labels of the {len(self)} training queries are missing",
                fix="check the labels of the benchmark's train split",
            )
        if seen.all():
            return self
        return replace(
            self,
            X=self.X[seen],
            texts=[text for text, kept in zip(self.texts, seen, strict=True) if kept],
            Y=self.Y[seen],
            C=None if self.C is None else self.C[seen],
            pool=None if self.pool is None else self.pool[seen],
            weight=None if self.weight is None else self.weight[seen],
        )


# --- routers ----------------------------------------------------------------------------------------


class Router(Protocol):
    """Learns from labelled queries, then scores every model for new ones.

    A router that looks its training queries up may also have `left_out_scores() -> Float32 [N, K] | None`: what it
    gives each of the N training queries that have a label (`Labelled.observed`) when that query is left out; None of
    a variant that looks nothing up. One that predicts prices has `costs(queries) -> Float32 [N, K]` US dollars per call,
    NaN = no prediction, or None of a variant that predicts none: they take the place of the train means where a utility
    weighs scores. One that holds training rows out to calibrate has `calibration_rows(n, seed) -> [m]` places among the n
    labelled training queries: those that no parameter is trained on.
    """

    def fit(self, train: Labelled, val: Labelled, *, variant: Any, seed: int, device: str) -> None:
        """Learn from `train`; `val` may choose among checkpoints and nothing else. `variant` is one member of the grid.

        What is fitted beside the parameters (a map, a threshold, weights) is fitted on train: val selects the variant.

        All chance comes from `seed`; `device` is "cpu" or "cuda". The inputs must not be changed.
        """
        ...

    def scores(self, queries: Queries) -> Float32:
        """Scores [N, K], finite, higher is better. A query's scores do not depend on its batch. No state may change."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """What `fit` learned, as plain arrays, enough for `from_state`."""
        ...

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Any, device: str) -> Router:
        """The fitted router back from its arrays: the same scores."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training: a variant of a router's grid and a seed."""

    variant: Any
    seed: int


class RouterGroup(Protocol):
    """Several trials of one router, fitted together."""

    def scores(self, queries: Queries) -> Sequence[Float32]:
        """One array [N, K] per trial, in the order of the trials."""
        ...


Needs = Literal["labels", "costs", "text", "train-neighbours"]
Supports = Literal["missing-labels", "fine-tuning"]


@dataclass(frozen=True, kw_only=True)
class RouterCard:
    """What a reader of a leaderboard must know about a method."""

    name: str
    title: str  # the method in one line
    paper: str  # arXiv id or other citation of the method
    year: int
    family: str  # neighbours, clusters, classifier, ranking, ...
    licence: str  # of this implementation
    deterministic: bool  # the seed changes nothing: each variant is trained once
    calibrated: bool  # scores estimate P(correct)
    version: int = 1  # raised when the method's results change
    needs: tuple[Needs, ...] = ("labels",)
    supports: tuple[Supports, ...] = ("missing-labels",)
    aliases: tuple[str, ...] = ()
    fidelity: tuple[str, ...] = ()  # each deviation of this form from the original, one sentence each
    expected_failures: tuple[tuple[str, str], ...] = ()  # (conformance check, why the method cannot pass it)


@dataclass(frozen=True, kw_only=True)
class VariantCard:
    """What a reader must know of one variant beside the router's card."""

    original: bool | None = (
        None  # the form of the method's authors, but for the card's `fidelity`; None: not said
    )
    why: str = ""  # what makes it theirs, or what in it is not, in one sentence
    calibrated: bool | None = None  # scores estimate P(correct); None: as the card says
    deterministic: bool | None = None  # the seed changes nothing; None: as the card says
    reads: Literal["embedding", "text"] = "embedding"  # "text": of the query, whatever the encoder
    most_models: int | None = None  # left out where the pool has more
    no_gain: str = ""  # why it may be no better than the best single model, where that is known


@dataclass(frozen=True, kw_only=True)
class RouterSpec:
    """One routing method: its card, its variants (the default first, at most 15) and its class.

    `fit_many` is optional: it fits several trials at once so that they share work. Its scores must equal
    those of fitting one by one, within a tolerance that the method states and tests.
    """

    card: RouterCard
    grid: tuple[Any, ...]  # frozen dataclass instances
    router: type[Router]
    fit_many: Callable[[Labelled, Labelled, Sequence[Trial], str], RouterGroup] | None = None
    describe: Callable[[Any], VariantCard] | None = None  # a variant -> its card
    api: int = 1  # the rph.API_VERSION that the plugin was written for

    @property
    def name(self) -> str:
        return self.card.name

    def variant_card(self, variant: Any) -> VariantCard:
        """What is said of a variant; `calibrated` and `deterministic` are known in it."""
        own = VariantCard() if self.describe is None else self.describe(variant)
        return replace(
            own,
            calibrated=self.card.calibrated if own.calibrated is None else own.calibrated,
            deterministic=self.card.deterministic if own.deterministic is None else own.deterministic,
        )

    def variants(self, models: int) -> tuple[Any, ...]:
        """The members of the grid that are for a pool of so many models."""
        most = [(variant, self.variant_card(variant).most_models) for variant in self.grid]
        return tuple(variant for variant, limit in most if limit is None or models <= limit)


def variant_with(grid: Sequence[Any], fields: Mapping[str, Any]) -> Any:
    """The variant of a grid that has these fields, as a record holds them: JSON knows no tuples, only lists."""
    wanted = json.dumps(fields, sort_keys=True)
    return next(variant for variant in grid if json.dumps(asdict(variant), sort_keys=True) == wanted)


def variant_name(variant: Any) -> str:
    """A variant's fields as `k=100,weights=uniform`: what tables print.

    >>> @dataclass(frozen=True)
    ... class Config:
    ...     k: int = 10
    ...     weights: str = "uniform"
    >>> variant_name(Config(k=20))
    'k=20,weights=uniform'
    """
    return ",".join(f"{f.name}={_short(getattr(variant, f.name))}" for f in fields(variant)) or "default"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(_short(v) for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- encoders ---------------------------------------------------------------------------------------


class Encoder(Protocol):
    """Text to embeddings. Building one is cheap: weights are loaded at the first `encode`.

    An encoder that cuts long texts may have an attribute `cut`: how many texts it has cut so far. One that is fitted may
    have `learned() -> str`, which names what `fit` found (a hash of a vocabulary): kept beside the vectors and in results.
    """

    def identity(self) -> str:
        """Names the exact weights (a revision or a sha256) without loading them; part of the cache key."""
        ...

    def fit(self, train_texts: Sequence[str]) -> None:
        """Learn from the train queries; called before `encode` where the card says `fitted`."""
        ...

    def encode(self, texts: Sequence[str], *, device: str) -> Float32:
        """N texts -> [N, d], finite float32. A text's row does not depend on the other texts."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """Everything that decides an embedding. All of it is part of the embedding cache's key."""

    name: str
    title: str
    hf_id: str  # "" where there is no model to download
    revision: str  # pinned commit of hf_id
    dim: int | None  # None: decided by the data
    pooling: str  # mean, cls, last, ...
    normalise: bool  # rows scaled to L2 norm 1
    prefix: str  # put before every query
    max_tokens: int | None  # longer texts are cut
    dtype: str  # of the computation
    licence: str
    citation: str
    files: tuple[File, ...] = ()  # of hf_id: weights, configuration, vocabulary
    stored: Literal["float32", "float16"] = "float32"  # in the cache; float16: half the space, read as a copy
    fitted: bool = False  # learns from the train queries of each benchmark
    code_version: int = 1  # raised when the code changes the vectors
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """One encoder. `build` takes the options of `--encoder name:key=value` as typed keyword arguments."""

    card: EncoderCard
    build: Callable[..., Encoder]
    api: int = 1  # the rph.API_VERSION that the plugin was written for

    @property
    def name(self) -> str:
        return self.card.name


# --- benchmarks -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class File:
    """One file on the Hugging Face hub, pinned to a revision."""

    repo: str
    path: str
    revision: str  # 40 hex digits; or a branch, where none is known: pinned to its commit at the first pull
    repo_type: Literal["dataset", "model"] = "dataset"
    size: int | None = None  # bytes
    sha256: str | None = None  # None: the publisher gives none
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class BenchmarkCard:
    """What a reader of a result on this benchmark must know about it."""

    name: str
    title: str
    citation: str
    url: str
    licence: str
    models: tuple[str, ...]  # () where options decide the pool
    splits: dict[SplitName, int] | None  # counts of the full release; None: options decide them, or unknown
    costs: bool
    label_rule: str  # how published scores become labels
    split_rule: str
    paper: dict[SplitName, int] | None = None  # counts in Table 8 of arXiv:2606.07587, where it is there
    files: tuple[File, ...] = ()
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """One benchmark. `load` takes the options of `--bench name:key=value` as typed keyword arguments."""

    card: BenchmarkCard
    load: Callable[..., RoutingDataset]
    options: dict[str, str] = field(default_factory=dict)  # option -> what it means, for `rph show`
    api: int = 1  # the rph.API_VERSION that the plugin was written for

    @property
    def name(self) -> str:
        return self.card.name


# --- executors --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ExecutorCard:
    """What runs the trainings of a sweep."""

    name: str
    title: str
    needs: str = ""  # an extra to be installed
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec:
    """One executor. `build(workers, limit, device)` makes an `rph.engine.executors.Executor`.

    `workers` None: as many as there are cores (or GPUs); `limit` seconds that a trial may take, None: no limit.
    """

    card: ExecutorCard
    build: Callable[[int | None, float | None, str], Any]
    api: int = 1  # the rph.API_VERSION that the plugin was written for

    @property
    def name(self) -> str:
        return self.card.name
