"""The trainers by name."""

from __future__ import annotations

from tunesmith.train.cpo import Cpo
from tunesmith.train.distillation import Distillation
from tunesmith.train.dpo import Dpo
from tunesmith.train.grpo import Grpo
from tunesmith.train.kto import Kto
from tunesmith.train.method_trainer import MethodTrainer
from tunesmith.train.orpo import Orpo
from tunesmith.train.reward import Reward
from tunesmith.train.rloo import Rloo
from tunesmith.train.sft import Sft

TRAINERS: dict[str, MethodTrainer] = {
    "sft": Sft(),
    "dpo": Dpo(),
    "kto": Kto(),
    "orpo": Orpo(),
    "cpo": Cpo(),
    "reward": Reward(),
    "grpo": Grpo(),
    "rloo": Rloo(),
    "distillation": Distillation(),
}
