"""A few trials of the campaign; a tenth of it runs in ``.ci/nightly``, and all of it by ``make campaign``."""

from __future__ import annotations

import pytest

from tests.campaign import damages, disks, fuzz, kills, models


def failures(outcome):
    lost, remark = outcome
    assert lost, remark
    return [text for text in lost if text]


@pytest.mark.slow
def test_public_functions_work_or_name_the_argument(tmp_path):
    assert failures(fuzz.calls(60, 1, tmp_path, slow=False)) == []


@pytest.mark.slow
def test_damaged_files_are_named(tmp_path):
    assert failures(damages.damages(24, 1, tmp_path)) == []


@pytest.mark.nightly
def test_new_models_leave_nothing_behind():
    assert failures(models.models(26, 1)) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["train", "evaluate", "export", "compare"])
def test_nothing_is_lost_by_kills(name, tmp_path):
    assert failures(kills.kills(name, 2, 1, tmp_path)) == []


@pytest.mark.nightly
def test_bad_disks_end_in_a_sentence(tmp_path):
    if not disks.available():
        pytest.skip("no disks can be mounted here")
    assert failures(disks.disks(3, 1, tmp_path)) == []
