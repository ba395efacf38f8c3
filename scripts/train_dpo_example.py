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
"""Reference for direct preference optimization (DPO): pairs of answers, of which one was preferred, and LoRA.

    uv run scripts/train_dpo_example.py

DPO starts from a model that already answers, and shifts it towards answers like the chosen ones and away from
answers like the rejected ones, measured against the model as it was: the reference.
Copy the file and edit the constants; every argument of the trainer that matters stands here with its reason.
"""

import secrets
from datetime import datetime
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

# Change these freely.
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # an instruct model: a base model learns to answer with SFT first
DATASET = "trl-lib/ultrafeedback_binarized"  # "chosen" and "rejected": two conversations with one beginning
OUTPUT_DIR = "./output"
OUTPUT_REPO = ""  # where to push: "my-model", or "my-team/my-model"; empty: nothing leaves this machine
NUM_EPOCHS = 1  # DPO learns pairs by heart soon: a second pass lowers the loss on them, not on new ones
MAX_STEPS = -1  # above 0 it ends the run earlier, for a trial
RESUME = False  # True goes on from the newest checkpoint in OUTPUT_DIR

# Change these with care.
BETA = 0.1  # how dearly leaving the reference is paid for: 0.01 lets the model go far, 0.5 keeps it near
LEARNING_RATE = 5e-6  # as the alignment handbook and TRL's scripts/dpo.py have it for LoRA; see below
BATCH_SIZE = 2  # pairs in memory at once: a pair is two answers, so this is half of what SFT can take ...
ACCUMULATION = 8  # ... and 2 x 8 = 16 pairs decide about each step
MAX_LENGTH = 1024  # tokens of prompt and answer together; a longer answer loses its end
EVAL_SHARE = 0.01  # of the pairs: kept out of training. 600 pairs tell an accuracy to about 4 points
EVAL_STEPS = 200  # evaluate and save this often, and at the end
PROJECT = "dpo-example"
RUN_NAME = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"  # a name used before continues that run
SEED = 42
BF16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def main() -> None:
    """Load pairs, hold some out, train with evaluations before and after, keep the best, push it."""
    print(f"Model     {MODEL} with LoRA\nData      {DATASET}, {EVAL_SHARE:.0%} of it for evaluation")
    print(f"Training  {f'{MAX_STEPS} steps' if MAX_STEPS > 0 else f'{NUM_EPOCHS} epochs'} of", end=" ")
    print(f"{BATCH_SIZE} x {ACCUMULATION} pairs, learning rate {LEARNING_RATE}, beta {BETA}")
    print(f"Output    {OUTPUT_DIR}, {f'pushed to {OUTPUT_REPO} (private)' if OUTPUT_REPO else 'not pushed'}")
    print(f"Tracking  Trackio, {PROJECT} / {RUN_NAME}", flush=True)

    split = load_dataset(DATASET, split="train").train_test_split(test_size=EVAL_SHARE, seed=SEED)

    # No dropout: DPO compares probabilities, and TRL would switch it off.
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    args = DPOConfig(
        output_dir=OUTPUT_DIR,
        seed=SEED,
        # The loss of a pair is -log(sigmoid(margin)): the chosen answer's reward less the rejected one's. A
        # reward is beta x (the answer's log-probability now - its log-probability in the reference).
        beta=BETA,
        # "ipo" where margins grow without end; "robust", label_smoothing=0.1 where a label in ten is wrong;
        # ["sigmoid", "sft"], loss_weights=[1.0, 0.2] to hold logps/chosen up (Llama 3, arXiv 2407.21783).
        loss_type="sigmoid",
        # The reference is this model with its adapter switched off: no second copy in memory, a second pass a
        # step. True makes that pass over all pairs before the first step: worth it for several epochs, or for
        # training all weights, where the reference would be a second model.
        precompute_ref_log_probs=False,
        max_length=MAX_LENGTH,
        # Length and pace. SFT teaches answers token by token and takes 2e-4; DPO only moves the odds between
        # answers that the model can give already. At SFT's rate margins soar while the text falls apart.
        num_train_epochs=NUM_EPOCHS,
        max_steps=MAX_STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=ACCUMULATION,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,  # of all steps; longer than SFT's, for the first pairs must not set the direction
        bf16=BF16,
        model_init_kwargs={"dtype": "bfloat16" if BF16 else "float32"},
        gradient_checkpointing=True,
        # Evaluation and checkpoints. Before the first step the model is its own reference: margins are 0, the
        # loss is log 2 = 0.693, and no chosen answer is ahead. That is where every DPO run starts. Then watch
        #   rewards/accuracies  share of pairs whose chosen answer gained more than the rejected one: 0.5 is
        #                       chance, 0.6 to 0.8 usual on held-out pairs, 1.0 in training learnt by heart.
        #   rewards/margins     by how much. Rising while eval_loss rises too: sure of itself, and wrong.
        #   logps/chosen        may fall, and often does: only the difference counts, and both answers share
        #                       words. Falling far while the text gets worse: raise beta, or add "sft".
        eval_strategy="steps",
        eval_steps=EVAL_STEPS,
        eval_on_start=True,
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
    trainer = DPOTrainer(
        model=MODEL, args=args, train_dataset=split["train"], eval_dataset=split["test"], peft_config=lora
    )
    trainer.train(resume_from_checkpoint=RESUME)
    if OUTPUT_REPO:
        # Saves to OUTPUT_DIR first. A path on this machine has no place in a model card.
        trainer.push_to_hub(dataset_name=None if Path(DATASET).exists() else DATASET)
    else:
        trainer.save_model()
    before, *later = [row for row in trainer.state.log_history if "eval_loss" in row]
    for name, row in {"Before": before, "After": min(later, key=lambda row: row["eval_loss"])}.items():
        print(f"{name:<8}  on {len(split['test'])} held-out pairs: loss {row['eval_loss']:.3f},", end=" ")
        print(f"accuracy {row['eval_rewards/accuracies']:.2f}, margin {row['eval_rewards/margins']:.3f}")
    print(f"The adapter is in {OUTPUT_DIR}")  # peft.AutoPeftModelForCausalLM.from_pretrained loads it


if __name__ == "__main__":
    main()
