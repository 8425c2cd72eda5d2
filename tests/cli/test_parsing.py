"""Words of the command line that are read by rules of their own."""

from pathlib import Path

import pytest

from masactrl.cli.parsing import parse_photo


@pytest.mark.parametrize("source", ["a cat standing", "a cat. It stands", "v1.5 of a cat" * 200])
def test_a_prompt_is_no_picture(source: str) -> None:
    assert parse_photo(source) is None


def test_a_picture_is_known_by_its_ending_or_by_being_there(tmp_path: Path) -> None:
    assert parse_photo("gone/photo.JPG") == Path("gone/photo.JPG")
    there = tmp_path / "photo.jfif"
    assert parse_photo(str(there)) is None
    there.write_bytes(b"")
    assert parse_photo(str(there)) == there
