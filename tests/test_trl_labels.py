"""Labels equal those of TRL's own SFTTrainer, row by row."""

import random

from datasets import Dataset
from encoding import chat, encode
from tiny import _train_tokenizer, chat_rows

from tunesmith.data.chat_templates import put_in_chat_template
from tunesmith.data.tokens import IGNORED_LABEL


def labels_of_trl(tiny_model, tokenizer, rows, **settings) -> list[tuple[list[int], list[int]]]:
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(tiny_model.parent / "trl"), report_to="none", use_cpu=True, bf16=False,
        dataset_num_proc=None, disable_tqdm=True, **settings,
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
