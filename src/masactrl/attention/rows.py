"""Who reads whom: for every image of a run, the images whose keys and values it reads.

A pipeline call makes n images (prompts x images per prompt). The batch that reaches the U-Net is
k guidance branches of the same n images: k = 2 with classifier-free guidance, 1 without, 3 for
pipelines with a second guidance. A row of one branch only ever reads rows of the same branch
(the paper's code: the target's unconditional half queries the source's unconditional half).
n is told by the caller and k follows; half of the batch is never assumed to mean anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from masactrl.errors import RowsError
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BatchRows", "Part", "Rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The reads of every image of one guidance branch.

    `images` is the number of images of the run, `reads[i]` the images whose keys and values image i
    reads; `(i,)` is plain self-attention, several entries are read together (their keys side by
    side). `cached` sources come from an earlier recording instead of the batch: they are numbered
    `images`, `images + 1`, ... Raises `RowsError` when a number points nowhere.

    >>> Rows.one_source(targets=2).reads
    ((0,), (0,), (0,))
    """

    images: int
    reads: tuple[tuple[int, ...], ...]
    cached: int = 0

    def __post_init__(self) -> None:
        settle(self, RowsError)
        object.__setattr__(self, "reads", tuple(tuple(entry) for entry in self.reads))
        if self.images < 1:
            raise RowsError(f"A run makes at least one image; images={self.images} was given.")
        if self.cached < 0:
            raise RowsError(f"cached={self.cached} sources were given; use 0 or more.")
        if len(self.reads) != self.images:
            raise RowsError(
                f"reads describes {len(self.reads)} images but images={self.images} was given. "
                "Give one entry per image; an image that reads itself is written (its number,)."
            )
        last = self.images + self.cached - 1
        for image, entry in enumerate(self.reads):
            if not entry:
                raise RowsError(
                    f"Image {image} reads nothing. Give at least one image number; "
                    f"({image},) leaves it uncontrolled."
                )
            if len(set(entry)) != len(entry):
                raise RowsError(f"Image {image} reads {entry}: name every image only once.")
            for source in entry:
                if not 0 <= source <= last:
                    raise RowsError(
                        f"Image {image} reads image {source}, which does not exist. "
                        f"Accepted are 0 to {last}; check the number of prompts of the run."
                    )

    @classmethod
    def one_source(cls, *, targets: int, images_per_prompt: int = 1) -> Rows:
        """Prompt 0 is the source and `targets` further prompts read it."""
        return cls.groups([(1, targets)], images_per_prompt=images_per_prompt)

    @classmethod
    def groups(cls, groups: Sequence[tuple[int, int]], *, images_per_prompt: int = 1) -> Rows:
        """Independent groups in one batch, each `(sources, targets)`, in prompt order.

        Within a group the sources come first and read themselves; every target reads all of the
        group's sources.

        >>> Rows.groups([(1, 1), (2, 1)]).reads
        ((0,), (0,), (2,), (3,), (2, 3))
        """
        if not groups:
            raise RowsError("No group was given. Give at least one (sources, targets) pair.")
        reads: list[tuple[int, ...]] = []
        for sources, targets in groups:
            if sources < 1 or targets < 0:
                raise RowsError(
                    f"A group of {sources} sources and {targets} targets was given. "
                    "A group has at least one source and no negative number of targets."
                )
            own = tuple(range(len(reads), len(reads) + sources))
            reads.extend((source,) for source in own)
            reads.extend([own] * targets)
        return cls(images=len(reads), reads=tuple(reads)).repeated(images_per_prompt)

    @classmethod
    def from_cache(cls, *, targets: int, sources: int = 1, images_per_prompt: int = 1) -> Rows:
        """Every image is a target and reads all `sources` recorded sources."""
        if targets < 1 or sources < 1:
            raise RowsError(
                f"targets={targets} and sources={sources} were given; both are at least 1."
            )
        images = targets * images_per_prompt
        entry = tuple(range(images, images + sources))
        return cls(images=images, reads=(entry,) * images, cached=sources)

    @classmethod
    def plain(cls, *, images: int) -> Rows:
        """Every image reads itself: an attached control that changes nothing."""
        return cls(images=images, reads=tuple((image,) for image in range(images)))

    @property
    def targets(self) -> tuple[int, ...]:
        """The images that read anything but themselves."""
        return tuple(image for image, entry in enumerate(self.reads) if entry != (image,))

    @property
    def involved(self) -> frozenset[int]:
        """The images that read another or are read by another, recorded sources included."""
        return frozenset(i for target in self.targets for i in (target, *self.reads[target]))

    def repeated(self, images_per_prompt: int) -> Rows:
        """The same reads for `num_images_per_prompt` images of every prompt.

        diffusers repeats prompt by prompt (p0 p0 p1 p1 ...); the j-th image of a target reads the
        j-th image of its source.
        """
        if images_per_prompt < 1:
            raise RowsError(f"images_per_prompt={images_per_prompt} was given; use 1 or more.")
        if images_per_prompt == 1:
            return self
        images = self.images * images_per_prompt
        reads = [
            tuple(
                source * images_per_prompt + copy
                if source < self.images
                else images + source - self.images
                for source in entry
            )
            for entry in self.reads
            for copy in range(images_per_prompt)
        ]
        return Rows(images=images, reads=tuple(reads), cached=self.cached)

    def branches(self, batch: int) -> int:
        """Number of guidance branches in a batch of `batch` rows; `RowsError` when it is uneven."""
        if batch % self.images:
            raise RowsError(
                f"The denoiser got {batch} rows, which is no multiple of the {self.images} images "
                "the control was told of. Count prompts x num_images_per_prompt (use "
                "images_per_prompt=...) and attach with Rows of that many images."
            )
        return batch // self.images

    def check_latents(self, latents: Tensor) -> None:
        """Refuse a batch (rows, ...) whose guidance branches are not the same images.

        All branches of a run see the same latents. Where they don't, the run has more images than
        were told (num_images_per_prompt, as a rule), and rows would read others than was meant.
        """
        branches = self.branches(latents.shape[0])
        parts = latents.reshape(branches, self.images, *latents.shape[1:])
        if not bool(((parts == parts[:1]) | parts.isnan()).all()):
            raise RowsError(
                f"The denoiser got {latents.shape[0]} rows for the {self.images} images the "
                f"control was told of, but these {branches} branches hold different latents, so "
                "the run has more images. Count prompts x num_images_per_prompt (use "
                "images_per_prompt=...) and attach with Rows of that many images."
            )

    def on_batch(self, batch: int, device: torch.device) -> BatchRows:
        """The index tensors of a batch of `batch` rows."""
        branches = self.branches(batch)
        stride = self.images + self.cached
        by_length: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        for branch in range(branches):
            for image, entry in enumerate(self.reads):
                row, sources = branch * self.images + image, [branch * stride + s for s in entry]
                length = 0 if entry == (image,) else len(entry)
                by_length.setdefault(length, []).append((row, tuple(sources)))

        def index(numbers: Sequence[int]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.long, device=device)

        parts = tuple(
            Part(
                rows=index([row for row, _ in members]),
                own=index([_bank_row(row, self.images, stride) for row, _ in members]),
                sources=tuple(index([s[k] for _, s in members]) for k in range(length)),
            )
            for length, members in sorted(by_length.items())
        )
        single = None
        if all(len(entry) == 1 for entry in self.reads):
            single = index([b * stride + entry[0] for b in range(branches) for entry in self.reads])
        order = torch.cat([part.rows for part in parts])
        return BatchRows(
            branches=branches,
            images=self.images,
            single=single,
            parts=parts,
            restore=torch.argsort(order),
        )


def _bank_row(row: int, images: int, stride: int) -> int:
    return row // images * stride + row % images


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Batch rows that read the same number of images.

    `rows` (r,) are row numbers in the batch, `own` (r,) the same rows in the bank of hidden states,
    `sources` one (r,) tensor of bank rows for every image read; no sources means plain attention.
    The bank is the batch itself, or, with recorded sources, every branch of the batch followed by
    that branch of the recording.
    """

    rows: Tensor
    own: Tensor
    sources: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRows:
    """`Rows` laid out for one batch.

    `single` (rows,) is the bank row read by each batch row when everybody reads exactly one image,
    else None; `parts` cover all rows, grouped by how many images they read; `restore` (rows,) puts
    the concatenated parts back into batch order.
    """

    branches: int
    images: int
    single: Tensor | None
    parts: tuple[Part, ...]
    restore: Tensor
