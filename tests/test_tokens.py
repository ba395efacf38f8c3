"""Which tokens carry loss: golden masks of template families, TRL's own labels, and rows that are refused."""

import json
import random

import pytest
from datasets import Dataset
from templates import (
    ALPACA,
    CHATML,
    DEEPSEEK_R1,
    GEMMA,
    GLM4,
    LLAMA3,
    MISTRAL,
    PHI3,
    QWEN2,
    QWEN3,
    ZEPHYR,
    tokenizer_with,
)  # fmt: skip
from tiny import _train_tokenizer, chat_rows, write_jsonl

from tunesmith.config.run_config import RunConfig
from tunesmith.data import chat_templates
from tunesmith.data.chat_templates import put_in_chat_template
from tunesmith.data.prepare import prepare_data
from tunesmith.data.tokens import IGNORED_LABEL, Encoder
from tunesmith.errors import DataError


def config_for(**settings) -> RunConfig:
    return RunConfig(model="m", dataset="rows", **settings)


def encode(tokenizer, rows, **settings) -> dict[str, list]:
    kinds = {"messages": "messages", "prompt": "prompt-completion", "text": "text"}
    kind = next(name for column, name in kinds.items() if column in rows[0])
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    encoder = Encoder(tokenizer, kind, config_for(**settings), "rows.jsonl")
    return encoder(columns, list(range(len(rows))))


def learned(tokenizer, row, **settings) -> list[str]:
    """The runs of tokens of `row` that carry loss, as text."""
    made = encode(tokenizer, [row], **settings)
    runs, previous = [], None
    for index, label in enumerate(made["labels"][0]):
        if label != IGNORED_LABEL:
            assert label == made["input_ids"][0][index]
            if previous != index - 1:
                runs.append([])
            runs[-1].append(label)
            previous = index
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]


def chat(*turns: str) -> dict:
    """A conversation of user and assistant in turn; `system:` before the first makes it a system message."""
    messages = []
    for turn in turns:
        if turn.startswith("system:"):
            messages.append({"role": "system", "content": turn.removeprefix("system:")})
        else:
            asked = sum(message["role"] != "system" for message in messages) % 2 == 0
            messages.append({"role": "user" if asked else "assistant", "content": turn})
    return {"messages": messages}


FAMILIES = {
    # name: template, what stands before the answer's words, what ends the turn
    "chatml": (CHATML, "", "<|im_end|>"),
    "zephyr": (ZEPHYR, "", "</s>"),
    "llama3": (LLAMA3, "", "<|eot_id|>"),
    "gemma": (GEMMA, "", "<end_of_turn>"),
    "mistral": (MISTRAL, " ", "</s>"),
    "phi3": (PHI3, "", "<|end|>"),
    "qwen2": (QWEN2, "", "<|im_end|>"),
    "deepseek-r1": (DEEPSEEK_R1, "", "</s>"),
    "glm4": (GLM4, "", ""),
    "alpaca": (ALPACA, "", "</s>"),
}
ANSWERS = ["Blue.", "t", "Yes, \n\n  with   two lines", "Grüße 🙂🙂 aus 京都", "<b>end</b>", "🙂"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trim_offsets", [False, True])
def test_exactly_the_answer_and_its_end_carry_loss(family, trim_offsets):
    template, before, end = FAMILIES[family]
    tokenizer = tokenizer_with(template, trim_offsets=trim_offsets)
    for answer in ANSWERS:
        assert learned(tokenizer, chat("What colour?", answer)) == [before + answer + end]


@pytest.mark.parametrize("family", FAMILIES)
def test_in_many_turns_each_answer_carries_loss_and_no_question_does(family):
    template, before, end = FAMILIES[family]
    row = chat("One?", "First answer.", "Two, First answer.?", "Second 🙂", "Three?", "Third")
    expected = [before + words + end for words in ("First answer.", "Second 🙂", "Third")]
    assert learned(tokenizer_with(template), row) == expected


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"mistral", "deepseek-r1"}))
def test_a_system_message_carries_no_loss(family):
    template, before, end = FAMILIES[family]
    row = chat("system:Be brief.", "One?", "First", "Two?", "Second")
    assert learned(tokenizer_with(template), row) == [before + "First" + end, before + "Second" + end]


