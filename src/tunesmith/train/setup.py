"""A run checked from end to end, before a weight is loaded or anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith.config.defaults import logging_steps
from tunesmith.config.run_config import RunConfig
from tunesmith.data.chat_templates import put_in_chat_template
from tunesmith.data.gguf_support import gguf_note
from tunesmith.data.prepare import PreparedData, prepare_data
from tunesmith.data.tokenizer import load_tokenizer
from tunesmith.errors import ConfigError
from tunesmith.launch.local import was_launched
from tunesmith.plan.choice import Choice
from tunesmith.plan.facts import MachineFacts, machine_here
from tunesmith.plan.learned import learned_here
from tunesmith.plan.planner import Kept, Plan
from tunesmith.plan.refusal import does_not_fit, refuse_overrun
from tunesmith.runs.folder import RunFolder
from tunesmith.train.attention import leave_out_cudnn
from tunesmith.train.disk import refuse_full_disk
from tunesmith.train.events import Listener, Phase
from tunesmith.train.judge import load_rewards
from tunesmith.train.machine import probe_machine
from tunesmith.train.method_trainer import MethodTrainer, RowCounts
from tunesmith.train.model import Sizes, load_model, load_model_config, measure_model, refuse_qlora_here
from tunesmith.train.origin import Origin, origin_of
from tunesmith.train.planning import Task, plan_of
from tunesmith.train.processes import world_size
from tunesmith.train.tracking import wanted_trackers
from tunesmith.train.trainers import TRAINERS
from tunesmith.train.trl_settings import build_trl_config, check_trl_table, trl_arguments
from tunesmith.train.versions import check_versions


@dataclass(frozen=True)
class Setup:
    """A run that was checked from end to end; no weight is loaded and nothing is written yet."""

    config: RunConfig
    method: MethodTrainer
    origin: Origin
    tokenizer: Any
    rewards: dict[str, Any]
    data: PreparedData
    machine: MachineFacts
    sizes: Sizes
    plan: Plan
    choice: Choice
    num_steps: int
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """What run.json keeps of it."""
        return {
            "method": self.config.method,
            "config": self.config.model_dump(mode="json"),
            "data": self.data.report.as_dict(),
            "model": self.sizes.as_dict(),
            **self.way(),
            "num_steps": self.num_steps,
            "notes": list(self.notes),
        }

    def way(self) -> dict[str, Any]:
        """Where and how it is done: of a run that goes on this may have changed."""
        return {
            "machine": vars(self.machine),
            "choice": self.choice.as_dict(),
            "plan": self.plan.as_dict(),
        }


def set_up(
    config: RunConfig, listener: Listener, run: RunFolder | None = None, *, judge: bool = True
) -> Setup:
    """Check everything that can be checked before weights are loaded or anything is written.

    `run` is one that goes on. Without `judge` the plan may ask for more than there is, or than the budget.

    Raises:
        TunesmithError: whatever is wrong with configuration, data, rewards, model or disk, as a sentence.
    """
    listener(Phase("checking the configuration"))
    check_versions()
    method = TRAINERS[config.trainer]
    config_class, trainer_class = method.classes()
    check_trl_table(config, config_class, trainer_class)
    method.check(config)
    wanted_trackers(config)
    refuse_unwatched_processes()
    machine = probe_machine(config.device)
    refuse_qlora_here(config, machine.device)
    rewards = load_rewards(config)
    origin = origin_of(config, run)
    model_config = load_model_config(config, origin.model, origin.revision)
    sizes = measure_model(config, model_config, method)
    listener(Phase("reading the data"))
    tokenizer = load_tokenizer(config, origin.tokenizer, origin.revision)
    has_template = bool(tokenizer.chat_template)
    template_note = put_in_chat_template(tokenizer, config.chat_template)
    method.check_models(config, model_config, tokenizer)
    data = prepare_data(config, tokenizer, rewards)
    task = _task(config, method, sizes, data)
    plan = _plan(task, machine, judge=judge) if run is None else _plan_on(task, machine, run)
    choice = plan.choice
    num_steps = method.num_steps(config, data.report.num_rows, choice.per_device_train_batch_size)
    config = _with_logging_steps(config, num_steps)
    build_trl_config(config_class, trl_arguments(method, config, choice, data.report, None))
    refuse_full_disk(config, sizes)
    data.report.notes += _notes_on_base(
        config, method, origin, gguf_note(model_config.architectures, tokenizer)
    )
    notes = method.notes(config, has_template=has_template, report=data.report) + data.report.notes
    if template_note and set(data.report.formats.values()) != {"text"}:
        notes.insert(0, template_note)
    return Setup(
        config,
        method,
        origin,
        tokenizer,
        rewards,
        data,
        machine,
        sizes,
        plan,
        choice,
        num_steps,
        tuple(notes),
    )


def _notes_on_base(
    config: RunConfig, method: MethodTrainer, origin: Origin, no_gguf: str | None
) -> Iterator[str]:
    if no_gguf and method.head_rows is None:
        yield no_gguf
    if origin.was_quantized:
        yield (
            f"{config.init_from} was trained on a base in 4 bit: merged into the full one it answers "
            "a little differently"
        )


def _task(config: RunConfig, method: MethodTrainer, sizes: Sizes, data: PreparedData) -> Task:
    num_lora = sizes.num_trainable_params if config.has_adapter else 0
    teacher = method.num_teacher_params(config)
    return Task(config, method, sizes.base, num_lora, RowCounts.of(data.report), teacher)


def _plan(task: Task, machine: MachineFacts, *, judge: bool) -> Plan:
    here = machine_here(machine)
    plan = plan_of(task, machine, here, learned=learned_here(task.like(machine)))
    if judge:
        refuse_overrun(plan, task.config, machine, here, task.base)
    return plan


def _plan_on(task: Task, machine: MachineFacts, run: RunFolder) -> Plan:
    """The plan of a run that goes on: as it began, where that has room; what it cost so far is spent."""
    here, began = machine_here(machine), run.record.get("choice") or {}
    learned = learned_here(task.like(machine))
    micro_batch, again = began.get("per_device_train_batch_size"), began.get("gradient_checkpointing")
    kept = Kept(micro_batch, again) if micro_batch else None
    plan = plan_of(task, machine, here, learned=learned, kept=kept)
    if kept is None or does_not_fit(plan, task.config, machine, strictly=False) is None:
        return plan
    return plan_of(task, machine, here, learned=learned)


def _with_logging_steps(config: RunConfig, num_steps: int) -> RunConfig:
    if config.logging_steps is not None:
        return config
    return config.model_copy(update={"logging_steps": logging_steps(num_steps)})


def refuse_unwatched_processes() -> None:
    """Make sure that several processes are Tunesmith's own: it sees to it that they end together.

    Raises:
        ConfigError: another program started them.
    """
    if world_size() > 1 and not was_launched():
        raise ConfigError(
            f"this is one of {world_size()} processes that another program started",
            where="environment WORLD_SIZE",
            fix="start tunesmith itself, without torchrun or accelerate launch: it uses all GPUs",
        )


def load_base(setup: Setup, listener: Listener, run: RunFolder | None = None) -> Any:
    """The model that training starts from, with its weights, on the device of the run."""
    listener(Phase("loading the model"))
    if setup.choice.device == "cuda":
        leave_out_cudnn()
    return load_model(setup.config, setup.choice, setup.method, setup.origin, run)
