"""The rules as the papers print them: R_i = sum over j of z_ij / z_j * R_j, in loops, with the division.

Slow, and undefined where a value is exactly zero. The recursion's coefficient form is tested against these.
"""

import torch
from torch import Tensor


def linear(x: Tensor, W: Tensor, b: Tensor | None, R: Tensor) -> Tensor:
    """The 0-rule (Bach et al. 2015) of y = x @ W + b: z_ij = x_i W_ij, z_j = y_j. x [i], W [i, j], R [j]."""
    y = x @ W if b is None else x @ W + b
    relevance = torch.zeros_like(x)
    for i in range(W.shape[0]):
        for j in range(W.shape[1]):
            relevance[i] += x[i] * W[i, j] / y[j] * R[j]
    return relevance


def frozen_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, R: Tensor, *, centred: bool
) -> Tensor:
    """The LN-rule (Ali et al. 2022): the scale s is constant, so z_ij = x_i (δ_ij - 1/D) w_j / s."""
    width = len(x)
    centre = torch.eye(width, dtype=x.dtype) - (1.0 / width if centred else 0.0)
    scale = ((x @ centre).square().mean() + eps).sqrt()
    return linear(x, centre * (weight / scale), bias, R)


def activation(R: Tensor) -> Tensor:
    """The identity rule (AttnLRP, Eq. 9): one input, one output, z_ij = z_j."""
    return R


def product(R: Tensor) -> tuple[Tensor, Tensor]:
    """The uniform rule (AttnLRP, Eq. 7) of an elementwise product: half each."""
    return R / 2.0, R / 2.0


def matmul(A: Tensor, B: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """The uniform rule of O = A @ B (AttnLRP, Prop. 3.3): each term A_ji B_ip is shared by its factors."""
    O = A @ B  # noqa: E741
    to_A, to_B = torch.zeros_like(A), torch.zeros_like(B)
    for j in range(A.shape[0]):
        for i in range(A.shape[1]):
            for p in range(B.shape[1]):
                share = A[j, i] * B[i, p] * R[j, p] / (2.0 * O[j, p])
                to_A[j, i] += share
                to_B[i, p] += share
    return to_A, to_B


def softmax(x: Tensor, R: Tensor) -> Tensor:
    """AttnLRP, Prop. 3.1: x_i (R_i - s_i sum_j R_j), for logits x and the relevance R of s = softmax(x)."""
    s = torch.softmax(x, dim=-1)
    relevance = torch.zeros_like(x)
    for i in range(len(x)):
        relevance[i] = x[i] * (R[i] - s[i] * R.sum())
    return relevance


def causal_head(q: Tensor, k: Tensor, v: Tensor, scale: float, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AttnLRP through one causal head: R of q, k and v [n, d_head] from that of z = softmax(q k' scale) v."""
    n = len(q)
    scores, pattern = q @ k.T * scale, torch.zeros(n, n, dtype=q.dtype)
    for j in range(n):
        pattern[j, : j + 1] = torch.softmax(scores[j, : j + 1], dim=-1)
    to_pattern, to_v = matmul(pattern, v, R)
    to_scores = torch.zeros_like(scores)
    for j in range(n):
        to_scores[j, : j + 1] = softmax(scores[j, : j + 1], to_pattern[j, : j + 1])
    to_q, to_k = matmul(q, k.T, to_scores)  # the constant scale passes relevance on unchanged
    return to_q, to_k.T, to_v
