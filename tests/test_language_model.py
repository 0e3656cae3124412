"""Log-probabilities and decoding states against one row at a time; loading and saving."""

import dataclasses
import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rag_reference import (
    END,
    KINDS,
    answer_log_probs,
    assert_same_gradients,
    decode_greedily,
    gradients,
    make_network,
    next_log_probs,
    wrap,
)
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from rag_experiments.contracts import Runtime, UserError
from rag_experiments.functional import rows
from rag_experiments.functional.rows import pad
from rag_experiments.model import language_model
from rag_experiments.model.cache import share_cache
from rag_experiments.model.generator import Generator, Lora
from rag_experiments.model.language_model import load_language_model, load_tokenizer
from rag_experiments.weights import resolve

PROMPTS = [[5, 9, 7], [11], [4, 4, 8, 15, 16, 3, 9, 10, 23, 12, 5], [20, 21, 22, 3, 4, 5, 6]]
ANSWERS = [[10, 20, 3, END], [15, END], [END], [16, 17, 18, 19, 20, END]]
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
KIND = {"llama": "causal", "t5": "encoder_decoder", "bart": "encoder_decoder"}


def make_other(kind):
    """Causal models that differ in how they know positions: window, learned, shifted, slopes."""
    sizes = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END}
    rotary = {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8}
    torch.manual_seed(0)
    network = {
        "mistral with a window": lambda: MistralForCausalLM(
            MistralConfig(sliding_window=5, **rotary, **sizes, **ids)
        ),
        "gemma3": lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(sliding_window=5, **rotary, **sizes, **ids)
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=24, n_embd=16, n_layer=2, n_head=2, n_positions=64, **ids)
        ),
        "opt": lambda: OPTForCausalLM(
            OPTConfig(ffn_dim=24, word_embed_proj_dim=16, **sizes, **ids)
        ),
        "bloom": lambda: BloomForCausalLM(
            BloomConfig(vocab_size=24, hidden_size=16, n_layer=2, n_head=2, **ids)
        ),
    }[kind]()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.4)
    return network.eval().double()


OTHERS = ("mistral with a window", "gemma3", "gpt2", "opt", "bloom")
CASES = [
    (kind, dtype, "sdpa")
    for kind in KINDS + OTHERS
    for dtype in TOLERANCES
    # transformers' BLOOM is not defined in fp64 (its softmax in fp32 overflows the mask).
    if (kind, dtype) != ("bloom", torch.float64)
] + [(kind, torch.float32, "eager") for kind in KINDS]


def make_any(kind):
    return make_other(kind) if kind in OTHERS else make_network(kind, seed=1)


def batch(model, chosen):
    ids, mask = model.pad_prompts([PROMPTS[i] for i in chosen])
    answers, answer_mask = model.pad_answers([ANSWERS[i] for i in chosen])
    return ids, mask, answers, answer_mask


