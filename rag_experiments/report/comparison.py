"""Settings compared: scores with intervals, paired tests, wins and losses.

Everything is computed from the scores of single questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from rag_experiments.functional.statistics import (
    adjust_holm,
    crossed_bootstrap_means,
    paired_permutation_test,
    percentile_interval,
    resample_indices,
)
from rag_experiments.metrics.evaluation import Estimate
from rag_experiments.report.runs import Run
from rag_experiments.report.settings import Setting, pool

SEED = 13
"""Of the draws of intervals and tests: the same runs give the same report."""

RESAMPLES = 1000
"""As many as a run draws for its own intervals."""

ALL_PAIRS = 12
"""Settings up to which every pair is tested; beyond it each is tested against the first, because
correcting for so many pairs would leave no test any power."""

LEVEL = 0.05

EQUAL = 1e-9
"""Up to which mean scores of a question count as tied: means over seeds are rounded."""


@dataclass(frozen=True)
class Difference:
    """How much better one set of predictions is than another on the questions both answered."""

    first: str
    second: str
    value: float
    """Mean score of the second less that of the first; the other way round for a metric whose
    smaller scores are better: positive is better for every metric."""

    low: float
    high: float
    p: float
    """Of the two-sided paired permutation test, corrected by Holm within its family."""

    wins: int
    """Questions that the second scores better on."""

    ties: int
    losses: int

    @property
    def n(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def distinguishable(self) -> bool:
        return self.p <= LEVEL


@dataclass(frozen=True)
class Comparison:
    """Settings, and how they differ in one metric."""

    metric: str
    settings: tuple[Setting, ...]
    names: tuple[str, ...]
    """Parameters that tell the settings apart."""

    differences: tuple[Difference, ...]
    """Between the final models of settings: one family of tests."""

    gains: dict[str, Difference]
    """Of each trained setting over its own untrained model: another family."""

    notes: tuple[str, ...] = ()
    """What a reader must know to judge the figures."""

    @property
    def smaller_is_better(self) -> bool:
        """Whether smaller scores of the metric are the better ones."""
        return self.settings[0].smaller_is_better(self.metric)

    @cached_property
    def ranked(self) -> list[Setting]:
        """The settings by their mean score, the best first, those without one last."""
        sign = 1 if self.smaller_is_better else -1

        def place(setting: Setting) -> tuple[bool, float]:
            value = estimate(setting, self.metric, setting.final).value
            return value != value, sign * value

        return sorted(self.settings, key=place)

    @property
    def best(self) -> Setting:
        """The setting with the best mean score; the first of equals."""
        return self.ranked[0]

    def between(self, first: str, second: str) -> Difference | None:
        """The tested difference of two settings by their labels, second less first."""
        for found in self.differences:
            if (found.first, found.second) == (first, second):
                return found
            if (found.first, found.second) == (second, first):
                return _turned(found)
        return None


def compare(runs: Sequence[Run], metric: str | None = None) -> Comparison:
    """Pool runs into settings, and test the differences of a metric (default: the objective).

    Every pair of settings is tested where there are at most `ALL_PAIRS`, else each against the
    first one.
    """
    metric = metric or runs[0].objective
    settings, names, notes = pool(runs)
    pairs = list(combinations(settings, 2))
    if len(settings) > ALL_PAIRS:
        pairs = [(settings[0], other) for other in settings[1:]]
        notes.append(
            f"{len(settings)} settings: each is tested against the first, {settings[0].label}, "
            f"not every pair (done up to {ALL_PAIRS})"
        )
    found = [difference(a, b, metric) for a, b in pairs]
    gains = [
        replace(difference(s, s, metric, "untrained", "trained"), first="untrained")
        for s in settings
        if s.final == "trained" and s.has("untrained")
    ]
    return Comparison(
        metric,
        tuple(settings),
        tuple(names),
        tuple(_corrected([each for each in found if each.n])),
        {each.second: each for each in _corrected(gains)},
        (*notes, *_remarks(settings, metric, found)),
    )


def estimate(setting: Setting, metric: str, stage: str) -> Estimate:
    """Mean score of a setting and its 95% bootstrap interval, over questions and seeds.

    For a metric of the whole corpus, which has no scores of questions: the mean over runs, with
    the interval of the run where there is one.
    """
    scores = setting.scores(metric, stage)
    if scores:
        matrix = np.array(list(scores.values())).T  # [seeds, questions]
        low, high = percentile_interval(_draws(matrix))
        return Estimate(float(matrix.mean()), low, high, matrix.shape[1])
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    found = [run.estimates.get(stage, {}).get(metric, nothing) for run in setting.runs]
    if any(each["value"] is None for each in found):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    if len(found) == 1:
        return Estimate(**{name: found[0][name] for name in nothing})
    value = float(np.mean([each["value"] for each in found]))
    return Estimate(value, float("nan"), float("nan"), min(each["n"] for each in found))


def difference(
    first: Setting,
    second: Setting,
    metric: str,
    first_stage: str | None = None,
    second_stage: str | None = None,
) -> Difference:
    """Compare two sets of predictions question by question; p is not corrected yet.

    Scores of a question are averaged over seeds for the test; the interval draws seeds too.
    """
    one = first.scores(metric, first_stage or first.final)
    two = second.scores(metric, second_stage or second.final)
    both = [q for q in one if q in two and first.row(q)["question"] == second.row(q)["question"]]
    if not both:
        nan = float("nan")
        return Difference(first.label, second.label, nan, nan, nan, 1.0, 0, 0, 0)
    a = np.array([one[q] for q in both]).T
    b = np.array([two[q] for q in both]).T
    if first.smaller_is_better(metric):
        a, b = -a, -b
    per_question = b.mean(axis=0) - a.mean(axis=0)
    # One draw of questions for both; seeds of one have nothing to do with those of the other.
    low, high = percentile_interval(_draws(b, SEED + 1) - _draws(a, SEED + 2))
    return Difference(
        first.label,
        second.label,
        float(per_question.mean()),
        low,
        high,
        paired_permutation_test(b.mean(axis=0), a.mean(axis=0), SEED),
        int((per_question > EQUAL).sum()),
        int((abs(per_question) <= EQUAL).sum()),
        int((per_question < -EQUAL).sum()),
    )


def _draws(matrix: np.ndarray, seed: int = SEED) -> np.ndarray:
    indices = resample_indices(matrix.shape[1], RESAMPLES, SEED)
    return crossed_bootstrap_means(matrix, indices, seed)


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    adjusted = adjust_holm([each.p for each in differences])
    return [replace(d, p=float(p)) for d, p in zip(differences, adjusted, strict=True)]


def _turned(found: Difference) -> Difference:
    return replace(
        found,
        first=found.second,
        second=found.first,
        value=-found.value,
        low=-found.high,
        high=-found.low,
        wins=found.losses,
        losses=found.wins,
    )


def _remarks(
    settings: Sequence[Setting], metric: str, differences: Sequence[Difference]
) -> list[str]:
    remarks = []
    if settings[0].smaller_is_better(metric):
        remarks.append(
            f"{metric} is better the smaller it is: gains and differences are positive where it "
            "became smaller"
        )
    if all(len(setting.runs) == 1 for setting in settings):
        remarks.append(
            "one seed each: intervals and tests hold the chance of the test questions, not that "
            "of the training; seed=1,2,3 adds it"
        )
    elif any(len(setting.runs) < 3 for setting in settings):
        remarks.append("fewer than three seeds say little about the chance of the training")
    counts = {len(s.scores(metric, s.final)) for s in settings}
    unshared = [d for d in differences if d.n < max(counts)]
    if unshared:
        remarks.append(
            f"settings answered different questions: {len(unshared)} of {len(differences)} pairs "
            f"are compared on fewer questions than the {max(counts)} of the largest test, and "
            f"{sum(not d.n for d in unshared)} not at all, for want of questions in both"
        )
    remarks += [
        f"{setting.label}: an evaluation of the model that {run.parent} saved"
        for setting in settings
        for run in setting.runs
        if run.parent
    ]
    if 0 in counts:
        without = [s.label for s in settings if not s.scores(metric, s.final)]
        remarks.append(f"no scores of single questions for {metric}: {'; '.join(without)}")
    sources = {run.gold_source for setting in settings for run in setting.runs}
    if "answer_match" in sources:
        remarks.append(
            "gold passages are not annotated in some runs: passages that contain an accepted "
            "answer stand in, in every figure of retrieval"
        )
    if any(setting.bins is None for setting in settings):
        remarks.append(
            "runs without error bins (of summaries, or made by an older version): what "
            "follows from bins is left out for them"
        )
    return remarks
