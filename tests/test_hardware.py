"""The table of chips and machines is whole and plausible, and the Hub's prices replace its own."""

import dataclasses
import json
import socket
import threading
import tomllib
from contextlib import contextmanager
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import JobHardware, JobHardwareInfo

from tunesmith.errors import ConfigError
from tunesmith.plan import hardware
from tunesmith.plan.hardware import (
    age_days,
    chip_named,
    chips,
    current_machines,
    machine,
    machines,
    refreshed,
)

TODAY = date(2026, 11, 24)
RAW = tomllib.loads((Path(hardware.__file__).parent / "hardware.toml").read_text())
each_chip = pytest.mark.parametrize("chip", chips().values(), ids=lambda chip: chip.key)


def wire(name="t4-small", cost_usd=0.02, model="T4", quantity="1", vram="16 GB", **changes):
    """A flavor as GET /api/jobs/hardware writes it."""
    accelerator = {
        "type": "gpu",
        "model": model,
        "quantity": quantity,
        "vram": vram,
        "manufacturer": "Nvidia",
    }
    return {
        "name": name,
        "prettyName": name,
        "cpu": "4 vCPU",
        "ram": "15 GB",
        "ephemeralStorage": "50 GB",
        "accelerator": accelerator if model else None,
        "unitCostMicroUSD": round(cost_usd * 1e6),
        "unitCostUSD": cost_usd,
        "unitLabel": "minute",
        **changes,
    }


def listed(*flavors):
    return [JobHardwareInfo(**flavor) for flavor in flavors]


# The table


def test_every_machine_has_a_chip_of_the_table_and_local_is_measured():
    assert {name for name, each in machines().items() if each.chip is None} == {"local"}
    assert all(each.num_chips >= 1 for each in machines().values())


def test_the_flavors_of_hf_jobs_are_those_that_huggingface_hub_knows():
    ours = {name for name, each in machines().items() if each.provider == "hf-jobs"}
    assert ours == {flavor.value for flavor in JobHardware}
    assert all(machine(name).price_usd_per_hour for name in ours)


@each_chip
def test_every_figure_of_a_chip_has_a_source(chip):
    assert chip.sources
    assert (chip.memory_gib is None) == (chip.memory_source is None)


def test_every_price_and_every_shape_has_a_source_with_its_date():
    for each in machines().values():
        stated = (each.price_usd_per_hour, each.vcpus, each.host_memory_gb)
        assert (each.source is None) == (stated == (None, None, None)), each.name
        assert (each.price_date is None) == (each.price_usd_per_hour is None), each.name


def test_every_source_is_used_has_an_address_and_a_date_and_says_what_it_gives():
    used = {name for chip in RAW["chips"].values() for name in [*chip["sources"], chip.get("memory_source")]}
    used |= {each.get("source") for each in RAW["machines"].values()}
    assert used - {None} == set(RAW["sources"])
    for source in RAW["sources"].values():
        assert source["address"].startswith(("https://", "measured: "))
        assert date(2015, 1, 1) < source["date"] <= date.today()
        assert source["says"]


@each_chip
def test_memory_is_a_little_less_than_the_box_says(chip):
    if chip.memory_gib is None:
        assert chip.kind == "cpu"
        return
    share = chip.memory_gib / chip.marketed_gb
    # The system keeps a quarter of unified memory; a driver keeps at most a twelfth.
    assert share == 0.75 if chip.kind == "mps" else 0.91 < share < 1


@each_chip
def test_rates_stand_in_a_sane_order_and_ratio(chip):
    peak = chip.peak_tflops
    order = [peak[name] for name in ("fp32", "tf32", "fp16", "fp8") if name in peak]
    assert order == sorted(order)
    # The L40S's sheet rounds its fp8 up to 733, of twice 362.
    assert peak.get("fp8", 0) <= 2.03 * peak.get("bf16", 0)
    if "bf16" in peak:
        assert peak["bf16"] == peak["fp16"]
    assert chip.native_bf16 == ("bf16" in peak)
    if chip.bandwidth_gb_s:
        # Products that a chip can do for each byte it reads: about 25 on a laptop, 420 on an L40S.
        assert 20 < peak["fp16"] * 1e12 / (chip.bandwidth_gb_s * 1e9) < 450
        assert 250 < chip.bandwidth_gb_s < 10_000
        assert (chip.interconnect_gb_s or 0) < chip.bandwidth_gb_s


