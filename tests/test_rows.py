"""Rows that are cut, dropped or refused, and templates that are put in: counted, named and said."""

import pytest
from encoding import chat, encode, learned
from templates import CHATML, GLM4, LLAMA3, tokenizer_with
from tiny import _train_tokenizer, chat_rows, write_jsonl

from tunesmith.config.run_config import RunConfig
from tunesmith.data.chat_templates import put_in_chat_template
from tunesmith.data.prepare import prepare_data
from tunesmith.data.token_rows import LENGTH
from tunesmith.data.tokens import IGNORED_LABEL
from tunesmith.errors import DataError, DownloadError, ModelError

# Cut and dropped


def prepared(tmp_path, tokenizer, rows, **settings):
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    return prepare_data(RunConfig(model="m", dataset=str(path), **settings), tokenizer)


def row_of_length(tokenizer, question: str, num_tokens: int) -> dict:
    """A ChatML row of exactly `num_tokens`: its answer is as many digits as it takes."""

    def length_of(row: dict) -> int:
        return encode(tokenizer, [row], max_length=9999)[LENGTH][0]

    more = num_tokens - length_of(chat(question, "7"))
    row = chat(question, "7" * (1 + more))  # a digit is a token
    assert length_of(row) == num_tokens
    return row


def test_rows_that_are_cut_and_dropped_are_counted_exactly(tmp_path):
    tokenizer = tokenizer_with(CHATML)
    limit = 48
    lengths = [limit - 20, limit - 1, limit, limit + 1, limit + 2, limit + 30]
    rows = [row_of_length(tokenizer, "One?", length) for length in lengths]
    dropped = [chat("word " * 60, "short"), chat("other " * 80, "short")]
    report = prepared(tmp_path, tokenizer, rows + dropped, max_length=limit, allow=("D207",)).report
    assert (report.num_rows, report.num_cut, report.num_dropped) == (6, 5, 2)
    # Of limit + 1 only the newline after the end is cut, so its answer still ends.
    assert report.num_ended == 4
    assert report.longest > limit + 30
    assert (
        "5 of 8 rows are longer than max_length 48 and are cut; 2 of them lose every token that carries loss "
        "and are dropped"
    ) in report.notes


def test_answers_that_max_length_cuts_are_refused_beyond_one_percent_unless_allowed(tmp_path):
    tokenizer = tokenizer_with(CHATML)
    whole = [row_of_length(tokenizer, f"Number {i}?", 40) for i in range(20)]
    rows = whole * 5 + [row_of_length(tokenizer, "Long?", 60)]
    assert prepared(tmp_path, tokenizer, [*rows, *whole], max_length=48).report.num_cut == 1
    with pytest.raises(DataError, match=r"cuts the answers of 2 of 102 rows .*\[D207\]") as refused:
        prepared(tmp_path, tokenizer, [*rows, rows[-1]], max_length=48)
    assert "--allow D207" in refused.value.fix
    allowed = prepared(tmp_path, tokenizer, [*rows, rows[-1]], max_length=48, allow=("D207",)).report
    assert any("(allowed)" in note for note in allowed.notes)


def test_cut_rows_are_at_most_max_length_long_and_counted_in_tokens(tmp_path):
    data = prepared(tmp_path, tokenizer_with(CHATML), chat_rows(30), max_length=40, allow=("D207",))
    lengths = [len(row["input_ids"]) for row in data.train]
    assert max(lengths) == 40
    assert data.report.num_tokens == sum(lengths)
    assert data.report.num_loss_tokens == sum(
        label != IGNORED_LABEL for row in data.train for label in row["labels"]
    )
    assert data.report.mean_length == round(sum(lengths) / len(lengths), 1)


def test_nothing_is_noted_when_nothing_is_lost(tmp_path):
    report = prepared(tmp_path, tokenizer_with(CHATML), chat_rows(5)).report
    assert (report.num_cut, report.num_dropped, report.num_ended, report.notes) == (0, 0, 5, [])


def test_when_every_row_is_cut_away_the_length_that_would_do_is_named(tmp_path):
    rows = [chat("word " * 60, "short")] * 3
    with pytest.raises(DataError, match="no row keeps a token to learn") as refused:
        prepared(tmp_path, tokenizer_with(CHATML), rows, max_length=16, allow=("D207",))
    enough = int(refused.value.fix.split()[3])
    assert prepared(tmp_path, tokenizer_with(CHATML), rows, max_length=enough).report.num_cut == 0


def test_answers_that_never_end_are_refused_unless_allowed(tmp_path):
    with pytest.raises(DataError, match=r"0 of 4 rows train a token that ends the answer \[D203\]"):
        prepared(tmp_path, tokenizer_with(GLM4), chat_rows(4))
    assert prepared(tmp_path, tokenizer_with(GLM4), chat_rows(4), allow=("D203",)).report.num_ended == 0


# Bad rows


def message(content, role="assistant"):
    return {"role": role, "content": content}


