"""The evaluation of predictions: values, intervals, groups, scores of examples, and speed."""

import math
import random
import time
from typing import ClassVar

import numpy as np
import pytest

from rag_experiments.contracts import Option, Prediction
from rag_experiments.functional.statistics import bootstrap_mean_interval
from rag_experiments.metrics.accuracy import Accuracy
from rag_experiments.metrics.bleu import Bleu
from rag_experiments.metrics.distinct import Distinct
from rag_experiments.metrics.evaluation import Estimate, evaluate_predictions
from rag_experiments.metrics.exact_match import ExactMatch
from rag_experiments.metrics.f1 import F1
from rag_experiments.metrics.macro_f1 import MacroF1
from rag_experiments.metrics.recall import Recall


def corpus(n, seed=0):
    choose = random.Random(seed)
    words = [f"w{i}" for i in range(200)]
    return [
        Prediction(
            id=f"q{i}",
            question="?",
            prediction=" ".join(choose.choices(words, k=4)),
            answers=(" ".join(choose.choices(words[:20], k=40)),),
            group=("seen_passage", "held_out", "")[i % 3],
            gold_passage_ids=("p1",) if i % 2 else (),
            passage_ids=("p0", "p1") if choose.random() < 0.5 else ("p2",),
        )
        for i in range(n)
    ]


def test_values_groups_and_scores():
    predictions = [
        Prediction(
            "a", "?", "x", ("x",), group="seen", gold_passage_ids=("p",), passage_ids=("p",)
        ),
        Prediction("b", "?", "y", ("x",), group="new"),
        Prediction("c", "?", "x", ("x",), group="new"),
    ]
    made = evaluate_predictions([ExactMatch(), Recall(), MacroF1()], predictions, seed=0)
    assert {name: (e.value, e.n) for name, e in made.estimates.items() if e.n} == {
        "exact_match": (2 / 3, 3),
        "exact_match/seen": (1, 1),
        "exact_match/new": (1 / 2, 2),
        "recall": (1, 1),
        "recall/seen": (1, 1),
        "macro_f1": (2 * 2 / (2 * 2 + 1), 3),  # TP 2, FN 1
        "macro_f1/seen": (1, 1),
        "macro_f1/new": (2 / 3, 2),
    }
    undefined = made.estimates["recall/new"]
    assert undefined.n == 0
    assert all(map(math.isnan, (undefined.value, undefined.low, undefined.high)))
    assert made.scores == {
        "exact_match": {"a": 1, "b": 0, "c": 1},
        "recall": {"a": 1, "b": None, "c": None},
    }


def test_a_metric_defined_nowhere_keeps_its_place():
    made = evaluate_predictions([Recall(k=1)], [Prediction("a", "?", "x", ())], seed=0)
    assert made.estimates["recall_at_1"].n == 0
    assert made.scores == {"recall_at_1": {"a": None}}


def test_intervals_are_those_of_the_statistics():
    predictions = corpus(60)
    made = evaluate_predictions([F1(), Accuracy()], predictions, seed=3, resamples=500)
    scores = [F1().score(p) for p in predictions]
    low, high = bootstrap_mean_interval(scores, seed=3, resamples=500)
    assert made.estimates["f1"] == Estimate(pytest.approx(np.mean(scores)), low, high, 60)
    assert low < np.mean(scores) < high
    again = evaluate_predictions([F1()], predictions, seed=3, resamples=500)
    assert again.estimates["f1"] == made.estimates["f1"]
    other = evaluate_predictions([F1()], predictions, seed=4, resamples=500)
    assert other.estimates["f1"] != made.estimates["f1"]
    narrow = evaluate_predictions([F1()], predictions, seed=3, resamples=500, level=0.5)
    assert narrow.estimates["f1"].low > low


def test_corpus_metrics_are_resampled_around_their_value():
    made = evaluate_predictions(
        [Bleu(max_order=1), Distinct(n=1), Distinct(n=2)], corpus(90), seed=0
    )
    for name in ("bleu_1", "distinct_1", "distinct_2", "bleu_1/held_out"):
        estimate = made.estimates[name]
        assert estimate.low < estimate.value < estimate.high
        assert estimate.high - estimate.low < 0.5
    assert made.scores == {}
    # All different: the interval does not pass 1.
    unlike = [Prediction(str(i), "?", f"word{i}", ()) for i in range(50)]
    estimate = evaluate_predictions([Distinct(n=1)], unlike, seed=0).estimates["distinct_1"]
    assert estimate.low < estimate.value == estimate.high == 1


class WordsPerAnswer(Option):
    """A user's own metric, which keeps to the contract and derives from no metric here."""

    name: ClassVar[str] = "words_per_answer"
    tasks: ClassVar[frozenset[str]] = frozenset({"question_answering"})

    def score(self, prediction):
        return None

    def aggregate(self, predictions):
        return sum(len(p.prediction.split()) for p in predictions) / len(predictions)


def test_a_metric_that_only_keeps_to_the_contract():
    predictions = [Prediction(str(i), "?", "w " * (1 + i % 2), ()) for i in range(40)]
    estimate = evaluate_predictions([WordsPerAnswer()], predictions, seed=0).estimates[
        "words_per_answer"
    ]
    assert (estimate.value, estimate.n) == (3 / 2, 40)
    assert 1.2 < estimate.low < 1.5 < estimate.high < 1.8


@pytest.mark.parametrize(
    ("metrics", "ids", "message"),
    [
        ([F1()], [], "at least one"),
        ([F1()], ["a", "a", "b"], "1 of 3 question ids are not unique"),
        ([F1(), F1()], ["a"], "f1 configured twice"),
    ],
)
def test_refuses(metrics, ids, message):
    predictions = [Prediction(i, "?", "", ("x",)) for i in ids]
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(metrics, predictions, seed=0)


def test_resampling_is_fast():
    metrics = [ExactMatch(), F1(), Accuracy(), MacroF1(), Bleu(), Distinct(n=2), Recall()]
    predictions = corpus(500)
    evaluate_predictions(metrics, predictions, seed=0, resamples=1)  # imports
    started = time.process_time()
    evaluate_predictions(metrics, predictions, seed=0, resamples=1)
    scoring = time.process_time() - started
    started = time.process_time()
    evaluate_predictions(metrics, predictions, seed=0, resamples=1000)
    # Under 1 s of its own on an idle core; the limit leaves room for slow machines.
    assert time.process_time() - started - scoring < 3
