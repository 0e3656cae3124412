"""Figures of a comparison, as SVG that stands in a page: colours that colour-blind readers tell
apart (Okabe and Ito 2008), names beside the lines."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_experiments.functional.attribution import BINS
from rag_experiments.functional.ranking import compute_recall
from rag_experiments.report.comparison import Comparison, estimate
from rag_experiments.report.settings import Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY, INK = "#56B4E9", "#CC79A7", "#F0E442", "#A0A0A0", "#222222"
COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, INK)
STYLES = ("-", "--", ":", "-.")
_BIN_COLORS = (BLUE, SKY, PURPLE, GREEN, GREY, ORANGE, YELLOW, RED, "#DDDDDD")
BIN_COLORS = dict(zip(BINS, _BIN_COLORS, strict=True))
TRAIN_SIZE = "data.preparation.limit.train"

RULES: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure with what it shows in a sentence."""

    name: str
    title: str
    caption: str
    svg: str


def draw(comparison: Comparison) -> list[Drawing]:
    """Return the figures that the runs have data for."""
    import matplotlib

    makers: tuple[Callable[[Comparison], Drawing | None], ...] = (
        metric_by_setting,
        error_bins,
        retrieval_depth,
        learning_curve,
        training_curves,
    )
    with matplotlib.rc_context(RULES):
        return [drawing for maker in makers if (drawing := maker(comparison)) is not None]


def metric_by_setting(comparison: Comparison) -> Drawing:
    """Scores of each setting with their intervals, the best on top."""
    metric = comparison.metric
    settings = comparison.ranked
    figure = _figure(1.1 + _rows(settings, 0.55))
    axes = figure.add_axes(_box(figure, left=3.1, right=1.6, top=0.45, bottom=0.5))
    marks = (
        ("closed_book", "closed book", "x", GREY),
        ("untrained", "untrained", "o", ORANGE),
        ("trained", "trained", "o", BLUE),
        ("gold", "gold passages alone", "D", GREEN),
    )
    named = set()
    for row, setting in enumerate(settings):
        for stage, name, marker, color in marks:
            found = estimate(setting, metric, stage)
            if not found.n:
                continue
            own = stage == setting.final
            axes.hlines(row, found.low, found.high, color=color, lw=2.4 if own else 1, zorder=2)
            axes.plot(
                found.value,
                row,
                marker,
                color=color,
                ms=8 if own else 5.5,
                mfc="white" if stage in ("untrained", "gold") and not own else color,
                label=None if name in named else name,
                zorder=3,
            )
            named.add(name)
        found = estimate(setting, metric, setting.final)
        text = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(range(len(settings)), [_wrap(setting.label) for setting in settings])
    axes.set_ylim(len(settings) - 0.5, -0.5)
    hint = " (smaller is better)" if comparison.smaller_is_better else ""
    axes.set_xlabel(f"{metric}{hint} on the test questions, 95% interval")
    axes.grid(axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handletextpad=0.3, fontsize=9)
    return _drawing(
        figure,
        "metric_by_setting",
        f"{metric} by setting",
        "Each setting with its 95% bootstrap interval; the number is that of the final model.",
    )


def error_bins(comparison: Comparison) -> Drawing | None:
    """What became of the answers of each setting."""
    settings = [setting for setting in comparison.settings if setting.bins]
    if not settings:
        return None
    figure = _figure(1.3 + _rows(settings, 0.5))
    axes = figure.add_axes(_box(figure, left=3.1, right=0.3, top=0.75, bottom=0.5))
    # Its legend has no place for one that few tasks know.
    rare = "answered_unanswerable"
    shown = [name for name in BINS if name != rare or any(s.share(name) for s in settings)]
    for row, setting in enumerate(settings):
        start = 0.0
        for name in shown:
            share = setting.share(name)
            label = name.replace("_", " ") if row == 0 else None
            color = BIN_COLORS[name]
            axes.barh(row, share, left=start, color=color, edgecolor="white", label=label)
            if share >= 0.04:
                ink = "white" if name in ("right", "reading_failure") else INK
                axes.text(
                    start + share / 2, row, f"{share:.0%}", ha="center", va="center", color=ink,
                    fontsize=9,
                )  # fmt: skip
            start += share
    axes.set_yticks(range(len(settings)), [_wrap(setting.label) for setting in settings])
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of the answers")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.35, 1), ncols=4, fontsize=9)
    return _drawing(
        figure,
        "error_bins",
        "Where answers fail",
        "Each answer is in the first bin, from left to right, whose rule it meets.",
    )