def test_no_price_is_far_from_what_its_chips_cost_elsewhere():
    """A slip of a digit, or a price per GPU taken for one of the machine, is off by more than this."""
    per_chip: dict[str, list[float]] = {}
    for each in machines().values():
        if each.price_usd_per_hour and each.chip.kind != "cpu":
            per_chip.setdefault(each.chip.key, []).append(each.price_usd_per_hour / each.num_chips)
    for key, prices in per_chip.items():
        assert max(prices) <= 4 * min(prices), (key, prices)


def test_compute_capability_agrees_with_native_bf16():
    for chip in chips().values():
        if chip.compute_capability:
            assert chip.native_bf16 == (float(chip.compute_capability) >= 8)


def test_a_device_of_a_cpu_flavor_has_the_hosts_memory_and_all_its_cores():
    basic = machine("cpu-basic")
    assert basic.memory_gib == pytest.approx(14.9, abs=0.01)
    assert machine("cpu-upgrade").peak_tflops("fp32") == pytest.approx(4 * basic.peak_tflops("fp32"))
    assert basic.peak_tflops("bf16") is None


def test_figures_are_of_one_device_where_a_machine_has_several():
    one, eight = machine("h200"), machine("h200x8")
    assert (one.memory_gib, one.peak_tflops("bf16")) == (eight.memory_gib, eight.peak_tflops("bf16"))
    assert eight.num_chips == 8


def test_nothing_is_known_of_local_before_it_is_measured():
    local = machine("local")
    assert (local.memory_gib, local.peak_tflops("bf16"), local.price_usd_per_hour) == (None, None, None)


def test_a_caller_cannot_change_the_table():
    machines().clear()
    assert machine("t4-small")
    with pytest.raises(TypeError):
        machine("t4-small").chip.peak_tflops["fp16"] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        machine("t4-small").num_chips = 2


# Names


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a100-lrage", "a100-large"),
        ("H200X8", "h200x8"),
        ("h100", "h100-sxm"),
        ("rtx4090", "rtx-4090"),
        ("p5.48xlarge", "aws-p5.48xlarge"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(ConfigError) as raised:
        machine(typed)
    assert typed in raised.value.message
    assert meant in raised.value.fix


def test_a_name_like_no_other_is_answered_with_the_flavors():
    with pytest.raises(ConfigError, match="no hardware 'my-toaster'") as raised:
        machine("my-toaster")
    assert "take one of cpu-basic, cpu-upgrade" in raised.value.fix


@pytest.mark.parametrize(
    ("reported", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-32GB", "v100-sxm-32gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_chip_is_found_by_what_the_driver_calls_it(reported, key):
    assert chip_named(reported).key == key


@pytest.mark.parametrize(
    "reported",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA L40",
        "NVIDIA A10",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H200 NVL",
        "",
    ],
)
def test_a_chip_that_only_resembles_one_of_the_table_is_not_taken_for_it(reported):
    assert chip_named(reported) is None


def test_no_two_chips_have_the_same_device_name():
    names = [name.casefold() for chip in chips().values() for name in chip.device_names]
    assert len(names) == len(set(names))


# Age


def test_the_tables_age_is_that_of_its_oldest_price():
    oldest = min(each.price_date for each in machines().values() if each.price_date)
    assert age_days(oldest + timedelta(days=10)) == 10


# What the Hub lists


def test_a_listed_price_replaces_the_tables_and_carries_its_day():
    fresh = refreshed(machines(), listed(wire("t4-small", 0.02, cpu="6 vCPU", ram="20 GB")), today=TODAY)
    t4 = fresh["t4-small"]
    assert (t4.price_usd_per_hour, t4.vcpus, t4.host_memory_gb) == (1.2, 6, 20)
    assert (t4.price_date, t4.source.address) == (TODAY, "https://huggingface.co/api/jobs/hardware")
    assert t4.chip == chips()["t4"]
    others = [name for name in machines() if name != "t4-small"]
    assert all(fresh[name] == machines()[name] for name in others)
    assert list(fresh) == list(machines())


def test_the_hubs_rounding_of_a_minute_does_not_show_in_the_hour():
    assert refreshed({}, listed(wire(cost_usd=0.006667)))["t4-small"].price_usd_per_hour == 0.4


@pytest.mark.parametrize(
    ("model", "quantity", "vram", "key"),
    [
        ("H100", "8", "640 GB", "h100-sxm"),
        ("Nvidia A100", "2", "160 GB", "a100-sxm-80gb"),
        ("A100", "1", "40 GB", "a100-sxm-40gb"),
        ("H100", "8", "80 GB", "h100-sxm"),
        ("b200", "1", "180 GB", "b200"),
    ],
)
def test_a_new_flavor_comes_in_when_its_chip_is_known(model, quantity, vram, key):
    flavor = wire("brand-new", 0.1, model, quantity, vram)
    new = refreshed(machines(), listed(flavor), today=TODAY)["brand-new"]
    assert (new.chip.key, new.num_chips, new.provider) == (key, int(quantity), "hf-jobs")
    assert (new.price_usd_per_hour, new.vcpus, new.host_memory_gb) == (6.0, 4, 15)


def test_a_new_cpu_flavor_comes_in():
    assert refreshed({}, listed(wire("cpu-huge", model=None)))["cpu-huge"].chip.key == "cpu"


@pytest.mark.parametrize(
    "flavor",
    [
        wire("v5e-1x1", model="v5e", vram="16 GB"),
        wire("h100x8", model="H100", quantity="8", vram="752 GB"),
        wire("odd", model="T4", vram="plenty"),
    ],
)
def test_a_flavor_whose_chip_is_unknown_is_left_out(flavor):
    assert refreshed(machines(), listed(flavor)) == machines()


def test_a_flavor_keeps_its_chip_under_another_spelling_and_drops_out_with_another_chip():
    respelled = wire("rtx-pro-6000x2", 0.1, model="RTX PRO 6000 Blackwell", quantity="2", vram="192 GB")
    replaced = wire("h200", 0.1, model="H300", vram="288 GB")
    fresh = refreshed(machines(), listed(respelled, replaced))
    assert fresh["rtx-pro-6000x2"].chip.key == "rtx-pro-6000"
    assert fresh["rtx-pro-6000x2"].price_usd_per_hour == 6.0
    assert "h200" not in fresh


def test_a_unit_of_time_that_nobody_knows_leaves_the_price_and_its_date():
    fresh = refreshed(machines(), listed(wire(unitLabel="fortnight")))["t4-small"]
    assert (fresh.price_usd_per_hour, fresh.source) == (0.4, machine("t4-small").source)


def test_a_shape_that_cannot_be_read_leaves_the_tables():
    fresh = refreshed(machines(), listed(wire(cpu="some", ram="N/A")))["t4-small"]
    assert (fresh.vcpus, fresh.host_memory_gb) == (4, 15)


# Over HTTP: the real client against a FAKE Hub, a local server that speaks the endpoint's wire format.


@contextmanager
def fake_hub(body: bytes, status: int = 200):
    asked = []

    class FakeHub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("authorization")))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_sent")


