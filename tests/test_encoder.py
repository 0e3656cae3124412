"""The encoder against plain transformers code, and against sentence-transformers."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
)

from rag_experiments.contracts import Runtime, UserError
from rag_experiments.encoder import TextEncoder
from rag_experiments.weights import resolve

TEXTS = ["E. coli", "a much longer text about plasmids and restriction enzymes", "", "pH 7"]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def folder(runtime):
    return resolve("random:bert", runtime.cache_dir)


def reference(folder, text, pooling, normalize):
    """One text at a time, no padding: nothing to mask."""
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        states = network.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    vector = states.mean(0) if pooling == "mean" else states[0]
    return (vector / vector.norm() if normalize else vector).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_vectors_equal_the_plain_computation(folder, runtime, pooling, normalize, batch_size):
    encoder = TextEncoder.load(folder, runtime, pooling, normalize)
    vectors = encoder.encode(TEXTS, batch_size=batch_size)
    assert vectors.shape == (4, 32) == (4, encoder.dimension)
    assert vectors.dtype == np.float32
    expected = np.stack([reference(folder, text, pooling, normalize) for text in TEXTS])
    np.testing.assert_allclose(vectors, expected, atol=2e-6)


def test_texts_read_in_parts_have_the_same_vectors_and_gradients(folder, runtime, monkeypatch):
    found = []
    for limit in (2048, 8):  # tokens in a call
        monkeypatch.setattr("rag_experiments.encoder._TOKENS_AT_ONCE", limit)
        encoder = TextEncoder.load(folder, runtime)
        calls: list[int] = []
        encoder.network.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        vectors = encoder.forward_texts(TEXTS)
        (vectors**3).sum().backward()
        found.append((vectors, encoder.network.embeddings.word_embeddings.weight.grad, len(calls)))
    (whole, expected, calls), (parted, actual, more) = found
    assert calls < more
    torch.testing.assert_close(parted, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_forward_has_a_gradient_and_the_same_values(folder, runtime):
    encoder = TextEncoder.load(folder, runtime)
    vectors = encoder.forward_texts(TEXTS)
    np.testing.assert_allclose(vectors.detach().numpy(), encoder.encode(TEXTS), atol=2e-6)
    vectors[:, 0].sum().backward()
    assert encoder.network.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_encoding_while_training_has_no_dropout_and_leaves_the_mode(folder, runtime):
    encoder = TextEncoder.load(folder, runtime)
    expected = encoder.encode(TEXTS)
    encoder.network.train()
    np.testing.assert_array_equal(encoder.encode(TEXTS), expected)
    assert encoder.network.training
    assert not torch.allclose(encoder.forward_texts(TEXTS), torch.tensor(expected))  # dropout


def test_no_texts(folder, runtime):
    assert TextEncoder.load(folder, runtime).encode([]).shape == (0, 32)


def test_blocks_change_nothing(folder, runtime, monkeypatch):
    encoder = TextEncoder.load(folder, runtime)
    expected = encoder.encode(TEXTS)
    monkeypatch.setattr("rag_experiments.encoder._SORTED_AT_ONCE", 3)
    np.testing.assert_allclose(encoder.encode(TEXTS, batch_size=2), expected, atol=2e-6)


def test_a_cpu_reads_few_long_texts_at_once(folder, runtime, monkeypatch):
    encoder = TextEncoder.load(folder, runtime)
    expected, seen = encoder.encode(TEXTS), []
    encoder.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr("rag_experiments.encoder._TOKENS_AT_ONCE", 20)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=2e-6)
    assert len(seen) > 1
    assert all(rows == 1 or rows * tokens <= 20 for rows, tokens in seen)
    assert sum(rows for rows, _ in seen) == len(TEXTS)


def test_cut_texts_are_counted(folder, runtime, caplog):
    encoder = TextEncoder.load(folder, runtime, max_length=8)
    with caplog.at_level(logging.INFO):
        vectors = encoder.encode(["abcdefgh", "abcdef", "x"])  # two special tokens each
    assert encoder.texts_cut == 1
    assert "1 of 3 texts are longer than 8 tokens" in caplog.text
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_a_length_beyond_the_positions_is_refused(folder, runtime):
    with pytest.raises(
        UserError,
        match=r"^a\.b\.max_length: 4096 is more than the encoder reads; legal: at most 2048",
    ):
        TextEncoder.load(folder, runtime, max_length=4096, place="a.b")


@pytest.mark.parametrize("frozen", [False, True])
def test_bfloat16_stays_close_and_returns_float32(folder, runtime, frozen):
    half = dataclasses.replace(runtime, dtype="bfloat16")
    encoder = TextEncoder.load(folder, half, frozen=frozen)
    # What may be trained keeps all its digits.
    held = {p.dtype for p in encoder.network.parameters()}
    assert held == {torch.bfloat16 if frozen else torch.float32}
    vectors = encoder.encode(TEXTS)
    exact = TextEncoder.load(folder, runtime).encode(TEXTS)
    assert vectors.dtype == np.float32
    assert not np.array_equal(vectors, exact)
    assert (vectors * exact).sum(1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_saved_and_loaded_with_its_settings(folder, runtime, tmp_path):
    encoder = TextEncoder.load(folder, runtime, "cls", False, 16)
    encoder.save(tmp_path / "encoder")
    settings = json.loads((tmp_path / "encoder" / "encoder.json").read_text())
    assert settings == {
        "pooling": "cls",
        "normalize": False,
        "max_length": 16,
        "dtype": "float32",
    }
    again = TextEncoder.load(
        tmp_path / "encoder", runtime, pooling="cls", normalize=False, max_length=16
    )
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


@pytest.mark.parametrize("architecture", [DPRQuestionEncoder, DPRContextEncoder])
@pytest.mark.parametrize("projection", [0, 12])
def test_dpr_checkpoints(folder, runtime, tmp_path, architecture, projection):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    network = architecture(
        DPRConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=projection,
        )
    ).eval()
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder.load(tmp_path, runtime, "dpr", normalize=False)
    assert encoder.dimension == (projection or 32)
    with torch.no_grad():
        expected = [
            network(**tokenizer(text, return_tensors="pt")).pooler_output[0] for text in TEXTS
        ]
    np.testing.assert_allclose(encoder.encode(TEXTS), torch.stack(expected), atol=2e-6)


def test_dpr_pooling_of_another_architecture_is_refused(folder, runtime):
    with pytest.raises(UserError, match="'dpr' needs DPRQuestionEncoder or DPRContextEncoder"):
        TextEncoder.load(folder, runtime, "dpr")


@pytest.mark.slow
def test_minilm_equals_sentence_transformers(runtime):
    from sentence_transformers import SentenceTransformer
    from test_weights import MINILM

    folder = resolve(MINILM, runtime.cache_dir)
    texts = [*TEXTS[:2], "Insulin is made in yeast. " * 80, "CRISPR–Cas9", "x"]
    vectors = TextEncoder.load(folder, runtime, "mean", True, 256).encode(texts, batch_size=2)
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
