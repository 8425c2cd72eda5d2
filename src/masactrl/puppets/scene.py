"""A scene of the puppet world as frozen data: who, doing what, where, seen how.

Everything a picture shows is decided here and nowhere else: `render(scene)` has no randomness of
its own, so two scenes that differ only in ``pose`` are the right answer of a non-rigid edit.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, replace
from typing import Final

import torch

from masactrl.errors import ConfigError

SPECIES: Final = ("cat", "dog", "fox", "rabbit", "horse", "elephant", "bear", "giraffe")
ACTIONS: Final = (
    "standing",
    "sitting",
    "running",
    "jumping",
    "lying",
    "rearing",
    "grazing",
    "looking back",
)
FACINGS: Final = ("left", "right")
PLACES: Final = ("meadow", "beach", "desert", "forest", "snow", "city")
PATTERNS: Final = ("plain", "stripes", "spots", "patches", "socks")
SHOTS: Final = ("full body", "close-up")

#: Named coat colours (sRGB in [0, 1]); a sampled colour is a name plus a small jitter.
COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "white": (0.93, 0.92, 0.89),
    "black": (0.16, 0.15, 0.18),
    "grey": (0.55, 0.56, 0.60),
    "brown": (0.45, 0.28, 0.16),
    "orange": (0.90, 0.50, 0.14),
    "golden": (0.93, 0.76, 0.30),
    "red": (0.76, 0.20, 0.18),
    "pink": (0.93, 0.58, 0.70),
    "purple": (0.50, 0.28, 0.66),
    "blue": (0.22, 0.38, 0.78),
    "turquoise": (0.16, 0.66, 0.68),
    "green": (0.34, 0.62, 0.24),
}

Colour = tuple[float, float, float]

PROPORTIONS: Final = 5  # leg, girth, head, ear, tail
JITTERS: Final = 10  # pose angles
BACKDROPS: Final = 10  # free parameters of a place


def _one_of(value: str, allowed: tuple[str, ...], what: str) -> None:
    if value not in allowed:
        raise ConfigError(f"{what} {value!r} is not one of {', '.join(allowed)}.")


def _within(values: tuple[float, ...], count: int, low: float, high: float, what: str) -> None:
    if len(values) != count or not all(low <= v <= high for v in values):
        raise ConfigError(f"{what} must be {count} numbers in [{low}, {high}], not {values}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What must survive an edit: the animal itself.

    Attributes:
        species: one of `SPECIES`.
        proportions: leg, girth, head, ear and tail size relative to the species, in [0.85, 1.15].
        coat, accent: sRGB in [0, 1]; the accent draws the pattern, muzzle, inner ear and tail tip.
        pattern: one of `PATTERNS`.
        frequency: repeats of the pattern per body unit, in [0.8, 1.25] relative to the pattern.
        phase: in turns, [0, 1].
        angle: tilt of the pattern against the body axis, radians, [-0.6, 0.6].
        collar: sRGB in [0, 1], or None.
    """

    species: str
    proportions: tuple[float, ...]
    coat: Colour
    accent: Colour
    pattern: str
    frequency: float
    phase: float
    angle: float
    collar: Colour | None

    def __post_init__(self) -> None:
        _one_of(self.species, SPECIES, "species")
        _one_of(self.pattern, PATTERNS, "pattern")
        _within(self.proportions, PROPORTIONS, 0.85, 1.15, "proportions")
        for name, colour in (("coat", self.coat), ("accent", self.accent)):
            _within(colour, 3, 0.0, 1.0, name)
        if self.collar is not None:
            _within(self.collar, 3, 0.0, 1.0, "collar")
        _within((self.frequency,), 1, 0.8, 1.25, "frequency")
        _within((self.phase,), 1, 0.0, 1.0, "phase")
        _within((self.angle,), 1, -0.6, 0.6, "angle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """What an edit changes.

    Attributes:
        action: one of `ACTIONS`.
        facing: one of `FACINGS`.
        jitter: how far spine, four legs (near hind, far hind, near front, far front), neck, head
            and tail are bent away from the action, in units of 3 to 8 degrees. In the model's
            training each is in [-1, 1]; up to 8 makes poses that no words can say.
        towards, share: a second action and how much of the way there the body is, in [0, 1].
    """

    action: str
    facing: str
    jitter: tuple[float, ...] = (0.0,) * JITTERS
    towards: str | None = None
    share: float = 0.0

    def __post_init__(self) -> None:
        _one_of(self.action, ACTIONS, "action")
        _one_of(self.facing, FACINGS, "facing")
        _within(self.jitter, JITTERS, -8.0, 8.0, "jitter")
        if self.towards is not None:
            _one_of(self.towards, ACTIONS, "towards")
        elif self.share != 0.0:
            raise ConfigError(f"share is {self.share}, but towards names no action.")
        _within((self.share,), 1, 0.0, 1.0, "share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """The place and its free parameters (sun, hills, trees, tints), each in [0, 1]."""

    place: str
    parameters: tuple[float, ...] = (0.5,) * BACKDROPS

    def __post_init__(self) -> None:
        _one_of(self.place, PLACES, "place")
        _within(self.parameters, BACKDROPS, 0.0, 1.0, "backdrop parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Framing: the shot, and offsets of position (x, y) and scale, each in [-1, 1].

    Of x up to 4 is accepted: as far to the side as the animal fits.
    """

    shot: str = "full body"
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        _one_of(self.shot, SHOTS, "shot")
        _within(self.offset[1:], 2, -1.0, 1.0, "camera offset")
        _within(self.offset[:1], 1, -4.0, 4.0, "camera offset x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture of the world: identity, pose, backdrop and camera."""

    identity: Identity
    pose: Pose
    backdrop: Backdrop
    camera: Camera = Camera()

    def acting(
        self,
        action: str | None = None,
        *,
        facing: str | None = None,
        jitter: tuple[float, ...] | None = None,
    ) -> Scene:
        """The same animal in the same place with another action, facing or joint jitter."""
        pose = replace(
            self.pose,
            action=action or self.pose.action,
            facing=facing or self.pose.facing,
            jitter=self.pose.jitter if jitter is None else jitter,
        )
        return replace(self, pose=pose)


def colour_name(colour: Colour) -> str:
    """The name of the nearest colour in `COLOURS` (squared sRGB distance)."""
    return min(
        COLOURS, key=lambda n: sum((a - b) ** 2 for a, b in zip(COLOURS[n], colour, strict=True))
    )


def _jittered(base: Colour, u: list[float]) -> Colour:
    """A colour near ``base``: hue +-0.012 turns, saturation and value +-8 %."""
    h, s, v = colorsys.rgb_to_hsv(*base)
    h = (h + 0.012 * (2 * u[0] - 1)) % 1.0
    s = min(1.0, s * (1 + 0.08 * (2 * u[1] - 1)))
    v = min(1.0, v * (1 + 0.08 * (2 * u[2] - 1)))
    return colorsys.hsv_to_rgb(h, s, v)


def _distance(a: Colour, b: Colour) -> float:
    weights = (0.30, 0.59, 0.11)  # luma weights: the accent must be told from the coat by eye
    return math.sqrt(sum(w * (x - y) ** 2 for w, x, y in zip(weights, a, b, strict=True)))


def sample_scene(generator: torch.Generator, *, close_up: float = 0.1) -> Scene:
    """Draw a scene; every choice is uniform and independent unless said.

    Args:
        generator: CPU generator; the scene is a function of its state.
        close_up: share of close-ups, in [0, 1].
    """
    u = torch.rand(64, generator=generator, dtype=torch.float64).tolist()
    draw = iter(u)

    def pick(options: tuple[str, ...]) -> str:
        return options[min(int(next(draw) * len(options)), len(options) - 1)]

    def several(count: int) -> list[float]:
        return [next(draw) for _ in range(count)]

    names = tuple(COLOURS)
    coat = _jittered(COLOURS[pick(names)], several(3))
    # The accent: the first of the rotated list that stands out against the coat.
    start = int(next(draw) * len(names))
    rotated = names[start:] + names[:start]
    base = next(n for n in rotated if _distance(COLOURS[n], coat) > 0.22)
    accent = _jittered(COLOURS[base], several(3))
    # Collars are saturated and told from the coat.
    bright = ("red", "blue", "golden", "green", "purple", "white")
    turn = int(next(draw) * len(bright))
    collar_name = next(
        n for n in bright[turn:] + bright[:turn] if _distance(COLOURS[n], coat) > 0.2
    )
    collar = COLOURS[collar_name] if next(draw) < 0.5 else None
    identity = Identity(
        species=pick(SPECIES),
        proportions=tuple(0.9 + 0.2 * x for x in several(PROPORTIONS)),
        coat=coat,
        accent=accent,
        pattern=pick(PATTERNS),
        frequency=0.8 + 0.45 * next(draw),
        phase=next(draw),
        angle=-0.5 + next(draw),
        collar=collar,
    )
    pose = Pose(
        action=pick(ACTIONS),
        facing=pick(FACINGS),
        jitter=tuple(2 * x - 1 for x in several(JITTERS)),
    )
    backdrop = Backdrop(place=pick(PLACES), parameters=tuple(several(BACKDROPS)))
    shot = "close-up" if next(draw) < close_up else "full body"
    camera = Camera(shot=shot, offset=tuple(2 * x - 1 for x in several(3)))
    return Scene(identity=identity, pose=pose, backdrop=backdrop, camera=camera)


def sample_scenes(count: int, *, seed: int, close_up: float = 0.1) -> tuple[Scene, ...]:
    """``count`` scenes, deterministic from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(sample_scene(generator, close_up=close_up) for _ in range(count))
