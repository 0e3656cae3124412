"""Sentences, and the words that carry what they say."""

from __future__ import annotations

from rag_experiments.functional.sentences import content_words, find_sentences


def test_sentences_end_where_a_reader_would_end_them():
    sentences = [
        "E. coli K-12 grows at 37.5 °C (see Fig. 2).",
        "Smith et al. Showed it in 1998!",
        "Is J. Smith right?",
        '"Yes."',
        "2 more cases, e.g. Taq, vs. Pfu",
    ]
    text = "  ".join(sentences)
    assert [text[start:end] for start, end in find_sentences(text)] == sentences
    assert find_sentences("") == []


def test_content_words_leave_out_what_only_holds_a_sentence_together():
    text = "The genes of E. coli, which it shares with many species, are NOT in a virus."
    assert content_words(text) == ["gene", "e", "coli", "share", "specy", "virus"]
    assert content_words("bodies, body; glass, analysis and gas") == [
        "body",
        "body",
        "glass",
        "analysis",
        "gas",
    ]
    assert content_words("What is it?") == []