def widest_error(actual, expected):
    """Over the tokens of answers, rows of unequal length."""
    return max(float((a[: len(e)] - e).abs().max()) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize(("kind", "dtype", "attention"), CASES)
def test_padding_and_batch_composition_change_nothing(kind, dtype, attention):
    network = make_any(kind).to(dtype)
    if kind in KINDS:
        network.set_attn_implementation(attention)
    model = wrap(network)
    with torch.no_grad():
        expected = [answer_log_probs(network, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
        for rows in ([0, 1, 2, 3], [3, 1], [2], [1, 1, 0]):
            ids, mask, answers, answer_mask = batch(model, rows)
            own = [expected[i] for i in rows]
            whole = model.answer_log_probs(ids, mask, answers, answer_mask)
            cached = model.start(ids, mask).score(answers)
            assert whole.shape == cached.shape == answers.shape
            assert widest_error(whole, own) < TOLERANCES[dtype]
            assert widest_error(cached, own) < TOLERANCES[dtype]
        # The prompts matter, else nothing above could fail.
        other = answer_log_probs(network, [8], ANSWERS[0])
        assert float((other - expected[0]).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_answer_log_probs_do_not_depend_on_the_side_of_padding(kind):
    model = wrap(make_any(kind))
    ids, mask, answers, answer_mask = batch(model, [0, 1, 2, 3])
    assert mask[:, 0].all() if kind != "llama" else mask[:, -1].all()
    longest = ids.shape[1]
    other_ids, other_mask = torch.zeros_like(ids), torch.zeros_like(mask)
    for i, prompt in enumerate(PROMPTS):  # padded on the other side
        place = slice(0, len(prompt)) if kind == "llama" else slice(longest - len(prompt), longest)
        other_ids[i, place], other_mask[i, place] = torch.tensor(prompt), True
    if kind == "t5":  # its encoder knows distances only, BART's and a decoder absolute places
        with torch.no_grad():
            one = model.answer_log_probs(ids, mask, answers, answer_mask)
            other = model.answer_log_probs(other_ids, other_mask, answers, answer_mask)
        assert widest_error(other, [row[m] for row, m in zip(one, answer_mask, strict=True)]) < 1e-9
    # Padding further on the model's own side changes nothing for any of them.
    far = torch.zeros(4, 5, dtype=ids.dtype)
    sides = (far, ids) if kind == "llama" else (ids, far)
    masks = (far.bool(), mask) if kind == "llama" else (mask, far.bool())
    with torch.no_grad():
        one = model.answer_log_probs(ids, mask, answers, answer_mask)
        wide = model.answer_log_probs(
            torch.cat(sides, 1), torch.cat(masks, 1), answers, answer_mask
        )
    assert widest_error(wide, [row[m] for row, m in zip(one, answer_mask, strict=True)]) < 1e-9


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", ["llama", "mistral with a window", "gemma3", "gpt2", "opt"])
def test_prompts_padded_on_the_left_equal_rows_padded_on_the_right(kind, dtype):
    """As causal models are usually trained: prompt, answer, and then the padding."""
    network = make_any(kind).to(dtype)
    model = wrap(network)
    rows = [[*p, *a] for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    ids, mask = pad(rows, 0, left=False)
    with torch.no_grad():
        whole = torch.log_softmax(network(input_ids=ids, attention_mask=mask.long()).logits, -1)
        actual = model.answer_log_probs(*batch(model, [0, 1, 2, 3]))
    expected = [
        torch.stack([own[len(p) + t - 1, y] for t, y in enumerate(a)])
        for own, p, a in zip(whole, PROMPTS, ANSWERS, strict=True)
    ]
    assert widest_error(actual, expected) < TOLERANCES[dtype]


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_prompts_read_in_parts_equal_prompts_read_together(kind, monkeypatch):
    network = make_any(kind).float()
    model = wrap(network)
    ids, mask, answers, answer_mask = batch(model, [0, 1, 2, 3])
    seen = []
    for tokens, start, parts in ((10_000, 10_000, 1), (2 * ids.shape[1], 10_000, 2), (1, 0, 4)):
        monkeypatch.setattr(language_model, "READ_AT_ONCE", tokens)
        monkeypatch.setattr(rows, "START", start)
        assert len(model.parts(ids, mask)) == parts
        log_probs = model.answer_log_probs(ids, mask, answers, answer_mask)
        log_probs.masked_fill(~answer_mask, 0).sum().backward()
        with torch.no_grad():
            state = model.start(ids, mask)
            state.step(answers[:, 0])
            found = [log_probs.detach(), state.next_logits, state.score(answers)]
        seen.append((found, gradients(network), state.cache.get_seq_length()))
    first, gradient, length = seen[0]
    for found, other, other_length in seen[1:]:
        for one, whole in zip(found, first, strict=True):
            real = answer_mask if one.shape == answer_mask.shape else slice(None)
            assert float((one - whole)[real].abs().max()) < 1e-5
        assert_same_gradients(other, gradient, 1e-4)
        assert other_length == length


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.sampled_from([64, 500, 10_000]))
def test_rows_are_parted_at_the_least_cost(lengths, limit):
    """Of all ways to cut the rows, sorted by length."""
    parts = rows.split_by_length(lengths, limit)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))

    def cost(parts):
        tokens = [max(lengths[row] for row in part) * len(part) for part in parts]
        fits = all(n <= limit or len(part) == 1 for n, part in zip(tokens, parts, strict=True))
        return sum(tokens) + rows.START * len(parts) if fits else math.inf

    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cuts = itertools.product([False, True], repeat=len(order) - 1)

    def part(cut):
        found = [[order[0]]]
        for row, new in zip(order[1:], cut, strict=True):
            found += [[row]] if new else []
            found[-1] += [] if new else [row]
        return found

    assert cost(parts) == min(cost(part(cut)) for cut in cuts)


def test_beams_of_a_prompt_share_what_they_attend_to():
    """Cross-attention is most of the cache: it is copied where rows change their prompt only."""
    model = wrap(make_network("bart", seed=1))
    ids, mask, _, _ = batch(model, [0, 1, 2, 3])

    def place(state):
        return state.cache.cross_attention_cache.layers[0].keys.data_ptr()

    with torch.no_grad():
        state = model.start(ids, mask).select(torch.tensor([0, 0, 3, 3]))
        assert place(state.select(torch.tensor([1, 1, 2, 3]))) == place(state)
        assert place(state.select(torch.tensor([2, 3, 0, 1]))) != place(state)


def test_a_score_copies_no_cache_and_leaves_the_state():
    """Rescoring starts from a selection, which is a copy already."""
    model = wrap(make_network("bart", seed=1))
    ids, mask, answers, _ = batch(model, [0, 1, 2, 3])
    with torch.no_grad():
        state = model.start(ids, mask)
        shared = share_cache(state.cache)
        for one, other in zip(
            shared.cross_attention_cache.layers,
            state.cache.cross_attention_cache.layers,
            strict=True,
        ):
            assert one.keys.data_ptr() == other.keys.data_ptr()
        before = [layer.keys.shape for layer in state.cache.self_attention_cache.layers]
        assert torch.equal(state.score(answers), state.score(answers))
        assert [layer.keys.shape for layer in state.cache.self_attention_cache.layers] == before


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_padded_batch_equal_those_of_rows(kind):
    network = make_network(kind, seed=2)
    model = wrap(network)
    ids, mask, answers, answer_mask = batch(model, [0, 1, 2, 3])
    log_probs = model.answer_log_probs(ids, mask, answers, answer_mask)
    log_probs.masked_fill(~answer_mask, 0).sum().backward()
    actual = gradients(network)
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        answer_log_probs(network, prompt, answer).sum().backward()
    # The norms of Llama and T5 compute in fp32 whatever the model's type is.
    assert_same_gradients(actual, gradients(network))


@pytest.mark.parametrize("kind", KINDS)
def test_label_smoothing_takes_the_whole_vocabulary(kind):
    network = make_network(kind)
    model = wrap(network)
    with torch.no_grad():
        smooth = model.answer_log_probs(*batch(model, [0, 3]), label_smoothing=0.2)
        for row, i in zip(smooth, (0, 3), strict=True):
            for t, y in enumerate(ANSWERS[i]):
                each = next_log_probs(network, PROMPTS[i], ANSWERS[i][:t])
                assert float(row[t]) == pytest.approx(float(0.8 * each[y] + 0.2 * each.mean()))


@pytest.mark.parametrize("kind", [*KINDS, "mistral with a window", "gpt2"])
def test_steps_of_a_decoding_state_equal_whole_passes(kind):
    network = make_any(kind)
    model = wrap(network)
    ids, mask, _, _ = batch(model, [0, 1, 2, 3])
    rows, tokens = [2, 0, 2, 3, 1], [[7, 3, 9, 4, 5], [3, 12, 8, 20, 6], [9, 9, 13, 4, 21]]
    with torch.no_grad():
        first = model.start(ids, mask)
        chosen = first.select(torch.tensor(rows))
        so_far = [[] for _ in rows]
        for step in [None, *tokens]:
            if step is not None:
                logits = chosen.step(torch.tensor(step))
                assert logits is chosen.next_logits
                so_far = [[*a, y] for a, y in zip(so_far, step, strict=True)]
            for place, row in enumerate(rows):
                expected = next_log_probs(network, PROMPTS[row], so_far[place])
                actual = torch.log_softmax(chosen.next_logits[place], -1)
                assert float((actual - expected).abs().max()) < 1e-9
        # Beams are exchanged on the way, and then scored from where they are.
        order = [4, 0, 0]
        exchanged = chosen.select(torch.tensor(order))
        answers = torch.tensor([[5, 6, END], [7, END, 0], [END, 0, 0]])
        scores = exchanged.score(answers)
        for place, i in enumerate(order):
            for t, y in enumerate(answers[place].tolist()):
                before = [*so_far[i], *answers[place, :t].tolist()]
                expected = next_log_probs(network, PROMPTS[rows[i]], before)[y]
                assert float((scores[place, t] - expected).abs()) < 1e-9


@pytest.mark.parametrize("kind", [*KINDS, "mistral with a window"])
def test_other_states_leave_a_state_untouched(kind):
    model = wrap(make_any(kind))
    ids, mask, answers, _ = batch(model, [0, 1, 2, 3])
    with torch.no_grad():
        state = model.start(ids, mask)
        logits, before = state.next_logits.clone(), state.score(answers)
        other = state.select(torch.tensor([0, 1, 2, 3]))
        for token in (5, 6, 7):
            other.step(torch.full((4,), token))
        other.score(answers)
        state.select(torch.tensor([3, 3])).step(torch.tensor([4, 4]))
        assert torch.equal(state.next_logits, logits)
        assert torch.equal(state.score(answers), before)
        assert torch.equal(state.mask, mask)
        state.step(torch.full((4,), 9))
        expected = next_log_probs(model.network, PROMPTS[1], [9])
        assert float((torch.log_softmax(state.next_logits[1], -1) - expected).abs().max()) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_token_is_scored(kind):
    """Without it the answer's probability would be that of a beginning."""
    model = wrap(make_network(kind))
    ids, mask, answers, answer_mask = batch(model, [1])
    assert answers.tolist() == [[15, END]]
    assert answer_mask.all()
    with torch.no_grad():
        actual = model.answer_log_probs(ids, mask, answers, answer_mask)[0, 1]
        expected = next_log_probs(model.network, PROMPTS[1], [15])[END]
    assert float(actual) == pytest.approx(float(expected), abs=1e-9)


def test_greedy_steps_need_no_reference_cache():
    """The reference itself, on a network that transformers decodes."""
    network = make_network("t5", seed=4, vocabulary=12)
    with torch.no_grad():
        theirs = network.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False)
        ours = decode_greedily(lambda a: next_log_probs(network, [5, 6, 7], a), 8)
    assert theirs[0, 1:].tolist() == ours


# -- loading and saving ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(cache_dir=tmp_path_factory.mktemp("cache"))


def make_option(kind, adapter=None):
    return Generator(weights=f"random:{kind}", kind=KIND[kind], adapter=adapter)


def log_probs(model):
    with torch.no_grad(), model.eval().autocast():
        return model.answer_log_probs(*batch(model, [0, 1, 2, 3]))


def move_weights(model, trained_only=True):
    """As training would."""
    for parameter in model.network.parameters():
        if parameter.requires_grad or not trained_only:
            parameter.data += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_alone_are_saved_and_come_back(kind, runtime, tmp_path):
    option = make_option(kind, Lora(rank=4))
    torch.manual_seed(0)
    model = load_language_model(option, runtime)
    trained = [n for n, p in model.network.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    untouched = log_probs(model)
    # A new adapter changes nothing.
    assert torch.equal(untouched, log_probs(load_language_model(make_option(kind), runtime)))
    move_weights(model)
    expected = log_probs(model)
    assert not torch.allclose(expected, untouched, atol=1e-2)
    model.save(tmp_path)
    whole = (resolve(option.weights, runtime.cache_dir) / "model.safetensors").stat().st_size
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < whole / 2
    assert not (tmp_path / "model.safetensors").exists()
    again = load_language_model(option, runtime, tmp_path)
    assert torch.equal(log_probs(again), expected)
    assert [n for n, p in again.network.named_parameters() if p.requires_grad] == trained
    assert load_tokenizer(tmp_path).get_vocab() == model.tokenizer.get_vocab()


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_left_out_as_long_as_they_change_nothing(kind, runtime):
    model = load_language_model(make_option(kind, Lora(rank=4)), runtime)
    trained = [n for n, p in model.network.named_parameters() if p.requires_grad]
    expected = log_probs(model)
    down = [p for n, p in model.network.named_parameters() if ".lora_A." in n]
    values = [p.detach().clone() for p in down]
    for matrix in down:
        matrix.data.fill_(torch.nan)  # which a product with it would show
    assert log_probs(model).isnan().any()
    with model.without_idle_adapters():
        assert torch.equal(log_probs(model), expected)
    assert [n for n, p in model.network.named_parameters() if p.requires_grad] == trained
    for matrix, value in zip(down, values, strict=True):
        matrix.data.copy_(value)
    move_weights(model)
    moved = log_probs(model)
    assert not torch.allclose(moved, expected)
    with model.without_idle_adapters():
        assert torch.equal(log_probs(model), moved)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_train_on_after_a_prediction(kind, precision, runtime):
    runtime = dataclasses.replace(runtime, dtype=precision)
    model = load_language_model(make_option(kind, Lora(rank=4)), runtime)
    with torch.inference_mode():
        log_probs(model)
    model.train()
    with model.autocast():
        model.answer_log_probs(*batch(model, [0, 1])).sum().backward()
    trained = [p for p in model.network.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert any(p.grad.abs().sum() > 0 for p in trained)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_weights_are_saved_and_come_back(kind, runtime, tmp_path):
    model = load_language_model(make_option(kind), runtime)
    assert all(p.requires_grad for p in model.network.parameters())
    torch.manual_seed(0)
    move_weights(model)
    expected = log_probs(model)
    model.save(tmp_path)
    again = load_language_model(make_option(kind), runtime, tmp_path)
    assert torch.equal(log_probs(again), expected)
    # From the folder alone, as any user of transformers would.
    alone = Generator(weights=str(tmp_path), kind=KIND[kind]).load(runtime)
    assert torch.equal(log_probs(alone), expected)


@pytest.mark.parametrize("adapter", [None, Lora(rank=2)])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_saved_names_a_folder_of_this_machine(kind, adapter, runtime, tmp_path):
    load_language_model(make_option(kind, adapter), runtime).save(tmp_path / "first")
    again = load_language_model(make_option(kind, adapter), runtime, tmp_path / "first")
    again.save(tmp_path / "second")
    if adapter is not None:
        config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == f"random:{kind}"
    for file in tmp_path.rglob("*"):
        if file.is_file():
            text = file.read_bytes()
            assert str(tmp_path).encode() not in text, file.name
            assert str(runtime.cache_dir).encode() not in text, file.name


def test_saving_adapters_asks_nobody(runtime, tmp_path, monkeypatch):
    """peft looks the base model up on the Hub to see whether the vocabulary has grown."""

    def fail(*_, **__):
        raise AssertionError("asked the Hub")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", fail)
    load_language_model(make_option("llama", Lora(rank=2)), runtime).save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("kind", "wrong"), [("llama", "encoder_decoder"), ("t5", "causal")])
def test_weights_of_the_other_kind_are_refused(kind, wrong, runtime):
    option = Generator(weights=f"random:{kind}", kind=wrong)
    with pytest.raises(UserError) as caught:
        load_language_model(option, runtime)
    assert caught.value.problems == (
        f"model.generator.kind: {wrong!r}, but the weights 'random:{kind}' are {KIND[kind]!r}; "
        f"set model.generator.kind={KIND[kind]}",
    )


def test_a_tokenizer_without_an_end_is_refused_and_without_padding_mended(runtime, tmp_path):
    tokenizer = load_tokenizer(resolve("random:llama", runtime.cache_dir))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no end token"):
        load_tokenizer(tmp_path)


def test_an_encoder_decoder_without_a_start_token_begins_with_the_text_start(runtime, tmp_path):
    folder = resolve("random:bart", runtime.cache_dir)
    network = AutoModelForSeq2SeqLM.from_pretrained(folder)
    for config in (network.config, network.generation_config):
        config.decoder_start_token_id = None
    network.save_pretrained(tmp_path)
    load_tokenizer(folder).save_pretrained(tmp_path)
    model = Generator(weights=str(tmp_path), kind="encoder_decoder").load(runtime)
    assert model.start_id == network.config.bos_token_id
    network.generation_config.decoder_start_token_id = 5
    network.save_pretrained(tmp_path)
    model = Generator(weights=str(tmp_path), kind="encoder_decoder").load(runtime)
    assert model.start_id == 5


# -- precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_changes_matrix_products_only(kind, runtime):
    """Frozen weights kept in bfloat16 give what autocast makes of them in float32: not more
    rounding, as embeddings in bfloat16 would bring (they share their matrix with the head)."""
    half = dataclasses.replace(runtime, dtype="bfloat16")
    torch.manual_seed(0)
    model = load_language_model(make_option(kind, Lora(rank=4)), half)
    plain = load_language_model(make_option(kind), half)  # trained whole, so in float32
    assert all(p.dtype == torch.float32 for p in plain.network.parameters())
    frozen = [
        m
        for m in model.network.modules()
        if isinstance(m, nn.Linear) and not m.weight.requires_grad
    ]
    assert frozen
    assert all(m.weight.dtype == torch.bfloat16 for m in frozen)
    assert model.network.get_input_embeddings().weight.dtype == torch.float32
    assert torch.equal(log_probs(model), log_probs(plain))
    exact = log_probs(load_language_model(make_option(kind), runtime))
    assert not torch.equal(log_probs(model), exact)
    assert torch.allclose(log_probs(model), exact, atol=0.1)
    assert log_probs(model).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", [None, Lora(rank=2)])
def test_gradient_checkpointing_changes_memory_alone(kind, adapter, runtime):
    gradients = []
    for checkpointing in (False, True):
        option = make_option(kind, adapter).model_copy(
            update={"gradient_checkpointing": checkpointing}
        )
        torch.manual_seed(0)
        model = load_language_model(option, runtime)
        for module in model.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.network.config.dropout = 0.0
        model.train()
        ids, mask, answers, answer_mask = batch(model, [0, 1, 2, 3])
        values = model.answer_log_probs(ids, mask, answers, answer_mask)
        values[answer_mask].sum().backward()
        gradients.append(
            {n: p.grad for n, p in model.network.named_parameters() if p.requires_grad}
        )
    assert any(g is not None and g.abs().sum() > 0 for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        if gradient is None:
            assert gradients[1][name] is None
        else:
            torch.testing.assert_close(gradients[1][name], gradient)
