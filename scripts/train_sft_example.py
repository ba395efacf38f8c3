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
"""Reference for supervised fine-tuning: a whole data set, LoRA, evaluation, checkpoints, a push to the Hub.

    uv run scripts/train_sft_example.py

LoRA freezes the model and trains small matrices beside its layers: little memory, and a small result.
Copy the file and edit the constants; every argument of the trainer that matters stands here with its reason.
"""

import secrets
from datetime import datetime
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

# Change these freely.
MODEL = "Qwen/Qwen2.5-0.5B"
DATASET = "trl-lib/Capybara"  # conversations: one "messages" column
OUTPUT_DIR = "./output"
OUTPUT_REPO = ""  # where to push: "my-model", or "my-team/my-model"; empty: nothing leaves this machine
NUM_EPOCHS = 1  # how often every example is seen; more than 3 seldom helps
MAX_STEPS = -1  # above 0 it ends the run earlier, for a trial
RESUME = False  # True goes on from the newest checkpoint in OUTPUT_DIR

# Change these with care.
LEARNING_RATE = 2e-4  # as TRL's scripts/sft.py has it for LoRA: ten times the 2e-5 for training all weights
BATCH_SIZE = 4  # examples in memory at once: the first thing to lower when memory runs out ...
ACCUMULATION = 4  # ... and then raise this: 4 x 4 = 16 examples decide about each step
MAX_LENGTH = 1024  # tokens; a longer conversation loses its end
EVAL_SHARE = 0.05  # of the examples: kept out of training, to see what the model makes of new ones
EVAL_STEPS = 100  # evaluate and save this often, and at the end
PROJECT = "sft-example"
RUN_NAME = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"  # a name used before continues that run
SEED = 42
BF16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def main() -> None:
    """Load, split, train with evaluations, keep the best, push it."""
    print(f"Model     {MODEL} with LoRA\nData      {DATASET}, {EVAL_SHARE:.0%} of it for evaluation")
    print(f"Training  {f'{MAX_STEPS} steps' if MAX_STEPS > 0 else f'{NUM_EPOCHS} epochs'} of", end=" ")
    print(f"{BATCH_SIZE} x {ACCUMULATION} examples, learning rate {LEARNING_RATE}")
    print(f"Output    {OUTPUT_DIR}, {f'pushed to {OUTPUT_REPO} (private)' if OUTPUT_REPO else 'not pushed'}")
    print(f"Tracking  Trackio, {PROJECT} / {RUN_NAME}", flush=True)

    split = load_dataset(DATASET, split="train").train_test_split(test_size=EVAL_SHARE, seed=SEED)

    lora = LoraConfig(
        # The matrices' rank: how much can be learned. 8 to 64; a larger data set wants a larger one.
        r=16,
        # Their weight is alpha / r. Keep this ratio, and change the learning rate instead.
        lora_alpha=32,
        lora_dropout=0.05,
        # Every linear layer, not attention alone: found in "LoRA Without Regret" (Schulman et al., 2025,
        # thinkingmachines.ai/blog/lora), which is also a source for ten times the usual learning rate.
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    args = SFTConfig(
        output_dir=OUTPUT_DIR,
        seed=SEED,
        # Length and pace. The rate rises over the first 3 % of the steps, then falls along a cosine to 0.
        num_train_epochs=NUM_EPOCHS,
        max_steps=MAX_STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=ACCUMULATION,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        max_grad_norm=1.0,  # a single odd batch cannot push further than this
        # Memory. The frozen weights can be 16-bit where the GPU computes so; gradient checkpointing computes
        # activations twice instead of storing them, for about a fifth more time.
        bf16=BF16,
        model_init_kwargs={"dtype": "bfloat16" if BF16 else "float32"},
        gradient_checkpointing=True,
        # Data. eos_token ends a turn in Qwen's chats; its base models name another token.
        max_length=MAX_LENGTH,
        eos_token="<|im_end|>",
        packing=False,  # True fills each row with several conversations: faster, with FlashAttention
        assistant_only_loss=False,  # True learns the answers only, where TRL knows the model's chat template
        # Evaluation and checkpoints, in step with each other so that the best one can be found again.
        eval_strategy="steps",
        eval_steps=EVAL_STEPS,
        eval_on_start=True,  # the loss before training, to compare with
        per_device_eval_batch_size=BATCH_SIZE,
        save_strategy="steps",
        save_steps=EVAL_STEPS,
        save_total_limit=2,  # the best and the newest
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        # The Hub: private, and pushed at every checkpoint, so that a lost machine is not a lost run.
        push_to_hub=bool(OUTPUT_REPO),
        hub_model_id=OUTPUT_REPO or None,
        hub_private_repo=True,
        hub_strategy="every_save",
        # Tracking. The trainer opens the run: calling trackio.init besides this would make a second one.
        report_to="trackio",
        project=PROJECT,
        run_name=RUN_NAME,
        logging_steps=10,
        logging_first_step=True,
        trackio_static_space_id=False,  # otherwise a push would publish the metrics in a Space of their own
    )
    trainer = SFTTrainer(
        model=MODEL, args=args, train_dataset=split["train"], eval_dataset=split["test"], peft_config=lora
    )
    trainer.train(resume_from_checkpoint=RESUME)
    if OUTPUT_REPO:
        # Saves to OUTPUT_DIR first. A path on this machine has no place in a model card.
        trainer.push_to_hub(dataset_name=None if Path(DATASET).exists() else DATASET)
    else:
        trainer.save_model()
    # peft.AutoPeftModelForCausalLM.from_pretrained(OUTPUT_DIR) loads it, merge_and_unload() makes it whole.
    print(f"Best evaluation loss {trainer.state.best_metric:.3f}. The adapter is in {OUTPUT_DIR}")


if __name__ == "__main__":
    main()
