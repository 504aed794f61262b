"""How far a long measurement is, in one line: what is running, how many images are left, and how long it may take."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence


def say(line: str) -> None:
    """Show a line in place of the last one, on stderr if that is a terminal, and otherwise nothing."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{line[:width]}")
        sys.stderr.flush()


class Progress:
    """Tells what is left of some work, from the time that was taken so far.

    Args:
        report: Gets the lines.
        work: For each kind of work its name, and about how long an image takes, in any unit.
        total: The number of images, at most; ``None`` if it is unknown.
    """

    def __init__(self, report: Callable[[str], None], work: Sequence[tuple[str, float]], total: int | None) -> None:
        self.report, self.work, self.total = report, work, total
        self.done, self.timed, self.seconds = [0] * len(work), [0] * len(work), [0.0] * len(work)
        self._begin = time.perf_counter()

    def begin(self, index: int) -> None:
        """Report that a kind of work begins on the next images."""
        self._begin = time.perf_counter()
        done = self.done[index]
        left = f"{done:,} images done" if self.total is None else f"at most {self.total - done:,} images left"
        self.report(f"{self.work[index][0]}: {left}{self._time_left()}")

    def end(self, index: int, num_images: int, *, kept: bool) -> None:
        """Note that this work is done; what was kept from an earlier time took none."""
        self.done[index] += num_images
        if not kept:
            self.timed[index] += num_images
            self.seconds[index] += time.perf_counter() - self._begin

    def _time_left(self) -> str:
        units = sum(timed * weight for timed, (_, weight) in zip(self.timed, self.work, strict=True))
        if self.total is None or not units:
            return ""
        rates = [
            seconds / timed if timed else weight * sum(self.seconds) / units
            for seconds, timed, (_, weight) in zip(self.seconds, self.timed, self.work, strict=True)
        ]
        left = sum(max(0, self.total - done) * rate for done, rate in zip(self.done, rates, strict=True))
        return f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"
