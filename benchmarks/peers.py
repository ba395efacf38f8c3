"""Tokens a second of other fine-tuning tools on one GPU, on the model and the rows of speed.py.

    python benchmarks/peers.py --peer unsloth --shape 0.5b-lora [--ways notebook,fast] [--toy]

LoRA of rank 16 and alpha 32 on all linear layers, rows of at most 1,024 tokens, the tokens of 16 rows a step.
One peer a process, each with the libraries that it asks for. A row goes to results/peers.jsonl as soon as it
is measured; a way that fails leaves a row with the error; rows that are there for this device are skipped.
Counted are tokens that are no padding; a step ends when the device has done all that it was given.

Unsloth (16-bit LoRA; batches have no padding there by default):
- notebook: as in its notebooks: batch 2, its own checkpointing, 8-bit AdamW. fast: 16 rows in one batch, no
  checkpointing, fused AdamW. padded: as fast, padded batches and its compiled blocks. packed: as fast, rows
  packed.

LLaMA-Factory (padded batches; attention of torch, since there is no flash-attn here):
- example: as in its examples: batch 1, checkpointing. fast: 16 rows in one batch, Liger kernels, no
  checkpointing. packed: as fast with `neat_packing`.

torchtune (its recipe lora_finetune_single_device; weights, adapters and AdamW's state in bf16):
- config: as in its qwen2_5 configuration: batch 2, nothing compiled. packed: packs of 1,024 tokens and
  compiling, which its documentation names as faster. packed4k: the same with packs of 4,096.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib.util
import json
import os
import statistics
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from record import append, conditions, rows_of
from speed import ROWS_A_STEP, SIZES, fresh_model, measured, write_model, write_rows
from speed import Clock as Ends

PEERS = {
    "unsloth": ("notebook", "fast", "padded", "packed"),
    "llamafactory": ("example", "fast", "packed"),
    "torchtune": ("config", "packed", "packed4k"),
}
LIBRARIES = (
    "unsloth", "unsloth_zoo", "llamafactory", "torchtune", "torchao", "bitsandbytes", "liger-kernel",
    "datasets", "accelerate", "triton",
)  # fmt: skip
LENGTH, RANK, ALPHA = 1024, 16, 32
# Steps left out before the medians, and those in them: compiling takes the first ones.
NUM_FIRST, NUM_MEASURED = 8, 14
NUM_STEPS = 1 + NUM_FIRST + NUM_MEASURED
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclasses.dataclass(frozen=True)
class Job:
    """What one row measures."""

    peer: str
    way: str
    size: str
    device: str
    folder: Path
    rows: Path

    def texts(self) -> list[str]:
        """The rows' texts."""
        return [json.loads(line)["text"] for line in self.rows.read_text().splitlines()]

    def num_packs(self, length: int) -> int:
        """How many packs of that length hold the tokens of 16 rows, about."""
        mean = statistics.mean(len(text.split()) + 1 for text in self.texts())
        return max(1, round(ROWS_A_STEP * mean / length))

    @property
    def num_padded(self) -> int:
        """Rows of a padded batch that fit in 80 GB without checkpointing."""
        return ROWS_A_STEP if self.size in ("0.5b", "toy") else ROWS_A_STEP // 2


class Clock:
    """Ends of steps, and the tokens until each; padding has id 0, and no word has."""

    def __init__(self, device: str) -> None:
        self._ends = Ends(device)
        self._tokens: list[Any] = []
        self.total: Any = 0
        self.shapes: list[tuple[int, ...]] = []
        self.adapter = ""

    def count(self, ids: Any) -> None:
        """A micro batch is about to be trained."""
        self.total = self.total + (ids != 0).sum()
        self.shapes.append(tuple(ids.shape))

    def tick(self) -> None:
        """A step is over."""
        self._ends.tick()
        self._tokens.append(self.total)

    def found(self) -> dict[str, Any]:
        """The medians, the shape of the last micro batch, and the adapter's data type."""
        found = measured(self._ends.steps(), NUM_FIRST)
        a_step = int(self._tokens[-1] - self._tokens[NUM_FIRST - 1]) / found["num_steps"]
        rates = {"tokens_a_step": round(a_step), "tokens_per_s": round(a_step / found["step_s"])}
        return found | rates | {"last_batch": self.shapes[-1], "adapter": self.adapter}


