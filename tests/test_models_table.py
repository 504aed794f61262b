"""The table of docs/guides/models.md is what the package does."""

from __future__ import annotations

import pytest

from tests import models_table

STORED = models_table.cells_of_the_page()
HOW = "run: python -m tests.models_table"


def test_the_page_has_every_kind_and_every_part():
    parts = list(models_table.PARTS)
    assert {kind: list(row) for kind, row in STORED.items()} == dict.fromkeys(models_table.KINDS, parts), HOW
    assert models_table.printed(STORED) == models_table.on_the_page(), HOW


@pytest.mark.slow
@pytest.mark.parametrize("kind", models_table.KINDS)
def test_every_part_does_with_a_kind_of_model_what_the_page_says(kind):
    assert models_table.measured(kind) == STORED[kind], HOW
