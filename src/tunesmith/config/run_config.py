"""The typed fields that Tunesmith reasons about; everything else belongs to TRL and goes through `trl`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from tunesmith.config.methods import METHODS, TRAINERS_OF, Kind
from tunesmith.config.names import checked_name, checked_path, checked_repo_id, fits


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class DatasetSource(_Frozen):
    """One dataset of a mixture."""

    path: str = Field(min_length=1)
    config: str | None = None
    split: str = "train"
    weight: float | None = Field(default=None, gt=0)
    max_rows: int | None = Field(default=None, ge=1)
    map: dict[str, str] = Field(default={})


class RewardSource(_Frozen):
    """One reward of a run: a name of the library, `FILE.py:FUNCTION` or `package.module:FUNCTION`."""

    function: str = Field(min_length=1)
    weight: float = 1.0
    args: dict[str, Any] = Field(default={})


class Budget(_Frozen):
    """What a run may take at most; the plan refuses one that is expected to take more."""

    max_hours: float | None = Field(
        default=None, gt=0, description="Hours from the command to the saved model"
    )
    max_cost_usd: float | None = Field(default=None, gt=0, description="US dollars for all of it")
    max_memory_gib: float | None = Field(default=None, gt=0, description="GiB of one device")
    usd_per_hour: float | None = Field(
        default=None, ge=0, description="Price of the machine, where the plan knows none"
    )


class Hub(_Frozen):
    """Where on the Hub the model goes, and whether its checkpoints go there too."""

    repo_id: str | None = Field(default=None, description="OWNER/NAME of the repository")
    every: Literal["end", "save"] = Field(
        default="end", description="end: the model when it is done; save: each checkpoint too, to go on from"
    )
    public: bool = Field(default=False, description="Make a repository that everybody sees")

    @field_validator("repo_id")
    @classmethod
    def _is_a_repository(cls, value: str | None) -> str | None:
        if value is not None and "/" not in value:
            raise ValueError(f"{value!r} has no owner; write it as OWNER/NAME")
        return fits(checked_repo_id, value)

    @model_validator(mode="after")
    def _has_a_place(self) -> Hub:
        if self.repo_id is None and (self.every != "end" or self.public):
            raise ValueError("hub.every and hub.public need hub.repo_id, the repository they are about")
        return self


def _field(panel: str, description: str, default: Any = None, **limits: Any) -> Any:
    return Field(default=default, description=description, json_schema_extra={"panel": panel}, **limits)


class RunConfig(_Frozen):
    """Everything a run is made from. A field that is None takes its default from `config.defaults`."""

    method: str = _field("What", "Training method", default="sft")
    model: str = _field("What", "Hub id or folder of the causal language model", default=..., min_length=1)
    init_from: str | None = _field(
        "What", "Run to start from, in place of model: its adapter is merged into its base", min_length=1
    )
    teacher_model: str | None = _field(
        "What", "distillation: Hub id or folder of the model to learn from", min_length=1
    )
    model_revision: str | None = _field("What", "Branch, tag or commit of the model on the Hub")
    trust_remote_code: bool = _field("What", "Run the model repository's own code", default=False)
    run_dir: str | None = _field("What", "Folder of this run (default: runs/METHOD-MODEL-DATE)", min_length=1)

    dataset: str | tuple[DatasetSource, ...] = _field(
        "Data",
        "Hub id, file or folder; in RUN.yaml also a list of {path, weight, ...}",
        default=...,
        min_length=1,
    )
    dataset_config: str | None = _field("Data", "Configuration name of a Hub dataset")
    dataset_train_split: str = _field(
        "Data", "Split to train on, or a slice of it such as train[:1000]", default="train"
    )
    dataset_test_split: str | None = _field("Data", "Split of the same dataset to evaluate on")
    eval_dataset: str | None = _field("Data", "Another dataset to evaluate on", min_length=1)
    test_size: float | None = _field(
        "Data", "Hold out this share (0.1) or number (200) of the training rows for evaluation", gt=0
    )
    max_rows: int | None = _field("Data", "Use at most this many training rows", ge=1)
    max_length: int = _field("Data", "Tokens a row is cut to", default=1024, ge=8)
    map: dict[str, str] = _field(
        "Data", "Columns by the part they play, such as prompt=question,completion=answer", default={}
    )
    allow: tuple[str, ...] = _field(
        "Data", "Codes of findings to train with all the same, such as D207,D303", default=()
    )
    assistant_only_loss: bool = _field(
        "Data", "`messages` rows: loss on the assistant's turns only", default=True
    )
    completion_only_loss: bool = _field(
        "Data", "`prompt`/`completion` rows: loss on the completion only", default=True
    )
    chat_template: str | None = _field(
        "Data", "Chat template to put in: chatml, zephyr, or a .jinja file (default: the tokenizer's own)"
    )

    tuning: Literal["lora", "qlora", "full", "auto"] = _field(
        "Tuning",
        "Train a LoRA adapter, one on a base in 4 bit (qlora, CUDA), every weight, or whichever fits (auto)",
        default="lora",
    )
    use_dora: bool = _field("Tuning", "Learn the size of each weight column too (DoRA)", default=False)
    lora_r: int = _field("Tuning", "LoRA rank", default=16, ge=1, le=4096)
    lora_alpha: int = _field("Tuning", "LoRA alpha: updates are scaled by alpha / rank", default=32, ge=1)
    lora_dropout: float = _field("Tuning", "LoRA dropout", default=0.0, ge=0, lt=1)
    lora_target_modules: str | tuple[str, ...] = _field(
        "Tuning",
        "Modules that get an adapter: all-linear, names like q_proj,v_proj, or a regular expression",
        default="all-linear",
    )
    num_train_epochs: float = _field("Tuning", "Passes over the data", default=3.0, gt=0)
    max_steps: int | None = _field("Tuning", "Optimizer steps; overrides num_train_epochs", ge=1)
    global_batch_size: int = _field(
        "Tuning",
        "Rows (grpo, rloo: answers) an optimizer step, over all devices",
        default=16,
        ge=1,
        le=1_000_000,
    )
    learning_rate: float | None = _field("Tuning", "Peak learning rate", gt=0, le=1)
    lr_scheduler_type: str | None = _field("Tuning", "Learning rate schedule")
    warmup_steps: float | None = _field("Tuning", "Warm-up steps, or below 1 their share of the run", ge=0)
    seed: int = _field(
        "Tuning", "Seed of data order, adapter weights and dropout", default=42, ge=0, lt=2**32
    )

    rewards: tuple[RewardSource, ...] = _field(
        "Rewards", "grpo, rloo: library names, FILE.py:FUNCTION or module:FUNCTION", default=()
    )
    num_generations: int | None = _field("Rewards", "grpo, rloo: answers to each prompt", ge=2)
    max_completion_length: int | None = _field(
        "Rewards", "grpo, rloo, distillation: tokens of an answer at most", ge=1
    )
    max_steps_without_signal: int | None = _field(
        "Rewards", "grpo, rloo: stop when so many steps in a row had no group with different rewards", ge=1
    )

    precision: Literal["auto", "bf16", "fp16", "fp32"] = _field(
        "Machine", "Number format of the computation", default="auto"
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = _field("Machine", "Where to train", default="auto")
    num_processes: int | None = _field(
        "Machine", "GPUs to train on (default: all that can share global_batch_size)", ge=1, le=64
    )
    gradient_checkpointing: bool | None = _field(
        "Machine", "Recompute activations to save memory (default: only when memory needs it)"
    )

    budget: Budget = _field(
        "Machine",
        "Most that the run may take: one that is expected to take more is refused",
        default=Budget(),
    )

    eval_steps: float | None = _field(
        "Run", "Evaluate every so many steps, or below 1 share of the run (default: every epoch)", gt=0
    )
    save_steps: float | None = _field(
        "Run", "Checkpoint every so many steps, or below 1 share of the run (default: as eval_steps)", gt=0
    )
    save_total_limit: int = _field("Run", "Checkpoints to keep", default=2, ge=1)
    max_minutes: float | None = _field(
        "Run", "Stop with a checkpoint before the command has run for so many minutes", gt=0
    )
    logging_steps: int | None = _field(
        "Run", "Log every so many steps (default: 10, in a short run a tenth of its steps)", ge=1
    )
    load_best_model_at_end: bool = _field(
        "Run", "End with the checkpoint of the lowest evaluation loss", default=False
    )
    early_stopping_patience: int | None = _field(
        "Run", "Stop after so many evaluations without improvement", ge=1
    )

    project: str | None = _field("Tracking", "Trackio project (default: the model's name)", min_length=1)
    run_name: str | None = _field("Tracking", "Trackio run (default: the run folder's name)", min_length=1)
    trackio_space_id: str | None = _field(
        "Tracking", "Hub Space for the dashboard; private (default: none: local)"
    )

    hub: Hub = _field(
        "Hub", "Where the model is pushed to (default: nowhere), private unless told", default=Hub()
    )

    trl: dict[str, Any] = _field("TRL", "Any other argument of TRL's trainer config", default={})

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation in (int, float, int | None, float | None):
            raise ValueError(f"{str(value).lower()} should be a number")
        return value

    @model_validator(mode="before")
    @classmethod
    def _model_of_an_earlier_run(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("init_from"):
            return values
        if values.get("model") not in (None, values["init_from"]):
            raise ValueError("model and init_from each name what to start from; keep one")
        return {**values, "model": values["init_from"]}

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(f"there is no method {value!r}; there are {', '.join(METHODS)}")
        return value

    @field_validator("rewards", mode="before")
    @classmethod
    def _named_rewards(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",") if name.strip()]
        if not isinstance(value, list | tuple):
            return value
        return tuple({"function": each} if isinstance(each, str) else each for each in value)

    @field_validator("model", "init_from", "teacher_model")
    @classmethod
    def _home_folder(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser()) if value and value.startswith("~") else value

    @field_validator("lora_target_modules")
    @classmethod
    def _is_an_expression(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    @field_validator("lora_target_modules", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return (
            tuple(name.strip() for name in value.split(","))
            if isinstance(value, str) and "," in value
            else value
        )

    @field_validator("map", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(slot.strip() and column.strip() for slot, _, column in pairs):
            raise ValueError(f"{value!r} should be slot=column, such as prompt=question,completion=answer")
        return {slot.strip(): column.strip() for slot, _, column in pairs}

    @field_validator("allow", mode="before")
    @classmethod
    def _codes(cls, value: Any) -> Any:
        return (
            tuple(code.strip() for code in value.split(",") if code.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("test_size")
    @classmethod
    def _share_or_count(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise ValueError("should be a share below 1 or a whole number of rows")
        return value

    @field_validator(
        "run_dir", "model", "init_from", "teacher_model", "dataset", "eval_dataset", "chat_template"
    )
    @classmethod
    def _no_control_characters(cls, value: Any) -> Any:
        if isinstance(value, str) and any(ord(character) < 32 for character in value):
            raise ValueError("should not contain control characters")
        return value

    @field_validator("run_dir")
    @classmethod
    def _names_a_folder(cls, value: str | None) -> str | None:
        return fits(checked_path, value)

    @field_validator("project", "run_name")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        return fits(checked_name, value)

    @field_validator("trackio_space_id")
    @classmethod
    def _is_a_space(cls, value: str | None) -> str | None:
        return fits(checked_repo_id, value)

    @model_validator(mode="after")
    def _field_has_meaning(self) -> RunConfig:
        for key, trainers in TRAINERS_OF.items():
            if getattr(self, key) and self.trainer not in trainers:
                raise ValueError(f"{key} has no meaning for {self.method}, only for {', '.join(trainers)}")
        if self.use_dora and self.tuning in ("full", "auto"):
            raise ValueError("use_dora is a way to train an adapter; set tuning to lora or qlora")
        return self

    @model_validator(mode="after")
    def _mixture_speaks_for_itself(self) -> RunConfig:
        if not isinstance(self.dataset, str):
            for key, entry_key in (
                ("dataset_config", "config"), ("dataset_train_split", "split"), ("map", "map"),
            ):  # fmt: skip
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key} has no meaning for a list of datasets; give each entry its {entry_key}"
                    )
            weighted = [source.weight is not None for source in self.dataset]
            if any(weighted) and not all(weighted):
                raise ValueError(
                    "dataset: some entries have a weight and some have none; give each one, or none"
                )
        return self

    @model_validator(mode="after")
    def _evaluation_has_data(self) -> RunConfig:
        named = [
            key
            for key in ("dataset_test_split", "eval_dataset", "test_size")
            if getattr(self, key) is not None
        ]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} each name the evaluation data; keep one")
        if not named:
            for key in ("early_stopping_patience", "load_best_model_at_end", "eval_steps"):
                if getattr(self, key):
                    raise ValueError(
                        f"{key} needs evaluation data; set test_size, dataset_test_split or eval_dataset"
                    )
        return self

    @property
    def trainer(self) -> str:
        """The trainer that runs the method, such as dpo for ipo."""
        return METHODS[self.method].trainer

    @property
    def kind(self) -> Kind:
        """What the method needs of a row."""
        return METHODS[self.method].kind

    @property
    def has_adapter(self) -> bool:
        """True when the weights of the model stay as they are, and an adapter is trained."""
        return self.tuning != "full"

    @property
    def has_eval(self) -> bool:
        """True when a part of the data is held out for evaluation."""
        return any((self.dataset_test_split, self.eval_dataset, self.test_size))

    def sources(self) -> tuple[DatasetSource, ...]:
        """The training data as a mixture of at least one dataset."""
        if isinstance(self.dataset, str):
            return (
                DatasetSource(
                    path=self.dataset,
                    config=self.dataset_config,
                    split=self.dataset_train_split,
                    max_rows=self.max_rows,
                    map=self.map,
                ),
            )
        return self.dataset
