"""RAG models against references that read one row at a time and recompute every step."""

import functools
import math

import pytest
import torch
from rag_reference import (
    END,
    KINDS,
    OPTIONS,
    PAD,
    answer_log_probs,
    assert_same_gradients,
    chi_square_p_value,
    clip,
    collate,
    decode,
    decode_greedily,
    fused_next_log_probs,
    gradients,
    log_likelihood,
    make_model,
    make_network,
    make_questions,
    mixed_log_probs,
    next_log_probs,
    rescore,
    search_beams,
    set_decoding,
    teach,
    without_targets,
)

from rag_experiments.contracts import Example, Passage, Question, Runtime
from rag_experiments.model.fusion import Fusion
from rag_experiments.model.generator import Generator, Lora
from rag_experiments.model.rag import Decoding
from rag_experiments.model.rag_model import answer_mask, question_of_row
from rag_experiments.task.prompt import Prompt
from rag_experiments.task.question_answering import QuestionAnswering
from rag_experiments.task.yes_no import YesNo

SEQ2SEQ = ("t5", "bart")
CASES = [
    (name, kind)
    for name in ("rag_token", "rag_sequence", "concat", "fusion")
    for kind in (KINDS if name != "fusion" else SEQ2SEQ)
]
COUNTS = [3, 1, 4, 2]
LONGEST = 6


def make_case(name, kind, seed=0, counts=COUNTS, vocabulary=16, taught=False, **settings):
    counts = [1] * len(counts) if name == "concat" else counts
    make = make_taught if taught else make_network
    network = make(kind, seed, vocabulary, **{"counts": tuple(counts)} if taught else {})
    questions = make_questions(seed, counts, vocabulary=vocabulary)
    return network, questions, make_model(name, network, LONGEST, **settings)


@functools.cache
def make_taught(kind, seed, vocabulary, counts):
    """One network for all models that decode these questions."""
    network = make_network(kind, seed, vocabulary)
    teach(make_model("rag_token", network), make_questions(seed, counts, vocabulary=vocabulary))
    return network


# -- the loss --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_loss_and_gradients_are_those_of_the_formula(name, kind):
    """Questions with 1 to 4 passages and answers of unequal length, in one padded batch."""
    network, questions, model = make_case(name, kind)
    batch = collate(model, questions)
    batch["log_prior"].requires_grad_()
    loss = model(**batch)["loss"]
    loss.backward()
    actual = gradients(network)

    for question in questions:
        question.prior.requires_grad_()
    tokens = sum(len(q.answer) for q in questions)
    expected = -sum(log_likelihood(name, network, q) for q in questions) / tokens
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert_same_gradients(actual, gradients(network))
    if name.startswith("rag"):
        for i, question in enumerate(questions):
            own = batch["log_prior"].grad[i]
            torch.testing.assert_close(own[: len(question.prior)], question.prior.grad)
            assert (own[len(question.prior) :] == 0).all()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_batch_is_the_sum_of_its_questions(name, kind):
    """log p(y|x) of a question does not depend on how many passages the others have."""
    _, questions, model = make_case(name, kind, seed=1)
    with torch.no_grad():
        alone = [float(model(**collate(model, [q]))["loss"]) * len(q.answer) for q in questions]
        for order in ([0, 1, 2, 3], [2, 0], [3, 1, 1]):
            chosen = [questions[i] for i in order]
            tokens = sum(len(q.answer) for q in chosen)
            loss = float(model(**collate(model, chosen))["loss"])
            assert loss * tokens == pytest.approx(sum(alone[i] for i in order), rel=1e-9)


@pytest.mark.parametrize("name", ["rag_token", "rag_sequence"])
def test_one_passage_is_the_plain_language_model(name):
    network, questions, model = make_case(name, "llama", counts=[1, 1])
    with torch.no_grad():
        loss = float(model(**collate(model, questions))["loss"])
        plain = [answer_log_probs(network, q.prompts[0], q.answer) for q in questions]
    assert loss == pytest.approx(-float(torch.cat(plain).mean()), rel=1e-9)


