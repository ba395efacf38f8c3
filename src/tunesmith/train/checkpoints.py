"""Checkpoints of a training: the whole state, kept beside the steps, from which it goes on to the last bit.

transformers writes straight into the final folder and pickles what it writes; TRL keeps neither the order of
GRPO's prompts nor the answers that are still to be learned from. The trainer that `keeps_whole` makes writes
and reads all of it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tunesmith.errors import RunFolderError
from tunesmith.train.finite import NotFinite
from tunesmith.train.guards import FiniteGuard
from tunesmith.train.keeper import Keeper
from tunesmith.train.processes import gathered, rank, world_size
from tunesmith.train.randomness import randomness, set_randomness
from tunesmith.train.state import REST, TENSORS, Packed, read_state
from tunesmith.train.stopping import EvaluationCut, StopCallback

# What TRL's trainers hold between steps beside model, optimizer and transformers' own state.
_BETWEEN_STEPS = (
    "_step",
    "_buffered_inputs",
    "_total_train_tokens",
    "entropy_coef",
    "_last_world_entropy",
    "_owes_evaluation",
)


def keeps_whole(trainer_class: type) -> type:
    """`trainer_class` whose checkpoints are whole; `watched` has to be called before it trains."""
    return type(trainer_class.__name__, (_Whole, trainer_class), {})


def watched(trainer: Any, keeper: Keeper, stop: StopCallback, finite: FiniteGuard) -> Any:
    """`trainer`, which keeps its checkpoints with `keeper`, and is stopped and judged by the others."""
    trainer.keeper, trainer.stop, trainer.finite = keeper, stop, finite
    return trainer


class _Whole:
    """In front of a transformers trainer: its checkpoints written and read whole, its steps watched."""

    keeper: Keeper
    stop: StopCallback
    finite: FiniteGuard
    _state_read: dict[str, Any] | None = None
    # What the last whole step left, beside weights and optimizer, which change at its end only.
    _settled: dict[str, Any] | None = None
    # An evaluation was broken off: the run goes on with it.
    _owes_evaluation = False
    _made_room = False

    def save_last_step(self: Any) -> None:
        """Keep the last whole step, though the one after it may have begun."""
        settled = self._settled
        if settled and settled["step"] == self.state.global_step and not self.stop.updates:
            self.state.num_input_tokens_seen = settled["num_input_tokens_seen"]
            self._keep(settled)
        self.keeper.wait()

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.finite.see("loss", loss)
        return loss

    def _clip_grad_norm(self: Any, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        # With a scaler a step whose gradients overflow is left out, and the scale lowered: that is no fault.
        if norm is not None and getattr(self.accelerator, "scaler", None) is None:
            self.finite.see("gradients", norm)
        return norm

    def _maybe_log_save_evaluate(self: Any, *args: Any, **kwargs: Any) -> None:
        if not self._made_room and not rank():  # by now the optimizer has all that it will have
            self._made_room = True
            state = Packed(_state_of(self)).tensors
            self.keeper.make_room([*saved_weights(self.model).values(), *state.values()])
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]
        # Of several processes none breaks a step off: the others would wait for it.
        self._settled = _moment(self) if world_size() == 1 else None

    def _evaluate(self: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        before = randomness()
        try:
            with self.stop.evaluating():
                metrics = super()._evaluate(*args, **kwargs)  # type: ignore[misc]
        except EvaluationCut:
            set_randomness(before)
            self._owes_evaluation = True
            self.control.should_save = self.control.should_training_stop = True
            return {}
        self._owes_evaluation = False
        return metrics

    def _determine_best_metric(self: Any, metrics: dict[str, float], trial: Any) -> bool:
        if self._owes_evaluation:
            return False
        return super()._determine_best_metric(metrics, trial)  # type: ignore[misc]

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        self._keep(_moment(self))

    def _keep(self: Any, moment: dict[str, Any]) -> None:
        step, best = self.state.global_step, self.state.best_global_step
        self.store_flos()  # a sum over all processes
        if rank() or self.keeper.has(step):
            return
        if best:
            self.state.best_model_checkpoint = str(self.keeper.folder / f"checkpoint-{best}")
        self._tell_callbacks_state()
        packed = Packed(_state_of(self) | moment)
        weights, packed.tensors = self.keeper.copied(saved_weights(self.model), packed.tensors)
        model, tokenizer = self.model, self.processing_class
        state, arguments = _as_json(self.state), self.args.to_json_string()

        def write(folder: Path) -> None:
            refuse_not_finite(weights, step)
            model.save_pretrained(folder, state_dict=weights)
            tokenizer.save_pretrained(folder)
            packed.write(folder)
            (folder / "trainer_state.json").write_text(state, encoding="utf-8")
            (folder / "training_args.json").write_text(arguments, encoding="utf-8")
            _refuse_incomplete(folder)

        num_bytes = packed.num_bytes + sum(each.numel() * each.element_size() for each in weights.values())
        self.keeper.keep(step, num_bytes, best, write)

    def _tell_callbacks_state(self: Any) -> None:
        from transformers.trainer_callback import ExportableState

        for each in [*self.callback_handler.callbacks, self.control]:
            if isinstance(each, ExportableState):
                self.state.stateful_callbacks[type(each).__name__] = each.state()

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        best = self.keeper.folder / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():  # the run may have come from another machine, where it had another path
            self.state.best_model_checkpoint = str(best)
        state = self._state_read = read_state(Path(checkpoint))
        _set_state(self, state, Path(checkpoint))

    def _load_scaler(self: Any, checkpoint: str | None) -> None:
        """It is part of the state that is read with the optimizer's."""

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state, self._state_read = self._state_read or read_state(Path(checkpoint)), None
        set_randomness(state["randomness"][rank()])
        if state["between_steps"]["_owes_evaluation"]:
            metrics = self._evaluate(None, None)
            self._determine_best_metric(metrics, None)

    def _load_best_model(self: Any) -> None:
        self.keeper.wait()
        gathered(None)  # the others load it once the first process has written it
        super()._load_best_model()  # type: ignore[misc]

    def _get_train_sampler(self: Any, *args: Any, **kwargs: Any) -> Any:
        from tunesmith.train.sampling import EpochSampler

        return EpochSampler.around(super()._get_train_sampler(*args, **kwargs))  # type: ignore[misc]


