"""Large corpora: embedding goes on where it was, indexes are read from disk, builds are planned."""

import shutil

import numpy as np
import pytest
from datasets import Dataset

from rag_experiments import encoder as encoders
from rag_experiments.contracts import Runtime
from rag_experiments.retriever import embeddings
from rag_experiments.retriever.encoder import Encoder
from rag_experiments.store.entries import Store

TINY = Encoder(weights="random:bert", max_length=64, batch_size=3)


def make_passages(count: int) -> Dataset:
    """Passages of many lengths, so that their order within a shard is not that of the corpus."""
    texts = ["word " * (1 + i * 7 % 11) + str(i) for i in range(count)]
    ids = [f"p{i}" for i in range(count)]
    return Dataset.from_dict({"id": ids, "title": [""] * count, "text": texts, "document_id": ids})


@pytest.fixture
def shards_of_eight(monkeypatch):
    """Shards that a few passages fill, with the texts that each call of the encoder is given."""
    monkeypatch.setattr(embeddings, "SHARD", 8)
    monkeypatch.setattr(encoders, "_SORTED_AT_ONCE", 4)
    encode = encoders.TextEncoder.encode
    asked = []

    def counted(self, texts, *others, **named):
        asked.append(len(texts))
        return encode(self, texts, *others, **named)

    monkeypatch.setattr(encoders.TextEncoder, "encode", counted)
    return asked


def stop_after(monkeypatch, calls: int) -> None:
    """Let the encoder end the process, so to speak, after some calls."""
    encode = encoders.TextEncoder.encode
    left = iter(range(calls))

    def stopping(self, *others, **named):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return encode(self, *others, **named)

    monkeypatch.setattr(encoders.TextEncoder, "encode", stopping)


# --- Embedding --------------------------------------------------------------------------------


def test_a_shard_is_whole_blocks_of_the_encoder():
    assert embeddings.SHARD % encoders._SORTED_AT_ONCE == 0


def test_shards_change_no_bit(shards_of_eight, tmp_path, monkeypatch):
    passages = make_passages(21)
    found = embeddings.embed_passages(passages, TINY, Runtime(cache_dir=tmp_path / "a"))
    assert shards_of_eight == [8, 8, 5]
    whole = TINY.load(Runtime(cache_dir=tmp_path / "a")).encode(passages["text"], TINY.batch_size)
    np.testing.assert_array_equal(found.vectors, whole)
    np.save(tmp_path / "whole.npy", whole)
    (file,) = tmp_path.glob("a/store/embeddings/*/vectors.npy")
    assert file.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    monkeypatch.setattr(embeddings, "SHARD", 1 << 15)
    again = embeddings.embed_passages(passages, TINY, Runtime(cache_dir=tmp_path / "b"))
    np.testing.assert_array_equal(again.vectors, whole)
    assert again.passages == found.passages
    assert again.key == found.key


@pytest.mark.parametrize("left", ["as it was", "half a shard more", "a shard damaged", "no record"])
def test_an_interrupted_embedding_goes_on_with_its_shard(
    left, shards_of_eight, tmp_path, monkeypatch, caplog
):
    runtime, passages = Runtime(cache_dir=tmp_path), make_passages(30)
    expected = TINY.load(runtime).encode(passages["text"], TINY.batch_size)
    shards_of_eight.clear()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            embeddings.embed_passages(passages, TINY, runtime)
    assert list(Store(tmp_path).entries()) == []
    (partial,) = tmp_path.glob("store/embeddings/.*.begun")
    file = partial / "vectors.npy"
    if left == "half a shard more":  # killed in the middle of a write, or of a record
        file.write_bytes(file.read_bytes() + b"\1" * 100)
        (partial / ".shards.json.123").write_text("[")
    if left == "a shard damaged":
        content = bytearray(file.read_bytes())
        content[-1] ^= 0xFF
        file.write_bytes(content)
    if left == "no record":
        (partial / "shards.json").write_text('[{"passages"')

    found = embeddings.embed_passages(passages, TINY, runtime)
    done = {"a shard damaged": 1, "no record": 0}.get(left, 2)
    assert shards_of_eight[2:] == [8, 8, 8, 6][done:]
    np.testing.assert_array_equal(found.vectors, expected)
    ((_, entry),) = Store(tmp_path).entries()
    entry.check()
    assert sorted(entry.files) == ["shards.json", "vectors.npy"]
    assert ("a shard is damaged" in caplog.text) == (left == "a shard damaged")
    assert not list(Store(tmp_path).begun())


def test_a_corpus_that_grows_embeds_its_new_shards_alone(shards_of_eight, tmp_path):
    runtime, grown = Runtime(cache_dir=tmp_path), make_passages(37)
    embeddings.embed_passages(grown.select(range(20)), TINY, runtime)
    assert shards_of_eight == [8, 8, 4]
    found = embeddings.embed_passages(grown, TINY, runtime)
    assert shards_of_eight[3:] == [8, 8, 5]
    whole = TINY.load(runtime).encode(grown["text"], TINY.batch_size)
    np.testing.assert_array_equal(found.vectors, whole)
    # With other settings no vector is the same.
    shards_of_eight.clear()
    embeddings.embed_passages(grown, TINY.model_copy(update={"pooling": "cls"}), runtime)
    assert shards_of_eight == [8, 8, 8, 8, 5]


@pytest.mark.parametrize("damage", ["vectors changed", "vectors cut", "vectors gone", "record"])
def test_a_damaged_entry_gives_no_shard(damage, shards_of_eight, tmp_path):
    runtime, grown = Runtime(cache_dir=tmp_path), make_passages(20)
    embeddings.embed_passages(grown.select(range(16)), TINY, runtime)
    (file,) = tmp_path.glob("store/embeddings/*/vectors.npy")
    content = bytearray(file.read_bytes())
    if damage == "vectors changed":
        content[-1] ^= 0xFF
        file.write_bytes(content)
    elif damage == "vectors cut":
        file.write_bytes(content[:-40])
    elif damage == "vectors gone":
        file.unlink()
    else:
        (file.parent / "shards.json").write_text("{}")
    shards_of_eight.clear()
    found = embeddings.embed_passages(grown, TINY, runtime)
    assert shards_of_eight == ([8, 4] if damage == "vectors changed" else [8, 8, 4])
    shutil.rmtree(tmp_path / "store")
    anew = embeddings.embed_passages(grown, TINY, runtime)
    np.testing.assert_array_equal(found.vectors, anew.vectors)
