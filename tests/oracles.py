"""Dense float64 references, straight from the definitions and independent of the package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linprog


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


def shortest(point: np.ndarray, slope: np.ndarray, gap: float, norm: float) -> float:
    """The least norm of a shift with ``slope · shift >= gap`` inside the unit cube; inf if there is none."""
    slope, gap = slope / np.abs(slope).max(), gap / np.abs(slope).max()
    steep, room = np.abs(slope), np.where(slope > 0, 1 - point, point)
    if gap <= 0:
        return 0.0
    if steep @ room < gap:
        return np.inf
    if norm == 1:
        return linprog(np.ones_like(room), A_ub=-steep[None], b_ub=[-gap], bounds=[(0, most) for most in room]).fun
    unit, low, high = (steep if norm == 2 else np.ones_like(steep)), 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if steep @ np.minimum(middle * unit, room) < gap else (low, middle)
    return np.linalg.norm(np.minimum(high * unit, room), ord=norm)


def near_bounds(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Images with a third of the values next to a bound."""
    return np.random.default_rng(seed).beta(0.4, 0.4, size=(count, size))


def nearest_boundary(images: np.ndarray, weights: np.ndarray, norm: float) -> np.ndarray:
    """For the linear logits ``images @ weights``, the norm of the shortest change of class inside the unit cube."""
    rows = []
    for image in images:
        logits = image @ weights
        label = logits.argmax()
        rivals = [rival for rival in range(len(logits)) if rival != label]
        slopes = weights - weights[:, [label]]
        rows.append(min(shortest(image, slopes[:, rival], logits[label] - logits[rival], norm) for rival in rivals))
    return np.array(rows)