def test_label_smoothing_is_of_training_only():
    network, questions, model = make_case("rag_sequence", "llama", label_smoothing=0.3)
    batch = collate(model, questions)
    with torch.no_grad():
        plain = float(model(**batch)["loss"])
        model.train()
        smooth = float(model(**batch)["loss"])
        expected = 0.0
        for q in questions:
            joint = []
            for prior, prompt in zip(q.prior, q.prompts, strict=True):
                for t, y in enumerate(q.answer):
                    each = next_log_probs(network, prompt, q.answer[:t])
                    prior = prior + 0.7 * each[y] + 0.3 * each.mean()
                joint.append(prior)
            expected -= float(torch.stack(joint).exp().sum().log())
    assert smooth == pytest.approx(expected / int(batch["answer_mask"].sum()), rel=1e-9)
    assert abs(smooth - plain) > 1e-3


def test_rows_know_their_questions():
    slots = torch.tensor([[4, 0, -1], [2, -1, -1], [1, 3, 5]])
    assert question_of_row(slots).tolist() == [0, 2, 1, 2, 0, 2]


def test_answer_mask_ends_with_the_first_end_token():
    ids = torch.tensor([[5, END, PAD, PAD], [END, END, END, END], [5, 6, 7, 8], [5, PAD, END, 9]])
    assert answer_mask(ids, END).int().tolist() == [
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 0],
    ]


# -- decoding --------------------------------------------------------------------------------


def expected_answer(name, network, question, beams=1, length_penalty=1.0):
    """What a model decodes token by token."""

    def following(answer):
        if name == "fusion":
            return fused_next_log_probs(network, question.prompts, answer)
        return mixed_log_probs(network, question, answer)

    if beams == 1:
        return decode_greedily(following, LONGEST)
    return search_beams(following, LONGEST, beams, length_penalty)[0]


TOKEN_CASES = [case for case in CASES if case[0] != "rag_sequence"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "kind"), TOKEN_CASES)
def test_greedy_answers_equal_a_loop_that_recomputes_everything(name, kind, seed):
    network, questions, model = make_case(name, kind, seed, vocabulary=8, taught=seed > 0)
    with torch.no_grad():
        expected = [expected_answer(name, network, q) for q in questions]
    assert decode(model, questions) == expected
    assert [decode(model, [q])[0] for q in questions] == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rag_token", "llama"),
        ("rag_token", "bart"),
        pytest.param("rag_token", "t5", marks=pytest.mark.slow),
        ("fusion", "bart"),
        pytest.param("fusion", "t5", marks=pytest.mark.slow),
    ],
)
def test_beams_equal_a_search_that_recomputes_everything(name, kind):
    better = ended = 0
    for seed, taught in ((2, False), (3, True)):
        network, questions, model = make_case(name, kind, seed, vocabulary=8, taught=taught)
        with torch.no_grad():
            greedy = [expected_answer(name, network, q) for q in questions]
        for beams, penalty in ((2, 1.0), (3, 0.0), (4, 2.0)):
            set_decoding(model, num_beams=beams, length_penalty=penalty)
            with torch.no_grad():
                expected = [expected_answer(name, network, q, beams, penalty) for q in questions]
            assert decode(model, questions) == expected
            better += expected != greedy
            ended += sum(END in answer for answer in expected)
    assert better > 0  # else greedy decoding would pass as well
    assert ended > 0


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["concat", "rag_token", "rag_sequence"])
def test_one_prompt_decodes_as_transformers_does(name, kind, beams):
    network, questions, model = make_case(
        name, kind, 1, counts=[1] * 5, vocabulary=8, taught=True, decoding={"num_beams": beams}
    )
    penalty = 1.0
    if name == "rag_sequence":  # it takes the likeliest candidate, whatever its length
        penalty = 0.0
        set_decoding(model, length_penalty=penalty)
    network.generation_config.forced_eos_token_id = None
    expected = []
    for question in questions:
        prompt = torch.tensor([question.prompts[0]])
        ids = network.generate(
            prompt,
            max_new_tokens=LONGEST,
            do_sample=False,
            num_beams=beams,
            early_stopping=False,
            length_penalty=penalty,
        )
        begun = 1 if network.config.is_encoder_decoder else prompt.shape[1]
        expected.append(clip(ids[0, begun:].tolist()))
    assert decode(model, questions) == expected
    assert len({tuple(answer) for answer in expected}) > 1
    assert any(END in answer for answer in expected)


