"""Names and prose: American spelling, plain words; the list of files still to be mended only shrinks."""

from __future__ import annotations

import pytest

from tests import language


@pytest.fixture(scope="module")
def counts():
    return language.count()


def test_no_file_uses_more_of_the_banned_words_than_the_list_says(counts):
    listed = language.listed()
    worse = [path for path, number in counts.items() if number > listed.get(path, 0)]
    assert not worse, f"these words should be others:\n{language.report(worse)}"


def test_the_list_shrinks_with_the_files(counts):
    better = [path for path, number in language.listed().items() if number > counts.get(path, 0)]
    assert not better, f"fewer words than listed in {better}: run python -m tests.language"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("for each in found:\n    pass", ["each"]),
        ("def chosen(known, *, ours=1): return ours", ["chosen", "known", "ours"]),
        ("found = [each for each in (known := [])]", ["each", "found", "known"]),
        ("import numpy as found\ntry:\n    pass\nexcept ValueError as known:\n    pass", ["found", "known"]),
        ("row = each.found(known=1)  # for each of ours", []),
        ("def penalised(x):\n    '''The colour, lest it be Grey.'''", ["Grey", "colour", "lest", "penalised"]),
        ("serialisation = NORMALISED = 1  # seeds of the choice.", ["NORMALISED", "of the choice", "serialisation"]),
        ("'optimistic, realistic, emphasis, offense, programmed, concentrate, minimal, modeling'", []),
    ],
)
def test_words_of_python_source(source, words):
    assert sorted(word for _, word in language.hits(source, python=True)) == words


def test_only_bound_names_are_banned_and_only_in_python():
    assert language.hits("each row was found; the known ones are ours", python=False) == []
    assert language.hits("line one\nThe defences' behaviour", python=False) == [(2, "defences"), (2, "behaviour")]
    assert language.hits("the seed of\nthe choice", python=False) == [(1, "of\nthe choice")]


@pytest.mark.parametrize(
    ("before", "now", "worse"),
    [
        ({"a": 2, "b": 3}, {"a": 1}, []),
        ({"a": 2, "b": 3}, {"a": 2, "moved": 3}, []),
        ({"a": 2, "b": 3}, {"a": 3}, ["a"]),
        ({"a": 2}, {"a": 2, "new": 1}, ["new"]),
    ],
)
def test_a_new_list_is_accepted_only_if_it_shrank_or_files_moved(before, now, worse):
    assert language.growth(before, now) == worse
