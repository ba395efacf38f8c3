"""Every place data can come from, what mixtures and slices hold, a sentence for whatever can't be read."""

import csv
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from encoding import prepare, rows_of, texts
from tiny import chat_rows, write_jsonl

from tunesmith.config.run_config import DatasetSource
from tunesmith.data.row_source import open_rows
from tunesmith.errors import DataError, DownloadError


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
    return [row["text"] for row in rows_in(path, split=split, **options)]


def rows_in(path, **options) -> list[dict]:
    return [row for _, row in open_rows(DatasetSource(path=str(path), **options)).rows()]


def refusal(path, split="train", kind=DataError):
    with pytest.raises(kind) as refused:
        prepare(str(path), dataset_train_split=split)
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
    assert rows_in(path) == rows
    rows = [{"text": each} for each in ("NA", "null", "None", "nan")]
    write_table(path, rows, delimiter)
    assert rows_in(path) == rows


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
        ("rows.jsonl", b'{"text": "a"}\n{"text": "b"', "row 1 is no JSON"),
        ("rows.jsonl", b'{"text": "a', "row 0 is no JSON: unterminated string"),
        ("rows.jsonl", b'"a"\n3\n', "row 0 is a JSON text, should be an object"),
        ("rows.jsonl", b'{"text": "\\ud800"}\n', "row 0: text holds half a character"),
        ("rows.csv", b"text,b\n1,2,3\n1,2\n4,5,6,7\n", "row 0 has 3 fields where the header has 2"),
        ("rows.csv", b"text,text\na,b\n", "two columns named 'text'"),
        ("rows.csv", b"text\n\xff\xfe\n", "row 0: text holds the byte 0xff, which is no UTF-8"),
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
    assert name in f"{error.message} {error.where}"


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


@pytest.mark.parametrize(
    "typed", ["reasoninggym:gcd", "reasoning-gym:gcd", "Reasoning_Gym: gcd", "resoning_gym:gcd"]
)
def test_a_task_of_reasoning_gym_that_is_misspelt_is_told_from_a_missing_file(typed):
    error = refusal(typed)
    assert error.message == f"there is no dataset {typed}; did you mean reasoning_gym:gcd?"
    assert error.fix == "write reasoning_gym:gcd"


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


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("drift.jsonl", [*texts(9), {"text": 5}], "row 9: text is a number"),
        ("other.jsonl", [*texts(3), {"txt": "a"}], "row 3: text is missing"),
        ("null.jsonl", [{"text": None}] * 3, "row 0: text is null"),
        ("null-first.jsonl", [{"text": None}, *texts(3)], "row 0: text is null"),
        ("numbers.jsonl", [{"text": 1}, {"text": 2}], "row 0: text is a number"),
        ("shape.jsonl", [*chat_rows(3), {"messages": "hi"}], "row 3: messages is text"),
        (
            "role.jsonl",
            [*chat_rows(3), {"messages": [{"role": 3, "content": "a"}]}],
            "row 3: messages[0].role",
        ),
        ("nulls.jsonl", [*chat_rows(3), {"messages": None}], "row 3: messages is null"),
        ("columns.jsonl", [{"good": "a", "bad": "b"}], "the columns are good, bad"),
        ("nested.jsonl", [{"data": texts(3)}], "the columns are data"),
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
    with pytest.raises(DataError, match="row 9000: text is an object"):
        prepare(str(path))


def test_a_column_that_begins_or_ends_far_down_in_a_file_is_read_and_its_gaps_are_named(tmp_path):
    def written(name: str, *last: dict) -> Path:
        path = tmp_path / name
        space = " " * 20_000  # so that the last rows are beyond the pieces in which a file is read
        rows = [*texts(1000), {"text": "a", "more": 3}, *last]
        path.write_text("".join(f"{json.dumps(row)}{space}\n" for row in rows))
        return path

    assert prepare(str(written("late.jsonl"))).report.num_rows == 1001
    assert "row 1001: text is missing" in refusal(written("gone.jsonl", {"txt": "a"})).message
    assert "row 1001: text is null" in refusal(written("null.jsonl", {"text": None})).message


def test_bytes_that_are_no_utf8_are_named_with_row_and_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "b\xe9"}\n')
    with pytest.raises(DataError, match="row 1 is not UTF-8: byte 0xe9") as refused:
        prepare(str(path))
    assert "row 1" in refused.value.where


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