@pytest.mark.parametrize("name", ["chatml", "zephyr"])
def test_our_own_templates_mark_the_answer_and_its_end(name):
    tokenizer = tokenizer_with(chat_templates.NAMED[name])
    assert learned(tokenizer, chat("One?", "First", "Two?", "Second")) == [
        f"{words}{'<|im_end|>' if name == 'chatml' else '</s>'}" for words in ("First", "Second")
    ]


def test_a_thought_that_the_template_takes_out_is_not_learned():
    row = chat("One?", "<think>\nhm\n</think>Seven")
    assert learned(tokenizer_with(DEEPSEEK_R1), row) == ["Seven</s>"]


def test_a_template_that_writes_a_thought_into_the_only_turn_learns_it():
    assert learned(tokenizer_with(QWEN3), chat("One?", "Seven")) == ["<think>\n\n</think>\n\nSeven<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_row():
    tokenizer = tokenizer_with(QWEN3)
    with pytest.raises(DataError, match=r"row 1 .*turn 1 changes") as refused:
        encode(tokenizer, [chat("One?", "First"), chat("One?", "First", "Two?", "Second")])
    assert refused.value.where == "rows.jsonl, row 1"
    assert "chat_template" in refused.value.fix


def test_a_template_that_rewrites_the_question_is_refused():
    template = "{% for m in messages %}{{ m['content'] + (messages | length) | string }}{% endfor %}"
    with pytest.raises(DataError, match=r"row 0 .*turn 0 changes"):
        encode(tokenizer_with(template), [chat("One?", "First")])


def test_a_template_that_renders_no_answer_is_refused_with_the_row():
    template = "{% for m in messages %}{{ m['content'] if m['role'] == 'user' else '' }}{% endfor %}"
    with pytest.raises(DataError, match="row 0 has no token to learn"):
        encode(tokenizer_with(template), [chat("One?", "First")])


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ raise_exception('no') }}", "{% for %}", "{{ x.y.z }}"]
)
def test_a_template_that_fails_is_a_sentence_with_the_row(template):
    with pytest.raises(DataError, match="row 0 can't be rendered by the chat template"):
        encode(tokenizer_with(template), [chat("One?", "First")])


def test_a_conversation_that_begins_with_the_assistant_is_learned():
    row = {"messages": [{"role": "assistant", "content": "Hello!"}, *chat("Hi", "Bye")["messages"]]}
    assert learned(tokenizer_with(CHATML), row) == ["Hello!<|im_end|>", "Bye<|im_end|>"]


def test_spaces_at_the_end_of_an_answer_are_learned_whatever_their_offsets():
    for trim_offsets in (False, True):
        tokenizer = tokenizer_with(GLM4, trim_offsets=trim_offsets)
        assert learned(tokenizer, chat("One?", "Seven  ")) == ["Seven  "]


def test_a_run_of_spaces_that_is_an_added_token_ends_no_turn():
    template = CHATML.replace("+ '<|im_end|>", "+ '   <|im_end|>")
    tokenizer = tokenizer_with(template)
    assert "   " in tokenizer.get_added_vocab()
    assert learned(tokenizer, chat("One?", "Seven")) == ["Seven   <|im_end|>"]


def test_the_mark_of_the_next_question_ends_no_answer():
    # Only the whole conversation is closed, with a token that begins like the one that opens a question.
    template = GLM4.replace(
        "{% if add_generation_prompt",
        "{% if not add_generation_prompt %}{{ '<|end|>' }}{% endif %}{% if add_generation_prompt",
    )
    row = chat("One?", "First", "Two?", "Second")
    assert learned(tokenizer_with(template), row) == ["First", "Second<|end|>"]


def test_moving_a_boundary_by_one_token_changes_the_golden_mask():
    tokenizer = tokenizer_with(CHATML)
    made = encode(tokenizer, [chat("What colour?", "Blue.")])
    ids, labels = made["input_ids"][0], made["labels"][0]
    first = next(i for i, label in enumerate(labels) if label != IGNORED_LABEL)
    last = max(i for i, label in enumerate(labels) if label != IGNORED_LABEL)
    assert tokenizer.decode(ids[:first]).endswith("assistant\n")
    assert tokenizer.decode(ids[last]) == "<|im_end|>"
    assert tokenizer.decode(ids[last + 1 :]) == "\n"


