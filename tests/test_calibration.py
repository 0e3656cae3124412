"""Label scores: their temperature, what it is fitted to, where it is kept, how they are scored."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from rag_experiments import __main__ as entry
from rag_experiments import ask, evaluate, serving
from rag_experiments.contracts import Prediction, Question
from rag_experiments.functional.ranking import fit_temperature
from rag_experiments.metrics.brier import Brier
from rag_experiments.metrics.calibration_error import CalibrationError
from rag_experiments.metrics.evaluation import evaluate_predictions
from rag_experiments.pipeline import RagPipeline
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.yes_no import YesNo

LABELS = ("yes", "no", "maybe")


def make_pipeline(temperature: float | None = None, saved: float = 1.0) -> RagPipeline:
    """A pipeline that scores labels and has no model: its answers are given."""
    prompt = Prompt(template="{context} {question}", closed_book="{question}")
    task = YesNo(prompt=prompt, labels=LABELS, temperature=temperature)
    retriever: Any = SimpleNamespace(top_k=1, temperature=1.0)
    nothing: Any = None
    passages = Dataset.from_list([{"id": "p", "title": "", "text": "t"}])
    return RagPipeline(task, retriever, nothing, nothing, passages, label_temperature=saved)


def predict(right: str, *log_probs: float, name: str = "q") -> Prediction:
    values = dict(zip(LABELS, log_probs, strict=False))
    best = max(values, key=values.__getitem__)
    return Prediction(name, "?", best, (right,), label_log_probs=values)


def scored(right: str, *scores: float, name: str = "q") -> Prediction:
    values = dict(zip(LABELS, scores, strict=False))
    best = max(values, key=values.__getitem__)
    return Prediction(name, "?", best, (right,), label_scores=values)


def draw(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """log p(label|x) [n, 3] of a model that is too sure by a factor, and the right labels [n]."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 3))
    right = np.array([random.choice(3, p=row) for row in softmax(logits, axis=1)])
    return temperature * logits - 20, right


# -- the temperature ---------------------------------------------------------------------------


def test_the_temperature_by_hand():
    """yes is likelier by one nat and right in 3 of 4 questions, and in half of the one counted
    in: p(yes) = 7/10, so 1 / T = log((7/10) / (3/10))."""
    pipeline = make_pipeline()
    answers = [predict(right, -4.0, -5.0) for right in ("Yes.", "yes", "yes", "no")]
    found = pipeline.fit_label_temperature(answers)
    assert pipeline.label_temperature == pytest.approx(1 / math.log(7 / 3), rel=1e-5)
    for answer in found:
        assert answer.label_scores == pytest.approx({"yes": 7 / 10, "no": 3 / 10}, rel=1e-5)
        assert answer.prediction == "yes"


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_it_finds_how_much_too_sure_a_model_is_and_changes_no_choice(temperature):
    scores, right = draw(2000, temperature)
    answers = [predict(LABELS[r], *row) for r, row in zip(right, scores.tolist(), strict=True)]
    pipeline = make_pipeline()
    found = pipeline.fit_label_temperature(answers)
    fitted = pipeline.label_temperature
    assert fitted == pytest.approx(temperature, rel=0.1)
    losses = {t: log_loss(right, softmax(scores / t, axis=1)) for t in np.geomspace(0.05, 20, 60)}
    own = log_loss(right, [list(answer.label_scores.values()) for answer in found])
    assert own <= min(losses.values()) + 1e-4  # one question more is counted in
    assert own < log_loss(right, softmax(scores, axis=1)) - 0.01
    for answer, before in zip(found, answers, strict=True):
        assert answer.prediction == before.prediction
        assert max(answer.label_scores, key=answer.label_scores.__getitem__) == before.prediction
        assert answer.label_log_probs == before.label_log_probs


@pytest.mark.parametrize(
    "answers", [[], [predict("no", -3.0, -3.0, -3.0)] * 4], ids=["no question", "labels that tie"]
)
def test_without_anything_to_learn_from_scores_are_the_models_own(answers, caplog):
    pipeline = make_pipeline(saved=7.0)
    with caplog.at_level(logging.INFO):
        found = pipeline.fit_label_temperature(answers)
    assert pipeline.label_temperature == 1
    assert f"none of {len(answers)} validation questions tells labels apart" in caplog.text
    assert [answer.label_scores for answer in found] == [
        pytest.approx(dict.fromkeys(LABELS, 1 / 3)) for _ in answers
    ]


