"""Masks of an edit in the words of the command line and of manifests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from masactrl.errors import ConfigError
from masactrl.settings.checks import settle
from masactrl.settings.declare import Setting, check
from masactrl.settings.shared import MASKS

if TYPE_CHECKING:
    from masactrl.runs.edit_request import EditMasks

__all__ = ["MaskWords"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskWords:
    """Masks as files or as words of the prompts."""

    mask_file: Annotated[
        str | None,
        Setting(
            help="White where the subject of the picture is; subject and background are kept "
            "apart.",
            metavar="FILE",
            usual="none",
            panel=MASKS,
        ),
    ] = None
    target_mask_file: Annotated[
        tuple[str, ...],
        Setting(
            help="The same for the targets: one for all, or one each.",
            metavar="FILE",
            usual="that of the picture",
            panel=MASKS,
        ),
    ] = ()
    mask_word: Annotated[
        tuple[str, ...],
        Setting(
            help="The subject as the target prompts name it, in place of files: one for all, or "
            "one each.",
            metavar="WORD",
            usual="none",
            panel=MASKS,
        ),
    ] = ()
    source_mask_word: Annotated[
        str | None,
        Setting(help="The subject as --from names it.", metavar="WORD", usual="none", panel=MASKS),
    ] = None
    mask_threshold: Annotated[
        float | None,
        Setting(
            help="Attention from which a place belongs to --mask-word; above 0, up to 1.",
            above=0,
            high=1,
            usual="0.1",
            panel=MASKS,
        ),
    ] = None

    def __post_init__(self) -> None:
        settle(self)
        check(self)

    def masks(self, *, limit: int | None = None) -> EditMasks | None:
        """Return the masks, with the files read; None where neither words nor files say any.

        Args:
            limit: pixels above which a file is refused; None is the usual limit.

        Raises:
            ConfigError: both are given, or a threshold without words; a file cannot be read.
        """
        from masactrl.models.origin import file_hash
        from masactrl.pictures.input import PIXEL_LIMIT, read_mask
        from masactrl.runs.edit_request import EditMasks
        from masactrl.runs.recipe import InputStated

        words = self.source_mask_word or self.mask_word
        if words and (self.mask_file or self.target_mask_file):
            raise ConfigError("Masks come from files or from words; give one of them.")
        if words:
            named = EditMasks(source=self.source_mask_word, targets=self.mask_word or None)
            given = self.mask_threshold
            return named if given is None else replace(named, threshold=given)
        if self.mask_threshold is not None:
            raise ConfigError(
                "--mask-threshold belongs to --mask-word; name a word or leave it out."
            )
        source = None if self.mask_file is None else Path(self.mask_file)
        targets = [Path(one) for one in self.target_mask_file]
        paths = [one for one in (source, *targets) if one is not None]
        if not paths:
            return None
        most = PIXEL_LIMIT if limit is None else limit
        pictures = {path: read_mask(path, limit=most) for path in paths}
        return EditMasks(
            source=None if source is None else pictures[source],
            targets=tuple(pictures[one] for one in targets) or None,
            stated=tuple(InputStated(name=one.name, hash=file_hash(one)) for one in paths),
        )
