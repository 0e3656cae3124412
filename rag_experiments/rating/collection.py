"""All ratings of a sheet's runs brought together: unblinded, computed, shown, recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from rag_experiments import options
from rag_experiments.contracts import UserError
from rag_experiments.metrics.evaluation import Estimate
from rag_experiments.rating import ratings, sheet
from rag_experiments.rating.criteria import NAMES, NO_JUDGMENT, VALUES
from rag_experiments.rating.ratings import Rater
from rag_experiments.rating.results import Rating, Results, summarize
from rag_experiments.rating.sheet import Item, Key
from rag_experiments.tracking.assessments import Given, TracedRun
from rag_experiments.tracking.mlflow import Mlflow


def collect(folder: Path, key_file: Path | None = None, uri: str | None = None) -> None:
    """Print the statistics of a sheet and record them with its runs.

    Blind ratings become metrics `human/...` of each run and feedback on its traces. Ratings that
    were given on the traces in the MLflow UI, where the run is known to the rater, are counted
    apart, as `human_open/...`. Written to `<sheet>.results.json` too. `uri` stands in for the
    runs' own store. Raises UserError where nothing was rated.
    """
    key = sheet.read_key(folder, key_file)
    items = sheet.read(folder)
    raters = ratings.read_all(folder, items)
    notes: list[str] = []
    tracked = [_find(run, uri, notes) for run in key.runs]
    blind = unblind(raters, key)
    opened = read_open(tracked, notes)
    if not blind and not opened:
        raise UserError(f"{folder}: nothing is rated yet; rate SHEET --rater NAME, then collect")

    print(progress(raters, items))
    content: dict[str, object] = {"runs": key.runs}
    for title, prefix, given in (
        ("blind ratings of the sheet", "human", blind),
        ("ratings in the MLflow UI, not blind", "human_open", opened),
    ):
        if not given:
            continue
        results = summarize(given, key.seed)
        show(title, results, key.runs)
        content[prefix] = as_content(results)
        for number, run in enumerate(tracked):
            if run is not None:
                metrics = as_metrics(results, number, f"{prefix}{_suffix(key.runs[number])}")
                count = len({r.rater for r in given if r.run == number})
                run.log_metrics({**metrics, f"{prefix}{_suffix(key.runs[number])}/raters": count})
    for number, run in enumerate(tracked):
        if run is not None and blind:
            notes.append(_give(run, number, raters, key))
    for note in notes:
        print(note)
    path = folder.absolute().with_name(f"{folder.absolute().name}.results.json")
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


def unblind(raters: Sequence[Rater], key: Key) -> list[Rating]:
    """Say of each rating whose answer it is for; an answer of several runs counts for each."""
    return [
        Rating(run, item, key.items[item]["question_id"], rater.name, field, int(value))
        for rater in raters
        for (item, field), value in rater.answers.items()
        if field in NAMES and value != NO_JUDGMENT
        for run in key.items[item]["runs"]
    ]


def read_open(tracked: Sequence[TracedRun | None], notes: list[str]) -> list[Rating]:
    """Read the ratings that people gave in the MLflow UI; note those that are not of the scale."""
    found = []
    for number, run in enumerate(tracked):
        for given in run.read() if run is not None else []:
            name = given.name.strip().lower()
            if name not in NAMES:
                continue
            value = _on_scale(given.value)
            if value is None:
                notes.append(
                    f"run {number + 1}, question {given.question_id}: {given.rater} rated {name} "
                    f"in MLflow as {given.value!r}, which is not 1 to 5; not counted"
                )
                continue
            unit = f"{number}/{given.question_id}"
            found.append(Rating(number, unit, given.question_id, given.rater, name, value))
    return found


def progress(raters: Sequence[Rater], items: Sequence[Item]) -> str:
    """One line for each rater."""
    lines = []
    for rater in raters:
        full = sum(all((i.name, c.name) in rater.answers for c in i.criteria) for i in items)
        unsure = sum(v == NO_JUDGMENT and f in NAMES for (_, f), v in rater.answers.items())
        line = f"{rater.name}: {full} of {len(items)} answers rated in full"
        lines.append(line + (f", {unsure} times 'cannot say'" if unsure else ""))
    return "\n".join(lines)


def show(title: str, results: Results, runs: Sequence[dict[str, str]]) -> None:
    """Print the means of each run, agreement, and which differences are real."""
    console = Console(width=120)
    table = Table(title=f"{title}: mean of 1 to 5 [95% interval]", title_justify="left")
    table.add_column("run")
    for name in NAMES:
        table.add_column(name, justify="right")
    for number in sorted({run for run, _ in results.means}):
        cells = [_cell(results.means[number, name], 2) for name in NAMES]
        table.add_row(str(number + 1), *cells)
    table.add_section()
    table.add_row("agreement (alpha)", *(_cell(results.agreement[name], 2) for name in NAMES))
    console.print(table)
    for number, run in enumerate(runs, start=1):
        console.print(
            f"  {number}  {run['folder']} ({run['stage']}) {run['choices']}",
            style="dim",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if any(estimate.n == 0 for estimate in results.agreement.values()):
        console.print("  agreement needs answers that two raters have rated", style="dim")
    real = [difference for difference in results.differences if difference.p < 0.05]
    for d in real:
        a, b = (number + 1 for number in d.runs)
        print(
            f"  {d.criterion}: run {a} is rated {d.mean:+.2f} beside run {b} on {d.questions} "
            f"questions (p = {d.p:.3f}, Holm)"
        )
    if len(results.differences) > len(real):
        left = len(results.differences) - len(real)
        print(f"  {left} of {len(results.differences)} differences between runs may be chance")


def as_metrics(results: Results, run: int, prefix: str) -> dict[str, float]:
    """The statistics of a run as metrics of the tracking store."""
    flat: dict[str, float] = {}
    for name in NAMES:
        for suffix, estimate in (
            ("", results.means.get((run, name))),
            ("_alpha", results.agreement[name]),
        ):
            if estimate is not None and estimate.value == estimate.value:
                flat[f"{prefix}/{name}{suffix}"] = estimate.value
                flat[f"{prefix}/{name}{suffix}_low"] = estimate.low
                flat[f"{prefix}/{name}{suffix}_high"] = estimate.high
    return flat


def as_content(results: Results) -> dict[str, object]:
    """The statistics for a file; runs are numbered from 0, as in the key."""

    def numbers(estimate: Estimate) -> dict[str, float | None]:
        return {k: (v if v == v else None) for k, v in asdict(estimate).items()}

    return {
        "means": [
            {"run": run, "criterion": name, **numbers(estimate)}
            for (run, name), estimate in results.means.items()
        ],
        "agreement": {name: numbers(value) for name, value in results.agreement.items()},
        "differences": [asdict(difference) for difference in results.differences],
    }


def _on_scale(value: object) -> int | None:
    """A value that was typed in as a number or as text; None where it is not of the scale."""
    names = {str(value): value for value in VALUES}
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if isinstance(value, bool) else names.get(str(value).strip())


def _cell(estimate: Estimate, digits: int) -> str:
    if estimate.value != estimate.value:
        return "-"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _suffix(run: dict[str, str]) -> str:
    return "" if _is_final(run) else f"/{run['stage']}"


def _is_final(run: dict[str, str]) -> bool:
    """Whether these are the answers of the run's last model, which its traces show, too."""
    trained = (Path(run["folder"]) / "predictions_trained.jsonl").is_file()
    return run["stage"] == ("trained" if trained else "untrained")


