"""Predicted seconds, against steps of an H100 and of two cores, and what must hold of any prediction."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from test_plan_memory import LLAMA, ROWS, measured_rows, run_of

from tunesmith.errors import ConfigError
from tunesmith.plan.architecture import Architecture
from tunesmith.plan.duration import Probe, estimate_duration, estimate_step, probed, probed_rows
from tunesmith.plan.hardware import Machine, chips, machine
from tunesmith.plan.parameters import count_lora, count_parameters
from tunesmith.plan.workload import Configuration, Lengths, Workload

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
H100 = Machine("one H100", "here", 1, chips()["h100-sxm"])
LORA = count_lora(LLAMA, 16, "all-linear")
SMOLLM = Architecture("llama", 30, 576, 9, 3, 64, 1536, 49_152, True, None, None, 8192)


def step(tuning="full", where=H100, **more):
    fields = {each: more.pop(each) for each in tuple(more) if each in Workload.__dataclass_fields__}
    fields = {"lengths": ROWS, "global_batch_size": 16, "num_steps": 50} | fields
    workload = Workload("sft", tuning, num_lora_params=0 if tuning == "full" else LORA, **fields)
    how = {"device": "cuda", "precision": "bf16", "micro_batch": 16, "accumulation": 1, "captured": True}
    how = Configuration(**how | {"fused": True} | more)
    return estimate_step(LLAMA, count_parameters(LLAMA), workload, how, where)


@pytest.mark.parametrize("shape", sorted(measured_rows()))
def test_a_step_takes_what_an_h100_measured(shape):
    """These rows are those that the constants were fitted to: the held-out half of plan_accuracy judges."""
    row = measured_rows()[shape]
    architecture, workload, how = run_of(row)
    found = estimate_step(architecture, count_parameters(architecture), workload, how, H100)
    assert found.expected == pytest.approx(row["step_s"], rel=0.12)
    assert found.low < row["step_s"] < found.high


def test_a_step_takes_what_two_cores_measured():
    """A row of benchmarks/cpu_speed.py: 4 chats of 52 tokens; about half of the tokens are answers."""
    measured = json.loads((RESULTS / "cpu_speed.jsonl").read_text().splitlines()[2])
    tokens_per_s = sorted(measured["tokens_per_s"]["tunesmith, defaults"])[1]
    lora = count_lora(SMOLLM, 16, "all-linear")
    workload = Workload("sft", "lora", Lengths(650, 52, 12, 90), 4, 10, lora, labelled_share=0.5)
    how = Configuration("cpu", "bf16", 4, 1, "blocks")
    cores = Machine("two cores", "here", 1, chips()["cpu"], vcpus=2)
    found = estimate_step(SMOLLM, count_parameters(SMOLLM), workload, how, cores)
    assert found.expected == pytest.approx(4 * 52 / tokens_per_s, rel=0.25)


def test_items_add_up_to_what_is_expected():
    for each in (step(), step("lora"), step("lora", captured=False), step(checkpointing=True)):
        assert sum(each.items.values()) == pytest.approx(each.expected)
        assert each.low < each.expected < each.high
        assert min(each.items.values()) > 0


def test_however_far_steps_lie_apart_no_run_is_done_before_it_began():
    wide = Probe(1.0, 0.0, 3.0)
    architecture, workload, how = run_of(next(iter(measured_rows().values())))
    parts = (architecture, count_parameters(architecture), workload, how, H100)
    found = estimate_duration(*parts, probe=wide)
    assert 0 < found.low < found.expected < found.high


def test_the_interval_of_a_sampled_mean_widens_the_time():
    architecture, workload, how = run_of(next(iter(measured_rows().values())))
    rest = (how, H100)
    parts = (architecture, count_parameters(architecture))
    exact, sampled = (
        estimate_duration(*parts, dataclasses.replace(workload, mean_error=error), *rest)
        for error in (0.0, 0.5)
    )
    assert sampled.expected == exact.expected
    assert sampled.high - exact.high == pytest.approx(exact.items["steps"] * (math.hypot(0.5, 0.2) - 0.2))


def test_more_work_takes_longer():
    plain = step("lora")
    assert step("lora", checkpointing=True, captured=False).expected > plain.expected
    assert step("lora", captured=False, micro_batch=1, accumulation=16).expected > 2 * plain.expected
    assert step("lora", fused=False).expected > plain.expected
    assert step().expected > plain.expected
    assert step("lora", lengths=Lengths(1000, 800, 400, 2048)).expected > 1.8 * plain.expected
    assert step("lora", reference="adapter").expected > plain.expected
    assert step("lora", labelled_share=0.2).expected < plain.expected
    assert step("lora", attention="padded").expected > plain.expected
    assert step("lora", num_sampled=16, completion_length=200).items["sampling"] > 0.3


def test_an_eager_step_of_a_small_batch_waits_for_python():
    items = step("lora", captured=False, micro_batch=1, accumulation=16).items
    assert items["launches"] > items["products"]


def test_a_faster_chip_is_faster_and_devices_talk():
    slow = Machine("one A100", "here", 1, chips()["a100-sxm-80gb"])
    assert step(where=slow).expected > step().expected
    shared = step(micro_batch=4, num_devices=4, sharding="ddp", captured=False)
    assert shared.items["communication"] > 0
    whole = step(micro_batch=4, num_devices=4, sharding="fsdp", captured=False)
    assert whole.items["communication"] >= shared.items["communication"]
    assert whole.items["optimizer"] < shared.items["optimizer"]


def test_a_chip_without_a_known_rate_is_refused():
    with pytest.raises(ConfigError, match="nothing is known"):
        step(where=machine("local"))


def test_a_probe_is_the_line_through_its_steps():
    line = probed([(tokens, 0.02 + 1e-5 * tokens) for tokens in (4000, 5000, 7000, 8000, 9000)])
    assert line.fixed_s == pytest.approx(0.02)
    assert line.step_s(6000) == pytest.approx(0.08)
    assert line.error == pytest.approx(0, abs=1e-9)


def test_a_step_that_waited_does_not_count_in_a_probe():
    steps = [(1000.0 + each, 0.1 + each * 1e-4) for each in range(6)] + [(1001.0, 3.0)]
    assert probed(steps).step_s(1000) == pytest.approx(0.1, rel=0.01)


def test_a_probe_of_few_steps_goes_by_tokens_or_not():
    assert probed([(1000, 0.1), (2000, 0.2)]).step_s(4000) == pytest.approx(0.4)
    assert probed([(1000, 0.1), (2000, 0.1)]).step_s(4000) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="a step"):
        probed([])


def logged(seconds, tokens=1000):
    """Rows of metrics.jsonl of a run that logs each step; Python alone takes 5 ms of each."""
    ends = [sum(seconds[: step + 1]) for step in range(len(seconds))]
    return [
        {"step": step + 1, "time_s": 10 + end, "step_s": 0.005, "tokens_per_s": tokens / 0.005}
        for step, end in enumerate(ends)
    ]


def test_a_probe_takes_what_the_device_took_not_what_python_did():
    assert probed_rows(logged([3.0] + [0.1] * 19), 1000).step_s(1000) == pytest.approx(0.1)


def test_steps_that_capture_a_shape_do_not_count_in_a_probe():
    """As at 0.5B: 62 ms by a graph, 150 to 250 ms where a shape is met first or captured."""
    seconds = [5.4, 0.17, 0.23, 0.15, 0.2, 0.25, 0.06, 0.19, 0.24, 0.062, 0.16, 0.061, 0.2, 0.06]
    assert probed_rows(logged(seconds), 1000, captured=True).step_s(1000) == pytest.approx(0.061, rel=0.03)


def test_a_run_of_two_steps_is_a_probe_too():
    assert probed_rows(logged([3.0, 0.1]), 1000).step_s(1000) == pytest.approx(0.1)


def run(probe=None, **more):
    fields = {"num_evaluations": 2, "num_eval_rows": 100, "num_checkpoints": 3} | more
    workload = Workload("sft", "lora", ROWS, 16, 200, LORA, **fields)
    how = Configuration("cuda", "bf16", 16, 1, captured=True, fused=True)
    return estimate_duration(LLAMA, count_parameters(LLAMA), workload, how, H100, probe=probe)


def test_a_run_is_its_steps_and_what_lies_around_them():
    whole = run()
    assert sum(whole.items.values()) == pytest.approx(whole.expected)
    assert whole.low < whole.expected < whole.high
    assert whole.items["steps"] == pytest.approx(200 * step("lora", num_steps=200).expected)
    assert {"start", "load", "tokenise", "capture", "evaluation", "checkpoints", "save"} <= set(whole.items)
    assert run(reference="precomputed").items["reference"] > 0


def test_a_probe_takes_the_place_of_the_estimate():
    probe = Probe(0.0, 1e-5, 0.01)
    whole = run(probe)
    assert whole.items["steps"] == pytest.approx(200 * 16 * 400 * 1e-5)
    assert whole.high - whole.expected < run().high - run().expected