def test_one_that_is_set_stays():
    pipeline = make_pipeline(temperature=2.0, saved=7.0)
    (found,) = pipeline.score_labels([predict("no", 0.0, -2 * math.log(3))])
    assert found.label_scores == pytest.approx({"yes": 3 / 4, "no": 1 / 4})
    pipeline.fit_label_temperature([predict("no", 0.0, -1.0)] * 9)
    assert pipeline.label_temperature == 2
    assert make_pipeline(saved=7.0).label_temperature == 7


def test_labels_that_no_score_is_left_for_keep_their_order():
    """Where the difference is more than a float holds as a ratio."""
    pipeline = make_pipeline(temperature=1e-3)
    (found,) = pipeline.score_labels([predict("no", -1.0, -9.0, -2.0)])
    assert list(found.label_scores.values()) == [1, 0, 0]
    assert found.prediction == "yes"


@pytest.mark.parametrize("value", [0, -1, "hot"])
def test_a_temperature_is_a_positive_number(value):
    prompt = Prompt(template="{context} {question}", closed_book="{question}")
    with pytest.raises(ValueError, match="temperature"):
        YesNo(prompt=prompt, temperature=value)


# -- the metrics -------------------------------------------------------------------------------


def test_brier_by_hand():
    assert Brier().score(scored("Yes!", 0.7, 0.2, 0.1)) == pytest.approx(0.09 + 0.04 + 0.01)
    assert Brier().score(scored("no", 0.7, 0.2, 0.1)) == pytest.approx(0.49 + 0.64 + 0.01)
    assert Brier().score(scored("yes", 1.0, 0.0)) == 0
    assert Brier().score(scored("no", 1.0, 0.0)) == 2
    assert Brier().score(Prediction("q", "?", "yes", ("yes",))) is None
    assert Brier().score(Prediction("q", "?", "yes", (), label_scores={"yes": 1.0})) is None


@pytest.mark.parametrize("labels", [2, 3])
def test_brier_agrees_with_scikit_learn(labels):
    scores, right = draw(200, 2.0)
    shares, right = softmax(scores[:, :labels], axis=1), right % labels
    answers = [scored(LABELS[r], *row) for r, row in zip(right, shares.tolist(), strict=True)]
    expected = brier_score_loss(right, shares, labels=range(labels), scale_by_half=False)
    assert Brier().aggregate(answers) == pytest.approx(expected)


def test_calibration_error_by_hand():
    # (13/15, 14/15] has two answers, one of them right, and (8/15, 9/15] a right one: 0.6 is its
    # upper end. |1 - 1.8| + |1 - 0.6| over 3.
    answers = [scored("yes", 0.9, 0.1), scored("no", 0.9, 0.1), scored("Yes", 0.6, 0.4)]
    assert CalibrationError().aggregate(answers) == pytest.approx((0.8 + 0.4) / 3)
    # One bin: |accuracy - mean confidence|.
    assert CalibrationError(bins=1).aggregate(answers) == pytest.approx(abs(2 / 3 - 2.4 / 3))
    assert CalibrationError().aggregate([scored("yes", 1.0, 0.0)] * 3) == 0
    assert CalibrationError().aggregate([scored("no", 1.0, 0.0)] * 3) == 1
    unscored = Prediction("q", "?", "yes", ("yes",))
    assert CalibrationError().aggregate([*answers, unscored]) == pytest.approx(0.4)
    assert math.isnan(CalibrationError().aggregate([unscored]))
    assert CalibrationError(bins=10).name == "calibration_error_10"


