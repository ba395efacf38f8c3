"""How fast `tunesmith validate` reads and checks, and how much memory that takes.

    python benchmarks/validate_speed.py [--rows 1000000] [--large-rows 10000000] [--repeats 3] [--folder DIR]
        [--model FOLDER] [--peers PYTHON]

--model names a folder with a tokenizer, for the token statistics; --peers the Python of an environment with
the validators of others: pip install 'together[pyarrow]' datasets==5.2.0 pyyaml typer, then pip install
--no-deps tunekit.

Chat rows are made from ../shared/data/alpaca_en_demo.json, multiplied with variation (sentences of other
answers, numbers), mean row at least 600 bytes of text. Every measurement is a process of its own: the clock
runs from the first byte read to the last finding, imports aside; memory is the process's largest resident
set. Medians count. Rows go to results/validate_speed.jsonl as they are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from record import append, conditions, wait_for_idle

SOURCE = Path(__file__).parents[2] / "shared" / "data" / "alpaca_en_demo.json"
GROUPS = {
    "structure": ("structure",),
    "method": ("method",),
    "safety": ("safety",),
    "structure, method, safety": ("structure", "method", "safety"),
}
ROW_GROUP = 100_000
TOKEN_ROWS = 20_000
TRL_ROWS = 20_000
PEER_ROWS = 100_000


def chat_rows(number: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Conversations of a question and an answer, each of them different."""
    real = json.loads(SOURCE.read_text(encoding="utf-8"))
    rows = [row for row in real if 200 <= len(row["output"]) <= 1600]
    sentences = [
        part.strip() + "." for row in rows for part in row["output"].split(".") if 20 < len(part) < 200
    ]
    chosen = random.Random(seed)
    for index in range(number):
        row = chosen.choice(rows)
        question = f"{row['instruction']} {row['input']} (case {index})".strip()
        cut = row["output"][: chosen.randrange(100, 450)]
        more = " ".join(chosen.choices(sentences, k=chosen.randrange(1, 5)))
        yield {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"{cut} {more}"},
            ]
        }


def write_rows(path: Path, number: int) -> float:
    """Write `number` rows as Parquet or JSON lines; returns the mean bytes of text a row."""
    size = 0
    rows = chat_rows(number)
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                size += sum(len(message["content"].encode()) for message in row["messages"])
                file.write(json.dumps(row) + "\n")
        return size / number
    writer = None
    while batch := list(islice(rows, ROW_GROUP)):
        table = pa.Table.from_pylist(batch)
        size += sum(len(message["content"].encode()) for row in batch for message in row["messages"])
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return size / number


def check(path: str, groups: tuple[str, ...], *, duplicates: bool = False) -> dict[str, Any]:
    """Check all rows of a file, in this process."""
    from py3langid.langid import classify

    from tunesmith.config.run_config import DatasetSource
    from tunesmith.data.partial import Checks, check_batches
    from tunesmith.data.report import conclude
    from tunesmith.data.row_source import open_rows
    from tunesmith.data.validate import told_format

    classify("loads its model, which is no work on the data")
    rows = open_rows(DatasetSource(path=path))
    layout, _ = told_format(rows, "sft", {})
    assert layout is not None
    began = time.perf_counter()
    checks = Checks(frozenset(groups), duplicates=duplicates)
    part = check_batches(rows.batches(layout.root_columns), layout, "sft", checks)
    report = conclude(path, part)
    return _measured(began, report.num_rows) | {"counts": dict(report.log.counts)}


def leakage(path: str, held_out: str) -> dict[str, Any]:
    """Sign a file and compare other rows with it, in this process."""
    from tunesmith.config.run_config import DatasetSource
    from tunesmith.data.partial import Checks
    from tunesmith.data.validate import Request, validate

    began = time.perf_counter()
    request = Request(
        DatasetSource(path=path), "sft", checks=Checks(frozenset()), evaluation=DatasetSource(path=held_out)
    )
    report = validate(request)
    return _measured(began, report.num_rows) | {"counts": dict(report.log.counts)}


def tokens(path: str, model: str) -> dict[str, Any]:
    """Token statistics against rendering and `tokenizer(batch)` alone, in turn, on the same rows."""
    from transformers import AutoTokenizer

    from tunesmith.config.run_config import DatasetSource
    from tunesmith.data.checks.tokens import TokenChecker, TokenCounts
    from tunesmith.data.row_source import open_rows
    from tunesmith.data.tokens import Encoder, all_cores
    from tunesmith.data.validate import told_format

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = open_rows(DatasetSource(path=path, split=f"train[:{TOKEN_ROWS}]"))
    layout, _ = told_format(rows, "sft", {})
    assert layout is not None
    conversations = [row["messages"] for _, row in rows.rows() if isinstance(row, dict)]
    checker = TokenChecker(Encoder(tokenizer, layout.kind), layout, 1024)

    def alone() -> None:
        for start in range(0, len(conversations), 1000):
            part = conversations[start : start + 1000]
            tokenizer([tokenizer.apply_chat_template(each, tokenize=False) for each in part])

    def ours() -> None:
        for batch in rows.batches(layout.root_columns):
            list(checker.check(batch, set(), TokenCounts(1024)))

    times: dict[str, list[float]] = {"alone": [], "ours": []}
    with all_cores():
        for _ in range(5):
            for name, function in (("alone", alone), ("ours", ours)):
                began = time.perf_counter()
                function()
                times[name].append(round(time.perf_counter() - began, 3))
    ratio = statistics.median(times["ours"]) / statistics.median(times["alone"])
    return {"num_rows": len(conversations), "seconds": times, "ratio": round(ratio, 3)}


