# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets>=4.7,<6",
#     "peft>=0.19,<1",
#     "torch>=2.11,<3",
#     "trackio>=0.40,<1",
#     "transformers>=5.17,<6",
#     "trl>=1.16,<2",
# ]
#
# [tool.uv]
# constraint-dependencies = ["torch<2.14"]
# ///
"""Reference for reinforcement learning with GRPO: questions, functions that reward answers, and LoRA.

    uv run scripts/train_grpo_example.py

The model answers each question several times; answers above their group's average become more likely.
Copy the file and edit the constants and rewards; every argument that matters stands here with its reason.
"""

import re
import secrets
from datetime import datetime
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

# Change these freely.
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # it must succeed now and then: what never happens can't be rewarded
DATASET = "openai/gsm8k"  # a "question", and an "answer" that ends with its number: "... #### 72"
DATASET_CONFIG = "main"  # None for a file or folder of your own
INSTRUCTION = "Think step by step. End with a line that holds only #### and the number, such as: #### 42"
OUTPUT_DIR = "./output"
OUTPUT_REPO = ""  # where to push: "my-model", or "my-team/my-model"; empty: nothing leaves this machine
MAX_STEPS = 200  # of 8 questions each; all 7,473 of GSM8K take 934
RESUME = False  # True goes on from the newest checkpoint in OUTPUT_DIR

# Change these with care.
NUM_GENERATIONS = 8  # answers to each question: the group. 4 make a poor average, 16 a better one
BATCH_SIZE = 8  # answers in memory at once ...
ACCUMULATION = 8  # ... so that a step takes 8 x 8 = 64 answers. That must be a multiple of NUM_GENERATIONS
MAX_COMPLETION_LENGTH = 512  # tokens. An answer cut off before its number earns nothing, however right it was
LEARNING_RATE = 1e-5  # for LoRA: ten times TRL's 1e-6 for all weights
PROJECT = "grpo-example"
RUN_NAME = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"  # a name used before continues that run
SEED = 42
BF16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)

# The rewards: plain functions, tried before a GPU is paid for. TRL hands them the completions (messages where
# prompts are messages) and each column by its name; they return a number for every completion.
NUMBER = r"(?<!\d)-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"


def said(completion: str | list[dict[str, str]]) -> str:
    """The text of a completion in either form."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def last_number(text: str) -> float | None:
    """The number that a text ends up at: 1234.5 for "3 bags cost $1,234.50."; None where there is none."""
    numbers = re.findall(NUMBER, text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def right_number(completions: list, answer: list[str], **_) -> list[float]:
    """1 for each completion that ends up at its answer's number: naming several of them does not help."""
    numbers = [last_number(said(each)) for each in completions]
    truths = [last_number(each) for each in answer]
    return [float(n is not None and n == truth) for n, truth in zip(numbers, truths, strict=True)]


def right_form(completions: list, **_) -> list[float]:
    """1 for each completion that ends with a line of #### and a number, whatever the number."""
    return [float(bool(re.search(rf"(^|\n)#### *{NUMBER}\s*$", said(each)))) for each in completions]


def as_prompt(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """The prompt for a row, beside whose other columns it is put."""
    roles = {"system": INSTRUCTION, "user": row["question"]}
    return {"prompt": [{"role": role, "content": content} for role, content in roles.items()]}


def main() -> None:
    """Load questions, try the reward on known answers, train, push."""
    print(f"Model     {MODEL} with LoRA\nData      {DATASET}, {NUM_GENERATIONS} answers to each question")
    print(f"Training  {MAX_STEPS} steps of {BATCH_SIZE} x {ACCUMULATION} answers, rate {LEARNING_RATE}")
    print(f"Output    {OUTPUT_DIR}, {f'pushed to {OUTPUT_REPO} (private)' if OUTPUT_REPO else 'not pushed'}")
    print(f"Tracking  Trackio, {PROJECT} / {RUN_NAME}", flush=True)

    dataset = load_dataset(DATASET, DATASET_CONFIG, split="train").map(as_prompt)
    known = list(dataset["answer"])
    if lost := [row for row, reward in enumerate(right_number(known, known)) if not reward]:
        raise SystemExit(f"{len(lost)} answers hold no number to reward, the first of them in row {lost[0]}.")

    args = GRPOConfig(
        output_dir=OUTPUT_DIR,
        seed=SEED,
        # An answer teaches its reward less its group's average; where all earn the same, nothing is taught.
        # frac_reward_zero_std is the share of such groups: near 1, the questions are too hard, or too easy.
        num_generations=NUM_GENERATIONS,
        per_device_train_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=ACCUMULATION,
        reward_weights=[1.0, 0.2],  # the form helps at first, and must never pay more than being right
        max_completion_length=MAX_COMPLETION_LENGTH,  # completions/clipped_ratio above 0.1: raise it
        temperature=1.0,  # the model's own distribution; a lower one makes a group's answers alike
        use_vllm=False,  # True generates several times faster, with trl[vllm] for trl in the header
        # The price of leaving the first model. 0 saves a pass a step, and does where rewards can't be fooled;
        # 0.001 (DeepSeek-R1) to 0.04 (DeepSeekMath) when rewards rise while the text turns odd.
        beta=0.0,
        max_steps=MAX_STEPS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant_with_warmup",  # there is no known end for a curve to fall towards
        warmup_steps=0.03,
        bf16=BF16,
        model_init_kwargs={"dtype": "bfloat16" if BF16 else "float32"},
        save_strategy="steps",
        save_steps=50,
        # The Hub: private, and pushed at every checkpoint, so that a lost machine is not a lost run.
        push_to_hub=bool(OUTPUT_REPO),
        hub_model_id=OUTPUT_REPO or None,
        hub_private_repo=True,
        hub_strategy="every_save",
        # Tracking. The trainer opens the run: calling trackio.init besides this would make a second one.
        report_to="trackio",
        project=PROJECT,
        run_name=RUN_NAME,
        logging_steps=1,  # in a first pass every question is new: "reward" is the evaluation as well
        log_completions=False,  # True prints them: a reward can rise on a trick that only a reader sees
        trackio_static_space_id=False,  # otherwise a push would publish the metrics in a Space of their own
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = GRPOTrainer(MODEL, [right_number, right_form], args, train_dataset=dataset, peft_config=lora)
    trainer.train(resume_from_checkpoint=RESUME)
    if OUTPUT_REPO:
        # Saves to OUTPUT_DIR first. A path on this machine has no place in a model card.
        trainer.push_to_hub(dataset_name=None if Path(DATASET).exists() else DATASET)
    else:
        trainer.save_model()
    right = [row["rewards/right_number/mean"] for row in trainer.state.log_history if "reward" in row]
    few = max(1, len(right) // 10)
    print(f"Right in the first steps {sum(right[:few]) / few:.0%}, in the last {sum(right[-few:]) / few:.0%}")
    print(f"The adapter is in {OUTPUT_DIR}")  # peft.AutoPeftModelForCausalLM.from_pretrained loads it


if __name__ == "__main__":
    main()
