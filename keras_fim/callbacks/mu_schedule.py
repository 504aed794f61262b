"""A schedule for μ, the weight of a Fisher penalty."""

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_fim.arguments import checked, expect


class MuSchedule(keras.callbacks.Callback):
    """Sets μ before each training step, from the number of steps that the optimizer has taken.

    So a resumed training goes on where it stood. The variable ``mu`` is looked for on ``target``, by default the
    compiled model's loss or the model itself, whichever has one. μ is logged as ``mu``.

    Args:
        schedule: a function from the step (an int, from 0) to μ, such as a ``LearningRateSchedule`` of Keras; or a
            number, the μ that a linear warm-up reaches.
        warmup_steps: steps over which μ grows linearly from 0 to what ``schedule`` says.
        target: an object with a ``keras.Variable`` named ``mu``; ``None`` for the compiled model's loss or the model,
            of which only one may have a ``mu`` then.

    Raises:
        ValueError: if ``schedule`` is neither, ``warmup_steps`` is negative, the schedule gives a negative or
            non-finite μ, or there is no ``mu`` on the target, or one on each of two.

    Example:
        >>> warm_up = MuSchedule(0.02, warmup_steps=469)  # an epoch of MNIST in batches of 128
        >>> warm_up.value(0), warm_up.value(469)
        (0.0, 0.02)
    """

    @checked
    def __init__(self, schedule: float | Callable[[int], Any], *, warmup_steps: int = 0, target: Any = None) -> None:
        super().__init__()
        if not callable(schedule) and not 0 <= schedule < math.inf:
            raise ValueError(f"`schedule` should be a function of the step or a number >= 0. Received: {schedule!r}")
        expect(warmup_steps >= 0, "warmup_steps", "at least 0", warmup_steps)
        self.schedule, self.warmup_steps, self.target = schedule, warmup_steps, target

    def value(self, step: int) -> float:
        """μ at a step."""
        scheduled = float(self.schedule(step)) if callable(self.schedule) else float(self.schedule)
        mu = scheduled * min(1.0, step / self.warmup_steps) if self.warmup_steps else scheduled
        if not 0 <= mu < math.inf:
            raise ValueError(f"`schedule` should give finite numbers >= 0. Received: {mu} at step {step}")
        return mu

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the variable."""
        target = self.target if self.target is not None else self.model.loss
        if self.target is None and hasattr(self.model, "mu"):
            if hasattr(target, "mu"):
                raise ValueError("Loss and model have a `mu` each: pass target=model.loss or target=model.")
            target = self.model
        mu = getattr(target, "mu", None)
        if not isinstance(mu, keras.Variable):
            raise ValueError(
                "`target` should have a keras.Variable `mu`, as FisherTraceLoss has. "
                f"Received: {target!r}; compile the model with such a loss or pass target=."
            )
        self._mu = mu

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set μ for this step."""
        self._mu.assign(self.value(int(self.model.optimizer.iterations.numpy())))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log μ."""
        if logs is not None:
            logs["mu"] = float(self._mu.numpy())
