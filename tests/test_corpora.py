"""Large corpora: embedding goes on where it was, indexes are read from disk, builds are planned."""

import shutil
from dataclasses import replace

import faiss
import numpy as np
import pytest
from datasets import Dataset

from rag_experiments import encoder as encoders
from rag_experiments.contracts import Runtime, UserError
from rag_experiments.retriever import embeddings, passage_rows, scan
from rag_experiments.retriever import estimate as estimates
from rag_experiments.retriever.base import fingerprint_passages
from rag_experiments.retriever.dense_search import DenseSearcher
from rag_experiments.retriever.encoder import Encoder
from rag_experiments.retriever.estimate import Estimate, Work, estimate
from rag_experiments.retriever.index import Flat, Hnsw, IvfPq
from rag_experiments.retriever.passage_rows import PassageRows
from rag_experiments.retriever.scan import VectorScan
from rag_experiments.runtime import disk, memory
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


# --- Indexes ----------------------------------------------------------------------------------


def make_vectors(count: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def stored(tmp_path):
    """Writes vectors, and maps them."""

    def store(vectors: np.ndarray) -> np.ndarray:
        np.save(tmp_path / "vectors.npy", vectors)
        return np.load(tmp_path / "vectors.npy", mmap_mode="r")

    return store


@pytest.mark.parametrize("queries", [1, 64])
@pytest.mark.parametrize("count", [1, 7, 150])
def test_a_scan_has_the_hits_and_scores_of_a_flat_index(queries, count, stored, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 1024)
    vectors, asked = make_vectors(3000), make_vectors(queries, seed=1)
    index = faiss.IndexFlatIP(32)
    index.add(vectors)
    scores, rows = VectorScan(stored(vectors)).search(asked, count)
    expected_scores, expected_rows = index.search(asked, count)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("block", [4, 10, 1000])
def test_of_equal_scores_a_scan_finds_the_first(block, monkeypatch):
    """Vectors of whole numbers: scores are exact, and most of them are shared."""
    monkeypatch.setattr(scan, "BLOCK", block)
    vectors = np.random.default_rng(0).integers(-1, 2, size=(200, 4)).astype(np.float32)
    asked = np.random.default_rng(1).integers(-1, 2, size=(30, 4)).astype(np.float32)
    for count in (1, 5, 60, 200):
        scores, rows = VectorScan(vectors).search(asked, count)
        exact = asked @ vectors.T
        order = np.argsort(-exact, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_array_equal(scores, np.take_along_axis(exact, order, axis=1))


INDEXES = {
    "flat": Flat(),
    "hnsw": Hnsw(m=8, ef_construction=20),
    "ivf_pq": IvfPq(nlist=10, nprobe=4, m=8, nbits=4),
}


@pytest.mark.parametrize("name", list(INDEXES))
def test_an_index_that_stays_on_disk_finds_what_one_in_memory_finds(
    name, stored, tmp_path, monkeypatch
):
    """Also when it is saved from there, and its first file is gone."""
    option, vectors, asked = INDEXES[name], stored(make_vectors(500)), make_vectors(9, seed=1)
    passages = make_passages(500)
    built = DenseSearcher(passages, vectors, option.build(vectors), option.refine_factor, "print")
    expected = built.search_vectors(asked, 5)
    built.fingerprint = fingerprint_passages(passages)
    built.save(tmp_path / "first")
    first = DenseSearcher.load(tmp_path / "first", passages, option)
    assert first.search_vectors(asked, 5) == expected
    first.save(tmp_path / "second")
    files = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    first.save(tmp_path / "first")  # over itself
    shutil.rmtree(tmp_path / "first")
    assert first.search_vectors(asked, 5) == expected
    second = DenseSearcher.load(tmp_path / "second", passages, option)
    assert second.search_vectors(asked, 5) == expected


def test_clusters_grow_with_the_corpus():
    assert [IvfPq().clusters(n) for n in (10, 1_600, 10_000, 1_000_000)] == [1, 40, 250, 4000]
    assert IvfPq(nlist=7).clusters(1_000_000) == 7
    assert IvfPq(nlist=None, nbits=4).data_problems(16) == []


# --- Rows -------------------------------------------------------------------------------------


def test_rows_of_passages_are_found_by_id(monkeypatch):
    passages = make_passages(50).select([*range(10, 50), *range(5)])
    rows = PassageRows(passages)
    ids = list(passages["id"])
    assert rows.name([3, 44, 3]) == [ids[3], ids[44], ids[3]]
    assert rows.name([]) == []
    assert rows.find(ids[::-1]) == list(range(45))[::-1]
    assert rows.find([]) == []
    assert rows.find_one(ids[7]) == 7
    for missing in ("p7", "p51", ""):
        with pytest.raises(KeyError):
            rows.find([ids[0], missing])


def test_ids_whose_hashes_collide_are_told_apart(monkeypatch):
    monkeypatch.setattr(passage_rows, "hash", lambda text: len(text), raising=False)
    rows = PassageRows(make_passages(120))
    assert rows.find([f"p{i}" for i in range(120)]) == list(range(120))
    with pytest.raises(KeyError):
        rows.find_one("p1x")


# --- Estimates --------------------------------------------------------------------------------


def test_what_a_build_takes_by_hand():
    """1000 vectors of 8 numbers, 32 bytes each; 600 of them written, 500 embedded."""
    work = Work(count=1000, dimension=8, embedded=500, written=600, held=100)
    flat = estimate(work, Flat(), 0.5, 0.0)
    assert flat == Estimate(250.0, 0.0, 100 * 16_000, 600 * 32)
    # 2 x 4 links below, 4 / 3 above, 4 bytes each; 12 bytes of bookkeeping: 32 + 37.33 + 12.
    graph = Hnsw(m=4)
    assert graph.disk(1000, 8) == 81_333
    assert estimate(work, graph, None, 3.0) == Estimate(None, 3.0, 1_600_000, 19_200 + 81_333)
    done = replace(work, embedded=0, written=0, held=0)
    assert estimate(done, graph, None, 3.0) == Estimate(None, 3.0, 81_333 + 16_000, 81_333)
    # 25 clusters and 16 centroids of 32 bytes; codes of 2 bytes and rows of 8.
    codes = IvfPq(m=4, nbits=4)
    assert codes.clusters(1000) == 25
    assert codes.disk(1000, 8) == 1000 * 10 + 41 * 32
    assert codes.memory(1000, 8) == 2 * 1000 * 32 + 2 * codes.disk(1000, 8) + 25 * 32
    # Of ten million, 64 for each of 12,649 clusters are learnt from, twice in memory.
    assert codes.memory(10**7, 384) == pytest.approx((2 * 64 + 1) * 12_649 * 1536)


@pytest.mark.parametrize("name", ["hnsw", "ivf_pq"])
def test_the_estimate_of_disk_is_that_of_the_file(name, tmp_path):
    option, vectors = INDEXES[name], make_vectors(5000)
    faiss.write_index(option.build(vectors), str(tmp_path / "index"))
    assert option.disk(5000, 32) == pytest.approx((tmp_path / "index").stat().st_size, rel=0.02)


def test_what_cannot_fit_is_refused_before_anything_is_embedded(
    shards_of_eight, tmp_path, monkeypatch
):
    runtime, passages = Runtime(cache_dir=tmp_path), make_passages(20)
    (dimension,) = TINY.load(runtime).encode(["x"]).shape[1:]
    shards_of_eight.clear()
    room = {"memory": 10_000, "disk": 700}
    monkeypatch.setattr(memory, "available", lambda: room["memory"])
    monkeypatch.setattr(disk, "free", lambda folder: room["disk"])

    def refused(index):
        with pytest.raises(UserError) as caught:
            embeddings.embed_passages(passages, TINY, runtime, index)
        return caught.value.problems

    first, second = refused(Hnsw(m=64))
    assert first.startswith(f"retriever.index: hnsw over 20 passages of {dimension} dimensions")
    assert "10.0 kB are free; choose retriever/index=ivf_pq" in first
    assert second.startswith("cache_dir: vectors and index of 20 passages take 15.7 kB of disk")
    assert "has 700 B; make room" in second
    room["disk"] = 20_000
    assert list(refused(Hnsw(m=64))) == [first]
    (line,) = refused(Flat())
    assert line.startswith("retriever.encoder: embedding 20 passages takes 128.0 kB of memory")
    assert shards_of_eight == []
    room["memory"] = 128_000
    assert len(embeddings.embed_passages(passages, TINY, runtime, Hnsw(m=64)).vectors) == 20


def test_the_estimate_is_one_line(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "rag_experiments.retriever.estimate")
    monkeypatch.setattr(memory, "available", lambda: 4 * 10**9)
    monkeypatch.setattr(disk, "free", lambda folder: 5 * 10**9)
    monkeypatch.setattr(estimates, "MEASURED", 40)
    monkeypatch.setattr(estimates, "_time_encoder", lambda *others: 0.5)
    runtime = Runtime(cache_dir=tmp_path)

    def said():  # other loggers may be as loud, by an earlier test in this process
        return [r.getMessage() for r in caplog.records if r.name.endswith("estimate")]

    embeddings.embed_passages(make_passages(41), TINY, runtime, IvfPq(m=8, nbits=4))
    (line,) = said()
    assert line.startswith("41 passages of 32 dimensions with index ivf_pq will take about 20 s to")
    assert (
        "20 s to embed 41 of them (128 were timed); 0 s to index them (by a calibration);" in line
    )
    assert line.endswith("kB of disk (5.0 GB free)")
    caplog.clear()
    embeddings.embed_passages(make_passages(39), TINY, runtime)
    (line,) = said()
    assert "about no time (it is not measured for fewer than 40); 624.0 kB of memory" in line


@pytest.mark.parametrize("name", ["hnsw", "ivf_pq"])
def test_time_is_extrapolated_from_a_calibration(name):
    option = INDEXES[name]
    assert 0 < option.measure_seconds(10**5, 32) < option.measure_seconds(10**8, 32)
