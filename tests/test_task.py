"""Prompts, targets and parsed answers of the tasks, and the messages for wrong ones."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rag_experiments.contracts import Passage, Question
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.question_answering import QuestionAnswering
from rag_experiments.task.yes_no import YesNo

CONF = Path(__file__).resolve().parents[1] / "conf"
PROMPTS = {path.stem for path in (CONF / "task" / "prompt").glob("*.yaml")}
SUMMARY_PROMPTS = {name for name in PROMPTS if name.startswith("summary")}
PASSAGES = (Passage("1", "Taq", "Heat-stable enzyme."), Passage("2", "", "No title here."))


def ask(text):
    return Question("id", text)


def prompt(**changes):
    fields = {
        "template": "{context}\nQ: {question}",
        "closed_book": "Q: {question}",
        "passage": "{title}: {text}",
    }
    return Prompt(**(fields | changes))


def test_renders_passages_in_order_and_closed_book():
    assert prompt().render("Which?", PASSAGES) == (
        "Taq: Heat-stable enzyme.\nNo title here.\nQ: Which?"
    )
    assert prompt(order="best_last", separator=" | ").render("Which?", PASSAGES) == (
        "No title here. | Taq: Heat-stable enzyme.\nQ: Which?"
    )
    assert prompt().render("Which?") == "Q: Which?"


THREE = tuple(Passage(name, "", name) for name in ("p1", "p2", "p3"))


def test_shuffled_passages_follow_the_seed_and_the_question():
    option = prompt(
        order="shuffled", passage="{text}", separator=" ", template="{context} {question}"
    )
    found = {
        question: [option.render(question, THREE, seed=seed) for seed in range(30)]
        for question in ("Why?", "Who?")
    }
    assert found["Why?"] == [option.render("Why?", THREE, seed=seed) for seed in range(30)]
    for question, rendered in found.items():
        orders = {text.removesuffix(f" {question}") for text in rendered}
        assert len(orders) == 6
        assert all(sorted(order.split()) == ["p1", "p2", "p3"] for order in orders)
    assert [t[:8] for t in found["Why?"]] != [t[:8] for t in found["Who?"]]


CITING = {"passage": "[{number}] {text}", "separator": " ", "template": "{context} {question}"}


@pytest.mark.parametrize(
    ("order", "gold", "rendered", "target"),
    [
        ("best_first", ("p2",), "[1] p1 [2] p2 [3] p3 Why?", "so [2]"),
        ("best_last", ("p3",), "[1] p3 [2] p2 [3] p1 Why?", "so [1]"),
        ("best_last", ("p1", "p2"), "[1] p3 [2] p2 [3] p1 Why?", "so [2]"),
        ("best_first", ("p9",), "[1] p1 [2] p2 [3] p3 Why?", "so"),
    ],
)
def test_the_target_cites_a_gold_passage_that_stands_in_the_prompt(order, gold, rendered, target):
    task = QuestionAnswering(prompt=prompt(order=order, **CITING))
    question = Question("1", "Why?", ("so",), gold)
    assert task.render(question, THREE) == rendered
    assert task.target(question, THREE) == target
    assert task.target(question) == "so"
    plain = QuestionAnswering(prompt=prompt(order=order))
    assert plain.target(question, THREE) == "so"


@pytest.mark.parametrize(
    ("text", "answer", "cited"),
    [
        ("Taq [2]", "Taq", ("p2",)),
        ("\nTaq[2] [3].\nMore [1]", "Taq.", ("p2", "p3")),
        ("[1] Taq [1]", "Taq", ("p1",)),
        ("Taq [4] [9]", "Taq", ("",)),
        ("Taq [Thermus]", "Taq [Thermus]", ()),
        ("Taq", "Taq", ()),
        ("", "", ()),
    ],
)
def test_citations_are_taken_off_an_answer(text, answer, cited):
    task = QuestionAnswering(prompt=prompt(**CITING))
    assert task.parse(text) == answer
    assert task.cited(text, ask("Why?"), THREE) == cited
    plain = QuestionAnswering(prompt=prompt())
    assert plain.cited(text, ask("Why?"), THREE) == ()
    assert plain.parse("Taq [2]") == "Taq [2]"


def test_citations_of_shuffled_passages_are_read_as_they_were_written():
    task = QuestionAnswering(prompt=prompt(order="shuffled", **CITING))
    question = Question("1", "Why?", ("so",), ("p3",))
    for seed in range(8):
        target = task.target(question, THREE, seed)
        assert f"{target.removeprefix('so ')} p3" in task.render(question, THREE, seed)
        assert task.cited(target, question, THREE, seed) == ("p3",)


@pytest.mark.parametrize(
    ("template", "with_title", "without"),
    [
        ("{text}", "B", "B"),
        ("{title}: {text}", "A: B", "B"),
        ("{title} - {text}", "A - B", "B"),
        ("[{title}] {text}", "[A] B", "B"),
        ("(from {title}) {text}!", "(from A) B!", "B!"),
        ("- {title}: {text}", "- A: B", "- B"),
        ("Passage: {title}. {text}", "Passage: A. B", "Passage: B"),
        ("{text} (from {title})", "B (from A)", "B"),
        ("Title: {title}\nText: {text}", "Title: A\nText: B", "Text: B"),
    ],
)
def test_a_missing_title_leaves_no_stray_punctuation(template, with_title, without):
    written = prompt(passage=template)
    assert written.render_passage(Passage("", "A", "B")) == with_title
    assert written.render_passage(Passage("", "", "B")) == without
    assert written.render_passage(Passage("", "  ", "B")) == without


@given(st.text(), st.text(min_size=1).filter(lambda t: t.strip() == t))
def test_text_put_in_is_never_read_as_a_placeholder(question, text):
    for extra in ("", "{question}{context}{title}", "{question.__class__}", "{0!r:>{1}}"):
        rendered = prompt(passage="{text}").render(
            question + extra, [Passage("1", "{text}", text + extra)]
        )
        assert rendered == f"{text}{extra}\nQ: {question}{extra}"


def test_braces_around_quotes_are_the_users_own():
    example = 'Reply as {"answer": "..."}. {context} {question}'
    assert prompt(template=example).render("Q", [PASSAGES[1]]) == (
        'Reply as {"answer": "..."}. No title here. Q'
    )


@pytest.mark.parametrize(
    ("field", "value", "messages"),
    [
        ("template", "{context}", ["{question} is missing"]),
        ("template", "{question}", ["{context} is missing"]),
        (
            "template",
            "{contxt} {question}",
            ["unknown placeholder {contxt}; did you mean {context}?", "{context} is missing"],
        ),
        ("template", "{context} {question.upper()}", ["unknown placeholder {question.upper()}"]),
        ("template", "{context} {question} {}", ["unknown placeholder {}"]),
        ("closed_book", "{context} {question}", ["unknown placeholder {context}"]),
        ("passage", "{title}", ["{text} is missing", "placeholders here: {text}, {title}"]),
        ("system", "Use {question}", ["unknown placeholder {question}"]),
        ("order", "worst_first", ["best_first", "best_last"]),
        ("separator", "", ["separator"]),
    ],
)
def test_refuses_a_wrong_prompt(field, value, messages):
    with pytest.raises(ValueError, match=field) as refusal:
        prompt(**{field: value})
    for message in messages:
        assert message in str(refusal.value)


def test_question_answering():
    task = QuestionAnswering(prompt=prompt(system="Be brief."))
    assert (task.name, task.objective, task.labels) == ("question_answering", "f1", ())
    assert task.max_answer_tokens == 24
    assert task.system == "Be brief."
    assert task.render(ask("Why?"), PASSAGES[:1]) == "Taq: Heat-stable enzyme.\nQ: Why?"
    assert task.target(Question("1", "?", ("Taq", "Taq polymerase"))) == "Taq"
    assert task.parse("\n  Taq polymerase \nIt is stable.") == "Taq polymerase"
    assert task.parse(" \n ") == ""
    with pytest.raises(ValueError, match="no labels"):
        QuestionAnswering(prompt=prompt(system="{labels}"))


def test_question_answering_names_questions_without_an_answer():
    task = QuestionAnswering(prompt=prompt())
    questions = [Question("a", "?", ("x",)), Question("b", "?"), Question("c", "?", (" ",))]
    assert task.data_problems(questions[:1]) == []
    (problem,) = task.data_problems(questions)
    assert "2 of 3" in problem
    assert "'b'" in problem


PUBMEDQA = YesNo(prompt=prompt(system="Say {labels}."), labels=["yes", "no", "maybe"])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("yes", "yes"),
        ("Yes, it does.", "yes"),
        ("  NO.\nBecause", "no"),
        ("**Maybe**", "maybe"),
        ("not sure", ""),
        ("nothing", ""),
        ("I do not know", ""),
        ("The answer is yes", ""),
        ("yes/no", ""),
        ("", ""),
    ],
)
def test_a_label_is_whole_first_words_never_a_substring(text, label):
    assert PUBMEDQA.parse(text) == label


def test_the_longest_label_wins():
    task = YesNo(prompt=prompt(), labels=["no", "No effect", "positive effect"])
    assert task.parse("no effect at all") == "No effect"
    assert task.parse("No, a positive effect") == "no"
    assert task.parse("positive") == ""


def test_yes_no_prompt_and_target():
    assert (PUBMEDQA.name, PUBMEDQA.objective) == ("yes_no", "accuracy")
    assert PUBMEDQA.system == "Say yes, no or maybe."
    assert YesNo(prompt=prompt(system="{labels}")).system == "yes or no"
    assert PUBMEDQA.target(Question("1", "?", ("Maybe.",))) == "maybe"


def test_yes_no_reports_answers_that_are_not_labels():
    questions = [
        Question("a", "?", ("Yes",)),
        Question("b", "?", ("mayb",)),
        Question("c", "?", ("mayb",)),
        Question("d", "?"),
        Question("e", "?", ("yes", "no")),
    ]
    assert PUBMEDQA.data_problems(questions[:1]) == []
    missing, torn, stranger = PUBMEDQA.data_problems(questions)
    assert "'d'" in missing
    assert "'e'" in torn
    for part in ("'mayb'", "2 of 5", "'b'", "legal: yes, no or maybe", "nearest: maybe"):
        assert part in stranger


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[yes, no]", "put each label in quotes"),
        ("[1, 2]", 'put it in quotes: "1"'),
        ('"yes"', "is not a list of labels"),
        ('["yes"]', "at least two"),
        ('["Yes", "yes!"]', "are the same"),
        ('["the", "no"]', "has no words left"),
    ],
)
def test_refuses_labels(labels, message):
    # Read as a configuration file is read: a bare no is false there.
    value = OmegaConf.to_container(OmegaConf.create(f"labels: {labels}"))["labels"]
    with pytest.raises(ValueError, match="labels") as refusal:
        YesNo(prompt=prompt(), labels=value)
    assert message in str(refusal.value)


@pytest.mark.parametrize("task", ["question_answering", "yes_no"])
@pytest.mark.parametrize("name", sorted(PROMPTS - SUMMARY_PROMPTS))
def test_every_prompt_composes_with_its_task(task, name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"+task={task}", f"task/prompt={name}"]
        if task == "yes_no":
            overrides.append("task.labels=[yes,no,maybe]")
        elif name == "abstain":
            overrides.append("task.abstention=unanswerable")
        config = compose(overrides=overrides)
    if task == "yes_no" and name in ("cite", "abstain"):
        with pytest.raises(Exception, match="labels alone"):
            instantiate(config.task, _convert_="all")
        return
    if task == "question_answering" and name == "label":
        with pytest.raises(Exception, match="no labels"):
            instantiate(config.task, _convert_="all")
        return
    option = instantiate(config.task, _convert_="all")
    rendered = option.render(ask("Which enzyme?"), PASSAGES)
    assert "Which enzyme?" in rendered
    assert all(p.text in rendered for p in PASSAGES)
    assert ": No title" not in rendered
    assert "{" not in rendered + option.render(ask("Which enzyme?")) + option.system
    # Short: besides question and passages at most 45 words.
    shown = " ".join([option.system, option.render(ask(""), [Passage("", "", "")])])
    assert len(shown.split()) <= 45


def test_default_prompts():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        qa = instantiate(compose(overrides=["+task=question_answering"]).task, _convert_="all")
        yes_no = instantiate(compose(overrides=["+task=yes_no"]).task, _convert_="all")
    assert qa.render(ask("Why?")).endswith("Short answer:")
    assert yes_no.labels == ("yes", "no")
    assert yes_no.render(ask("Why?")).endswith("Answer (yes or no):")