def count_batches(trainer: Any, clock: Clock) -> None:
    """Let the clock see each micro batch of a trainer of transformers, or of its class."""
    inner = trainer.training_step
    bound = not isinstance(trainer, type)

    def counted(*args: Any, **kwargs: Any) -> Any:
        inputs = kwargs.get("inputs", args[1 if bound else 2] if len(args) > (1 if bound else 2) else None)
        clock.count(inputs["input_ids"])
        return inner(*args, **kwargs)

    trainer.training_step = counted


def ticking(clock: Clock) -> Any:
    """A callback of transformers that ends the clock's steps."""
    from transformers import TrainerCallback

    class Ticking(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            parts = kwargs["model"].named_parameters()
            clock.adapter = str(next(part.dtype for name, part in parts if "lora_A" in name))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.tick()

    return Ticking()


def save_model(job: Job, dtype: Any) -> None:
    """The random weights, into the model's folder; nothing of them stays on the device."""
    import torch

    fresh_model(job.folder, dtype, job.device).save_pretrained(job.folder)
    gc.collect()
    if job.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def run_unsloth(job: Job, clock: Clock) -> dict[str, Any]:
    """Unsloth's model in TRL's trainer, as its notebooks have it."""
    os.environ["UNSLOTH_PADDING_CHOICE"] = "padded" if job.way == "padded" else "auto"
    from unsloth import FastLanguageModel  # isort: skip  # before the libraries that it changes
    import torch
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    save_model(job, torch.bfloat16)
    notebook, packed = job.way == "notebook", job.way == "packed"
    checkpointing = "unsloth" if notebook else False
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=str(job.folder), max_seq_length=LENGTH, dtype=None, load_in_4bit=False,
        use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, lora_dropout=0, bias="none", target_modules=LINEAR,
        use_gradient_checkpointing=checkpointing, random_state=3407,
    )  # fmt: skip
    batches = {"notebook": 2, "padded": job.num_padded, "packed": job.num_packs(LENGTH)}
    batch = batches.get(job.way, ROWS_A_STEP)
    trainer = SFTTrainer(
        model=model, processing_class=tokenizer,
        train_dataset=load_dataset("json", data_files=str(job.rows), split="train"),
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(), max_steps=NUM_STEPS, per_device_train_batch_size=batch,
            gradient_accumulation_steps=1 if packed else ROWS_A_STEP // batch, dataset_text_field="text",
            max_length=LENGTH, warmup_steps=5, learning_rate=2e-4, logging_steps=1,
            weight_decay=0.001, lr_scheduler_type="linear", seed=3407, report_to="none", packing=packed,
            optim="adamw_8bit" if notebook else "adamw_torch_fused", save_strategy="no", disable_tqdm=True,
        ),
        callbacks=[ticking(clock)],
    )  # fmt: skip
    count_batches(trainer, clock)
    trainer.train()
    return {"batch": batch, "trainer": type(trainer).__name__,
            "padding_free": bool(getattr(trainer.args, "padding_free", False))}  # fmt: skip


