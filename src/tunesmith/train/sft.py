"""Supervised fine-tuning, from a configuration to a trained model in a run folder."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config.run_config import RunConfig
from tunesmith.data.chat_templates import put_in_chat_template
from tunesmith.data.prepare import PreparedData, prepare_data
from tunesmith.data.tokenizer import load_tokenizer
from tunesmith.errors import RunInterrupted, RunStopped
from tunesmith.plan.choice import Choice, choose
from tunesmith.plan.facts import MachineFacts, ModelFacts
from tunesmith.runs.folder import RunFolder
from tunesmith.train.disk import full_disk_said, refuse_full_disk
from tunesmith.train.events import Listener, Notice, Phase
from tunesmith.train.loss_head import labelled_positions_only
from tunesmith.train.machine import probe_machine
from tunesmith.train.model import load_model, load_model_config, lora_config, measure_model
from tunesmith.train.tracking import losses_said, tracker_callbacks, wanted_trackers
from tunesmith.train.trl_settings import (
    build_trl_config,
    check_trl_keys,
    refused_by_trl,
    sft_arguments,
    steps_of_run,
)


@dataclass(frozen=True)
class SftSetup:
    """A run that was checked from end to end; no weight is loaded and nothing is written yet."""

    config: RunConfig
    tokenizer: Any
    data: PreparedData
    machine: MachineFacts
    model_facts: ModelFacts
    choice: Choice
    num_steps: int
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """What run.json keeps of it."""
        return {
            "method": "sft",
            "config": self.config.model_dump(mode="json"),
            "data": self.data.report.as_dict(),
            "model": vars(self.model_facts),
            "machine": vars(self.machine),
            "choice": self.choice.as_dict(),
            "num_steps": self.num_steps,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class TrainResult:
    """A finished training: the model in memory (adapter attached) and its last metrics."""

    model: Any
    step: int
    num_steps: int
    metrics: dict[str, float]
    resumed_from: int | None


def set_up(config: RunConfig, listener: Listener) -> SftSetup:
    """Check everything that can be checked before weights are loaded or anything is written.

    Raises:
        TunesmithError: whatever is wrong with configuration, data, model or disk, as a sentence.
    """
    listener(Phase("checking the configuration"))
    from trl import SFTConfig

    check_trl_keys(config, SFTConfig)
    wanted_trackers(config)
    machine = probe_machine(config.device)
    model_config = load_model_config(config)
    facts = measure_model(config, model_config)
    listener(Phase("reading the data"))
    tokenizer = load_tokenizer(config)
    template_note = put_in_chat_template(tokenizer, config.chat_template)
    data = prepare_data(config, tokenizer)
    choice = choose(config, machine, facts, row_length=min(data.report.longest, config.max_length))
    build_trl_config(SFTConfig, sft_arguments(config, choice, None))
    refuse_full_disk(config, facts)
    notes = list(data.report.notes)
    if template_note and set(data.report.formats.values()) != {"text"}:
        notes.insert(0, template_note)
    return SftSetup(
        config,
        tokenizer,
        data,
        machine,
        facts,
        choice,
        steps_of_run(config, data.report),
        tuple(notes),
    )


def load_base(setup: SftSetup, listener: Listener) -> Any:
    """The base model with its weights, on the device of the run."""
    listener(Phase("loading the model"))
    model = load_model(setup.config, setup.choice.precision)
    return model.to(setup.choice.device)


def train(
    setup: SftSetup, run: RunFolder, listener: Listener, *, model: Any = None, checkpoint: Path | None = None
) -> TrainResult:
    """Train `setup` into `run`, from `checkpoint` when one is given, and save the model when it is done.

    Raises:
        RunInterrupted, RunStopped: a signal stopped it; a checkpoint is written.
        TunesmithError: TRL or torch refused something.
    """
    from tunesmith.train.callbacks import StopCallback

    def notify(message: str) -> None:
        listener(Notice(message))

    stop = StopCallback(listener)
    with stop.listening(), full_disk_said(run):
        try:
            trainer = _build_trainer(setup, run, listener, model or load_base(setup, listener), stop)
            if stop.received is None:
                listener(Phase("training"))
                with labelled_positions_only(setup.choice.device), losses_said(notify):
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except KeyboardInterrupt:
            stop.received = signal.SIGINT
            raise _stopped(run, stop.received, run.newest_checkpoint()) from None
        state = trainer.state
        if stop.received is not None and (state.global_step < state.max_steps or not state.max_steps):
            raise _stopped(run, stop.received, run.newest_checkpoint())
        listener(Phase("saving the model"))
        save_model(trainer.model, setup.tokenizer, run.model_path)
    metrics = _last_metrics(state.log_history)
    if checkpoint:
        # transformers divides what this process lost and took by the steps of the whole run.
        metrics = {key: value for key, value in metrics.items() if not key.startswith("train_")}
    run.update(status="done", step=state.global_step, num_steps=state.max_steps, metrics=metrics)
    resumed_from = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else None
    return TrainResult(trainer.model, state.global_step, state.max_steps, metrics, resumed_from)


def _build_trainer(setup: SftSetup, run: RunFolder, listener: Listener, model: Any, stop: Any) -> Any:
    from transformers import EarlyStoppingCallback
    from trl import SFTConfig, SFTTrainer

    from tunesmith.train.callbacks import ProgressCallback

    config = setup.config
    callbacks: list[Any] = [ProgressCallback(run, listener), stop]
    if config.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    callbacks += tracker_callbacks(wanted_trackers(config), lambda message: listener(Notice(message)))
    arguments = sft_arguments(config, setup.choice, run)
    try:
        return SFTTrainer(
            model=model,
            args=build_trl_config(SFTConfig, arguments),
            train_dataset=setup.data.train,
            eval_dataset=setup.data.eval,
            processing_class=setup.tokenizer,
            peft_config=lora_config(config),
            callbacks=callbacks,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise refused_by_trl(error, arguments) from error


def save_model(model: Any, tokenizer: Any, path: Path) -> None:
    """Write the model or adapter and its tokenizer to `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)


def _stopped(run: RunFolder, received: signal.Signals, newest: tuple[Path, int] | None) -> RunStopped:
    step = newest[1] if newest else 0
    kept = f"checkpoint at step {step} is written" if newest else "there is no checkpoint yet"
    resume = f"tunesmith resume {run.path}"
    run.update(status="stopped", step=step, stopped_by=received.name, resume=resume)
    kind = RunInterrupted if received == signal.SIGINT else RunStopped
    return kind(f"{received.name} received; {kept}", where=str(run.path), fix=resume)


def _last_metrics(history: list[dict[str, float]]) -> dict[str, float]:
    """The last value of every metric that was logged."""
    last: dict[str, float] = {}
    for row in history:
        last |= {key: value for key, value in row.items() if key not in ("step", "epoch")}
    return last
