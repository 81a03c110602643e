"""What stands on the pages: records made of boards and results, and how a value is printed. No markup."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

from rph.board.ranking import Board, OverallRow, Row, unranked
from rph.board.sets import in_average
from rph.board.sheets import data_notes
from rph.results import sheets, uncertainty, variants
from rph.results.cell import CellResult, Reference
from rph.results.files import Entry
from rph.results.sheets import Column, Sheet, Value
from rph.results.tasks import Languages, Tasks, languages_of
from rph.results.tasks import of as tasks_of

MODELS_SHOWN = 16  # bars of a histogram: a larger pool's other models are added up in one

# Column -> what it means: the heading's tooltip, and the table of definitions on the methods page.
TERMS = {
    "Tier": "Routers of a tier cannot be told apart from its first one at 95 %. The first tier is filled where "
    "the router cannot be told apart from the best one.",
    "Rank": "Place by mean test accuracy, and the 95 % confidence interval of that place.",
    "Accuracy": "Mean label of the chosen models on the test split, in percent: mean and standard deviation over "
    "the seeds. A deterministic variant is trained once.",
    "95 % interval": "Percentile interval of the accuracy, from resamples of the test queries and of the seeds. "
    "The dashed line is the best single model.",
    "Wins": "Share of the resamples in which this router is the best, in percent.",
    "Gap closed": "(accuracy - best single) / (oracle - best single), in percent: 0 is the best single model, "
    "100 the oracle.",
    "Hard": "Accuracy on hard queries: one model of the pool is right, or few are and the best single model is "
    "not among them.",
    "Easy": "Accuracy on easy queries: the other queries that some model solves.",
    "$ / 1k": "Mean cost of the chosen models, in US dollars per 1,000 queries, where routing is by accuracy alone.",
    "U(0.5)": "Mean of 0.5 x label - 0.5 x cost of the chosen models, in percent, with costs scaled to [0, 1] on the train "
    "split and routing by the same utility of the scores.",
    "AIQ": "Mean accuracy over the pool's range of costs, in percent, of the best mixtures along the router's accuracy-cost "
    "curve (RouterBench).",
    "BCE": "Binary cross-entropy of the scores as probabilities, in nats. Scores that are no probabilities pass "
    "through one sigmoid, fitted on validation.",
    "ECE": "Expected calibration error of the same probabilities, 15 bins, in percent.",
    "Coverage": "Share of the test queries whose chosen model has an observed label, in percent. The others are left out of "
    "the accuracy; in brackets beside it are its ends, with them counted wrong and right. The order goes by the first.",
    "Entropy": "Shannon entropy of the choice of models, in bits: 0 for a router that always chooses the same.",
}  # fmt: skip


# --- how a value is printed ---------------------------------------------------------------------------


def _printed(kind: Column) -> Callable[[Value], str]:
    return lambda value: sheets.text(value, kind)


def dollars(value: float | None) -> str:
    """US dollars per query -> per 1,000 queries, with three figures or cents."""
    if value is None:
        return sheets.UNKNOWN
    return f"{1000 * value:,.2f}" if 1000 * value >= 1 else f"{1000 * value:.3g}"


def ends(found: tuple[float, float] | None) -> str:
    """The two ends of an accuracy of which labels are missing, in percent; empty where they are one."""
    if found is None or found[1] - found[0] < uncertainty.EQUAL:
        return ""
    low, high = (sheets.text(one, Column("", "percent")) for one in found)
    return f" [{low}, {high}]"


def paper_url(paper: str) -> str | None:
    """The address of an arXiv paper that a card names; None for anything else: a card's text is never an address."""
    found = re.fullmatch(r"arXiv:(\d{4}\.\d{4,5})", paper)
    return f"https://arxiv.org/abs/{found[1]}" if found else None


FORMATS: dict[str, Callable[..., object]] = {
    "percent": _printed(Column("", "percent")),
    "tenths": _printed(Column("", "percent", 1)),
    "number": _printed(Column("", "number", 3)),
    "ends": ends,
    "data_notes": data_notes,
    "variant_notes": variants.notes,
    "count": _printed(Column("", "count")),
    "dollars": dollars,
    "paper_url": paper_url,
}


