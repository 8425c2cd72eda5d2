"""Where things go, said by pictures: the layouts of a run's targets.

    Layout(kind="pose", pictures=(skeleton,))         the embedded model's own ControlNet
    Layout(kind="depth", pictures=(depth,), model="lllyasviel/sd-controlnet-depth")

The paper's Section 4: a ControlNet or T2I-Adapter decides the target's layout, mutual
self-attention its content. The source gets none unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Container, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

from masactrl.errors import ConfigError
from masactrl.pictures.files import at_home
from masactrl.runs.recipe import InputStated
from masactrl.settings.checks import settle
from masactrl.settings.declare import Setting, check
from masactrl.settings.shared import FROM_SOURCE

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.layouts.attach import Guide
    from masactrl.models import LoadedModel

__all__ = [
    "LAYOUT",
    "Layout",
    "LayoutModels",
    "LayoutScale",
    "LayoutUntil",
    "LayoutWords",
    "PicturesWhenWanted",
    "check_layouts",
    "guides_of",
    "layout_of_files",
    "networks_of",
    "stated_file",
    "stated_files",
]

LAYOUT: Final = "Layout"
"""Heading of --help."""


class PicturesWhenWanted(Sequence["Image.Image"]):
    """Pictures that are read or drawn each time that one is asked for, and not kept.

    Args:
        count: how many there are.
        make: number, from 0 -> picture.
    """

    def __init__(self, count: int, make: Callable[[int], Image.Image]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        """Return a picture, or, for a slice, a tuple of them."""
        places = range(self._count)[number]
        if isinstance(places, range):
            return tuple(self._make(place) for place in places)
        return self._make(places)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """One kind of layout for the targets.

    Attributes:
        kind: "pose", for which the embedded model has a network, or any word for the network of
            ``model``.
        pictures: one for all targets or one each, of the run's proportions; what the network reads:
            coloured limbs or white lines on black, for example. `PicturesWhenWanted` makes them
            one by one.
        source: the source's own; None gives it none, as the paper does.
        scale: weight of what the network says, 0 and more.
        begin, end: the part of the steps at which it leads, 0 <= begin < end <= 1.
        model: folder, `.safetensors` file or Hub id of a ControlNet or T2I-Adapter; None is the
            embedded model's own.
        stated: name and hash of the files of pictures, or of their film, for recipes; empty where
            they were no files.

    Raises:
        ConfigError: there is no picture, a number is out of range, or ``stated`` is not of the
            pictures.
    """

    kind: str
    pictures: Sequence[Image.Image]
    source: Image.Image | None = None
    scale: float = 1.0
    begin: float = 0.0
    end: float = 1.0
    model: str | None = None
    stated: tuple[InputStated, ...] = ()

    def __post_init__(self) -> None:
        settle(self)
        if not isinstance(self.pictures, PicturesWhenWanted):
            object.__setattr__(self, "pictures", tuple(self.pictures))
        if not self.kind.strip():
            raise ConfigError("A layout has a kind, such as pose or edges.")
        if not self.pictures:
            raise ConfigError(f"The layout {self.kind} has no picture; give at least one.")
        if self.scale < 0:
            raise ConfigError(f"scale={self.scale} was given; accepted is 0 and more.")
        if not 0 <= self.begin < self.end <= 1:
            raise ConfigError(
                f"The layout {self.kind} was to lead from {self.begin:g} to {self.end:g} of the "
                "steps; the begin lies before the end, both in 0 to 1."
            )
        count = len(self.pictures) + (self.source is not None)
        if len(self.stated) not in (0, 1, count):  # one is a film
            raise ConfigError(f"{len(self.stated)} files were stated for {count} pictures.")

    def of_target(self, number: int, count: int) -> Image.Image:
        """Return the picture of target ``number`` (from 1) of so many.

        Raises:
            ConfigError: there are more or fewer pictures than targets.
        """
        if len(self.pictures) not in (1, count):
            raise ConfigError(
                f"The layout {self.kind} has {len(self.pictures)} pictures for {count} targets; "
                "give one for all or one each."
            )
        return self.pictures[0 if len(self.pictures) == 1 else number - 1]

    def described(self) -> dict[str, Any]:
        """Return it as values that JSON knows; of pictures how many, not the pixels."""
        local = self.model is not None and at_home(self.model).exists()
        return {
            "kind": self.kind,
            "scale": self.scale,
            "begin": self.begin,
            "end": self.end,
            # Of what lies on this machine the name alone: a recipe tells nobody's folders.
            "model": PurePath(self.model or "").name or None if local else self.model,
            "local": local,
            "files": len(self.pictures),
            "source": self.source is not None,
        }


LayoutModels = Annotated[
    tuple[str, ...],
    Setting(
        help="The ControlNet or T2I-Adapter of a kind: a folder, a .safetensors file or a Hub "
        "id; the embedded model has its own for pose.",
        metavar="KIND=MODEL",
        usual="none",
        panel=LAYOUT,
    ),
]
LayoutScale = Annotated[
    float, Setting(help="Weight of the layout, 0 and more.", low=0, panel=LAYOUT)
]
LayoutUntil = Annotated[
    float,
    Setting(
        help="Part of the steps, from the first, at which the layout leads; above 0, up to 1.",
        above=0,
        high=1,
        panel=LAYOUT,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutWords:
    """Layouts in the words of the command line."""

    layout: Annotated[
        tuple[str, ...],
        Setting(
            help="A picture that says where things go in the targets, such as pose=run.png or "
            "edges=lines.png; repeat it for several kinds, or for one of each target.",
            metavar="KIND=FILE",
            usual="none",
            panel=LAYOUT,
        ),
    ] = ()
    layout_model: LayoutModels = ()
    layout_scale: LayoutScale = 1.0
    layout_until: LayoutUntil = 1.0

    def __post_init__(self) -> None:
        settle(self)
        check(self)

    def layouts(self) -> tuple[Layout, ...]:
        """Return the layouts, one of each kind, with the pictures read.

        Raises:
            ConfigError: a word is not written KIND=VALUE, a picture cannot be read, or a model is
                named for a kind without a picture.
        """
        files: dict[str, list[Path]] = {}
        for kind, name in (_pair(word, "run.png") for word in self.layout):
            files.setdefault(kind, []).append(Path(name))
        models = networks_of(self.layout_model, files, "--layout KIND=FILE")
        made = [layout_of_files(kind, paths, models.get(kind)) for kind, paths in files.items()]
        return tuple(replace(one, scale=self.layout_scale, end=self.layout_until) for one in made)

    def networks(self) -> dict[str, str]:
        """Return the networks by kind; `ConfigError` where a word is not written KIND=MODEL."""
        return networks_of(self.layout_model)


def networks_of(
    words: Sequence[str], kinds: Container[str] | None = None, flag: str = ""
) -> dict[str, str]:
    """Return what is written KIND=MODEL, by kind.

    Raises:
        ConfigError: a word is not written so, or its kind is none of ``kinds``, those that
            ``flag`` gave a picture of.
    """
    found = dict(_pair(word, "FOLDER") for word in words)
    for kind in found:
        if kinds is not None and kind not in kinds:
            raise ConfigError(
                f"--layout-model names a network for {kind}, and no {flag.replace('KIND', kind)} "
                "was given."
            )
    return found


def _pair(word: str, example: str) -> tuple[str, str]:
    kind, sign, value = word.partition("=")
    if not sign or not kind.strip() or not value:
        raise ConfigError(f"{word!r} is no layout; write KIND=VALUE, like pose={example}.")
    return kind.strip(), value


def layout_of_files(kind: str, files: Sequence[Path], model: str | None = None) -> Layout:
    """Return a layout with the pictures of these files, their names and hashes.

    Raises:
        ConfigError: one cannot be read.
    """
    from masactrl.pictures.input import read_picture

    pictures = tuple(read_picture(path) for path in files)
    return Layout(kind=kind, pictures=pictures, model=model, stated=tuple(map(stated_file, files)))


def stated_file(path: Path) -> InputStated:
    """Return name and hash of a file, for recipes."""
    from masactrl.models.origin import file_hash

    return InputStated(name=path.name, hash=file_hash(path))


def check_layouts(request: LayoutsAsked) -> None:
    """Refuse layouts that do not fit the targets, or a method that takes none; `ConfigError`."""
    if not request.layouts:
        return
    if request.method in FROM_SOURCE:
        raise ConfigError(
            f"Targets of {request.method} are a run of their own, which takes no layout yet; leave "
            "the layout out, or take another method."
        )
    for layout in request.layouts:
        layout.of_target(1, len(request.target_prompts))


def stated_files(layouts: Sequence[Layout]) -> tuple[InputStated, ...]:
    """Return name and hash of the files of these layouts, in the order of a recipe's inputs."""
    return tuple(one for layout in layouts for one in layout.stated)


