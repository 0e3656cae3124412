"""Questions with short answers drafted from English text by rules, for people to judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from rag_experiments.functional.questions import AUXILIARIES
from rag_experiments.functional.sentences import FUNCTION_WORDS, find_sentences
from rag_experiments.functional.text import contains_answer


@dataclass(frozen=True, slots=True)
class Draft:
    """A question, its answer as the text has it, and the name of the rule that made it."""

    question: str
    answer: str
    rule: str


LONGEST_QUESTION, LONGEST_ANSWER = 25, 15
"""Words."""
_LONGEST_SENTENCE = 40

_ARTICLES = ("a", "an", "the")
_DETERMINER_WORDS = """
a an the its their each every all both no any some one two three four five many more
"""
_DETERMINERS = frozenset(_DETERMINER_WORDS.split())
_POINTING_WORDS = """
it its they them their this these those he him his she her i me my we us our you your here there
one ones above below former latter following such same others otherwise
"""
_POINTING = frozenset(_POINTING_WORDS.split())
"""Words that mean something only beside the sentence before."""
_VAGUE_WORDS = """
first second third next last other another main only result reason example figure table section
chapter step answer question thing way idea rest case former latter
"""
_VAGUE = frozenset(_VAGUE_WORDS.split())
"""Openings and ends of subjects that name nothing."""
_WITHIN = {"a", "an", "and", "for", "from", "in", "into", "of", "on", "the", "to", "with"}
"""Function words that a subject may have inside."""
_NO_AGENT = {"accident", "chance", "comparison", "contrast", "default", "far", "hand", "means"}
"""What follows "by" and does nothing."""

_VERBS_LISTED = """
absorb add affect allow attach attack attract begin bind block break carry catalyze cause change
combine connect contain control convert copy cover create cut decrease define deliver describe
destroy detect determine digest divide drive enable encode establish explain express feed fill form
give heat help hold hydrolyze improve include increase indicate infect inhibit involve join lead
link lose lower make mean measure move need offer oxidize prevent produce protect provide pump raise
reach recognize reduce reflect regulate release remove repair replace represent require secrete send
separate serve show stain start stop store supply support surround synthesize take transcribe
transfer translate transport trigger turn unwind use
"""


def _inflect(verb: str) -> str:
    """The third person: joins, carries, attaches."""
    if re.search(r"[^aeiou]y$", verb):
        return f"{verb[:-1]}ies"
    return f"{verb}es" if re.search(r"(?:s|x|ch|sh)$", verb) else f"{verb}s"


_VERBS = {_inflect(verb): verb for verb in _VERBS_LISTED.split()}
"""Verbs that take an object, from their third person to their base."""
_BASES = frozenset(_VERBS.values())
_PAST_WORDS = """
begun:began born:bore broken:broke brought:brought built:built chosen:chose cut:cut drawn:drew
found:found given:gave grown:grew held:held kept:kept known:knew led:led lost:lost made:made
read:read seen:saw sent:sent set:set shown:showed sold:sold spoken:spoke taken:took taught:taught
told:told won:won written:wrote
"""
_PASTS = dict(pair.split(":") for pair in _PAST_WORDS.split())
"""Irregular participles with their past tense."""

_SUBJECT = r"(?P<x>[A-Z0-9][^,;:]*?)"
_BE = r"(?P<be>is|are|was|were)"
_PARTICIPLE = rf"(?P<verb>[a-z]+ed|{'|'.join(_PASTS)})"
_NUMBER = r"\d[\d.,]*\d|\d|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty"
_BEHIND = r"(?: (?:after|at|before|during|for|from|in|into|on|per|to|when|with) [^,;:]+)?"


def draft_questions(text: str, common: Collection[str] | None = None) -> list[Draft]:
    """Return what the rules make of the sentences of a text, in their order, without repeats.

    The rules take few sentences: those whose subject is plain, that point at no other sentence,
    and that need no word moved which a rule cannot be sure of.

    | rule | from | question | answer |
    |---|---|---|---|
    | `definition` | A plasmid is a ring of DNA. | What is a plasmid? | a ring of DNA |
    | `class` | Ligase is an enzyme that joins DNA. | Which enzyme joins DNA? | Ligase |
    | `name` | The copying of DNA is called replication. | What is the copying of DNA called? | \
