"""Parquet, CSV, JSONL and text: columns, labels, splits, tokenizers, and what is refused."""

import numpy as np
import pytest
import torch

from core.data.dataset import open_dataset
from core.data.inspection import describe_dataset
from core.description import DatasetSpec, FractionSplits, InputMapping, SplitArrays, TensorDescription
from core.errors import ModelpressError
from tests.core.data.conftest import encode

BERT = tuple(
    TensorDescription(name=name, dtype="int64", shape=("batch", 6))
    for name in ("input_ids", "attention_mask", "token_type_ids")
)
LOGITS = (TensorDescription(name="logits", dtype="float32", shape=("batch", 2)),)
TEXTS = ["the cat sat", "a good film", "a very very bad film it was", "the dog ran"]


def spec(task="classification", **more):
    return DatasetSpec(task=task, **more)


def fails(files, wanted, inputs=None, **more):
    with pytest.raises(ModelpressError) as caught:
        open_dataset(files, wanted, inputs, **more) if inputs else describe_dataset(files, wanted)
    assert caught.value.code == "invalid_data"
    return caught.value.detail


def test_parquet_images_with_named_classes_in_shards(parquet_file, pictures):
    cells = [{"bytes": encode(pixels), "path": None} for pixels in pictures]
    labels = [place % 3 for place in range(24)]
    names = {"label": ("cat", "dog", "owl")}
    files = [
        parquet_file("data/test-00001-of-00002.parquet", {"image": cells[8:16], "label": labels[8:16]}, names),
        parquet_file("data/train-00000-of-00001.parquet", {"image": cells[16:], "label": labels[16:]}, names),
        parquet_file("data/test-00000-of-00002.parquet", {"image": cells[:8], "label": labels[:8]}, names),
    ]
    found = describe_dataset(files, spec())
    assert (found.format, found.classes, found.label_names) == ("parquet", 3, ("cat", "dog", "owl"))
    assert found.splits["evaluation"].samples == 16
    batch = next(open_dataset(files, spec()).batches("evaluation", 16))
    np.testing.assert_array_equal(batch.inputs["x"].numpy().transpose(0, 2, 3, 1), pictures[:16])
    assert batch.labels.tolist() == labels[:16]


