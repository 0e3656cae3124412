"""Each metric by hand in visible fractions, and against references that share no code with it."""

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.accuracy import Accuracy
from rag_experiments.metrics.all_recall import AllRecall
from rag_experiments.metrics.answer_in_context import AnswerInContext
from rag_experiments.metrics.answer_length import AnswerLength
from rag_experiments.metrics.bleu import Bleu
from rag_experiments.metrics.brier import Brier
from rag_experiments.metrics.calibration_error import CalibrationError
from rag_experiments.metrics.citation_precision import CitationPrecision
from rag_experiments.metrics.citation_share import CitationShare
from rag_experiments.metrics.consistency import SampleConsistency
from rag_experiments.metrics.distinct import Distinct
from rag_experiments.metrics.exact_match import ExactMatch
from rag_experiments.metrics.f1 import F1
from rag_experiments.metrics.grounded import Grounded
from rag_experiments.metrics.macro_f1 import MacroF1
from rag_experiments.metrics.mrr import MRR
from rag_experiments.metrics.ndcg import NDCG
from rag_experiments.metrics.recall import Recall
from rag_experiments.metrics.relevance import Relevance
from rag_experiments.metrics.repetition import Repetition
from rag_experiments.metrics.rouge import Rouge

CONF = Path(__file__).resolve().parents[1] / "conf"
SETS = {
    "question_answering": "question_answering",
    "yes_no": "yes_no",
    "summarization": "summarization",
    "text_quality": "question_answering",
}
"""Options that are several metrics, and the task that they fit."""


def predict(text="", *answers, id="1", group="", gold=(), ids=(), passages=()):
    return Prediction(
        id=id,
        question="?",
        prediction=text,
        answers=answers,
        group=group,
        gold_passage_ids=gold,
        passage_ids=ids,
        passages=passages,
    )


@pytest.mark.parametrize(
    ("text", "answers", "exact", "f1"),
    [
        ("The Taq polymerase!", ("taq polymerase",), 1, 1),
        # 2 common of 3 predicted and 2 accepted: P = 2/3, R = 2/2.
        ("heat-stable Taq polymerase", ("Taq polymerase",), 0, 2 * (2 / 3) / (2 / 3 + 1)),
        ("polymerase", ("DNA ligase", "Taq polymerase"), 0, 2 * 1 * (1 / 2) / (1 + 1 / 2)),
        # A repeated word counts once where the answer has it once: P = 1/3, R = 1/1.
        ("no no no", ("no",), 0, 2 * (1 / 3) / (1 / 3 + 1)),
        ("ligase", ("polymerase",), 0, 0),
        ("", ("polymerase",), 0, 0),
        ("the", ("a",), 1, 1),
        ("anything", (), None, None),
    ],
)
def test_exact_match_and_f1(text, answers, exact, f1):
    assert ExactMatch().score(predict(text, *answers)) == exact
    score = F1().score(predict(text, *answers))
    assert score == (None if f1 is None else pytest.approx(f1))


@given(st.lists(st.sampled_from("bcd"), min_size=1), st.lists(st.sampled_from("bcd"), min_size=1))
def test_f1_equals_its_formula(predicted, accepted):
    common = sum(min(predicted.count(w), accepted.count(w)) for w in "bcd")
    precision, recall = common / len(predicted), common / len(accepted)
    expected = 2 * precision * recall / (precision + recall) if common else 0
    score = F1().score(predict(" ".join(predicted), " ".join(accepted)))
    assert score == pytest.approx(expected)


def test_means_leave_out_what_is_not_defined():
    predictions = [predict("x", "x"), predict("y", "x"), predict("z")]
    assert ExactMatch().aggregate(predictions) == 1 / 2
    assert math.isnan(ExactMatch().aggregate(predictions[2:]))


def labelled(seed=0, n=200, predicted=("yes", "no", "maybe", "")):
    choose = random.Random(seed)
    return [
        predict(choose.choice(predicted), choose.choice(["yes", "yes", "no", "maybe"]), id=str(i))
        for i in range(n)
    ]


def test_labels_by_hand():
    predictions = [
        predict("Yes", "yes"),
        predict("no", "yes"),
        predict("no", "no"),
        predict("", "no"),
        predict("not yes", "yes"),
    ]
    assert Accuracy().aggregate(predictions) == 2 / 5
    # yes: TP 1, FP 0, FN 2: 2/4. no: TP 1, FP 1, FN 1: 2/4.
    assert MacroF1().aggregate(predictions) == (2 / 4 + 2 / 4) / 2
    # yes: TP 1, FN 2: 2/4. no: TP 1, FP 1: 2/3. A prediction alone makes no class.
    assert MacroF1().aggregate([*predictions[:3], predictions[4]]) == (2 / 4 + 2 / 3) / 2
    assert Accuracy().score(predict("yes")) is None
    assert math.isnan(MacroF1().aggregate([predict("yes")]))


