"""Mixtures of datasets and rows held out for evaluation: what is in them, and how it is counted."""

from collections import Counter

import pytest
from datasets import Dataset, DatasetDict
from encoding import prepare, rows_of, texts
from tiny import write_jsonl

from tunesmith.config.run_config import DatasetSource
from tunesmith.errors import DataError


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


def test_rows_that_two_datasets_of_a_mixture_have_in_common_are_noted_once_each(tmp_path):
    first, second, third = (tmp_path / f"{name}.jsonl" for name in ("first", "second", "third"))
    write_jsonl(first, texts(5, "a lone"))
    write_jsonl(second, [*texts(2, "other"), {"text": "A  lone 3"}, {"text": "a lone 3"}])
    write_jsonl(third, [{"text": "other 1"}, *texts(1, "a lone")])
    entries = tuple(DatasetSource(path=str(path)) for path in (first, second, third))
    within, across = prepare(entries).report.notes
    assert within == "D301 exact duplicates: row 3 is the same as row 2"
    said = f"D301 exact duplicates: row 2 of {second} is the same as row 3 of {first}, and 2 more"
    assert across == said
    assert len(prepare(entries[:1]).report.notes) == 0
    [twice] = prepare((entries[0], entries[0])).report.notes
    assert f"row 0 of {first}#1 is the same as row 0 of {first}#0, and 4 more" in twice


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
    saved = tmp_path / "saved"
    DatasetDict(train=Dataset.from_list(texts(6)), test=Dataset.from_list(texts(2, "test"))).save_to_disk(
        saved
    )
    data = prepare(str(saved), dataset_test_split="test")
    assert rows_of(data.eval) == ["test 0", "test 1"]
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


def test_evaluation_rows_that_are_trained_on_are_refused_unless_allowed(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", texts(6))
    held = write_jsonl(tmp_path / "held.jsonl", [*texts(3, "held"), {"text": "  ROW 1"}, *texts(1)])
    with pytest.raises(DataError, match=r"row 3 is the same as row 1 of the training .*D303\], and 1 more"):
        prepare(str(train), eval_dataset=str(held))
    data = prepare(str(train), eval_dataset=str(held), allow=("D303",))
    assert data.report.num_eval_rows == 5
    assert any(note.startswith("D303") and note.endswith("(allowed)") for note in data.report.notes)


def test_copies_of_rows_that_are_held_out_are_left_out_of_training(tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", texts(10) * 2)
    data = prepare(str(rows), test_size=4)
    assert not set(rows_of(data.eval)) & set(rows_of(data.train))
    assert any("held out for evaluation, and are left out" in note for note in data.report.notes)


def test_evaluation_rows_that_are_cut_are_noted(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", texts(6))
    held = write_jsonl(tmp_path / "held.jsonl", [{"text": "word " * 40}, {"text": "b"}])
    [note] = prepare(str(train), eval_dataset=str(held), max_length=16).report.notes
    assert note.startswith("evaluation: 1 of 2 rows are longer than max_length 16")
