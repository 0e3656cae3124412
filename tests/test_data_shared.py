"""Real question sets in the folder layout, where they are at hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rag_experiments.contracts import Runtime
from rag_experiments.data.folder import Folder
from rag_experiments.data.hub import Hub
from rag_experiments.data.preparation import Chunk, Limit, Preparation

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
SIZES = {  # passages as written, train, validation, test
    "bioasq_factoid": (10333, 298, 153, 264),
    "bioasq_retrieval": (15547, 685, 366, 604),
    "covid_qa": (2602, 1183, 64, 133),
    "pubmedqa": (1000, 406, 94, 500),
    "scifact_full": (5183, 687, 122, 300),
    "twowiki_multihop": (9616, 407, 93, 164),
    "xquad_en": (240, 839, 132, 219),
}
SUMMARIES = {  # train, validation, test, words that are asked for
    "cochrane_plain": (362, 49, 480, 190),
    "scitldr": (1992, 619, 618, 18),
}

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared data sets are not beside the repository"
)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_every_record_of_a_real_set_is_read(name, tmp_path):
    source = Folder(path=str(SHARED / name), preparation=Preparation(deduplicate=False))
    assert source.problems() == []
    start = time.perf_counter()
    data = source.load(Runtime(cache_dir=tmp_path))
    seconds = time.perf_counter() - start
    sizes = (len(data.passages), len(data.train), len(data.validation), len(data.test))
    assert sizes == SIZES[name]
    assert data.gold == "annotated"
    assert seconds < 15


@pytest.mark.parametrize("name", sorted(SUMMARIES))
def test_every_document_of_a_real_set_is_read(name, tmp_path):
    source = Folder(path=str(SHARED / name))
    assert source.problems() == []
    start = time.perf_counter()
    data = source.load(Runtime(cache_dir=tmp_path))
    seconds = time.perf_counter() - start
    sizes = (len(data.train), len(data.validation), len(data.test))
    assert (*sizes, data.test[0].words) == SUMMARIES[name]
    assert len(data.passages) == sum(sizes)  # not chunked: one passage a document
    assert data.gold == "none"
    assert all(document.answers and document.within for document in data.test)
    assert seconds < 15


def test_no_real_test_document_is_shown_its_own_summary(tmp_path):
    data = Folder(path=str(SHARED / "scitldr"), scope="examples").load(Runtime(cache_dir=tmp_path))
    summaries = dict(zip(data.passages["document_id"], data.passages["text"], strict=True))
    shared = [document for document in data.test if document.without]
    assert 0 < len(shared) < 10  # the set's card says that some documents stand in two splits
    for document in shared:
        assert summaries[document.without].casefold() == document.document.casefold()


def test_the_conf_of_a_set_of_summaries_takes_the_local_copy(tmp_path):
    from test_data_conf import compose

    source = compose("scitldr", f"data.path={SHARED / 'scitldr'}")
    assert isinstance(source, Hub)
    data = source.load(Runtime(cache_dir=tmp_path))
    assert data.test[0].question  # the copy's own fields, whatever the columns of the Hub are
    assert max(len(document.answers) for document in data.test) > 1


def test_the_hub_option_takes_the_local_copy(tmp_path):
    source = Hub(
        dataset="rag-datasets/rag-mini-bioasq",
        path=str(SHARED / "bioasq_factoid"),
        preparation=Preparation(limit=Limit(test=10, passages=200)),
    )
    data = source.load(Runtime(cache_dir=tmp_path))
    assert len(data.test) == 10
    assert data.test[0].answers


def test_weak_gold_agrees_with_the_annotation_where_answers_are_spans(tmp_path):
    # SQuAD's answers are spans of the gold passage, so that a match must find it.
    source = Folder(path=str(SHARED / "xquad_en"))
    annotated = source.load(Runtime(cache_dir=tmp_path))
    from rag_experiments.contracts import Passage
    from rag_experiments.data.gold import match_answers

    passages = [Passage(row["id"], row["title"], row["text"]) for row in annotated.passages]
    matched = match_answers(annotated.test, passages)
    found = [
        bool(set(q.passage_ids) & set(ids)) for q, ids in zip(annotated.test, matched, strict=True)
    ]
    assert sum(found) / len(found) > 0.97


def test_chunks_of_real_passages_keep_answers_findable(tmp_path):
    chunk = Chunk(unit="sentences", size=3, overlap=1)
    source = Folder(path=str(SHARED / "xquad_en"), preparation=Preparation(chunk=chunk))
    data = source.load(Runtime(cache_dir=tmp_path))
    assert len(data.passages) > 240
    known = set(data.passages["id"])
    assert all(set(question.passage_ids) <= known for question in data.test)
    fewer = [len(question.passage_ids) for question in data.test]
    assert sum(fewer) / len(fewer) < 2.5