# Parts, tools, nulls


def test_content_of_text_parts_is_learned_as_its_joined_text():
    parts = [{"type": "text", "text": "Blue "}, {"type": "text", "text": "sky"}]
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": parts}]}
    for family in ("chatml", "llama3"):
        template, _, end = FAMILIES[family]
        assert learned(tokenizer_with(template), row) == [f"Blue sky{end}"]


TOOLS_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% endif %}{% for call in m['tool_calls'] or [] %}"
    "{{ '<tool_call>' + call['function'] | tojson + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tool_row(name, arguments, **more):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "Sunny"},
    ]
    return {"messages": messages, **more}


def test_a_tool_call_is_learned_to_its_end_and_a_tool_answer_is_not():
    tokenizer = tokenizer_with(TOOLS_TEMPLATE)
    assert learned(tokenizer, tool_row("f", {"city": "Oslo"})) == [
        '<tool_call>{"name": "f", "arguments": {"city": "Oslo"}}</tool_call><|im_end|>',
        "Sunny<|im_end|>",
    ]


def test_words_before_a_tool_call_do_not_end_the_turn():
    row = tool_row("f", {"city": "Oslo"})
    row["messages"][1]["content"] = "Let me look."
    assert learned(tokenizer_with(TOOLS_TEMPLATE), row)[0] == (
        'Let me look.<tool_call>{"name": "f", "arguments": {"city": "Oslo"}}</tool_call><|im_end|>'
    )


def test_arguments_that_only_other_rows_have_are_not_learned_as_nulls(tmp_path):
    rows = Dataset.from_list([tool_row("f", {"city": "Oslo"}), tool_row("g", {"zip": "0150"})])
    assert rows[0]["messages"][1]["tool_calls"][0]["function"]["arguments"].get("zip") is None
    for row, arguments in zip(rows, ('{"city": "Oslo"}', '{"zip": "0150"}'), strict=True):
        assert arguments in learned(tokenizer_with(TOOLS_TEMPLATE), row)[0]


def test_tools_as_a_list_and_as_json_text_are_the_same():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    tokenizer = tokenizer_with(TOOLS_TEMPLATE)
    listed = encode(tokenizer, [tool_row("f", {}, tools=tools)])
    assert encode(tokenizer, [tool_row("f", {}, tools=json.dumps(tools))]) == listed
    assert '"parameters"' in tokenizer.decode(listed["input_ids"][0])
    for bad in ("[", '{"a": 1}', 3):
        with pytest.raises(DataError, match="row 0: tools"):
            encode(tokenizer, [tool_row("f", {}, tools=bad)])


# Prompt and completion, text


def test_a_text_completion_and_the_end_of_text_carry_loss():
    tokenizer = tokenizer_with(CHATML)
    for prompt, completion in [("Q: one\nA:", " two"), ("Q: ", "🙂 é"), ("def f():\n", "    return 1\n")]:
        assert learned(tokenizer, {"prompt": prompt, "completion": completion}) == [completion + "</s>"]


def test_a_token_that_straddles_prompt_and_completion_is_learned():
    tokenizer = _train_tokenizer(chat_template=True)
    together = tokenizer.tokenize("The river")
    row = {"prompt": "The riv", "completion": "er"}
    assert together[-1].endswith("river")
    assert learned(tokenizer, row) == [" river<|im_end|>"]


def test_a_completion_that_ends_itself_gets_no_second_end():
    tokenizer = tokenizer_with(CHATML)
    assert learned(tokenizer, {"prompt": "a", "completion": "b</s>"}) == ["b</s>"]


def test_a_conversational_completion_carries_loss_and_the_prompts_answers_do_not():
    messages = chat("One?", "First", "Two?", "Second")["messages"]
    row = {"prompt": messages[:3], "completion": messages[3:]}
    assert learned(tokenizer_with(CHATML), row) == ["Second<|im_end|>"]


