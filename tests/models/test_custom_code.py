"""Code that comes with a model is never run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from masactrl.errors import MasaCtrlError
from masactrl.models import load_pipeline


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": ["pipeline", "Own"]},
        {"unet": ["own", "Own"]},
        {"_class_name": ["pipeline", "Own"], "unet": ["own", "Own"]},
    ],
    ids=["pipeline", "part", "both"],
)
def test_code_beside_a_model_is_not_run(
    index: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(model_folder, folder)
    code = f"from pathlib import Path\nPath({str(tmp_path / 'run')!r}).touch()\n\nclass Own: ...\n"
    for place in ("pipeline.py", "own.py", "unet/own.py", "unet/unet.py"):
        (folder / place).write_text(code)
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **index}))
    with pytest.raises(MasaCtrlError):
        load_pipeline(folder, device="cpu")
    assert not (tmp_path / "run").exists()
