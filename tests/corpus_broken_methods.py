"""Broken data sets, one fault in each: preferences, unpaired answers, prompts."""

from __future__ import annotations

from corpus_rows import (
    GONE,
    Case,
    Format,
    better_worse,
    call,
    completion,
    csv_file,
    grpo_chat,
    grpo_messages,
    grpo_problem,
    grpo_text,
    json_array,
    kto_alpaca,
    kto_chat,
    kto_messages,
    kto_text,
    messages,
    openai_pairs,
    pair_chat,
    pair_hh,
    pair_implicit,
    pair_text,
    parquet,
    planted,
    qa,
    question,
    ranking,
    ranking_alpaca,
    said,
    saved,
    sentence,
    text,
    then,
    turn,
    two_files,
)  # fmt: skip


def same(shape: Format, one: str, other: str, name: str, **more) -> Case:
    """The answer that lost is the same as the one that won, but for blanks at its ends where it is text."""

    def copied(row, full=False):
        made = shape.make(row, full)
        if full:
            made[other] = (
                f" {made[one]}\n" if isinstance(made[one], str) and "Human:" not in made[one] else made[one]
            )
        return made

    return planted(name, Format(shape.method, copied), other, lambda old: old, "D101", **more)


_OTHER = {"prompt": question("another"), "turns": [turn("user", question("another"))]}

PAIRS = [
    planted("a pair without prompt", pair_text, "prompt", GONE, "D002"),
    planted("a pair with a null prompt", pair_text, "prompt", None, "D003", save=parquet),
    planted("a pair with a blank prompt", pair_text, "prompt", " ", "D004", save=csv_file),
    planted("a pair with a number for a prompt", pair_text, "prompt", 5, "D005"),
    planted("chosen is missing", pair_text, "chosen", GONE, "D002"),
    planted("chosen is null", pair_text, "chosen", None, "D003", save=saved),
    planted("rejected is null", pair_text.as_method("reward"), "rejected", None, "D003"),
    planted("rejected is blank", pair_text, "rejected", "\u200b", "D004"),
    planted("rejected is a number", pair_text, "rejected", 1, "D005", save=json_array),
    planted("rejected is messages, chosen text", pair_text, "rejected", [turn("assistant", "No.")], "D005"),
    planted("a token in chosen", pair_text, "chosen", then("<end_of_turn>"), "D017", save=parquet),
    planted("a control character in rejected", pair_text.as_method("reward"), "rejected", then("\x1b"),
            "D016"),
    planted("half a character in a pair", pair_text, "chosen", then("\ud800"), "D015"),
    same(pair_text, "chosen", "rejected", "both answers are the same text", save=two_files),
    same(pair_text.as_method("reward"), "chosen", "rejected", "a reward pair of the same text"),
    same(pair_chat, "chosen", "rejected", "both answers are the same message", save=parquet),
    same(pair_implicit, "chosen", "rejected", "both conversations are the same"),
    same(pair_hh, "chosen", "rejected", "both transcripts are the same"),
    same(better_worse, "better", "worse", "better is worse"),
    same(ranking, "chosen", "rejected", "both ranked messages are the same"),
    same(openai_pairs, "preferred_output", "non_preferred_output", "both outputs are the same"),
    planted("a prompt without messages", pair_chat, "prompt", [], "D004"),
    planted("a prompt of an unknown role", pair_chat, "prompt[0].role", "asker", "D006"),
    planted("chosen is an empty list", pair_chat, "chosen", [], "D004"),
    planted("chosen is the user's", pair_chat, "chosen[0].role", "user", "D008", field="chosen"),
    planted("a chosen message is blank", pair_chat, "chosen[0].content", "\u00a0", "D004", save=parquet),
    planted("a rejected message is null", pair_chat, "rejected[0].content", None, "D003"),
    planted("a rejected message shows an image", pair_chat, "rejected[0].content", [{"type": "image"}],
            "D014",
            field="rejected[0].content[0]"),
    planted("a chosen message calls nothing", pair_chat, "chosen[0].tool_calls", [call("", "{}")], "D010",
            field="chosen[0].tool_calls[0]"),
    planted("conversations of two questions", pair_implicit, "rejected[0].content", _OTHER["prompt"], "D102",
            field="rejected"),
    planted("conversations of two lengths", pair_implicit, "rejected",
            lambda old: [*_OTHER["turns"], turn("assistant", sentence("more")), *old], "D102"),
    planted("a conversation that starts with the answer", pair_implicit, "rejected", lambda old: old[1:],
            "D102"),
    planted("a conversation without answer", pair_implicit, "chosen", lambda old: old[:1], "D008"),
    planted("a conversation with a null", pair_implicit, "chosen[1].content", None, "D003", save=json_array),
    planted("a conversation of a strange role", pair_implicit, "rejected[1].role", "asistant", "D006"),
    planted("a conversation is null", pair_implicit, "rejected", None, "D003"),
    planted("a transcript is null", pair_hh, "chosen", None, "D003"),
    planted("a transcript is blank", pair_hh, "chosen", "", "D004"),
    planted("a transcript without turns", pair_hh, "rejected", "I would rather not say.", "D005"),
    planted("a transcript is a number", pair_hh, "rejected", 9, "D005"),
    planted("transcripts of two questions", pair_hh, "rejected",
            lambda old: old.replace("Human: Is it", "Human: Was it", 1), "D102"),
    planted("a transcript with an empty answer", pair_hh, "rejected",
            lambda old: old[: old.rindex("Assistant:")] + "Assistant: ", "D004"),
    planted("a transcript with a token", pair_hh, "chosen", then("</s>"), "D017", save=parquet),
    planted("a transcript ends with the human", pair_hh, "rejected", then("\n\nHuman: Thanks."), "D009"),
    planted("better is blank", better_worse, "better", "", "D004", save=csv_file),
    planted("worse is null", better_worse, "worse", None, "D003"),
    planted("a question of a pair is missing", better_worse, "question", GONE, "D002"),
    planted("a ranked message is null", ranking, "chosen", None, "D003"),
    planted("a ranked message without speaker", ranking, "chosen.from", GONE, "D002"),
    planted("a ranked message of nobody", ranking, "rejected.from", "nobody", "D006"),
    planted("a ranked message is blank", ranking, "rejected.value", " ", "D004", save=parquet),
    planted("a ranked message is the human's", ranking, "rejected", said("human", sentence("h")), "D008"),
    planted("a ranked message is text", ranking, "chosen", "Yes, it is.", "D005", field="rejected"),
    planted("a ranked question is null", ranking, "conversations[0].value", None, "D003"),
    planted("a ranked conversation is empty", ranking, "conversations", [], "D004"),
    planted("one answer to rank", ranking_alpaca, "output", lambda old: old[:1], "D005"),
    planted("three answers to rank", ranking_alpaca, "output", then(["Maybe."]), "D005"),
    planted("an answer to rank is null", ranking_alpaca, "output[1]", None, "D003", save=parquet),
    planted("an answer to rank is blank", ranking_alpaca, "output[0]", " ", "D004"),
    planted("both answers to rank are the same", ranking_alpaca, "output", lambda old: [old[0], f"{old[0]} "],
            "D101", field="output[1]"),
    planted("answers to rank are text", ranking_alpaca, "output", "Yes.", "D005"),
    planted("a ranked instruction is blank", ranking_alpaca, "instruction", "\n", "D004"),
    planted("an input is missing", openai_pairs, "input", GONE, "D002", field="input.messages"),
    planted("an input without messages", openai_pairs, "input.messages", [], "D004"),
    planted("an input of null content", openai_pairs, "input.messages[0].content", None, "D003",
            save=parquet),
    planted("a preferred output is null", openai_pairs, "preferred_output", None, "D003"),
    planted("a preferred output is an empty list", openai_pairs, "preferred_output", [], "D004"),
    planted("an output of a strange role", openai_pairs, "non_preferred_output[0].role", "bot", "D006"),
]  # fmt: skip


