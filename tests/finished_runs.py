"""Runs that are done, as their folders look: what a real training wrote, in fewer figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.config.loading import load_config
from tunesmith.runs.folder import RunFolder

HUB = {"model": "Qwen/Qwen2.5-0.5B-Instruct", "dataset": "trl-lib/Capybara"}
DATA = {
    "formats": {}, "num_rows": 9_500, "num_eval_rows": 500, "num_tokens": 4_100_000,
    "num_loss_tokens": 2_900_000, "mean_length": 431.6, "longest": 2_311, "num_cut": 12, "num_dropped": 0,
    "num_left_out": 0, "mixture": {}, "fingerprint": "ab" * 32, "notes": [],
}  # fmt: skip
PLAN = {
    "memory_gib": {"low": 9.0, "expected": 10.5, "high": 12.0, "items": {"weights": 9.0, "context": 1.5}},
    "step_s": {"low": 0.8, "expected": 1.0, "high": 1.2},
    "duration_s": {"low": 3000.0, "expected": 3600.0, "high": 4500.0},
    "cost_usd": {"low": 2.08, "expected": 2.5, "high": 3.13},
    "price_usd_per_hour": 2.5,
    "choice": {"device": "cuda"},
}
MACHINE = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3", "num_devices": 1}
ROWS = [
    {"step": 10, "loss": 2.0, "epoch": 0.05},
    {"step": 100, "loss": 1.25, "epoch": 0.5},
    {"step": 100, "eval_loss": 1.375, "epoch": 0.5},
    {"step": 200, "loss": 1.125, "epoch": 1.0},
    {"step": 200, "eval_loss": 1.25, "epoch": 1.0},
]


def finished_run(
    path: Path,
    settings: dict[str, Any],
    *,
    rows: list[dict[str, Any]] | None = None,
    adapter: bool = True,
    **record: Any,
) -> RunFolder:
    """A run that is done, of RUN.yaml's `settings`; keys of run.json are replaced by those of `record`."""
    loaded = load_config(flags={"method": "sft", "test_size": 500, **settings}, environ={})
    config = loaded.config.model_dump(mode="json")
    sources = [config["dataset"]] if isinstance(config["dataset"], str) else config["dataset"]
    names = [each if isinstance(each, str) else each["path"] for each in sources]
    whole = {
        "method": config["method"],
        "config": config,
        "provenance": loaded.provenance,
        "data": DATA | {"formats": dict.fromkeys(names, "messages")},
        "model": {"num_params": 494_000_000, "num_trainable_params": 8_800_000},
        "machine": MACHINE,
        "choice": {"device": "cuda", "precision": "bf16", "per_device_train_batch_size": 8},
        "plan": PLAN,
        "actual": {"duration_s": 3300.0, "step_s": 0.9, "peak_memory_gib": 8.75},
        "base": {"model": config["model"], "fingerprint": f"commit:{'7' * 40}"},
        "num_steps": 200,
        "step": 200,
    }
    run = RunFolder.create(path, whole | record)
    for row in ROWS if rows is None else rows:
        run.append_metrics(row)
    run.model_path.mkdir()
    name = "adapter_config.json" if adapter else "config.json"
    (run.model_path / name).write_text(json.dumps({"base_model_name_or_path": config["model"]}))
    (run.model_path / "chat_template.jinja").write_text("{{ messages }}")
    run.update(status="done")
    return run