replication |
    | `agent` | Radium was found by Marie Curie. | Who found radium? | Marie Curie |
    | `year` | Radium was found in 1898. | In which year was radium found? | 1898 |
    | `number` | A day has 24 hours. | How many hours does a day have? | 24 |
    | `subject` | Ligase joins DNA. | What joins DNA? | Ligase |
    | `abbreviation` | the polymerase chain reaction (PCR) | What does PCR stand for? | polymerase \
chain reaction |

    `common` are words that are no names and are written small within a question (None: those that
    the text itself writes small). Every answer stands in the text, none in its question.
    """
    common = find_common_words(text) if common is None else common
    drafts: dict[str, Draft] = {}
    for start, end in find_sentences(text):
        sentence = re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", " ".join(text[start:end].split()))
        made = [*_expand_abbreviations(sentence)]
        if _is_plain(sentence):
            made += [draft for rule in _RULES for draft in rule(sentence, common)]
        for draft in made:
            if _is_sound(draft, text):
                drafts.setdefault(draft.question, draft)
    return list(drafts.values())


def find_common_words(text: str) -> frozenset[str]:
    """Return the words that a text writes small."""
    return frozenset(re.findall(r"\b[a-z][a-z'-]*\b", text))


def find_answers(text: str) -> list[str]:
    """Return what a question may ask for, in the order of a text: its names and figures.

    A name is a run of capitalized words that does not open a sentence; a figure goes with the
    word behind it, "30 minutes". Single characters are neither.
    """
    found: dict[str, None] = {}
    for start, end in find_sentences(text):
        sentence = text[start:end]
        first = sentence.split(None, 1)[0] if sentence.strip() else ""
        for match in _ANSWER.finditer(sentence, len(first)):
            figure, _, unit = match[0].partition(" ")
            answer = figure if unit.lower() in FUNCTION_WORDS else match[0]
            if len(answer) > 1 and answer.lower() not in FUNCTION_WORDS:
                found.setdefault(answer, None)
    return list(found)


_ANSWER = re.compile(
    r"(?<![\w.,-])\d[\d.,]*(?<![.,])(?:\s?[%°]C?|\s[a-zµμ]+)?"
    r"|\b[A-Z][\w-]*(?:\s(?:of\s)?[A-Z][\w-]*)*"
)


# --- Rules ------------------------------------------------------------------------------------


def _define(sentence: str, common: Collection[str]) -> Iterator[Draft]:
    """ "X is a Y (that ...)": what is X, and which Y ..."""
    found = re.fullmatch(
        rf"{_SUBJECT} {_BE} (?P<article>an? |the )?(?P<y>[\w' -]+?)"
        r"(?: (?P<link>that|which|who) (?P<clause>[^,;:]+))?\.",
        sentence,
    )
    if found is None or not _is_subject(found["x"]):
        return
    article, y, clause = found["article"] or "", found["y"], found["clause"]
    plain = y.split()[0].lower() not in FUNCTION_WORDS
    subject, be = _inside(found["x"], common), found["be"]
    if clause is None:
        # Without an article it may be any adjective, and without a clause "the Y" is no class.
        if article in ("a ", "an ") and plain:
            yield Draft(f"What {be} {subject}?", f"{article}{y}", "definition")
        return
    if not plain or not _opens_with_verb(clause):
        return
    if article or be in ("are", "were"):
        asked = "Who" if found["link"] == "who" else "What"
        answer = f"{article}{y} {found['link']} {clause}"
        yield Draft(f"{asked} {be} {subject}?", answer, "definition")
        if article != "the ":
            yield Draft(f"Which {y} {clause}?", _bare(subject), "class")


def _name(sentence: str, common: Collection[str]) -> Iterator[Draft]:
    """ "The copying of X is called Y": what is it called."""
    found = re.fullmatch(
        rf"{_SUBJECT} {_BE} (?P<how>(?:also |often |usually )?(?:called|known as|named|termed)) "
        r"(?P<y>(?:an? |the )?[^,;:]+)\.",
        sentence,
    )
    if found is None or not _is_subject(found["x"]) or len(_bare(found["x"]).split()) < 2:
        return
    name = _bare(found["y"])
    if {*name.lower().split()} & (FUNCTION_WORDS - {"of"}) or len(name.split()) > 5:
        return
    yield Draft(f"What {found['be']} {_inside(found['x'], common)} {found['how']}?", name, "name")


def _agent(sentence: str, common: Collection[str]) -> Iterator[Draft]:
    """ "X was found by Y": who found X; in the present "what is X found by"; "by doing": how."""
    found = re.fullmatch(
        rf"{_SUBJECT} {_BE} (?P<adverb>(?:first|\w+ly) )?{_PARTICIPLE} by (?P<y>[^,;:]+?)"
        rf"(?P<rest>{_BEHIND})\.",
        sentence,
    )
    if found is None or not _is_subject(found["x"]):
        return
    subject, be, verb = _inside(found["x"], common), found["be"], found["verb"]
    adverb, rest, y = found["adverb"] or "", found["rest"] or "", found["y"]
    words = y.lower().split()
    if words[0].endswith("ing") and len(words) > 1:
        yield Draft(f"How {be} {subject} {adverb}{verb}?", f"{y}{rest}", "agent")
        return
    bare = _bare(y)
    inner = {*bare.lower().split()}
    allowed = {"of", "and"} if _is_person(y) else {"of"}
    if inner & (FUNCTION_WORDS - allowed) or inner & _NO_AGENT or words[0][0].isdigit():
        return
    asked = "Who" if _is_person(y) else "What"
    if be in ("was", "were"):
        past = _PASTS.get(verb, verb)
        yield Draft(f"{asked} {adverb}{past} {subject}{rest}?", bare, "agent")
    else:
        yield Draft(f"{asked} {be} {subject} {adverb}{verb} by{rest}?", bare, "agent")


def _year(sentence: str, common: Collection[str]) -> Iterator[Draft]:
    """ "X was ... in 1953": in which year."""
    found = re.fullmatch(
        rf"{_SUBJECT} (?P<be>was|were) (?P<what>[^,;:]+?) in (?P<year>1\d\d\d|20\d\d)"
        r"(?P<rest> (?:as|at|by|for|from|in|on|when|with) [^,;:]+)?\.",
        sentence,
    )
    if found is None or not _is_subject(found["x"]):
        return
    asked = f"{found['be']} {_inside(found['x'], common)} {found['what']}{found['rest'] or ''}"
    yield Draft(f"In which year {asked}?", found["year"], "year")


def _number(sentence: str, common: Collection[str]) -> Iterator[Draft]:
    """ "X has 24 Ys": how many Ys does X have."""
    found = re.fullmatch(
        rf"{_SUBJECT} (?P<verb>has|have|{'|'.join((*_VERBS, *_BASES))}) (?P<number>{_NUMBER}) "
        rf"(?P<what>(?:[a-z-]+ ){{0,2}}?[a-z-]+s(?: of [\w-]+)?)(?P<rest>{_BEHIND})\.",
        sentence,
    )
    if found is None or not _is_subject(found["x"]):
        return
    verb = found["verb"]
    do = "does" if verb == "has" or verb in _VERBS else "do"
    base = "have" if verb == "has" else _VERBS.get(verb, verb)
    subject = _inside(found["x"], common)
    asked = f"How many {found['what']} {do} {subject} {base}{found['rest']}?"
    yield Draft(asked, found["number"], "number")


def _ask_for_subject(sentence: str, common: Collection[str]) -> Iterator[Draft]:
    """ "X joins Y": what joins Y; of people, who."""
    words = sentence.rstrip(".").split()
    if re.search("[,;:]", sentence):
        return
    for place in range(1, len(words) - 1):
        subject, verb, rest = " ".join(words[:place]), words[place], " ".join(words[place + 1 :])
        if verb in _VERBS or verb in _BASES or _is_person(subject):
            break
    else:
        return
    if not _is_subject(subject) or words[place + 1] in AUXILIARIES | {"of", "and", "or"}:
        return
    answer = _bare(_inside(subject, common))
    if _is_person(subject):
        if verb in _VERBS or verb.endswith("ed") or verb in _PASTS.values():
            yield Draft(f"Who {verb} {rest}?", answer, "subject")
    elif verb in _VERBS:
        yield Draft(f"What {verb} {rest}?", answer, "subject")
    elif verb in _BASES and subject.endswith("s"):
        yield Draft(f"What {_inflect(verb)} {rest}?", answer, "subject")


_RULES: tuple[Callable[[str, Collection[str]], Iterator[Draft]], ...] = (
    _define,
    _name,
    _agent,
    _year,
    _number,
    _ask_for_subject,
)


def _expand_abbreviations(sentence: str) -> Iterator[Draft]:
    """ "polymerase chain reaction (PCR)": what does PCR stand for."""
    for found in re.finditer(r"\(([A-Z][\w-]{1,9})\)", sentence):
        short = found[1]
        if sum(letter.isupper() for letter in short) < 2:
            continue
        long = _find_long_form(short, sentence[: found.start()].split())
        if long is not None:
            yield Draft(f"What does {short} stand for?", long, "abbreviation")


def _find_long_form(short: str, before: list[str]) -> str | None:
    """The words that an abbreviation stands for, as its letters are found from the right.

    Every letter stands in them in order, and the first begins a word (Schwartz and Hearst, PSB
    2003). They are two words or more, at most the letters and five, or twice the letters.
    """
    letters = [letter.lower() for letter in short if letter.isalnum()]
    text = " ".join(before[-min(len(letters) + 5, 2 * len(letters)) :])
    place = len(text)
    for i, letter in reversed(list(enumerate(letters))):
        place -= 1
        while place >= 0 and (
            text[place].lower() != letter or (i == 0 and place > 0 and text[place - 1].isalnum())
        ):
            place -= 1
        if place < 0:
            return None
    return text[place:] if " " in text[place:] else None


# --- What the rules ask of a sentence ---------------------------------------------------------


def _is_plain(sentence: str) -> bool:
    """Whether it is one whole statement, without quotations and brackets."""
    whole = sentence.endswith(".") and (sentence[0].isupper() or sentence[0].isdigit())
    short = len(sentence.split()) <= _LONGEST_SENTENCE
    return whole and short and not re.search(r"[\"“”()\[\]{}|?!]", sentence)


def _is_subject(x: str) -> bool:
    """Whether it names its thing by itself: "DNA ligase", "the end of a gene"; not "the gene"."""
    words = x.split()
    core = words[1:] if words[0].lower() in _ARTICLES else words
    if not core or len(core) > 7:
        return False
    low = [word.lower() for word in core]
    if low[0] in FUNCTION_WORDS | _VAGUE or low[0].endswith("ly"):
        return False
    if words[0].lower() == "the" and len(core) == 1 and core[0].islower():
        return False
    if low[-1] in FUNCTION_WORDS | _VAGUE:
        return False
    return not {*low} & (FUNCTION_WORDS - _WITHIN)


def _is_person(x: str) -> bool:
    """Whether it has the form of a person's name: two to four capitalized words, or two of them."""
    name = r"(?:[A-Z][\w'’-]*[a-z]|[A-Z]\.)(?: (?:(?:[A-Z][\w'’-]*[a-z])|[A-Z]\.|de|van|von))*"
    names = re.split(r" and ", x)
    return all(re.fullmatch(name, each) and 2 <= len(each.split()) <= 4 for each in names)


