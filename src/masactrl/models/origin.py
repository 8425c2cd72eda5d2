"""Where a loaded model came from, in words that a picture may carry.

A recipe names a model so that someone else can find it again. Paths stay out of it: they mean
nothing on another machine, and tell about this one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from masactrl.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from masactrl.models.loading import Pipeline

OriginKind = Literal["embedded", "folder", "file", "hub", "object"]
"""What the name of a model is the name of; `object` is a pipeline that was built by hand."""

_SHOWN = 16  # letters of a hash: 64 bits, far beyond an accident


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraOrigin:
    """One LoRA that a model was given.

    Attributes:
        name: of its file, without the folder.
        scale: weight it was added with.
        hash: the first 16 letters of the file's SHA-256.
    """

    name: str
    scale: float
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model came from.

    Attributes:
        kind: see `OriginKind`.
        revision: commit of a Hub id.
        weights: hash of a sample of the weights in the precision they were loaded in, before any
            LoRA; see `masactrl.models.fingerprint`.
        loras: in the order in which they were added.
    """

    kind: OriginKind = "object"
    revision: str | None = None
    weights: str | None = None
    loras: tuple[LoraOrigin, ...] = ()


def weights_hash(pipeline: Pipeline) -> str:
    """Return 16 letters that differ for other weights, and for the same in another precision."""
    sample = fingerprint(pipeline).cpu().contiguous()
    return hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:_SHOWN]


def file_hash(path: Path) -> str:
    """Return the first 16 letters of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_SHOWN]