# --- a row's interval on the scale of its benchmark ---------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """The accuracies that a column of intervals spans; positions on it are in percent of its width."""

    low: float
    high: float

    def at(self, value: float) -> str:
        """Where a value stands."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def holds(self, value: float | None) -> bool:
        """Whether a value is on the scale."""
        return value is not None and self.low <= value <= self.high


def _scale(boards: Sequence[Board]) -> Scale:
    values = [value for board in boards for row in board.rows for value in (*row.interval, row.accuracy)]
    floor = boards[0].reference.best_single
    values += [floor] if floor is not None else []
    room = 0.03 * (max(values) - min(values)) or 0.005
    return Scale(min(values) - room, max(values) + room)


# --- pages --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Benchmark:
    """One (benchmark, fingerprint) and its boards, one per encoder."""

    name: str  # with the fingerprint where the benchmark's own name has several
    slug: str
    boards: tuple[Board, ...]
    slugs: dict[str, str]  # of its encoders

    @property
    def path(self) -> str:
        return f"benchmarks/{self.slug}.html"

    def csv(self, board: Board) -> str:
        """The path of a board as CSV."""
        return f"benchmarks/{self.slug}-{self.slugs[board.encoder]}.csv"

    @property
    def result(self) -> CellResult:
        """Any result: all have the same models and test split."""
        return self.boards[0].rows[0].entry.result

    @property
    def reference(self) -> Reference:
        return self.boards[0].reference

    @property
    def subset(self) -> str:
        return self.boards[0].subset

    @cached_property
    def scale(self) -> Scale:
        return _scale(self.boards)

    @property
    def has_costs(self) -> bool:
        return self.reference.model_cost is not None

    @property
    def best(self) -> tuple[Board, Row]:
        """The best router over all encoders, and its board."""
        return max(((board, board.rows[0]) for board in self.boards), key=lambda pair: pair[1].bounds[0])

    @property
    def tasks(self) -> Tasks | None:
        """What the best router's result says of each task."""
        return tasks_of(self.best[1].entry.result)

    @property
    def languages(self) -> Languages | None:
        """What it says of each language."""
        return languages_of(self.best[1].entry.result)

    @property
    def models(self) -> list[tuple[str, float | None, float | None, float | None]]:
        """(model, accuracy, US dollars per query, share of what is answered correctly), the most accurate first."""
        K, known = len(self.result.models), self.reference
        cost = known.model_cost or (None,) * K
        mass = known.correct_mass or (None,) * K
        rows = zip(self.result.models, known.model_accuracy, cost, mass, strict=True)
        return sorted(rows, key=lambda row: (row[1] is None, -(row[1] or 0), row[0]))


