"""Which attention kernels a run may use."""

from __future__ import annotations


def leave_out_cudnn() -> None:
    """Keep PyTorch from computing attention with cuDNN, whose backward pass can end a run.

    With a mask and a padded length of 64, 192, 320 ... tokens it gives NaN gradients on H100 and H200 since
    torch 2.11 (pytorch/pytorch#196678): one such batch, and every weight is lost. benchmarks/RESULTS.md has a
    GRPO run that died of it. PyTorch's own kernels take over.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)