def test_every_token_carries_loss_where_that_is_asked():
    tokenizer = tokenizer_with(CHATML)
    for row, settings in [
        ({"text": "Hello 🙂 "}, {}),
        (chat("One?", "First"), {"assistant_only_loss": False}),
        ({"prompt": "a", "completion": "b"}, {"completion_only_loss": False}),
    ]:
        made = encode(tokenizer, [row], **settings)
        assert made["labels"] == made["input_ids"]
    assert tokenizer.decode(encode(tokenizer, [{"text": "Hello"}])["input_ids"][0]) == "Hello</s>"


def test_padding_with_the_end_of_text_token_still_trains_it():
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tokenizer = tokenizer_with(ZEPHYR, pad_is_eos=True)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    made = encode(tokenizer, [chat("One?", "A long answer with words"), chat("One?", "First")])
    rows = [
        dict(zip(("input_ids", "labels"), each, strict=True))
        for each in zip(made["input_ids"], made["labels"], strict=True)
    ]
    batch = DataCollatorForLanguageModeling(tokenizer.pad_token_id)(rows)
    assert (batch["labels"] == tokenizer.eos_token_id).sum(dim=1).tolist() == [1, 1]
    assert torch.equal(batch["labels"][0], torch.tensor(made["labels"][0]))


# TRL's own labels


def labels_of_trl(tiny_model, tokenizer, rows, **settings) -> list[tuple[list[int], list[int]]]:
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=None, report_to="none", use_cpu=True, bf16=False, dataset_num_proc=None, disable_tqdm=True,
        **settings,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]


def labels_of_ours(tokenizer, rows, **settings) -> list[tuple[list[int], list[int]]]:
    made = encode(tokenizer, rows, **settings)
    return list(zip(made["input_ids"], made["labels"], strict=True))


def odd_chats(n: int) -> list[dict]:
    chosen = random.Random(7)
    words = ["🙂", "é", "  two  spaces", "\n\ncode:\n    x = 1", "京都", "the river", "a", "end.", "'s", "\t"]

    def said():
        return f"{chosen.choice(words)}{''.join(chosen.choices(words, k=chosen.randrange(6)))}x"

    return [chat(*(said() for _ in range(2 + 2 * chosen.randrange(3)))) for _ in range(n)]


def test_labels_of_messages_equal_those_of_trl_row_by_row(tiny_model):
    tokenizer = _train_tokenizer(chat_template=False)
    put_in_chat_template(tokenizer, "chatml")
    rows = chat_rows(20) + odd_chats(40)
    theirs = labels_of_trl(tiny_model, tokenizer, rows, assistant_only_loss=True, max_length=None)
    ours = labels_of_ours(tokenizer, rows, max_length=4096)
    for row, mine, trls in zip(rows, ours, theirs, strict=True):
        assert mine == trls, row


def test_labels_of_prompt_and_completion_equal_those_of_trl(tiny_model):
    tokenizer = _train_tokenizer(chat_template=True)
    rows = [{"prompt": f"Q{i}: the riv", "completion": f"er {'🙂' * i} is\n"} for i in range(8)]
    rows += [{"prompt": "Q: ", "completion": " yes"}, {"prompt": "Q:", "completion": "yes<|im_end|>"}]
    assert labels_of_ours(tokenizer, rows) == labels_of_trl(tiny_model, tokenizer, rows, max_length=1024)


def test_labels_of_text_equal_those_of_trl_cut_included(tiny_model):
    tokenizer = _train_tokenizer(chat_template=True)
    rows = [{"text": f"The river of Lima {i} " * i} for i in range(1, 9)]
    assert labels_of_ours(tokenizer, rows, max_length=24) == labels_of_trl(
        tiny_model, tokenizer, rows, max_length=24
    )


def test_a_conversational_completion_differs_from_trl_only_by_the_newline_after_its_end(tiny_model):
    tokenizer = _train_tokenizer(chat_template=True)
    rows = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in chat_rows(8)]
    newline = tokenizer.encode("\n")
    for mine, trls in zip(
        labels_of_ours(tokenizer, rows),
        labels_of_trl(tiny_model, tokenizer, rows, max_length=1024),
        strict=True,
    ):
        assert mine[0] == trls[0]
        assert mine[1][:-1] == trls[1][:-1]
        assert (mine[1][-1:], trls[1][-1:]) == ([IGNORED_LABEL], newline)


