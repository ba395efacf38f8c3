# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets>=4.7,<6",
#     "torch>=2.11,<3",
#     "trackio>=0.40,<1",
#     "transformers>=5.17,<6",
#     "trl>=1.16,<2",
# ]
#
# [tool.uv]
# constraint-dependencies = ["torch<2.14"]
# ///
"""Fine-tune a model with TRL as environment variables say: one script for every experiment, with its manual.

    uv run scripts/train_production_documented.py
    DATASET=chats.jsonl MAX_EXAMPLES=all MAX_STEPS=200 uv run scripts/train_production_documented.py

The first line trains Qwen2.5-0.5B for 20 steps: enough to see that it works, too few to learn much.
All weights are trained, in 32 bits: plan 16 bytes of memory a parameter (8 GB for 0.5B), and the batch.

The code is that of train_production.py, line for line. It has three parts: change the first freely, edit the
second with care, leave the third alone. Each variable's default is in its line; an empty one counts as unset.
"""

import os
import re
import secrets
import sys
from datetime import datetime
from pathlib import Path


def refuse(sentence: str) -> None:
    """Stop with one sentence on stderr and exit code 2, which means: wrong input, nothing was trained."""
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


def read(name: str, default: str, pattern: str = ".+", wanted: str = "a text") -> str:
    """Return one variable's text, or refuse it: here, before ten seconds of imports and any download."""
    text = (os.environ.get(name) or default).strip()
    if not re.fullmatch(pattern, text, re.IGNORECASE):
        refuse(f"{name}={text} cannot be used: give {wanted}.")
    local = name in ("MODEL", "DATASET") and re.search(r"^[./]|\.(jsonl?|csv|parquet)$", text)
    if local and not Path(text).exists():
        refuse(f"{name}={text} cannot be used: there is no such file or folder.")
    return text


# 1. The experiment: change it freely, through the environment.

# What to start from: an id on the Hub, or a folder (./NAME). Common: a 0.5B model to try things, then 1.5B or
# 3B of the same family; an -Instruct model where your data are few, since it can chat already.
# Trouble: conversations need a chat template; training stops where a base model's tokenizer has none.
MODEL = read("MODEL", "Qwen/Qwen2.5-0.5B")

# What to learn from: an id on the Hub (its split "train"), a .jsonl, .json, .csv or .parquet file, a folder
# of these, or one that save_to_disk wrote (of a DatasetDict: its subfolder). Common: rows of "messages", each
# with "role" and "content"; else "text", or "prompt" and "completion": then only the completion is learned.
# Trouble: rows with other columns are refused, and the sentence names what was found.
DATASET = read("DATASET", "trl-lib/Capybara")

# Where to push; while it is unset, nothing leaves this machine. Set it on rented machines, whose disk goes
# with them. The repository becomes a private one; one that exists keeps its visibility.
# Trouble: without a token that may write (hf auth login, or HF_TOKEN) the run stops before its first step.
OUTPUT_REPO = read("OUTPUT_REPO", "", r"([\w.-]+/)?[\w.-]+|", "NAME or OWNER/NAME")

# How many rows, counted from the first. Common: 50 to try, all for the real run.
# Trouble: few rows and many steps repeat the same rows: the loss falls towards 0 and the model recites them.
MAX_EXAMPLES = read("MAX_EXAMPLES", "50", r"[1-9]\d*|all", "a whole number above 0, or all").lower()

# How many updates. Every row is seen once after rows / BATCH_SIZE steps. Common: 1 to 3 times that.
# Trouble: with too few nothing changes, with too many the model recites; the loss curve tells.
MAX_STEPS = int(read("MAX_STEPS", "20", r"[1-9]\d*", "a whole number above 0"))

# Rows in one update (on each GPU). Common: 1 to 16, as memory allows; more makes the loss steadier.
# Trouble: "CUDA out of memory" asks for half of it, then of MAX_LENGTH; mind that MAX_STEPS doubles in turn.
BATCH_SIZE = int(read("BATCH_SIZE", "2", r"[1-9]\d*", "a whole number above 0"))

# How far an update goes; it begins here and falls to 0 in a straight line. Common: 1e-5 to 5e-5, since all
# weights are trained here (2e-5 is TRL's default for that; LoRA would want about ten times more).
# Trouble: where the loss jumps or becomes nan, a third of it; where it hardly moves for 100 steps, thrice.
LEARNING_RATE = float(read("LEARNING_RATE", "2e-5", r"0\.0*[1-9]\d*|[1-9]\.?\d*e-\d+", "a number like 2e-5"))

# Whether to record the loss with Trackio, on this machine: `uvx trackio show --project NAME` shows the curve.
# Common: true. Trouble: with false the numbers stand in the terminal only, and runs are hard to compare.
USE_TRACKIO = read("USE_TRACKIO", "true", "true|false", "true or false").lower() == "true"

