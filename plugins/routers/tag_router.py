"""tag-router: a query gets a few tags; a model's score is the sum of how it did on each of them.

Paper: Chen et al. 2025, TagRouter (arXiv:2506.12473). Like theirs: on every tag t a model k is compared with
one reference model, score(k, t) = w_t * sum over r in {win, tie, loss} of count_tk(r) * s_r, and a query's
scores are S_k = sum over its tags of score(k, t); routing takes no gradient step. Unlike theirs: the tags. No
language model is asked for them; they are the nearest centroids of a codebook of embeddings (`emb`) or the
query's terms of highest TF-IDF (`text`), several per query. See `fidelity` on the card, also for what the name
of this method means in the study of the routing plateau.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rph import Labelled, Queries, RouterCard, RouterSpec, Trial, VariantCard, hookimpl
from rph.arrays import level, model_means, to_device, unit_rows
from rph.lazy import np, torch
from rph.training.clusters import kmeans
from rph.training.heads import chance
from rph.training.neighbours import nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32

    Float64 = NDArray[np.float64]
    Int64 = NDArray[np.int64]
    Text = NDArray[np.str_]

WIN, TIE = 1.0, 0.15  # s_r
FEWEST = 5  # train queries that a term must be in: the paper drops rarer tags
MOST = 0.2  # share of the train queries above which a term tells them apart no longer
LONGEST = 64  # characters of a term: one long base64 string would widen every entry of the array of terms
SAMPLED = 1 << 15  # train queries that the codebook is learned from, at most
ROWS = 8192  # queries whose terms are counted at once


@dataclass(frozen=True)
class Config:
    tagger: Literal["emb", "text"] = "emb"
    tags: int = 256  # T, centroids in the codebook; 0 with `text`, where the train texts decide
    per_query: int = 5  # m, tags of a query; a text may have fewer
    # rate: w_t = 1 / pairs on the tag; sum: w_t = 1; smoothed: P(correct | tag) instead of wins, ties, losses
    scorer: Literal["rate", "smoothed", "sum"] = "rate"
    shrinkage: float = 5.0  # beta, queries at the model's overall value that each tag counts besides its own
    loss: float = -1.0  # s_r of a loss


SIZES = ((256, 5), (64, 2), (128, 3), (256, 3), (512, 5), (1024, 8))
GRID = (
    *(Config("emb", tags, m, "rate") for tags, m in SIZES),
    *(Config("emb", tags, m, "smoothed") for tags, m in SIZES if (tags, m) not in ((64, 2), (256, 3))),
    *(Config("emb", tags, m, "rate", loss=0.0) for tags, m in ((256, 5), (128, 3))),
    Config("text", 0, 10, "rate"),
    Config("text", 0, 10, "smoothed"),
    Config("emb", 256, 5, "sum"),
)


# --- taggers ----------------------------------------------------------------------------------------


class Tagger(Protocol):
    """Gives queries their tags."""

    def __len__(self) -> int:
        """T, the number of tags there are."""
        ...

    def tags(self, queries: Queries, m: int) -> Int64:
        """[B, at most m] places of tags, ascending in each row; T stands where a query has no more tags."""
        ...

    def state(self) -> dict[str, NDArray[Any]]: ...


@dataclass(frozen=True, eq=False)
class Codebook:
    """Tags are centroids; a query has the m of highest cosine, so it always has some."""

    centroids: Float32  # [T, d] unit rows
    device: str

    def __len__(self) -> int:
        return len(self.centroids)

    def tags(self, queries: Queries, m: int) -> Int64:
        tags = np.empty((len(queries), min(m, len(self))), np.int64)
        for block, closest, _ in nearest(queries.unit, self.centroids, m, self.device):
            tags[block] = closest.sort(dim=1).values.cpu().numpy()
        return tags

    def state(self) -> dict[str, NDArray[Any]]:
        return {"centroids": self.centroids}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tags are terms; a text has its m of highest TF-IDF, equals in alphabetical order, or none."""

    terms: Text  # [T], sorted
    idf: Float64  # [T]

    def __len__(self) -> int:
        return len(self.terms)

    def tags(self, queries: Queries, m: int) -> Int64:
        tags = np.full((len(queries), m), len(self), np.int64)
        if len(self) == 0:
            return tags
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectoriser = TfidfVectorizer(vocabulary=self.terms.tolist(), norm=None)
        vectoriser.idf_ = self.idf
        for start in range(0, len(queries), ROWS):
            weights = vectoriser.transform(queries.texts[start : start + ROWS]).tocoo()
            order = np.lexsort((weights.col, -weights.data, weights.row))
            rows, terms = weights.row[order], weights.col[order]
            place = np.arange(len(rows)) - np.searchsorted(rows, rows)  # of the term in its text, best first
            kept = place < m
            tags[start + rows[kept], place[kept]] = terms[kept]
        tags.sort(axis=1)
        return tags

    def state(self) -> dict[str, NDArray[Any]]:
        return {"terms": self.terms, "idf": self.idf}


