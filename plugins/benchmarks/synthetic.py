"""A made-up world whose P(correct) is known: it splits the oracle gap into luck and what a router could learn.

Every query has a topic and a difficulty, and its text says both: each topic and each difficulty has words of its own.

    P(model m is correct) = sigmoid(slope[m] * (ability[m] + skill[m, topic] - difficulty))

the two-parameter logistic model of item response theory, so that which model is best depends on both.

A label is one draw with that probability. So the Bayes route, argmax of P, can be read off the text; what separates it
from the oracle is the luck of the draws, which no router can predict, and what separates a router from it is the
router's own failure. P is in `Split.p_correct`, which routers never see.

The world (models, prices, vocabularies) depends on k and seed alone: a larger n is more queries of the same world.
Everything that passes through exp or log is rounded, so that equal options give equal bytes on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rph import BenchmarkCard, BenchmarkSpec, RoutingDataset, Split, UsageError, hookimpl
from rph.lazy import np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

N, K = 5000, 11  # default options
MIN_N = 20  # 12 train, 2 val, 6 test queries
TOPICS = 8
DIFFICULTIES = (-2.0, -1.0, 0.0, 1.0, 2.0)
ABILITY = (-0.2, 0.9)  # of the weakest and the strongest model
SLOPE = (0.6, 1.4)  # how sharply difficulty separates what a model can from what it cannot
SKILL_SD = 0.8  # of a model's strength and weakness by topic
PRICES = (0.2, 30.0)  # US dollars per million characters, the cheapest and the dearest model
PRICE_NOISE = 0.25  # sd of log price around its order by ability: dearer is better on average only
TOPIC_WORDS, DIFFICULTY_WORDS, FILLER_WORDS = 60, 30, 200  # words of each topic, each difficulty, and of all
LENGTH = (16, 48)  # fewest and most words of a query
SHARES = (0.4, 0.7)  # below the first: a topic word; below the second: a difficulty word; else filler
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvz" for vowel in "aeiou"]


def load(n: int = N, k: int = K, seed: int = 0, missing: float = 0.0) -> RoutingDataset:
    """n queries, k models; a share `missing` of the labels is not observed. Equal options, equal content."""
    _check_options(n, k, seed, missing)
    world = _world(k, seed)
    rng = np.random.default_rng([seed, 1])
    topic = (rng.random(n) * TOPICS).astype(np.int64)  # [n]
    level = (rng.random(n) * len(DIFFICULTIES)).astype(np.int64)  # [n]
    queries = _texts(world.words, topic, level, rng)
    logit = world.slope * (world.strength[:, topic].T - np.array(DIFFICULTIES)[level][:, None])  # [n, k]
    p = np.round(1 / (1 + np.exp(-logit)), 4)
    labels = (rng.random((n, k)) < p).astype(np.float32)
    labels[rng.random((n, k)) < missing] = np.nan  # drawn last: it changes nothing else
    lengths = np.array([len(query) for query in queries])
    costs = np.outer(lengths, world.prices) / 1e6
    ids = [f"query-{i:06d}" for i in range(n)]
    tasks = [f"topic-{t + 1}" for t in topic.tolist()]
    splits = []
    ends = (0, int(0.6 * n), int(0.7 * n), n)
    for start, end in pairwise(ends):
        rows = slice(start, end)
        splits.append(
            Split(
                ids=ids[rows],
                queries=queries[rows],
                tasks=tasks[rows],
                labels=labels[rows],
                costs=costs[rows].astype(np.float32),
                p_correct=p[rows].astype(np.float32),
            )
        )
    train, val, test = splits
    return RoutingDataset(
        name=_name(n, k, seed, missing),
        models=tuple(f"model-{m + 1:02d}" for m in range(k)),
        train=train,
        val=val,
        test=test,
    )


def _check_options(n: int, k: int, seed: int, missing: float) -> None:
    for wrong, said, rule in (
        (n < MIN_N, f"n={n}", f"at least {MIN_N} queries are needed for three splits"),
        (k < 2, f"k={k}", "a router needs at least 2 models to choose from"),
        (seed < 0, f"seed={seed}", "a seed is a number from 0 on"),
        (
            not 0 <= missing < 1,
            f"missing={missing:g}",
            "it is the share of labels not observed, at least 0 and below 1",
        ),
    ):
        if wrong:
            raise UsageError(
                f"benchmark 'synthetic' cannot have {said}",
                why=rule,
                fix="`rph show synthetic` explains its options",
            )


def _name(n: int, k: int, seed: int, missing: float) -> str:
    if (n, k, seed, missing) == (N, K, 0, 0.0):
        return "synthetic"
    return f"synthetic-n{n}-k{k}-seed{seed}" + (f"-missing{float(missing)!r}" if missing else "")


# --- the world --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _World:
    slope: NDArray[np.float64]  # [k]
    strength: NDArray[np.float64]  # [k, TOPICS], ability + skill
    prices: NDArray[np.float64]  # [k], US dollars per million characters
    words: list[str]  # topic words, then difficulty words, then filler


def _world(k: int, seed: int) -> _World:
    rng = np.random.default_rng([seed, 0])
    rank = np.linspace(0, 1, k)[np.argsort(rng.random(k))]  # [k], 0 weakest, 1 strongest, in a random order
    ability = ABILITY[0] + (ABILITY[1] - ABILITY[0]) * rank
    skill = rng.standard_normal((k, TOPICS))
    skill = SKILL_SD * (skill - skill.mean(axis=1, keepdims=True))  # a model's skills say where, not how much
    slope = SLOPE[0] + (SLOPE[1] - SLOPE[0]) * rng.random(k)
    prices = PRICES[0] * (PRICES[1] / PRICES[0]) ** rank * np.exp(PRICE_NOISE * rng.standard_normal(k))
    count = TOPICS * TOPIC_WORDS + len(DIFFICULTIES) * DIFFICULTY_WORDS + FILLER_WORDS
    words = [_word(i, syllables=3) for i in np.argsort(rng.random(len(SYLLABLES) ** 3))[:count].tolist()]
    return _World(
        slope=np.round(slope, 3),
        strength=np.round(ability[:, None] + skill, 3),
        prices=np.round(prices, 3),
        words=words,
    )


def _word(number: int, *, syllables: int) -> str:
    """A word that can be spoken; another one for every number below 85 ** syllables.

    >>> _word(0, syllables=3), _word(86, syllables=3)
    ('bababa', 'babebe')
    """
    parts = []
    for _ in range(syllables):
        number, digit = divmod(number, len(SYLLABLES))
        parts.append(SYLLABLES[digit])
    return "".join(reversed(parts))


def _texts(words: Sequence[str], topic: Any, level: Any, rng: Any) -> list[str]:
    """Texts with words of the query's topic [n] and difficulty [n]; a name of four syllables makes each unique."""
    n, longest = len(topic), LENGTH[1]
    lengths = LENGTH[0] + (rng.random(n) * (longest - LENGTH[0] + 1)).astype(np.int64)
    kind = rng.random((n, longest))  # decides what each word is
    kind[:, 0], kind[:, 1] = 0.0, SHARES[0]  # at least one topic word and one difficulty word
    pick = rng.random((n, longest))
    first_level = TOPICS * TOPIC_WORDS
    first_filler = first_level + len(DIFFICULTIES) * DIFFICULTY_WORDS
    number = np.where(
        kind < SHARES[0],
        topic[:, None] * TOPIC_WORDS + (pick * TOPIC_WORDS).astype(np.int64),
        np.where(
            kind < SHARES[1],
            first_level + level[:, None] * DIFFICULTY_WORDS + (pick * DIFFICULTY_WORDS).astype(np.int64),
            first_filler + (pick * FILLER_WORDS).astype(np.int64),
        ),
    )
    return [
        f"{_word(i, syllables=4).capitalize()}: {' '.join([words[w] for w in row[:length]])}?"
        for i, (row, length) in enumerate(zip(number.tolist(), lengths.tolist(), strict=True))
    ]


# --- registration -----------------------------------------------------------------------------------

CARD = BenchmarkCard(
    name="synthetic",
    title="A control world: queries of known topic and difficulty, models of known P(correct)",
    citation="part of rph, the routing plateau harness",
    url="",
    licence="MIT",
    models=(),
    splits=None,
    costs=True,
    label_rule="one draw of 0 or 1 with the known P(correct)",
    split_rule="60/10/30 in the order of generation, cut at int(.6 n) and int(.7 n)",
    notes=(
        "P(correct) is a function of topic and difficulty, and both can be read off the words of the query.",
        "Not real language: an encoder trained on language has no advantage here. Never rank it among real benchmarks.",
        "Costs are a price per character of the query; dearer models are better on average, not on every topic.",
    ),
)


@hookimpl
def register_benchmark() -> BenchmarkSpec:
    return BenchmarkSpec(
        card=CARD,
        load=load,
        options={
            "n": f"number of queries, default {N}",
            "k": f"number of models, default {K}",
            "seed": "which world and which draws, default 0",
            "missing": "share of labels that are not observed, default 0",
        },
    )