def _find(run: dict[str, str], uri: str | None, notes: list[str]) -> TracedRun | None:
    """The run in its store; None, with a note, where it is in none."""
    folder = Path(run["folder"])
    file = folder / ".hydra" / "config.yaml"
    if not file.is_file():
        notes.append(f"not recorded: {file} is not there; was the run's folder moved?")
        return None
    store = options.build(OmegaConf.select(OmegaConf.load(file), "tracking"), "tracking")
    if not isinstance(store, Mlflow):
        notes.append(f"not recorded: {folder} was not tracked")
        return None
    if uri is not None:
        store = store.model_copy(update={"uri": uri})
    found = TracedRun.find(store, folder, traced=_is_final(run))
    if found is None:
        notes.append(
            f"not recorded: the MLflow store knows no run in {folder}; name its store with "
            "--tracking-uri, or collect from the folder where the run was started"
        )
    return found


def _give(run: TracedRun, number: int, raters: Sequence[Rater], key: Key) -> str:
    """Write blind ratings to the run's traces; return a sentence on it."""
    given = []
    for rater in raters:
        for (item, field), value in rater.answers.items():
            entry = key.items[item]
            if number not in entry["runs"] or value in (NO_JUDGMENT, ""):
                continue
            comment = str(rater.answers.get((item, "comment"), ""))
            identity = entry["question_id"]
            if field in NAMES:
                given.append(Given(identity, rater.name, field, int(value), comment))
            elif field == "corrected":
                given.append(Given(identity, rater.name, "corrected_answer", str(value), ""))
    written, without = run.write(given, key.sheet)
    line = f"run {number + 1}: metrics recorded, {written} ratings written to its traces"
    return line + (f"; {without} are on questions without a trace" if without else "")
