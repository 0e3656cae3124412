"""Slow, obvious references for the RAG core, and tiny random models to try it on.

A reference reads one row at a time, without padding, mask, positions or cache, and takes the
whole log_softmax. Token ids here: 0 pads, 1 begins, 2 ends.
"""

from __future__ import annotations

import math
import weakref
from types import SimpleNamespace

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from rag_experiments.model.concat import Concat
from rag_experiments.model.fusion import Fusion
from rag_experiments.model.generator import Generator
from rag_experiments.model.language_model import CausalLanguageModel, EncoderDecoderModel
from rag_experiments.model.rag import Decoding
from rag_experiments.model.rag_sequence import RagSequence
from rag_experiments.model.rag_token import RagToken

PAD, BEGIN, END = 0, 1, 2
KINDS = ("llama", "t5", "bart")
OPTIONS = {
    "rag_token": RagToken,
    "rag_sequence": RagSequence,
    "concat": Concat,
    "fusion": Fusion,
}


def make_network(kind, seed=0, vocabulary=24, std=0.4, layers=2, width=16, heads=2, **settings):
    """A tiny random model in fp64, with weights so large that prompts matter."""
    ids = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
    ids["vocab_size"] = vocabulary
    ids |= settings
    if kind == "llama":
        config = LlamaConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            max_position_embeddings=256,
            **ids,
        )
        network = LlamaForCausalLM(config)
    elif kind == "t5":
        config = T5Config(
            d_model=width,
            d_kv=width // heads,
            d_ff=2 * width,
            num_layers=layers,
            num_heads=heads,
            dropout_rate=0.0,
            **{"decoder_start_token_id": ids["pad_token_id"]} | ids,
        )
        network = T5ForConditionalGeneration(config)
    else:
        config = BartConfig(
            d_model=width,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=2 * width,
            decoder_ffn_dim=2 * width,
            max_position_embeddings=256,
            forced_eos_token_id=None,
            dropout=0.0,
            **{"decoder_start_token_id": END} | ids,
        )
        network = BartForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, std, generator=generator)
    return network.eval().double()


def wrap(network):
    """The network as the project's language model, without a real tokenizer."""
    tokenizer = SimpleNamespace(pad_token_id=network.config.pad_token_id, eos_token_id=END)
    whole = EncoderDecoderModel if network.config.is_encoder_decoder else CausalLanguageModel
    return whole(network, tokenizer, torch.float32)


def make_model(name, network, max_answer_tokens=6, labels=None, decoding=None, **fields):
    """A RAG model that is fed ids, not text. `labels` are ids without the end token, by name."""
    language_model = wrap(network)
    kind = "encoder_decoder" if network.config.is_encoder_decoder else "causal"
    option = OPTIONS[name](
        generator=Generator(weights="random:t5", kind=kind),
        decoding=Decoding(**decoding or {}),
        **fields,
    )
    labels = labels or {}
    task = SimpleNamespace(max_answer_tokens=max_answer_tokens, labels=tuple(labels))
    prompts = SimpleNamespace(task=task, encode_answer=lambda label: [*labels[label], END])
    return option._network()(option, language_model, None, prompts).eval()


def make_questions(seed, counts, vocabulary=24, longest=9, longest_answer=5):
    """Questions with as many prompts as counts say, a prior and an answer each."""
    generator = torch.Generator().manual_seed(seed)

    def draw_ids(low, high):
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return torch.randint(3, vocabulary, (length,), generator=generator).tolist()

    return [
        SimpleNamespace(
            prompts=[draw_ids(1, longest) for _ in range(count)],
            prior=torch.log_softmax(
                1.5 * torch.randn(count, generator=generator, dtype=torch.float64), 0
            ),
            answer=[*draw_ids(0, longest_answer - 1), END],
        )
        for count in counts
    ]


def set_decoding(model, **changes):
    decoding = model.option.decoding.model_copy(update=changes)
    model.option = model.option.model_copy(update={"decoding": decoding})


def teach(model, questions, steps=30, learning_rate=0.03):
    """Train a little: random models repeat one token for ever, answers should end by themselves."""
    batch = collate(model, questions)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            optimizer.step()
    model.zero_grad()


def gradients(network):
    """Of every parameter that is used, which are then cleared."""
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def assert_same_gradients(actual, expected, tolerance=1e-6):
    """Within a share of each tensor's norm, or of a thousandth of the norm of all."""
    whole = float(torch.stack([g.norm() for g in expected.values()]).norm())
    assert whole > 0
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(float(gradient.norm()), 1e-3 * whole)
        assert float((actual[name] - gradient).norm()) < tolerance * scale, name


def collate(model, questions):
    """The batch that `RagModel.collate` would make of these ids."""
    language_model = model.generator
    prompt_ids, prompt_mask = language_model.pad_prompts([p for q in questions for p in q.prompts])
    answer_ids, answer_mask = language_model.pad_answers([q.answer for q in questions])
    most = max(len(q.prompts) for q in questions)
    slots = torch.full((len(questions), most), -1)
    prior = torch.full((len(questions), most), -torch.inf, dtype=torch.float64)
    row = 0
    for i, q in enumerate(questions):
        for n in range(len(q.prompts)):
            slots[i, n], prior[i, n] = row, q.prior[n]
            row += 1
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "slots": slots,
        "log_prior": prior,
        "answer_ids": answer_ids,
        "answer_mask": answer_mask,
    }


def without_targets(batch):
    return {name: x for name, x in batch.items() if not name.startswith("answer")}


def decode(model, questions):
    """Answer ids of questions, as `RagModel.answer` makes them, up to their end token."""
    with model.evaluating():
        state, slots, prior = model.read(without_targets(collate(model, questions)))
        return [clip(ids) for ids in model.decode(state, slots, prior).tolist()]


