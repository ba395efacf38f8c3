"""What holds of `validate` whatever the rows: it never falls over, counts all, and shards add up."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from corpus_broken import BROKEN
from corpus_broken_sets import fits
from corpus_clean import CLEAN
from corpus_rows import FORMATS, Case, messages, put, raw
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import CHATML, tokenizer_with

from tunesmith.config.run_config import DatasetSource
from tunesmith.data import batches
from tunesmith.data.findings import CODES
from tunesmith.data.layout import SLOTS
from tunesmith.data.partial import Partial
from tunesmith.data.report import conclude
from tunesmith.data.validate import Request, check_shard, validate
from tunesmith.errors import TunesmithError

METHODS = ["sft", "dpo", "kto", "grpo"]
each_method = pytest.mark.parametrize("method", METHODS)
few = settings(max_examples=120, deadline=None, derandomize=True, database=None)

KEYS = [
    *SLOTS, "conversations", "from", "role", "content", "value", "instruction", "output", "question",
    "answer", "input",
    "tool_calls", "tool_call_id", "function", "name", "arguments", "type", "weight", "preferred_output", "id",
    "", "a.b",
]  # fmt: skip
WORDS = [
    "user", "assistant", "system", "tool", "human", "gpt", "function_call", "Hello there.", "", " ", "\u200b",
    "true",
    "[]", "{}", "null", "<|im_end|>", "\ud83d", "\x00", "\n\nHuman: a\n\nAssistant: b", "[[[[", '{"name": 1}',
    "2024-01-01",
]  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**30, 10**40), st.floats(), st.sampled_from(WORDS),
    st.text(st.characters(), max_size=6), st.text(st.characters(categories=["Cs", "Co", "Cc", "Cf", "Zs"]),
    max_size=3),
)  # fmt: skip
keys = st.sampled_from(KEYS) | st.text(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=12,
)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(WORDS[:7]), "content": values},
        optional={"tool_calls": values, "weight": values},
    )
    | st.fixed_dictionaries({"from": st.sampled_from(WORDS[:7]), "value": values})
    | values,
    max_size=5,
)


@st.composite
def nested(draw) -> object:
    """A value inside up to thirty lists and objects."""
    value = draw(scalars)
    for key in draw(st.lists(st.none() | keys, max_size=30)):
        value = [value] if key is None else {key: value}
    return value


rows = st.dictionaries(st.sampled_from(KEYS), values | turns | nested(), max_size=5)


def paths_of(value, path=""):
    """The paths of everything in a row."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        deeper = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".lstrip(".")
        yield from [deeper, *paths_of(each, deeper)]


@st.composite
def nearly(draw, method) -> list[dict]:
    """Rows in a format of a method, some of them with something else somewhere in them."""
    shape = draw(st.sampled_from([each for each in FORMATS.values() if each.method == method]))
    made = shape.rows(2)
    for number in range(draw(st.integers(1, 5))):
        row = shape.make(number, full=True)
        for path in draw(st.lists(st.sampled_from(list(paths_of(row))), max_size=2)):
            with suppress(
                KeyError, IndexError, TypeError
            ):  # the first change may have taken the second's place
                row = put(row, path, draw(values | turns | scalars))
        made.append(row)
    return made


# Lines that are no row, or an odd one.
ODD_LINES = [
    b"", b"  \t", b"\r", b"{", b"}", b"[]", b"7", b'"text"', b"\xff\xfe", b'{"text": "\xe9"}',
    b'{"text": 1} {}',
    b'{"text": NaN}', b'{"text": 1e999}', b'{"text": ' + b"9" * 5000 + b"}", b'{"text": "a", "text": 2}',
    b"{'text': 1}",
    b'{"text": "tab\there"}', b"[" * 3000, b'{"messages": ' + b"[" * 99 + b"]" * 99 + b"}",
    b'{"prompt": "\\ud800"}',
    b"\xef\xbb\xbf{}", b"{}\x00", b'{"text": "2024-01-01 00:00:00"}', b'{"": {}}', b"{}",
]  # fmt: skip


def lines(method):
    """Lines of JSON, and of what is none."""
    as_lines = nearly(method).map(lambda made: [json.dumps(row).encode() for row in made])
    some = st.lists(
        st.sampled_from(ODD_LINES) | rows.map(lambda row: json.dumps(row).encode()), min_size=1, max_size=6
    )
    return some | as_lines | st.tuples(as_lines, some).map(lambda both: both[0] + both[1])


@each_method
def test_arbitrary_rows_are_judged_without_falling_over(method):
    @few
    @given(lines(method), st.sampled_from([b"\n", b"\r\n"]))
    def judged(written, end):
        with TemporaryDirectory() as folder:
            path = raw(Path(folder), end.join(written))
            num_rows = sum(
                bool(line.strip()) for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
            )
            if not path.stat().st_size:
                with pytest.raises(TunesmithError, match="is empty"):
                    validate(Request(DatasetSource(path=str(path)), method))
                return
            document = validate(Request(DatasetSource(path=str(path)), method)).as_dict()
        assert document["num_rows"] == num_rows
        assert all(found["code"] in CODES for found in document["findings"])
        assert all(found["row"] is None or 0 <= found["row"] < num_rows for found in document["findings"])
        assert sum(document["counts"].values()) == len(document["findings"])
        assert json.loads(json.dumps(document)) == document

    judged()


