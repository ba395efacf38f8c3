"""From a configuration to what the planner needs of it: no weight is loaded, and torch only to measure."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tunesmith.config.run_config import RunConfig
from tunesmith.data.gguf_support import gguf_note
from tunesmith.errors import ConfigError, DataError, MissingPackageError
from tunesmith.plan.base import AS_LLAMA, Base, read_base
from tunesmith.plan.calibration import constant
from tunesmith.plan.choice import share_out
from tunesmith.plan.duration import Probe
from tunesmith.plan.facts import MachineFacts, facts_of, machine_here
from tunesmith.plan.hardware import LOCAL, Machine
from tunesmith.plan.learned import Like, learned_here
from tunesmith.plan.parameters import count_lora
from tunesmith.plan.planner import Kept, Learned, Plan, plan_run
from tunesmith.plan.refusal import changes_that_help, faults_of
from tunesmith.plan.workload import Lengths
from tunesmith.train.machine import count_gpus, probe_machine, smallest_free_gib
from tunesmith.train.method_trainer import MethodTrainer, RowCounts
from tunesmith.train.origin import origin_of
from tunesmith.train.trainers import TRAINERS
from tunesmith.train.workload import workload_of


@dataclass(frozen=True)
class Task:
    """What is to be trained: it can be planned for any machine."""

    config: RunConfig
    method: MethodTrainer
    base: Base
    num_lora_params: int
    rows: RowCounts
    num_teacher_params: int = 0

    @property
    def num_trainable_params(self) -> int:
        """Numbers that are trained."""
        return self.num_lora_params if self.config.has_adapter else self.base.parameters.total

    def like(self, facts: MachineFacts) -> Like:
        """What tells earlier runs that are like this one on a machine."""
        config, size = self.config, self.base.parameters.total
        return Like(facts.device_name, facts.num_devices, config.method, config.tuning, size)


class Outlook(NamedTuple):
    """A plan for one machine: what stands in its way, and what would change that."""

    task: Task
    machine: Machine
    plan: Plan
    faults: tuple[str, ...]
    changes: tuple[str, ...]


def task_of(config: RunConfig, rows: RowCounts) -> Task:
    """The sizes of the base model beside the rows.

    Raises:
        ModelError, DownloadError: nothing can be told of the model.
        ConfigError: the method can't be done so, or a LoRA target matches no layer.
    """
    method = TRAINERS[config.trainer]
    method.check(config)
    origin = origin_of(config)
    base = read_base(origin.model, origin.revision, trust_remote_code=config.trust_remote_code)
    if method.head_rows is not None:
        head = method.head_rows * base.architecture.hidden_size
        base = replace(base, parameters=replace(base.parameters, head=head))
    num_lora = _num_lora_params(config, method, base)
    return Task(config, method, base, num_lora, rows, method.num_teacher_params(config))


def gguf_note_of(task: Task, *, is_tokenised: bool) -> str | None:
    """Why no GGUF file could be made of what is trained; None where it can, or nothing is known of it.

    The tokenizer is looked at where the rows were tokenised: without them nothing has to be loaded.
    """
    if task.method.head_rows is not None:
        return None
    tokenizer = None
    if is_tokenised:
        from tunesmith.data.tokenizer import load_tokenizer

        origin = origin_of(task.config)
        tokenizer = load_tokenizer(task.config, origin.tokenizer, origin.revision)
    return gguf_note(task.base.classes, tokenizer)


def retuned(task: Task, config: RunConfig) -> Task:
    """The same task with a configuration of another tuning; the base isn't read again.

    Raises:
        ConfigError: a LoRA target matches no layer.
    """
    num_lora = _num_lora_params(config, task.method, task.base)
    return replace(task, config=config, num_lora_params=num_lora)


def _num_lora_params(config: RunConfig, method: MethodTrainer, base: Base) -> int:
    if not config.has_adapter:
        return 0
    # A family that is planned as Llama's has modules of other names.
    targets = "all-linear" if AS_LLAMA in base.source else config.lora_target_modules
    head = base.parameters.head if method.head_rows is not None else 0
    return count_lora(base.architecture, config.lora_r, targets) + head


def rows_by_hand(config: RunConfig, num_rows: int, mean_tokens: float) -> RowCounts:
    """Rows of which only number and mean are known; nothing is known of what carries no loss.

    Raises:
        ConfigError: a number is none, or no row is left to train on.
    """
    if not math.isfinite(mean_tokens):
        raise ConfigError(
            f"{mean_tokens} is no number of tokens", where="--mean-tokens", fix="give a number such as 400"
        )
    texts = TRAINERS[config.trainer].texts_per_row
    num_rows = min(num_rows, config.max_rows or num_rows)
    num_eval = _held_out(config, num_rows)
    lengths = Lengths.by_hand(num_rows, mean_tokens, texts * config.max_length)
    longest = math.ceil(lengths.longest / texts)  # of one text, as the data stage counts it
    return RowCounts(num_rows - num_eval, lengths.mean, lengths.deviation, longest, 1.0, num_eval)


def _held_out(config: RunConfig, num_rows: int) -> int:
    """How many of so many rows test_size holds out."""
    size = config.test_size or 0
    number = int(size) if size >= 1 else round(num_rows * size)
    if number >= num_rows:
        raise ConfigError(
            f"test_size {size:g} holds all of {num_rows} rows out",
            where="test_size",
            fix="hold fewer out, such as 0.05",
        )
    return number


def rows_of_data(config: RunConfig) -> RowCounts:
    """Rows as the data stage reads, checks and tokenises them.

    Raises:
        TunesmithError: the data or the tokenizer can't be read, or can't be trained on.
    """
    from tunesmith.data.chat_templates import put_in_chat_template
    from tunesmith.data.prepare import prepare_data
    from tunesmith.data.tokenizer import load_tokenizer

    origin = origin_of(config)
    tokenizer = load_tokenizer(config, origin.tokenizer, origin.revision)
    put_in_chat_template(tokenizer, config.chat_template)
    return RowCounts.of(prepare_data(config, tokenizer).report)


def rows_of_sample(config: RunConfig, number: int) -> RowCounts:
    """Rows as `rows_of_data` counts them, of which `number` are read and the others taken to be alike.

    The interval of the mean is the normal one of a sample without repetition: 1.96 deviations of a row over
    the root of the rows read. The longest row is where a log-normal curve has one of so many.

    Raises:
        TunesmithError: as `rows_of_data`, or the data can't be sampled.
    """
    from tunesmith.data.sample import sampled

    with tempfile.TemporaryDirectory(prefix="tunesmith-sample-") as folder:
        few, number, total = sampled(config, number, Path(folder))
        try:
            seen = rows_of_data(few)
        except DataError as error:  # its place is one in a file that is gone
            raise DataError(
                f"{error}, in a sample of {number} rows",
                where=str(config.dataset),
                fix=f"tunesmith validate {config.dataset} --method {config.method} shows all",
            ) from None
    texts = TRAINERS[config.trainer].texts_per_row
    num_rows = round(total * seen.num_rows / number)
    held_out, part = _held_out(config, num_rows), 1 - number / total
    spread = Lengths(10**9, seen.mean_length, seen.length_deviation, texts * config.max_length)
    return replace(
        seen,
        num_rows=num_rows - held_out,
        num_eval_rows=held_out or seen.num_eval_rows,
        longest=max(seen.longest, math.ceil(spread.longest_of(num_rows) / texts) if part else 0),
        mean_error=1.96 * seen.length_deviation / seen.mean_length * math.sqrt(part / seen.num_rows),
    )


def facts_there(task: Task, machine: Machine) -> MachineFacts | None:
    """A machine of the table as the task would find it; None where the table lacks its memory."""
    num_chips = machine.num_chips if machine.chip and machine.chip.kind != "cpu" else 0
    # How many processes the run's own machine should have says nothing of this one.
    config = task.config.model_copy(update={"num_processes": None})
    return facts_of(machine, share_out(config, num_chips, task.method.smallest_micro_batch))


def facts_here(task: Task) -> MachineFacts:
    """This machine, measured with torch.

    Raises:
        ConfigError: the device that was asked for isn't here.
        MissingPackageError: torch isn't installed.
    """
    try:
        number = share_out(task.config, count_gpus(task.config.device), task.method.smallest_micro_batch)
        facts = probe_machine(task.config.device)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"this machine is measured with {error.name}, which isn't installed",
            where="hardware",
            fix="name a machine, such as --hardware h200, or python -m pip install 'tunesmith[train]'",
        ) from None
    return replace(facts, num_devices=number, memory_gib=smallest_free_gib(facts, number))


def plan_of(
    task: Task,
    facts: MachineFacts,
    machine: Machine,
    *,
    learned: Learned | None = None,
    probe: Probe | None = None,
    kept: Kept | None = None,
) -> Plan:
    """The plan for a machine.

    Raises:
        ConfigError: the configuration can't be run on it.
    """
    base = task.base
    workload = workload_of(
        task.method, task.config, base, task.num_lora_params, task.rows, facts.num_devices,
        task.num_teacher_params,
    )  # fmt: skip
    # A rented machine begins without the model.
    num_bytes = 0 if machine.name == LOCAL else base.stored_bytes or 2 * base.parameters.total
    download_s = num_bytes / (constant("run.network") * 1e9)
    return plan_run(
        task.config, facts, machine, base, workload,
        learned=learned, probe=probe, kept=kept, download_s=download_s,
    )  # fmt: skip


def outlook(
    task: Task,
    facts: MachineFacts,
    machine: Machine,
    *,
    learned: Learned | None = None,
    probe: Probe | None = None,
) -> Outlook:
    """The plan for a machine, with what stands in its way.

    Raises:
        ConfigError: the configuration can't be run on it.
    """
    plan = plan_of(task, facts, machine, learned=learned, probe=probe)
    faults = faults_of(plan, task.config, facts, strictly=True)
    if task.config.tuning == "qlora" and facts.device != "cuda":
        # Whatever else were changed, it would still need one.
        return Outlook(task, machine, plan, ("qlora needs a CUDA GPU", *faults), ())
    changes = changes_that_help(plan, task.config, facts, machine, task.base) if faults else []
    return Outlook(task, machine, plan, tuple(faults), tuple(changes))


def outlook_here(task: Task, facts: MachineFacts) -> Outlook:
    """The plan for this machine, with what earlier runs on it say.

    Raises:
        ConfigError: the configuration can't be run here.
    """
    return outlook(task, facts, machine_here(facts), learned=learned_here(task.like(facts)))
