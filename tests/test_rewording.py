"""Questions in other words: what changes, and what must not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import rag_experiments
from rag_experiments.functional.rewording import reword

BIO_QA = Path(rag_experiments.__file__).parent / "data" / "bio_qa" / "test.jsonl"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "Which reagent crosslinks the chains?",
            (
                "Tell me: which reagent crosslinks the chains?",
                "Can you tell me which reagent crosslinks the chains?",
                "What reagent crosslinks the chains?",
            ),
        ),
        (
            "What is the estimated R0 of COVID-19?",
            (
                "Tell me: what is the estimated R0 of COVID-19?",
                "Can you tell me what the estimated R0 of COVID-19 is?",
                "What's the estimated R0 of COVID-19?",
            ),
        ),
        (
            "What's the role of p53?",
            ("Tell me: what's the role of p53?", "What is the role of p53?"),
        ),
        (
            "Who was the first chair of the IPCC?",
            (
                "Tell me: who was the first chair of the IPCC?",
                "Can you tell me who the first chair of the IPCC was?",
            ),
        ),
        (
            "In what year did the epidemic occur?",
            (
                "Tell me: in what year did the epidemic occur?",
                "In which year did the epidemic occur?",
            ),
        ),
        # An auxiliary would have to move, so there is no indirect question.
        (
            "Which disease is it used for?",
            ("Tell me: which disease is it used for?", "What disease is it used for?"),
        ),
        # What follows is no plain noun: "what used to treat it is" would be no English.
        ("What is used to treat it?", ("Tell me: what is used to treat it?",)),
        (
            "What is the plant called?",
            ("Tell me: what is the plant called?", "What's the plant called?"),
        ),
        # "What causes" is not "which causes"; "which of" is not "what of".
        (
            "What causes it?",
            ("Tell me: what causes it?", "Can you tell me what causes it?"),
        ),
        ("Which of these are big?", ("Tell me: which of these are big?",)),
        ("Taq is from what?", ("Tell me: Taq is from what?",)),  # a name keeps its capital
        (
            "Who does not need it?",
            ("Tell me: who does not need it?", "Who doesn't need it?"),
        ),
        ("Name a drug.", ()),
        ("Is it? Or not?", ()),
        ("?", ()),
        ("", ()),
    ],
)
def test_rules(question, expected):
    assert reword(question) == expected


def test_rewordings_keep_names_and_figures():
    questions = [json.loads(line)["question"] for line in BIO_QA.open(encoding="utf-8")]
    made = 0
    for question in questions:
        found = reword(question)
        assert found, question
        assert len(set(found)) == len(found)
        assert question not in found
        assert reword(question) == found
        for other in found:
            made += 1
            before, after = (
                set(re.findall(r"\w+", text.lower().replace("n't", " not")))
                for text in (question, other)
            )
            assert before - after <= {"which", "what", "is"}, other
            assert after - before <= {"tell", "me", "can", "you", "which", "what", "s"}, other
            figures = [re.findall(r"\d+", text) for text in (question, other)]
            assert figures[0] == figures[1]
    assert made > 1.5 * len(questions)