@each_method
@pytest.mark.parametrize("kind", ["rows.jsonl", "rows.json"])
def test_arbitrary_rows_meet_a_tokenizer_without_falling_over(method, kind):
    model = fits(lambda: tokenizer_with(CHATML))()

    @settings(few, max_examples=70)
    @given(nearly(method))
    def judged(made):
        content = json.dumps(made) if kind == "rows.json" else "\n".join(map(json.dumps, made))
        with TemporaryDirectory() as folder:
            source = DatasetSource(path=str(raw(Path(folder), content.encode(), kind)))
            document = validate(Request(source, method, model=model, max_length=256)).as_dict()
        assert document["num_rows"] == len(made)
        assert all(found["code"] in CODES for found in document["findings"])

    judged()


PIECES = [
    b"question,answer\r\n", b"question\tanswer\n", b"a,b\n", b'"', b'""', b",", b"\n", b"\r", b"[", b"]",
    b"{", b"}",
    b'{"text": "a"}', b", ", b"text\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"PAR1", b'"text": ', b"1", b"\\u",
    "京".encode(), b" ", b"x" * 99,
]  # fmt: skip


def told_of(path, method) -> str:
    """All that is said of a file: the document, or the error."""
    try:
        document = validate(Request(DatasetSource(path=str(path)), method)).as_dict()
    except TunesmithError as error:
        return error.message
    assert set(document["counts"]) <= set(CODES)
    return json.dumps(document)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "arrow"])
def test_arbitrary_bytes_are_a_report_or_a_sentence(kind):
    @few
    @given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=9), st.sampled_from(METHODS))
    def told(pieces, method):
        with TemporaryDirectory() as folder:
            path = raw(Path(folder), b"".join(pieces), f"rows.{kind}")
            assert not re.search("local variable|object has no|recursion", told_of(path, method))

    told()


CRASHES = {
    "null": b'null\n{"text": "The end."}\n',
    "lists": b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}\n{}\n",
    "objects": b'{"text": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}\n{}\n",
    "very deep": b'{"text": "a", "more": ' + b"[" * 99_999 + b"]" * 99_999 + b'}\n{"text": "The end."}\n',
}


@pytest.mark.parametrize("content", CRASHES.values(), ids=CRASHES)
def test_no_row_takes_the_process_down(content, tmp_path):
    """pyarrow and polars end the process, no less, at a first line that is null and at deep nesting."""
    path = raw(tmp_path, content)
    code = (
        "import sys; from tunesmith.config.run_config import DatasetSource; "
        "from tunesmith.data.validate import Request, validate; "
        "print(validate(Request(DatasetSource(path=sys.argv[1]), 'sft')).num_rows)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2\n", done.stderr[-2000:]


def readable(case: Case) -> bool:
    return not {"D107", "D306"} & {code for code, *_ in case.expected}


CASES = [case for case in [*BROKEN, *CLEAN] if readable(case)]
cases = st.sampled_from(CASES)


def test_shards_add_up_to_the_whole(tmp_path):
    made: dict[str, tuple[Request, dict]] = {}

    @settings(few, max_examples=100)
    @given(cases, st.integers(1, 5), st.randoms(use_true_random=False))
    def adds_up(case, number, random):
        if case.name not in made:
            folder = tmp_path / case.name
            folder.mkdir(exist_ok=True)
            request = case.request(folder)
            made[case.name] = request, validate(request).as_dict()
        request, whole = made[case.name]
        shards = list(range(number))
        random.shuffle(shards)
        parts = []
        for shard in shards:
            part = check_shard(Request(**{**vars(request), "shard": (shard, number)}))
            part.save(tmp_path / f"{shard}.part")
            parts.append(Partial.load(tmp_path / f"{shard}.part"))
        first, *others = parts
        for other in others:
            first.merge(other)
        assert conclude(request.source.path, first, model=request.model).as_dict() == whole

    adds_up()


@pytest.mark.parametrize("size", [1, pytest.param(700, marks=pytest.mark.slow)])
def test_the_size_of_chunks_makes_no_difference(size, tmp_path, monkeypatch):
    for number, case in enumerate(CASES[:: 8 if size > 1 else 25]):
        if case.name == "a very large answer":
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        request = case.request(folder)
        whole = validate(request).as_dict()
        with monkeypatch.context() as patched:
            patched.setattr(batches, "CHUNK_BYTES", size)
            patched.setattr(batches, "BATCH_ROWS", 5)
            assert validate(request).as_dict() == whole, case.name


@cache
def _dialogue() -> list[dict]:
    return messages.rows(12)


@few
@given(st.lists(st.sampled_from([b"", b" ", b"\t", b"\r"]), max_size=4), st.integers(0, 12))
def test_blank_lines_are_no_rows_wherever_they_stand(blank, at):
    written = [json.dumps(row).encode() for row in _dialogue()]
    with TemporaryDirectory() as folder:
        path = raw(Path(folder), b"\n".join([*written[:at], *blank, *written[at:]]))
        report = validate(Request(DatasetSource(path=str(path)), "sft"))
    assert report.num_rows == len(written)
    assert report.fit