# The project that gathers the runs to compare; by default named like OUTPUT_REPO, else like the model.
TRACKIO_PROJECT = read("TRACKIO_PROJECT", Path(OUTPUT_REPO or MODEL).name)

# A Space to watch the run from elsewhere, for rented machines above all; unset, the dashboard is local.
# Trouble: a new one is private, one that exists stays as it is, and your Hub token becomes its secret.
TRACKIO_SPACE_ID = read("TRACKIO_SPACE_ID", "", r"([\w.-]+/)?[\w.-]+|", "NAME or OWNER/NAME")

# 2. The setup: edit it with care.

# Here are the finished model and the newest checkpoint. The next run replaces them, and a push uploads what
# lies here except checkpoints: empty the folder when you change to another kind of model.
OUTPUT_DIR = "./output"

# Tokens a row; a longer row loses its end, which is the answer. Memory grows with it.
MAX_LENGTH = 1024

# The columns TRL can learn from; "conversations" (from, value) is turned into messages.
COLUMNS = {"messages", "conversations", "text", "prompt"}

# Never the same twice: Trackio continues an old run when project and name return.
RUN_NAME = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


# 3. The training: leave it alone.
def main() -> None:
    """Say what will be trained, load, train, keep or push the model."""
    print(f"Model     {MODEL}\nData      {DATASET}, {MAX_EXAMPLES} examples")
    print(f"Training  {MAX_STEPS} steps of {BATCH_SIZE} examples, learning rate {LEARNING_RATE}")
    print(f"Output    {OUTPUT_DIR}, {f'pushed to {OUTPUT_REPO} (private)' if OUTPUT_REPO else 'not pushed'}")
    print(f"Tracking  {f'Trackio, {TRACKIO_PROJECT} / {RUN_NAME}' if USE_TRACKIO else 'off'}", flush=True)

    # Imported only here, so that a typo above costs no waiting.
    import torch
    from datasets import load_dataset, load_from_disk
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    if Path(DATASET, "state.json").exists():
        dataset = load_from_disk(DATASET)
    elif Path(DATASET).is_file():
        kind = {".csv": "csv", ".parquet": "parquet"}.get(Path(DATASET).suffix, "json")
        dataset = load_dataset(kind, data_files=DATASET, split="train")
    else:
        dataset = load_dataset(DATASET, split="train")
    if len(dataset) == 0 or COLUMNS.isdisjoint(dataset.column_names):
        refuse(f"{DATASET} has {len(dataset)} rows of {dataset.column_names}: give messages, text or prompt.")
    if MAX_EXAMPLES != "all":
        dataset = dataset.select(range(min(int(MAX_EXAMPLES), len(dataset))))

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    args = SFTConfig(
        output_dir=OUTPUT_DIR,
        max_steps=MAX_STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        max_length=MAX_LENGTH,
        # Qwen's base models end a chat turn with <|im_end|> but name another token as their end: without this
        # line the trained model would answer and not stop.
        eos_token="<|im_end|>" if "<|im_end|>" in str(tokenizer.chat_template) else None,
        # 16-bit arithmetic where the GPU has it (NVIDIA's since 2020): faster, with smaller activations.
        # TRL would choose it everywhere, but emulated it is slower than 32 bits.
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
        # Trackio keeps what is logged while training, so log the first step too: a short run shows a loss.
        logging_steps=5,
        logging_first_step=True,
        # The checkpoint of every 500 steps rescues the weights of a run that dies. This script cannot go on
        # from one, so it leaves out the optimizer, which would take twice the model's size more.
        save_only_model=True,
        save_total_limit=1,
        # Each checkpoint's weights are pushed too: a machine that vanishes takes 500 steps with it at most.
        push_to_hub=bool(OUTPUT_REPO),
        hub_model_id=OUTPUT_REPO or None,
        hub_private_repo=True,
        # The trainer opens the run with these names. A trackio.init of your own would make a second one.
        report_to="trackio" if USE_TRACKIO else "none",
        project=TRACKIO_PROJECT,
        run_name=RUN_NAME,
        trackio_space_id=TRACKIO_SPACE_ID or None,
        # Otherwise a push to the Hub would also publish the metrics, in a Space of their own.
        trackio_static_space_id=False,
    )
    trainer = SFTTrainer(model=MODEL, args=args, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    # push_to_hub saves to OUTPUT_DIR first. A path on this machine has no place in a model card.
    if OUTPUT_REPO:
        trainer.push_to_hub(dataset_name=None if Path(DATASET).exists() else DATASET)
    else:
        trainer.save_model()


if __name__ == "__main__":
    main()
