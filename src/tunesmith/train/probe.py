"""A few real steps of the real configuration on this machine, from which the others are predicted."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from tunesmith.errors import RunStopped
from tunesmith.plan.duration import PROBE_STEPS, PROBE_STEPS_CAPTURED, Probe, probed_rows
from tunesmith.runs.folder import RunFolder
from tunesmith.train.events import Listener
from tunesmith.train.setup import Setup
from tunesmith.train.training import train


def probe_steps(setup: Setup, listener: Listener) -> Probe:
    """What steps take here; what they write is thrown away.

    Raises:
        TunesmithError: as in training.
    """
    captured = setup.plan.configuration.captured
    num_steps = PROBE_STEPS_CAPTURED if captured else PROBE_STEPS
    own = setup.config.trl | {"report_to": "none"}
    changes = {
        "max_steps": num_steps, "logging_steps": 1, "save_steps": float(10 * num_steps), "eval_steps": None,
        "early_stopping_patience": None, "load_best_model_at_end": False, "trl": own,
        "test_size": None, "dataset_test_split": None, "eval_dataset": None, "max_steps_without_signal": None,
        "max_minutes": None,
    }  # fmt: skip
    config = setup.config.model_copy(update=changes)
    needed = min(len(setup.data.train), num_steps * config.global_batch_size)
    data = dataclasses.replace(setup.data, train=setup.data.train.select(range(needed)), eval=None)
    with tempfile.TemporaryDirectory(prefix="tunesmith-probe-") as folder:
        run = RunFolder.create(Path(folder) / "run", setup.record())
        try:
            train(dataclasses.replace(setup, config=config, data=data), run, listener, keep=False)
        except RunStopped as stopped:
            raise type(stopped)(
                "the probe was stopped; nothing was kept", where="--probe", fix="tunesmith plan --probe again"
            ) from None
        tokens = setup.plan.workload.lengths.mean * config.global_batch_size
        return probed_rows(run.read_metrics(), tokens, captured=captured)