@pytest.mark.parametrize("pad", [PAD, END])
def test_penalties_count_answers_only(pad):
    """Neither prompts nor the first token that `generate` is given, which may pad or end."""
    network, questions, model = make_case("rag_token", "llama", counts=[2] * 8, vocabulary=8)
    model.generator.tokenizer.pad_token_id = pad
    penalty = 50.0

    def decode_with_penalty(question):
        answer = []
        while len(answer) < LONGEST and END not in answer:
            scores = mixed_log_probs(network, question, answer)
            for token in set(answer):
                scores[token] *= penalty  # of a log-probability
            answer.append(int(scores.argmax()))
        return answer

    def decode_without_repetition(question):
        answer = []
        while len(answer) < LONGEST and END not in answer:
            scores = mixed_log_probs(network, question, answer)
            scores[answer] = -torch.inf
            answer.append(int(scores.argmax()))
        return answer

    with torch.no_grad():
        plain = decode(model, questions)
        set_decoding(model, repetition_penalty=penalty)
        penalized = [decode_with_penalty(q) for q in questions]
        assert decode(model, questions) == penalized != plain
        set_decoding(model, repetition_penalty=1.0, no_repeat_ngram_size=1)
        assert decode(model, questions) == [decode_without_repetition(q) for q in questions]
    assert any(END in answer for answer in penalized)


@pytest.mark.parametrize("candidates", ["thorough", "fast"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "bart", pytest.param("t5", marks=pytest.mark.slow)])
def test_rag_sequence_takes_the_likeliest_of_all_candidates(kind, beams, candidates):
    network, questions, model = make_case(
        "rag_sequence",
        kind,
        seed=3,
        counts=[3, 1, 4, 2, 3, 3],
        vocabulary=8,
        taught=True,
        decoding={"num_beams": beams},
        candidates=candidates,
    )
    expected = []
    with torch.no_grad():
        for question in questions:
            proposed = []
            for prompt in question.prompts:

                def following(answer, prompt=prompt):
                    return next_log_probs(network, prompt, answer)

                if beams == 1:
                    proposed.append([decode_greedily(following, LONGEST)])
                else:
                    proposed.append(search_beams(following, LONGEST, beams))
            expected.append(rescore(network, question, proposed, fast=candidates == "fast"))
    assert decode(model, questions) == expected


def note_shapes(module):
    """A list that takes the shape of the tokens of each call of a module."""
    shapes = []

    def note(_, args, kwargs):
        embedded = kwargs.get("inputs_embeds")
        shapes.append(tuple((kwargs["input_ids"] if embedded is None else embedded).shape[:2]))

    module.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


@pytest.mark.parametrize("kind", KINDS)
def test_beams_of_all_passages_take_one_call_a_step(kind):
    """Prompts are read once; then one token of each beam under each passage at a time."""
    network, questions, model = make_case(
        "rag_token", kind, seed=2, vocabulary=8, decoding={"num_beams": 3}
    )
    prompts = sum(COUNTS)
    steps = note_shapes(network if kind == "llama" else network.get_decoder())
    read = steps if kind == "llama" else note_shapes(network.get_encoder())
    decode(model, questions)
    assert read[0][0] == steps[0][0] == prompts
    assert kind == "llama" or len(read) == 1
    assert 1 < len(steps) <= LONGEST
    assert set(steps[1:]) == {(3 * prompts, 1)}


@pytest.mark.parametrize("candidates", ["thorough", "fast"])
def test_no_answer_is_scored_twice(candidates, monkeypatch):
    """Neither to choose it and for its posterior, nor where all passages propose the same."""
    _, questions, model = make_case(
        "rag_sequence",
        "bart",
        seed=3,
        counts=[3, 1, 4, 2, 3, 3],
        vocabulary=8,
        taught=True,
        decoding={"num_beams": 2},
        candidates=candidates,
    )
    jobs, score = [], type(model)._score
    monkeypatch.setattr(
        type(model), "_score", lambda self, state, slots, own: score(self, state, slots, note(own))
    )

    def note(own):
        jobs.extend(own)
        return own

    with model.evaluating():
        model.decode_with_posterior(*model.read(without_targets(collate(model, questions))))
    assert jobs
    assert len(set(jobs)) == len(jobs)
    chosen = {(job.question, job.passage) for job in jobs}
    assert chosen == {(i, n) for i, q in enumerate(questions) for n in range(len(q.prompts))}


