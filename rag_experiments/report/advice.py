"""What to try next: command lines, why, and what is known of them already.

The same overrides from several rules are one piece of advice with several reasons. Advice is
ordered by the share of answers that it could mend; what the compared runs have tried already
carries the measured gain.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from rag_experiments.composition.overrides import read_key
from rag_experiments.report.comparison import Comparison, Difference, difference
from rag_experiments.report.rules import RULES, Evidence, Overrides, Proposal
from rag_experiments.report.settings import Setting

KEPT = {
    "retriever": ("retriever.top_k", "retriever.temperature", "retriever.rerank_depth"),
    "model": ("model.generator", "model/generator", "model.query_encoder", "model/query_encoder"),
    "trainer": (),
    "task/prompt": ("task.prompt.examples", "task.prompt.choice", "task.prompt.order"),
}
"""What every option of a group understands: kept where another option is chosen."""

PARTS = {"bm25": "lexical", "dense": "dense"}
"""The part of `retriever=hybrid` that searches as the retriever does in whose place it comes."""

DENSE_PART = {"retriever/encoder": "minilm", "retriever/index": "flat"}
"""What that part has where nothing is said."""


@dataclass(frozen=True)
class Measured:
    """What a proposed change gained in the runs that are compared."""

    overrides: Overrides
    """The part of the proposal that was run."""

    gain: Difference


@dataclass(frozen=True)
class Advice:
    """A command line to try, why, and what is known of it already."""

    overrides: Overrides
    reasons: tuple[str, ...]
    command: str
    measured: tuple[Measured, ...]
    weight: float

    @property
    def tried_in_vain(self) -> bool:
        """Whether all of it was run already, and was not better."""
        return any(m.overrides == self.overrides and m.gain.value <= 0 for m in self.measured)


def advise(setting: Setting, comparison: Comparison) -> list[Advice]:
    """Return what to try after a setting, what could mend most answers first; at the end what
    was run already and was not better."""
    evidence = Evidence(setting, comparison)
    merged: dict[Overrides | str, list[Proposal]] = {}
    for rule in RULES:
        for proposal in rule(evidence):
            merged.setdefault(proposal.overrides or proposal.reason, []).append(proposal)
    found = [
        Advice(
            overrides=proposals[0].overrides,
            reasons=tuple(dict.fromkeys(proposal.reason for proposal in proposals)),
            command=command(setting, proposals[0].overrides) if proposals[0].overrides else "",
            measured=measured(evidence, proposals[0].overrides),
            weight=max(proposal.weight for proposal in proposals),
        )
        for proposals in merged.values()
    ]
    return sorted(found, key=lambda advice: (advice.tried_in_vain, -advice.weight))


def measured(evidence: Evidence, overrides: Overrides) -> tuple[Measured, ...]:
    """Return what a change gained where the compared runs have made it and nothing else: all of
    it, or else each single part of it."""
    parts = [overrides] if overrides else []
    if len(overrides) > 1:
        parts += [(part,) for part in overrides]
    found = []
    for part in parts:
        wanted = dict(line.split("=", 1) for line in part)
        wanted = {key: "None" if value == "null" else value for key, value in wanted.items()}
        for other in evidence.comparison.settings:
            if other is not evidence.setting and _differs_in(evidence, other, wanted):
                gain = evidence.comparison.between(evidence.setting.label, other.label)
                gain = gain or difference(evidence.setting, other, evidence.comparison.metric)
                found.append(Measured(part, gain))
        if found and part == overrides:
            break
    return tuple(found)


def _differs_in(evidence: Evidence, other: Setting, wanted: dict[str, str]) -> bool:
    here, there = evidence.setting.parameters, other.parameters
    if any(there.get(key) != value for key, value in wanted.items()):
        return False
    groups = tuple(f"{key.replace('/', '.')}." for key in wanted)
    alike = {name for name in evidence.comparison.names if not name.startswith(groups)}
    # What is below a group follows from its option, unless it was typed.
    kept = tuple(name for key, value in wanted.items() for name in _kept(key, value))
    typed = (line for each in (evidence.setting, other) for line in each.runs[-1].overrides)
    alike |= {key for key in map(read_key, typed) if key.startswith(kept)}
    return all(there.get(name) == here.get(name) for name in alike - wanted.keys())


def command(setting: Setting, overrides: Overrides) -> str:
    """Return the command line of a setting with overrides in place of its own."""
    run = setting.runs[-1]
    lines = list(run.overrides)
    for override in overrides:
        key, _, value = override.partition("=")
        lines = [line for line in lines if not _replaced(line, key, value)]
    if "retriever=hybrid" in overrides:
        lines += _as_part(setting)
    words = ["python", "-m", "rag_experiments"]
    if run.config_dir:
        words += ["--config-dir", run.config_dir]
    if any("," in override for override in overrides):
        words.append("-m")
    return shlex.join([*words, *lines, *overrides])


def _as_part(setting: Setting) -> list[str]:
    """Return what was chosen and set of a retriever for the part of hybrid that it becomes: another
    encoder than its queries have would be refused."""
    retriever = setting.parameters.get("retriever", "")
    part = PARTS.get(retriever)
    if part is None:
        return []
    chosen, values = {}, []
    if retriever == "dense":  # an experiment may have chosen, too
        own = {group: setting.parameters.get(group, "") for group in DENSE_PART}
        chosen = {g: option for g, option in own.items() if option not in ("", DENSE_PART[g])}
    common = (*KEPT["retriever"], "retriever.reranker", "retriever/reranker")
    for line in setting.runs[-1].overrides:
        key, (_, _, value) = read_key(line), line.partition("=")
        if key.startswith(common):
            continue
        if key.startswith("retriever/"):
            chosen[key.partition("@")[0]] = value
        elif key.startswith("retriever."):
            values.append(f"retriever.{part}.{key.removeprefix('retriever.')}={value}")
    groups = [
        f"{group}@retriever.{part}.{group.removeprefix('retriever/')}={option}"
        for group, option in chosen.items()
    ]
    return [*groups, *values]


def _replaced(line: str, key: str, value: str) -> bool:
    """Whether an override has no place beside a new one: the same key, or a setting of an option
    in whose place another one is chosen."""
    own = read_key(line)
    if own == key:
        return True
    below = own.startswith((f"{key.replace('/', '.')}.", f"{key}/"))
    kept = _kept(key, value)
    return below and not own.startswith((*kept, f"{key}/reranker")) if kept else below


def _kept(key: str, value: str) -> tuple[str, ...]:
    """Settings below a group that mean the same when an option of it is chosen."""
    return () if value == "none" else KEPT.get(key, ())
