"""What an export costs and keeps: time, memory, and answers, next to llama.cpp's own converter and quantiser.

    python benchmarks/export.py --run runs/demo-... [--only steps,whole,answers,merge] [--toy]

Rows go to results/export.jsonl, each as soon as it is measured; needs the extras train and gguf.

- steps: F16 and Q4_K_M of the same merged folder by `tunesmith export`'s own functions, in turn with
  convert_hf_to_gguf.py as it is started by hand and with a process that only calls llama_model_quantize.
- whole: the command `tunesmith export RUN --quantize F16,Q4_K_M`, and the largest process of it.
- answers: exact match on new held-out requests (the demo's generator, none of them seen in training) of the
  trained model in fp32 and of its files, each read by llama.cpp.
- merge: a LoRA of a model of Qwen2.5-1.5B's shape in bf16, merged in a process of its own, which as root and
  with control groups of version 1 may take 1.3 times one copy of the model and is killed beyond.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from record import append, conditions, wait_for_idle

REPEATS = 5
# Of the size of one copy of the model: what a merge, Python included, has to do with.
LIMIT = 1.3
QUANTISE = """
import ctypes, sys
from pathlib import Path
from tunesmith.export.binaries import library_folder
from tunesmith.export.llama_cpp import Library
Library(library_folder()).quantize(Path(sys.argv[1]), Path(sys.argv[2]), "Q4_K_M", 2)
"""
SHAPE = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
}  # fmt: skip
TOY_SHAPE = SHAPE | {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "vocab_size": 49_152,
}
MERGE = """
import json, re, sys
from pathlib import Path
from tunesmith.export.merge import merge
from tunesmith.export.trained import trained_elsewhere
import torch, transformers, peft

def most():  # of this program alone; ru_maxrss begins with what its parent held
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = most()
merge(trained_elsewhere(sys.argv[1], sys.argv[2]), Path(sys.argv[3]))
after = most()
print(json.dumps({"imports_kib": before, "peak_kib": after}))
"""


def timed(command: list[str], **more: Any) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, **more)
    return time.perf_counter() - began


def steps(run: Path, toy: bool) -> None:
    """Both ways in turn, on the same merged folder."""
    from tunesmith.export import converter
    from tunesmith.export.asking import quantize
    from tunesmith.export.merge import merge
    from tunesmith.export.trained import trained_by
    from tunesmith.runs.folder import RunFolder

    trained = trained_by(RunFolder.open(run))
    folder = converter.converter_folder()
    paths = os.pathsep.join([str(folder / "gguf-py"), str(folder)])
    environment = os.environ | {"PYTHONPATH": paths, "NO_LOCAL_GGUF": "1"}
    taken: dict[str, list[float]] = {
        name: [] for name in ("convert", "own_convert", "quantize", "own_quantize")
    }
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        merge(trained, place / "merged")
        f16, own = place / "ours.gguf", place / "own.gguf"
        script = [sys.executable, str(folder / "convert_hf_to_gguf.py"), str(place / "merged")]
        for number in range(2 if toy else REPEATS):
            (readable := place / f"readable{number}").mkdir()
            began = time.perf_counter()
            converter.readable_by_converter(place / "merged", trained.tokenizer, trained.base_path, readable)
            converter.convert(readable, f16, "F16", name="m")
            taken["convert"].append(time.perf_counter() - began)
            taken["own_convert"].append(
                timed([*script, "--outfile", str(own), "--outtype", "f16"], env=environment)
            )
            began = time.perf_counter()
            quantize(f16, place / "ours-q.gguf", "Q4_K_M", threads=2)
            taken["quantize"].append(time.perf_counter() - began)
            command = [sys.executable, "-c", QUANTISE, str(own), str(place / "own-q.gguf")]
            taken["own_quantize"].append(timed(command))
    medians = {f"{name}_s": round(statistics.median(each), 2) for name, each in taken.items()}
    both = medians["convert_s"] + medians["quantize_s"], medians["own_convert_s"] + medians["own_quantize_s"]
    append(
        "export",
        conditions() | {"what": "steps", **medians, "ratio": round(both[0] / both[1], 3), "runs": taken},
    )


def whole(run: Path, toy: bool) -> None:
    """The command as a user gives it."""
    wait_for_idle()
    row = conditions()
    with tempfile.TemporaryDirectory() as out:
        kinds = "F16,Q4_K_M"
        command = [
            sys.executable,
            "-m",
            "tunesmith",
            "export",
            str(run),
            "--quantize",
            kinds,
            "--out",
            out,
            "--json",
        ]
        began = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        files = json.loads(done.stdout)["files"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    told = [
        {
            key: each["checks"].get(key)
            for key in ("mean_divergence", "top1_agreement", "perplexity", "same_answers")
        }
        | {
            "quantization": each["quantization"],
            "size_bytes": each["size_bytes"],
            "verified": each["verified"],
        }
        for each in files
    ]
    append(
        "export",
        row | {"what": "whole", "seconds": round(seconds, 1), "peak_gib": round(peak, 2), "files": told},
    )


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's, 95 %."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return round(middle - half, 4), round(middle + half, 4)


def new_requests(per_tool: int) -> list[dict[str, Any]]:
    """Held-out rows beyond the demo's own: other draws of the same generator."""
    from tunesmith.demo import household

    return household.build(num_heldout=per_tool)[1]