def trl_map(path: str) -> dict[str, Any]:
    """The loop over rows by which TRL's SFTTrainer converts from/value data."""
    import datasets
    from trl.data_utils import maybe_convert_to_chatml

    datasets.disable_progress_bars()
    dataset = datasets.load_dataset("parquet", data_files=path, split=f"train[:{TRL_ROWS}]")
    began = time.perf_counter()
    dataset.map(maybe_convert_to_chatml, load_from_cache_file=False)
    return _measured(began, len(dataset))


def together_check(path: str) -> dict[str, Any]:
    """together's `check_file`, in the environment that holds it."""
    from together.lib.utils.files import check_file  # type: ignore[import-not-found]

    began = time.perf_counter()
    report = check_file(Path(path))
    assert report["is_check_passed"], report
    return _measured(began, report["num_samples"])


def tunekit_prepare(path: str) -> dict[str, Any]:
    """What `tunekit validate` does before it loads a tokenizer, in the environment that holds it."""
    from tunekit.config import DataConfig  # type: ignore[import-not-found]
    from tunekit.data import prepare  # type: ignore[import-not-found]

    began = time.perf_counter()
    made = prepare(DataConfig(path=path, eval_fraction=0))
    return _measured(began, len(made.train))


def _measured(began: float, num_rows: int) -> dict[str, Any]:
    seconds = time.perf_counter() - began
    return {
        "num_rows": num_rows, "seconds": round(seconds, 2), "rows_per_s": round(num_rows / seconds),
        "peak_mib": peak_mib(),
    }  # fmt: skip


def peak_mib() -> int | None:
    """The largest resident set of this process; getrusage would count that of the parent before the fork."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return round(int(found[1]) / 1024) if found else None


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    each.__name__: each for each in (check, leakage, tokens, trl_map, together_check, tunekit_prepare)
}


def in_child(name: str, *arguments: Any, python: str = sys.executable, **options: Any) -> dict[str, Any]:
    """The result of a function above, run in a process of its own."""
    call = json.dumps([name, arguments, options])
    done = subprocess.run([python, __file__, "--call", call], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{call} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(what: str, repeats: int, row: dict[str, Any], name: str, *arguments: Any, **options: Any) -> None:
    """Run a measurement `repeats` times and keep the median by rate."""
    runs = [in_child(name, *arguments, **options) for _ in range(repeats)]
    runs.sort(key=lambda each: each.get("rows_per_s", 0))
    middle = runs[len(runs) // 2]
    append(
        "validate_speed",
        {**row, "what": what, **middle, "all_rows_per_s": [each.get("rows_per_s") for each in runs]},
    )


def main() -> None:
    """Make the data, then measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--large-rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--model", help="a tokenizer's folder, for the token statistics")
    parser.add_argument("--peers", help="a Python with the validators of others")
    parser.add_argument(
        "--only", nargs="*", default=["checks", "duplicates", "tokens", "trl", "peers", "large"]
    )
    parser.add_argument("--call")
    args = parser.parse_args()
    if args.call:
        name, arguments, options = json.loads(args.call)
        print(json.dumps(FUNCTIONS[name](*arguments, **options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        run(args, args.folder or Path(temporary))


def run(args: argparse.Namespace, folder: Path) -> None:
    """All measurements that were asked for."""
    files = {kind: folder / f"{args.rows}.{kind}" for kind in ("parquet", "jsonl")}
    for path in files.values():
        if not path.is_file():
            mean = write_rows(path, args.rows)
            print(
                f"{path.name}: {mean:.0f} bytes of text a row, {path.stat().st_size / 1e6:.0f} MB", flush=True
            )
    wait_for_idle()
    row = {**conditions(), "cores": os.cpu_count()}
    if "checks" in args.only:
        for kind, path in files.items():
            for what, groups in GROUPS.items():
                measure(f"{what} from {kind}", args.repeats, row, "check", str(path), groups)
    if "duplicates" in args.only:
        held_out = folder / "held-out.parquet"
        write_rows(held_out, 10_000)
        measure(
            "duplicates from parquet", args.repeats, row, "check", str(files["parquet"]), (), duplicates=True
        )
        measure("duplicates and leakage", 1, row, "leakage", str(files["parquet"]), str(held_out))
    if "trl" in args.only:
        measure("TRL's map over rows", args.repeats, row, "trl_map", str(files["parquet"]))
    if "peers" in args.only and args.peers:
        some = folder / f"{PEER_ROWS}.jsonl"
        write_rows(some, PEER_ROWS)
        for name in ("together_check", "tunekit_prepare"):
            measure(f"{name} from jsonl", args.repeats, row, name, str(some), python=args.peers)
        what = "structure, method, safety"
        measure(f"{what} from the same jsonl", args.repeats, row, "check", str(some), GROUPS[what])
    if "tokens" in args.only and args.model:
        append(
            "validate_speed",
            {**row, "what": "tokens", **in_child("tokens", str(files["parquet"]), args.model)},
        )
    if "large" in args.only:
        large = folder / f"{args.large_rows}.parquet"
        if not large.is_file():
            write_rows(large, args.large_rows)
        measure(
            "structure, method, safety, large",
            1,
            row,
            "check",
            str(large),
            GROUPS["structure, method, safety"],
        )


if __name__ == "__main__":
    main()
