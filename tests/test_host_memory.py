"""Memory that control groups leave: files as Linux writes them, and this machine's own."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tunesmith.train.host_memory import available_bytes

GIB = 2**30


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    free = psutil.virtual_memory()._replace(available=100 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    return tmp_path


def test_a_container_leaves_its_limit_less_what_is_used_and_can_not_be_taken_back(place):
    (place / "own").write_text("0::/\n")
    group(place / "groups", max=8 * GIB, current=3 * GIB, stat=f"anon {GIB}\ninactive_file {2 * GIB}")
    assert available_bytes(place / "groups", place / "own") == 7 * GIB


def test_the_tightest_of_the_groups_around_a_job_counts(place):
    (place / "own").write_text("0::/system.slice/job_7/step_0\n")
    job = place / "groups" / "system.slice" / "job_7"
    group(place / "groups" / "system.slice", max="max", current=50 * GIB)
    group(job, max=16 * GIB, current=12 * GIB, stat="inactive_file 0")
    group(job / "step_0", max=32 * GIB, current=12 * GIB, stat="inactive_file 0")
    assert available_bytes(place / "groups", place / "own") == 4 * GIB
    group(job, current=20 * GIB)
    assert available_bytes(place / "groups", place / "own") == 0


def test_groups_of_the_first_version_are_read_too(place):
    (place / "own").write_text("5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n0::/\n")
    group(
        place / "groups" / "memory" / "docker" / "a",
        limit_in_bytes=4 * GIB, usage_in_bytes=GIB, stat="total_inactive_file 0",
    )  # fmt: skip
    group(place / "groups" / "memory", limit_in_bytes=9223372036854771712, usage_in_bytes=50 * GIB)
    assert available_bytes(place / "groups", place / "own") == 3 * GIB


def test_without_groups_it_is_what_is_free(place):
    assert available_bytes(place / "none", place / "none") == 100 * GIB


def test_of_this_machine_it_is_no_more_than_what_is_free():
    assert 0 < available_bytes() <= psutil.virtual_memory().total
