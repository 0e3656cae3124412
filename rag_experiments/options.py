"""Options built from the nodes of a configuration, with every problem found, each in one line."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from rag_experiments.contracts import Option, UserError

Chosen = TypeVar("Chosen", bound=Option)


def build(node: Any, key: str = "", *, check_paths: bool = True) -> Any:
    """Return a node with each mapping that has a `_target_` made into its option.

    `key` is the node's place in the whole configuration, for messages. A `_target_` names a
    class that derives from `contracts.Option`, of this package or any importable module.
    Without `check_paths`, files that options name need not exist.
    Raises UserError with all problems.
    """
    builder = Builder(check_paths)
    built = builder.build(node, key)
    if builder.problems:
        raise UserError(builder.problems)
    return built


def construct(kind: type[Chosen], values: dict[str, Any], key: str) -> Chosen:
    """Return an option of a kind that is known, from its values; raise UserError with all problems.

    `key` is the place of the values in the whole configuration, for messages.
    """
    builder = Builder()
    option: Chosen = builder.construct(kind, values, key)
    if builder.problems:
        raise UserError(builder.problems)
    return option


def fields(target: Any) -> frozenset[str] | None:
    """Return the names that the option of a `_target_` takes; None where it names no option."""
    kind = Builder().locate(target, "")
    return None if kind is None else frozenset(kind.model_fields)


def nearest(word: str, legal: Iterable[str]) -> str:
    """Return "; did you mean ...?", or nothing where no legal word is near."""
    # A dotted or nested name may be near by its last part: `k1` for `retriever.k1`.
    near = get_close_matches(word.lower(), {name.lower(): None for name in legal}, n=1, cutoff=0.6)
    found = next((name for name in legal if near and name.lower() == near[0]), None)
    return f"; did you mean {found}?" if found else ""


class Broken:
    """Stands for a value whose problem has been reported already."""

    def __repr__(self) -> str:
        return "(refused)"


BROKEN: Any = Broken()


class Builder:
    """Builds a tree of options and collects its problems instead of stopping at the first."""

    def __init__(self, check_paths: bool = True) -> None:
        self.problems: list[str] = []
        self.check_paths = check_paths

    def build(self, node: Any, key: str) -> Any:
        if isinstance(node, (dict, DictConfig)):
            children = {str(name): self.child(node, name, _join(key, name)) for name in node}
            return self.option(children, key) if "_target_" in children else children
        if isinstance(node, (list, ListConfig)):
            return [self.child(node, i, f"{key}[{i}]") for i in range(len(node))]
        return node

    def child(self, parent: Any, name: Any, key: str) -> Any:
        try:
            value = parent[name]
        except MissingMandatoryValue:
            self.problems.append(f"{key}: a value is missing; give {key}=...")
            return BROKEN
        except OmegaConfBaseException as error:
            raw = parent._get_node(name)._value()
            self.problems.append(f"{key}: {show(raw)} cannot be resolved: {first_line(error)}")
            return BROKEN
        return self.build(value, key)

    def option(self, children: dict[str, Any], key: str) -> Any:
        target = children.pop("_target_")
        if target is BROKEN:
            return BROKEN
        kind = self.locate(target, key)
        return BROKEN if kind is None else self.construct(kind, children, key)

    def locate(self, target: Any, key: str) -> type[Option] | None:
        """Return the class that `_target_` names, without calling anything."""
        place = _join(key, "_target_")
        module, _, name = str(target).rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception as error:  # a user's module may raise anything when it is imported
            reason = first_line(error) or type(error).__name__
            self.problems.append(f"{place}: {show(target)} cannot be imported: {reason}")
            return None
        if not (inspect.isclass(found) and issubclass(found, Option)):
            self.problems.append(
                f"{place}: {show(target)} is not an option; a class derived from "
                "rag_experiments.contracts.Option is legal"
            )
            return None
        return found

    def construct(self, kind: type[Option], values: dict[str, Any], key: str) -> Any:
        """Return the option, or BROKEN after noting why not."""
        values = dict(values)
        while True:
            try:
                option = kind.model_validate(values)
                break
            except ValidationError as error:
                # YAML has lists and text only: a tuple, a set or a path is made from them
                # here, so that options need no conversions of their own.
                converted = [_convert(values, e) for e in error.errors(include_url=False)]
                if any(converted):
                    continue
                self.problems += _describe(error, kind, values, key)
                return BROKEN
            except Exception as error:
                if any(value is BROKEN for value in values.values()):
                    return BROKEN  # a validator stumbled over a part that is refused already
                self.problems.append(f"{key or 'configuration'}: {first_line(error)}")
                return BROKEN
        if any(value is BROKEN for value in _leaves(values)):
            return BROKEN
        if hasattr(option, "problems") and self.check_paths:
            self.problems += [_join(key, problem) for problem in _own_problems(option)]
        return option


def _own_problems(option: Any) -> list[str]:
    """Return what an option says of itself, or the paths over which it stumbled."""
    try:
        return list(option.problems())
    except (OSError, RuntimeError):
        found = []
        for name, value in option:
            if isinstance(value, (str, Path)) and (reason := _refusal(value)):
                found.append(f"{name}: {show(str(value))} cannot be looked at: {reason}")
        if not found:
            raise
        return found


def _refusal(path: str | Path) -> str:
    """Return why the system takes no such path: too long, or in the home of nobody."""
    try:
        Path(path).expanduser().exists()
    except OSError as error:
        return error.strerror or str(error)
    except RuntimeError:
        return "~ and a name is the home of a user, whom this machine does not have"
    return ""


_CONVERSIONS = {"tuple_type": tuple, "frozen_set_type": frozenset, "set_type": set}


def _convert(values: dict[str, Any], error: Mapping[str, Any]) -> bool:
    """Replace the value of an error in place where YAML cannot write its type."""
    make: Any = None
    if isinstance(error["input"], list):
        make = _CONVERSIONS.get(error["type"])
    elif isinstance(error["input"], str) and error.get("ctx", {}).get("class") == "Path":
        make = lambda text: Path(text).expanduser()  # noqa: E731
    path = _navigable(values, error["loc"])
    if make is None or not path:
        return False
    parent: Any = values
    for part in path[:-1]:
        parent = parent[part]
    if not isinstance(parent, (dict, list)) or parent[path[-1]] is not error["input"]:
        return False
    try:
        parent[path[-1]] = make(error["input"])
    except (TypeError, RuntimeError):  # what cannot be hashed, ~nobody: pydantic's message stands
        return False
    return True


def _navigable(values: Any, loc: Sequence[Any]) -> tuple[Any, ...]:
    """Return the part of a pydantic location that is a path in the values.

    What follows it names members of a union, which a user has not written.
    """
    path: list[Any] = []
    for part in loc:
        if isinstance(values, Option) or not hasattr(values, "__getitem__"):
            break
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            break
        path.append(part)
    return tuple(path)


def _describe(
    error: ValidationError, kind: type[Option], values: dict[str, Any], key: str
) -> list[str]:
    """Return one line for each place that pydantic complains about."""
    lines: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for e in error.errors(include_url=False):
        path = _navigable(values, e["loc"])
        value = e["input"]
        if e["type"] == "extra_forbidden":
            name = str(e["loc"][-1])
            legal = [n for n in kind.model_fields if n not in values] or list(kind.model_fields)
            text = f"unknown key{nearest(name, list(kind.model_fields))}"
            text += f" (legal here: {', '.join(kind.model_fields)})" if legal else ""
            lines.setdefault(_dotted(key, e["loc"]), []).append(text)
            continue
        if e["type"] == "missing":
            place = _dotted(key, e["loc"])
            field = kind.model_fields.get(str(e["loc"][-1]))
            what = f" ({_one_line(field.description)})" if field and field.description else ""
            lines.setdefault(place, []).append(f"a value is missing{what}; give {place}=...")
            continue
        if any(part is BROKEN for part in _leaves(value)):
            continue
        message = _message(e)
        if e["type"] in ("value_error", "assertion_error"):
            # The option's own words, which name the field themselves where they belong to one.
            first = re.match(r"\w*", message)
            named = not path and first is not None and first[0] in kind.model_fields
            place = key if named else _dotted(key, path)
            lines.setdefault(_join(place, message) if named else f"{place}: {message}", [])
            continue
        place = _dotted(key, path)
        shown[place] = show(value)
        lines.setdefault(place, []).append(message)
    described = []
    for place, texts in lines.items():
        start = f"{place}: {shown[place]} " if place in shown else f"{place}: "
        described.append(start + " or ".join(dict.fromkeys(texts)) if texts else place)
    return described


def _message(error: Any) -> str:
    """Return pydantic's message in the words of a sentence that starts with the value."""
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = (
        message.replace("an instance of Path", "a path")
        .replace("Input should be", "must be")
        .replace("Input should", "must")
    )
    if error["type"] in ("literal_error", "enum"):
        expected = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
        message += nearest(str(error["input"]), expected)
    if error["type"] == "string_type" and isinstance(error["input"], bool):
        message += " (YAML reads yes, no, on and off as true and false: put it in quotes)"
    return _one_line(message)


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _dotted(key: str, path: Iterable[Any]) -> str:
    for part in path:
        key = f"{key}[{part}]" if isinstance(part, int) else _join(key, part)
    return key


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def show(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def first_line(error: BaseException) -> str:
    """Return the first line of a message that is not blank; empty: there is none."""
    # omegaconf adds lines about its own types (full_key, object_type) after the reason
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