USER = message("Hi", "user")
IMAGE = [{"type": "image", "image": "x.png"}]
NO_TEXT = {"type": "text"}
BAD_ROWS = {
    "null content": ({"messages": [USER, message(None)]}, "messages[1].content", "is null"),
    "empty content": ({"messages": [USER, message("  ")]}, "messages[1].content", "is blank"),
    "empty question": ({"messages": [message("", "user"), message("a")]}, "messages[0].content", "is empty"),
    "number as content": ({"messages": [USER, message(3)]}, "messages[1].content", "is a number"),
    "image": ({"messages": [USER, message(IMAGE)]}, "messages[1].content[0]", "an image"),
    "no part text": ({"messages": [USER, message([NO_TEXT])]}, "messages[1].content[0].text", "missing"),
    "empty parts": ({"messages": [USER, message([])]}, "messages[1].content", "is empty"),
    "unknown role": ({"messages": [USER, message("a", "gpt")]}, "messages[1].role", "'gpt'"),
    "no role": ({"messages": [USER, {"content": "a"}]}, "messages[1].role", "is missing"),
    "odd role": ({"messages": [USER, message("a", ["user"])]}, "messages[1].role", "is a list"),
    "no answer": ({"messages": [USER]}, "messages", "has no assistant turn"),
    "no messages": ({"messages": []}, "messages", "is empty"),
    "null messages": ({"messages": None}, "messages", "is null"),
    "text as messages": ({"messages": "hi"}, "messages", "is text"),
    "text as message": ({"messages": ["hi"]}, "messages[0]", "is text"),
    "null text": ({"text": None}, "text", "is null"),
    "blank text": ({"text": " \n"}, "text", "is blank"),
    "number as text": ({"text": 3.5}, "text", "is a number"),
    "null prompt": ({"prompt": None, "completion": "a"}, "prompt", "is null"),
    "empty completion": ({"prompt": "a", "completion": ""}, "completion", "is empty"),
    "mixed pair": ({"prompt": [USER], "completion": "a"}, "completion", "both"),
    "no learnable": ({"prompt": [USER], "completion": [USER]}, "completion", "has no assistant turn"),
}  # fmt: skip
GOOD_ROWS = {
    "messages": chat("Hi", "Hello"), "text": {"text": "Hello"}, "prompt": {"prompt": "a", "completion": "b"},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_with_its_field_and_fault(name):
    bad, field, says = BAD_ROWS[name]
    good = GOOD_ROWS[next(iter(bad))]
    with pytest.raises(DataError) as refused:
        encode(tokenizer_with(CHATML), [good, good, bad, good])
    assert refused.value.message.startswith(f"row 2: {field} ")
    assert says in refused.value.message
    assert refused.value.where.endswith(f"rows.jsonl, row 2, {field}")
    assert refused.value.fix


def test_a_bad_row_of_a_file_has_its_number_in_the_file(tmp_path):
    rows = chat_rows(2500)
    rows[2100]["messages"][-1]["content"] = None
    with pytest.raises(DataError, match=r"row 2100: messages\[\d\].content is null"):
        prepared(tmp_path, tokenizer_with(CHATML), rows)


def test_an_empty_system_prompt_is_no_fault():
    row = {"messages": [message("", "system"), USER, message("a")]}
    assert learned(tokenizer_with(CHATML), row) == ["a<|im_end|>"]


# Templates that are put in


def test_a_base_model_gets_chatml_where_its_tokens_exist_and_the_turns_end_becomes_the_end_of_text():
    tokenizer = _train_tokenizer(chat_template=False)
    tokenizer.eos_token = "<|pad|>"
    assert put_in_chat_template(tokenizer, None) == (
        "the model brings no chat template: put in chatml (the tokenizer has its tokens)"
    )
    assert tokenizer.eos_token == "<|im_end|>"
    assert learned(tokenizer, chat("Hi", "Hello")) == ["Hello<|im_end|>"]


def test_a_base_model_without_those_tokens_gets_zephyr():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a")), eos_token="</s>"
    )
    assert "zephyr (it needs no new tokens)" in put_in_chat_template(bare, None)
    assert bare.eos_token == "</s>"
    with pytest.raises(DataError, match=r"<\|im_start\|>") as refused:
        put_in_chat_template(bare, "chatml")
    assert "zephyr" in refused.value.fix


def test_a_model_keeps_its_own_template_unless_another_is_asked(tmp_path):
    tokenizer = _train_tokenizer(chat_template=True)
    own = tokenizer.chat_template
    assert put_in_chat_template(tokenizer, None) is None
    assert tokenizer.chat_template == own
    (tmp_path / "mine.jinja").write_bytes(b"\xef\xbb\xbf" + LLAMA3.encode())
    assert "mine.jinja" in put_in_chat_template(tokenizer, str(tmp_path / "mine.jinja"))
    assert tokenizer.chat_template == LLAMA3


def test_a_template_that_is_no_name_and_no_readable_file_is_refused(tmp_path):
    (tmp_path / "bytes.jinja").write_bytes(b"\xff\xfe\xff")
    for wanted in ("chatlm", "", str(tmp_path), str(tmp_path / "none.jinja"), str(tmp_path / "bytes.jinja")):
        with pytest.raises(DataError, match="chat_template") as refused:
            put_in_chat_template(_train_tokenizer(chat_template=True), wanted)
        assert refused.value.where == "chat_template"


@pytest.mark.parametrize(
    "model", ["~nobody-here/model", "/" + "x" * 300, "./none", "a/b/c", "none/of-these", "a\tb"]
)
def test_a_tokenizer_that_cannot_be_loaded_is_a_sentence(model):
    from tunesmith.data.tokenizer import load_tokenizer

    with pytest.raises((ModelError, DownloadError)) as refused:
        load_tokenizer(RunConfig.model_construct(model=model, dataset="d"))
    assert model in refused.value.message
    assert refused.value.where
    assert refused.value.fix
