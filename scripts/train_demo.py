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
"""A first look at fine-tuning: ask the model a question, train it for 20 steps, ask again.

    uv run scripts/train_demo.py

The metrics go to Trackio on this machine, the model to ./output, and nothing to the Hub.
Twenty steps change how the model answers, not what it knows: expect another tone, not another truth.
"""

import secrets
from datetime import datetime

import torch
from datasets import load_dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

# Change these freely.
MODEL = "Qwen/Qwen2.5-0.5B"
DATASET = "trl-lib/Capybara"
QUESTION = "How do I keep bread fresh for longer?"
MAX_EXAMPLES = 50
MAX_STEPS = 20

# Change these with care.
BATCH_SIZE = 2  # examples a step: more is steadier and needs more memory
LEARNING_RATE = 2e-5  # TRL's default, made for training all weights as this script does
MAX_NEW_TOKENS = 80  # length of the sample answers
OUTPUT_DIR = "./output"
PROJECT = "train-demo"
RUN_NAME = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"  # a name used before continues that run


def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """Return what the model says to one question; greedy, so that only the training makes a difference."""
    chat = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    model.eval()  # the trainer puts the model back into training mode by itself
    output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def main() -> None:
    """Train and show the difference."""
    print(f"Model     {MODEL}\nData      {DATASET}, {MAX_EXAMPLES} examples")
    print(f"Training  {MAX_STEPS} steps of {BATCH_SIZE} examples, learning rate {LEARNING_RATE}")
    print(f"Output    {OUTPUT_DIR}, not pushed")
    print(f"Tracking  Trackio, {PROJECT} / {RUN_NAME}", flush=True)

    dataset = load_dataset(DATASET, split=f"train[:{MAX_EXAMPLES}]")

    trainer = SFTTrainer(
        model=MODEL,
        train_dataset=dataset,
        args=SFTConfig(
            output_dir=OUTPUT_DIR,
            max_steps=MAX_STEPS,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            eos_token="<|im_end|>",  # ends a turn in Qwen's chats; its base models name another token
            bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
            logging_steps=1,
            save_strategy="no",  # save_model below is enough for a run this short
            # The trainer opens the Trackio run: calling trackio.init besides this would make a second one.
            report_to="trackio",
            project=PROJECT,
            run_name=RUN_NAME,
            trackio_static_space_id=False,  # otherwise a push to the Hub would publish the metrics in a Space
            hub_private_repo=True,
        ),
    )

    before = answer(trainer.model, trainer.processing_class, QUESTION)
    trainer.train()
    trainer.save_model()
    after = answer(trainer.model, trainer.processing_class, QUESTION)

    print(f"\nQuestion: {QUESTION}\n\nBefore: {before}\n\nAfter: {after}\n")
    print(f"The model is in {OUTPUT_DIR}. See its loss: uvx trackio show --project {PROJECT}")


if __name__ == "__main__":
    main()
