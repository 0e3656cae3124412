"""The report as one self-contained HTML page and as Markdown."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from rag_experiments.functional.attribution import BINS
from rag_experiments.metrics.evaluation import Estimate
from rag_experiments.report.advice import advise
from rag_experiments.report.comparison import LEVEL, Comparison, Difference, estimate
from rag_experiments.report.figures import draw
from rag_experiments.report.questions import SHOWN, breakdowns, changes, examples
from rag_experiments.report.rules import RULES, show
from rag_experiments.report.runs import Found
from rag_experiments.report.settings import Setting

if TYPE_CHECKING:
    from jinja2 import Environment

REFERENCES = {"closed_book": "closed book", "gold": "gold passages alone"}


def render(found: Found, comparison: Comparison) -> tuple[str, str]:
    """Return the page and the Markdown of a comparison."""
    environment = _environment()
    content = _content(found, comparison)
    page = environment.get_template("page.html").render(content, drawings=draw(comparison))
    return page, environment.get_template("page.md").render(content)


def _content(found: Found, comparison: Comparison) -> dict[str, Any]:
    best, metric = comparison.best, comparison.metric
    others = [setting for setting in comparison.settings if setting is not best]
    shown = [stage for stage in REFERENCES if any(s.has(stage) for s in comparison.settings)]
    return {
        "title": found.title,
        "failures": found.failures,
        "comparison": comparison,
        "metric": metric,
        "best": best,
        "headline": headline(comparison),
        "references": {stage: REFERENCES[stage] for stage in shown},
        # An evaluation has no model of its own that another command would make better.
        "advice": {
            s.label: advise(s, comparison) for s in (best, *others) if not s.runs[-1].parent
        },
        "bins": [s for s in comparison.settings if s.bins],
        "bin_names": BINS,
        "examples": examples(best),
        "breakdowns": breakdowns(best),
        "changes": [changes(best, other, metric) for other in others if _tested(best, other)],
        "shown": SHOWN,
        "metrics": _metrics(comparison),
        "rules": {rule.__name__: _first_sentence(rule) for rule in RULES},
        "notes": (*comparison.notes, *_data_notes(comparison)),
        "level": LEVEL,
    }


def headline(comparison: Comparison) -> str:
    """The result in a sentence or two."""
    best, metric = comparison.best, comparison.metric
    found = estimate(best, metric, best.final)
    if not found.n:
        return f"No run has a score for {metric}."
    said = f"{best.label}: {metric} {show(found)} on {found.n} test questions"
    others = [s.label for s in comparison.settings if s is not best]
    if not others:
        return f"{said}."
    if not any(_tested(best, s) for s in comparison.settings if s is not best):
        return f"{said}. No other setting answered these questions, so none is better or worse."
    tested = [d for d in (comparison.between(best.label, other) for other in others) if d]
    worse = sum(d.distinguishable for d in tested)
    if worse == len(others):
        return f"Best: {said}. It is better than every other setting by more than chance."
    if not worse:
        return f"Best: {said}. The tests tell no other setting from it: its lead may be chance."
    return (
        f"Best: {said}. The tests tell {worse} of the {len(others)} other settings from it; its "
        "lead over the rest may be chance."
    )


def _tested(first: Setting, second: Setting) -> bool:
    """Whether some question was answered in both, by its id and its words."""
    one, two = (s.runs[-1].predictions[s.final] for s in (first, second))
    return any(one[key]["question"] == two[key]["question"] for key in one.keys() & two.keys())


def _metrics(comparison: Comparison) -> dict[str, list[Estimate]]:
    """Estimates of every metric, and of every named part of the test, for each setting."""
    names = dict.fromkeys(
        name
        for setting in comparison.settings
        for run in setting.runs
        for name in run.estimates[run.final]
    )
    return {name: [estimate(s, name, s.final) for s in comparison.settings] for name in names}


def _data_notes(comparison: Comparison) -> list[str]:
    notes: dict[str, None] = {}
    for setting in comparison.settings:
        for run in setting.runs:
            notes.update(dict.fromkeys(run.notes))
    return list(notes)


def _first_sentence(rule: Any) -> str:
    return " ".join((inspect.getdoc(rule) or "").split())


def _interval(found: Estimate | Difference | None) -> str:
    return "–" if found is None or not found.n else show(found).replace("[nan, nan]", "").strip()


def _stacked(found: Estimate | Difference | None) -> Markup:
    """A value above its interval, for narrow cells."""
    value, _, ends = _interval(found).partition(" ")
    return Markup("{}<small>{}</small>").format(value, ends) if ends else escape(value)


def _number(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _minutes(setting: Setting) -> str:
    seconds = sum(run.seconds for run in setting.runs) / len(setting.runs)
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: bool(name) and str(name).endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(estimate=estimate)
    environment.filters.update(
        interval=_interval,
        stacked=_stacked,
        p=_number,
        minutes=_minutes,
        word=lambda path: shlex.quote(str(path)),
        cell=lambda text: " ".join(str(text).split()).replace("|", "\\|") or "(empty)",
    )
    return environment
