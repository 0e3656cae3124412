"""What `ask` prints of an answer."""

from __future__ import annotations

import sys

import pytest

from rag_experiments.ask import describe, main
from rag_experiments.contracts import Prediction
from rag_experiments.evaluation.summary import print_summary
from rag_experiments.metrics.evaluation import Evaluation
from rag_experiments.pipeline import RagPipeline


def test_an_empty_question_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ask", "run", "What?", " "])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "a question is empty" in capsys.readouterr().err


def test_an_answer_shows_its_passages_and_their_weights():
    shown = describe(
        Prediction(
            id="q",
            question="What?",
            prediction="that",
            answers=(),
            passage_ids=("a", "b"),
            passages=("First.", "Second."),
            prior=(0.75, 0.25),
            posterior=(0.5, 0.5),
        )
    )
    assert shown.splitlines() == [
        "that",
        "  [a] p(z|x) 0.75, p(z|x,y) 0.50",
        "    First.",
        "  [b] p(z|x) 0.25, p(z|x,y) 0.50",
        "    Second.",
    ]


def test_an_answer_without_passages_is_said_to_be_closed_book():
    answer, said = describe(Prediction(id="q", question="", prediction="", answers=())).splitlines()
    assert answer == "(no answer)"
    assert said.startswith("  closed book: ")


class Steering:
    """A pipeline whose passage and answer would clear a terminal and turn round what it shows."""

    def ask(self, question: str) -> Prediction:
        text = "\x1b[2J\x1b]0;owned\x07 tab\t\u202egnp"
        return Prediction(
            *("q", text, text, (text,)),
            passage_ids=("p",),
            passages=(text,),
            prior=(1.0,),
        )


def test_no_text_steers_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(RagPipeline, "load", lambda *_, **__: Steering())
    monkeypatch.setattr(sys, "argv", ["ask", "run", "What?"])
    main()
    print_summary({"trained": Evaluation({}, {})}, [Steering().ask("What?")])
    shown = capsys.readouterr().out
    assert shown.count("�[2J") == 2 + 4
    assert not any(sign in shown for sign in "\x1b\x07\u202e")
