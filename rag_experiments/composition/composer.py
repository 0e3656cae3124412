"""Command lines composed as Hydra composes them; what it refuses is said in one line each."""

from __future__ import annotations

import copy
import re
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rag_experiments import config, options
from rag_experiments.composition import launcher
from rag_experiments.composition.loader import Loader, is_mapping
from rag_experiments.composition.overrides import parse, quote, read_choices, read_key, shorten
from rag_experiments.contracts import UserError
from rag_experiments.parameters import mask
from rag_experiments.search import checks, settings, sweeper
from rag_experiments.sweep import outcomes, resumption

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from rag_experiments.search.space import Space

CONFIG = "config"
"""Name of the root configuration."""

_OPEN = ("env", "launcher")
"""Parts of `hydra` that take keys of their own: those of a plugin."""

_REFUSED = (HydraException, OmegaConfBaseException, YAMLError, ValueError)


@dataclass(frozen=True)
class Plan:
    """A command line that composed and was found sound."""

    jobs: tuple[config.Run, ...]
    """One for each job of a sweep; of a search, one for each value that it may take or end of an
    interval; of any other sweeper than Hydra's own, the base alone."""

    sweep_dir: Path | None
    """Folder of the sweep; None for a single run."""

    overrides: tuple[str, ...]
    """What Hydra is to be called with."""

    state: resumption.State | None = None
    """What the sweep's folder is to say about it; None for a single run."""

    searches: bool = False
    """Whether the jobs are chosen one after the other, by those before."""


@dataclass(frozen=True)
class _Job:
    """A job of a sweep that composed and was found sound."""

    run: config.Run
    identity: str
    overrides: tuple[str, ...]


