"""Files are there whole or not at all."""

from pathlib import Path

import pytest

from masactrl.errors import OutputError
from masactrl.pictures.files import at_home, written_whole


def test_what_was_written_takes_the_place_and_nothing_is_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    path.write_text("old")
    with written_whole(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
        assert beside.suffix == path.suffix
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt(), ValueError("odd")])
def test_a_file_stays_as_it_was_when_writing_fails(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "table.md"
    path.write_text("old")
    wanted = OutputError if isinstance(error, OSError) else type(error)

    def fail() -> None:
        with written_whole(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(wanted):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "table.md"
    wanted = pytest.raises(OutputError, match=r"table\.md cannot be written: No such file")
    with wanted, written_whole(path) as beside:
        beside.write_text("new")


def test_a_home_that_is_nobodys_stays_as_it_is() -> None:
    assert at_home("~no-such-user/x") == Path("~no-such-user/x")
    assert at_home("~/x") == Path.home() / "x"
