"""In which precision a network runs."""

from __future__ import annotations

import torch
from torch import nn

from cl.nets.multihead import MultiHead


def is_reduced(precision: str, net: MultiHead, device: torch.device) -> bool:
    """Whether `training.precision` means bfloat16 for this network on this device.

    `auto` means it for networks with convolutions, where the processor or GPU has instructions for it: about twice as
    fast there (docs/nets.md), while for small linear layers the conversions take longer than they save.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if not any(isinstance(module, nn.Conv2d) for module in net.modules()):
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))