def learn_codebook(X: Float32, tags: int, seed: int, device: str) -> Codebook:
    """Unit rows X [N, d] -> the k-means centres of at most SAMPLED of them, scaled to length 1."""
    if len(X) > SAMPLED:
        X = X[np.sort(torch.randperm(len(X), generator=chance(seed, "sample"))[:SAMPLED].numpy())]
    found = kmeans(to_device(X, device), tags, generator=chance(seed, "codebook"))
    return Codebook(unit_rows(found.centres.cpu().numpy()), device)


def learn_vocabulary(texts: Sequence[str]) -> Vocabulary:
    """The terms in at least FEWEST and at most a share MOST of the texts, with ln((1 + N) / (1 + df)) + 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    analyse = TfidfVectorizer().build_analyzer()
    counts = Counter(term for text in texts for term in set(analyse(text)))  # df
    common = MOST * len(texts)
    terms = sorted(t for t, n in counts.items() if FEWEST <= n <= common and len(t) <= LONGEST)
    df = np.array([counts[term] for term in terms], np.float64)
    return Vocabulary(np.array(terms, dtype=np.str_), np.log((1 + len(texts)) / (1 + df)) + 1)


# --- how models did on tags -------------------------------------------------------------------------


def outcomes(Y: Float32, loss: float) -> Float32:
    """Labels Y [N, K] -> s_r [N, K] of each model against the reference, NaN where either was not observed.

    The reference is the model of the highest level, the first of equals. Both wrong is a tie.
    """
    reference = int(np.nanargmax(level(Y)))
    lead = Y - Y[:, reference, None]
    result: Float32 = np.select([lead > 0, lead == 0, lead < 0], [WIN, TIE, loss], np.nan).astype(np.float32)
    return result


def tag_table(Y: Float32, tags: Int64, T: int, variant: Config) -> Float32:
    """Labels Y [N, K] and tags [N, m] of the train queries -> [T, K], what each tag adds to a query's scores.

    rate and smoothed: (sum + beta * overall) / (n_tk + beta), with n_tk the queries of the tag where the
    model has a value. Without any, and beta = 0, the overall value; it is the pool's mean for a model that has
    no value anywhere. sum: the sum alone, so 0 for such a model, below the reference's.
    """
    values = Y if variant.scorer == "smoothed" else outcomes(Y, variant.loss)
    seen = ~np.isnan(values)
    table = tag_sums(np.where(seen, values, 0), tags, T)
    if variant.scorer != "sum":
        means = model_means if variant.scorer == "smoothed" else mean_outcomes
        beta, overall = variant.shrinkage, means(values).astype(np.float64)
        weight = tag_sums(seen, tags, T) + beta
        prior = np.broadcast_to(overall, table.shape).copy()
        table = np.divide(table + beta * overall, weight, out=prior, where=weight > 0)
    result: Float32 = table.astype(np.float32)
    return result


def mean_outcomes(values: Float32) -> Float32:
    """Outcomes [N, K], some of them known -> [K] as model_means of labels, which it would cut to [0, 1]."""
    levels = level(values)
    known = ~np.isnan(levels)
    result: Float32 = np.where(known, levels, levels[known].mean()).astype(np.float32)
    return result


def tag_sums(values: NDArray[Any], tags: Int64, T: int) -> Float64:
    """Values [N, K], tags [N, m] -> [T, K], the sums over the queries of each tag."""
    source = torch.from_numpy(values.astype(np.float64))
    total = torch.zeros(T + 1, values.shape[1], dtype=torch.float64)  # the last row is of no tag
    for slot in torch.from_numpy(tags).T:
        total.index_add_(0, slot, source)
    result: Float64 = total[:T].numpy()
    return result


# --- the router -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """What one trial learned."""

    variant: Config
    tagger: Tagger
    table: Float32  # [T, K]
    overall: Float32  # [K] mean labels, the scores of a query without tags

    def scores(self, tags: Int64) -> Float32:
        """Tags [B, m] -> scores [B, K]: the sum over a query's tags, their mean where they are P(correct)."""
        padded = np.vstack([self.table, np.zeros_like(self.overall)]).astype(np.float64)
        total = np.zeros((len(tags), len(self.overall)))
        for slot in tags.T:
            total += padded[slot]
        count = (tags < len(self.table)).sum(axis=1, keepdims=True)  # [B, 1]
        if self.variant.scorer == "smoothed":
            total /= np.maximum(count, 1)
        result: Float32 = np.where(count > 0, total, self.overall).astype(np.float32)
        return result