def longer(n: int, shape: Format = pair_text) -> list[dict]:
    """Pairs whose longer answer is the chosen one."""
    return [shape.make(2 * i + 1) for i in range(n)]


def swapped(n: int) -> list[dict]:
    """Pairs whose chosen and rejected answers were confused: the good ones are longer."""
    rows = longer(n)
    return [{**row, "chosen": row["rejected"][:20], "rejected": row["chosen"]} for row in rows]


BIASED = [
    Case("the longer answer always wins", "dpo", longer(24), (("D103", None, None),)),
    Case(
        "the longer answer always gets the reward",
        "reward",
        longer(30),
        (("D103", None, None),),
        save=parquet,
    ),
    Case("the longer answer wins in the few pairs that there are", "dpo", longer(8), (("D103", None, None),)),
    Case("the shorter answer always wins", "dpo", swapped(8), (("D103", None, None),)),
    Case("the longer message always wins", "dpo", longer(24, pair_chat), (("D103", None, None),)),
    Case("the longer transcript always wins", "dpo", longer(24, pair_hh), (("D103", None, None),)),
    Case("the longer ranked message always wins", "dpo", longer(24, ranking), (("D103", None, None),)),
    Case("the longer answer to rank always wins", "dpo", longer(24, ranking_alpaca), (("D103", None, None),)),
]


def labelled(n: int, column: str, *, of: int, shape: Format = kto_text) -> list[dict]:
    """Rows of which every `of`-th is desirable; none where `of` is 0."""
    return [shape.make(i) | {column: bool(of) and i % of == 0} for i in range(n)]


