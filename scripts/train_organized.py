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
"""Fine-tune a model with TRL: small functions around one frozen configuration, for teams and pipelines.

    DATASET=chats.jsonl MAX_EXAMPLES=all MAX_STEPS=200 uv run scripts/train_organized.py

The run is that of train_production.py, and so are the environment variables; train_production_documented.py
explains them. A pipeline imports this file and gives the functions its own `Config(model=..., dataset=...)`.
Change the first part of Config freely, the second with care, and leave the functions alone.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer

COLUMNS = {"messages", "conversations", "text", "prompt"}  # what TRL can learn from
TEXTS = ("MODEL", "DATASET", "TRACKIO_PROJECT")
VALUES = {
    "OUTPUT_REPO": (lambda text: re.fullmatch(r"([\w.-]+/)?[\w.-]+", text)[0], "NAME or OWNER/NAME"),
    "TRACKIO_SPACE_ID": (lambda text: re.fullmatch(r"([\w.-]+/)?[\w.-]+", text)[0], "NAME or OWNER/NAME"),
    "MAX_EXAMPLES": (lambda text: None if text.lower() == "all" else int(text), "a whole number, or all"),
    "MAX_STEPS": (int, "a whole number"),
    "BATCH_SIZE": (int, "a whole number"),
    "LEARNING_RATE": (float, "a number like 2e-5"),
    "USE_TRACKIO": (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
}


@dataclass(frozen=True)
class Config:
    """One experiment. Raises ValueError where a value makes no sense, so that no such Config exists."""

    model: str = "Qwen/Qwen2.5-0.5B"
    dataset: str = "trl-lib/Capybara"
    output_repo: str | None = None
    max_examples: int | None = 50  # None: all
    max_steps: int = 20
    batch_size: int = 2
    learning_rate: float = 2e-5
    use_trackio: bool = True
    trackio_project: str | None = None  # None: named like output_repo, else like the model
    trackio_space_id: str | None = None

    output_dir: str = "./output"
    max_length: int = 1024
    run_name: str = field(default_factory=lambda: f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")

    def __post_init__(self) -> None:
        for name in ("max_examples", "max_steps", "batch_size"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"{name.upper()}={count} cannot be used: give a whole number above 0.")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"LEARNING_RATE={self.learning_rate} cannot be used: give a number like 2e-5.")
        for name in ("model", "dataset"):
            place = getattr(self, name)
            if re.search(r"^[./]|\.(jsonl?|csv|parquet)$", place) and not Path(place).exists():
                raise ValueError(f"{name.upper()}={place} cannot be used: there is no such file or folder.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Config:
        """Return the experiment that the variables describe; an empty variable counts as unset."""
        given = {name: text for name in (*TEXTS, *VALUES) if (text := environment.get(name, "").strip())}
        for name in [name for name in VALUES if name in given]:
            convert, wanted = VALUES[name]
            try:
                given[name] = convert(given[name])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{name}={given[name]} cannot be used: give {wanted}.") from None
        return cls(**{name.lower(): value for name, value in given.items()})

    @property
    def project(self) -> str:
        """The Trackio project that the run belongs to."""
        return self.trackio_project or Path(self.output_repo or self.model).name

    def __str__(self) -> str:
        rate, amount = self.learning_rate, self.max_examples or "all"
        pushed = f"pushed to {self.output_repo} (private)" if self.output_repo else "not pushed"
        tracked = f"Trackio, {self.project} / {self.run_name}" if self.use_trackio else "off"
        return (
            f"Model     {self.model}\nData      {self.dataset}, {amount} examples\n"
            f"Training  {self.max_steps} steps of {self.batch_size} examples, learning rate {rate}\n"
            f"Output    {self.output_dir}, {pushed}\nTracking  {tracked}"
        )


def set_up_monitoring(config: Config) -> dict[str, Any]:
    """Return the trainer's tracking arguments. The trainer opens the run: do not call trackio.init too."""
    return {
        "report_to": "trackio" if config.use_trackio else "none",
        "project": config.project,
        "run_name": config.run_name,  # a name used before would continue that run
        "trackio_space_id": config.trackio_space_id,
        "trackio_static_space_id": False,  # otherwise a push would publish the metrics in a Space
        "logging_steps": 5,
        "logging_first_step": True,
    }


def load_data(config: Config) -> Dataset:
    """Return the rows to train on. Raises ValueError where there are none that TRL could learn from."""
    from datasets import load_dataset, load_from_disk

    path = Path(config.dataset)
    try:
        if (path / "state.json").exists():
            dataset = load_from_disk(config.dataset)
        elif path.is_file():
            kind = {".csv": "csv", ".parquet": "parquet"}.get(path.suffix, "json")
            dataset = load_dataset(kind, data_files=config.dataset, split="train")
        else:
            dataset = load_dataset(config.dataset, split="train")
    except StopIteration:  # this is how an empty JSON file ends
        raise ValueError(f"DATASET={config.dataset} is empty.") from None
    check_data(dataset, config)
    return dataset.select(range(min(config.max_examples or len(dataset), len(dataset))))


def check_data(dataset: Dataset, config: Config) -> None:
    """Raise ValueError where the data set is empty or none of its columns can be learned from."""
    if len(dataset) == 0:
        raise ValueError(f"DATASET={config.dataset} is empty.")
    if COLUMNS.isdisjoint(names := dataset.column_names):
        raise ValueError(f"DATASET={config.dataset} has {names}: give messages, text or prompt.")


def build_trainer(config: Config, dataset: Dataset, monitoring: Mapping[str, Any]) -> SFTTrainer:
    """Return a trainer that is ready to go; with an output_repo, the repository exists from here on."""
    import torch
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(config.model)
    args = SFTConfig(
        output_dir=config.output_dir,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_length=config.max_length,
        # Qwen's base models end a chat turn with this token but name another one as their end.
        eos_token="<|im_end|>" if "<|im_end|>" in str(tokenizer.chat_template) else None,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
        save_only_model=True,
        save_total_limit=1,
        push_to_hub=bool(config.output_repo),
        hub_model_id=config.output_repo,
        hub_private_repo=True,
        **monitoring,
    )
    return SFTTrainer(model=config.model, args=args, train_dataset=dataset, processing_class=tokenizer)


def train(trainer: SFTTrainer) -> dict[str, float]:
    """Train, and return the run's metrics: "train_loss" (the mean), "train_runtime" (seconds), speeds."""
    return trainer.train().metrics


def publish(config: Config, trainer: SFTTrainer) -> str:
    """Save the model, push it where an output_repo is given, and return where it is now."""
    if config.output_repo is None:
        trainer.save_model()
        return config.output_dir
    # A path on this machine has no place in a model card.
    trainer.push_to_hub(dataset_name=None if Path(config.dataset).exists() else config.dataset)
    return f"https://huggingface.co/{trainer.hub_model_id}"


def main() -> None:
    """Run the experiment that the environment describes."""
    try:
        config = Config.from_environment()
        print(config, flush=True)
        dataset = load_data(config)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    trainer = build_trainer(config, dataset, set_up_monitoring(config))
    metrics = train(trainer)
    print(f"Mean loss {metrics['train_loss']:.3f}. The model is in {publish(config, trainer)}")


if __name__ == "__main__":
    main()