class Composer:
    """Hydra with the package's configurations and, where given, a user's own folder."""

    def __init__(self, config_dir: str | None = None, config_name: str | None = None):
        version.setbase("1.3")
        search_path = create_config_search_path("pkg://rag_experiments.conf")
        if config_dir is not None:
            folder = Path(config_dir).absolute()
            if not folder.is_dir():
                raise UserError(f"--config-dir: {config_dir!r} is not a folder")
            search_path.prepend("command-line", f"file://{folder}", SearchPathQuery("schema", None))
        self.hydra = Hydra.create_main_hydra2("rag_experiments", search_path)
        self.loader = Loader(search_path)
        self.hydra.config_loader = self.loader  # what runs is composed as what was checked
        self.name = config_name or CONFIG

    @property
    def notes(self) -> list[str]:
        """What was chosen with a checkpoint, or left out of experiments, so far."""
        return list(self.loader.notes)

    def run(self, task: TaskFunction, plan: Plan) -> str:
        """Run a plan's job or jobs; raise what the (first failed) job raised.

        Returns what is to be said at the end: what a search found best.
        """
        if plan.searches:
            return sweeper.run(self.hydra, self.name, task, plan.overrides)
        start = self.hydra.run if plan.sweep_dir is None else self.hydra.multirun
        start(config_name=self.name, task_function=task, overrides=list(plan.overrides))
        return ""

    def plan(self, overrides: Sequence[str], multirun: bool = False) -> Plan:
        """Return what a command line describes; raise UserError with all its problems."""
        try:
            try:
                return self._plan(overrides, multirun)
            except _REFUSED as refusal:
                try:
                    return self._plan(self._mended(overrides, multirun), multirun)
                except _REFUSED:
                    raise UserError(_reason(refusal)) from refusal
        except UserError as error:
            raise UserError([shorten(line, overrides) for line in error.problems]) from error

    def _plan(self, overrides: Sequence[str], multirun: bool) -> Plan:
        for group in (key.partition("@")[0] for key in map(read_key, overrides) if "/" in key):
            if group not in self.groups:  # with a plus, Hydra makes it a key with a slash
                raise HydraException(f"no group {group!r}")
        for line in overrides:
            if line.endswith("{}") and read_key(line) in self.groups:  # which Hydra merges
                read_choices(parse(line))
        master = self._compose(overrides, RunMode.MULTIRUN, sweeps=True)
        if not multirun and master.hydra.mode != RunMode.MULTIRUN:
            if any(parse(line).is_sweep_override() for line in overrides):
                raise HydraException("several values need -m")
            single = _without_hydra(master)
            if found := self._hydra_problems(master, sweeps=False):
                raise UserError([*found, *config.check(single)])
            return Plan((config.load(single),), None, tuple(overrides))
        master.hydra.mode = RunMode.MULTIRUN
        _set_hydra_config(master)
        searched = self._space(master)
        jobs, problems = [], _Collected(searched)
        for job in self._jobs(master, searched):
            try:
                jobs.append(self._checked(job, master))
                problems.add(job, ())
            except UserError as error:
                problems.add(job, error.problems)
        found = self._hydra_problems(master, sweeps=True)
        if searched is not None and not (found or problems.lines):
            found += checks.check_runs(master, [job.run for job in jobs])
        if found or problems.lines:
            raise UserError([*found, *problems.lines])
        if not jobs:
            raise UserError("-m: no job: a key that is swept has no value, e.g. range(3,3)")
        sweep_dir, state = self._place(master, jobs, overrides)
        # Hydra composes again when it runs, a moment later: the folder's time is kept.
        additions = (
            "hydra.mode=MULTIRUN",
            f"hydra.sweep.dir={quote(str(sweep_dir))}",
            f"++hydra.job.env_set.{outcomes.VARIABLE}={quote(state.tag)}",
        )
        runs = tuple(job.run for job in jobs)
        return Plan(runs, sweep_dir, (*overrides, *additions), state, searched is not None)

    def _place(
        self, master: DictConfig, jobs: Sequence[_Job], overrides: Sequence[str]
    ) -> tuple[Path, resumption.State]:
        """Return the folder of a sweep, an earlier one where it is the same, and its state."""
        identity = resumption.combine([job.identity for job in jobs])
        planned: resumption.Planned = tuple(job.overrides for job in jobs)
        if not _is_basic(master):  # the sweeper's own settings decide what its jobs are
            own = OmegaConf.to_container(master.hydra.sweeper, resolve=True)
            assert isinstance(own, dict)
            own = {key: value for key, value in own.items() if key not in settings.COUNTS}
            swept = [line for line in overrides if parse(line).is_sweep_override()]
            identity, planned = resumption.combine([identity], own, swept), None
        folder = resumption.find(
            Path(master.hydra.sweep.dir),
            identity,
            resume=all(job.run.sweep.resume for job in jobs),
            given=any(read_key(line) == "hydra.sweep.dir" for line in overrides),
            # A study in a database would go on with the runs of the earlier one.
            replaceable=master.hydra.sweeper.get("storage") is None,
        )
        state = resumption.State.read(folder)
        if state is None or state.identity != identity:
            state = resumption.State(identity, outcomes.tag(folder), planned, time.time())
        return folder, state

    def _mended(self, overrides: Sequence[str], multirun: bool) -> list[str]:
        """Return overrides that Hydra refused, written so that it takes them.

        Hydra refuses keys that an option has but its file does not show. Raises UserError where
        there is more to it than that.
        """
        problems = self.explain(overrides, multirun)
        if problems:
            raise UserError(problems)
        chosen = [line for line in overrides if read_key(line) in self.groups]
        params = self._compose(chosen, RunMode.MULTIRUN, sweeps=True)
        swept = params.hydra.sweeper.get("params") or {}
        # A swept key keeps its spelling, by which the command line replaces it.
        return [line if read_key(line) in swept else self._let_through(line) for line in overrides]

    def show(self, arguments: Namespace, parser: ArgumentParser) -> None:
        """Print the help or the configuration; raise UserError where it cannot be composed."""
        try:
            self._compose(arguments.overrides, RunMode.RUN)
        except _REFUSED:
            arguments.overrides = self._mended(arguments.overrides, multirun=False)
        if arguments.help:
            self.hydra.app_help(self.name, parser, arguments)
            return
        self.hydra.show_cfg(
            self.name, arguments.overrides, arguments.cfg, arguments.package, arguments.resolve
        )

    def explain(self, overrides: Sequence[str], multirun: bool) -> list[str]:
        """Return all problems of a command line that Hydra refused.

        Hydra stops at its first complaint. Here each override is looked at by itself; what is
        wrong is noted and mended or left out, and the rest is composed with every key let
        through, so that the check of the configuration finds the others.
        """
        problems: list[str] = []
        kept: list[str] = []
        dropped: list[str] = []
        multirun = multirun or self._asks_for_sweep(overrides)
        if multirun:
            kept.append("hydra.mode=MULTIRUN")
        for line in overrides:
            try:
                override = parse(line)
            except _REFUSED as error:
                problems.append(self._not_an_override(line, error))
                continue
            mended, lines = self._group_problems(override, multirun)
            problems += lines
            if mended is None:
                dropped.append(override.key_or_group.replace("/", "."))
            else:
                kept.append(mended)
        problems += self._needless_pluses(kept)
        # Values below an option that is not known cannot be judged.
        below = tuple(f"{key}." for key in dropped)
        kept = [line for line in kept if not read_key(line).startswith(below)]
        problems += self._composition_problems(kept)
        # An override is shown as it is written, which may be in several lines.
        return list(dict.fromkeys("\\n".join(each.splitlines()) for each in problems))

    def _composition_problems(self, kept: list[str]) -> list[str]:
        problems: list[str] = []
        loose = [self._let_through(line) for line in kept]
        while True:
            try:
                return problems + self._problems_of_grid(loose)
            except UserError as error:
                return [*problems, *error.problems]
            except _REFUSED as error:
                culprit = self._culprit(loose)
                if culprit is None:
                    return [*problems, f"configuration: {_reason(error)}"]
                line, reason = culprit
                problems.append(f"{line.removeprefix('++')}: {reason}")
                loose.remove(line)

    def _problems_of_grid(self, overrides: list[str]) -> list[str]:
        """Return what the check finds; raise what Hydra raises."""
        master = self._compose(overrides, RunMode.MULTIRUN, sweeps=True)
        sweeps = master.hydra.mode == RunMode.MULTIRUN
        found = self._hydra_problems(master, sweeps)
        if not sweeps:
            return [*found, *config.check(_without_hydra(master))]
        searched = self._space(master)
        problems = _Collected(searched)
        for job in self._jobs(master, searched):
            composed = self._compose([self._let_through(line) for line in job], RunMode.RUN)
            problems.add(job, config.check(_without_hydra(composed)))
        return [*found, *problems.lines]

    def _culprit(self, overrides: list[str]) -> tuple[str, str] | None:
        """Return the first override that cannot be composed with those before it, and why."""
        # Groups first, as Hydra applies them: a key may exist only in a chosen option.
        ordered = sorted(overrides, key=lambda line: read_key(line) not in self.groups)
        for i in range(len(ordered)):
            try:
                self._compose(ordered[: i + 1], RunMode.MULTIRUN, sweeps=True)
            except _REFUSED as refusal:
                return ordered[i], _reason(refusal)
        return None

    def _hydra_problems(self, master: DictConfig, sweeps: bool) -> list[str]:
        """Return what is wrong with Hydra's own part of a composed configuration."""
        return [
            *_unknown_keys(master.hydra, "hydra", _OPEN),
            *launcher.check(master.hydra, sweeps),
            *checks.check(master, self.loader, self.groups, sweeps),
        ]

    def _space(self, master: DictConfig) -> Space | None:
        """Return what a sweep searches; None: it is no search."""
        if not settings.is_search(master.hydra):
            return None
        return checks.read_space(master, self.loader, self.groups)[0]

    def _jobs(self, master: DictConfig, searched: Space | None) -> list[list[str]]:
        """Return the overrides of each job of a sweep, of a search those to check."""
        written = OmegaConf.to_container(master.hydra.overrides, resolve=False)
        assert isinstance(written, dict)
        own, task = written["hydra"], written["task"]
        if _is_basic(master):
            swept = master.hydra.sweeper.get("params")
            params = OmegaConf.to_container(swept) if swept else {}
            assert isinstance(params, dict)
            lines = [f"{key!s}={value}" for key, value in params.items()] + task
            parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(lines)
            endless = [o for o in parsed if o.is_sweep_override() and not o.is_discrete_sweep()]
            if endless:
                written = [str(each.input_line).lstrip("+") for each in endless]
                advice = "a grid has no intervals; to search it, add hydra/sweeper=optuna"
                raise UserError([f"{line}: {advice}" for line in written])
            at_once = master.hydra.sweeper.get("max_batch_size")
            if at_once is not None and at_once < 1:
                raise UserError(
                    f"hydra.sweeper.max_batch_size: {at_once} must be greater than or equal to 1"
                )
            batch = BasicSweeper.split_arguments(parsed, None)[0]
        elif searched is not None:
            batch = searched.probes()
        else:
            batch = [[line for line in task if not parse(line).is_sweep_override()]]
        return [own + job for job in batch]

    def _checked(self, overrides: list[str], master: DictConfig) -> _Job:
        composed = self._compose(overrides, RunMode.RUN)
        own, swept = (
            [OmegaConf.to_container(node.hydra[part]) for part in ("sweeper", "launcher")]
            for node in (composed, master)  # as written: ${now:...} goes on
        )
        if own != swept:
            # Hydra would drop these settings without a word.
            raise UserError(
                "+experiment: an experiment with a sweep or a launcher of its own cannot be swept "
                "over; run such experiments one after the other"
            )
        raw = _without_hydra(composed)
        run = config.load(raw)
        # As they are written: reading the list would put in what ${oc.env:NAME} stands for.
        written = OmegaConf.to_container(composed.hydra.overrides.task, resolve=False)
        assert isinstance(written, list)
        lines = tuple(mask(str(line)) for line in written)
        return _Job(run, resumption.identify(raw), lines)

    def _compose(self, overrides: Sequence[str], mode: RunMode, sweeps: bool = False) -> DictConfig:
        """Compose; with `sweeps`, overrides of several values are legal and left open."""
        try:
            composed = self.loader.load_configuration(
                self.name, list(overrides), mode, validate_sweep_overrides=not sweeps
            )
        except RecursionError:
            raise HydraException("a value or a key is nested too deeply") from None
        except (OSError, TypeError, AttributeError, AssertionError) as error:
            # Hydra takes names of options for files, null for a text, and ${...} for granted.
            reason = options.first_line(error) or type(error).__name__
            raise HydraException(f"Hydra cannot compose it: {reason}") from error
        assert isinstance(composed, DictConfig)
        for part in ("launcher", "sweeper"):
            if not is_mapping(composed.hydra._get_node(part)):
                value = composed.hydra._get_node(part)
                raise UserError(
                    f"hydra.{part}: {value!s} is no {part}; choose one with hydra/{part}="
                )
        return composed

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """All groups and groups within groups, e.g. `model` and `model/generator`."""
        return tuple(self.hydra.list_all_config_groups())

    @cached_property
    def chosen(self) -> set[str]:
        """The groups of which the defaults choose an option."""
        defaults = self.loader.compute_defaults_list(self.name, [], RunMode.RUN)
        return set(defaults.overrides.known_choices)

    def _asks_for_sweep(self, overrides: Sequence[str]) -> bool:
        """Return whether a chosen experiment or a setting of hydra.mode makes it a sweep."""
        chosen = [line for line in overrides if read_key(line) in ("experiment", "hydra.mode")]
        if not chosen:
            return False
        try:
            return self._compose(chosen, RunMode.RUN).hydra.mode == RunMode.MULTIRUN
        except _REFUSED:
            return False

    def _let_through(self, line: str) -> str:
        """Return an override with which Hydra sets a key whether it exists or not."""
        override = parse(line)
        key = override.key_or_group
        unchecked = key.startswith(("hydra.env.", "hydra.sweeper.params."))
        if override.is_delete() or unchecked or key in self.groups:
            return line
        return line if "/" in key or override.package else f"++{line.lstrip('+')}"

    def _group_problems(self, override: Override, multirun: bool) -> tuple[str | None, list[str]]:
        """Return the override as it is kept (mended, or None), and what is wrong with it."""
        line, key = override.input_line or "", override.key_or_group
        if override.is_sweep_override() and not multirun:
            return None, [f"{line}: several values are a sweep: add -m; a list is written [a,b]"]
        if not key:
            return None, [f"{line}: not of the form key=value"]
        if key not in self.groups:
            if "/" not in key:
                return line, []
            return None, [f"{line}: no group {key!r}{options.nearest(key, self.groups)}"]
        if key == "experiment" and not override.is_add():
            return f"+{line}", [f"{line}: an experiment is added to the defaults: write +{line}"]
        adds = override.is_add() or override.is_force_add()
        if adds and override.package is None and key in self.chosen:
            return line.lstrip("+"), [f"{line}: {key} has a choice already; write it without the +"]
        if not adds and isinstance(override.value(), list) and key in self.chosen - {"metrics"}:
            return None, [
                f"{line}: one option is legal, not a list; a sweep is written a,b with -m"
            ]
        try:
            values = read_choices(override)
        except ValueError as error:
            return None, [f"{line}: {error}"]
        legal = self.loader.get_group_options(key, ObjectType.CONFIG)
        unknown = [value for value in values if value not in legal]
        problems = [
            f"{key}={value}: no such option{options.nearest(value, legal)} "
            f"(legal: {', '.join(legal)})"
            for value in unknown
        ]
        if not problems:
            return line, []
        # The nearest option stands in, so that the keys below it can be judged.
        near = [get_close_matches(value, legal, n=1, cutoff=0.6) for value in values]
        if not all(near):
            return None, problems
        return f"{override.get_key_element()}={','.join(n[0] for n in near)}", problems

    def _needless_pluses(self, overrides: list[str]) -> list[str]:
        """Return the overrides that add a key which is there already."""
        adds = [line for line in overrides if line.startswith("+") and not line.startswith("++")]
        adds = [line for line in adds if read_key(line) not in self.groups]
        if not adds:
            return []
        try:
            base = self._compose(
                [line for line in overrides if read_key(line) in self.groups], RunMode.RUN
            )
        except _REFUSED:
            return []  # said of the groups themselves
        return [
            f"{line}: the key is there already; write it without the +"
            for line in adds
            if OmegaConf.select(base, read_key(line), throw_on_missing=False) is not None
        ]

    def _not_an_override(self, line: str, error: Exception) -> str:
        experiments = self.loader.get_group_options("experiment", ObjectType.CONFIG)
        if line in experiments:
            return f"{line}: an experiment is chosen with +experiment={line}"
        key, _, value = line.partition("=")
        quotes = f"; put the value into quotes of its own: '{key}=\"...\"'" if value else ""
        return f"{line}: not of the form key=value ({_reason(error)}){quotes}"


