"""Attention over documents that stand one behind the other in a row, and the kernels that a run may use."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

# The name under which transformers finds it.
VARLEN = "tunesmith_varlen"
# What a model may ask of attention that PyTorch's varlen kernel hasn't: such a model is read padded.
_NOT_THERE = ("softcap", "s_aux", "position_bias")


def leave_out_cudnn() -> None:
    """Keep PyTorch from computing attention with cuDNN, whose backward pass can end a run.

    With a mask and a padded length of 64, 192, 320 ... tokens it gives NaN gradients on H100 and H200 since
    torch 2.11 (pytorch/pytorch#196678): one such batch, and every weight is lost. benchmarks/RESULTS.md has a
    GRPO run that died of it. PyTorch's own kernels take over.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def has_varlen() -> bool:
    """Whether this machine's GPU runs `torch.nn.attention.varlen`: flash attention, from Ampere on."""
    import torch

    try:
        from torch.nn.attention import varlen  # noqa: F401
    except ImportError:
        return False
    return (
        torch.cuda.is_available()
        and torch.version.hip is None
        and torch.cuda.get_device_capability() >= (8, 0)
    )


def register_varlen() -> None:
    """Make the attention known to transformers; to do it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(VARLEN, _varlen_attention())
    AttentionMaskInterface.register(VARLEN, _mask_of_padded)


def _mask_of_padded(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
    """Documents need no mask; a padded batch (generation) has the one that PyTorch's attention reads."""
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


@functools.cache
def _varlen_attention() -> Callable[..., tuple[Any, None]]:
    """The attention function; what it needs is looked up once."""
    from torch.nn.attention.varlen import varlen_attn
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # Before there was this argument fewer key heads were taken without a word (tried with torch 2.11).
    groups = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}

    def attention(
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        cu_seq_lens_q: Any = None,
        max_length_q: int = 0,
        **kwargs: Any,
    ) -> tuple[Any, None]:
        """Causal attention of (1, heads, tokens, width) within documents that begin at `cu_seq_lens_q`.

        Without these it is PyTorch's own attention over a padded batch. Returns (1, tokens, heads, width).
        """
        if cu_seq_lens_q is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
            )
        if dropout or any(kwargs.get(name) is not None for name in _NOT_THERE):
            raise NotImplementedError("varlen attention has no dropout, softcap, sinks or position bias")
        # Over fp32 master weights rotations leave fp32 behind, which the kernel doesn't take.
        query, key, value = (each[0].transpose(0, 1).to(value.dtype) for each in (query, key, value))
        output = varlen_attn(
            query,
            key,
            value,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(sliding_window - 1 if sliding_window else -1, 0),
            **groups,
        )
        return output[None], None

    return attention