def expected_calibration_error(shares: np.ndarray, right: np.ndarray, bins: int) -> float:
    """As the paper writes it: bin by bin."""
    confidence, correct = shares.max(axis=1), shares.argmax(axis=1) == right
    total = 0.0
    for m in range(1, bins + 1):
        inside = ((m - 1) / bins < confidence) & (confidence <= m / bins)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            total += inside.sum() / len(right) * gap
    return total


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_as_the_paper_has_it_also_on_resamples(bins):
    scores, right = draw(150, 3.0)
    shares = softmax(scores, axis=1)
    answers = [scored(LABELS[r], *row) for r, row in zip(right, shares.tolist(), strict=True)]
    statistic = CalibrationError(bins=bins).statistic(answers)
    for seed in range(3):
        drawn = np.random.default_rng(seed).integers(0, 150, 150)
        expected = expected_calibration_error(shares[drawn], right[drawn], bins)
        assert statistic(drawn) == pytest.approx(expected)


def test_a_fitted_temperature_lessens_both_on_other_questions():
    """And the interval of the calibration error holds its value, though resamples have more."""
    first, second = draw(400, 4.0, seed=1), draw(400, 4.0, seed=2)
    validation, test = (
        [
            predict(LABELS[r], *row, name=str(i))
            for i, (row, r) in enumerate(zip(scores.tolist(), right, strict=True))
        ]
        for scores, right in (first, second)
    )
    pipeline = make_pipeline()
    metrics = [CalibrationError(), Brier()]
    before = evaluate_predictions(metrics, pipeline.score_labels(test), seed=0).estimates
    pipeline.fit_label_temperature(validation)
    after = evaluate_predictions(metrics, pipeline.score_labels(test), seed=0).estimates
    for name in ("calibration_error", "brier"):
        assert after[name].high < before[name].low
        for estimate in (before[name], after[name]):
            assert 0 <= estimate.low < estimate.value < estimate.high


# -- a run -------------------------------------------------------------------------------------

LINE = [
    *("data=folder", "data.path=data", "task=yes_no", "model=concat", "retriever=bm25"),
    *("retriever.top_k=1", "model/generator=tiny_causal", "tracking=none", "device=cpu"),
    *("precision=float32", "cache_dir=cache", "test.references=false"),
]
TRAINED = [
    *("trainer.max_steps=4", "trainer.eval_strategy=steps", "trainer.eval_steps=2"),
    "trainer.learning_rate=0.02",
]