def test_prices_come_from_the_hub_when_it_answers_and_no_token_goes_there(online):
    flavors = [wire("t4-small", 0.01), wire("h100x8", 0.5, "H100", "8", "640 GB"), wire("v9", 0.1, "v9")]
    with fake_hub(json.dumps(flavors).encode()) as (endpoint, asked):
        current = current_machines(offline=False, endpoint=endpoint, today=TODAY)
    assert current.from_hub
    assert current.machines["t4-small"].price_usd_per_hour == 0.6
    assert current.machines["h100x8"].price_usd_per_hour == 30
    assert current.left_out == ("v9",)
    assert "2026-11-24" in current.says
    assert "left out, their chips being unknown: v9" in current.says
    assert asked == [("/api/jobs/hardware", None)]


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 200), (b"[{}]", 200), (b'{"error": "x"}', 200), (b"no", 503)]
)
def test_an_answer_that_makes_no_sense_leaves_the_table(online, body, status):
    with fake_hub(body, status) as (endpoint, _):
        current = current_machines(offline=False, endpoint=endpoint, today=TODAY)
    assert not current.from_hub
    assert current.machines == machines()
    assert "from the built-in table" in current.says


def test_a_hub_that_never_answers_costs_no_more_than_the_timeout(online):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        current = current_machines(offline=False, endpoint=endpoint, timeout_s=0.2, today=TODAY)
    assert current.machines == machines()
    assert "no prices within 0.2 s" in current.says


def test_a_hub_that_is_not_there_leaves_the_table(online):
    with socket.create_server(("127.0.0.1", 0)) as soon_gone:
        endpoint = f"http://127.0.0.1:{soon_gone.getsockname()[1]}"
    current = current_machines(offline=False, endpoint=endpoint, today=TODAY)
    assert not current.from_hub
    assert "ConnectError" in current.says


def test_offline_nothing_is_asked_and_the_tables_date_is_said():
    with fake_hub(b"[]") as (endpoint, asked):
        current = current_machines(offline=True, endpoint=endpoint, today=TODAY)
    oldest = min(each.price_date for each in machines().values() if each.provider == "hf-jobs")
    assert not asked
    assert not current.from_hub
    assert f"of {oldest} ({(TODAY - oldest).days} days old): offline" in current.says
    assert current.machines == machines()
