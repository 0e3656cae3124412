"""Summaries, from the prompt to the score, with tiny random models end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from rag_experiments import __main__ as entry
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import Passage, Prediction, Question, Runtime, UserError
from rag_experiments.metrics.evaluation import evaluate_predictions
from rag_experiments.metrics.grounded_in_document import GroundedInDocument
from rag_experiments.metrics.length_error import LengthError
from rag_experiments.metrics.rouge import Rouge
from rag_experiments.metrics.summary_length import SummaryLength
from rag_experiments.pipeline import RagPipeline
from rag_experiments.task.summarization import Summarization
from rag_experiments.task.summary_prompt import SummaryPrompt

CONF = Path(__file__).parent.parent / "conf"
FRAMES = {
    "template": "T {title}\n{context}\nIn {words}:",
    "closed_book": "T {title}\nIn {words}:",
    "few_shot": "{context}\n{title}\n{document}\nIn {words}:",
    "zero_shot": "{title}\n{document}\nIn {words}:",
    "separator": "\n",
}
READ = Question("d", "Yeast", ("s",), document="whole text", words=9, within="d")
SHOWN = Question("d", "Yeast", ("s",), document="whole text", words=9)
PASSAGES = (Passage("d#2", "", "third", position=2), Passage("d#0", "", "first", position=0))
EXAMPLES = (Passage("a", "A", "text a", "sum a"), Passage("b", "", "text b", "sum b"))


def task(**changes) -> Summarization:
    return Summarization(prompt=SummaryPrompt(**{**FRAMES, **changes}))


# -- prompts ---------------------------------------------------------------------------------


def test_a_document_is_read_through_its_passages_in_its_own_order():
    assert task().render(READ, PASSAGES) == "T Yeast\nfirst\nthird\nIn 9:"
    assert task(order="best_first").render(READ, PASSAGES) == "T Yeast\nthird\nfirst\nIn 9:"
    assert task(order="best_last").render(READ, PASSAGES) == "T Yeast\nfirst\nthird\nIn 9:"
    assert task().render(READ) == "T Yeast\nIn 9:"  # nothing of the document but its title


def test_a_document_stands_whole_beside_examples_the_nearest_last():
    expected = "text b\nSummary: sum b\nA\ntext a\nSummary: sum a\nYeast\nwhole text\nIn 9:"
    assert task().render(SHOWN, EXAMPLES) == expected
    assert task().render(SHOWN) == "Yeast\nwhole text\nIn 9:"


def test_target_and_summary():
    assert task().target(Question("d", "t", ("one", "two"), document="x")) == "one"
    assert task().parse(" We  grow\n\nyeast. ") == "We grow yeast."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "{title}"}, "{context} is missing"),
        ({"few_shot": "{context} {documents}"}, "did you mean {document}?"),
        ({"example": "{text}"}, "{summary} is missing"),
        ({"closed_book": "{title} {context}"}, "unknown placeholder {context}"),
        ({"passage": "{text} {summary}"}, "unknown placeholder {summary}"),
    ],
)
def test_refuses_a_wrong_prompt(changes, message):
    with pytest.raises(ValueError, match=next(iter(changes))) as refusal:
        task(**changes)
    assert message in str(refusal.value)


def test_documents_that_cannot_be_trained_on_or_scored_are_named():
    bare = Question("bare", "t", document="x", words=3)
    (line,) = task().data_problems([READ, bare])
    assert line.startswith("summaries: 1 of 2 documents have no summary (first: 'bare')")
    unknown = Question("u", "t", ("s",), document="x")
    (line,) = task().data_problems([READ, unknown])
    assert line.startswith("task.prompt: names {words}, but 1 of 2 documents ask for no length")
    free = {name: text.replace("In {words}:", "In short:") for name, text in FRAMES.items()}
    assert task(**free).data_problems([unknown]) == []


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (CONF / "task" / "prompt").glob("summary*.yaml"))
)
def test_every_prompt_composes(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=["+task=summarization", f"task/prompt={name}"])
    option = instantiate(config.task, _convert_="all")
    for question, passages in ((READ, PASSAGES), (READ, ()), (SHOWN, EXAMPLES), (SHOWN, ())):
        rendered = option.render(question, passages)
        assert "{" not in rendered
        assert ("about 9 words" in rendered) == (name != "summary_free")
        assert all(p.text in rendered and p.summary in rendered for p in passages)
        assert ("whole text" in rendered) == (question is SHOWN)


# -- what fits -------------------------------------------------------------------------------


def make_encoder(tmp_path, limit):
    from rag_experiments.model.generator import Generator
    from rag_experiments.model.language_model import load_tokenizer
    from rag_experiments.model.prompt_encoder import PromptEncoder
    from rag_experiments.weights import resolve

    generator = Generator(weights="random:llama", kind="causal", max_prompt_tokens=limit)
    return PromptEncoder(load_tokenizer(resolve("random:llama", tmp_path)), generator, task())


def test_a_document_whose_passages_would_be_cut_is_refused(tmp_path):
    """A byte is a token: the longest passages are found and counted to the token."""
    from datasets import Dataset

    texts = {"d": ["x" * 30, "y" * 50, "z" * 10], "e": ["w" * 5]}
    rows = [
        {"id": f"{document}#{i}", "title": "", "text": text, "document_id": document}
        for document, own in texts.items()
        for i, text in enumerate(own)
    ]
    source = Dataset.from_list(rows)
    other = Question("e", "Yeast", ("s",), document="w", words=9, within="e")
    encoder = make_encoder(tmp_path, 400)
    longest = [Passage("", "", text) for text in (texts["d"][1], texts["d"][0])]
    needed = len(encoder.encode([(READ, longest)])[0])
    assert make_encoder(tmp_path, needed).problems([READ, other], 2, source) == []
    (line,) = make_encoder(tmp_path, needed - 1).problems([READ, other], 2, source)
    assert "is too small for 1 of 2 documents; the longest, 'd'" in line
    assert "its 2 longest passages, which are not cut; make passages shorter" in line
    assert line.endswith(f"set it to at least {needed}")
    # Whatever is retrieved fits as well.
    for pair in (PASSAGES, longest[::-1], longest[:1]):
        assert len(encoder.encode([(READ, pair)])[0]) <= needed


def test_summaries_of_examples_are_never_cut(tmp_path):
    from datasets import Dataset

    from rag_experiments.model.prompt_encoder import SHORTEST_PASSAGE

    rows = [
        {"id": i, "title": "T" * 9, "text": "x" * 90, "document_id": i, "summary": "s" * n}
        for i, n in (("a", 20), ("b", 40), ("c", 30))
    ]
    source = Dataset.from_list(rows)
    wide = make_encoder(tmp_path, 4000)
    bare = [Passage("", "", "", "s" * 40), Passage("", "", "", "s" * 30)]
    needed = len(wide.encode([(SHOWN, bare)])[0]) + 2 * SHORTEST_PASSAGE
    (line,) = make_encoder(tmp_path, needed - 1).problems([SHOWN], 2, source)
    assert "2 examples' summaries" in line
    assert "data.scope=document" in line
    encoder = make_encoder(tmp_path, needed)
    assert encoder.problems([SHOWN], 2, source) == []
    examples = [Passage(r["id"], r["title"], r["text"], r["summary"]) for r in rows[1:]]
    (ids,) = encoder.encode([(SHOWN, examples)])
    text = encoder.tokenizer.decode(ids)
    assert encoder.cut == 1
    assert "s" * 40 in text
    assert "s" * 30 in text
    assert "whole text" in text
    (line,) = make_encoder(tmp_path, 16).problems([SHOWN], 0, source)
    assert "read documents through their passages (data.scope=document)" in line


# -- metrics ---------------------------------------------------------------------------------


def predict(text, *references, document="", words=0):
    return Prediction("1", "?", text, references, document=document, words=words)


def test_rouge_over_several_references_by_hand():
    """Words in common 2 of 3 and 2, and 1 of 3 and 4: F = 4/5 and 2/7."""
    pair = predict("yeast makes ethanol", "yeast ethanol", "phages in yeast cells")
    assert Rouge(variant="rouge1").score(pair) == pytest.approx(4 / 5)
    mean = Rouge(variant="rouge1", references="mean")
    assert mean.name == "rouge1_mean"
    assert mean.score(pair) == pytest.approx((4 / 5 + 2 / 7) / 2)
    assert Rouge(variant="rouge2", references="mean").score(pair) == 0
    assert Rouge(stemmer=True, references="mean").name == "rougeL_stem_mean"


@pytest.mark.parametrize("variant", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_agrees_with_rouge_score_over_several_references(variant):
    from rouge_score.rouge_scorer import RougeScorer

    text = "Yeast makes ethanol. It needs no oxygen."
    references = ["It needs no oxygen. Yeast is fast.", "Ethanol comes from yeast.", "No oxygen"]

    def lines(text):  # one sentence a line, as rougeLsum reads
        return text.replace(". ", ".\n") if variant == "rougeLsum" else text

    scorer = RougeScorer([variant])
    found = [scorer.score(lines(r), lines(text))[variant].fmeasure for r in references]
    pair = predict(text, *references)
    assert Rouge(variant=variant).score(pair) == pytest.approx(max(found))
    mean = Rouge(variant=variant, references="mean").score(pair)
    assert mean == pytest.approx(sum(found) / 3)
    assert mean < max(found)
    multi = scorer.score_multi([lines(r) for r in references], lines(text))
    assert Rouge(variant=variant).score(pair) == pytest.approx(multi[variant].fmeasure)


def test_rouge_lsum_reads_sentences_and_rouge_l_does_not():
    swapped = predict("Cells grow. Phages kill.", "Phages kill. Cells grow.")
    assert Rouge(variant="rougeLsum").score(swapped) == 1
    assert Rouge(variant="rougeL").score(swapped) == 1 / 2


def test_length_and_grounding_by_hand():
    pair = predict("The yeast makes new ethanol.", document="Yeast makes ethanol fast.", words=4)
    assert SummaryLength().score(pair) == 5
    assert LengthError().score(pair) == 1 / 4
    assert LengthError().score(predict("Yeast")) is None  # no length was asked for
    # Of yeast, makes, new, ethanol all but new; of the pairs, yeast makes alone.
    assert GroundedInDocument().score(pair) == 3 / 4
    assert GroundedInDocument(n=2).score(pair) == 1 / 3
    assert GroundedInDocument(n=2).score(predict("Yeast", document="Yeast")) is None
    assert not LengthError.greater_is_better
    assert not SummaryLength.greater_is_better


def test_metrics_of_documents_as_evaluate_metrics():
    grounded = GroundedInDocument().load()
    assert grounded.compute(predictions=["new yeast"], references=["yeast"]) == {
        "grounded_in_document": 1 / 2
    }
    assert LengthError().load().compute(predictions=["a b c"], references=[2]) == {
        "length_error": 1 / 2
    }


# -- retrieval -------------------------------------------------------------------------------


TEXTS = [  # document, text
    ("a", "Nothing of that."),
    ("a", "Yeast and more yeast."),
    ("b", "Yeast yeast yeast."),
    ("a", "A word on yeast and sugar."),
    ("b", "Phages."),
]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return Runtime(cache_dir=tmp_path_factory.mktemp("cache"))


def make_retriever(name):
    from rag_experiments.retriever.bm25 import BM25
    from rag_experiments.retriever.dense import Dense
    from rag_experiments.retriever.encoder import Encoder
    from rag_experiments.retriever.hybrid import Hybrid
    from rag_experiments.retriever.index import Flat, Hnsw
    from rag_experiments.retriever.reranker import BiEncoder

    tiny = Encoder(weights="random:bert", max_length=64)
    return {
        "bm25": lambda: BM25(),
        "dense": lambda: Dense(encoder=tiny, index=Flat()),
        "hnsw": lambda: Dense(encoder=tiny, index=Hnsw()),
        "hybrid": lambda: Hybrid(lexical=BM25(), dense=Dense(encoder=tiny)),
        "reranked": lambda: BM25(reranker=BiEncoder(weights="random:bert", max_length=64)),
    }[name]()


def make_source():
    from datasets import Dataset

    return Dataset.from_list(
        [
            {"id": f"p{i}", "title": "", "text": text, "document_id": document}
            for i, (document, text) in enumerate(TEXTS)
        ]
    )


def search(name, runtime, questions, top_k=5):
    retriever, source = make_retriever(name), make_source()
    searcher = retriever.build(source, runtime)
    vectors = None
    if retriever.uses_query_vectors:
        from rag_experiments.retriever.encoder import Encoder

        encoder = Encoder(weights="random:bert", max_length=64).load(runtime)
        vectors = encoder.encode([question.query for question in questions])
    hits = searcher.search(questions, top_k, vectors)
    return [[hit.passage_id for hit in found] for found in hits], hits, vectors, searcher


@pytest.mark.parametrize("name", ["bm25", "dense", "hnsw", "hybrid", "reranked"])
def test_every_retriever_keeps_to_the_document_and_away_from_it(name, runtime):
    inside = Question("1", "yeast", document="x", within="a")
    outside = Question("2", "yeast", document="x", without="a")
    anywhere = Question("3", "yeast")
    found = search(name, runtime, [inside, anywhere, outside, inside])[0]
    assert sorted(found[0]) == ["p0", "p1", "p3"]  # all of it, also what shares no word
    assert found[3] == found[0]
    assert set(found[2]) <= {"p2", "p4"}
    assert "p2" in found[2]
    assert {"p1", "p2"} <= set(found[1])
    two = search(name, runtime, [inside, outside], top_k=2)[0]
    assert two[0] == found[0][:2]
    assert two[1] == found[2][:2]
    nowhere = Question("4", "yeast", document="x", within="gone")
    assert search(name, runtime, [nowhere])[0] == [[]]


def test_within_a_document_bm25_ranks_by_words_and_keeps_the_rest_in_order(runtime):
    question = Question("1", "sugar", document="x", within="a")
    assert search("bm25", runtime, [question])[0] == [["p3", "p0", "p1"]]
    unheard = Question("1", "zebra", document="x", within="a")
    assert search("bm25", runtime, [unheard])[0] == [["p0", "p1", "p3"]]


def test_within_a_document_dense_scores_are_the_inner_products(runtime):
    question = Question("1", "yeast", document="x", within="a")
    _, (hits,), vectors, searcher = search("dense", runtime, [question])
    expected = {i: float(np.dot(searcher.vectors([i])[0], vectors[0])) for i in ("p0", "p1", "p3")}
    assert {hit.passage_id: hit.score for hit in hits} == pytest.approx(expected)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_similar_documents_are_searched_with_the_whole_text(runtime):
    title_alone = Question("1", "Phages", document="x", within="")
    whole = Question("1", "Phages", document="Yeast and sugar, yeast and sugar")
    found, _, _, _ = search("bm25", runtime, [title_alone, whole])
    assert found[0] == ["p4"]
    assert found[1][0] == "p3"


def test_lead_reads_the_beginning_and_nothing_else(tmp_path, runtime):
    from rag_experiments.retriever.lead import Lead

    lead, source = Lead(top_k=2), make_source()
    searcher = lead.build(source, runtime)
    asked = Question("1", "sugar", document="x", within="a")
    (hits,) = searcher.search([asked], 2)
    assert [(hit.passage_id, hit.score) for hit in hits] == [("p0", 0.0), ("p1", 0.0)]
    assert searcher.search([Question("1", "sugar")], 2) == [[]]
    searcher.save(tmp_path / "index")
    assert lead.load(tmp_path / "index", source, runtime).search([asked], 2) == [hits]
    assert lead.question_problems([READ], runtime) == []
    (line,) = lead.question_problems([READ, SHOWN], runtime)
    assert line.startswith("lead: 1 of 2 questions (first: 'd') are not read through passages")


# -- runs ------------------------------------------------------------------------------------


def write(folder: Path) -> None:
    folder.mkdir()
    subjects = ["yeast", "phage", "plasmid", "enzyme", "cell", "vector"]
    for split in ("train", "validation", "test"):
        rows = [
            {
                "id": f"{split} {n}",
                "title": f"On {subject}",
                "document": f"The {subject} grows in {split}. It is fed. We count {subject} {n}.",
                "summaries": [f"A {subject} grows.", f"Counts of {subject}."],
            }
            for n, subject in enumerate(subjects[: 4 if split == "train" else 2])
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, "utf-8")


LINE = [
    "task=summarization",
    "task.max_answer_tokens=6",
    "data=folder",
    "data.path=papers",
    "data.preparation.chunk.unit=sentences",
    "data.preparation.chunk.size=1",
    "data.preparation.chunk.overlap=0",
    "model/generator=tiny_causal",
    "model.generator.max_prompt_tokens=700",
    "retriever.top_k=2",
    "trainer.max_steps=1",
    "trainer.per_device_train_batch_size=2",
    "tracking=none",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "papers")
    return tmp_path


def start(monkeypatch, *overrides):
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *LINE, *overrides])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


CASES = [
    ("rag_token", "dense", "document", "joint"),
    ("rag_sequence", "bm25", "examples", "supervised"),
    ("concat", "hybrid", "examples", "supervised"),
    ("concat", "lead", "document", "supervised"),
]
TINY = {
    "dense": ["retriever/encoder=tiny", "model/query_encoder=tiny"],
    "hybrid": ["retriever/encoder@retriever.dense.encoder=tiny", "model/query_encoder=tiny"],
}


@pytest.mark.parametrize(("model", "retriever", "scope", "trainer"), CASES)
def test_a_run_reads_what_its_scope_says_and_is_saved(
    model, retriever, scope, trainer, place, monkeypatch, capfd
):
    chosen = [f"model={model}", f"retriever={retriever}", f"trainer={trainer}"]
    line = [*chosen, f"data.scope={scope}", *TINY.get(retriever, [])]
    assert not start(monkeypatch, *line)
    (run,) = (path.parent for path in place.glob("outputs/runs/*/*/metrics.json"))
    rows = read(run / "predictions_trained.jsonl")
    assert [row["id"] for row in rows] == ["test 0", "test 1"]
    for row in rows:
        assert row["document"].startswith("The ")
        assert row["words"] == 3
        assert len(row["answers"]) == 2
        assert len(row["passage_ids"]) == 2
        if scope == "document":
            assert all(i.startswith(f"{row['id']}#") for i in row["passage_ids"])
            assert all(text in row["document"] for text in row["passages"])
        else:
            assert all(i.startswith("train ") for i in row["passage_ids"])
            assert all("\nSummary: A " in text for text in row["passages"])
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert {"untrained", "trained", "closed_book"} <= metrics.keys()
    assert {"rouge1", "rougeL_mean", "length_error", "copied_2"} <= metrics["trained"].keys()
    closed = read(run / "predictions_closed_book.jsonl")
    assert all(row["passage_ids"] == [] for row in closed)
    # A summary is neither right nor wrong: there are no bins, and the coverage has no answers.
    assert not (run / "errors.json").exists()
    covered = json.loads((run / "coverage.json").read_text("utf-8"))
    assert covered["answers"]["questions"] == 0
    assert covered["leakage"]["test"] == 2
    said = capfd.readouterr().out
    assert "of 2 test documents" in said
    assert "where the answers go wrong" not in said
    assert "rag_experiments.ask" not in said

    pipeline = RagPipeline.load(run, device="cpu", precision="float32")
    with pytest.raises(UserError, match="it answers no questions"):
        pipeline.ask("Why?")
    again = pipeline.predict(
        [
            Question(
                row["id"],
                row["question"],
                document=row["document"],
                words=row["words"],
                within=row["id"] if scope == "document" else "",
            )
            for row in rows
        ]
    )
    assert [list(p.passage_ids) for p in again] == [row["passage_ids"] for row in rows]


def test_a_sweep_of_summaries_is_compared_on_a_page(place, monkeypatch, capfd):
    assert not start(monkeypatch, "-m", "retriever=lead,bm25", "model=concat")
    (page,) = place.glob("outputs/sweeps/*/*/report.md")
    text = page.read_text("utf-8")
    assert "rougeL" in text
    assert "lead" in text
    assert "no report of the sweep" not in capfd.readouterr().err


def test_training_documents_never_see_their_own_summary(place, monkeypatch):
    from rag_experiments.model.rag_model import RagModel

    seen = []
    collate = RagModel.collate

    def watched(self, examples):
        seen.extend(examples)
        return collate(self, examples)

    monkeypatch.setattr(RagModel, "collate", watched)
    line = ["model=concat", "data.scope=examples", "retriever=bm25", "trainer.max_steps=4"]
    assert not start(monkeypatch, *line, "trainer.eval_strategy=no", "test.references=false")
    assert {example.question.id for example in seen} == {f"train {n}" for n in range(4)}
    for example in seen:
        assert example.passages
        assert example.question.id not in {passage.id for passage in example.passages}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=question_answering"], "task: question_answering is for questions with answers"),
        (["task.objective=f1"], "task.objective: 'f1' is not among the configured metrics"),
        (["task.objective=length_error"], "task.objective: 'length_error' is worse the larger"),
        (["metrics=[summarization,exact_match]"], "metrics.exact_match: exact_match does not fit"),
        (["test.rewordings=true"], "test.rewordings: true, but task=summarization asks no"),
        (["data.scope=examples", "retriever=lead"], "retriever.lead: 8 of 8 questions"),
        (["retriever=gold"], "retriever.gold: no question has passage_ids"),
        (["task/prompt=brief"], "task.prompt: "),
        (
            ["model=concat", "model.generator.max_prompt_tokens=100"],
            "model.generator.max_prompt_tokens: 100 is too small for 8 of 8 documents",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_loaded(
    overrides, expected, place, monkeypatch, caplog, capfd
):
    from rag_experiments.model import rag

    def refuse(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(rag.Rag, "load", refuse)
    assert start(monkeypatch, *overrides) == 2
    said = capfd.readouterr().err + caplog.text
    assert expected in said


def test_a_task_of_summaries_refuses_questions(place, monkeypatch, caplog, capfd):
    for split in ("train", "validation", "test"):
        rows = [{"id": f"{split} {n}", "question": "?", "answers": ["a"]} for n in range(2)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "papers" / f"{split}.jsonl").write_text(text)
    (place / "papers" / "passages.jsonl").write_text('{"id": "p", "text": "a"}\n')
    assert start(monkeypatch, "retriever.top_k=1") == 2
    said = capfd.readouterr().err + caplog.text
    assert "task: summarization is for documents with summaries, but 6 of 6 records" in said
    assert "choose task=question_answering" in said


@pytest.mark.parametrize("name", ["bio_papers", "scitldr", "cochrane_plain"])
def test_the_experiments_take_both_scopes_and_every_model(name):
    line = [f"+experiment={name}", "data.scope=document,examples", "retriever=dense"]
    jobs = Composer().plan([*line, "model=rag_token,rag_sequence,concat"], multirun=True).jobs
    assert len(jobs) == 6
    assert {job.data.scope for job in jobs} == {"document", "examples"}
    assert all("rougeL" in job.metrics for job in jobs)


def test_groups_and_intervals_are_those_of_any_task():
    made = [Rouge(variant="rouge1"), LengthError()]
    rows = [
        Prediction(str(i), "?", "yeast grows", ("yeast grows",), group=group, words=2)
        for i, group in enumerate(["abstract", "paper"])
    ]
    found = evaluate_predictions(made, rows, seed=1)
    assert found.estimates["rouge1/paper"].value == 1
    assert found.scores["length_error"] == {"0": 0, "1": 0}
