"""What kind of answer the words of an English question ask for, and whether an answer is one."""

from __future__ import annotations

import re
from typing import Literal

from rag_experiments.functional.text import normalize_answer

AnswerKind = Literal["yes_no", "person", "time", "place", "quantity", "thing", "explanation", "any"]

_AUXILIARIES = """
am is are was were do does did have has had can could will would shall should may might must
isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't couldn't won't
wouldn't shouldn't
"""
AUXILIARIES = frozenset(_AUXILIARIES.split())
"""Verbs that lead a question, or follow its question word."""

_PREPOSITIONS = (
    "about|above|across|after|against|among|around|as|at|before|behind|below|between|by|during|for"
    "|from|in|inside|into|near|of|on|onto|out of|over|per|since|through|to|toward|towards|under"
    "|until|up to|upon|via|with|within|without"
)
INTERROGATIVE = "who|whom|whose|which|what|when|where|why|how"
# At the start, alone or behind a preposition; else after a comma or colon; else the first.
_PLACES = (
    re.compile(rf"^(?:[^\w]*)(?:(?:{_PREPOSITIONS})\s+)?({INTERROGATIVE})\b", re.IGNORECASE),
    re.compile(rf"[,:;]\s+(?:and\s+)?(?:(?:{_PREPOSITIONS})\s+)?({INTERROGATIVE})\b"),
    re.compile(rf"\b({INTERROGATIVE})\b"),
)
_YES_NO = re.compile(rf"(?:^|[,:;.]\s+)(?:{'|'.join(sorted(AUXILIARIES))})\b", re.IGNORECASE)
_TIME = re.compile(
    r"(?:\w+ )?(?:years?|dates?|months?|day|days|century|centuries|decades?|season|era|period)\b"
    r"|(?:is|was|are|were) (?:the )?(?:\w+ )?(?:year|date|month|century|decade)\b"
)
# A measure is asked for where it is the head of what follows which or what: "which factor" is no
# figure, nor is the growth in "what growth rate of cells is it called".
_MEASURE = (
    r"(?:age|amount|concentration|cost|depth|diameter|distance|dose|duration|exponent|fraction"
    r"|frequency|half-life|height|incidence|length|mass|number|percentage|percent|ph|population"
    r"|pressure|prevalence|probability|proportion|rate|ratio|share|size|speed|temperature"
    r"|thickness|value|volume|wavelength|weight|width|yield)"
)
_HEAD_ENDS = (
    r"(?= (?:of|in|for|at|on|to|from|with|by|per|is|are|was|were|do|does|did|can|should|has|had"
    r"|have|must|may|will)\b|\W*$)"
)
_QUANTITY = re.compile(
    rf"(?:(?:is|was) (?:the |a )?)?(?:[\w-]+ ){{0,2}}?{_MEASURE}s?{_HEAD_ENDS}(?!.*\bcalled\W*$)"
)
_HOW_MUCH = re.compile(
    r"(?:many|much|long|old|far|tall|high|large|big|small|fast|often|deep|wide|heavy|hot|cold|thick"
    r"|frequently|common|soon|strong|few)\b"
)

_NUMBER_WORD = (
    r"zero|none|no|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen"
    "|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty"
    "|ninety|hundreds?|thousands?|millions?|billions?|trillions?|dozens?|half|halves|thirds?|quarters?|once"
    "|twice|single|double|several|many|most|all|few|majority|daily|weekly|monthly|yearly|annually"
)
_TIME_WORD = (
    "january|february|march|april|may|june|july|august|september|october|november|december|monday"
    "|tuesday|wednesday|thursday|friday|saturday|sunday|spring|summer|autumn|fall|winter|century"
    "|centuries|decades?|years?|months?|weeks?|days?|hours?|minutes?|seconds?|today|yesterday"
    "|morning|noon|evening|night|after|before|during|until|since|when|while|later|earlier|ago|age"
    "|stage|phase|era|period|start|beginning|end"
)
_A_NUMBER = re.compile(rf"\d|\b(?:{_NUMBER_WORD})\b")
_A_TIME = re.compile(rf"\d|\b(?:{_TIME_WORD})\b|\b(?:first|second|third|\w{{2,}}th)\b")
_VERDICTS = ("yes", "no", "maybe", "true", "false")
_A_VERDICT = re.compile(rf"(?:{'|'.join(_VERDICTS)}|not)\b")
_ONLY_NUMBERS = re.compile(r"[\d\s.,%±~<>=/-]+")


def find_answer_kind(question: str) -> AnswerKind:
    """Return the kind of answer that the question word, or a verb that leads, asks for.

    who, whose: person; when, what year: time; where: place; how many, how long, what
    percentage: quantity; why, how: explanation; other which and what: thing; a verb that leads
    ("Does ...?"): yes_no, or with "or", where yes and no may answer as well as one of the two,
    any. A question without any of these has answers of any form.
    """
    for place in _PLACES[:2]:
        if found := place.search(question):
            return _kind_of(found[1].lower(), question[found.end() :].strip().lower())
    if _YES_NO.search(question):
        return "any" if re.search(r"\bor\b", question) else "yes_no"
    if found := _PLACES[2].search(question):
        return _kind_of(found[1].lower(), question[found.end() :].strip().lower())
    return "any"


def _kind_of(word: str, rest: str) -> AnswerKind:
    if word in ("who", "whom", "whose"):
        return "person"
    if word == "when":
        return "time"
    if word == "where":
        return "place"
    if word == "how":
        return "quantity" if _HOW_MUCH.match(rest) else "explanation"
    if word == "why":
        return "explanation"
    if _TIME.match(rest):
        return "time"
    return "quantity" if _QUANTITY.match(rest) else "thing"


def fits_kind(answer: str, kind: AnswerKind) -> bool:
    """Tell whether an answer has the form of a kind; an explanation has no form of its own.

    A form is necessary, not sufficient: any name passes for a person, any figure for a
    quantity. An answer without words has none.
    """
    text = normalize_answer(answer)
    if not text:
        return False
    if kind == "any":
        return True
    verdict = bool(_A_VERDICT.match(text))
    if kind == "yes_no":
        return verdict
    if kind == "quantity":
        return bool(_A_NUMBER.search(answer.lower()))
    if kind == "time":
        return bool(_A_TIME.search(answer.lower()))
    if text in _VERDICTS:
        return False
    return kind in ("thing", "explanation") or not _ONLY_NUMBERS.fullmatch(text)
