"""RAG-Token and RAG-Sequence against transformers' own, on random BART and T5 models in fp64.

Both sides are given the same networks, token ids and retrieval scores. Where transformers departs
from the formulas of the paper (the last tests), this project keeps to the formulas.
"""

import copy
import functools
import random
from types import SimpleNamespace

import pytest
import torch
from rag_reference import (
    END,
    answer_log_probs,
    assert_same_gradients,
    clip,
    collate,
    decode,
    gradients,
    log_likelihood,
    make_model,
    make_network,
    make_questions,
    next_log_probs,
    rescore,
    set_decoding,
    teach,
)
from transformers import (
    DPRConfig,
    DPRQuestionEncoder,
    GenerationConfig,
    RagConfig,
    RagSequenceForGeneration,
    RagTokenForGeneration,
)

PAD = (
    1  # As BART has it; with 0, transformers fills finished beams with end tokens and scores them.
)
THEIRS = {"rag_token": RagTokenForGeneration, "rag_sequence": RagSequenceForGeneration}


def make_theirs(name, network, passages, **settings):
    """transformers' RAG model around a network; its question encoder is never asked."""
    encoder = DPRQuestionEncoder(
        DPRConfig(
            vocab_size=4,
            hidden_size=4,
            intermediate_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    config = RagConfig.from_question_encoder_generator_configs(
        encoder.config, network.config, n_docs=passages, **settings
    )
    return THEIRS[name](config, question_encoder=encoder, generator=network).eval()


def make_case(seed, padded=True):
    """A network of a random shape, taught a little so that answers end, and its questions."""
    kept = _make_case(seed, padded)
    return SimpleNamespace(**vars(kept) | {"questions": copy.deepcopy(kept.questions)})


@functools.cache
def _make_case(seed, padded):
    draw = random.Random(seed)
    kind = ("bart", "t5")[seed % 2]
    heads = draw.choice([1, 2, 4])
    settings = {"tie_word_embeddings": draw.random() < 0.5}
    if kind == "t5":
        settings["feed_forward_proj"] = draw.choice(["relu", "gated-gelu"])
    else:
        settings["scale_embedding"] = draw.random() < 0.5
    network = make_network(
        kind,
        seed,
        vocabulary=draw.randint(8, 14),
        layers=draw.choice([1, 2, 3]),
        width=heads * draw.choice([4, 8]),
        heads=heads,
        pad_token_id=PAD,
        bos_token_id=None,
        **settings,
    )
    passages, count = draw.randint(1, 5), draw.randint(1, 4)
    questions = make_questions(
        seed, [passages] * count, vocabulary=network.config.vocab_size, longest_answer=6
    )
    for question in questions:
        while len(question.answer) < 3:  # transformers drops the prior of answers of one token
            question.answer.insert(0, draw.randint(3, network.config.vocab_size - 1))
        if not padded:
            question.prompts = [(2 * prompt + [3] * 5)[:5] for prompt in question.prompts]
        question.scores = torch.tensor([draw.uniform(-1, 2) for _ in range(passages)]).double()
        question.prior = torch.log_softmax(question.scores, 0)
    longest = draw.randint(4, 8)
    beams, length_penalty = draw.choice([2, 3, 4]), draw.choice([-1.0, 0.0, 0.5, 1.0, 2.0])
    teach(make_model("rag_token", network), questions, steps=draw.choice([10, 20, 40]))
    return SimpleNamespace(
        seed=seed,
        kind=kind,
        network=network,
        questions=questions,
        passages=passages,
        longest=longest,
        beams=beams,
        length_penalty=length_penalty,
    )


def their_inputs(case):
    batch = collate(make_model("rag_token", case.network), case.questions)
    return {
        "context_input_ids": batch["prompt_ids"],
        "context_attention_mask": batch["prompt_mask"].long(),
        "doc_scores": torch.stack([q.scores for q in case.questions]),
        "n_docs": case.passages,
    }


def their_labels(case):
    """Answers after the token that the decoder begins with, padded."""
    start = case.network.config.decoder_start_token_id
    longest = max(len(q.answer) for q in case.questions)
    rows = [[start, *q.answer] + [PAD] * (longest - len(q.answer)) for q in case.questions]
    return torch.tensor(rows)


def our_batch(case, model, scores):
    return collate(model, case.questions) | {"log_prior": torch.log_softmax(scores, 1)}


def compare_losses(name, case):
    """Loss, gradients of all weights and of the retrieval scores."""
    theirs = make_theirs(name, case.network, case.passages)
    inputs = their_inputs(case)
    inputs["doc_scores"].requires_grad_()
    output = theirs(**inputs, labels=their_labels(case))
    output.loss.sum().backward()
    scores_gradient, expected = inputs["doc_scores"].grad, gradients(case.network)

    model = make_model(name, case.network)
    scores = inputs["doc_scores"].detach().clone().requires_grad_()
    tokens = sum(len(q.answer) for q in case.questions)
    loss = model(**our_batch(case, model, scores))["loss"] * tokens
    loss.backward()
    assert loss.item() == pytest.approx(output.loss.sum().item(), rel=1e-9), case.seed
    actual = gradients(case.network)
    actual["scores"], expected["scores"] = scores.grad, scores_gradient
    assert_same_gradients(actual, expected)


def their_answers(name, case, beams):
    theirs = make_theirs(name, case.network, case.passages)
    settings = {"num_beams": beams, "do_sample": False, "early_stopping": False}
    if beams > 1:
        settings["length_penalty"] = case.length_penalty
    ids = {
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": case.network.config.decoder_start_token_id,
    }
    case.network.generation_config = GenerationConfig(**ids)
    theirs.generation_config = GenerationConfig(**ids)
    out = theirs.generate(**their_inputs(case), max_length=case.longest + 1, **settings)
    return [clip(row[1:]) for row in out.tolist()]


def our_answers(name, case, beams):
    model = make_model(name, case.network, case.longest)
    set_decoding(model, num_beams=beams, length_penalty=case.length_penalty)
    return decode(model, case.questions)


CASES = [
    pytest.param(range(8), id="8"),
    pytest.param(range(8, 60), id="52", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("seeds", CASES)
@pytest.mark.parametrize("name", THEIRS)
def test_losses_and_gradients_are_the_same(name, seeds):
    for seed in seeds:
        compare_losses(name, make_case(seed))


@pytest.mark.parametrize("seeds", CASES)
def test_rag_token_answers_are_the_same(seeds):
    """Greedy and with beams, token for token; most end by themselves, at different lengths."""
    answers = []
    for seed in seeds:
        case = make_case(seed)
        for beams in (1, case.beams):
            expected = their_answers("rag_token", case, beams)
            assert our_answers("rag_token", case, beams) == expected, seed
            answers += expected
    ended = [answer for answer in answers if END in answer]
    assert 2 * len(ended) >= len(answers)
    assert len({len(answer) for answer in ended}) >= 4


@pytest.mark.parametrize("seeds", CASES)
def test_rag_sequence_answers_are_the_same(seeds):
    """Thorough decoding, each passage's one answer or its beams rescored under all passages.

    Prompts are of one length: transformers lets candidates attend to padding.

    transformers rescores a candidate that is the end token alone without p(z|x), and padding
    tokens that were generated as if they were certain; with such candidates the answer is
    compared with the formula instead.
    """
    answers, by_formula = [], 0
    for seed in seeds:
        case = make_case(seed, padded=False)
        for beams in (1, case.beams):
            expected = their_answers("rag_sequence", case, beams)
            for i, question in enumerate(case.questions):
                candidates = propose(case, question, beams)
                if any(len(answer) == 1 or PAD in answer for own in candidates for answer in own):
                    with torch.no_grad():
                        expected[i] = rescore(case.network, question, candidates)
                    by_formula += 1
            assert our_answers("rag_sequence", case, beams) == expected, seed
            answers += expected
    ended = [answer for answer in answers if END in answer]
    assert 2 * len(ended) >= len(answers)
    assert len({len(answer) for answer in ended}) >= 4
    assert 2 * by_formula < len(answers)


def propose(case, question, beams):
    """Candidates of each passage, by the network's own `generate`."""
    settings = {"num_beams": beams, "num_return_sequences": beams, "do_sample": False}
    if beams > 1:
        settings |= {"length_penalty": case.length_penalty, "early_stopping": False}
    return [
        [
            clip(row[1:])
            for row in case.network.generate(
                torch.tensor([prompt]), max_new_tokens=case.longest, **settings
            ).tolist()
        ]
        for prompt in question.prompts
    ]


# -- where the formula wins ------------------------------------------------------------------


def our_loss(name, case, **fields):
    model = make_model(name, case.network, **fields).train()
    scores = torch.stack([q.scores for q in case.questions])
    tokens = sum(len(q.answer) for q in case.questions)
    with torch.no_grad():
        return float(model(**our_batch(case, model, scores))["loss"]) * tokens


def their_loss(name, case, **settings):
    theirs = make_theirs(name, case.network, case.passages, **settings)
    with torch.no_grad():
        return float(theirs(**their_inputs(case), labels=their_labels(case)).loss.sum())


def many_passages():
    """The first case with several passages for each question."""
    return next(case for case in map(make_case, range(100)) if case.passages >= 3)


def test_an_answer_of_one_token_has_its_prior_here_and_not_there():
    """transformers adds log p(z|x) at the second token of RAG-Sequence, where there is none."""
    case = many_passages()
    for question in case.questions:
        question.answer = [END]
    network = case.network
    with torch.no_grad():
        expected = -sum(float(log_likelihood("rag_sequence", network, q)) for q in case.questions)
        without = 0.0
        for q in case.questions:
            each = [answer_log_probs(network, prompt, [END])[0] for prompt in q.prompts]
            without -= float(torch.stack(each).logsumexp(0))
    assert our_loss("rag_sequence", case) == pytest.approx(expected, rel=1e-9)
    assert their_loss("rag_sequence", case) == pytest.approx(without, rel=1e-9)
    assert abs(without - expected) > 0.1
    # With one token there is nothing that the two models could differ in.
    assert our_loss("rag_token", case) == pytest.approx(expected, rel=1e-9)
    assert their_loss("rag_token", case) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", THEIRS)
def test_label_smoothing_is_of_the_generator_here_and_takes_the_prior_there(name):
    """Here a smoothed log-probability takes the place of each token's (a mixture of the target
    and of all tokens alike), for each passage; transformers smooths sums that hold the prior."""
    case, smoothing = many_passages(), 0.2
    size = case.network.config.vocab_size
    expected = 0.0
    for q in case.questions:
        rows = []
        with torch.no_grad():
            for prompt in q.prompts:
                own = []
                for t, y in enumerate(q.answer):
                    each = next_log_probs(case.network, prompt, q.answer[:t])
                    own.append((1 - smoothing) * each[y] + smoothing * each.sum() / size)
                rows.append(torch.stack(own))
        joint = torch.stack(rows)
        if name == "rag_token":
            expected -= float((q.prior[:, None] + joint).logsumexp(0).sum())
        else:
            expected -= float((q.prior + joint.sum(1)).logsumexp(0))
    ours = our_loss(name, case, label_smoothing=smoothing)
    theirs = their_loss(name, case, label_smoothing=smoothing)
    assert ours == pytest.approx(expected, rel=1e-9)
    assert abs(theirs - ours) > 1e-3


def test_candidates_do_not_attend_to_padding_here_as_they_do_there():
    """transformers' RAG-Sequence drops the attention mask before it decodes candidates."""
    ours = theirs = 0
    for seed in range(8):
        case = make_case(seed, padded=False)
        plain = our_answers("rag_sequence", case, 1), their_answers("rag_sequence", case, 1)
        other = make_questions(seed + 1, [case.passages], longest=30)[0]
        other.prompts, other.answer = [[3] * 20] * case.passages, [END]
        other.scores = torch.zeros(case.passages, dtype=torch.float64)
        other.prior = torch.log_softmax(other.scores, 0)
        case.questions.append(other)  # its prompts are long, so that the others' are padded
        ours += our_answers("rag_sequence", case, 1)[:-1] != plain[0]
        theirs += their_answers("rag_sequence", case, 1)[:-1] != plain[1]
    assert ours == 0
    assert theirs > 0
