"""A made-up world whose P(correct) is known: it splits the oracle gap into luck and what a router could learn.

Every query has a topic and a difficulty, and its text says both: each topic and each difficulty has words of its own.

    P(model m is correct) = sigmoid(slope[m] * (ability[m] + skill[m, topic] - difficulty))

the two-parameter logistic model of item response theory, so that which model is best depends on both.

A label is one draw with that probability. So the Bayes route, argmax of P, can be read off the text; what separates it
from the oracle is the luck of the draws, which no router can predict, and what separates a router from it is the
router's own failure. P is in `Split.p_correct`, which routers never see.

`holes` takes labels away in one of the three ways that rph.holes tells apart. What is left is what the world without holes
has, whose labels are the truth that can be held against what is said in spite of them.

    block       some models were not run on some topics, in no split
    planned     a model was asked a share of each topic's queries, drawn before any answer
    failures    calls failed, more of them where the query is hard, and most where the answer would have been wrong

The world (models, prices, vocabularies, who has holes where) depends on k and seed alone: a larger n is more queries of the
same world.
Everything that passes through exp or log is rounded, so that equal options give equal bytes on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rph import BenchmarkCard, BenchmarkSpec, RoutingDataset, Split, UsageError, hookimpl
from rph.holes import REASONS, Holes
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
HOLES = ("block", "planned", "failures")
BLOCKED = 0.3  # share of the (model, topic) not run; but a topic keeps two models, a model one topic
ASKED = (0.3, 1.0)  # smallest and largest share of a topic's queries that a model was asked
FAILED = (0.02, 0.3)  # share of its wrong answers that the steadiest and the shakiest model lose
RIGHT = 0.1  # how likely a right answer is to be lost, beside a wrong one
HARDNESS = (0.2, 1.8)  # and at the easiest and the hardest difficulty, beside the mean one
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvz" for vowel in "aeiou"]


def load(
    n: int = N, k: int = K, seed: int = 0, missing: float = 0.0, missing_in: str = "train", holes: str = ""
) -> RoutingDataset:
    """n queries, k models; a share `missing` of the labels is not observed, or `holes` says which. Equal options, equal content."""
    _check_options(n, k, seed, missing, missing_in, holes)
    world = _world(k, seed)
    rng = np.random.default_rng([seed, 1])
    topic = (rng.random(n) * TOPICS).astype(np.int64)  # [n]
    level = (rng.random(n) * len(DIFFICULTIES)).astype(np.int64)  # [n]
    queries = _texts(world.words, topic, level, rng)
    logit = world.slope * (world.strength[:, topic].T - np.array(DIFFICULTIES)[level][:, None])  # [n, k]
    p = np.round(1 / (1 + np.exp(-logit)), 4)
    labels = (rng.random((n, k)) < p).astype(np.float32)
    ends = (0, int(0.6 * n), int(0.7 * n), n)
    chance = rng.random((n, k))  # of a label to be lost: drawn last, it changes nothing else
    gone = chance < missing
    if missing_in == "train":
        gone[ends[1] :] = False
    said = Holes()
    if holes:
        gone, said = _lost(holes, seed, topic, level, labels, chance)
    labels[gone] = np.nan
    reasons = np.where(gone, REASONS.index("failed"), 0).astype(np.uint8) if holes == "failures" else None
    lengths = np.array([len(query) for query in queries])
    costs = np.outer(lengths, world.prices) / 1e6
    ids = [f"query-{i:06d}" for i in range(n)]
    tasks = [_topic(t) for t in topic.tolist()]
    splits = []
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
                reasons=None if reasons is None else reasons[rows],
            )
        )
    train, val, test = splits
    return RoutingDataset(
        name=_name(n, k, seed, missing, missing_in, holes),
        models=tuple(map(_model, range(k))),
        train=train,
        val=val,
        test=test,
        holes=said,
    )


def _model(m: int) -> str:
    return f"model-{m + 1:02d}"


def _topic(t: int) -> str:
    return f"topic-{t + 1}"


def _check_options(n: int, k: int, seed: int, missing: float, missing_in: str, holes: str) -> None:
    for wrong, said, rule in (
        (n < MIN_N, f"n={n}", f"at least {MIN_N} queries are needed for three splits"),
        (k < 2, f"k={k}", "a router needs at least 2 models to choose from"),
        (seed < 0, f"seed={seed}", "a seed is a number from 0 on"),
        (
            not 0 <= missing < 1,
            f"missing={missing:g}",
            "it is the share of labels not observed, at least 0 and below 1",
        ),
        (missing_in not in ("train", "all"), f"missing_in={missing_in}", "it is train or all (splits)"),
        (holes not in ("", *HOLES), f"holes={holes}", f"it is one of {', '.join(HOLES)}"),
        (
            holes and missing,
            f"holes={holes} and missing={missing:g}",
            "labels go missing in one way at a time",
        ),
        (
            holes == "block" and k < 3,
            f"holes=block and k={k}",
            "2 models that are run on each topic have no blocks",
        ),
    ):
        if wrong:
            raise UsageError(
                f"benchmark 'synthetic' cannot have {said}",
                why=rule,
                fix="`rph show synthetic` explains its options",
            )


def _name(n: int, k: int, seed: int, missing: float, missing_in: str, holes: str) -> str:
    if (n, k, seed, missing, holes) == (N, K, 0, 0.0, ""):
        return "synthetic"
    lost = f"-missing{float(missing)!r}{'-train' if missing_in == 'train' else ''}" if missing else ""
    return f"synthetic-n{n}-k{k}-seed{seed}{lost}{f'-{holes}' if holes else ''}"


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


def _lost(
    holes: str, seed: int, topic: Any, level: Any, labels: Any, chance: Any
) -> tuple[NDArray[np.bool_], Holes]:
    """Which labels [n, k] are lost to one kind of holes, and what their makers say; topic, level [n], chance [n, k] uniform."""
    k = labels.shape[1]
    of_model = np.random.default_rng([seed, 2]).random((k, TOPICS))  # uniform: who loses where
    if holes == "failures":
        wrong = (FAILED[0] + (FAILED[1] - FAILED[0]) * of_model[:, 0]) * np.where(labels == 1, RIGHT, 1)
        return chance < wrong * np.linspace(*HARDNESS, len(DIFFICULTIES))[level][:, None], Holes()
    used = sorted(set(topic.tolist()))
    cells = [(t, m) for t in used for m in range(k)]
    if holes == "planned":
        asked = np.round(ASKED[0] + (ASKED[1] - ASKED[0]) * of_model, 2)
        plan = {(_topic(t), _model(m)): float(asked[m, t]) for t, m in cells}
        return chance >= asked[:, topic].T, Holes(planned=True, plan=plan)
    run = of_model > max(BLOCKED, of_model.min())  # there is a block in every world
    run |= of_model >= np.sort(of_model, axis=0)[-2]  # two models of each topic
    run |= of_model == of_model.max(axis=1, keepdims=True)  # a topic of each model
    blocks = frozenset((_topic(t), _model(m)) for t, m in cells if not run[m, t])
    return ~run[:, topic].T, Holes(blocks=blocks)


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
        "With holes=... the labels of the same n, k and seed without it are the truth; P(correct) is known of every cell.",
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
            "missing_in": "the splits that lack them: train (default) or all",
            "holes": (
                "labels lost in a way of their own: block (models not run on some topics), planned (asked by a plan), "
                "failures (likelier where the answer is wrong or the query hard); default none"
            ),
        },
    )