class LayoutsAsked(Protocol):
    """What requests with layouts have in common."""

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Layouts of the targets."""
        ...

    @property
    def method(self) -> str:
        """Who controls the targets."""
        ...

    @property
    def target_prompts(self) -> tuple[str, ...]:
        """What the targets show."""
        ...


def guides_of(
    model: LoadedModel,
    layouts: Sequence[Layout],
    *,
    size: tuple[int, int],
    images: Sequence[int],
    targets: int,
    padded: tuple[int, int] | None = None,
    networks: MutableMapping[tuple[str, str | None], Any] | None = None,
) -> list[Guide]:
    """Return what leads the U-Net, its networks loaded.

    Args:
        model: whose U-Net it is.
        layouts: what was asked for.
        size: height and width of the run in pixels.
        images: of every row of a guidance branch: 0 the source, k target k.
        targets: how many there are.
        padded: height and width that the model sees, where lower and right edges are repeated.
        networks: loaded ones by kind and source; what is missing is added. None loads all anew.

    Raises:
        ConfigError: a picture has other proportions than the run, or their number does not fit.
        ModelNotFound: a network cannot be read, or there is none for the kind.
        UnsupportedPipeline: a network is of another family than the U-Net.
    """
    from masactrl.layouts.attach import Guide
    from masactrl.layouts.networks import load_network
    from masactrl.layouts.pictures import layout_tensor

    guides, loaded = [], {} if networks is None else networks
    for layout in layouts:
        if (key := (layout.kind, layout.model)) not in loaded:
            loaded[key] = load_network(model, *key)
        network = loaded[key]
        of = {k: layout.of_target(k, targets) if k else layout.source for k in set(images)}
        drawn = {
            k: None if one is None else layout_tensor(one, network, size, layout.kind, padded)
            for k, one in of.items()
        }
        guides.append(
            Guide(
                network=network,
                pictures=tuple(drawn[image] for image in images),
                scale=layout.scale,
                begin=layout.begin,
                end=layout.end,
            )
        )
    return guides
