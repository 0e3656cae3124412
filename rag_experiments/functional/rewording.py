"""English questions in other words that mean the same, by rules."""

from __future__ import annotations

import re
from collections.abc import Callable

from rag_experiments.functional.questions import AUXILIARIES

_WORD = re.compile(r"[\w'’-]+")
_INTERROGATIVES = ("who", "whom", "whose", "which", "what", "when", "where", "why", "how")
_LEADING = """
in on at by for with from to into of under over about above below between among through during
before after against within without upon toward towards per via since until according apart
besides roughly approximately this that these those many much
"""
_LEADS = frozenset(_LEADING.split())
_OPENERS = _LEADS | {*_INTERROGATIVES, *AUXILIARIES}
"""First words that are written small where they do not open a sentence."""

# Heads that make a group of things of which one is asked for.
_CLASSES = (
    "type|kind|sort|class|form|part|year|month|century|decade|country|city|gene|protein|enzyme"
    "|hormone|receptor|drug|disease|disorder|syndrome|species|organism|bacterium|virus|method"
    "|technique|tool|software|program|database|term|company|scientist|researcher|tissue|organ"
    "|chromosome|pathway|molecule|compound|team|language|river|nationality"
)
_VERB_AT_THE_END = re.compile(
    r"\b(?:called|named|known|termed|used|made|done|based|doing|like|\w+ing|\w+ed|about|after|as|at"
    r"|by|for|from|in|into|of|on|over|through|to|under|with)\W*$",
    re.IGNORECASE,
)


def reword(question: str) -> tuple[str, ...]:
    """Return the question in other words, once for each rule that matches, without repeats.

    The rules keep its meaning, its names and its figures, and leave alone what they are not
    sure of: the same question, introduced ("Tell me: ..."); as an indirect question, where no
    verb has to move or where it is a bare "What is the X?"; which and what exchanged before a
    noun; a contraction written out or drawn together. A text that is no single question has
    none.
    """
    text = question.strip()
    if not text.endswith("?") or "?" in text[:-1] or not _WORD.search(text):
        return ()
    made = [rule(text) for rule in _RULES]
    return tuple(dict.fromkeys(m for m in made if m is not None and m != text))


def _introduce(text: str) -> str:
    return f"Tell me: {_lower_opening(text)}"


def _ask_indirectly(text: str) -> str | None:
    """ "Who found X?" and "What is the X?" as "Can you tell me who found X?", "... what the X is?"

    Without an auxiliary the question word is the subject, so the order of words stays.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    if words[0] in ("who", "whose", "which", "what") and not AUXILIARIES & {*words}:
        return f"Can you tell me {_lower_opening(text)}"
    found = re.fullmatch(r"(who|what)\s+(is|was|are|were)\s+([^,:;()]+)\?", text, re.IGNORECASE)
    if not found:
        return None
    asked, verb, thing = found[1].lower(), found[2].lower(), found[3].strip()
    inner = {word.lower() for word in _WORD.findall(thing)}
    bare = len(thing.split()) == 1 or re.match(r"(?:the|a|an)\s", thing, re.IGNORECASE)
    clause = inner & (AUXILIARIES | {"that", "it", "there", *_INTERROGATIVES})
    if not bare or clause or len(inner) > 10 or _VERB_AT_THE_END.search(thing):
        return None
    return f"Can you tell me {asked} {thing} {verb}?"


def _exchange_which(text: str) -> str | None:
    """ "Which enzyme ..." as "What enzyme ...", and back for nouns that name a class."""
    found = re.match(r"((?:[A-Z]?[a-z]+\s+)?)(which|what)\s+([\w-]+)", text, re.IGNORECASE)
    if not found:
        return None
    lead, word, noun = found[1], found[2], found[3].lower()
    if lead and lead.strip().lower() not in _LEADS:
        return None
    if word.lower() == "which":
        if noun in {"of", "one", "ones", *AUXILIARIES}:
            return None
        other = "what"
    else:
        if not re.fullmatch(rf"(?:{_CLASSES})s?", noun):
            return None
        other = "which"
    other = other.capitalize() if word[0].isupper() else other
    return f"{text[: found.start(2)]}{other}{text[found.end(2) :]}"


def _contract(text: str) -> str | None:
    """ "What is the X?" as "What's the X?", "does not" as "doesn't", and back."""
    for pattern, other in _CONTRACTIONS:
        changed = pattern.sub(other, text, count=1)
        if changed != text:
            return changed
    return None


_CONTRACTIONS = (
    (re.compile(r"^(What|Who|Where|How) is (?=(?:the|a|an|another)\b)"), r"\1's "),
    (re.compile(r"^(What|Who|Where|How)['’]s (?=(?:the|a|an|another)\b)"), r"\1 is "),
    (
        re.compile(r"\b(do|does|did|is|are|was|were|has|have|had|would|should|could) not\b"),
        r"\1n't",
    ),
    (re.compile(r"(?<=[a-z]) (do|does|did|is|are|was|were|has|have|had)n['’]t\b"), r" \1 not"),
)

_RULES: tuple[Callable[[str], str | None], ...] = (
    _introduce,
    _ask_indirectly,
    _exchange_which,
    _contract,
)


def _lower_opening(text: str) -> str:
    """The text with a small first letter, where its first word is no name.

    An article may open a name (A-factor, The Hague), so it stays as it is written.
    """
    first = _WORD.search(text)
    if first is None or re.split(r"['’]", first[0].lower())[0] not in _OPENERS:
        return text
    at = first.start()
    return f"{text[:at]}{text[at].lower()}{text[at + 1 :]}"