@pytest.mark.parametrize("seed", range(3))
def test_labels_agree_with_scikit_learn(seed):
    predictions = labelled(seed)
    true, found = [p.answers[0] for p in predictions], [p.prediction for p in predictions]
    assert Accuracy().aggregate(predictions) == pytest.approx(accuracy_score(true, found))
    reference = f1_score(true, found, average="macro", labels=["yes", "no", "maybe"])
    assert MacroF1().aggregate(predictions) == pytest.approx(reference)


def test_macro_f1_of_a_resample_without_a_label():
    statistic = MacroF1().statistic([predict("yes", "yes"), predict("no", "no"), predict("", "no")])
    assert statistic(np.array([0, 0, 0])) == 1.0  # "no" is neither there nor predicted
    assert statistic(np.array([0, 1, 2])) == (1 + 2 / 3) / 2


def sentences(n=40, seed=1):
    choose = random.Random(seed)
    words = ["the", "enzyme", "cuts", "DNA", "at", "a", "site", "joins", ",", "heat-stable", "."]

    def sentence():
        return " ".join(choose.choices(words, k=choose.randint(1, 12)))

    return [
        predict(sentence(), *(sentence() for _ in range(choose.randint(1, 3))), id=str(i))
        for i in range(n)
    ]


def test_rouge_by_hand():
    pair = predict("the cat sat", "the cat ran off", "dog")
    # Common words the, cat: P = 2/3, R = 2/4. Common pairs: the-cat: P = 1/2, R = 1/3.
    assert Rouge(variant="rouge1").score(pair) == pytest.approx(2 * 2 / (3 + 4))
    assert Rouge(variant="rouge2").score(pair) == pytest.approx(2 * 1 / (2 + 3))
    # The longest common subsequence of "a x b y" and "b a y" is a y (or b y).
    assert Rouge(variant="rougeL").score(predict("w x b y", "b w y")) == pytest.approx(2 * 2 / 7)
    assert Rouge(stemmer=True).score(predict("running cells", "run cell")) == 1
    assert Rouge().score(predict("running cells", "run cell")) == 0
    assert Rouge().score(predict("x")) is None