class Bar(NamedTuple):
    """One model in a histogram of selections."""

    model: str
    selected: float  # share of the queries sent to it
    mass: float | None  # its share of what is answered correctly


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One result on the pages: ranked (`board` and `row`), or not, and why."""

    entry: Entry
    benchmark: Benchmark | None
    row: Row | None
    why_unranked: str

    @property
    def result(self) -> CellResult:
        return self.entry.result

    @property
    def bench(self) -> str:
        return self.benchmark.name if self.benchmark else self.result.bench

    @property
    def histograms(self) -> list[tuple[str, list[Bar]]]:
        """Which models it chose: over all test queries, and over the hard ones where there are any."""
        result, known = self.result, self.result.reference
        found = [("All queries", _bars(result.selection_share, known.correct_mass))]
        if result.hard_selection_share is not None:
            found.append(("Hard queries", _bars(result.hard_selection_share, known.hard_correct_mass)))
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Router:
    """One router and all its results."""

    name: str
    slug: str
    cells: tuple[Cell, ...]

    @property
    def path(self) -> str:
        return f"routers/{self.slug}.html"

    @property
    def result(self) -> CellResult:
        """The result whose card is shown: a ranked one where there is one."""
        return next((cell.result for cell in self.cells if cell.row), self.cells[0].result)

    @property
    def sources(self) -> list[str]:
        """The distributions and versions that its results were made with."""
        return sorted({f"{c.result.router_distribution} {c.result.router_version}" for c in self.cells})


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """Everything that is shown."""

    benchmarks: tuple[Benchmark, ...]
    routers: tuple[Router, ...]
    overall: tuple[OverallRow, ...]
    cells: tuple[Cell, ...]

    @cached_property
    def router_paths(self) -> dict[str, str]:
        return {router.name: router.path for router in self.routers}

    @cached_property
    def columns(self) -> list[tuple[str, Benchmark | None]]:
        """The benchmarks of the overall board, in the order of the pages."""
        pages = {benchmark.name: benchmark for benchmark in self.benchmarks}
        names = {name for row in self.overall for name in row.accuracy}
        return [(name, pages.get(name)) for name in sorted(names)]

    def reference_average(self, name: str) -> float | None:
        """The mean of a field of `Reference` over the benchmarks that an average runs over; None: not known on all."""
        full = [b for _, b in self.columns if b is None or in_average(b.subset, b.reference)]
        known = [getattr(benchmark.reference, name) for benchmark in full if benchmark is not None]
        if not known or len(known) < len(full) or None in known:
            return None
        return fmean(known)

    @property
    def families(self) -> list[str]:
        return sorted({cell.result.method.family for cell in self.cells})

    @property
    def encoders(self) -> list[str]:
        return sorted({cell.result.encoder for cell in self.cells})

    @property
    def bench_names(self) -> list[str]:
        return sorted({cell.bench for cell in self.cells})

    @property
    def resamples(self) -> int:
        return uncertainty.RESAMPLES


def site(entries: Sequence[Entry], boards: Sequence[Board], overall: Sequence[OverallRow]) -> Site:
    """The pages of these results."""
    benchmarks = _benchmarks(boards)
    reasons = {id(entry): why for entry, why in unranked(entries)}
    rows = {
        id(row.entry): (benchmark, row)
        for benchmark in benchmarks
        for board in benchmark.boards
        for row in board.rows
    }
    cells = []
    for entry in entries:
        benchmark, row = rows.get(id(entry), (None, None))
        cells.append(Cell(entry=entry, benchmark=benchmark, row=row, why_unranked=reasons.get(id(entry), "")))
    cells.sort(key=lambda cell: (cell.bench, cell.result.encoder, cell.row is None, _order(cell)))
    names = slugs(cell.result.router for cell in cells)
    routers = [
        Router(name=name, slug=slug, cells=tuple(cell for cell in cells if cell.result.router == name))
        for name, slug in names.items()
    ]
    return Site(
        benchmarks=tuple(benchmarks), routers=tuple(routers), overall=tuple(overall), cells=tuple(cells)
    )


def _order(cell: Cell) -> tuple[int, str]:
    return (cell.row.rank if cell.row else 0, cell.result.router)


def _benchmarks(boards: Sequence[Board]) -> list[Benchmark]:
    pairs = list(dict.fromkeys((board.bench, board.fingerprint) for board in boards))
    times = Counter(bench for bench, _ in pairs)
    names = {pair: pair[0] if times[pair[0]] == 1 else f"{pair[0]} ({pair[1][:8]})" for pair in sorted(pairs)}
    files = slugs(names.values())
    found = []
    for pair, name in names.items():
        own = tuple(board for board in boards if (board.bench, board.fingerprint) == pair)
        encoders = slugs(board.encoder for board in own)
        found.append(Benchmark(name=name, slug=files[name], boards=own, slugs=encoders))
    return found


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A file name for each name: safe in a path and an address, and unique even where case does not count.

    >>> slugs(["knn", "a/b"])
    {'a/b': 'a-b-c14cddc0', 'knn': 'knn'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(set(names)):
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
        if not slug or slug != name or slug.lower() in taken:
            slug = f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        taken.add(slug.lower())
        found[name] = slug
    return found


def _bars(selected: dict[str, float], mass: Sequence[float] | None) -> list[Bar]:
    """The models with the largest share of the correct answers or of the choices first."""
    shares: Sequence[float | None] = mass or (None,) * len(selected)
    bars = [Bar(model, share, right) for (model, share), right in zip(selected.items(), shares, strict=True)]
    bars.sort(key=lambda bar: (-max(bar.selected, bar.mass or 0), bar.model))
    rest = bars[MODELS_SHOWN:]
    if len(rest) < 2:
        return bars
    known = [bar.mass for bar in rest if bar.mass is not None]
    others = Bar(
        f"the other {len(rest)} models", sum(bar.selected for bar in rest), sum(known) if known else None
    )
    return [*bars[:MODELS_SHOWN], others]


# --- the download of all results ----------------------------------------------------------------------------------------

_PLACE = (Column("tier", "count"), Column("rank", "count"), Column("rank low", "count"), Column("rank high", "count"))  # fmt: skip
_MEASURES = (
    Column("accuracy", "percent"), Column("accuracy std", "percent"), Column("accuracy low", "percent"),
    Column("accuracy high", "percent"), Column("wins", "percent"), Column("gap closed", "percent"),
    Column("hard accuracy", "percent"), Column("easy accuracy", "percent"), Column("coverage", "percent"),
    Column("cost", "number", 6), Column("utility 0.5", "percent"), Column("bce", "number", 4), Column("ece", "percent"),
)  # fmt: skip


def _place(row: Row | None) -> tuple[Value, ...]:
    return (None,) * len(_PLACE) if row is None else (row.tier, row.rank, *row.ranks)


def _measures(result: CellResult, row: Row | None) -> tuple[Value, ...]:
    low, high = row.interval if row else (None, None)
    return (
        result.test_accuracy_mean, result.test_accuracy_std, low, high, row.win if row else None,
        result.gap_closed, result.hard_accuracy, result.easy_accuracy, result.coverage, result.cost,
        (result.utility or {}).get("0.5"), result.bce, result.ece,
    )  # fmt: skip


def results_sheet(site: Site) -> Sheet:
    """Every result, ranked or not."""
    columns = (
        Column("benchmark"), Column("fingerprint"), Column("encoder"), Column("router"), Column("family"),
        Column("protocol"), Column("variant"), *_PLACE, *_MEASURES, Column("not ranked because"),
    )  # fmt: skip
    rows: list[tuple[Value, ...]] = []
    for cell in site.cells:
        r = cell.result
        about = (
            r.bench,
            r.bench_fingerprint,
            r.encoder,
            r.router,
            r.method.family,
            r.protocol,
            r.variant_name,
        )
        rows.append((*about, *_place(cell.row), *_measures(r, cell.row), cell.why_unranked))
    return Sheet("Results", columns, tuple(rows))
