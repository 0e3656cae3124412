"""The rules that put each answer into one bin, by hand-made cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_experiments.functional import attribution
from rag_experiments.functional.attribution import BINS, Gold, attribute, find_form


def row(
    prediction="wrong",
    answers=("DNA ligase", "ligase"),
    passages=("p1", "p2"),
    gold=("p1",),
    **more,
):
    return {
        "id": "q",
        "prediction": prediction,
        "answers": list(answers),
        "passage_ids": list(passages),
        "gold_passage_ids": list(gold),
        "gold_source": "annotated",
        **more,
    }


def bin_of(own, alone="wrong", **options):
    alone_rows = [] if alone is None else [{**own, "prediction": alone}]
    ((name, found),) = attribute([own], alone_rows, **options)
    assert name == "q"
    return found


LABELS = ("yes", "no", "maybe")


@pytest.mark.parametrize(
    ("prediction", "form"),
    [
        ("DNA ligase", "exact"),
        (" DNA ligase ", "exact"),
        ("dna ligase.", "normalization"),
        ("the DNA-ligase", "containment"),  # a hyphen is a gap there
        ("Ligase", "synonym"),
        ("It is DNA ligase, of phage T4.", "containment"),
        ("a DNA-joining ligase", "containment"),
        ("DNA", None),  # a part of the answer is another answer
        ("ligases", None),  # whole words only
        ("", None),
        ("...", None),
    ],
)
def test_forms_of_a_right_answer(prediction, form):
    assert find_form(prediction, ("DNA ligase", "ligase")) == form


@pytest.mark.parametrize(
    ("prediction", "form"),
    [("No", "normalization"), ("No, it does not.", "containment"), ("There is no doubt", None)],
)
def test_yes_and_no_count_only_where_the_prediction_begins_with_them(prediction, form):
    assert find_form(prediction, ("no",)) == form


def test_labels_are_compared_whole():
    assert find_form("yes", ("yes",), LABELS) == "exact"
    assert find_form("Yes", ("yes",), LABELS) == "normalization"
    assert find_form("yes and no", ("yes",), LABELS) is None


def test_each_bin_of_a_question_with_gold_passages():
    assert bin_of(row("DNA ligase")) == "right"
    assert bin_of(row("the ligase")) == "right_other_form"
    assert bin_of(row("")) == "wrong_format"
    assert bin_of(row(gold=()), gold={"q": Gold((), "annotated")}) == "not_in_knowledge_source"
    assert bin_of(row(passages=("p2", "p3"))) == "not_retrieved"
    assert bin_of(row(), alone="DNA ligase") == "distracted"
    assert bin_of(row(), alone="a ligase") == "distracted"  # another form is right, too
    assert bin_of(row(), alone="polymerase") == "reading_failure"


def test_rules_come_in_their_order():
    # Right, though nothing was retrieved; of wrong format, though nothing was retrieved.
    assert bin_of(row("ligase", passages=(), gold=())) == "right_other_form"
    assert bin_of(row("", passages=())) == "wrong_format"
    assert bin_of(row("a long", cut=True, gold=())) == "wrong_format"
    # Cut, but the answer had been said before.
    assert bin_of(row("DNA ligase, which joins", cut=True)) == "right_other_form"


def test_one_of_several_gold_passages_is_enough():
    several = ("p8", "p2", "p9")
    assert bin_of(row(gold=several)) == "reading_failure"
    assert bin_of(row(gold=several), alone="DNA ligase") == "distracted"
    assert bin_of(row(gold=("p8", "p9"))) == "not_retrieved"
    assert attribution.find_rank(("p1", "p2"), several) == 2


def test_weak_gold_passages_are_used_as_such():
    weak = {"gold_source": "answer_match"}
    assert bin_of(row(gold=(), **weak)) == "not_in_knowledge_source"
    assert bin_of(row(gold=("p5",), **weak)) == "not_retrieved"
    assert bin_of(row(gold=("p1",), **weak), alone="ligase") == "distracted"


def test_what_cannot_be_known_is_not_attributed():
    assert bin_of(row(gold=())) == "unattributed"  # this one was not annotated
    assert bin_of(row(gold=(), gold_source="none")) == "unattributed"
    assert bin_of(row(), alone=None) == "unattributed"  # references: false
    assert bin_of(row("x", answers=())) == "unattributed"
    # What needs no reference is told without it.
    assert bin_of(row(passages=()), alone=None) == "not_retrieved"
    assert bin_of(row("ligase"), alone=None) == "right_other_form"


def test_a_label_task():
    def of(prediction, alone="no", **more):
        return bin_of(row(prediction, answers=("yes",), **more), alone=alone, labels=LABELS)

    assert of("yes") == "right"
    assert of("YES!") == "right_other_form"
    assert of("perhaps") == "wrong_format"
    assert of("") == "wrong_format"
    assert of("yes, no") == "wrong_format"
    assert of("no") == "reading_failure"
    assert of("no", alone="yes") == "distracted"
    assert of("maybe", passages=("p7",)) == "not_retrieved"
    assert of("no", gold=(), gold_source="none") == "unattributed"


texts = st.sampled_from(["", "DNA ligase", "ligase", "wrong", "a ligase it is", "no"])
ids = st.lists(st.sampled_from(["p1", "p2", "p3"]), unique=True)
sources = st.sampled_from(["annotated", "answer_match", "none"])


@given(texts, texts, ids, ids, st.booleans(), sources, st.sampled_from([(), LABELS]))
def test_every_answer_is_in_one_bin_and_right_ones_never_fail(
    prediction, alone, passages, gold, cut, source, labels
):
    own = row(prediction, passages=passages, gold=gold, cut=cut, gold_source=source)
    found = bin_of(own, alone=alone, labels=labels)
    assert found in BINS
    right = find_form(prediction, own["answers"], labels) is not None
    assert (found in attribution.RIGHT) == right
    if found in ("distracted", "reading_failure"):
        assert set(passages) & set(gold)
    if found == "not_retrieved":
        assert gold
        assert not set(passages) & set(gold)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Which enzyme joins fragments?", "which"),
        ("In which year was it found?", "which"),
        ("What's a promoter?", "what"),
        ("Whose method is it?", "who"),
        ("How many genes has it?", "how many"),
        ("How is it made?", "how"),
        ("Does it matter what we do?", "yes or no"),
        ("Isn't it a gene?", "yes or no"),
        ("Name an enzyme.", "other"),
        ("Ce este ADN?", "other"),
        ("", "other"),
    ],
)
def test_question_types(question, kind):
    assert attribution.name_question_type(question) == kind


def test_lengths_and_ranks_have_names():
    lengths = ["", "one", "the one", "one two", "one two three", "1 2 3 4 5", "1 2 3 4 5 6"]
    assert [attribution.name_length(answer) for answer in lengths] == [
        "1 word", "1 word", "1 word", "2 words", "3 to 5 words", "3 to 5 words", "6 words or more",
    ]  # fmt: skip
    known = Gold(("p",), "annotated")
    ranks = [1, 2, 3, 4, 5, 6, 10, 11, None]
    assert [attribution.name_rank(rank, known) for rank in ranks] == [
        "1", "2", "3", "4 to 5", "4 to 5", "6 to 10", "6 to 10", "11 or lower", "not retrieved",
    ]  # fmt: skip
    assert attribution.name_rank(None, Gold((), "none")) == "unknown"
    assert attribution.name_rank(None, Gold((), "answer_match")) == "not in the knowledge source"


def test_breakdowns_add_up_and_start_with_the_most_frequent():
    rows = [
        {"bin": "right", "group": "new"},
        {"bin": "distracted", "group": "seen"},
        {"bin": "right", "group": "seen"},
    ]
    found = attribution.break_down(rows, "group")
    assert list(found) == ["seen", "new"]
    assert list(found["seen"]) == list(BINS)
    assert {k: v for k, v in found["seen"].items() if v} == {"right": 1, "distracted": 1}
    assert sum(map(sum, (part.values() for part in found.values()))) == 3