UNPAIRED = [
    planted("a label is missing", kto_text, "label", GONE, "D002"),
    planted("a label is null", kto_text, "label", None, "D003", save=parquet),
    planted("a label is a word", kto_text, "label", "good", "D005", save=csv_file),
    planted("a label is two", kto_text, "label", 2, "D005"),
    planted("a label is a list", kto_text, "label", [True], "D005"),
    planted("a label is empty", kto_text, "label", "", "D005"),
    planted("a completion of a label is blank", kto_text, "completion", " ", "D004"),
    planted("a completion of a label is null", kto_text, "completion", None, "D003", save=json_array),
    planted("a labelled prompt is empty", kto_text, "prompt", "", "D004", save=two_files),
    planted("a labelled prompt is missing", kto_text, "prompt", GONE, "D002"),
    planted("a labelled completion is another kind", kto_chat, "completion", "Yes.", "D005"),
    planted("a labelled completion is the user's", kto_chat, "completion[0].role", "user", "D008",
            field="completion"),
    planted("a labelled message is null", kto_chat, "prompt[0].content", None, "D003", save=saved),
    planted("a labelled conversation is empty", kto_messages, "messages", [], "D004"),
    planted("a labelled conversation without answer", kto_messages, "messages", lambda old: old[:2], "D008"),
    planted("a labelled conversation ends with the user", kto_messages, "messages", lambda old: old[:4],
            "D009",
            field="messages[3].role"),
    planted("a labelled conversation of a strange role", kto_messages, "messages[1].role", "human", "D006"),
    planted("a labelled output is null", kto_alpaca, "output", None, "D003"),
    planted("a labelled output holds a token", kto_alpaca, "output", then("<|eot_id|>"), "D017"),
    planted("a tag is null", kto_alpaca, "kto_tag", None, "D003"),
    Case("labels out of balance", "kto", labelled(40, "label", of=5), (("D104", None, "label"),)),
    Case("tags out of balance", "kto", labelled(40, "kto_tag", of=8, shape=kto_alpaca), (("D104", None,
         "kto_tag"),),
         save=parquet),
    Case("only undesirable answers", "kto", labelled(30, "label", of=0), (("D105", None, "label"),)),
    Case("only desirable answers", "kto", labelled(12, "label", of=1), (("D105", None, "label"),),
         save=csv_file),
]  # fmt: skip

PROMPTS = [
    planted("a prompt is missing", grpo_text, "prompt", GONE, "D002"),
    planted("a lone prompt is null", grpo_text, "prompt", None, "D003", save=parquet),
    planted("a prompt is empty", grpo_text, "prompt", "", "D004", save=csv_file),
    planted("a prompt is zero-width", grpo_text.as_method("rloo"), "prompt", "\u200d", "D004"),
    planted("a lone prompt is a number", grpo_text, "prompt", 8, "D005"),
    planted("a reference is null", grpo_text, "answer", None, "D106", save=saved),
    planted("a reference is missing", grpo_text, "answer", GONE, "D106"),
    planted("a reference is blank", grpo_text, "answer", "\u00a0 ", "D106", save=csv_file),
    planted("a reference is zero-width", grpo_text, "answer", "\u200b", "D106"),
    planted("a reference is a separator", grpo_text, "answer", "\x1f", "D106"),
    planted("a reference of a conversation is empty", grpo_chat, "solution", "", "D106"),
    planted("a prompt of no messages", grpo_chat, "prompt", [], "D004"),
    planted("a prompt without content", grpo_chat, "prompt[0].content", GONE, "D002"),
    planted("a prompt of a strange role", grpo_chat, "prompt[0].role", "usr", "D006"),
    planted("a prompt with an image", grpo_chat, "prompt[0].content", [{"type": "image", "image": "x.png"}],
            "D014", field="prompt[0].content[0]"),
    planted("a problem is blank", grpo_problem, "problem", "\n", "D004"),
    planted("a truth is null", grpo_problem, "ground_truth", None, "D106", save=json_array),
    planted("a problem holds a token", grpo_problem, "problem", then("<|im_start|>"), "D017"),
    planted("a number for a reference is null", grpo_messages, "answer", None, "D106", save=parquet),
    planted("an asked message is null", grpo_messages, "messages[0].content", None, "D003"),
]  # fmt: skip

OTHER_METHODS = [
    Case("pairs for sft", "sft", pair_text.rows(12), (("D107", None, None),)),
    Case("conversations for dpo", "dpo", messages.rows(12), (("D107", None, None),), save=parquet),
    Case("questions for dpo", "dpo", qa.rows(12), (("D107", None, None),), save=csv_file),
    Case("completions without label for kto", "kto", completion.rows(12), (("D107", None, None),)),
    Case("labels that are words for kto", "kto", [row | {"label": "good"} for row in completion.rows(12)],
         (("D107", None, None),)),
    Case("text for grpo", "grpo", text.rows(12), (("D107", None, None),), save=two_files),
    Case("text for reward", "reward", text.rows(12), (("D107", None, None),)),
    Case("many pairs for sft", "sft", pair_text.rows(230), (("D107", None, None),)),
    Case("columns of no method", "sft", [{"id": i, "score": i / 7} for i in range(12)], (("D107", None,
         None),)),
]  # fmt: skip

BROKEN_METHODS: list[Case] = [*PAIRS, *BIASED, *UNPAIRED, *PROMPTS, *OTHER_METHODS]
