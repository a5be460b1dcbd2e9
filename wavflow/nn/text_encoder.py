"""From symbols of a text to features: convolutions, then self-attention with rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.arguments import at_least
from wavflow.nn.containers import module_list


class ConvNorm(nn.Module):
    """Convolution, ReLU, layer norm and dropout of x (B, S, C), with zeros around it and where the mask (B, S, 1) is 0."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel_size, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns (B, S, outputs)."""
        y = self.conv((x * mask).transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.norm(functional.relu(y)))


class SelfAttention(nn.Module):
    """Attention among symbols whose scores tell relative positions: queries and keys are rotated by an angle per position.

    Args:
        channels: C, a multiple of twice the heads.
        heads: H.

    References:
        RoFormer (Su et al., 2021), section 3.4.2, https://arxiv.org/abs/2104.09864. Glow-TTS learns an embedding of each
        relative position within 4 instead; the rotation has no weight and no such limit.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        at_least(1, heads=heads)
        if channels % (2 * heads):
            raise ValueError(f"`channels` must be a multiple of twice the {heads} heads, got {channels}.")
        self.heads = heads
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Returns (B, S, C) for x (B, S, C) and its mask (B, S, 1)."""
        q, k, v = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, S, C / H)
        y = functional.scaled_dot_product_attention(
            _rotated(q), _rotated(k), v, attn_mask=(mask.transpose(1, 2) > 0).unsqueeze(1)
        )
        return self.output(y.transpose(1, 2).flatten(2))


class TextEncoder(nn.Module):
    """Features (B, S, channels) of symbols (B, S): each sees its neighbors first, then the whole text.

    Args:
        n_symbols: Size of the table of symbols.
        channels: Width.
        layers: Of attention.
        heads: Of each attention.
        dropout: Share of the features that training leaves out.

    References:
        Glow-TTS (Kim et al., 2020), appendix A.2, after Transformer TTS: pre-net of three convolutions, then attention.
    """

    def __init__(self, n_symbols: int, channels: int = 128, layers: int = 4, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        at_least(1, n_symbols=n_symbols, channels=channels, layers=layers)
        self.embedding = nn.Embedding(n_symbols, channels)
        self.prenet = module_list(ConvNorm(channels, channels, 5, dropout) for _ in range(3))
        self.attention = module_list(SelfAttention(channels, heads) for _ in range(layers))
        self.norms = module_list(nn.LayerNorm(channels) for _ in range(layers))
        self.feed_forward = module_list(ConvNorm(channels, channels, 3, dropout) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, symbols: Tensor, mask: Tensor) -> Tensor:
        """Returns features (B, S, channels) of symbols (B, S), with mask (B, S, 1), 1 on the text and 0 after its end."""
        x = self.embedding(symbols)
        for conv in self.prenet:
            x = x + conv(x, mask)
        for attention, norm, feed_forward in zip(self.attention, self.norms, self.feed_forward, strict=True):
            x = x + self.dropout(attention(norm(x), mask))
            x = x + feed_forward(x, mask)
        return x


class DurationPredictor(nn.Module):
    """Log of the expected frames of each state of each symbol, (B, S, states), from features (B, S, inputs).

    Args:
        inputs: Width of the features.
        channels: Of the two convolutions.
        dropout: Share that training leaves out.
        states: Of each symbol.
    """

    def __init__(self, inputs: int, channels: int = 128, dropout: float = 0.1, states: int = 1) -> None:
        super().__init__()
        self.convs = module_list(ConvNorm(n, channels, 3, dropout) for n in (inputs, channels))
        self.last = nn.Linear(channels, states)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Returns log durations (B, S, states); mask (B, S, 1)."""
        for conv in self.convs:
            features = conv(features, mask)
        return self.last(features)


def _rotated(x: Tensor) -> Tensor:
    """Turns pairs of features of x (B, H, S, D) by angles that grow with the position, each pair at a rate of its own."""
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype, device=x.device)[:, None] * rates
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