class Runs:
    """Runs in one folder."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder, self.patch = folder, patch
        (folder / "data").mkdir()
        self.write("passages", [{"id": f"p{n}", "text": f"Word{n} is good."} for n in range(4)])
        for split, right in (("train", "yes"), ("validation", "yes"), ("test", "no")):
            self.write_questions(split, right)

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / "data" / f"{name}.jsonl").write_text(text, "utf-8")

    def write_questions(self, split: str, right: str) -> None:
        """Six questions; the answer of the first is other than that of the rest."""
        other = "no" if right == "yes" else "yes"
        rows = [
            {
                "id": f"{split} {n}",
                "question": f"Is {split} word{n} good?",
                "answers": [right if n else other],
            }
            for n in range(6)
        ]
        self.write(split, rows)

    def start(self, *overrides: str) -> Path:
        """The folder of a new run."""
        before = set(self.folder.glob("outputs/runs/*/*"))
        self.call(entry.main, *LINE, *overrides)
        (run,) = set(self.folder.glob("outputs/runs/*/*")) - before
        return run

    def call(self, main: Any, *words: str) -> None:
        self.patch.chdir(self.folder)
        self.patch.setattr(sys, "argv", ["rag_experiments", *words])
        code = None
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        assert not code


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def read_temperature(run: Path) -> float:
    return json.loads((run / "model" / "pipeline.json").read_text("utf-8"))["label_temperature"]


def recover_temperatures(rows: list[dict[str, Any]]) -> list[float]:
    """The temperature that label scores were made at, of each row."""
    return [
        (row["label_log_probs"]["yes"] - row["label_log_probs"]["no"])
        / math.log(row["label_scores"]["yes"] / row["label_scores"]["no"])
        for row in rows
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Runs(tmp_path_factory.mktemp("runs"), patch)


@pytest.fixture(scope="module")
def trained(runs) -> Path:
    return runs.start(*TRAINED)


def test_a_run_fits_it_before_and_after_training(runs, trained):
    rows = {s: read_rows(trained / f"predictions_{s}.jsonl") for s in ("untrained", "trained")}
    fitted = read_temperature(trained)
    assert recover_temperatures(rows["trained"]) == [pytest.approx(fitted, rel=1e-4)] * 6
    (before,) = {round(t, 3) for t in recover_temperatures(rows["untrained"])}
    assert before != pytest.approx(fitted, rel=0.01)
    for row in rows["trained"] + rows["untrained"]:
        assert row["prediction"] == max(row["label_log_probs"], key=row["label_log_probs"].get)

    # It is what the saved model's own answers to the validation questions ask for.
    pipeline = RagPipeline.load(trained, device="cpu", precision="float32")
    asked = [
        Question(row["id"], row["question"], tuple(row["answers"]))
        for row in read_rows(runs.folder / "data" / "validation.jsonl")
    ]
    answers = pipeline.predict(asked)
    expected = fit_temperature(
        [list(answer.label_log_probs.values()) for answer in answers],
        [[label == answer.answers[0] for label in ("yes", "no")] for answer in answers],
    )
    assert fitted == pytest.approx(expected, rel=1e-4)
    scores = json.loads((trained / "metrics.json").read_text("utf-8"))["trained"]
    assert scores["brier"]["n"] == scores["calibration_error"]["n"] == 6
    curve = read_rows(trained / "curves.jsonl")
    assert sum("validation/brier" in json.dumps(point) for point in curve) == 2


def test_what_is_done_with_a_saved_run_keeps_it(runs, trained, capsys):
    fitted = read_temperature(trained)
    runs.call(evaluate.main, str(trained), "test.split=validation", "tracking=none")
    (found,) = runs.folder.glob("outputs/evaluations/*/*/predictions_trained.jsonl")
    assert recover_temperatures(read_rows(found)) == [pytest.approx(fitted, rel=1e-4)] * 6
    capsys.readouterr()
    runs.call(ask.main, str(trained), "Is word1 good?")
    answered = RagPipeline.load(trained).ask("Is word1 good?")
    assert recover_temperatures([vars_of(answered)]) == [pytest.approx(fitted, rel=1e-4)]
    yes, no = answered.label_scores.values()
    assert f"  yes {yes:.2f}, no {no:.2f}\n" in capsys.readouterr().out
    assert serving.describe(answered)["label_scores"] == answered.label_scores


def vars_of(prediction: Prediction) -> dict[str, Any]:
    return {name: getattr(prediction, name) for name in ("label_log_probs", "label_scores")}


def test_answers_are_kept_without_it(runs):
    """So that the same answers serve runs with other validation questions, or one that is set."""
    first = runs.start("trainer=frozen")
    runs.write_questions("validation", "no")
    second = runs.start("trainer=frozen")
    runs.write_questions("validation", "yes")
    third = runs.start("trainer=frozen", "task.temperature=2.5")
    temperatures = [read_temperature(run) for run in (first, second, third)]
    assert temperatures[0] != pytest.approx(temperatures[1], rel=0.01)
    assert temperatures[2] == 2.5
    rows = [read_rows(run / "predictions_untrained.jsonl") for run in (first, second, third)]
    for own, temperature in zip(rows, temperatures, strict=True):
        assert recover_temperatures(own) == [pytest.approx(temperature, rel=1e-4)] * 6
        for name in ("label_log_probs", "prediction"):
            assert [row[name] for row in own] == [row[name] for row in rows[0]]
    said = [(run / "rag_experiments.log").read_text("utf-8") for run in (second, third)]
    # Test was answered by the first run; of validation the answers that are right are new.
    assert [re.findall(r"untrained: (\w+), ", text) for text in said] == [
        ["read", "computing"],
        ["read", "read"],
    ]


def test_without_validation_questions_it_is_one(runs):
    limit = "data.preparation.limit.validation=0"
    run = runs.start("trainer=frozen", limit)
    assert read_temperature(run) == 1
    text = (run / "rag_experiments.log").read_text("utf-8")
    assert "temperature of label scores: 1, for want of validation questions" in text