# Cut and dropped


def prepared(tmp_path, tokenizer, rows, **settings):
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    return prepare_data(RunConfig(model="m", dataset=str(path), **settings), tokenizer)


def row_of_length(tokenizer, question: str, num_tokens: int) -> dict:
    """A ChatML row of exactly `num_tokens`: its answer is as many digits as it takes."""
    for size in range(1, num_tokens):
        row = chat(question, "7" * size)  # a digit is a token
        if encode(tokenizer, [row], max_length=9999)["length"] == [num_tokens]:
            return row
    raise AssertionError(f"no answer makes {num_tokens} tokens")


def test_rows_that_are_cut_and_dropped_are_counted_exactly(tmp_path):
    tokenizer = tokenizer_with(CHATML)
    limit = 48
    lengths = [limit - 20, limit - 1, limit, limit + 1, limit + 2, limit + 30]
    rows = [row_of_length(tokenizer, "One?", length) for length in lengths]
    dropped = [chat("word " * 60, "short"), chat("other " * 80, "short")]
    report = prepared(tmp_path, tokenizer, rows + dropped, max_length=limit).report
    assert (report.num_rows, report.num_cut, report.num_dropped) == (6, 5, 2)
    # Of limit + 1 only the newline after the end is cut, so its answer still ends.
    assert report.num_ended == 4
    assert report.longest > limit + 30
    assert report.notes == [
        "5 of 8 rows are longer than max_length 48 and are cut; 2 of them lose every token that carries loss "
        "and are dropped"
    ]


def test_cut_rows_are_at_most_max_length_long_and_counted_in_tokens(tmp_path):
    data = prepared(tmp_path, tokenizer_with(CHATML), chat_rows(30), max_length=40)
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
        prepared(tmp_path, tokenizer_with(CHATML), rows, max_length=16)
    enough = int(refused.value.fix.split()[3])
    assert prepared(tmp_path, tokenizer_with(CHATML), rows, max_length=enough).report.num_cut == 0


def test_answers_that_never_end_are_noted(tmp_path):
    report = prepared(tmp_path, tokenizer_with(GLM4), chat_rows(4)).report
    assert report.num_ended == 0
    assert report.notes == ["0 of 4 rows train a token that ends the answer: the model won't learn to stop"]


# Bad rows


def message(content, role="assistant"):
    return {"role": role, "content": content}


USER = message("Hi", "user")
IMAGE = [{"type": "image", "image": "x.png"}]
NO_TEXT = {"type": "text"}
BAD_ROWS = {
    "null content": ({"messages": [USER, message(None)]}, "messages[1].content", "is null"),
    "empty content": ({"messages": [USER, message("  ")]}, "messages[1].content", "is empty"),
    "empty question": ({"messages": [message("", "user"), message("a")]}, "messages[0].content", "is empty"),
    "number as content": ({"messages": [USER, message(3)]}, "messages[1].content", "is a number"),
    "image": ({"messages": [USER, message(IMAGE)]}, "messages[1].content[0]", "'image'"),
    "no part text": ({"messages": [USER, message([NO_TEXT])]}, "messages[1].content[0].text", "null"),
    "empty parts": ({"messages": [USER, message([])]}, "messages[1].content", "is empty"),
    "unknown role": ({"messages": [USER, message("a", "gpt")]}, "messages[1].role", "'gpt'"),
    "no role": ({"messages": [USER, {"content": "a"}]}, "messages[1].role", "is null"),
    "odd role": ({"messages": [USER, message("a", ["user"])]}, "messages[1].role", "is a list"),
    "no answer": ({"messages": [USER]}, "messages", "has no assistant turn"),
    "no messages": ({"messages": []}, "messages", "is empty"),
    "null messages": ({"messages": None}, "messages", "is null"),
    "text as messages": ({"messages": "hi"}, "messages", "is a text"),
    "text as message": ({"messages": ["hi"]}, "messages[0]", "is a text"),
    "null text": ({"text": None}, "text", "is null"),
    "blank text": ({"text": " \n"}, "text", "is empty"),
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
    assert refused.value.where == f"rows.jsonl, row 2, {field}"
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
