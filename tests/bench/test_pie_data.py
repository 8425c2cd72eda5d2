"""PIE-Bench's data: masks, brackets, and every kind of row that cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from pie_parts import PART

from masactrl.batch.pie_data import decode_mask, read_pie
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_masks_are_cut_at_the_end_and_framed() -> None:
    mask = decode_mask(PART)
    literal = np.zeros(512 * 512)
    for start, length in ((PART[0], PART[1]), (PART[2], PART[3])):
        for place in range(start, min(start + length, 512 * 512)):
            literal[place] = 1
    literal = literal.reshape(512, 512)
    literal[0] = literal[-1] = 1
    literal[:, 0] = literal[:, -1] = 1
    assert mask.dtype == np.uint8
    assert (mask == literal).all()
    assert int(decode_mask([]).sum()) == 4 * 511


def test_bad_rows_are_named_and_brackets_stripped(folder: Path) -> None:
    data = read_pie(folder)
    assert [item.key[-2:] for item in data.items] == ["00", "01", "02"]
    assert data.items[0].source_prompt == "a cat sitting"
    assert data.items[0].target_prompt == "a dog running"
    assert (data.items[0].blended_word, data.items[2].blended_word) == (("cat", "dog"), ())
    reasons = {problem.key[-2:]: problem.reason for problem in data.problems}
    for key, words in {
        "03": "none.jpg is missing",
        "04": "3 entries, and they come in pairs",
        "05": "run 262144, 3",
        "06": "editing prompt is empty",
        "07": "outside of annotation_images",
        "08": "no JSON object",
        "09": "editing_type_id is missing or no text",
        "10": "cannot be read",
    }.items():
        assert words in reasons[key]
    assert len(read_pie(folder, types=["8"]).items) == 1


@pytest.mark.parametrize(
    ("text", "sentence"), [("{", "is no JSON"), ("[]", "no JSON object"), (None, "cannot be read")]
)
def test_a_mapping_that_is_none(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "mapping_file.json").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        read_pie(tmp_path)