class _Collected:
    """Problems of the jobs of a sweep; each is said once, with the jobs that have it."""

    def __init__(self, searched: Space | None) -> None:
        self._searched = searched
        """Of a search: its jobs have no numbers yet."""
        self._jobs: list[list[str]] = []
        self._found: dict[str, list[int]] = {}

    def add(self, overrides: Iterable[str], problems: Iterable[str]) -> None:
        """Note what is wrong with the next job."""
        for problem in problems:
            self._found.setdefault(problem, []).append(len(self._jobs))
        self._jobs.append([line.lstrip("+") for line in overrides])

    @property
    def lines(self) -> list[str]:
        lines = [
            problem if len(having) == len(self._jobs) else f"{problem} [{self._label(having)}]"
            for problem, having in self._found.items()
        ]
        return lines if self._searched is None else checks.shorten(lines, self._searched)

    def _label(self, having: list[int]) -> str:
        """Return the numbers of jobs, and what they alone have in common."""
        everywhere = set.intersection(*map(set, self._jobs))
        shared = set.intersection(*(set(self._jobs[number]) for number in having)) - everywhere
        ordered = ", ".join(line for line in self._jobs[having[0]] if line in shared)
        if self._searched is not None:
            return f"with {ordered}" if ordered else "in some runs"
        numbers = ", ".join(map(str, having))
        return f"job{'s' if len(having) > 1 else ''} {numbers}{': ' if ordered else ''}{ordered}"