def depth(setting: Setting) -> list[float]:
    """Recall of the gold passages among the first k retrieved, for k from 1, mean over answers;
    empty: no gold passage is known, or nothing is retrieved."""
    rows = [
        row
        for run in setting.runs
        for row in run.predictions[run.final].values()
        if row["gold_passage_ids"]
    ]
    deepest = max((len(row["passage_ids"]) for row in rows), default=0)
    return [
        float(np.mean([compute_recall(r["passage_ids"], r["gold_passage_ids"], k) for r in rows]))
        for k in range(1, deepest + 1)
    ]


def retrieval_depth(comparison: Comparison) -> Drawing | None:
    """Recall of the gold passages by the number of passages that are looked at."""
    curves: dict[tuple[float, ...], list[Setting]] = {}
    for setting in comparison.settings:
        found = depth(setting)
        if found:
            curves.setdefault(tuple(found), []).append(setting)
    if not curves:
        return None
    lines = [
        (_shared(settings, comparison), list(range(1, len(curve) + 1)), list(curve))
        for curve, settings in curves.items()
    ]
    figure, (axes,) = _panels(1)
    _draw_lines(axes, lines, number="{:.2f}", limits=(0, 1.02))
    axes.set_xticks(range(1, max(len(curve) for curve in curves) + 1))
    axes.set_xlabel("k, passages looked at")
    axes.set_ylabel("recall@k of gold passages")
    return _drawing(
        figure,
        "retrieval_depth",
        "Retrieval depth",
        "Share of the gold passages among the first k retrieved: a curve that still rises at its "
        "end asks for a larger retriever.top_k. Settings that retrieve alike share a line.",
    )


def training_curves(comparison: Comparison) -> Drawing | None:
    """Loss and validation objective by training step, of the first seed of each setting."""
    panels = []
    wanted = (("train/loss", "training loss"), (f"validation/{comparison.metric}", ""))
    for key, name in wanted:
        lines = []
        for setting in comparison.settings:
            points = {p["step"]: p[key] for p in setting.runs[0].curves if key in p}
            if points:
                lines.append((setting.label, sorted(points), [points[x] for x in sorted(points)]))
        if any(len(steps) > 1 for _, steps, _ in lines):  # one point makes no curve
            panels.append((name or f"validation {comparison.metric}", lines))
    if not panels:
        return None
    figure, found = _panels(len(panels))
    for axes, (name, lines) in zip(found, panels, strict=True):
        _draw_lines(axes, lines, number="{:.2f}")
        axes.set_ylabel(name)
        axes.set_xlabel("step")
    caption = "The first seed of each setting." if _replicated(comparison) else "By training step."
    return _drawing(figure, "training_curves", "Training curves", caption)


