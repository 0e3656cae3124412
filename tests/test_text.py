"""Normalization against hand examples and an independent writing of SQuAD's rules."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_experiments.functional.text import contains_answer, list_ngrams, normalize_answer, tokenize


def squad(text: str) -> str:
    """SQuAD's rules in order, for ASCII: lower case, no punctuation, no articles, one space."""
    kept = [c for c in text.lower() if c not in set(string.punctuation)]
    without_articles = re.sub(r"\b(a|an|the)\b", " ", "".join(kept))
    return " ".join(without_articles.split())


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  an   Apple\ta day\n", "apple day"),
        ("IL-2", "il2"),
        ("U.S.A.", "usa"),
        ("don't", "dont"),
        ("theory", "theory"),
        ("$1,000.50", "100050"),
        ("the", ""),
        ("", ""),
        ("“curly” – ‘quotes’…", "curly quotes"),
        ("−80 °C", "80 °c"),
        ("ﬁbrin", "fibrin"),
        ("H₂O", "h2o"),
        ("cafe\u0301", "café"),
        ("TNF‐α", "tnfα"),
        ("Huntington´s", "huntingtons"),
    ],
)
def test_normalizes(text, normalized):
    assert normalize_answer(text) == normalized


@given(st.lists(st.text(st.characters(max_codepoint=127)) | st.sampled_from(["The", "a", " AN "])))
def test_equals_squad_on_ascii(pieces):
    text = "".join(pieces)
    assert normalize_answer(text) == squad(text)


@given(st.text())
def test_is_idempotent_and_tokens_join_back(text):
    once = normalize_answer(text)
    assert normalize_answer(once) == once
    assert " ".join(tokenize(text)) == once


@pytest.mark.parametrize(
    ("text", "answer", "contained"),
    [
        ("Taq is a DNA-binding enzyme.", "DNA", True),
        ("Taq is a DNA-binding enzyme.", "the enzyme", True),
        ("US troops", "U.S.", True),
        ("treated with IL 2 daily", "IL-2", True),
        ("treated with IL-2 daily", "il2", True),
        ("a category", "cat", False),
        ("the value 3.5", "5", False),
        ("the value 1,000", "1000", True),
        ("hepatitis B virus", "hepatitis A", False),
        ("hepatitis A virus", "hepatitis A", True),
        ("a word", "a", False),
        ("a word", "", False),
        ("a word", "!?", False),
        ("theory of the mind", "theory of mind", True),
        ("one two three", "three two", False),
        ("adenine/thymine pairs", "Thymine", True),
    ],
)
def test_contains(text, answer, contained):
    assert contains_answer(text, answer) is contained


@given(st.text(), st.text(), st.text())
def test_a_text_contains_what_stands_in_it_between_spaces(before, answer, after):
    if tokenize(answer):
        assert contains_answer(f"{before} {answer} {after}", answer)


def test_ngrams():
    assert list_ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert list_ngrams(["a"], 1) == [("a",)]
    assert list_ngrams(["a"], 2) == []
