"""What a checkpoint writes is as it was when it was asked for, whatever the steps do meanwhile."""

from __future__ import annotations

import pytest
import torch

from tunesmith.train.host_copies import HostCopies

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=on_a_gpu)]


def some_tensors(device: str) -> list[torch.Tensor]:
    wide = torch.randn(64, 32, device=device)
    return [
        wide, wide.t(), wide[::2], torch.randn(3, device=device).bfloat16(), torch.tensor(7, device=device),
        torch.empty(0, device=device), torch.arange(5, dtype=torch.uint8),
        torch.ones(4, device=device).bool(),
    ]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_copies_stay_as_they_were(device):
    host, tensors = HostCopies(), some_tensors(device)
    host.make_room(tensors)
    for _ in range(3):
        wanted = [each.cpu().clone() for each in tensors]
        copies = host.copies(tensors)
        for each in tensors:
            each.zero_()
        for copy, original in zip(copies, wanted, strict=True):
            assert copy.device.type == "cpu"
            assert copy.is_contiguous()
            assert torch.equal(copy, original)
        tensors = some_tensors(device)
    host.release()


@pytest.mark.parametrize("device", DEVICES)
def test_copies_can_be_written_as_they_are(device, tmp_path):
    from safetensors.torch import load_file, save_file

    host, tensors = HostCopies(), some_tensors(device)
    host.make_room(tensors)
    copies = {str(number): each for number, each in enumerate(host.copies(tensors))}
    # safetensors refuses tensors that share a storage.
    save_file(copies, tmp_path / "x.safetensors")
    assert all(
        torch.equal(each, copies[name]) for name, each in load_file(tmp_path / "x.safetensors").items()
    )
    host.release()


@on_a_gpu
def test_room_is_used_again_and_what_it_does_not_hold_is_copied_all_the_same():
    host, small = HostCopies(), [torch.randn(1000, device="cuda")]
    host.make_room(small)
    places = [host.copies(small)[0].data_ptr() for _ in range(2)]
    assert places[0] == places[1]
    assert host.copies(small)[0].is_pinned()
    large = [*small, torch.randn(5000, device="cuda")]
    assert all(torch.equal(copy, each.cpu()) for copy, each in zip(host.copies(large), large, strict=True))
    host.release()