def learning_curve(comparison: Comparison) -> Drawing | None:
    """The metric by the number of training questions, where that was swept."""
    if TRAIN_SIZE not in comparison.names:
        return None
    others = [name for name in comparison.names if name != TRAIN_SIZE]
    groups: dict[str, list[tuple[int, Setting]]] = {}
    for setting in comparison.settings:
        size = setting.runs[0].sizes.get("train")
        limit = setting.parameters.get(TRAIN_SIZE, "None")
        if size is None and limit.isdigit():
            size = int(limit)
        if size is not None:
            parts = [f"{n}={setting.parameters[n]}" for n in others if n in setting.parameters]
            groups.setdefault(", ".join(parts) or "trained", []).append((size, setting))
    lines, bars = [], []
    for name, members in groups.items():
        members.sort(key=lambda member: member[0])
        found = [estimate(s, comparison.metric, s.final) for _, s in members]
        lines.append((name, [size for size, _ in members], [each.value for each in found]))
        bars.append([(each.low, each.high) for each in found])
    if not any(len(sizes) > 1 for _, sizes, _ in lines):
        return None
    figure, (axes,) = _panels(1)
    _draw_lines(axes, lines, number="{:.3f}", bars=bars, limits=(0, None))
    axes.set_xlabel("training questions")
    axes.set_ylabel(f"{comparison.metric}, 95% interval")
    course = "falls" if comparison.smaller_is_better else "rises"
    return _drawing(
        figure,
        "learning_curve",
        "Learning curve",
        f"A curve that still {course} at its end asks for more training questions.",
    )


def _replicated(comparison: Comparison) -> bool:
    return any(len(setting.runs) > 1 for setting in comparison.settings)


def _shared(settings: Sequence[Setting], comparison: Comparison) -> str:
    """Name settings by what they have in common and others lack."""
    parts = [
        f"{name}={settings[0].parameters[name]}"
        for name in comparison.names
        if name in settings[0].parameters
        and len({setting.parameters.get(name) for setting in settings}) == 1
    ]
    if parts:
        return ", ".join(parts)
    if len(settings) == len(comparison.settings) > 1:
        return "all settings"
    return "; ".join(setting.label for setting in settings)


def _draw_lines(
    axes: Axes,
    lines: Sequence[tuple[str, list[Any], list[float]]],
    number: str,
    bars: Sequence[list[tuple[float, float]]] = (),
    limits: tuple[float | None, float | None] = (None, None),
) -> None:
    """Draw lines with their names at their ends, moved apart where they would overlap.

    `limits` are those of the vertical axis; None: as the lines need.
    """
    ends = []
    for index, (name, x, y) in enumerate(lines):
        color, style = COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]
        axes.plot(x, y, style, color=color, marker="o", ms=4, lw=1.8)
        if bars:
            lows, highs = zip(*bars[index], strict=True)
            axes.vlines(x, lows, highs, color=color, lw=1.2)
        ends.append((y[-1], f"{number.format(y[-1])}  {name}", color, x[-1]))
    axes.grid(axis="y")
    low, high = axes.set_ylim(*limits)
    step = (high - low) * 0.085
    place = low - step
    for end, text, color, last in sorted(ends):
        place = max(place + step, end)
        axes.annotate(
            textwrap.shorten(text, 60, placeholder=" …"),
            (last, end),
            xytext=(1.03, place),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=INK if color in (SKY, ORANGE, PURPLE) else color,  # too pale to read
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "lw": 0.6,
                "shrinkB": 3,
                "relpos": (0, 0.5),  # from the text's left end
            },
        )


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(9, height))


def _box(
    figure: Figure, left: float, right: float, top: float, bottom: float
) -> tuple[float, float, float, float]:
    """Place of axes with margins in inches."""
    width, height = figure.get_size_inches()
    return (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - top - bottom) / height,
    )


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = _figure(2.7 * count)
    height = 1 / count
    bottoms = [height * (count - 1 - i) + 0.52 / (2.7 * count) for i in range(count)]
    size = height - 0.75 / (2.7 * count)
    return figure, [figure.add_axes((0.08, bottom, 0.5, size)) for bottom in bottoms]


def _rows(settings: Sequence[Setting], least: float) -> float:
    """Inches of a row for each setting; all are as high as the label of most lines needs."""
    lines = max(_wrap(setting.label).count("\n") + 1 for setting in settings)
    return len(settings) * max(least, 0.1 + 0.17 * lines)


def _wrap(label: str) -> str:
    return textwrap.fill(label, 42)


def _drawing(figure: Figure, name: str, title: str, caption: str) -> Drawing:
    import matplotlib

    buffer = io.StringIO()
    # A salt of its own, because ids of two figures in one page must differ.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return Drawing(name, title, caption, svg[svg.index("<svg") :])
