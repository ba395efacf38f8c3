"""The screen over columns against the judge of rows: it clears much, and never what the judge faults."""

import sys
from types import SimpleNamespace

import polars as pl
import pyarrow as pa
import pytest
from corpus_broken import BLANKS, BROKEN, CONTROL_TOKENS, CONTROLS
from corpus_broken_sets import EMAIL, KEYS, PRIVATE_KEY
from corpus_clean import CLEAN, CODE, SCRIPTS
from corpus_rows import FORMATS, Format, alpaca, jsonl, messages, parquet, sentence, text
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.batches import regular
from tunesmith.data.checks.rows import GROUPS, RowChecker
from tunesmith.data.checks.screen import Screen
from tunesmith.data.checks.text import BLANK, CONTROL, is_blank, text_faults
from tunesmith.data.checks.texts import texts_of
from tunesmith.data.formats import detect
from tunesmith.data.json_files import read_jsonl
from tunesmith.data.readers import read_parquet
from tunesmith.data.row_source import open_rows
from tunesmith.data.validate import column_names, told_format

# Shapes that are flagged whatever they hold: with tools, histories or ranks, or prompts in both answers.
JUDGED = {
    "tools",
    "sharegpt_tools",
    "alpaca",
    "kto_alpaca",
    "ranking_alpaca",
    "pair_implicit",
    "pair_hh",
    "openai_pairs",
}
# Data sets and formats that the screen clears though the judge faults them; a line too many fails its test.
GROUP_SETS = [GROUPS, *(frozenset({group}) for group in sorted(GROUPS))]
each_format = pytest.mark.parametrize("shape", FORMATS.values(), ids=FORMATS)
each_case = pytest.mark.parametrize("case", [*BROKEN, *CLEAN], ids=lambda case: case.name)


def layout_of(shape: Format):
    rows = shape.rows(12)
    return detect(shape.method, column_names(rows), rows)


def table_of(rows) -> pa.Table | None:
    """The rows in Arrow; None where they fit no schema."""
    try:
        return pa.Table.from_struct_array(pa.array(rows))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError):
        return None


def cleared_but_faulted(table, readings, layout, groups=GROUPS) -> list:
    """What the judge finds in rows that the screen clears; `readings` are ways to read the table's rows."""
    suspects, judge = set(Screen(layout, groups).suspects(table)), RowChecker(layout, groups)
    cleared = [index for index in range(table.num_rows) if index not in suspects]
    return [
        (rows[index], found) for rows in readings for index in cleared if (found := judge(rows[index], index))
    ]


def opened(case, folder):
    """The layout of a corpus data set and its batches; no layout where it has none."""
    source = open_rows(case.request(folder).source)
    layout, _ = told_format(source, case.method, case.given)
    return layout, [part for batch in source.batches() for part in regular(batch)] if layout else []


def name_of(shape: Format) -> str:
    return next(name for name in FORMATS if FORMATS[name] is shape)


@each_case
def test_no_fault_of_the_corpora_is_cleared(case, tmp_path):
    layout, batches = opened(case, tmp_path)
    for batch in batches:
        rows = batch.rows()
        if batch.table is not None:
            for groups in GROUP_SETS:
                assert cleared_but_faulted(batch.table, [rows], layout, groups) == []
        judge = RowChecker(layout)
        # A fault makes a batch fit no schema at times; alone its row has one.
        for row in [row for row in rows if isinstance(row, dict) and judge(row, 0)][:5]:
            table = table_of([row])
            assert table is None or cleared_but_faulted(table, [[row]], layout) == []


@each_case
def test_texts_are_the_same_by_columns_and_row_by_row(case, tmp_path):
    layout, batches = opened(case, tmp_path)
    for batch in batches:
        by_row = SimpleNamespace(table=None, num_rows=batch.num_rows, rows=batch.rows)
        assert as_lists(texts_of(batch, layout)) == as_lists(texts_of(by_row, layout))


def as_lists(texts) -> dict:
    columns = texts._asdict().items()
    return {name: list(column) if column is not None else None for name, column in columns}


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in JUDGED])
def test_clean_rows_are_cleared(name, tmp_path):
    rows = FORMATS[name].rows(40)
    layout = layout_of(FORMATS[name])
    assert Screen(layout).suspects(table_of(rows)) == []
    for batch in [*read_jsonl(jsonl(tmp_path, rows)), *read_parquet(parquet(tmp_path, rows))]:
        assert Screen(layout).suspects(batch.table) == []


def test_only_alpaca_rows_with_a_history_are_flagged():
    rows = [row | {"history": row["history"] or None} for row in alpaca.rows(20)]
    with_history = [index for index, row in enumerate(rows) if row["history"]]
    assert Screen(layout_of(alpaca)).suspects(table_of(rows)) == with_history


def test_only_the_broken_row_is_flagged():
    rows = messages.rows(200)
    rows[117]["messages"][-1]["content"] += "<|im_end|>"
    assert Screen(layout_of(messages)).suspects(table_of(rows)) == [117]


