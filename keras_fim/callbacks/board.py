"""Writing TensorBoard logs: runs under one folder, opened when something is first written to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


class Board:
    """TensorBoard logs in a folder; each sub-folder is a run.

    Args:
        folder: where; created when something is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writers: dict[str, Any] = {}

    def scalars(self, run: str, values: Mapping[str, float], step: int) -> None:
        """One point on a chart for each key."""
        with self._writer(run).as_default(step):
            for key, value in values.items():
                tf.summary.scalar(key, value)

    def histograms(self, run: str, values: Mapping[str, np.ndarray], step: int) -> None:
        """One histogram for each key."""
        with self._writer(run).as_default(step):
            for key, value in values.items():
                tf.summary.histogram(key, value)

    def image(self, run: str, key: str, pixels: np.ndarray | None, step: int) -> None:
        """An image, uint8 ``(height, width, 3)``, if there is one."""
        if pixels is not None:
            with self._writer(run).as_default(step):
                tf.summary.image(key, pixels[None])

    def text(self, run: str, key: str, markdown: str, step: int) -> None:
        """Text in Markdown."""
        with self._writer(run).as_default(step):
            tf.summary.text(key, markdown)

    def layout(self, run: str, charts: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        """The charts of the custom-scalars page.

        Args:
            run: the run's name.
            charts: for each category its charts, a title and a regular expression of the keys whose lines it shows.
        """
        from tensorboard.plugins.custom_scalar import layout_pb2, summary

        categories = [
            layout_pb2.Category(
                title=title,
                chart=[
                    layout_pb2.Chart(title=chart, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))
                    for chart, pattern in members
                ],
            )
            for title, members in charts.items()
        ]
        layout = summary.pb(layout_pb2.Layout(category=categories))
        with self._writer(run).as_default(0):
            tf.summary.experimental.write_raw_pb(layout.SerializeToString())

    def curve(self, run: str, key: str, points: Mapping[int, float]) -> None:
        """A whole chart at once: values by step, in a run that gets no more."""
        with self._writer(run).as_default():
            for step, value in points.items():
                tf.summary.scalar(key, value, step=step)

    def finish(self, run: str) -> None:
        """Close a run."""
        self._writers.pop(run).close()

    def flush(self) -> None:
        """Let readers see all that was written."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close all runs; what is written later opens a new file of the same run."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, run: str) -> Any:
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(self.folder / run))
        return self._writers[run]


def write_hparams(
    folder: str | Path, options: Mapping[str, bool | int | float | str], figures: Mapping[str, float], *, name: str
) -> None:
    """One row of TensorBoard's HParams table: how a run was set up, and what came out.

    Args:
        folder: of the row's own, a TensorBoard run.
        options: the columns on the left.
        figures: the columns on the right.
        name: of the row, unlike those of other rows.
    """
    from tensorboard.plugins.hparams import api

    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        api.hparams(dict(options), trial_id=name)
        for key, value in figures.items():
            tf.summary.scalar(key, value)
    writer.close()
