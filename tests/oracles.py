"""Dense float64 references, straight from the definitions and independent of the package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def simplex_fim(p: np.ndarray) -> np.ndarray:
    """``E_y[∇_s log p(y|s) ∇_s log p(y|s)ᵀ]`` for one distribution ``p`` of shape (K,): the paper's section 3.2."""
    total = np.zeros((len(p), len(p)))
    for k, probability in enumerate(p):
        score = np.zeros(len(p))
        score[k] = 1 / probability
        total += probability * np.outer(score, score)
    return total


def logit_fim(p: np.ndarray) -> np.ndarray:
    """The same in the logits, where the score is ``e_k - p``."""
    return sum(p[k] * np.outer(np.eye(len(p))[k] - p, np.eye(len(p))[k] - p) for k in range(len(p)))


def jacobian(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of a function (D,) -> (K,) at ``x``: (K, D)."""
    columns = []
    for index in range(x.size):
        shift = np.zeros(x.size)
        shift[index] = step
        shift = shift.reshape(x.shape)
        columns.append((function(x + shift) - function(x - shift)) / (2 * step))
    return np.stack(columns, axis=-1)


def input_fim(log_p: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """``E_y[∇_x log p(y|x) ∇_x log p(y|x)ᵀ]`` (D, D), from ``log_p``: (D,) -> (K,), by finite differences (eq. 1)."""
    p = np.exp(log_p(x))
    scores = jacobian(log_p, x)
    return sum(p[k] * np.outer(scores[k], scores[k]) for k in range(len(p)))