def answers(run: Path, toy: bool) -> None:
    """The trained model and each file on the same requests."""
    from tunesmith.cli.app import run as command
    from tunesmith.export.asking import ask_llama_cpp
    from tunesmith.export.merge import load_adapted, load_base
    from tunesmith.export.reference import end_tokens, greedy
    from tunesmith.export.trained import trained_by
    from tunesmith.runs.folder import RunFolder

    trained = trained_by(RunFolder.open(run))
    tokenizer = trained.tokenizer
    rows = new_requests(2 if toy else 36)
    expected = [row["messages"][-1]["content"] for row in rows]
    prompts = [
        list(
            tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=False)
        )
        for row in rows
    ]
    model = load_adapted(load_base(trained.base_path, "float32"), trained.base_path, trained.adapter_path)
    ends = end_tokens(model.generation_config.eos_token_id, tokenizer)
    own = [tokenizer.decode(greedy(model, ids, ends), skip_special_tokens=True) for ids in prompts]
    del model

    def tell(name: str, found: list[str]) -> None:
        right = [answer.strip() == wanted for answer, wanted in zip(found, expected, strict=True)]
        share = sum(right) / len(right)
        same = sum(a == b for a, b in zip(found, own, strict=True))
        row = {"what": "answers", "file": name, "num_prompts": len(right), "exact_match": round(share, 4)}
        append(
            "export", conditions() | row | {"interval": interval(share, len(right)), "same_as_trained": same}
        )

    tell("trained model, fp32", own)
    kinds = ("F16", "Q8_0", "Q5_K_M", "Q4_K_M")
    with tempfile.TemporaryDirectory() as out:
        command(["export", str(run), "--quantize", ",".join(kinds), "--out", out, "--no-verify"])
        for kind in kinds:
            path = next(Path(out).glob(f"*-{kind}.gguf"))
            reply = ask_llama_cpp(
                {
                    "do": "measure", "model": str(path), "threads": 2, "texts": [], "rows": [],
                    "reference": "",
                    "num_tokens": 0, "prompts": prompts, "max_new_tokens": 65, "end_tokens": ends,
                    "adapter": None,
                }
            )  # fmt: skip
            tell(kind, [tokenizer.decode(each, skip_special_tokens=True) for each in reply["answers"]])


@contextmanager
def limited_to(limit: int) -> Iterator[Callable[[], None] | None]:
    """What a child calls to be killed beyond `limit` bytes, file pages included; None where it can't be."""
    group = Path(f"/sys/fs/cgroup/memory/benchmark-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")  # pages that others read don't count for the child
    except OSError:
        yield None
        return

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield enter
    finally:
        group.rmdir()


def merge(run: Path, toy: bool) -> None:
    """A model of 1.5B numbers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tunesmith.export.trained import trained_by
    from tunesmith.runs.folder import RunFolder

    tokenizer = trained_by(RunFolder.open(run)).tokenizer
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        model = Qwen2ForCausalLM(Qwen2Config(**(TOY_SHAPE if toy else SHAPE), dtype="bfloat16")).to(
            torch.bfloat16
        )
        model.save_pretrained(place / "base")
        tokenizer.save_pretrained(place / "base")
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(model, config).save_pretrained(place / "adapter")
        size = sum(path.stat().st_size for path in (place / "base").glob("*.safetensors"))
        del model
        row = conditions()
        began = time.perf_counter()
        command = [
            sys.executable,
            "-c",
            MERGE,
            str(place / "base"),
            str(place / "adapter"),
            str(place / "merged"),
        ]
        with limited_to(int(LIMIT * size)) as enter:
            done = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=enter)
        seconds = time.perf_counter() - began
    row["limit_share"] = LIMIT if enter else None
    told = json.loads(done.stdout.splitlines()[-1])
    row |= {"what": "merge", "seconds": round(seconds, 1), "copy_gib": round(size / 2**30, 3)}
    row["resident_gib"] = round(told["peak_kib"] / 2**20, 3)  # with file pages that the kernel takes back
    append("export", row)


PARTS = {"steps": steps, "whole": whole, "answers": answers, "merge": merge}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a run of `tunesmith demo`")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    for name in given.only.split(","):
        PARTS[name](given.run, given.toy)


if __name__ == "__main__":
    main()
