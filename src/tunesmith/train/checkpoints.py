"""Checkpoints of a training: the whole state, kept beside the steps, from which it goes on to the last bit.

transformers writes straight into the final folder and pickles what it writes; TRL keeps neither the order of
GRPO's prompts nor the answers that are still to be learned from. The trainer that `keeps_whole` makes writes
and reads all of it, through a `Keeper`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from tunesmith.errors import RunFolderError
from tunesmith.runs import checkpoints
from tunesmith.runs.folder import RunFolder
from tunesmith.train.processes import gathered, rank, world_size
from tunesmith.train.state import Packed, read_state

# What TRL's trainers hold between steps beside model, optimizer and transformers' own state.
_BETWEEN_STEPS = ("_step", "_buffered_inputs", "_total_train_tokens", "entropy_coef", "_last_world_entropy")


class Keeper:
    """Writes a run's checkpoints, one at a time, in a thread of its own."""

    def __init__(self, run: RunFolder, limit: int) -> None:
        self._run = run
        self._limit = limit
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._run.checkpoints_path

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is written; what it failed of is raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def check(self) -> None:
        """Raise what the last checkpoint failed of, where that is known by now."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def has(self, step: int) -> bool:
        """Whether the checkpoint of `step` is there, once the last one is written."""
        self.wait()
        return (self.folder / f"checkpoint-{step}").is_dir()

    def keep(self, step: int, num_bytes: int, best: int | None, write: Callable[[Path], None]) -> None:
        """Let `write` fill the checkpoint of `step`, and remove those that are too many then."""
        self.wait()
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if num_bytes > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

        def work() -> None:
            temporary = checkpoints.begin(self.folder, step)
            try:
                write(temporary)
                checkpoints.commit(temporary, step)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            checkpoints.rotate(self.folder, self._limit, [] if best is None else [best])

        self._writing = self._thread.submit(work)


def keeps_whole(trainer_class: type) -> type:
    """`trainer_class` whose checkpoints are whole; its `keeper` has to be set before it trains."""
    return type(trainer_class.__name__, (_Whole, trainer_class), {})


class _Whole:
    """In front of a transformers trainer: its checkpoints written and read by a `Keeper`."""

    keeper: Keeper
    _state_read: dict[str, Any] | None = None

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        step, best = self.state.global_step, self.state.best_global_step
        randomness = gathered(_randomness())
        if rank() or self.keeper.has(step):
            return
        self.store_flos()
        if best:
            self.state.best_model_checkpoint = str(self.keeper.folder / f"checkpoint-{best}")
        self._tell_callbacks_state()
        weights = held_weights(self.model)
        packed = Packed(_state_of(self) | {"randomness": randomness})
        model, tokenizer = self.model, self.processing_class
        state, arguments = _as_json(self.state), self.args.to_json_string()

        def write(folder: Path) -> None:
            model.save_pretrained(folder, state_dict=weights)
            tokenizer.save_pretrained(folder)
            packed.write(folder)
            (folder / "trainer_state.json").write_text(state, encoding="utf-8")
            (folder / "training_args.json").write_text(arguments, encoding="utf-8")

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
        state = self._state_read = read_state(Path(checkpoint))
        _set_state(self, state, Path(checkpoint))

    def _load_scaler(self: Any, checkpoint: str | None) -> None:
        """It is part of the state that is read with the optimizer's."""

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state, self._state_read = self._state_read or read_state(Path(checkpoint)), None
        _set_randomness(state["randomness"][rank()])

    def _load_best_model(self: Any) -> None:
        self.keeper.wait()
        gathered(None)  # the others load it once the first process has written it
        super()._load_best_model()  # type: ignore[misc]

    def _get_train_sampler(self: Any, *args: Any, **kwargs: Any) -> Any:
        from tunesmith.train.sampling import EpochSampler

        return EpochSampler.around(super()._get_train_sampler(*args, **kwargs))  # type: ignore[misc]


def held_weights(model: Any) -> dict[str, Any]:
    """Copies on the CPU of the weights that saving `model` writes, by name; shared ones stay shared.

    Of a model with an adapter these are the trained ones.
    """
    has_adapter = hasattr(model, "peft_config")
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    held: dict[Any, Any] = {}
    weights = {}
    for name, weight in model.state_dict().items():
        if has_adapter and name not in trained:
            continue
        place = (weight.data_ptr(), weight.shape, weight.stride())
        if place not in held or not weight.numel():
            held[place] = weight.detach().to("cpu", copy=True)
        weights[name] = held[place]
    return weights


def _state_of(trainer: Any) -> dict[str, Any]:
    scaler = getattr(trainer.accelerator, "scaler", None)
    between = {name: getattr(trainer, name) for name in _BETWEEN_STEPS if hasattr(trainer, name)}
    if between.get("_buffered_inputs") is not None:
        every = trainer.args.steps_per_generation * getattr(trainer, "num_iterations", 1)
        if trainer._step % every == 0:  # all were learned from: the next step samples new ones
            between["_buffered_inputs"] = None
    return {
        "world_size": world_size(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "between_steps": between,
    }


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


def _randomness() -> dict[str, Any]:
    """The state of every generator of this process."""
    import numpy as np
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_randomness(state: dict[str, Any]) -> None:
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _as_json(state: Any) -> str:
    return json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True) + "\n"
