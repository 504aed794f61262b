"""Writing TensorBoard logs: runs under one folder, opened when something is first written to them."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf


class Board:
    """TensorBoard logs in a folder; each sub-folder is a run.

    Args:
        folder: The folder, which is created when something is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writers: dict[str, Any] = {}

    def at(self, run: str, step: int | None = None) -> contextlib.AbstractContextManager[Any]:
        """A context in which ``tf.summary`` writes to a run, at a step."""
        if run not in self._writers:
            self._writers[run] = tf.summary.create_file_writer(str(self.folder / run))
        return self._writers[run].as_default(step)  # type: ignore[no-any-return]

    def layout(self, run: str, charts: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        """The charts of the custom-scalars page.

        Args:
            run: The name of the run. TensorBoard shows the pages of several runs in the order of their names.
            charts: The charts of each category: a title, and a regular expression for the keys of its lines.
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
        with self.at(run, 0):
            tf.summary.experimental.write_raw_pb(layout.SerializeToString())

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


def write_hparams(
    folder: str | Path, options: Mapping[str, bool | int | float | str], figures: Mapping[str, float], *, name: str
) -> None:
    """One row of TensorBoard's HParams table: how a run was set up, and what came out.

    Args:
        folder: The folder of this row alone, a TensorBoard run.
        options: The columns on the left. A column stays numeric only while all of its values in all rows are numbers.
        figures: The columns on the right.
        name: The name of the row, unlike those of other rows.
    """
    from tensorboard.plugins.hparams import api

    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        api.hparams(dict(options), trial_id=name)
        for key, value in figures.items():
            tf.summary.scalar(key, value)
    writer.close()
