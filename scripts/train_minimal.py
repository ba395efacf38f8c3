# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets>=4.7,<6",
#     "torch>=2.11,<3",
#     "transformers>=5.17,<6",
#     "trl>=1.16,<2",
# ]
#
# [tool.uv]
# constraint-dependencies = ["torch<2.14"]
# ///
"""Supervised fine-tuning in its simplest form: load the data, build a trainer, train.

    uv run scripts/train_minimal.py

Then change the four constants. The model lands in ./output; nothing is tracked, nothing leaves the machine.
"""

import torch
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

MODEL = "Qwen/Qwen2.5-0.5B"
DATASET = "trl-lib/Capybara"  # conversations: one "messages" column
MAX_EXAMPLES = 50
MAX_STEPS = 20

args = SFTConfig(
    output_dir="./output",
    max_steps=MAX_STEPS,
    eos_token="<|im_end|>",  # ends a turn in Qwen's chats; its base models name another token
    bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
    save_strategy="no",  # no checkpoints: the finished model is saved below
    hub_private_repo=True,  # should you add push_to_hub=True one day: neither the model ...
    trackio_static_space_id=False,  # ... nor its metrics become public
)
dataset = load_dataset(DATASET, split=f"train[:{MAX_EXAMPLES}]")
trainer = SFTTrainer(model=MODEL, args=args, train_dataset=dataset)
trainer.train()
trainer.save_model()
