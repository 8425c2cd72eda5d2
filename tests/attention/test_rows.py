from __future__ import annotations

import pytest
import torch

from masactrl.attention import Rows
from masactrl.errors import ConfigError, RowsError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("rows", "reads"),
    [
        (Rows.one_source(targets=1), ((0,), (0,))),
        (Rows.one_source(targets=3), ((0,), (0,), (0,), (0,))),
        (Rows.one_source(targets=1, images_per_prompt=2), ((0,), (1,), (0,), (1,))),
        (Rows.groups([(1, 1), (1, 2)]), ((0,), (0,), (2,), (2,), (2,))),
        (Rows.groups([(2, 1)]), ((0,), (1,), (0, 1))),
        (Rows.groups([(2, 1)], images_per_prompt=2), ((0,), (1,), (2,), (3,), (0, 2), (1, 3))),
        (Rows.from_cache(targets=2), ((2,), (2,))),
        (Rows.from_cache(targets=1, sources=2, images_per_prompt=2), ((2, 3), (2, 3))),
        (Rows.plain(images=2), ((0,), (1,))),
    ],
)
def test_tables(rows: Rows, reads: tuple[tuple[int, ...], ...]) -> None:
    assert rows.reads == reads


def test_who_is_involved() -> None:
    rows = Rows(images=4, reads=((0,), (0, 4), (2,), (3,)), cached=1)
    assert rows.targets == (1,)
    assert rows.involved == {0, 1, 4}


def test_the_official_layout() -> None:
    """[uncond source, uncond target, cond source, cond target], each branch on its own."""
    layout = Rows.one_source(targets=1).on_batch(4, CPU)
    assert layout.branches == 2
    assert layout.single is not None
    assert layout.single.tolist() == [0, 0, 2, 2]
    assert [part.rows.tolist() for part in layout.parts] == [[0, 2], [1, 3]]
    assert layout.parts[1].sources[0].tolist() == [0, 2]


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_any_number_of_branches(branches: int) -> None:
    layout = Rows.one_source(targets=2).on_batch(3 * branches, CPU)
    assert layout.branches == branches
    assert layout.single is not None
    assert layout.single.tolist() == [3 * branch for branch in range(branches) for _ in range(3)]


def test_recorded_sources_follow_each_branch_in_the_bank() -> None:
    layout = Rows.from_cache(targets=2).on_batch(4, CPU)
    # The bank is [row 0, row 1, source | row 2, row 3, source].
    assert layout.single is not None
    assert layout.single.tolist() == [2, 2, 5, 5]
    assert layout.parts[0].own.tolist() == [0, 1, 3, 4]


def test_parts_go_back_into_order() -> None:
    layout = Rows.groups([(1, 1), (2, 1)]).on_batch(10, CPU)
    rows = torch.cat([part.rows for part in layout.parts])
    assert rows[layout.restore].tolist() == list(range(10))
    assert layout.single is None


def test_branches_of_different_latents_are_other_images() -> None:
    rows, latents = Rows.one_source(targets=1), torch.arange(4.0).reshape(4, 1, 1, 1)
    with pytest.raises(RowsError, match=r"4 rows for the 2 images.*2 branches hold different"):
        rows.check_latents(latents)
    rows.check_latents(latents % 2)
    rows.check_latents(latents[:2])
    rows.check_latents(torch.full_like(latents, torch.nan))  # that is said elsewhere


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rows(images=0, reads=()), "at least one image"),
        (lambda: Rows(images=2, reads=((0,),)), "describes 1 images"),
        (lambda: Rows(images=2, reads=((0,), (2,))), "image 2, which does not exist.*0 to 1"),
        (lambda: Rows(images=2, reads=((0,), (-1,))), "does not exist"),
        (lambda: Rows(images=2, reads=((0,), ())), "reads nothing"),
        (lambda: Rows(images=2, reads=((0,), (0, 0))), "only once"),
        (lambda: Rows(images=1, reads=((0,),), cached=-1), "0 or more"),
        (lambda: Rows.groups([]), "No group"),
        (lambda: Rows.groups([(0, 1)]), "at least one source"),
        (lambda: Rows.one_source(targets=1, images_per_prompt=0), "1 or more"),
        (lambda: Rows.from_cache(targets=0), "at least 1"),
        (lambda: Rows.one_source(targets=1).branches(3), "3 rows.*no multiple of the 2 images"),
    ],
)
def test_bad_rows_are_sentences(make: object, words: str) -> None:
    with pytest.raises(RowsError, match=words) as caught:
        make()  # type: ignore[operator]
    assert isinstance(caught.value, ConfigError)
    assert str(caught.value).endswith(".")