class TagRouter:
    fitted: Fitted

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        [self.fitted] = fit_many(train, val, [Trial(variant=variant, seed=seed)], device).fitted

    def scores(self, queries: Queries) -> Float32:
        return self.fitted.scores(self.fitted.tagger.tags(queries, self.fitted.variant.per_query))

    def state(self) -> dict[str, NDArray[Any]]:
        learned = {"table": self.fitted.table, "overall": self.fitted.overall}
        return learned | self.fitted.tagger.state()

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> TagRouter:
        tagger: Tagger
        if variant.tagger == "text":
            tagger = Vocabulary(state["terms"], state["idf"])
        else:
            tagger = Codebook(state["centroids"], device)
        router = cls()
        router.fitted = Fitted(variant, tagger, state["table"], state["overall"])
        return router


@dataclass(frozen=True)
class TagGroup:
    """Trials that share taggers. The scores are those of fitting one by one, bit for bit."""

    fitted: Sequence[Fitted]

    def scores(self, queries: Queries) -> Sequence[Float32]:
        """One array [B, K] per trial; queries are tagged once for all trials of one tagger and m."""
        tags: dict[tuple[Tagger, int], Int64] = {}
        scores = []
        for each in self.fitted:
            key = each.tagger, each.variant.per_query
            if key not in tags:
                tags[key] = each.tagger.tags(queries, each.variant.per_query)
            scores.append(each.scores(tags[key]))
        return scores


def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> TagGroup:
    """Fit trials together: one codebook per size and seed, one vocabulary, and their tags serve all."""
    known = train.observed
    overall = model_means(known.Y)
    taggers: dict[tuple[int, int] | None, Tagger] = {}
    tags: dict[tuple[Tagger, int], Int64] = {}
    fitted = []
    for trial in trials:
        variant = trial.variant
        which = None if variant.tagger == "text" else (variant.tags, trial.seed)
        if which not in taggers:
            taggers[which] = (
                learn_vocabulary(known.texts) if which is None else learn_codebook(known.unit, *which, device)
            )
        tagger = taggers[which]
        key = tagger, variant.per_query
        if key not in tags:
            tags[key] = tagger.tags(known, variant.per_query)
        table = tag_table(known.Y, tags[key], len(tagger), variant)
        fitted.append(Fitted(variant, tagger, table, overall))
    return TagGroup(fitted)


def describe(variant: Config) -> VariantCard:
    return VariantCard(
        original=variant.scorer != "smoothed",
        why="P(correct | tag), averaged over tags"
        if variant.scorer == "smoothed"
        else "wins, ties and losses on a tag",
        deterministic=variant.tagger == "text",
        reads="text" if variant.tagger == "text" else "embedding",
    )


CARD = RouterCard(
    name="tag-router",
    title="Wins, ties and losses against a reference model, summed over the query's tags (TagRouter)",
    paper="arXiv:2506.12473",
    year=2025,
    family="tags",
    licence="MIT",
    deterministic=False,
    calibrated=False,
    needs=("labels", "text"),
    aliases=("tag_router",),
    fidelity=(
        "The plateau study names this row TagRouter and cites FORC (Fly-Swat-or-Cannon, arXiv:2308.06077) for it.",
        "This is TagRouter (arXiv:2506.12473), as the name says; FORC, a meta-model of P(correct), is not part of it.",
        "Tags are nearest centroids of the embeddings, or terms of highest TF-IDF, several per query.",
        "TagRouter has a language model write tags, merges them by DBSCAN and distils a tagger of 0.5B parameters.",
        "The codebook is a k-means of at most 32768 training queries, one start, its centres scaled to length 1.",
        "Terms must be in at least 5 and at most 20% of the training queries, and have at most 64 characters.",
        "TagRouter's weight of a tag by its frequency is not known: 1 / pairs observed on it, or 1 (scorer `sum`).",
        "Rates are shrunk towards the model's overall rate (5 queries' worth).",
        "A loss counts -1 (0 in 2 variants): TagRouter's value is not known to us, its tie of 0.15 is.",
        "The reference is the model of the highest level on train (its mean, where no label is missing); TagRouter's is the largest.",
        "Labels are the outcomes: both right and both wrong are ties, a pair counts where both were observed.",
        "A model never observed with the reference has the pool's mean rate, or 0 as a sum.",
        "The scorer `smoothed`, a shrunk P(correct | tag) averaged over tags, is ours.",
        "A query without tags gets the models' mean labels; unseen terms are not aligned to known tags.",
        "The threshold that lets the cheaper of two models win is 0, its default: costs are the harness's matter.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=TagRouter, fit_many=fit_many, describe=describe)
