"""Several data sets as one: ids, shares, splits, and what the messages name."""

from __future__ import annotations

import json

import pytest

from rag_experiments.contracts import Runtime, UserError
from rag_experiments.data.bio_qa import BioQA
from rag_experiments.data.fingerprint import fingerprint
from rag_experiments.data.folder import Folder
from rag_experiments.data.mixture import Mixture
from rag_experiments.data.preparation import Preparation


def write(folder, count: int, word: str):
    folder.mkdir()
    rows = {
        "passages": [{"id": f"p{i}", "text": f"{word} text {i}"} for i in range(3)],
        "train": [
            {"id": f"q{i}", "question": f"{word} {i}?", "answers": [f"{i}"], "passage_ids": ["p1"]}
            for i in range(count)
        ],
    }
    for split in ("validation", "test"):
        rows[split] = [{"id": split, "question": f"{word} {split}?", "answers": ["a"]}]
    for name, records in rows.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    return Folder(path=str(folder))


@pytest.fixture
def parts(tmp_path):
    return {"a": write(tmp_path / "a", 4, "alpha"), "b": write(tmp_path / "b", 8, "beta")}


def runtime(tmp_path, seed: int = 1) -> Runtime:
    return Runtime(tmp_path, seed=seed)


def test_passages_are_joined_under_ids_of_their_part(parts, tmp_path):
    data = Mixture(parts=parts).load(runtime(tmp_path))
    names = [f"{part}/p{i}" for part in "ab" for i in range(3)]
    assert data.passages["id"][:] == data.passages["document_id"][:] == names
    assert data.passages["text"][4] == "beta text 1"
    assert [q.id for q in data.train] == [
        *(f"a/q{i}" for i in range(4)),
        *(f"b/q{i}" for i in range(8)),
    ]
    assert {q.passage_ids for q in data.train[4:]} == {("b/p1",)}
    assert data.places["b/q1"] == f"{tmp_path}/b/train.jsonl:2"
    assert data.gold == "annotated"


def test_validation_and_test_are_those_of_the_first_part_or_of_named_ones(parts, tmp_path):
    data = Mixture(parts=parts).load(runtime(tmp_path))
    assert [q.id for q in data.validation + data.test] == ["a/validation", "a/test"]
    assert data.test[0].group == ""
    assert "b: 8 of 8 training questions; its validation and test are not used." in data.notes
    data = Mixture(parts=parts, evaluated=("b", "a")).load(runtime(tmp_path))
    assert [(q.id, q.group) for q in data.test] == [("b/test", "b"), ("a/test", "a")]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_share_of_the_training_questions_is_drawn_with_the_seed(parts, tmp_path, share, count):
    option = Mixture(parts=parts, shares={"b": share})
    drawn = {
        tuple(q.id for q in option.load(runtime(tmp_path, seed)).train if q.id.startswith("b/"))
        for seed in range(5)
    }
    assert {len(ids) for ids in drawn} == {count}
    assert (len(drawn) > 1) == (0 < share < 1)
    assert option.draws == (0 < share < 1)
    assert all(list(ids) == sorted(ids) for ids in drawn)  # in the order of the data


def test_a_share_that_comes_to_no_question_is_refused(parts, tmp_path):
    with pytest.raises(UserError) as refusal:
        Mixture(parts=parts, shares={"a": 1.0, "b": 0.05}).load(runtime(tmp_path))
    assert str(refusal.value) == (
        "data.shares.b: 0.05 of 8 training questions: none; "
        "legal: 0 (for the passages alone), or at least 0.125"
    )


def test_the_seed_also_decides_on_what_a_mixture_in_a_mixture_draws(parts):
    assert Mixture(parts={"all": Mixture(parts=parts, shares={"b": 0.5})}).draws
    assert not Mixture(parts={"all": Mixture(parts=parts)}).draws


def test_a_larger_share_contains_the_smaller(parts, tmp_path):
    small, large = (
        {q.id for q in Mixture(parts=parts, shares={"b": s}).load(runtime(tmp_path)).train}
        for s in (0.25, 0.75)
    )
    assert small < large


def test_questions_of_one_part_in_the_test_of_another_are_told(parts, tmp_path):
    row = {"id": "q9", "question": "Alpha  TEST?", "answers": ["a"]}
    with (tmp_path / "b" / "train.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    data = Mixture(parts=parts).load(runtime(tmp_path))
    (note,) = [n for n in data.notes if "too good" in n]
    assert note.startswith("1 question of test in train as well")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shares": {"c": 0.5}}, "shares: 'c' is no part"),
        ({"shares": {"b": 1.5}}, "less than or equal to 1"),
        ({"shares": {"b": -0.1}}, "greater than or equal to 0"),
        ({"evaluated": ("c",)}, "evaluated: 'c' is no part"),
        ({"evaluated": ()}, "names no part"),
        ({"parts": {}}, "at least 1"),
        ({"parts": {"a": "folder"}}, "'a' is no data option"),
        ({"parts": {"a/b": BioQA()}}, "legal: one without /"),
    ],
)
def test_what_is_refused(parts, fields, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**{"parts": parts} | fields)


def test_problems_name_the_part(parts, tmp_path):
    with (tmp_path / "b" / "train.jsonl").open("a") as file:
        file.write('{"id": "q9"}\n')
    with pytest.raises(UserError) as refusal:
        Mixture(parts=parts).load(runtime(tmp_path))
    assert refusal.value.problems
    assert all(line.startswith("data.parts.b: ") for line in refusal.value.problems)


def test_each_part_is_prepared_by_its_own_settings(parts, tmp_path):
    preparation = Preparation.model_validate({"limit": {"train": 1}})
    limited = parts["b"].model_copy(update={"preparation": preparation})
    data = Mixture(parts={"a": parts["a"], "b": limited}).load(runtime(tmp_path))
    assert len(data.train) == 5


def test_the_files_of_all_parts_and_the_parts_names_tell_the_data(parts, tmp_path):
    option = Mixture(parts=parts)
    assert len(option.files()) == 8
    other = Mixture(parts={"a": parts["a"], "c": parts["b"]})
    loaded = [fingerprint(each.load(runtime(tmp_path))) for each in (option, other, option)]
    assert loaded[0] == loaded[2] != loaded[1]

    class Unseen(Folder):
        def files(self):
            return None

    unseen = Unseen(path=parts["b"].path)
    assert Mixture(parts={"a": parts["a"], "b": unseen}).files() is None
