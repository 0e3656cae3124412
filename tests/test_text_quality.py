"""What metrics say of answers whatever is true: diversity, relevance, coherence, consistency."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import sentence_bleu
from sacrebleu.metrics.bleu import BLEU

from rag_experiments.contracts import Prediction
from rag_experiments.functional.questions import find_answer_kind, fits_kind
from rag_experiments.metrics.coherence import Coherence
from rag_experiments.metrics.consistency import RewordingConsistency, SampleConsistency
from rag_experiments.metrics.evaluation import evaluate_predictions
from rag_experiments.metrics.relevance import Relevance
from rag_experiments.metrics.self_bleu import SelfBleu


def predict(text, question="?", id="1", **fields):
    return Prediction(id=id, question=question, prediction=text, answers=(), **fields)


# -- self-BLEU -------------------------------------------------------------------------------


def corpus(seed, n=30):
    choose = random.Random(seed)
    words = ["enzyme", "cuts", "dna", "site", "joins", "heat", "stable", "cells", "in", "yeast"]
    return [" ".join(choose.choices(words, k=choose.randint(1, 9))) for _ in range(n)]


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_self_bleu_agrees_with_sacrebleu_pair_by_pair(order, seed):
    texts = corpus(seed)
    bleu = BLEU(max_ngram_order=order, effective_order=True, tokenize="none")
    each = [
        bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score / 100
        for i, text in enumerate(texts)
    ]
    predictions = [predict(text) for text in texts]
    assert SelfBleu(max_order=order).aggregate(predictions) == pytest.approx(np.mean(each))
    drawn = np.array([3, 3, 7])  # each answer keeps its score against the whole corpus
    statistic = SelfBleu(max_order=order).statistic(predictions)
    assert statistic(drawn) == pytest.approx((2 * each[3] + each[7]) / 3)


def test_self_bleu_agrees_with_nltk_where_nothing_is_smoothed():
    # Every pair of words is found in another answer, so no count is zero.
    texts = ["dna joins cells", "dna joins yeast", "joins cells yeast", "cells yeast dna joins"]
    tokens = [text.split() for text in texts]
    each = [
        sentence_bleu(tokens[:i] + tokens[i + 1 :], own, weights=(0.5, 0.5))
        for i, own in enumerate(tokens)
    ]
    found = SelfBleu(max_order=2).aggregate([predict(text) for text in texts])
    assert found == pytest.approx(np.mean(each))


def test_self_bleu_by_hand():
    same = [predict("the Taq polymerase", id=str(i)) for i in range(3)]
    assert SelfBleu().aggregate(same) == pytest.approx(1)
    assert SelfBleu().aggregate([predict("ligase"), predict("Pfu enzyme")]) == 0
    # "b b" is clipped at the one b of the other: p1 = 1/2; "b" has p1 = 1 but is short of 2.
    pair = [predict("b b"), predict("b")]
    assert SelfBleu(max_order=1).aggregate(pair) == pytest.approx((1 / 2 + math.exp(1 - 2)) / 2)
    assert math.isnan(SelfBleu().aggregate([predict("alone"), predict("")]))


def test_self_bleu_has_an_interval_around_itself():
    found = evaluate_predictions(
        [SelfBleu()], [predict(text, id=str(i)) for i, text in enumerate(corpus(5))], seed=1
    ).estimates["self_bleu"]
    assert found.low < found.value < found.high
    assert found.n == 30


# -- relevance -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Who discovered it?", "person"),
        ("By whom was it found?", "person"),
        ("Whose goals oppose it?", "person"),
        ("When was it found?", "time"),
        ("In what year did it occur?", "time"),
        ("What is the date of birth of X?", "time"),
        ("Where is it made?", "place"),
        ("How many genes are there?", "quantity"),
        ("At what temperature does it melt?", "quantity"),
        ("What is the molecular mass of Y?", "quantity"),
        ("About what percentage of cells is lost?", "quantity"),
        ("Which growth factor is left out?", "thing"),
        ("What are key factors?", "thing"),
        ("Which pressure sensor is used?", "thing"),
        ("Why does it fail?", "explanation"),
        ("How does it work?", "explanation"),
        ("Does it bind DNA?", "yes_no"),
        ("Sleep in mice: is it needed?", "yes_no"),
        ("Was A or B born first?", "any"),
        ("Since 2005, what is the gender of Doctor Who's companion?", "thing"),
        ("Loss of which plasmid makes them degenerate?", "thing"),
        ("Name a drug.", "any"),
    ],
)
def test_the_kind_of_answer_that_a_question_asks_for(question, kind):
    assert find_answer_kind(question) == kind


@pytest.mark.parametrize(
    ("kind", "fitting", "others"),
    [
        ("quantity", ["48 kDa", "seven", "two-thirds"], ["a protein", "yes", ""]),
        ("time", ["1998", "in May", "the nineteenth century"], ["Wuhan", "no", "the"]),
        ("person", ["Krainer", "states and governments"], ["42", "No.", "1998"]),
        ("place", ["Beijing", "the nucleus"], ["42 %", "yes"]),
        ("yes_no", ["Yes, it does", "no", "not sufficient"], ["DNA", "nothing"]),
        ("thing", ["P1", "37", "nothing"], ["Yes.", "no"]),
        ("explanation", ["by passage in mice"], ["Yes.", ""]),
        ("any", ["yes", "B"], ["", "the"]),
    ],
)
def test_forms_of_answers(kind, fitting, others):
    assert [text for text in fitting if not fits_kind(text, kind)] == []
    assert [text for text in others if fits_kind(text, kind)] == []


@pytest.mark.parametrize(
    ("question", "answer", "relevant"),
    [
        ("How many genes are there?", "about 70", 1),
        ("How many genes are there?", "a KRAB domain", 0),
        ("Which enzyme joins DNA?", "DNA ligase", 1),
        ("Which enzyme joins DNA?", "the enzyme joins DNA", 0),  # nothing that was not asked
        ("Which enzymes join DNA?", "an enzyme", 0),
        ("Which enzyme joins DNA?", "I do not know.", 0),
        ("Which enzyme joins DNA?", "The passages do not say.", 0),
        ("Which enzyme joins DNA?", "Unknown", 0),
        ("Which enzyme joins DNA?", "", 0),
        ("Which was earlier, Velvet or Phred?", "Phred", 1),
        ("Was the consent obtained?", "It was obtained.", 1),
        ("Was the consent obtained?", "Wuhan", 0),
        ("Name a drug.", "Enbrel", 1),
    ],
)
def test_relevance(question, answer, relevant):
    assert Relevance().score(predict(answer, question)) == relevant


# -- coherence -------------------------------------------------------------------------------


def test_coherence_by_hand():
    metric = Coherence()
    assert metric.score(predict("One sentence, however long it may be.")) is None
    assert metric.score(predict("")) is None
    thread = "Taq is an enzyme. The enzyme copies DNA. DNA is read in cells."
    assert metric.score(predict(thread)) == 2 / 2
    jump = "Taq is an enzyme. The enzyme copies DNA. Paris lies in France. France has rivers."
    assert metric.score(predict(jump)) == 2 / 3
    assert metric.score(predict("The gene is long. Genes differ.")) == 1  # plural and singular
    assert metric.score(predict("It is so. It is not.")) == 0  # function words are no thread


@given(st.integers(2, 6))
def test_saying_the_same_again_is_not_coherent(times):
    assert Coherence().score(predict(" ".join(["The enzyme copies DNA."] * times))) == 0


# -- consistency -----------------------------------------------------------------------------


def test_consistency_by_hand():
    asked = predict("Taq polymerase", samples=("the Taq polymerase!", "Pfu polymerase"))
    # Pairs: equal; one word of two in common, twice: 2 * 1 / (2 + 2).
    assert SampleConsistency().score(asked) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    exact = SampleConsistency(agreement="exact_match")
    assert exact.score(asked) == pytest.approx(1 / 3)
    assert SampleConsistency().score(predict("x")) is None
    assert RewordingConsistency().score(asked) is None
    silent = predict("", rewordings=("a?", "b?"), reworded_answers=("", "the"))
    assert RewordingConsistency().score(silent) == 1  # three times no words
    assert exact.name == "consistency_samples_exact_match"
    assert RewordingConsistency().name == "consistency_rewordings"


@given(st.lists(st.sampled_from(["b", "c d", "b c", ""]), min_size=1, max_size=5))
def test_consistency_does_not_depend_on_the_order(answers):
    metric = SampleConsistency()
    forwards = metric.score(predict("b c", samples=tuple(answers)))
    backwards = metric.score(predict(answers[-1], samples=("b c", *answers[:-1])))
    assert forwards == pytest.approx(backwards)
    assert 0 <= forwards <= 1