def clip(ids):
    """Ids up to the end token."""
    return ids[: ids.index(END) + 1] if END in ids else ids


# -- references ------------------------------------------------------------------------------


def keep(compute):
    """Remember log-probabilities of a network, where no gradient is asked for."""
    kept = weakref.WeakKeyDictionary()

    def look_up(network, prompt, answer=()):
        if torch.is_grad_enabled():
            return compute(network, prompt, answer)
        own = kept.setdefault(network, {})
        key = (str(prompt), tuple(answer))
        if key not in own:
            own[key] = compute(network, prompt, answer)
        return own[key].clone()

    return look_up


@keep
def next_log_probs(network, prompt, answer):
    """log p(v | prompt, answer so far): [v]."""
    if network.config.is_encoder_decoder:
        start = network.config.decoder_start_token_id
        logits = network(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *answer]])
        ).logits
    else:
        logits = network(torch.tensor([[*prompt, *answer]])).logits
    return torch.log_softmax(logits[0, -1], -1)


def answer_log_probs(network, prompt, answer):
    """log p(y_t | prompt, y_<t) of each token: [t]."""
    return torch.stack(
        [next_log_probs(network, prompt, answer[:t])[y] for t, y in enumerate(answer)]
    )


@keep
def fused_next_log_probs(network, prompts, answer):
    """Fusion-in-Decoder: encode each prompt alone, concatenate the states, decode: [v]."""
    encoder = network.get_encoder()
    states = torch.cat([encoder(torch.tensor([p])).last_hidden_state for p in prompts], 1)
    start = network.config.decoder_start_token_id
    logits = network(
        encoder_outputs=(states,), decoder_input_ids=torch.tensor([[start, *answer]])
    ).logits
    return torch.log_softmax(logits[0, -1], -1)


def log_likelihood(name, network, question, answer=None):
    """log p(y|x) by the formulas of the papers."""
    answer = question.answer if answer is None else answer
    if name == "fusion":
        each = [
            fused_next_log_probs(network, question.prompts, answer[:t])[y]
            for t, y in enumerate(answer)
        ]
        return torch.stack(each).sum()
    each = torch.stack([answer_log_probs(network, p, answer) for p in question.prompts])
    if name == "concat":
        assert len(each) == 1
        return each[0].sum()
    if name == "rag_sequence":
        return (question.prior + each.sum(1)).exp().sum().log()
    return (question.prior[:, None] + each).exp().sum(0).log().sum()


def mixed_log_probs(network, question, answer):
    """log sum_z p(z|x) p(v | x, z, answer so far): [v]."""
    rows = [next_log_probs(network, p, answer) for p in question.prompts]
    return (question.prior[:, None] + torch.stack(rows)).exp().sum(0).log()


def decode_greedily(following, longest):
    """Answer whose every token is the likeliest; `following(answer)` are log-probs [v]."""
    answer = []
    while len(answer) < longest and END not in answer:
        answer.append(int(following(answer).argmax()))
    return answer


def search_beams(following, longest, beams, length_penalty=1.0):
    """Beam search as transformers defines it, with lists; all finished answers, best first.

    2 x beams continuations are looked at; one that ends counts if it is among the first `beams`.
    A question is done when its best running score over length^penalty is below every finished one.
    """
    running, finished = [(0.0, [])], []
    for length in range(1, longest + 1):
        grown = [
            (score + value, [*answer, token])
            for score, answer in running
            for token, value in enumerate(following(answer).tolist())
        ]
        grown = sorted(grown, key=lambda item: -item[0])[: 2 * beams]
        ended = [answer[-1] == END or length == longest for _, answer in grown]
        finished += [
            (score / length**length_penalty, answer)
            for (score, answer), over in zip(grown[:beams], ended[:beams], strict=True)
            if over
        ]
        finished = sorted(finished, key=lambda item: -item[0])[:beams]
        running = [item for item, over in zip(grown, ended, strict=True) if not over][:beams]
        if length == longest:
            break
        full = len(finished) == beams
        if full and running[0][0] / length**length_penalty <= finished[-1][0]:
            break
    return [answer for _, answer in finished]


def rescore(network, question, candidates, fast=False):
    """The likeliest candidate under p(y|x) of RAG-Sequence; `candidates[z]` came from passage z."""

    def score(answer):
        joint = [
            prior + answer_log_probs(network, prompt, answer).sum()
            for prior, prompt, own in zip(question.prior, question.prompts, candidates, strict=True)
            if not fast or answer in own
        ]
        return float(torch.stack(joint).exp().sum().log())

    unique = [list(a) for a in dict.fromkeys(tuple(a) for own in candidates for a in own)]
    return max(unique, key=score)


def chi_square_p_value(observed, probabilities):
    """P(a statistic as large) of Pearson's test; outcomes expected less than 5 times are pooled."""
    total = sum(observed)
    pooled_seen, pooled_expected, statistic, bins = 0.0, 0.0, 0.0, 0
    for seen, probability in zip(observed, probabilities, strict=True):
        expected = total * probability
        if expected < 5:
            pooled_seen, pooled_expected = pooled_seen + seen, pooled_expected + expected
        else:
            statistic, bins = statistic + (seen - expected) ** 2 / expected, bins + 1
    if pooled_expected > 0:
        statistic += (pooled_seen - pooled_expected) ** 2 / pooled_expected
        bins += 1
    freedom = torch.tensor((bins - 1) / 2, dtype=torch.float64)
    p_value = torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64))
    return float(p_value) if math.isfinite(statistic) else 0.0
