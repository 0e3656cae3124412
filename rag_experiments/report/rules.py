"""The rules of what to try next: from error bins and reference conditions to overrides.

Each rule looks at one setting and proposes overrides, with the counts that speak for them. The
docstring of a rule is its entry in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rag_experiments.metrics.evaluation import Estimate
from rag_experiments.report.comparison import Comparison, Difference, difference, estimate
from rag_experiments.report.settings import Setting

Overrides = tuple[str, ...]

MANY = 0.10
"""Share of the answers from which a bin is worth a run of its own."""

SOME = 0.05
"""The same for wrong formats: they are cheap to mend."""

LOW_CEILING = 0.70
"""Share of questions with an answer in the retrieved passages below which retrieval is weak."""

WIDE = 0.10
"""Width of an interval from which more test questions are advised."""

LARGER = {
    "tiny_causal": "smollm2_135m",
    "tiny_seq2seq": "flan_t5_small",
    "smollm2_135m": "qwen_0_6b",
    "qwen_0_6b": "qwen_7b",
    "flan_t5_small": "bart_base",
}
"""The next larger generator of the same kind."""

NEXT_PROMPT = {"brief": "extract", "extract": "instruct", "instruct": "brief"}


@dataclass(frozen=True)
class Proposal:
    """What a rule proposes."""

    overrides: Overrides
    """Empty: nothing on the command line would help; the reason says what would."""

    reason: str
    weight: float
    """Share of the answers that it could mend at most."""


@dataclass(frozen=True)
class Evidence:
    """A setting as the rules look at it."""

    setting: Setting
    comparison: Comparison

    def option(self, key: str) -> str:
        """The option of a group, or the value of a key; empty: there is none."""
        return self.setting.parameters.get(key, "")

    def number(self, key: str) -> float | None:
        """The value of a key that holds a number; None: there is none, or it is null."""
        try:
            return float(self.option(key))
        except ValueError:
            return None

    def count(self, name: str) -> str:
        """An error bin in words: `31 of 96 answers (32%) are “not retrieved”`."""
        bins = self.setting.bins
        assert bins is not None
        share = self.setting.share(name)
        shown = name.replace("_", " ")
        return f"{bins[name]} of {bins.total()} answers ({share:.0%}) are “{shown}”"

    def show(self, found: Estimate | Difference) -> str:
        """The metric with a value and its interval: `f1 0.512 [0.413, 0.609]`."""
        return f"{self.comparison.metric} {show(found)}"

    def estimate(self, stage: str) -> Estimate:
        return estimate(self.setting, self.comparison.metric, stage)

    def gap(self, first: str, second: str) -> Difference | None:
        """How much better one stage is than another; None: the setting lacks one of them."""
        if not (self.setting.has(first) and self.setting.has(second)):
            return None
        found = difference(self.setting, self.setting, self.comparison.metric, first, second)
        return found if found.n else None


def show(found: Estimate | Difference) -> str:
    """A value with its interval."""
    sign = "+" if isinstance(found, Difference) else ""
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def not_retrieved(evidence: Evidence) -> Iterator[Proposal]:
    """10% or more of the answers lack a gold passage that the knowledge source has: search by
    words and by meaning at once, retrieve more passages, and rerank."""
    share = evidence.setting.share("not_retrieved")
    if share >= MANY:
        top_k = evidence.option("retriever.top_k")
        found = f"not among the {top_k} passages retrieved" if top_k else "nothing is retrieved"
        reason = (
            f"{evidence.count('not_retrieved')}: the passage that holds the answer is in the "
            f"knowledge source, but {found}"
        )
        for overrides in _better_retrieval(evidence):
            yield Proposal(overrides, reason, share)


def low_ceiling(evidence: Evidence) -> Iterator[Proposal]:
    """Less than 70% of the questions have an answer in their retrieved passages: the others can
    only be answered from memory, so retrieval comes first."""
    setting = evidence.setting
    ceiling = estimate(setting, "answer_in_context", setting.final)
    if ceiling.n and ceiling.value < LOW_CEILING and evidence.option("retriever") != "none":
        reason = (
            f"only {ceiling.value:.0%} of the questions have an accepted answer anywhere in the "
            f"passages retrieved for them (answer_in_context {show(ceiling)}); the others can only "
            "be answered from the model's memory"
        )
        for overrides in _better_retrieval(evidence):
            yield Proposal(overrides, reason, 1 - ceiling.value)


def gold_is_better(evidence: Evidence) -> Iterator[Proposal]:
    """Gold passages alone score clearly higher than what was retrieved: the gap is the most that
    better retrieval can gain."""
    gap = evidence.gap(evidence.setting.final, "gold")
    if gap is not None and gap.low > 0 and gap.value >= SOME:
        reason = (
            "with the gold passages alone, in place of the retrieved ones, the same model gains "
            f"{evidence.show(gap)}: that is the most that better retrieval can give"
        )
        for overrides in _better_retrieval(evidence):
            yield Proposal(overrides, reason, gap.value)


def distracted(evidence: Evidence) -> Iterator[Proposal]:
    """10% or more of the answers are wrong although the gold passage was retrieved, and right from
    that passage alone: rerank, retrieve fewer passages, or weigh them by their scores."""
    share = evidence.setting.share("distracted")
    if share < MANY:
        return
    reason = (
        f"{evidence.count('distracted')}: right when the model reads the gold passage alone, wrong "
        "when it reads all passages that were retrieved"
    )
    top_k = int(evidence.number("retriever.top_k") or 0)
    if evidence.option("retriever/reranker") == "none":
        yield Proposal(("retriever/reranker=cross_encoder",), reason, share)
    if top_k > 1:
        yield Proposal((f"retriever.top_k={top_k // 2}",), reason, share)
    if evidence.option("model") == "concat" and top_k > 1:
        weighed = (
            f"{reason}; rag_token reads each passage by itself and weighs it by its retrieval score"
        )
        yield Proposal(("model=rag_token",), weighed, share)


def reading_failure(evidence: Evidence) -> Iterator[Proposal]:
    """10% or more of the answers are wrong from the gold passage alone, too: train on more
    questions, else longer (where the steps are fixed, both), or take a larger generator."""
    share = evidence.setting.share("reading_failure")
    if share < MANY:
        return
    reason = (
        f"{evidence.count('reading_failure')}: wrong even when the model reads the gold passage "
        "alone"
    )
    if evidence.setting.has("gold"):
        at_most = evidence.show(evidence.estimate("gold"))
        reason += f" (from gold passages alone all answers have {at_most})"
    more = _more_training(evidence)
    if more:
        yield Proposal(more, reason, share)
    larger = LARGER.get(evidence.option("model/generator"))
    if larger:
        yield Proposal(
            (f"model/generator={larger}",), f"{reason}; a larger generator may read better", share
        )


def wrong_format(evidence: Evidence) -> Iterator[Proposal]:
    """5% or more of the answers have the wrong format: train where nothing was trained, and change
    the prompt."""
    share = evidence.setting.share("wrong_format")
    if share < SOME:
        return
    reason = (
        f"{evidence.count('wrong_format')}: empty, none of the labels, or cut off at "
        "task.max_answer_tokens"
    )
    if evidence.option("trainer") == "frozen":
        yield Proposal(("trainer=supervised",), f"{reason}; training teaches the format", share)
    prompt = NEXT_PROMPT.get(evidence.option("task/prompt"))
    if prompt:
        asked = f"{reason}; another prompt may ask for it more plainly"
        yield Proposal((f"task/prompt={prompt}",), asked, share)


def answered_unanswerable(evidence: Evidence) -> Iterator[Proposal]:
    """10% or more of the answers are to questions that have none: say in the prompt what to answer
    then, and train where nothing was trained, else longer."""
    share = evidence.setting.share("answered_unanswerable")
    if share < MANY:
        return
    reason = (
        f"{evidence.count('answered_unanswerable')}: their questions have no answer, and the model "
        "gives one instead of saying so"
    )
    if evidence.option("task/prompt") != "abstain":
        yield Proposal(("task/prompt=abstain",), reason, share)
    more = _more_training(evidence)
    if more:
        yield Proposal(more, reason, share)


def not_in_knowledge_source(evidence: Evidence) -> Iterator[Proposal]:
    """10% or more of the answers have no gold passage in the knowledge source: use all of its
    passages and their whole text, or bring more documents."""
    share = evidence.setting.share("not_in_knowledge_source")
    if share < MANY:
        return
    reason = (
        f"{evidence.count('not_in_knowledge_source')}: the passages that hold the answers are not "
        "there, so no retriever can find them"
    )
    limits = ("data.preparation.limit.passages", "data.preparation.max_words")
    lifted = tuple(f"{key}=null" for key in limits if evidence.number(key) is not None)
    hint = "" if lifted else "; bring more documents with data.passages=<file or folder>"
    yield Proposal(lifted, reason + hint, share)


def closed_book(evidence: Evidence) -> Iterator[Proposal]:
    """Without passages the model scores as well: what is retrieved does not matter; retrieve
    better where gold passages would help, else do without."""
    if evidence.option("retriever") == "none":
        return
    gap = evidence.gap("closed_book", evidence.setting.final)
    if gap is None or gap.low > 0:
        return
    reason = (
        f"with the retrieved passages the model gains {evidence.show(gap)} over answering without "
        "any, which is no clear gain"
    )
    helped = evidence.gap("closed_book", "gold")
    if helped is not None and helped.low > 0:
        reason += f"; with gold passages it gains {show(helped)}: retrieval is what fails"
        for overrides in _better_retrieval(evidence):
            yield Proposal(overrides, reason, helped.value)
    else:
        yield Proposal(("retriever=none",), f"{reason}: try the cheaper model without them", MANY)


def no_gain(evidence: Evidence) -> Iterator[Proposal]:
    """Training gained nothing that can be told from chance: train on more questions or longer."""
    gain = evidence.comparison.gains.get(evidence.setting.label)
    more = _more_training(evidence)
    if gain is not None and gain.n and gain.low <= 0 and more:
        reason = f"training gained {evidence.show(gain)}, which may be chance"
        yield Proposal(more, reason, MANY)


def undecided(evidence: Evidence) -> Iterator[Proposal]:
    """One seed, and another setting cannot be told from this one: run two more seeds, which the
    report pools."""
    setting, comparison = evidence.setting, evidence.comparison
    others = [s.label for s in comparison.settings if s is not setting]
    found = [d for d in (comparison.between(setting.label, other) for other in others) if d]
    alike = [d for d in found if not d.distinguishable]
    trains = evidence.option("trainer") != "frozen"  # else seeds have nothing to vary
    if len(setting.runs) == 1 and alike and trains:
        seed = int(setting.seeds[0])
        told = f"{len(alike)} of the {len(others)} other settings" if others[1:] else "the 1 other"
        reason = (
            f"this setting was run with one seed, and the test cannot tell {told} from it; more "
            "seeds show what training varies by chance"
        )
        yield Proposal((f"seed={seed + 1},{seed + 2}",), reason, 0.02)


def wide_interval(evidence: Evidence) -> Iterator[Proposal]:
    """The interval is 0.1 wide or wider and the test is cut to a part: use all test questions."""
    found = evidence.estimate(evidence.setting.final)
    if found.high - found.low >= WIDE and evidence.number("data.preparation.limit.test"):
        reason = (
            f"{evidence.show(found)} on {found.n} questions: the interval is "
            f"{found.high - found.low:.2f} wide, and smaller differences cannot be seen; more test "
            "questions make it narrower"
        )
        yield Proposal(("data.preparation.limit.test=null",), reason, 0.01)


RULES: tuple[Callable[[Evidence], Iterator[Proposal]], ...] = (
    not_retrieved,
    low_ceiling,
    gold_is_better,
    distracted,
    reading_failure,
    wrong_format,
    answered_unanswerable,
    not_in_knowledge_source,
    closed_book,
    no_gain,
    undecided,
    wide_interval,
)


def _better_retrieval(evidence: Evidence) -> Iterator[Overrides]:
    if evidence.option("retriever") == "none":
        yield ("retriever=hybrid",)
    top_k = int(evidence.number("retriever.top_k") or 0)
    if not top_k or evidence.option("retriever") == "gold":
        return
    more = max(5, 2 * top_k)
    deeper: Overrides = (f"retriever.top_k={more}",)
    tokens = evidence.number("model.generator.max_prompt_tokens")
    if evidence.option("model") == "concat" and tokens:  # all passages share one prompt
        deeper += (f"model.generator.max_prompt_tokens={int(tokens) * 2}",)
    if evidence.option("retriever") in ("bm25", "dense"):
        yield ("retriever=hybrid", *deeper)
    else:
        yield deeper
        if evidence.option("retriever/reranker") == "none":
            yield ("retriever/reranker=cross_encoder",)


def _more_training(evidence: Evidence) -> Overrides:
    if evidence.option("trainer") == "frozen":
        return ("trainer=supervised",)
    limited = evidence.number("data.preparation.limit.train") is not None
    more: Overrides = ("data.preparation.limit.train=null",) if limited else ()
    steps, epochs = (
        evidence.number("trainer.max_steps"),
        evidence.number("trainer.num_train_epochs"),
    )
    if steps and steps > 0:  # a fixed number of them does not come to see more questions
        return (*more, f"trainer.max_steps={2 * int(steps)}")
    return more or ((f"trainer.num_train_epochs={2 * epochs}",) if epochs else ())