@pytest.mark.parametrize("variant", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_agrees_with_rouge_score(variant):
    from rouge_score.rouge_scorer import RougeScorer

    def lines(text):
        # A sentence a line, as rougeLsum reads; of these words DNA alone may begin one.
        return text.replace(". DNA", ".\nDNA") if variant == "rougeLsum" else text

    reference = RougeScorer([variant])
    for p in sentences():
        text = lines(p.prediction)
        best = max(reference.score(lines(a), text)[variant].fmeasure for a in p.answers)
        assert Rouge(variant=variant).score(p) == pytest.approx(best)


def test_bleu_by_hand():
    # One prediction of 4 words, accepted 5: p1 = 3/4, p2 = 2/3; brevity exp(1 - 5/4).
    pair = predict("cells make insulin now", "cells make insulin in bulk")
    expected = math.exp(1 - 5 / 4) * math.sqrt(3 / 4 * 2 / 3)
    assert Bleu(max_order=2).aggregate([pair]) == pytest.approx(expected)
    assert Bleu(max_order=1).aggregate([predict("Cells", "cells")]) == 0
    assert Bleu(max_order=1, lowercase=True).aggregate(
        [predict("Cells", "cells")]
    ) == pytest.approx(1)
    assert Bleu().score(pair) is None
    assert math.isnan(Bleu().aggregate([predict("x")]))


@pytest.mark.parametrize("order", [2, 4])
def test_bleu_agrees_with_sacrebleu_also_on_resamples(order):
    from sacrebleu.metrics.bleu import BLEU

    predictions = sentences()
    statistic = Bleu(max_order=order).statistic(predictions)
    for seed in range(3):
        indices = np.random.default_rng(seed).integers(0, len(predictions), len(predictions))
        drawn = [predictions[i] for i in indices]
        width = max(len(p.answers) for p in drawn)
        references = [
            [p.answers[i] if i < len(p.answers) else None for p in drawn] for i in range(width)
        ]
        reference = BLEU(max_ngram_order=order).corpus_score(
            [p.prediction for p in drawn], references
        )
        assert statistic(indices) == pytest.approx(reference.score / 100)


def test_ranking_metrics_by_hand():
    found = predict(gold=("b", "d", "x"), ids=("a", "b", "c", "d"))
    assert Recall().score(found) == 2 / 3
    assert Recall(k=2).score(found) == 1 / 3
    assert AllRecall().score(found) == 0
    assert AllRecall(k=4).score(predict(gold=("b", "d"), ids=("a", "b", "c", "d"))) == 1
    assert AllRecall(k=3).score(predict(gold=("b", "d"), ids=("a", "b", "c", "d"))) == 0
    assert MRR().score(found) == 1 / 2
    best = 1 / math.log2(2) + 1 / math.log2(3)
    assert NDCG(k=2).score(found) == pytest.approx((1 / math.log2(3)) / best)
    best += 1 / math.log2(4)
    expected = (1 / math.log2(3) + 1 / math.log2(5)) / best
    assert NDCG().score(found) == pytest.approx(expected)
    # One hit, three gold passages: the best order still has all three.
    assert NDCG().score(predict(gold=("a", "b", "c"), ids=("a",))) == pytest.approx(1 / best)


@pytest.mark.parametrize("metric", [Recall(), Recall(k=1), AllRecall(), MRR(), NDCG(), NDCG(k=3)])
def test_ranking_metrics_without_gold_or_hits(metric):
    assert metric.score(predict(ids=("a",))) is None
    assert metric.score(predict(gold=("a",))) == 0
    assert metric.score(predict(gold=("a",), ids=("a", "b"))) == 1


def test_answer_in_context():
    metric = AnswerInContext()
    passages = ("Plasmids: circular DNA.", "IL-2 is a cytokine.")
    assert metric.score(predict("", "RNA", "interleukin", passages=passages)) == 0
    assert metric.score(predict("", "RNA", "il 2", passages=passages)) == 1
    assert metric.score(predict("", "the DNA", passages=passages)) == 1
    assert metric.score(predict("", "plasmid", passages=passages)) == 0
    assert metric.score(predict("", "DNA")) == 0
    assert metric.score(predict("", passages=passages)) is None


def test_distinct_by_hand():
    # Words: b c, b d, b: 3 different of 5; pairs: b-c, b-d: 2 of 2.
    corpus = [predict("b c"), predict("b d"), predict("b"), predict("")]
    assert Distinct(n=1).aggregate(corpus) == 3 / 5
    assert Distinct(n=2).aggregate(corpus) == 2 / 2
    assert Distinct(n=1).statistic(corpus[:3])(np.array([0, 0, 2])) == 2 / 5
    assert math.isnan(Distinct(n=2).aggregate(corpus[2:]))


def test_citations_by_hand():
    def cite(*cited, gold=("p1", "p2"), passages=("p1", "p3")):
        return Prediction(
            "q", "?", "a", ("a",), passage_ids=passages, gold_passage_ids=gold, cited=cited
        )

    predictions = [cite("p1"), cite("p1", "p3"), cite("p3"), cite(""), cite(), cite(passages=())]
    precision, share = CitationPrecision(), CitationShare()
    assert [precision.score(p) for p in predictions] == [1, 1 / 2, 0, 0, None, None]
    assert [share.score(p) for p in predictions] == [1, 1, 1, 0, 0, None]
    assert precision.aggregate(predictions) == (1 + 1 / 2 + 0 + 0) / 4
    assert share.aggregate(predictions) == 3 / 5
    assert precision.score(cite("p1", gold=())) is None


def test_repetition_grounded_and_length_by_hand():
    # Pairs of "b c b c": bc, cb, bc: 2 different of 3.
    assert Repetition().score(predict("b c b c")) == pytest.approx(1 - 2 / 3)
    assert Repetition(n=1).score(predict("b c b c")) == 1 - 2 / 4
    assert Repetition().score(predict("b")) == 0
    passages = ("Taq is an enzyme.", "It is heat stable.")
    assert Grounded().score(predict("The Taq enzyme, stable", passages=passages)) == 3 / 3
    assert Grounded().score(predict("Pfu enzyme", passages=passages)) == 1 / 2
    assert Grounded().score(predict("Pfu")) is None
    assert Grounded().score(predict("the", passages=passages)) is None
    assert AnswerLength().score(predict("The Taq polymerase")) == 2


def metric_options():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        names = sorted(path.stem for path in (CONF / "metrics").glob("*.yaml"))
        return {
            name: instantiate(compose(overrides=[f"+metrics={name}"]).metrics, _convert_="all")
            for name in names
        }


def test_every_option_composes_and_fits_a_task():
    options = metric_options()
    for name, made in options.items():
        if name in SETS:
            assert all(SETS[name] in metric.tasks for metric in made.values())
            continue
        ((key, metric),) = made.items()
        assert key == name
        assert metric.tasks <= {"question_answering", "yes_no", "summarization"}
        assert metric.name.startswith(name)
        assert "@" not in metric.name
    assert options["question_answering"]["f1"].name == "f1"  # the objective is among them
    assert options["yes_no"]["accuracy"].name == "accuracy"
    assert options["summarization"]["rougeL"].name == "rougeL"
    assert len({type(m) for made in options.values() for m in made.values()}) == 29


def test_metrics_are_chosen_and_added_on_the_command_line():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        two = compose(overrides=["+metrics=[exact_match,f1]"]).metrics
        assert list(two) == ["exact_match", "f1"]
        more = compose(overrides=["+metrics=[question_answering,bleu]", "metrics.recall.k=3"])
        made = instantiate(more.metrics, _convert_="all")
        assert made["bleu"].name == "bleu"
        assert made["recall"].name == "recall_at_3"
        assert "f1" in made
        extra = "+metrics.first={_target_: rag_experiments.metrics.recall.Recall, k: 1}"
        made = instantiate(compose(overrides=["+metrics=f1", extra]).metrics, _convert_="all")
        assert [metric.name for metric in made.values()] == ["f1", "recall_at_1"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recall(k=0), "greater than or equal to 1"),
        (lambda: Rouge(variant="rouge3"), "rougeL"),
        (lambda: Bleu(max_order=5), "less than or equal to 4"),
        (lambda: F1(k=2), "Extra inputs"),
        (lambda: CalibrationError(bins=0), "greater than or equal to 1"),
    ],
)
def test_refuses_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_making_metrics_imports_nothing_heavy():
    modules = [path.stem for path in (CONF.parent / "rag_experiments/metrics").glob("*.py")]
    light = [m for m in modules if m not in ("__init__", "evaluation", "evaluate_metric")]
    code = "import sys\n" + "".join(f"import rag_experiments.metrics.{m}\n" for m in light)
    heavy = "torch numpy evaluate datasets transformers sacrebleu rouge_score nltk"
    code += f"print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_metrics_as_evaluate_metrics_combine_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import evaluate

    options = metric_options()
    singles = [
        metric for name, made in options.items() if name not in SETS for metric in made.values()
    ]
    corpus = sentences(12)
    texts = [p.prediction for p in corpus]
    of_answers = [m for m in singles if m.inputs[1] == "answers" and m.inputs[0] == "prediction"]
    of_text = [m for m in singles if m.inputs == ("prediction", None)]
    assert len(of_answers) == 13
    assert len(of_text) == 7
    loaded = [metric.load() for metric in of_answers + of_text]
    assert all(isinstance(metric, evaluate.Metric) for metric in loaded)
    computed = evaluate.combine(loaded).compute(
        predictions=texts, references=[list(p.answers) for p in corpus]
    )
    expected = {m.name: m.aggregate(corpus) for m in of_answers + of_text}
    assert computed == {
        name: pytest.approx(value, nan_ok=name == "coherence")  # of one sentence, not defined
        for name, value in expected.items()
    }

    # One accepted answer needs no list; examples may come one by one.
    one = F1().load()
    one.add(prediction="Taq", reference="the Taq")
    one.add(prediction="Pfu", reference="the Taq")
    assert one.compute() == {"f1": 1 / 2}
    assert one.compute(predictions=["Taq"], references=["Taq"]) == {"f1": 1}

    ranking = evaluate.combine([Recall(k=1).load(), MRR().load(), NDCG().load()])
    computed = ranking.compute(predictions=[["a", "b"], ["c"]], references=[["b"], ["c"]])
    ndcg = (1 / math.log2(3) + 1) / 2
    assert computed == {"recall_at_1": 1 / 2, "mrr": 3 / 4, "ndcg": pytest.approx(ndcg)}
    assert Grounded().load().compute(predictions=["b c"], references=[["b d"]]) == {
        "grounded": 1 / 2
    }
    assert Relevance().load().compute(predictions=["3"], references=["How many?"]) == {
        "relevance": 1
    }
    scores = [[{"label": "yes", "score": 0.75}, {"label": "no", "score": 0.25}]]
    labels = evaluate.combine([Brier().load(), CalibrationError().load()])
    assert labels.compute(predictions=scores, references=["yes"]) == {
        "brier": 2 / 4**2,
        "calibration_error": 1 / 4,
    }
    found = SampleConsistency().load().compute(predictions=["b c"], references=[["b d"]])
    assert found == {"consistency_samples": (2 * 1) / (2 + 2)}
    assert AnswerInContext().load().compute(predictions=[["b c"]], references=[["c"]]) == {
        "answer_in_context": 1
    }
