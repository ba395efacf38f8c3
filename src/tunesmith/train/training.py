"""A training from a checked set-up to a saved model, or to a checkpoint and the reason why it stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.plan.choice import WORTH_CAPTURING
from tunesmith.plan.room import Room
from tunesmith.runs.checkpoints import LEAST_KEPT
from tunesmith.runs.folder import RunFolder
from tunesmith.train.disk import disk_errors_said
from tunesmith.train.ending import (
    OutOfMemory,
    early_end,
    release_memory,
    signals_told,
    smaller,
    stopped,
    stopped_by_signal,
)
from tunesmith.train.events import Listener, Notice, Phase
from tunesmith.train.fused_kernels import kernels_fused
from tunesmith.train.judge import Judge
from tunesmith.train.keeper import Keeper, SendsCheckpoints
from tunesmith.train.measured import measure_run
from tunesmith.train.model import lora_config, save_whole
from tunesmith.train.processes import leave, world_size
from tunesmith.train.relayout import read_models
from tunesmith.train.setup import Setup, load_base
from tunesmith.train.tracking import tracker_callbacks, trackio_watched, wanted_trackers
from tunesmith.train.trl_settings import build_trl_config, refused_by_trl, trl_arguments
from tunesmith.train.walks import walk_less


@dataclass(frozen=True)
class TrainResult:
    """A finished training: the model in memory (adapter attached) and its last metrics."""

    model: Any
    step: int
    num_steps: int
    metrics: dict[str, float]
    resumed_from: int | None


def train(
    setup: Setup,
    run: RunFolder,
    listener: Listener,
    *,
    model: Any = None,
    checkpoint: Path | None = None,
    keep: bool = True,
    sender: SendsCheckpoints | None = None,
) -> TrainResult:
    """Train `setup` into `run`, from `checkpoint` when one is given, and save the model when it is done.

    Without `keep` the model isn't saved. `sender` is told of each checkpoint that is written. Where the
    memory of a device doesn't hold a step, the run goes on in smaller micro-batches of the same global batch.

    Raises:
        RunInterrupted, RunStopped: a signal, the end of its time, a reward, the lack of any reward's signal,
            or numbers that are none stopped it; what was kept can be gone on from.
        TunesmithError: TRL or torch refused something.
    """
    started_from, limit = checkpoint, setup.config.save_total_limit
    if limit < LEAST_KEPT:
        listener(
            Notice(f"save_total_limit {limit}: {LEAST_KEPT} are kept, so that a damaged one isn't the last")
        )
    while True:
        try:
            trainer = _train_once(
                setup, run, listener, model=model, checkpoint=checkpoint, keep=keep, sender=sender
            )
            return _result(setup, run, trainer, started_from)
        except OutOfMemory as error:
            setup = smaller(setup, run, listener, error)
        newest = run.newest_checkpoint()
        checkpoint, model = newest[0] if newest else None, None
        release_memory()


def _train_once(
    setup: Setup,
    run: RunFolder,
    listener: Listener,
    *,
    model: Any,
    checkpoint: Path | None,
    keep: bool,
    sender: SendsCheckpoints | None,
) -> Any:
    """The trainer, when it has come to its end and the model is saved.

    Raises:
        OutOfMemory: a step didn't fit; the last whole one is kept.
    """
    from tunesmith.train.callbacks import Guards
    from tunesmith.train.checkpoints import watched
    from tunesmith.train.largest import try_largest_first
    from tunesmith.train.stopping import StopCallback, deadline_of

    keeper = Keeper(run, setup.config.save_total_limit, sender)
    stop = StopCallback(listener, keeper, deadline_of(setup.config.max_minutes, os.environ))
    guards = Guards(setup, run, listener)
    trainer = None
    told = trackio_watched(lambda message: listener(Notice(message)))
    with signals_told(run, stop), stop.listening(), disk_errors_said(run), told, keeper, guards:
        try:
            base = load_base(setup, listener, run) if model is None else model
            # transformers turns it off for good, and with it every later user of the saved model.
            use_cache = getattr(base.config, "use_cache", True)
            judge = _judge(setup, run, listener)
            trainer = _build_trainer(
                setup, run, listener, base, [stop, *guards.callbacks(judge, keeper)], judge
            )
            watched(trainer, keeper, stop, guards.finite)
            if judge:
                judge.evaluates = lambda: not trainer.model.training
            _keep_trained_weights_exact(trainer.model)
            if world_size() == 1 and not setup.rewards:
                try_largest_first(trainer, setup)
            if not stop.received:
                _run_steps(setup, trainer, stop, listener, checkpoint)
        except KeyboardInterrupt:
            if trainer is not None:
                trainer.save_last_step()
            raise
        except Exception as failure:  # what is known to end a run gets its sentence (tests/faults)
            end = early_end(failure, trainer, run, setup)
            if end is None:
                raise
            raise end from failure
        _say_why_unfinished(run, trainer.state, stop, guards.dead)
        guards.say_what_was_learned()
        base.config.use_cache = use_cache
        if keep:
            listener(Phase("saving the model"))
        if keep and run.writes:
            save_model(trainer.model, setup.tokenizer, run.model_path)
        leave()
    return trainer


def _run_steps(setup: Setup, trainer: Any, stop: Any, listener: Listener, checkpoint: Path | None) -> None:
    def notify(message: str) -> None:
        listener(Notice(message))

    faster = _sped_up(setup, trainer, notify)
    with faster, setup.method.while_training(setup.choice):
        stop.waits_for_step = True
        listener(Phase("training"))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.keeper.wait()


def _result(setup: Setup, run: RunFolder, trainer: Any, checkpoint: Path | None) -> TrainResult:
    state = trainer.state
    metrics = _last_metrics(state.log_history)
    if checkpoint:
        # transformers divides what this process lost and took by the steps of the whole run.
        metrics = {key: value for key, value in metrics.items() if not key.startswith("train_")}
    if not checkpoint:  # of a run that went on only its end was seen
        run.update(actual=measure_run(run.read_metrics(), setup.choice.device))
    run.update(status="done", step=state.global_step, num_steps=state.max_steps, metrics=metrics)
    resumed_from = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else None
    return TrainResult(trainer.model, state.global_step, state.max_steps, metrics, resumed_from)


def _say_why_unfinished(run: RunFolder, state: Any, stop: Any, dead: Any) -> None:
    if state.max_steps and state.global_step >= state.max_steps:
        return
    if stop.received:
        raise stopped_by_signal(run, stop)
    if dead.reason:
        raise stopped(run, dead.reason, stopped_by="no signal", advice=dead.advice)


def _judge(setup: Setup, run: RunFolder, listener: Listener) -> Judge | None:
    if not setup.rewards:
        return None
    weights = [reward.weight for reward in setup.config.rewards]
    return Judge(setup.rewards, weights, setup.config.num_generations or 1, run, listener)


def _build_trainer(
    setup: Setup, run: RunFolder, listener: Listener, model: Any, guards: list[Any], judge: Judge | None
) -> Any:
    from transformers import EarlyStoppingCallback

    from tunesmith.train.callbacks import ProgressCallback
    from tunesmith.train.checkpoints import keeps_whole

    config, method, data = setup.config, setup.method, setup.data
    callbacks: list[Any] = [*guards, ProgressCallback(run, listener, method.headline)]
    if config.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience))
    callbacks += tracker_callbacks(
        wanted_trackers(config),
        lambda message: listener(Notice(message)),
        goes_on=run.record.get("resumed_from") is not None,
    )
    config_class, trainer_class = method.classes()
    arguments = trl_arguments(method, config, setup.choice, data.report, run)
    # Of several processes each looks at every step which weights were read, unless told that all are.
    arguments.setdefault("ddp_find_unused_parameters", _has_experts(model))
    parts = method.parts(config, setup.choice)
    if judge:
        parts["reward_funcs"] = judge.functions
    try:
        return keeps_whole(trainer_class)(
            model=model,
            args=build_trl_config(config_class, arguments),
            train_dataset=method.rows(data.train, config),
            eval_dataset=None if data.eval is None else method.rows(data.eval, config),
            processing_class=setup.tokenizer,
            peft_config=lora_config(config, method.task_type()),
            callbacks=callbacks,
            **parts,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise refused_by_trl(error, arguments) from error


def _has_experts(model: Any) -> bool:
    """Whether a step may leave weights unread: those of experts that no token was sent to."""
    text = model.config.get_text_config()
    return any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


@contextlib.contextmanager
def _sped_up(setup: Setup, trainer: Any, notify: Callable[[str], None]) -> Iterator[None]:
    """Inside, the trainer does the same work in less time."""
    from tunesmith.train.batches import bring_aside
    from tunesmith.train.captured import Captured
    from tunesmith.train.lora_linear import merge_products

    choice, models = setup.choice, read_models(trainer)
    if choice.device == "cuda":
        bring_aside(trainer)
    merge_products(trainer.model)
    fuses = choice.attention == "varlen" and setup.config.trl.get("use_liger_kernel") is not False
    with kernels_fused(models if fuses else [], notify), contextlib.ExitStack() as stack:
        stack.enter_context(walk_less(trainer.model))
        setup.method.speed_up(trainer, choice, notify)
        if choice.may_capture and setup.num_steps >= WORTH_CAPTURING:
            plan = setup.plan
            room = Room.of(plan.memory, plan.workload, plan.configuration, plan.free_gib)
            for model in models:
                stack.callback(Captured(model.base_model, notify, room).release)
        yield


def _keep_trained_weights_exact(model: Any) -> None:
    """What is trained in fp32: in 16 bit most steps are too small to count.

    peft sees to adapters, but not to a new head beside them; and TRL turns those on a 4-bit base to bf16.
    """
    for weight in model.parameters():
        if weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.float()


def save_model(model: Any, tokenizer: Any, path: Path) -> None:
    """Write the model or adapter and its tokenizer to `path`, whole or not at all."""
    save_whole(path, model.save_pretrained, tokenizer.save_pretrained)


def _last_metrics(history: list[dict[str, float]]) -> dict[str, float]:
    """The last value of every metric that was logged."""
    last: dict[str, float] = {}
    for row in history:  # TRL logs None and NaN for what no answer of a step had
        told = {key: value for key, value in row.items() if value is not None and value == value}
        last |= {key: value for key, value in told.items() if key not in ("step", "epoch")}
    return last
