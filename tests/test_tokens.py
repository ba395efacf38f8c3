"""Which tokens carry loss: golden masks of template families, TRL's own labels, and rows that are refused."""

import json

import pytest
from datasets import Dataset
from encoding import chat, encode, learned
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
from tiny import _train_tokenizer

from tunesmith.data import chat_templates
from tunesmith.data.tokens import IGNORED_LABEL
from tunesmith.errors import DataError

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
    assert refused.value.where.endswith("rows.jsonl, row 1")
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