def _opens_with_verb(clause: str) -> bool:
    """Whether what follows "that" is a verb, and "that" its subject."""
    first, *rest = clause.split()
    if first in AUXILIARIES or first in _VERBS or first in _BASES:
        return True
    plain = first.isalpha() and first.islower() and first not in FUNCTION_WORDS
    # No noun stands right before a determiner.
    return plain and bool(rest) and rest[0].lower() in _DETERMINERS


def _inside(x: str, common: Collection[str]) -> str:
    """A subject as it stands within a sentence: its first word small, where it is no name."""
    first = x.split()[0]
    small = first[0].lower() + first[1:]
    return small + x[len(first) :] if small in _ARTICLES or small in common else x


def _bare(x: str) -> str:
    """Without an article in front."""
    first, _, rest = x.partition(" ")
    return rest if rest and first.lower() in _ARTICLES else x


def _is_sound(draft: Draft, text: str) -> bool:
    """Whether a draft is short, points at nothing outside, and has its answer in the text alone."""
    question, answer = draft.question.rstrip("?").lower().split(), draft.answer.lower().split()
    if len(question) > LONGEST_QUESTION or not 0 < len(answer) <= LONGEST_ANSWER:
        return False
    if {*question, *answer} & _POINTING:
        return False
    return contains_answer(text, draft.answer) and not contains_answer(draft.question, draft.answer)
