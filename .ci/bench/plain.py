"""The networks of this package computed as peers compute theirs: float32, in PyTorch's default memory format, eager.

`UNet` turns its input to channels_last inside, and its layers may keep their norms and their attention in ways of their
own. `Plain` takes the layers of a `UNet`, so it has the same weights and does the same arithmetic, and calls them one
by one in the default format. `check_same` shows that the answers agree."""
from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edm_nbdev.unet import UNet, noise_features


def _norm(norm: Any, x: Tensor) -> Tensor:
    "A group norm, whatever class it has."
    return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)

def _attention(layer: Any, x: Tensor) -> Tensor:
    "Self-attention over the places of an image, added to it."
    B, C, H, W = x.shape
    qkv = layer.qkv(_norm(layer.norm, x)).reshape(B, 3, layer.heads, C // layer.heads, H * W)
    q, k, v = qkv.transpose(-1, -2).unbind(1)                                       # each (B,heads,HW,c)
    y = F.scaled_dot_product_attention(q, k, v)
    return x + layer.out(y.transpose(-1, -2).reshape(B, C, H, W))

def _block(block: Any, x: Tensor, emb: Tensor, p: float) -> Tensor:
    "A residual block, with attention after it where it has one."
    h = block.conv1(F.silu(_norm(block.norm1, x)))
    scale, shift = block.modulate(emb)[..., None, None].chunk(2, dim=1)             # each (B,c_out,1,1)
    h = F.silu(_norm(block.norm2, h) * (1 + scale) + shift)
    h = block.conv2(F.dropout(h, p, block.training))
    x = (block.skip(x) + h) * math.sqrt(.5)
    return x if isinstance(block.attention, nn.Identity) else _attention(block.attention, x)

class Plain(nn.Module):
    "A `UNet` in the default memory format, without anything that makes it faster."
    def __init__(self,
        net: UNet,           # its layers are used, and their weights put into the default format
        dropout: float = 0.  # share of values dropped in training
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.contiguous_format)
        self.n_classes, self.dropout = net.n_classes, dropout

    def forward(self,
        x: Tensor,                    # scaled noisy images (B,C,H,W)
        c_noise: Tensor,              # ln(sigma)/4, (B,) or (1,)
        label: Tensor | None = None,  # classes int64 (B,); None for none
    ) -> Tensor:                      # like `x`
        "Down, around and up."
        net, skips = self.net, []
        x = x.contiguous()
        emb = net.embed_noise(noise_features(c_noise)).expand(len(x), -1)
        if net.embed_label is not None:
            if label is None: label = torch.full((len(x),), self.n_classes, device=x.device)
            emb = emb + net.embed_label(label)
        emb = F.silu(emb)
        x = net.stem(F.pixel_unshuffle(x, net.patch))
        for i, level in enumerate(net.down):
            if i: x = F.avg_pool2d(x, 2)
            for block in level.children():
                x = _block(block, x, emb, self.dropout)
                skips.append(x)
        x = _block(net.middle, x, emb, self.dropout)
        for i, level in enumerate(net.up):
            if i: x = F.interpolate(x, scale_factor=2)
            for block in level.children(): x = _block(block, torch.cat([x, skips.pop()], 1), emb, self.dropout)
        norm, _, last = net.out
        return F.pixel_shuffle(last(F.silu(_norm(norm, x))), net.patch)

@torch.no_grad()
def check_same(
    plain: Plain,  # made of
    net: UNet,     # this network
) -> None:
    "Raise RuntimeError unless both answer alike, with weights drawn anew, since many are zero at first."
    draw = torch.Generator().manual_seed(0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for p in net.parameters(): p.normal_(0, .05, generator=draw)
    plain.eval()
    x, c_noise = torch.randn(2, *net.shape, generator=draw), torch.tensor([-.5, .5])
    label = torch.tensor([0, 1]) if net.n_classes else None
    ours, theirs = net(x, c_noise, label), plain(x, c_noise, label)
    net.load_state_dict(before)
    error = ((ours - theirs).abs().max() / ours.abs().max()).item()
    if not error < 1e-3: raise RuntimeError(f"the plain network differs by {error:.2g} of its largest value")
