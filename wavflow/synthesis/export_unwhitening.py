"""The whitening's inverse with its memory outside: block by block, for graphs that can hold no Python loop over a length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavflow.flows.linear_prediction import LinearPrediction
from wavflow.flows.pitch_prediction import PitchPrediction
from wavflow.flows.whitening import Whitening

State = dict[str, Tensor]


class Unwhitening(nn.Module):
    """`Whitening.inverse` as a step from block to block: `filters` for all blocks at once, then `forward` in order.

    Within a block the comb goes on in pieces shorter than its period. The all-pole filter is one product with the impulse
    response h of the block's filter:

        x = H (e + P s)        H[t, l] = h[t - l],        (P s)[t] = sum_k a_k s[t - k] over the samples s before the block

    H is lower triangular and Toeplitz: a filter whose coefficients are constant within a block.

    Args:
        whitening: The map to invert.
    """

    envelope: LinearPrediction
    comb: PitchPrediction | None

    def __init__(self, whitening: Whitening) -> None:
        super().__init__()
        self.envelope, *rest = whitening.transforms
        self.comb = rest[0] if rest else None
        self.order, self.length = self.envelope.order, self.envelope.block_length
        if self.comb is not None:  # the longest whole part of a block within which no sample waits for another
            shortest_lag = self.comb.pitch.shortest_lag
            self.stride = next(n for n in range(min(self.length, shortest_lag), 0, -1) if self.length % n == 0)

    def initial(self, batch: int, like: Tensor) -> State:
        """Returns the memory before the first block, zeros: the comb's in the dtype of `like`, the filter's in float64."""
        state = {}  # in the order of what `forward` returns, as `scan` needs it
        if self.comb is not None:
            state["whitening.comb"] = like.new_zeros(batch, self.comb.pitch.longest_lag)
        state["whitening.filter"] = like.new_zeros(batch, self.order, dtype=torch.float64)
        return state

    def filters(self, mel: Tensor) -> State:
        """Returns what `forward` takes besides the signal, of the N blocks of a mel (B, n_mels, F): each tensor (B, N, ...)."""
        coefficients, log_gain = self.envelope.predictor(mel)
        coefficients = coefficients.to(mel.dtype).double()  # as the inverse has them
        response = impulse_response(coefficients, self.length)
        filters = {"coefficients": coefficients, "response": response, "log_gain": log_gain}
        if self.comb is not None:
            period, strength = self.comb.pitch(self.comb.at_blocks(mel))
            lags, kernel = self.comb.pitch.taps(period)
            filters["kernel"] = (strength.unsqueeze(-1) * kernel).flip(-1).to(mel.dtype)  # that of the longest lag first
            filters["first"] = self.comb.pitch.longest_lag - lags[..., -1]
        return filters

    def forward(self, state: State, block: State) -> tuple[State, Tensor]:
        """Unwhitens a block "u" (B, L), given together with its filters (B, ...); returns the new memory and audio (B, L)."""
        after, u = {}, block["u"]
        if self.comb is not None:
            past, kernel, pieces = state["whitening.comb"], block["kernel"], []
            span = block["first"].unsqueeze(-1) + torch.arange(self.stride + kernel.shape[-1] - 1, device=u.device)
            for driven in u.split(self.stride, dim=-1):
                piece = driven + product(past.gather(1, span).unfold(-1, kernel.shape[-1], 1), kernel)
                past = torch.cat([past[:, self.stride :], piece], dim=-1)
                pieces.append(piece)
            after["whitening.comb"], u = past, torch.cat(pieces, dim=-1)
        past = state["whitening.filter"]
        excitation = u * torch.exp(block["log_gain"]).unsqueeze(-1)  # float64
        driven = excitation + convolution(block["coefficients"], past, self.length, self.order - 1)
        audio = convolution(block["response"], driven, self.length, 0)
        after["whitening.filter"] = torch.cat([past, audio], dim=-1)[:, -self.order :].clone()  # `scan` wants no view
        return after, audio.to(u.dtype)


def impulse_response(coefficients: Tensor, length: int) -> Tensor:
    """Returns the first samples h (..., length) of the response of all-pole filters a (..., p) to an impulse.

    The length is doubled until it suffices: the known samples are the state before the next ones, and also the response that
    filters what this state contributes to them.
    """
    h = torch.ones_like(coefficients[..., :1])
    while (n := h.shape[-1]) < length:
        h = torch.cat([h, convolution(h, convolution(coefficients, h, n, n - 1), n, 0)], dim=-1)
    return h[..., :length]


def convolution(values: Tensor, signal: Tensor, length: int, first: int) -> Tensor:
    """Returns `y[t] = sum_l values[first + t - l] signal[l]`, (..., length), of values (..., n) and a signal (..., L)."""
    columns = signal.shape[-1]
    padded = functional.pad(values, (columns - 1 - first, length + first - values.shape[-1]))
    return product(padded.flip(-1).unfold(-1, columns, 1), signal).flip(-1)  # a window of them for each t, the last one first


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Returns the product (..., rows) of matrices (..., rows, columns) and vectors (..., columns)."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