def test_chunks_of_rescoring_change_nothing(monkeypatch):
    settings = {"decoding": {"num_beams": 3}, "vocabulary": 8}
    _, questions, model = make_case("rag_sequence", "t5", **settings)
    expected = decode(model, questions)
    monkeypatch.setattr("rag_experiments.model.language_model.SCORED_AT_ONCE", 2)
    assert decode(model, questions) == expected


def test_thorough_and_fast_differ_where_they_should():
    """An answer that one sure passage proposes against one that all others could have given."""
    differ = 0
    for seed in range(8):
        answers = {}
        for candidates in ("thorough", "fast"):
            _, questions, model = make_case(
                "rag_sequence", "llama", seed, counts=[4] * 4, vocabulary=6, candidates=candidates
            )
            answers[candidates] = decode(model, questions)
        differ += answers["thorough"] != answers["fast"]
    assert differ > 0


# -- sampling --------------------------------------------------------------------------------

DRAWS = 4000


def all_answers(vocabulary, longest):
    """Every sequence that decoding can return: ended, or as long as allowed."""
    answers = [()]
    for _ in range(longest):
        answers = [
            (*a, v) if END not in a else a
            for a in answers
            for v in (range(vocabulary) if END not in a else [None])
        ]
    return answers


@pytest.mark.parametrize("kind", ["llama", "bart"])
@pytest.mark.parametrize("name", ["rag_token", "rag_sequence"])
def test_samples_follow_the_marginal_distribution(name, kind):
    vocabulary, longest = 6, 2
    network = make_network(kind, seed=2, vocabulary=vocabulary, std=0.6)
    question = make_questions(3, [3], vocabulary=vocabulary)[0]
    model = make_model(name, network, longest, decoding={"do_sample": True})
    torch.manual_seed(0)
    drawn = []
    for _ in range(4):
        drawn += [tuple(a) for a in decode(model, [question] * (DRAWS // 4))]
    answers = all_answers(vocabulary, longest)
    with torch.no_grad():
        probabilities = {
            own: [math.exp(float(log_likelihood(own, network, question, list(a)))) for a in answers]
            for own in ("rag_token", "rag_sequence")
        }
    other = "rag_sequence" if name == "rag_token" else "rag_token"
    assert sum(probabilities[name]) == pytest.approx(1)
    counts = [drawn.count(a) for a in answers]
    assert sum(counts) == DRAWS
    assert chi_square_p_value(counts, probabilities[name]) > 1e-3
    assert chi_square_p_value(counts, probabilities[other]) < 1e-6  # the test can tell


@pytest.mark.parametrize("name", ["rag_token", "rag_sequence"])
def test_several_draws_from_one_reading_follow_the_distribution_of_their_question(name):
    network = make_network("llama", seed=2, vocabulary=6, std=0.6)
    questions = make_questions(3, [3, 2], vocabulary=6)
    model = make_model(name, network, 2)
    torch.manual_seed(0)
    with model.evaluating():
        read = model.read(without_targets(collate(model, questions)))
        ids = model.draw(*read, Decoding(do_sample=True), DRAWS).tolist()
    drawn = [tuple(clip(row)) for row in ids]
    assert len(drawn) == 2 * DRAWS
    answers = all_answers(6, 2)
    for i, own in enumerate((drawn[:DRAWS], drawn[DRAWS:])):
        counts = [own.count(answer) for answer in answers]
        fits = []
        for question in questions:
            with torch.no_grad():
                expected = [
                    math.exp(float(log_likelihood(name, network, question, list(a))))
                    for a in answers
                ]
            fits.append(chi_square_p_value(counts, expected))
        assert fits[i] > 1e-3
        assert fits[1 - i] < 1e-6  # they are told from the other question's


def test_sampling_takes_the_whole_vocabulary_unless_told():
    """transformers would keep the 50 likeliest tokens in silence."""
    network = make_network("llama", vocabulary=200, std=0.05)
    question = make_questions(0, [2], vocabulary=200)[0]
    drawn = {}
    for top_k in (0, 7):
        model = make_model("rag_token", network, 1, decoding={"do_sample": True, "top_k": top_k})
        torch.manual_seed(0)
        drawn[top_k] = {a[0] for a in decode(model, [question] * 1000)}
    assert len(drawn[0]) > 150
    with torch.no_grad():
        assert drawn[7] == set(mixed_log_probs(network, question, []).topk(7).indices.tolist())


def test_temperature_and_nucleus_work_on_the_marginal():
    network = make_network("llama", seed=5, vocabulary=8, std=0.6)
    question = make_questions(6, [3], vocabulary=8)[0]
    settings = {"do_sample": True, "temperature": 2.0, "top_p": 0.8}
    model = make_model("rag_token", network, 1, decoding=settings)
    torch.manual_seed(0)
    drawn = [a[0] for a in decode(model, [question] * DRAWS)]
    with torch.no_grad():
        hot = torch.softmax(mixed_log_probs(network, question, []) / 2.0, -1)
    values, order = hot.sort(descending=True)
    kept = order[: int((values.cumsum(0) < 0.8).sum()) + 1].tolist()
    assert 1 < len(kept) < 8
    total = float(hot[kept].sum())
    assert (
        chi_square_p_value(
            [drawn.count(v) for v in range(8)],
            [float(hot[v]) / total if v in kept else 0.0 for v in range(8)],
        )
        > 1e-3
    )


# -- posteriors and labels -------------------------------------------------------------------


@pytest.mark.parametrize("decoding", [{}, {"num_beams": 3}, {"do_sample": True}])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("rag_token", {}),
        ("rag_sequence", {"candidates": "thorough"}),
        ("rag_sequence", {"candidates": "fast"}),
    ],
)
def test_the_posterior_is_that_of_the_answer(name, fields, decoding):
    network, questions, model = make_case(
        name, "llama", seed=4, vocabulary=8, decoding=decoding, **fields
    )
    with model.evaluating():
        state, slots, prior = model.read(without_targets(collate(model, questions)))
        torch.manual_seed(0)
        ids, actual = model.decode_with_posterior(state, slots, prior)
        torch.manual_seed(0)
        alone = model.decode(state, slots, prior)
    assert [clip(row) for row in ids.tolist()] == [clip(row) for row in alone.tolist()]
    for row, own, question in zip(actual, ids.tolist(), questions, strict=True):
        answer = clip(own)
        with torch.no_grad():
            each = torch.stack([answer_log_probs(network, p, answer) for p in question.prompts])
        if name == "rag_sequence":
            joint = (question.prior + each.sum(1)).exp()
            expected = joint / joint.sum()
        else:
            joint = (question.prior[:, None] + each).exp()
            expected = (joint / joint.sum(0)).mean(1)
        torch.testing.assert_close(row[: len(expected)], expected)
        assert (row[len(expected) :] == 0).all()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_labels_are_chosen_by_their_marginal_likelihood(name, kind):
    labels = {"yes": [5], "no": [7, 4], "maybe": [5, 9, 3]}
    network, questions, model = make_case(
        name, kind, seed=5, counts=[3, 1, 4, 2, 2, 3], labels=labels
    )
    with model.evaluating():
        answers = model._choose_labels(*model.read(without_targets(collate(model, questions))))
    for answer, question in zip(answers, questions, strict=True):
        with torch.no_grad():
            scores = torch.stack(
                [log_likelihood(name, network, question, [*ids, END]) for ids in labels.values()]
            )
        expected = dict(zip(labels, scores.tolist(), strict=True))
        assert answer.label_log_probs == pytest.approx(expected, rel=1e-9)
        assert answer.text == max(expected, key=expected.__getitem__)
        if name.startswith("rag"):
            assert len(answer.posterior) == len(question.prompts)
            assert sum(answer.posterior) == pytest.approx(1)
        else:
            assert answer.posterior == ()


# -- from texts ------------------------------------------------------------------------------

TASKS = {
    "question_answering": QuestionAnswering(
        prompt=Prompt(
            template="{context}\nQuestion: {question}\nAnswer:",
            closed_book="Question: {question}\nAnswer:",
        ),
        max_answer_tokens=5,
    ),
    "yes_no": YesNo(
        prompt=Prompt(
            template="{context}\nQuestion: {question} ({labels})\nAnswer:",
            closed_book="Question: {question} ({labels})\nAnswer:",
        ),
        labels=("yes", "no"),
    ),
}
GENERATOR = {"llama": "causal", "t5": "encoder_decoder", "bart": "encoder_decoder"}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(cache_dir=tmp_path_factory.mktemp("cache"))


def load(name, kind, runtime, task="question_answering", folder=None, adapter=None, **fields):
    option = OPTIONS[name](
        generator=Generator(
            weights=f"random:{kind}", kind=GENERATOR[kind], adapter=adapter, attention="sdpa"
        ),
        **fields,
    )
    return option.load(TASKS[task], runtime, encode_queries=False, folder=folder)


def make_examples(answer="four", counts=(3, 0, 4, 1)):
    """Questions with 0 to 4 passages."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for i, n in enumerate(counts):
        prior = torch.log_softmax(torch.randn(n, generator=generator), 0).tolist()
        passages = tuple(
            Passage(f"{i}-{j}", "", f"Passage {j} of {i}: " + "tale " * (5 * j + i))
            for j in range(n)
        )
        question = Question(f"q{i}", f"What of {i}?", (answer,))
        examples.append(Example(question, passages, tuple(prior)))
    return examples


def spread_weights(model):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.generator.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3, generator=generator)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_batches_of_texts_hold_the_prompts_of_each_passage(name, kind, runtime):
    model = load(name, kind, runtime)
    examples = make_examples()
    batch = model.collate(examples)
    tokenizer = model.generator.tokenizer
    texts = tokenizer.batch_decode(
        [ids[mask] for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)],
        skip_special_tokens=True,
    )
    seen = []
    for example, slots, prior in zip(examples, batch["slots"], batch["log_prior"], strict=True):
        rows = slots[slots >= 0].tolist()
        seen += rows
        each = [(passage,) for passage in example.passages] or [()]
        shown = [example.passages] if name == "concat" else each
        ask = model.prompts.task.render
        assert [texts[row] for row in rows] == [ask(example.question, s) for s in shown]
        assert slots[: len(rows)].tolist() == rows  # the present first
        assert (prior[len(rows) :] == -torch.inf).all()
        if name == "concat":
            assert prior[0] == 0
        assert prior.exp().sum().item() == pytest.approx(1)
        if name != "concat" and example.passages:
            assert prior[: len(rows)].tolist() == pytest.approx(example.log_prior)
    assert sorted(seen) == list(range(len(texts)))
    targets = [
        ids[mask] for ids, mask in zip(batch["answer_ids"], batch["answer_mask"], strict=True)
    ]
    assert all(t.tolist() == model.prompts.encode_answer("four") for t in targets)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_texts_in_any_batch_give_the_same_loss_and_answers(name, kind, runtime):
    """0 to 4 passages in one batch, in whatever order."""
    model = load(name, kind, runtime).eval()
    spread_weights(model)
    model.double()
    examples = make_examples()
    with torch.no_grad():
        alone = [float(model(**model.collate([e]))["loss"]) for e in examples]
        batch = model.collate(examples)
        tokens = batch["answer_mask"].sum(1)
        expected = sum(a * int(t) for a, t in zip(alone, tokens, strict=True)) / int(tokens.sum())
        assert float(model(**batch)["loss"]) == pytest.approx(expected, rel=1e-7)
    assert len({round(a, 6) for a in alone}) > 1  # prompts matter
    answers = model.answer(examples)
    single = [answer for example in examples for answer in model.answer([example])]
    backwards = model.answer(examples[::-1], tokens_at_once=100)[::-1]
    for other in (single, backwards):
        for one, two in zip(answers, other, strict=True):
            assert one.text == two.text
            assert one.posterior == pytest.approx(two.posterior, abs=1e-6)
    for answer, example in zip(answers, examples, strict=True):
        if name.startswith("rag"):
            assert len(answer.posterior) == max(1, len(example.passages))
            assert sum(answer.posterior) == pytest.approx(1)
        else:
            assert answer.posterior == ()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_labels_from_texts(name, kind, runtime):
    model = load(name, kind, runtime, task="yes_no").eval()
    spread_weights(model)
    model.double()
    examples = make_examples("no")
    answers = model.answer(examples)
    for answer, example in zip(answers, examples, strict=True):
        scores = {}
        for label in ("yes", "no"):
            question = Question("q", example.question.question, (label,))
            batch = model.collate([Example(question, example.passages, example.log_prior)])
            with torch.no_grad():
                loss = model(**batch)["loss"]
            scores[label] = float(-loss * batch["answer_mask"].sum())
        assert answer.label_log_probs == pytest.approx(scores, rel=1e-6)
        assert answer.text == max(scores, key=scores.__getitem__)


def test_a_prior_of_another_length_is_refused(runtime):
    model = load("rag_token", "llama", runtime)
    example = make_examples()[0]
    with pytest.raises(ValueError, match="'q0': log_prior has 2 entries for 3 passages"):
        model.collate_prompts([Example(example.question, example.passages, example.log_prior[:2])])


def test_answering_leaves_the_mode_and_takes_no_dropout(runtime):
    model = load("rag_sequence", "t5", runtime)
    spread_weights(model)
    examples = make_examples()
    expected = model.eval().answer(examples)
    model.train()
    assert model.answer(examples) == expected
    assert model.training
    assert model.generator.network.training
    assert not model.eval().training


def test_an_answer_that_came_to_no_end_is_cut(runtime, monkeypatch):
    model = load("concat", "llama", runtime)
    end, pad = model.generator.end_id, model.generator.pad_id
    longest = TASKS["question_answering"].max_answer_tokens
    examples = make_examples()[:3]
    rows = [[5] * longest, [5, end] + [pad] * (longest - 2), [5] * (longest - 1) + [end]]
    monkeypatch.setattr(model, "decode", lambda *_: torch.tensor(rows))
    texts = sorted(examples, key=lambda e: -sum(len(p.text) for p in e.passages))
    assert [answer.cut for answer in model.answer(texts)] == [True, False, False]
    # A batch of shorter rows has ended, though transformers may leave out the last end token.
    monkeypatch.setattr(model, "decode", lambda *_: torch.tensor([[5] * (longest - 1)] * 3))
    assert [answer.cut for answer in model.answer(texts)] == [False] * 3


@pytest.mark.parametrize("adapter", [None, Lora(rank=2)])
@pytest.mark.parametrize("name", ["rag_token", "fusion"])
def test_saved_models_come_back(name, adapter, runtime, tmp_path):
    """By `load` in a new process and by `load_trained` in place, as for the best checkpoint."""
    model = load(name, "bart", runtime, adapter=adapter)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    examples = make_examples()
    batch = model.eval().collate(examples)

    def loss(own):
        with torch.no_grad():
            return float(own.eval()(**batch)["loss"])

    trained = loss(model)
    model.save(tmp_path)
    assert loss(load(name, "bart", runtime, adapter=adapter, folder=tmp_path)) == trained
    fresh = load(name, "bart", runtime, adapter=adapter)
    assert abs(loss(fresh) - trained) > 1e-4
    fresh.load_trained(tmp_path)
    assert loss(fresh) == trained


def test_weights_that_do_not_fit_are_refused(runtime, tmp_path):
    load("rag_token", "bart", runtime).save(tmp_path)
    with pytest.raises(ValueError, match="do not fit"):
        load("rag_token", "t5", runtime).load_trained(tmp_path)


def test_fusion_needs_an_encoder_decoder():
    with pytest.raises(ValueError, match="does not fit model=fusion"):
        Fusion(generator=Generator(weights="random:llama", kind="causal"))
