"""What a run asks of a machine, in the planner's terms: from its configuration and its rows' lengths."""

from __future__ import annotations

import math
from typing import Literal, cast

from tunesmith.config.run_config import RunConfig
from tunesmith.plan.base import Base
from tunesmith.plan.choice import pinned_batch
from tunesmith.plan.optimizer import ADAMW_BYTES, optimizer_bytes
from tunesmith.plan.workload import Tuning, Workload
from tunesmith.train.method_trainer import MethodTrainer, RowCounts

# Ends of the names of modules around attention; every other linear layer is of the feed-forward part.
_OF_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "query_key_value", "out_proj")


def workload_of(
    method: MethodTrainer,
    config: RunConfig,
    base: Base,
    num_lora_params: int,
    rows: RowCounts,
    num_devices: int,
    num_teacher_params: int = 0,
) -> Workload:
    """The work of a run on `num_devices` devices."""
    lengths = method.row_lengths(config, rows)
    micro_batch = pinned_batch(config, num_devices) or config.global_batch_size // num_devices or 1
    num_steps = method.num_steps(config, rows.num_rows, micro_batch)
    per_epoch = max(1, math.ceil(rows.num_rows / config.global_batch_size))
    evaluations = _every(config.eval_steps, per_epoch, num_steps) if rows.num_eval_rows else 0
    saves = config.save_steps if config.save_steps is not None else config.eval_steps
    answers = config.max_completion_length or 0
    sampled = method.num_sampled(config)
    kept_bytes = optimizer_bytes(config.trl.get("optim"))
    return Workload(
        method=config.method,
        tuning=cast("Tuning", config.tuning),  # auto is settled before (train/tuning.py)
        lengths=lengths,
        global_batch_size=config.global_batch_size,
        num_steps=num_steps,
        num_lora_params=num_lora_params,
        lora_on=_lora_on(config.lora_target_modules),
        labelled_share=min(1.0, answers / lengths.mean) if sampled else rows.labelled_share,
        texts_per_row=method.texts_per_row,
        reference=method.reference(config, rows.num_rows, num_steps),
        whole_logits=method.whole_logits,
        smallest_micro_batch=method.smallest_micro_batch,
        num_generations=config.num_generations or 1,
        completion_length=answers if sampled else 0,
        num_sampled=sampled // num_devices,
        num_teacher_params=num_teacher_params,
        optimizer_bytes=ADAMW_BYTES if kept_bytes is None else kept_bytes,
        num_eval_rows=rows.num_eval_rows,
        mean_error=rows.mean_error,
        num_evaluations=evaluations,
        num_checkpoints=_every(saves, per_epoch, num_steps),
    )


def _every(steps: float | None, per_epoch: int, num_steps: int) -> int:
    """How often something is done that is due every so many steps, by share of the run, or every epoch."""
    if steps is None:
        every: float = per_epoch
    else:
        every = steps * num_steps if steps < 1 else steps
    return math.ceil(num_steps / max(1, every))


def _lora_on(targets: str | tuple[str, ...]) -> frozenset[Literal["attention", "mlp"]]:
    names = (targets,) if isinstance(targets, str) else targets
    if any(not name.isidentifier() for name in names):  # all-linear, or an expression
        return frozenset({"attention", "mlp"})
    parts: dict[bool, Literal["attention", "mlp"]] = {True: "attention", False: "mlp"}
    return frozenset(parts[name.endswith(_OF_ATTENTION)] for name in names)
