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
"""Fine-tune a model with TRL as environment variables say; train_production_documented.py has the manual."""

import os
import re
import secrets
import sys
from datetime import datetime
from pathlib import Path


def refuse(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


def read(name: str, default: str, pattern: str = ".+", wanted: str = "a text") -> str:
    text = (os.environ.get(name) or default).strip()
    if not re.fullmatch(pattern, text, re.IGNORECASE):
        refuse(f"{name}={text} cannot be used: give {wanted}.")
    local = name in ("MODEL", "DATASET") and re.search(r"^[./]|\.(jsonl?|csv|parquet)$", text)
    if local and not Path(text).exists():
        refuse(f"{name}={text} cannot be used: there is no such file or folder.")
    return text


# 1. The experiment: change it freely, through the environment.
MODEL = read("MODEL", "Qwen/Qwen2.5-0.5B")
DATASET = read("DATASET", "trl-lib/Capybara")
OUTPUT_REPO = read("OUTPUT_REPO", "", r"([\w.-]+/)?[\w.-]+|", "NAME or OWNER/NAME")
MAX_EXAMPLES = read("MAX_EXAMPLES", "50", r"[1-9]\d*|all", "a whole number above 0, or all").lower()
MAX_STEPS = int(read("MAX_STEPS", "20", r"[1-9]\d*", "a whole number above 0"))
BATCH_SIZE = int(read("BATCH_SIZE", "2", r"[1-9]\d*", "a whole number above 0"))
LEARNING_RATE = float(read("LEARNING_RATE", "2e-5", r"0\.0*[1-9]\d*|[1-9]\.?\d*e-\d+", "a number like 2e-5"))
USE_TRACKIO = read("USE_TRACKIO", "true", "true|false", "true or false").lower() == "true"
TRACKIO_PROJECT = read("TRACKIO_PROJECT", Path(OUTPUT_REPO or MODEL).name)
TRACKIO_SPACE_ID = read("TRACKIO_SPACE_ID", "", r"([\w.-]+/)?[\w.-]+|", "NAME or OWNER/NAME")

# 2. The setup: edit it with care.
OUTPUT_DIR = "./output"
MAX_LENGTH = 1024
COLUMNS = {"messages", "conversations", "text", "prompt"}
RUN_NAME = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


# 3. The training: leave it alone.
def main() -> None:
    print(f"Model     {MODEL}\nData      {DATASET}, {MAX_EXAMPLES} examples")
    print(f"Training  {MAX_STEPS} steps of {BATCH_SIZE} examples, learning rate {LEARNING_RATE}")
    print(f"Output    {OUTPUT_DIR}, {f'pushed to {OUTPUT_REPO} (private)' if OUTPUT_REPO else 'not pushed'}")
    print(f"Tracking  {f'Trackio, {TRACKIO_PROJECT} / {RUN_NAME}' if USE_TRACKIO else 'off'}", flush=True)

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
        eos_token="<|im_end|>" if "<|im_end|>" in str(tokenizer.chat_template) else None,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
        logging_steps=5,
        logging_first_step=True,
        save_only_model=True,
        save_total_limit=1,
        push_to_hub=bool(OUTPUT_REPO),
        hub_model_id=OUTPUT_REPO or None,
        hub_private_repo=True,
        report_to="trackio" if USE_TRACKIO else "none",
        project=TRACKIO_PROJECT,
        run_name=RUN_NAME,
        trackio_space_id=TRACKIO_SPACE_ID or None,
        trackio_static_space_id=False,
    )
    trainer = SFTTrainer(model=MODEL, args=args, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    if OUTPUT_REPO:
        trainer.push_to_hub(dataset_name=None if Path(DATASET).exists() else DATASET)
    else:
        trainer.save_model()


if __name__ == "__main__":
    main()