def test_parquet_rows_that_cannot_be_used_are_named(parquet_file, pictures):
    good = [encode(pixels) for pixels in pictures[:4]]
    assert "Sample 2 of `image` (row 2) is no PNG" in fails(
        [parquet_file("a.parquet", {"image": [*good[:2], b"x", good[3]], "label": [0, 1, 0, 1]})], spec()
    )
    assert "Row 1 of `image` has no value" in fails(
        [parquet_file("a.parquet", {"image": [good[0], None], "label": [0, 1]})], spec()
    )
    missing = [{"bytes": good[0], "path": "a"}, {"bytes": None, "path": "b"}]
    assert "Row 1 of `image` names a file" in fails(
        [parquet_file("a.parquet", {"image": missing, "label": [0, 1]})], spec()
    )
    file = parquet_file("a.parquet", {"image": good, "label": [0, 1, 0, 1]})
    assert "not clear which" in fails([parquet_file("b.parquet", {"foo": good})], spec())
    content = file.path.read_bytes()
    for cut in (len(content) // 2, len(content) - 4):
        file.path.write_bytes(content[:cut])
        assert "no parquet file" in fails([file], spec())


def test_texts_become_the_inputs_of_a_model(text_file, tokenizer):
    rows = "".join(f'{{"text": "{text}", "label": "{"neg" if "bad" in text else "pos"}"}}\n' for text in TEXTS)
    file = text_file("test.jsonl", rows)
    described = describe_dataset([file], spec())
    assert (described.format, described.inputs[0].dtype, described.label_names) == ("jsonl", "text", ("neg", "pos"))
    assert "need" in described.warnings[0]
    assert "no tokenizer" in fails([file], spec(), BERT, outputs=LOGITS)
    dataset = open_dataset([file, tokenizer], spec(), BERT, outputs=LOGITS)
    batch = next(dataset.batches("evaluation", 4))
    assert list(batch.inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    assert batch.inputs["input_ids"][0].tolist() == [2, 4, 6, 8, 3, 0]
    assert batch.inputs["attention_mask"][0].tolist() == [1, 1, 1, 1, 1, 0]
    assert batch.inputs["input_ids"][2].tolist()[-1] == 3  # cut, with its end
    assert batch.labels.tolist() == [1, 1, 0, 1]
    beside = open_dataset([file], spec(), BERT, outputs=LOGITS, beside=[tokenizer])
    assert torch.equal(next(beside.batches("evaluation", 4)).inputs["input_ids"], batch.inputs["input_ids"])
    free = (TensorDescription(name="ids", dtype="int64", shape=("batch", "tokens")),)
    mapped = spec(inputs={"x": InputMapping(length=4)})
    assert open_dataset([file, tokenizer], mapped, free).inputs[0].shape == ("batch", 4)


def test_csv_with_quotes_and_given_names(text_file, tokenizer):
    text = 'text;label\n"the; cat\nsat";no\n"a ""good"" film";yes\n'
    given = spec(label_names=("yes", "no"), splits={"evaluation": SplitArrays(x="text", y="label")})
    dataset = open_dataset([text_file("reviews.csv", text), tokenizer], given, BERT[:1])
    batch = next(dataset.batches("evaluation", 2))
    assert batch.labels.tolist() == [1, 0]
    assert batch.inputs["input_ids"][1].tolist()[0] == 2
    assert "Row 1 of a.csv (line 4) has 3 values; the header has 2" in fails(
        [text_file("a.csv", 'text,label\n"a\na",0\nb,1,2\n')], given
    )
    assert "none of the 2 names" in fails([text_file("a.csv", "text,label\na,maybe\n")], given)
    assert "no UTF-8 text in line 2." in fails([text_file("a.csv", b"text,label\na,\xff\xfe\n")], given)
    assert "Row 0 of a.csv (line 2) cannot be read" in fails([text_file("a.csv", 'text,label\n"a"b,0\n')], given)


@pytest.mark.parametrize(("name", "row"), [("a.txt", b"a\xc3\xa9\n"), ("a.jsonl", b'{"text": "\xc3\xa9"}\n')])
@pytest.mark.parametrize("task", ["none", "language_modelling"])
def test_text_that_is_no_utf_8_is_told_with_its_line(text_file, name, row, task):
    # Far into the file, where what is decoded at once ends inside of a character.
    content = row * 40_000 + row[:-3] + b"\xff" + row[-2:] + row
    assert "is no UTF-8 text in line 40001." in fails([text_file(name, content)], DatasetSpec(task=task))


def test_jsonl_rows_that_cannot_be_used_are_named(text_file):
    rows = ['{"text": "a", "label": 0}', '{"text": "b", "label": 1}']
    for bad, reason in (
        ('{"text": "c"', "Row 2 of a.jsonl (line 3) is no JSON: Expecting ',' delimiter at column 13"),
        ("[1]", "Row 2 of a.jsonl (line 3) is no JSON object"),
        ('{"label": 1}', "Row 2 of `text` is no text"),
        ('{"text": 3, "label": 1}', "Row 2 of `text` is no text"),
        ('{"text": "c", "label": "x"}', "Row 2 of `label` is no number"),
    ):
        assert reason in fails([text_file("a.jsonl", "\n".join([*rows, bad]))], spec())


def test_several_classes_at_once(text_file, tokenizer):
    rows = [
        '{"text": "a cat", "labels": ["x", "z"]}',
        '{"text": "a dog", "labels": []}',
        '{"text": "it", "labels": ["y"]}',
    ]
    file = text_file("test.jsonl", "\n".join(rows))
    assert describe_dataset([file], spec("multi_label")).label_names == ("x", "y", "z")
    outputs = (TensorDescription(name="logits", dtype="float32", shape=("batch", 3)),)
    dataset = open_dataset([file, tokenizer], spec("multi_label"), BERT, outputs=outputs)
    labels = next(dataset.batches("evaluation", 3)).labels
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    csv = text_file("test.csv", "text,labels\na,0|2\nb,1\n")
    assert next(
        open_dataset([csv, tokenizer], spec("multi_label"), BERT, outputs=outputs).batches("evaluation", 2)
    ).labels[0].tolist() == [1, 0, 1]
    assert "tell 3 classes apart; the model tells 2" in fails(
        [file, tokenizer], spec("multi_label"), BERT, outputs=LOGITS
    )
    assert "has the class 7" in fails(
        [text_file("test.jsonl", '{"text": "a", "labels": [7]}\n'), tokenizer],
        spec("multi_label", label_names=("a", "b")),
    )


def test_words_with_tags(parquet_file, tokenizer):
    words = [["the", "cat", "sat"], ["a", "very", "very", "bad", "film", "it", "was"]]
    tags = [[1, 2, 0], [0, 1, 1, 1, 2, 0, 0]]
    file = parquet_file("test.parquet", {"tokens": words, "ner_tags": tags}, {"ner_tags": ("O", "B", "I")})
    described = describe_dataset([file, tokenizer], spec("token_classification"))
    assert (described.label_names, described.inputs[0].shape) == (("O", "B", "I"), ("batch", "tokens"))
    outputs = (TensorDescription(name="logits", dtype="float32", shape=("batch", 6, 3)),)
    dataset = open_dataset([file, tokenizer], spec("token_classification"), BERT, outputs=outputs)
    batch = next(dataset.batches("evaluation", 2))
    assert batch.labels[0].tolist() == [-100, 1, 2, 0, -100, -100]
    assert batch.labels[1].tolist() == [-100, 0, 1, 1, 1, -100]  # cut with the text
    narrow = (TensorDescription(name="logits", dtype="float32", shape=("batch", 6, 2)),)
    dataset = open_dataset([file, tokenizer], spec("token_classification"), BERT, outputs=narrow)
    with pytest.raises(ModelpressError, match="from 0 to 1"):
        next(dataset.batches("evaluation", 2))
    short = parquet_file("test.parquet", {"tokens": words, "ner_tags": [tags[0], tags[1][:3]]})
    assert "(row 1) has 3 tags for 7 words" in fails([short, tokenizer], spec("token_classification"))


def test_text_for_a_language_model(text_file, tokenizer):
    text = "the cat sat on the mat\nand the dog ran\n" * 40
    files = [text_file("train.txt", text), text_file("test.txt", "a good film\n" * 30), tokenizer]
    described = describe_dataset(files, spec("language_modelling"))
    assert described.format == "text"
    assert described.splits["evaluation"].samples == 89
    inputs = (BERT[0], BERT[1], TensorDescription(name="position_ids", dtype="int64", shape=("batch", 6)))
    dataset = open_dataset(files, spec("language_modelling"), inputs)
    batch = next(dataset.batches("evaluation", 4))
    assert dataset.count("evaluation") == 14
    assert batch.inputs["input_ids"][0].tolist() == [5, 14, 16] * 2
    assert batch.labels[0].tolist() == [14, 16, 5] * 2
    assert batch.inputs["attention_mask"].min() == 1
    assert batch.inputs["position_ids"][1].tolist() == list(range(6))
    untold = describe_dataset(files[:2], spec("language_modelling"))
    assert untold.inputs[0].dtype == "text"


def test_pairs_with_and_without_scores(text_file, tokenizer):
    text = "sentence1\tsentence2\tscore\nthe cat\ta cat\t0.9\nthe dog\tbad film\t0.1\n"
    dataset = open_dataset([text_file("test.tsv", text), tokenizer], spec("embedding"), BERT)
    batch = next(dataset.batches("evaluation", 2))
    assert batch.labels.tolist() == pytest.approx([0.9, 0.1])
    assert batch.pair["input_ids"][1].tolist()[:4] == [2, 15, 16, 3]
    unscored = spec("embedding", splits={"evaluation": SplitArrays(x="sentence1", pair="sentence2")})
    dataset = open_dataset([text_file("test.tsv", text), tokenizer], unscored, BERT)
    assert not dataset.labelled("evaluation")
    assert "is no number: high" in fails([text_file("test.tsv", text.replace("0.1", "high"))], spec("embedding"))


def test_splits_by_content_do_not_move(text_file):
    def rows(count, seed=0):
        lines = "".join(f"text number {place % 300}\n" for place in range(count))
        splits = FractionSplits(x="text", fractions={"train": 0.6, "evaluation": 0.3}, by="content", seed=seed)
        dataset = open_dataset([text_file("all.txt", lines)], spec("none", splits=splits))
        return {name: set(split.rows.tolist()) for name, split in dataset.splits.items()}

    first, more = rows(300), rows(600)
    assert 60 < len(first["evaluation"]) < 120
    # Later samples move none, and the same text is always on the same side.
    assert more["evaluation"] == first["evaluation"] | {row + 300 for row in first["evaluation"]}
    assert rows(300, seed=1)["evaluation"] != first["evaluation"]
    assert not first["train"] & first["evaluation"]


def test_files_of_two_formats_or_none_are_refused(text_file, tokenizer):
    csv = text_file("a.csv", "text,label\na,0\n")
    assert "must be of one format" in fails([csv, text_file("a.txt", "hello")], spec())
    assert "there is none" in fails([tokenizer], spec())
    for content, what in ((b"", "is empty"), (b"\x80\x04x", "is a pickle"), (b"ab\0cd", "neither text")):
        assert what in fails([text_file("x.bin", content)], spec())
    assert "cannot be read by `tokenizers`" in fails(
        [csv, text_file("tokenizer.json", '{"model": 3}')], spec(splits={"evaluation": SplitArrays(x="text")}), BERT
    )
    assert "Some files are named" in fails([csv, text_file("test.csv", "text,label\na,0\n")], spec())


def test_a_text_is_no_longer_than_a_model_can_take(text_file, tokenizer):
    free = (TensorDescription(name="ids", dtype="int64", shape=("batch", "sequence")),)
    file = text_file("test.jsonl", '{"text": "the cat", "label": 0}\n')
    assert open_dataset([file, tokenizer], spec(), free, longest=64).inputs[0].shape == ("batch", 64)
    assert open_dataset([file, tokenizer], spec(), free, longest=512).inputs[0].shape == ("batch", 128)


def test_columns_of_numbers_are_one_vector(text_file, parquet_file, rng):
    numbers = rng.normal(size=(40, 3)).astype(np.float32)
    rows = [*numbers.tolist()]
    header = "age,height,x,target"
    csv = "\n".join([header, *(",".join(map(str, [*row, sum(row)])) for row in rows)])
    jsonl = "\n".join(f'{{"age": {a}, "height": {b}, "x": {c}, "target": {a + b + c}}}' for a, b, c in rows)
    columns = dict(zip(("age", "height", "x"), numbers.T, strict=True)) | {"target": numbers.sum(axis=1)}
    inputs = (TensorDescription(name="features", dtype="float32", shape=("batch", 3)),)
    outputs = (TensorDescription(name="price", dtype="float32", shape=("batch", 1)),)
    for file in (text_file("test.csv", csv), text_file("test.jsonl", jsonl), parquet_file("test.parquet", columns)):
        found = describe_dataset([file], spec("regression"))
        assert found.inputs[0].shape == ("batch", 3)
        dataset = open_dataset([file], spec("regression"), inputs, outputs=outputs)
        batch = next(dataset.batches("evaluation", 40))
        np.testing.assert_allclose(batch.inputs["features"].numpy(), numbers, rtol=1e-6)
        np.testing.assert_allclose(batch.labels.numpy(), numbers.sum(axis=1), rtol=1e-5)
    file = text_file("house.csv", csv)
    chosen = FractionSplits(x=("x", "age"), y="target", fractions={"evaluation": 0.5})
    described = describe_dataset([file], spec("regression", splits=chosen))
    assert (described.inputs[0].shape, described.splits["evaluation"].samples) == (("batch", 2), 20)


def test_numbers_that_are_none_are_named_with_row_and_column(text_file):
    head = "age,height,label\n1,2,no\n3,4,yes\n"
    for bad in ("5,,no", "5,tall,no", "5,nan,no", "5,1e99,no"):
        assert "Row 2 of `height` is no finite number" in fails([text_file("test.csv", head + bad)], spec())
    missing = '{"age": 1, "height": 2, "label": 0}\n{"age": 1, "label": 0}\n'
    assert "Row 1 of `height` is no finite number" in fails([text_file("test.jsonl", missing)], spec())
    assert "not clear which of these columns" in fails([text_file("test.csv", "town,age,label\nRome,2,no\n")], spec())
    named = spec(splits={"evaluation": SplitArrays(x=("age", "weight"), y="label")})
    assert "No table has all of the columns age, weight" in fails([text_file("test.csv", head)], named)
