"""Every place data can come from, what mixtures and slices hold, a sentence for whatever can't be read."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from tiny import _train_tokenizer, chat_rows, write_jsonl

from tunesmith.config.run_config import DatasetSource, RunConfig
from tunesmith.data.prepare import prepare_data
from tunesmith.data.sources import open_dataset
from tunesmith.errors import DataError, DownloadError


def texts(n: int, word: str = "row") -> list[dict]:
    return [{"text": f"{word} {i}"} for i in range(n)]


def write_table(path: Path, rows: list[dict], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_as(kind: str, folder: Path, rows: list[dict]) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        write_jsonl(path, rows)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind in ("csv", "tsv"):
        write_table(path, rows, "\t" if kind == "tsv" else ",")
    elif kind == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif kind == "arrow":
        Dataset.from_list(rows).save_to_disk(folder / "for-arrow")
        path = next((folder / "for-arrow").glob("*.arrow"))
    elif kind == "saved":
        Dataset.from_list(rows).save_to_disk(path)
    elif kind == "saved-dict":
        DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows[:2])).save_to_disk(path)
    elif kind == "folder":
        path.mkdir()
        write_jsonl(path / "part-0.jsonl", rows[:4])
        write_jsonl(path / "part-1.jsonl", rows[4:])
    return path


KINDS = ("jsonl", "json", "csv", "tsv", "parquet", "arrow", "saved", "saved-dict", "folder")


def read(path, split="train", **options) -> list[str]:
    return open_dataset(DatasetSource(path=str(path), split=split, **options))["text"][:]


def refusal(path, split="train", kind=DataError, **options):
    with pytest.raises(kind) as refused:
        open_dataset(DatasetSource(path=str(path), split=split, **options))
    assert "\n" not in refused.value.message
    assert refused.value.where
    assert refused.value.fix
    return refused.value


# What can be read


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_its_rows_in_order(kind, tmp_path):
    path = write_as(kind, tmp_path, texts(20))
    assert read(path) == [row["text"] for row in texts(20)]
    assert read(path, max_rows=3) == ["row 0", "row 1", "row 2"]
    assert len(read(path, max_rows=500)) == 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train[:10]", range(10)),
        ("train[10%:20%]", range(2, 4)),
        ("train[-3:]", range(17, 20)),
        ("train[:1000]", range(20)),
        ("train[:2]+train[18:]", [0, 1, 18, 19]),
    ],
)
def test_a_slice_of_a_split_gives_just_those_rows(kind, split, rows, tmp_path):
    path = write_as(kind, tmp_path, texts(20))
    assert read(path, split) == [f"row {i}" for i in rows]


def test_splits_of_a_saved_dict_and_of_a_folder_can_be_added(tmp_path):
    saved = write_as("saved-dict", tmp_path, texts(5))
    assert read(saved, "test") == ["row 0", "row 1"]
    assert read(saved, "test+train[4:]") == ["row 0", "row 1", "row 4"]
    folder = tmp_path / "named"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", texts(3))
    write_jsonl(folder / "test.jsonl", texts(2, "held"))
    assert read(folder, "test") == ["held 0", "held 1"]
    assert read(folder, "train+test") == ["row 0", "row 1", "row 2", "held 0", "held 1"]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_everything_in_a_csv_is_text(delimiter, tmp_path):
    rows = [{"prompt": "NA", "completion": "42"}, {"prompt": 'a, b\t"c"\nd', "completion": "007"}]
    path = write_table(tmp_path / ("rows.csv" if delimiter == "," else "rows.tsv"), rows, delimiter)
    assert list(open_dataset(DatasetSource(path=str(path)))) == rows
    rows = [{"text": each} for each in ("NA", "null", "None", "nan")]
    write_table(path, rows, delimiter)
    assert list(open_dataset(DatasetSource(path=str(path)))) == rows


def test_byte_order_mark_windows_line_ends_and_nul_are_read(tmp_path):
    for name, raw in {
        "rows.jsonl": b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b\\u0000c"}\r\n',
        "rows.csv": b"\xef\xbb\xbftext\r\na\r\nb\x00c\r\n",
    }.items():
        (tmp_path / name).write_bytes(raw)
        assert read(tmp_path / name) == ["a", "b\0c"]


# What can't


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path):
    for path in (
        tmp_path / "none.jsonl",
        "./none",
        "none.csv",
        "~/none.parquet",
        "a/b/c",
        "~nobody-here/x.csv",
    ):
        assert "none" in refusal(path).message or str(path) in refusal(path).message


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("rows.jsonl", b"", "is empty"),
        ("rows.csv", b"", "is empty"),
        ("rows.jsonl", b"\n \n", "no rows"),
        ("rows.json", b"[]", "no rows"),
        ("rows.csv", b"text\n", "no rows"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": oops}\n', "row 1"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": "b"', "can't be read"),
        ("rows.jsonl", b'"a"\n3\n', "can't be read"),
        ("rows.jsonl", b'{"text": "\\ud800"}\n', "surrogate"),
        ("rows.csv", b"a,b\n1,2,3\n1,2\n4,5,6,7\n", "can't be read"),
        ("rows.csv", b"text,text\na,b\n", "two columns named 'text'"),
        ("rows.csv", b"text\n\xff\xfe\n", "can't be read"),
        ("rows.parquet", b"nope", "can't be read"),
        ("rows.arrow", b"nope nope nope nope", "can't be read"),
        ("rows.xlsx", b"PK", "none of the files that can be read"),
        ("rows", b"text", "none of the files that can be read"),
    ],
)
def test_a_file_that_holds_no_rows_is_a_sentence(name, raw, says, tmp_path):
    (tmp_path / name).write_bytes(raw)
    error = refusal(tmp_path / name)
    assert says in error.message
    assert name in error.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_that_is_not_there_is_named_beside_those_that_are(kind, tmp_path):
    error = refusal(write_as(kind, tmp_path, texts(8)), "validation")
    assert "'validation'" in error.message
    assert "train" in f"{error.message} {error.fix}"


@pytest.mark.parametrize("kind", ["jsonl", "saved", "folder"])
@pytest.mark.parametrize(
    "split", ["train[abc]", "train[:150%]", "train[", "", "train[0:2][1]", "a b", "train[5:2]", "train[:0]"]
)
def test_a_slice_that_makes_no_sense_or_holds_nothing_is_a_sentence(kind, split, tmp_path):
    error = refusal(write_as(kind, tmp_path, texts(8)), split)
    assert split in error.message


def test_a_folder_without_data_is_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose" / "notes.md").write_text("x")
    for name in ("empty", "prose"):
        assert "holds no file that can be read" in refusal(tmp_path / name).message


def test_a_broken_saved_dataset_is_a_sentence(tmp_path):
    path = write_as("saved", tmp_path, texts(5))
    next(path.glob("*.arrow")).unlink()
    assert "can't be read" in refusal(path).message


@pytest.mark.parametrize("name", ["trl-lib/Capybara", "imdb"])
def test_a_hub_dataset_while_offline_says_so(name):
    error = refusal(name, kind=DownloadError)
    assert name in error.message
    assert "HF_HUB_OFFLINE" in error.fix


# From files to token ids


def prepare(dataset, tokenizer=None, **settings):
    return prepare_data(
        RunConfig(model="m", dataset=dataset, **settings), tokenizer or _train_tokenizer(chat_template=True)
    )


def rows_of(dataset) -> list[str]:
    tokenizer = _train_tokenizer(chat_template=True)
    return [tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in dataset]


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("drift.jsonl", [*texts(9), {"text": 5}], "row 9: text is a number"),
        ("other.jsonl", [*texts(3), {"txt": "a"}], "row 3: text is null"),
        ("null.jsonl", [{"text": None}] * 3, "row 0: text is null"),
        ("null-first.jsonl", [{"text": None}, *texts(3)], "row 0: text is null"),
        ("numbers.jsonl", [{"text": 1}, {"text": 2}], "row 0: text is a number"),
        ("shape.jsonl", [*chat_rows(3), {"messages": "hi"}], "row 3: messages is a text"),
        (
            "role.jsonl",
            [*chat_rows(3), {"messages": [{"role": 3, "content": "a"}]}],
            "row 3: messages[0].role",
        ),
        ("nulls.jsonl", [*chat_rows(3), {"messages": None}], "row 3: messages is null"),
        ("columns.jsonl", [{"question": "a", "answer": "b"}], "has the columns question, answer"),
        ("nested.jsonl", [{"data": texts(3)}], "has the columns data"),
    ],
)
def test_a_column_that_changes_its_type_or_is_null_is_a_sentence_with_the_row(name, raw, says, tmp_path):
    path = write_jsonl(tmp_path / name, raw)
    with pytest.raises(DataError) as refused:
        prepare(str(path))
    assert says in refused.value.message
    assert name in refused.value.where


def test_a_type_that_changes_at_the_end_of_a_long_file_is_found_with_its_row(tmp_path):
    path = write_jsonl(tmp_path / "long.jsonl", [*texts(9_000), {"text": {"a": 1}}])
    with pytest.raises(DataError, match="row 9000: text is a table"):
        prepare(str(path))


def test_columns_that_change_beyond_the_first_chunk_of_a_file_are_a_sentence(tmp_path):
    filler = "b" * 20_000  # datasets takes the schema from the first 10 MB
    for name, rows in {
        "null": [*({"text": None, "more": filler} for _ in range(600)), {"text": "a", "more": "b"}],
        "name": [*({"text": filler} for _ in range(600)), {"txt": "a"}],
    }.items():
        error = refusal(write_jsonl(tmp_path / f"{name}.jsonl", rows))
        assert "changes its columns or their types" in error.message


def test_bytes_that_are_no_utf8_are_named_with_row_and_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "b\xe9"}\n')
    with pytest.raises(DataError, match=r"row 1, text of .* is not UTF-8") as refused:
        prepare(str(path))
    assert "row 1, text" in refused.value.where


def test_the_same_data_has_the_same_fingerprint_whatever_the_file_and_another_byte_another(tmp_path):
    rows = texts(12)
    prints = {kind: prepare(str(write_as(kind, tmp_path, rows))).report.fingerprint for kind in KINDS}
    assert len(set(prints.values())) == 1
    changed = tmp_path / "changed.jsonl"
    changed.write_bytes((tmp_path / "rows.jsonl").read_bytes().replace(b"row 7", b"row 8"))
    assert prepare(str(changed)).report.fingerprint not in prints.values()
    other_order = write_jsonl(tmp_path / "order.jsonl", [rows[1], rows[0], *rows[2:]])
    assert prepare(str(other_order)).report.fingerprint not in prints.values()


def test_the_fingerprint_sees_which_tokens_carry_loss(tmp_path):
    path = str(write_jsonl(tmp_path / "chats.jsonl", chat_rows(4)))
    masked, whole = prepare(path), prepare(path, assistant_only_loss=False)
    assert masked.train["input_ids"][:] == whole.train["input_ids"][:]
    assert masked.report.fingerprint != whole.report.fingerprint


def test_at_most_max_rows_are_trained_on(tmp_path):
    path = str(write_jsonl(tmp_path / "rows.jsonl", texts(9)))
    assert rows_of(prepare(path, max_rows=4).train) == [f"row {i}" for i in range(4)]
    assert prepare(path, max_rows=400).report.num_rows == 9


# Mixtures


def mixture(tmp_path, sizes, weights=None):
    entries = []
    for index, size in enumerate(sizes):
        path = write_jsonl(tmp_path / f"m{index}.jsonl", texts(size, f"m{index}"))
        entries.append(DatasetSource(path=str(path), weight=weights[index] if weights else None))
    return tuple(entries)


def test_a_mixture_without_weights_holds_every_row_once(tmp_path):
    data = prepare(mixture(tmp_path, [30, 7, 13]))
    assert sorted(rows_of(data.train)) == sorted(
        f"m{i} {n}" for i, size in enumerate([30, 7, 13]) for n in range(size)
    )
    assert [int(count) for count in data.report.mixture.values()] == [30, 7, 13]
    assert [name.rpartition("/")[2] for name in data.report.mixture] == [
        "m0.jsonl#0",
        "m1.jsonl#1",
        "m2.jsonl#2",
    ]
    assert {row.split()[0] for row in rows_of(data.train)[:12]} == {"m0", "m1", "m2"}


def test_a_mixture_with_weights_holds_no_row_twice_and_about_their_shares(tmp_path):
    data = prepare(mixture(tmp_path, [400, 400], weights=[3, 1]))
    taken = rows_of(data.train)
    assert len(set(taken)) == len(taken)
    counts = Counter(row.split()[0] for row in taken)
    assert list(data.report.mixture.values()) == [counts["m0"], counts["m1"]]
    assert counts["m0"] == 400
    assert 0.65 < counts["m0"] / len(taken) < 0.85


def test_a_mixture_counts_what_is_trained_on_after_limits_and_hold_out(tmp_path):
    data = prepare(mixture(tmp_path, [40, 40]), max_rows=30, test_size=10)
    counts = Counter(row.split()[0] for row in rows_of(data.train))
    assert sum(data.report.mixture.values()) == data.report.num_rows == 20
    assert list(data.report.mixture.values()) == [counts["m0"], counts["m1"]]


def test_an_entry_that_stands_twice_is_taken_twice_and_two_slices_once_each(tmp_path):
    [entry] = mixture(tmp_path, [6])
    assert len(prepare((entry, entry)).train) == 12
    halves = tuple(entry.model_copy(update={"split": split}) for split in ("train[:3]", "train[3:]"))
    assert sorted(rows_of(prepare(halves).train)) == [f"m0 {i}" for i in range(6)]


def test_the_seed_decides_the_order_of_a_mixture(tmp_path):
    entries = mixture(tmp_path, [20, 20])
    orders = [rows_of(prepare(entries, seed=seed).train) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


# Evaluation


@pytest.mark.parametrize(("size", "held"), [(0.1, 2), (0.5, 10), (0.001, 1), (3, 3), (19, 19)])
def test_test_size_is_a_share_or_a_number_and_takes_rows_out_of_training(size, held, tmp_path):
    data = prepare(str(write_jsonl(tmp_path / "rows.jsonl", texts(20))), test_size=size)
    assert (len(data.train), len(data.eval)) == (20 - held, held)
    assert data.report.num_eval_rows == held
    assert sorted(rows_of(data.train) + rows_of(data.eval)) == sorted(row["text"] for row in texts(20))


def test_a_test_size_that_leaves_nothing_to_train_on_is_refused(tmp_path):
    path = str(write_jsonl(tmp_path / "rows.jsonl", texts(5)))
    for size in (5, 500, 0.99):
        with pytest.raises(DataError, match="leaves no row of 5"):
            prepare(path, test_size=size)


def test_another_dataset_or_split_can_be_evaluated_on(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", texts(6))
    held = write_jsonl(tmp_path / "held.jsonl", texts(2, "held"))
    data = prepare(str(train), eval_dataset=str(held))
    assert rows_of(data.eval) == ["held 0", "held 1"]
    assert (data.report.num_rows, data.report.num_eval_rows, data.report.notes) == (6, 2, [])
    saved = write_as("saved-dict", tmp_path, texts(6))
    data = prepare(str(saved), dataset_test_split="test")
    assert rows_of(data.eval) == ["row 0", "row 1"]
    with pytest.raises(DataError, match="'nope'"):
        prepare(str(saved), dataset_test_split="nope")


def test_the_test_splits_of_all_datasets_of_a_mixture_are_evaluated_on(tmp_path):
    entries = []
    for word in ("a", "b"):
        saved = DatasetDict(
            train=Dataset.from_list(texts(4, word)), test=Dataset.from_list(texts(2, f"{word}t"))
        )
        saved.save_to_disk(tmp_path / word)
        entries.append(DatasetSource(path=str(tmp_path / word)))
    data = prepare(tuple(entries), dataset_test_split="test")
    assert rows_of(data.eval) == ["at 0", "at 1", "bt 0", "bt 1"]


def test_evaluation_rows_that_are_trained_on_are_counted_in_a_note(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", texts(6))
    held = write_jsonl(tmp_path / "held.jsonl", [*texts(2), *texts(3, "held")])
    [note] = prepare(str(train), eval_dataset=str(held)).report.notes
    assert note.startswith("2 of 5 evaluation rows are trained on too")


def test_evaluation_rows_that_are_cut_are_noted(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", texts(6))
    held = write_jsonl(tmp_path / "held.jsonl", [{"text": "word " * 40}, {"text": "b"}])
    [note] = prepare(str(train), eval_dataset=str(held), max_length=16).report.notes
    assert note.startswith("evaluation: 1 of 2 rows are longer than max_length 16")