def _is_basic(master: DictConfig) -> bool:
    """Return whether the sweeper is Hydra's own: a grid that is known before it starts."""
    return str(master.hydra.sweeper.get("_target_", "")).endswith(".BasicSweeper")


def _unknown_keys(node: DictConfig, place: str, skip: Sequence[str] = ()) -> list[str]:
    """Return what stands under `hydra` that Hydra does not know: it would be ignored."""
    kind = OmegaConf.get_type(node)
    legal = [field.name for field in fields_of(kind)] if is_dataclass(kind) else list(node)
    problems = []
    for name in map(str, node):
        part = node._get_node(name)
        if name not in (*legal, *skip):
            near = options.nearest(name, legal)
            problems.append(f"{place}.{name}: unknown key{near} (legal here: {', '.join(legal)})")
        elif isinstance(part, DictConfig) and is_mapping(part) and name not in skip:
            problems += _unknown_keys(part, f"{place}.{name}")
    return problems


def _reason(error: BaseException) -> str:
    """Return what Hydra says, in one line and without its advice to add a plus."""
    cause = error
    while cause.__cause__ is not None and _says_nothing(str(cause).strip()):
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if "Multiple values for" in str(cause):
        return "there is a choice already; write it without the +"
    part = re.match(r"Could not override '([\w/]+)/(\w+)'", " ".join(lines))
    if part and "No match in the defaults list" in str(cause):
        return f"the chosen {part[1]} has no {part[2]}; choose one that has"
    advice = ("To append to your config use", "See https", "Config search path", "provider=")
    types = ("full_key", "object_type", "reference_type")
    kept = [line for line in lines if not line.startswith((*advice, *types))]
    return " ".join(kept) or type(cause).__name__


def _says_nothing(message: str) -> bool:
    return not message or message.startswith("Error merging override")


def _without_hydra(composed: DictConfig) -> DictConfig:
    """Return the part that a job is given; ${hydra:...} in it resolves as in a job."""
    _set_hydra_config(composed)
    job = copy.deepcopy(composed)
    with read_write(job), open_dict(job):
        del job["hydra"]
    return job


def _set_hydra_config(composed: DictConfig) -> None:
    with read_write(composed), open_dict(composed):
        runtime, job = composed.hydra.runtime, composed.hydra.job
        runtime.output_dir = str(Path("outputs").absolute())
        job.num = 0
        job.id = "0"
    HydraConfig.instance().set_config(composed)