def write_alpaca(job: Job) -> Path:
    """The rows as instruction and output, and the file by which LLaMA-Factory finds them."""
    where = Path(tempfile.mkdtemp())
    rows = []
    for text in job.texts():
        first, rest = text.split(" ", 1)
        rows.append({"instruction": first, "input": "", "output": f"{rest} <eos>"})
    (where / "rows.json").write_text(json.dumps(rows))
    (where / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    return where


def run_llamafactory(job: Job, clock: Clock) -> dict[str, Any]:
    """LLaMA-Factory's own run of a configuration."""
    import torch
    from llamafactory.train.tuner import run_exp
    from transformers import Trainer

    cpu = job.device == "cpu"
    save_model(job, torch.float32 if cpu else torch.bfloat16)
    batch = {"example": 1, "fast": job.num_padded, "packed": job.num_packs(LENGTH)}[job.way]
    accumulated = 1 if job.way == "packed" else ROWS_A_STEP // batch
    settings = {
        "model_name_or_path": str(job.folder), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_rank": RANK, "lora_alpha": ALPHA, "lora_target": "all", "dataset": "rows",
        "dataset_dir": str(write_alpaca(job)), "template": "empty", "cutoff_len": LENGTH,
        "train_on_prompt": True, "output_dir": tempfile.mkdtemp(), "overwrite_cache": True,
        "logging_steps": 10, "save_strategy": "no", "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulated, "learning_rate": 1e-4,
        "max_steps": NUM_STEPS, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": not cpu,
        "use_cpu": cpu, "report_to": "none", "dataloader_num_workers": 4, "disable_tqdm": True,
        "preprocessing_num_workers": 4,
    }  # fmt: skip
    if job.way != "example":
        settings |= {"disable_gradient_checkpointing": True, "enable_liger_kernel": not cpu}
    if job.way == "packed":
        settings["neat_packing"] = True
    inner = Trainer.training_step
    count_batches(Trainer, clock)
    try:
        run_exp(settings, callbacks=[ticking(clock)])
    finally:
        Trainer.training_step = inner
    return {"batch": batch}


class Words:
    """The tokenizer of the model's folder, with the names that torchtune calls."""

    pad_id = 0

    def __init__(self, path: str, max_seq_len: int) -> None:
        from tokenizers import Tokenizer

        self.max_seq_len = max_seq_len
        self.inner = Tokenizer.from_file(path)

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Ids of words; the model has no token for beginnings."""
        return self.inner.encode(text).ids + [1] * add_eos


def torchtune_settings(job: Job) -> dict[str, Any]:
    """Its qwen2_5/0.5B_lora_single_device with the size, the rows and the LoRA of the job."""
    hidden, wide, layers, heads, key_heads, vocab, tied = SIZES[job.size]
    packed = job.way != "config"
    length = 4096 if job.way == "packed4k" else LENGTH
    where = tempfile.mkdtemp()
    return {
        "output_dir": where,
        "model": {
            "_component_": "torchtune.models.qwen2.lora_qwen2", "vocab_size": vocab, "num_layers": layers,
            "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"], "apply_lora_to_mlp": True,
            "num_heads": heads, "num_kv_heads": key_heads, "embed_dim": hidden, "intermediate_dim": wide,
            "max_seq_len": 32_768, "norm_eps": 1e-6, "tie_word_embeddings": tied, "lora_rank": RANK,
            "lora_alpha": ALPHA, "lora_dropout": 0.0,
        },
        "tokenizer": {"_component_": "peers.Words", "path": str(job.folder / "tokenizer.json"),
                      "max_seq_len": length},
        "checkpointer": {"model_type": "QWEN2"},
        "resume_from_checkpoint": False,
        "dataset": {
            "_component_": "torchtune.datasets.text_completion_dataset", "source": "json", "column": "text",
            "data_files": str(job.rows), "split": "train", "packed": packed, "split_across_pack": False,
        },
        "seed": 0, "shuffle": True, "epochs": 1, "max_steps_per_epoch": NUM_STEPS,
        "batch_size": job.num_packs(length) if packed else 2,
        "gradient_accumulation_steps": 1 if packed else ROWS_A_STEP // 2,
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "weight_decay": 0.01, "lr": 2e-3},
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": 100,
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "device": job.device, "enable_activation_checkpointing": False,
        "enable_activation_offloading": False, "dtype": "fp32" if job.device == "cpu" else "bf16",
        "clip_grad_norm": None, "compile": packed,
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": where},
        "log_every_n_steps": 1, "log_peak_memory_stats": False,
    }  # fmt: skip


def torchtune_recipe(clock: Clock) -> type:
    """Its recipe with random weights, nothing saved, and steps that the clock sees."""
    import torchtune
    from torchtune import config, training

    path = Path(torchtune.__file__).parents[1] / "recipes" / "lora_finetune_single_device.py"
    spec = importlib.util.spec_from_file_location("lora_finetune_single_device", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Recipe(module.LoRAFinetuneRecipeSingleDevice):  # type: ignore[name-defined, misc]
        def setup(self, cfg: Any) -> None:
            self.shape = cfg.model
            super().setup(cfg)
            self._optimizer.register_step_post_hook(lambda *_: clock.tick())

        def load_checkpoint(self, cfg_checkpointer: Any) -> dict[str, Any]:
            with training.set_default_dtype(self._dtype), self._device:
                state = config.instantiate(self.shape).state_dict()
            return {training.MODEL_KEY: {name: value for name, value in state.items() if "lora" not in name}}

        def save_checkpoint(self, epoch: int) -> None:
            pass

        def _loss_step(self, batch: dict[str, Any]) -> Any:
            clock.count(batch["tokens"])
            return super()._loss_step(batch)

    return Recipe


def run_torchtune(job: Job, clock: Clock) -> dict[str, Any]:
    """torchtune's recipe for LoRA on one GPU."""
    import torch
    from omegaconf import OmegaConf

    settings = OmegaConf.create(torchtune_settings(job))
    recipe = torchtune_recipe(clock)(settings)
    recipe.setup(settings)
    clock.adapter = str(next(iter(recipe.adapter_params.values())).dtype)
    if job.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    recipe.train()
    recipe.cleanup()
    return {"batch": settings.batch_size, "compiled": settings.compile}


def run(peer: str, way: str, shape: str, device: str, toy: bool) -> dict[str, Any]:
    """One row."""
    import torch

    where = Path(tempfile.mkdtemp())
    size = "toy" if toy else shape.split("-")[0]
    folder = write_model(where / "model", size)
    # Short rows fill few packs, so there are more of them.
    number, scale = (ROWS_A_STEP * 256, 0.05) if toy else (ROWS_A_STEP * 32, 1.0)
    rows = write_rows(where / "rows.jsonl", "sft", number, scale)
    job = Job(peer, way, size, device, folder, rows)
    clock = Clock(device)
    trained = {"unsloth": run_unsloth, "llamafactory": run_llamafactory, "torchtune": run_torchtune}[peer]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.redirect_stdout(None):
        found = trained(job, clock) | clock.found()
    if device == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return found


def versions() -> dict[str, str]:
    """Versions of the peers' libraries, those that are there."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=list(PEERS), required=True)
    parser.add_argument("--shape", default="0.5b-lora", help="SIZE-lora")
    parser.add_argument("--ways", default="", help="all of the peer if left out")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    if options.peer == "unsloth":  # it wants to come before torch and transformers
        import unsloth  # noqa: F401
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    rows = [row for row in rows_of("peers") if "failed" not in row]
    done = {(row["peer"], row["way"], row["shape"], row["device"]) for row in rows}
    for way in options.ways.split(",") if options.ways else PEERS[options.peer]:
        if (options.peer, way, options.shape, name) in done:
            continue
        started = time.monotonic()
        try:
            found = run(options.peer, way, options.shape, device, options.toy)
        except (Exception, SystemExit) as error:  # one way that fails leaves the others to be measured
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"[:600]}
        took = round(time.monotonic() - started, 1)
        key = {"peer": options.peer, "way": way, "shape": options.shape, "device": name, "toy": options.toy}
        row = key | found | {"took_s": took} | conditions()
        row["versions"] |= versions()
        append("peers", row)


if __name__ == "__main__":
    main()