@pytest.mark.parametrize("words", [SCRIPTS, CODE], ids=["scripts", "code"])
def test_what_only_looks_like_a_fault_is_mostly_cleared(words):
    rows = [{"text": each} for each in words]
    assert len(Screen(layout_of(text)).suspects(table_of(rows))) <= len(rows) // 3


ODD = [
    *"".join([*BLANKS.values(), *CONTROLS.values()]),
    *"\x1c\x1d\x1e\x1f\x85\u180e\u2028\u2029\ufffe|<>[]/@.a",
]
TRANSCRIPTS = ["\n\nHuman: a\n\nAssistant: b", "Human: a\n\nAssistant:", "\n\nHuman: \n\nAssistant: "]
WORDS = [
    *ODD, *BLANKS.values(), *CONTROLS.values(), *CONTROL_TOKENS.values(), *KEYS.values(), PRIVATE_KEY, EMAIL,
    *SCRIPTS, *CODE, *TRANSCRIPTS, "[]", "{}", "true", "word " * 210_000,
]  # fmt: skip
TOLD = st.one_of(
    st.just(None), st.sampled_from(WORDS[:-1]), st.text(st.sampled_from(ODD), max_size=5),
    st.text(max_size=8),
    st.integers(0, 5).map(sentence),
)  # fmt: skip
ROLE_KEYS, NAMES = {"role", "from"}, [
    "system", "developer", "user", "assistant", "tool", "human", "gpt", "function_call", "observation",
    "User", "x", "",
]  # fmt: skip


def like(value, key=""):
    """Values of the type of `value`, nulls among them; a field may be left out."""
    if isinstance(value, dict):
        inner = {name: like(each, name) for name, each in value.items()}
        return st.none() | st.fixed_dictionaries({}, optional=inner) | st.fixed_dictionaries(inner)
    if isinstance(value, list):
        kinds = value[:1] or [""]
        plain = (
            st.fixed_dictionaries({name: like(each, name) for name, each in kinds[0].items()})
            if (isinstance(kinds[0], dict))
            else like(kinds[0])
        )
        return st.none() | st.lists(plain, max_size=4) | st.lists(like(kinds[0]), max_size=3)
    if isinstance(value, bool):
        return st.none() | st.booleans()
    if isinstance(value, int | float):
        return st.none() | st.integers(-3, 3)
    return st.none() | st.sampled_from(NAMES) if key in ROLE_KEYS else TOLD


def saying(value, words, key=""):
    """`value` with `words` in the place of every text but the roles."""
    if isinstance(value, dict):
        return {name: saying(each, words, name) for name, each in value.items()}
    if isinstance(value, list):
        return [saying(each, words) for each in value]
    return words if isinstance(value, str) and key not in ROLE_KEYS else value


@each_format
@pytest.mark.parametrize("groups", GROUP_SETS, ids=lambda groups: " ".join(sorted(groups)))
def test_no_odd_words_are_cleared_wherever_they_stand(shape, groups):
    full = shape.make(3, full=True)
    rows = [full, *(saying(full, words) for words in WORDS)]
    rows += [full | {name: saying(full[name], words)} for name in full for words in WORDS[:-1]]
    assert cleared_but_faulted(table_of(rows), [rows], layout_of(shape), groups) == []


@each_format
def test_no_fault_of_arbitrary_rows_is_cleared(shape):
    layout, full = layout_of(shape), shape.make(3, full=True)
    row = st.fixed_dictionaries({}, optional={name: like(value, name) for name, value in full.items()})
    column = st.fixed_dictionaries({name: like(value, name) for name, value in full.items()})

    @settings(max_examples=120, deadline=None, derandomize=True, database=None)
    @given(st.lists(row | column | st.just(full), min_size=1, max_size=8), st.sampled_from(GROUP_SETS))
    def never_cleared(rows, groups):
        rows = [full, *rows]
        table = table_of(rows)
        if table is not None:
            assert cleared_but_faulted(table, [rows, table.to_pylist()], layout, groups) == []

    never_cleared()


@each_format
def test_texts_of_arbitrary_rows_are_the_same_both_ways(shape):
    layout, full = layout_of(shape), shape.make(3, full=True)
    row = st.fixed_dictionaries({name: like(value, name) for name, value in full.items()})

    @settings(max_examples=50, deadline=None, derandomize=True, database=None)
    @given(st.lists(row, min_size=1, max_size=5))
    def same(rows):
        table = table_of([full, *rows])
        if table is None:
            return
        by_column, by_row = (
            SimpleNamespace(table=each, num_rows=table.num_rows, rows=table.to_pylist)
            for each in (table, None)
        )
        assert as_lists(texts_of(by_column, layout)) == as_lists(texts_of(by_row, layout))

    same()


def test_every_character_is_the_same_to_the_screen_and_to_the_judge():
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    column = pl.Series(characters)
    assert column.str.contains(BLANK).to_list() == [is_blank(each) for each in characters]
    controls = [any(code == "D016" for code, _ in text_faults(each)) for each in characters]
    assert column.str.contains(CONTROL).to_list() == controls