def saved_weights(model: Any) -> dict[str, Any]:
    """The weights that saving `model` writes, by name; shared ones are one tensor.

    Of a model with an adapter these are the trained ones.
    """
    has_adapter = hasattr(model, "peft_config")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    known: dict[Any, Any] = {}
    weights = {}
    for name, weight in model.state_dict().items():
        if has_adapter and name not in trained:
            continue
        place = (weight.data_ptr(), weight.shape, weight.stride())
        weights[name] = known.setdefault(place, weight) if weight.numel() else weight
    return weights


def refuse_not_finite(weights: dict[str, Any], step: int) -> None:
    """Make sure that no weight is NaN or infinite.

    Raises:
        NotFinite: one is.
    """
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise NotFinite(step, f"the weight {name}")


def _refuse_incomplete(folder: Path) -> None:
    """Make sure that no library kept a failed write to itself."""
    missing = [name for name in (TENSORS, REST, "trainer_state.json") if not (folder / name).is_file()]
    if missing or not [each for each in folder.glob("*.safetensors") if each.name != TENSORS]:
        raise OSError(f"{', '.join(missing) or 'the weights'} couldn't be written to {folder}")


def _state_of(trainer: Any) -> dict[str, Any]:
    """What changes at the end of a step only."""
    scaler = getattr(trainer.accelerator, "scaler", None)
    return {
        "world_size": world_size(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def _moment(trainer: Any) -> dict[str, Any]:
    """What changes within a step as well."""
    between = {name: getattr(trainer, name) for name in _BETWEEN_STEPS if hasattr(trainer, name)}
    if between.get("_buffered_inputs") is not None and trainer._step % _steps_of_answers(trainer) == 0:
        between["_buffered_inputs"] = None  # all were learned from: the next step samples new ones
    return {
        "step": trainer.state.global_step,
        "num_input_tokens_seen": trainer.state.num_input_tokens_seen,
        "between_steps": between,
        "randomness": gathered(randomness()),
    }


def _steps_of_answers(trainer: Any) -> int:
    """For how many micro-batches the answers that were sampled at once are learned from."""
    steps = getattr(trainer.args, "steps_per_generation", trainer.args.gradient_accumulation_steps)
    return int(steps * getattr(trainer, "num_iterations", 1))


def _set_state(trainer: Any, state: dict[str, Any], checkpoint: Path) -> None:
    missing = {"world_size", "optimizer", "scheduler", "scaler", "between_steps", "randomness"} - set(state)
    if missing or state["world_size"] != world_size():
        told = (
            f"holds no {', '.join(sorted(missing))}"
            if missing
            else (f"was written by {state['world_size']} processes, and there are {world_size()} now")
        )
        raise RunFolderError(
            f"the checkpoint {checkpoint.name} {told}",
            where=str(checkpoint),
            fix="go on where the run began, or begin a new one with another --run-dir",
        )
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["scheduler"])
    if state["scaler"] is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    for name, value in state["between_steps"].items():
        setattr(trainer, name, _on(trainer.args.device, value))


def _on(device: Any, value: Any) -> Any:
    """`value` with its tensors on `device`."""
    if isinstance(value, dict):
        return {key: _on(device, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on(device, each) for each in value)
    return value.to(device) if hasattr(value, "to") else value


def _as_json(state: Any) -> str:
    return json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True) + "\n"
