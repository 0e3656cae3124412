"""Rules that draft questions from English sentences."""

from __future__ import annotations

import pytest

from rag_experiments.functional.drafting import (
    Draft,
    draft_questions,
    find_answers,
)

CASES = {
    "A plasmid is a small ring of DNA.": [
        ("What is a plasmid?", "a small ring of DNA", "definition"),
    ],
    "DNA ligase is an enzyme that joins fragments of DNA.": [
        ("What is DNA ligase?", "an enzyme that joins fragments of DNA", "definition"),
        ("Which enzyme joins fragments of DNA?", "DNA ligase", "class"),
    ],
    "Ligases are enzymes that join the ends of two strands.": [
        ("What are Ligases?", "enzymes that join the ends of two strands", "definition"),
        ("Which enzymes join the ends of two strands?", "Ligases", "class"),
    ],
    "Marie Curie was a physicist who discovered the element radium.": [
        ("Who was Marie Curie?", "a physicist who discovered the element radium", "definition"),
        ("Which physicist discovered the element radium?", "Marie Curie", "class"),
    ],
    "The Nile is the river that crosses the desert.": [
        ("What is the Nile?", "the river that crosses the desert", "definition"),
    ],
    "The copying of DNA into RNA is called transcription.": [
        ("What is the copying of DNA into RNA called?", "transcription", "name"),
    ],
    "The powerhouse of the cell is also known as the mitochondrion.": [
        ("What is the powerhouse of the cell also known as?", "mitochondrion", "name"),
    ],
    "Penicillin was discovered by Alexander Fleming in 1928.": [
        ("Who discovered Penicillin in 1928?", "Alexander Fleming", "agent"),
        ("In which year was Penicillin discovered by Alexander Fleming?", "1928", "year"),
    ],
    "The Origin of Species was written by Charles Darwin.": [
        ("Who wrote the Origin of Species?", "Charles Darwin", "agent"),
    ],
    "Peptide bonds are broken by proteases.": [
        ("What are Peptide bonds broken by?", "proteases", "agent"),
    ],
    "The cell wall is weakened by adding lysozyme.": [
        ("How is the cell wall weakened?", "adding lysozyme", "agent"),
    ],
    "The first draft of the treaty was signed in 1992 at Maastricht.": [],
    "The draft of the treaty was signed in 1992 at Maastricht.": [
        ("In which year was the draft of the treaty signed at Maastricht?", "1992", "year"),
    ],
    "A human cell has 46 chromosomes.": [
        ("How many chromosomes does a human cell have?", "46", "number"),
    ],
    "Most cells contain two copies of each gene.": [],
    "Diploid cells contain two copies of DNA in the nucleus.": [
        ("How many copies of DNA do Diploid cells contain in the nucleus?", "two", "number"),
        ("What contains two copies of DNA in the nucleus?", "Diploid cells", "subject"),
    ],
    "Restriction enzymes cut DNA at specific sites.": [
        ("What cuts DNA at specific sites?", "Restriction enzymes", "subject"),
    ],
    "Alexander Fleming discovered penicillin in London.": [
        ("Who discovered penicillin in London?", "Alexander Fleming", "subject"),
    ],
    "Samples are copied with the polymerase chain reaction (PCR) at night.": [
        ("What does PCR stand for?", "polymerase chain reaction", "abbreviation"),
    ],
    "All of it is deoxyribonucleic acid (DNA).": [
        ("What does DNA stand for?", "deoxyribonucleic acid", "abbreviation"),
    ],
}


@pytest.mark.parametrize("sentence", CASES)
def test_each_rule(sentence):
    expected = [Draft(*case) for case in CASES[sentence]]
    assert draft_questions(sentence) == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "It is an enzyme that joins DNA.",
        "This enzyme is a protein that joins DNA.",
        "The enzyme is a protein that joins DNA.",
        "In bacteria, a plasmid is a ring of DNA.",
        "However a plasmid is a ring of DNA.",
        "Pepsin is a protein that cells make.",
        "Pepsin is a protein that the stomach makes.",
        "Pepsin is made by them.",
        "Pepsin is made by hand.",
        "Pepsin was made by cells and sold.",
        "John Smith found another one.",
        "Pepsin is so strong that it digests meat.",
        "Pepsin is active.",
        "Proteins that contain iron are red.",
        "The process is called transcription.",
        "The end of a gene is called what it is.",
        "Is pepsin a protein?",
        "pepsin is a protein.",
        "Pepsin is a protein",
        'A "plasmid" is a ring of DNA.',
        "The union of states (EU) grew.",
        "A reaction in Europe (EU) was slow.",
        "The committee met in 1992 and 1994.",
        "Radium is radium.",
        "Usually ligase joins DNA.",
        "x" * 5000,
        "A b" * 2000 + " is a c.",
    ],
)
def test_what_a_rule_cannot_be_sure_of_is_left_alone(sentence):
    assert draft_questions(sentence) == []


def test_a_word_that_is_written_small_elsewhere_is_no_name():
    text = "Plasmids are rings that carry genes. Most plasmids are small."
    (what, which) = draft_questions(text)
    assert what == Draft("What are plasmids?", "rings that carry genes", "definition")
    assert which == Draft("Which rings carry genes?", "plasmids", "class")
    (named, _) = draft_questions("Plasmids are rings that carry genes.")
    assert named.question == "What are Plasmids?"
    (known, _) = draft_questions("Plasmids are rings that carry genes.", {"plasmids"})
    assert known.question == "What are plasmids?"


def test_marks_of_lists_are_passed_over_and_questions_come_once():
    text = "- A plasmid is a ring of DNA.\n2. A plasmid is a ring of genes."
    assert draft_questions(text) == [
        Draft("What is a plasmid?", "a ring of DNA", "definition"),
    ]


def test_names_and_figures_may_be_asked_for():
    text = (
        "The gel runs for 30 minutes at 4 °C, says Marie Curie of the Institute of Radium. "
        "Later 3.5% of 1,000 samples were lost in 1898, and 17 were not. Rest: It is B or 5."
    )
    assert find_answers(text) == [
        "30 minutes",
        "4 °C",
        "Marie Curie",
        "Institute of Radium",
        "3.5%",
        "1,000 samples",
        "1898",
        "17",
    ]
    assert find_answers("") == []
