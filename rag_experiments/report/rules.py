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
        """An error bin in words: `name: 31 of 96 answers (32%)`."""
        bins = self.setting.bins
        assert bins is not None
        share = self.setting.share(name)
        return f"{name}: {bins[name]} of {bins.total()} answers ({share:.0%})"

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
        found = f"not among the {top_k} that are retrieved" if top_k else "nothing is retrieved"
        reason = (
            f"{evidence.count('not_retrieved')}: the gold passage is in the knowledge source, but "
            f"{found}"
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
            f"answer_in_context {show(ceiling)}: no more of the questions have an accepted answer "
            "in their retrieved passages"
        )
        for overrides in _better_retrieval(evidence):
            yield Proposal(overrides, reason, 1 - ceiling.value)


def gold_is_better(evidence: Evidence) -> Iterator[Proposal]:
    """Gold passages alone score clearly higher than what was retrieved: the gap is the most that
    better retrieval can gain."""
    gap = evidence.gap(evidence.setting.final, "gold")
    if gap is not None and gap.low > 0 and gap.value >= SOME:
        reason = (
            f"with the gold passages alone the same model gains {show(gap)}: the most that better "
            "retrieval can give"
        )
        for overrides in _better_retrieval(evidence):
            yield Proposal(overrides, reason, gap.value)


def distracted(evidence: Evidence) -> Iterator[Proposal]:
    """10% or more of the answers are wrong although the gold passage was retrieved and alone would
    do: rerank, retrieve fewer passages, or weigh them by their scores."""
    share = evidence.setting.share("distracted")
    if share < MANY:
        return
    reason = (
        f"{evidence.count('distracted')}: right with the gold passage alone, wrong among the "
        "others that were retrieved"
    )
    top_k = int(evidence.number("retriever.top_k") or 0)
    if evidence.option("retriever/reranker") == "none":
        yield Proposal(("retriever/reranker=cross_encoder",), reason, share)
    if top_k > 1:
        yield Proposal((f"retriever.top_k={top_k // 2}",), reason, share)
    if evidence.option("model") == "concat" and top_k > 1:
        weighed = f"{reason}; rag_token weighs each passage by p(z|x)"
        yield Proposal(("model=rag_token",), weighed, share)


def reading_failure(evidence: Evidence) -> Iterator[Proposal]:
    """10% or more of the answers are wrong with the gold passage too: train on more questions,
    else longer, or take a larger generator."""
    share = evidence.setting.share("reading_failure")
    if share < MANY:
        return
    reason = f"{evidence.count('reading_failure')}: wrong from the gold passage alone, too"
    if evidence.setting.has("gold"):
        at_most = show(evidence.estimate("gold"))
        reason += f" ({evidence.comparison.metric} {at_most} from gold passages)"
    more = _more_training(evidence)
    if more:
        yield Proposal(more, reason, share)
    larger = LARGER.get(evidence.option("model/generator"))
    if larger:
        yield Proposal((f"model/generator={larger}",), f"{reason}; a larger generator", share)


def wrong_format(evidence: Evidence) -> Iterator[Proposal]:
    """5% or more of the answers have the wrong format: train where nothing was trained, and change
    the prompt."""
    share = evidence.setting.share("wrong_format")
    if share < SOME:
        return
    reason = evidence.count("wrong_format")
    if evidence.option("trainer") == "frozen":
        yield Proposal(("trainer=supervised",), f"{reason}; training teaches the format", share)
    prompt = NEXT_PROMPT.get(evidence.option("task/prompt"))
    if prompt:
        yield Proposal((f"task/prompt={prompt}",), reason, share)


def answered_unanswerable(evidence: Evidence) -> Iterator[Proposal]:
    """10% or more of the answers are to questions that have none: say in the prompt what to answer
    then, and train where nothing was trained, else longer."""
    share = evidence.setting.share("answered_unanswerable")
    if share < MANY:
        return
    reason = f"{evidence.count('answered_unanswerable')}: the model does not say that there is none"
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
    reason = f"{evidence.count('not_in_knowledge_source')}: no retriever can find their passages"
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
    reason = f"the retrieved passages gain {show(gap)} over the same model without any"
    helped = evidence.gap("closed_book", "gold")
    if helped is not None and helped.low > 0:
        reason += f", gold passages {show(helped)}: retrieval is what fails"
        for overrides in _better_retrieval(evidence):
            yield Proposal(overrides, reason, helped.value)
    else:
        yield Proposal(("retriever=none",), f"{reason}: try the cheaper model without them", MANY)


def no_gain(evidence: Evidence) -> Iterator[Proposal]:
    """Training gained nothing that can be told from chance: train on more questions or longer."""
    gain = evidence.comparison.gains.get(evidence.setting.label)
    more = _more_training(evidence)
    if gain is not None and gain.n and gain.low <= 0 and more:
        yield Proposal(more, f"training gained {show(gain)}", MANY)


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
        reason = (
            f"one seed, and {len(alike)} of {len(others)} other settings cannot be told from it "
            "by the test"
        )
        yield Proposal((f"seed={seed + 1},{seed + 2}",), reason, 0.02)


def wide_interval(evidence: Evidence) -> Iterator[Proposal]:
    """The interval is 0.1 wide or wider and the test is cut to a part: use all test questions."""
    found = evidence.estimate(evidence.setting.final)
    if found.high - found.low >= WIDE and evidence.number("data.preparation.limit.test"):
        reason = (
            f"{evidence.comparison.metric} {show(found)} on {found.n} questions: smaller "
            "differences than that cannot be seen"
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
    if evidence.number("data.preparation.limit.train") is not None:
        return ("data.preparation.limit.train=null",)
    steps, epochs = (
        evidence.number("trainer.max_steps"),
        evidence.number("trainer.num_train_epochs"),
    )
    if steps and steps > 0:
        return (f"trainer.max_steps={2 * int(steps)}",)
    return (f"trainer.num_train_epochs={2 * epochs}",) if epochs else ()
