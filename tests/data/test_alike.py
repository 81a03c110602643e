"""Texts that are one query: the normal form, and near pairs against exact Jaccard similarities."""

import sys
import unicodedata
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rph.data import alike
from rph.data.alike import near_pairs, normal_form

WORDS = [f"w{i}" for i in range(400)]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Why  is\tthe\nsky blue? ", "why is the sky blue?"),
        ("cafe\u0301", "caf\u00e9"),
        ("CAF\u00c9\u00a0au lait", "caf\u00e9 au lait"),
        ("Stra\u00dfe", "strasse"),
        ("\u03b1\u0345", "\u03b1\u03b9"),  # iota subscript: a mark, and a letter without case
        (" \n", ""),
    ],
)
def test_the_normal_form_knows_no_case_no_blanks_and_one_composition(text, form):
    assert normal_form(text) == form


@given(st.text())
def test_texts_that_differ_in_form_alone_have_one_normal_form(text):
    form = normal_form(text)
    assert normal_form(form) == form
    assert normal_form(f"\n {text}\t") == form
    for other in ("NFC", "NFD"):
        assert normal_form(unicodedata.normalize(other, text)) == form
    assert "  " not in form and form == form.strip()


def test_the_normal_form_of_every_character_is_its_own():
    forms = [normal_form(chr(i)) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]
    assert [form for form in forms if normal_form(form) != form] == []


def shingles(text):
    """The set of a text, written anew: three words in a row, filled up with nothing at the end."""
    words = [*text.split(), "", ""]
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def exact(texts):
    """Pair -> Jaccard similarity, of sets that hold no shingle of more than TEMPLATE texts and enough others."""
    sets = [shingles(text) for text in texts]
    own = [{s for s in each if sum(s in other for other in sets) <= alike.TEMPLATE} for each in sets]
    return {
        (i, j): len(own[i] & own[j]) / len(own[i] | own[j])
        for i, j in combinations(range(len(texts)), 2)
        if min(len(own[i]), len(own[j])) >= alike.FEWEST
    }


@st.composite
def families(draw):
    """Texts of a few families: in each, some words of one text are replaced; all may begin with one instruction."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    start = " ".join(rng.choice(WORDS, draw(st.integers(0, 12))))
    texts = []
    for _ in range(draw(st.integers(1, 12))):
        first = rng.choice(WORDS, rng.integers(1, 80))
        for _ in range(rng.integers(1, 5)):
            again = first.copy()
            again[rng.random(len(again)) < rng.choice([0, 0.02, 0.1])] = "changed"
            texts.append(f"{start} {' '.join(again)}".strip())
    return texts


@given(families())
def test_near_pairs_are_those_of_the_exact_similarities(texts):
    similarity = exact(texts)
    found = [tuple(pair) for pair in near_pairs(texts).tolist()]
    assert found == sorted(set(found))
    assert all(similarity[pair] >= alike.NEAR for pair in found)
    # A pair at the threshold may be missed, with a chance of 2e-4; one that is nearer, hardly: 4e-8 at .9.
    assert {pair for pair, value in similarity.items() if value >= 0.9} <= set(found)


def test_a_text_of_which_one_word_differs_is_near_and_one_of_which_three_do_is_not():
    words = WORDS[:40]
    one = " ".join(["other" if i == 20 else word for i, word in enumerate(words)])  # 37 of 43 shingles: .86
    three = " ".join(["other" if i in (5, 20, 35) else word for i, word in enumerate(words)])  # 31 of 49: .63
    assert near_pairs([" ".join(words), one, three]).tolist() == [[0, 1]]
    assert near_pairs([" ".join(words), three]).tolist() == []


def test_prompts_that_share_examples_but_not_the_question_are_not_near():
    examples = " ".join(WORDS[:300])
    questions = [" ".join(f"q{i}x{j}" for j in range(30)) for i in range(30)]
    prompts = [f"{examples} {question}" for question in questions]
    assert max(exact(prompts[:2]).values()) > alike.NEAR  # by the examples alone
    assert near_pairs(prompts).tolist() == []
    assert near_pairs([*prompts, f"{prompts[3]} please"]).tolist() == [[3, 30]]


def test_words_of_scripts_without_blanks_and_signs_are_seen():
    chinese = "\u8bbe\u51fd\u6570\u7684\u503c\u4e3a\u96f6\u4e14\u5bfc\u6570\u8fde\u7eed\u6c42\u5176\u5728\u533a\u95f4\u4e0a\u7684\u6700\u5927\u4e0e\u6700\u5c0f"
    assert len(alike.WORD.findall(chinese)) == len(chinese)
    assert near_pairs([chinese * 2, chinese * 2 + "\u5417"]).tolist() == [[0, 1]]
    assert alike.WORD.findall("f(x)=x+1") == ["f", "(", "x", ")", "=", "x", "+", "1"]
    assert near_pairs(["a + b", "a - b", "", " "]).tolist() == []
