"""Train the inspector, and measure it on held-out scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from masactrl.puppets.colour import lab_distance, srgb_to_lab
from masactrl.puppets.inspector import Inspector, resized
from masactrl.puppets.inspector_network import COLOURED, QUESTIONS, SIZE, Answers
from masactrl.puppets.renderer import keypoints_of, render
from masactrl.puppets.scene import FACINGS, Scene, sample_scenes
from masactrl.puppets.training.data import HELD_OUT_SEED, PictureCache
from masactrl.puppets.training.optimizer import MuonAdamW
from masactrl.puppets.training.run import Ema, OnRecord, Run, placed

_POSED = 4  # one picture in so many shows a pose that no word of `QUESTIONS` names
_UNSAID = -100  # the class that cross-entropy leaves out
_JOINT_UNIT = 8.0  # pixels between joints that weigh like one nat of a question
_SHIFT = 16  # pixels that a picture is moved by at most
_FULL_LIGHT = (0.91, 1.06)  # light factors at which a pixel counts as showing the true colour
_LAB_UNIT = 20.0  # CIELAB distance that weighs like one nat of a question


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The right answers of n pictures.

    Attributes:
        classes: question -> (n,) index into its options.
        colours: (n, 3, 3) sRGB of `COLOURED`; without a collar the last is the coat.
        mask: (n, 1, h, w) foreground coverage in [0, 1].
        paint: (n, 3, h, w) 1 where a pixel shows that one of `COLOURED` in full light, 0 where it
            does not, -1 where that cannot be told.
        keypoints: (n, joints, 2) pixels (x, y) of the picture; some lie outside.
    """

    classes: Mapping[str, Tensor]
    colours: Tensor
    mask: Tensor
    paint: Tensor
    keypoints: Tensor

    def to(self, device: str) -> Truth:
        """The same on a device."""
        return Truth(
            classes={q: v.to(device) for q, v in self.classes.items()},
            colours=self.colours.to(device),
            mask=self.mask.to(device),
            paint=self.paint.to(device),
            keypoints=self.keypoints.to(device),
        )


def classes_of(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Question -> (scenes,) index of the right answer."""
    said = {
        "species": [s.identity.species for s in scenes],
        "action": [s.pose.action for s in scenes],
        "facing": [s.pose.facing for s in scenes],
        "place": [s.backdrop.place for s in scenes],
        "shot": [s.camera.shot for s in scenes],
        "pattern": [s.identity.pattern for s in scenes],
        "collar": ["no" if s.identity.collar is None else "yes" for s in scenes],
    }
    return {q: torch.tensor([QUESTIONS[q].index(a) for a in said[q]]) for q in QUESTIONS}


def colours_of(scenes: Sequence[Scene]) -> Tensor:
    """(scenes, 3, 3) sRGB of `COLOURED`."""
    who = [s.identity for s in scenes]
    return torch.tensor([(i.coat, i.accent, i.collar or i.coat) for i in who])


def train_inspector(
    cache: PictureCache,
    directory: Path,
    *,
    budget: float,
    posed: PictureCache | None = None,
    batch: int = 48,
    seed: int = 0,
    device: str = "cpu",
    start: Inspector | None = None,
    on_record: OnRecord | None = None,
) -> Inspector:
    """Train and return the inspector, frozen, without its held-out figures (see `accuracy`).

    Args:
        cache: training pictures, of 256 pixels or brought to that.
        directory: checkpoints and log; an existing checkpoint is continued.
        budget: seconds of training over all sessions.
        posed: further pictures, of poses between actions, for masks, joints and colours.
        batch: pictures per step, a quarter of them from ``posed`` where it is given.
        seed: of initial weights and of the order and disturbance of pictures.
        device: where to train.
        start: weights to begin with; None begins with random ones.
        on_record: called every 50 steps with loss, accuracies and colour error of the batch.
    """
    torch.manual_seed(seed)  # a training run owns its process
    generator = torch.Generator().manual_seed(seed)
    # Disturbances are drawn where they are made: on the CPU they kept a GPU waiting.
    on_cpu = torch.device(device).type == "cpu"
    where = generator if on_cpu else torch.Generator(device).manual_seed(seed)
    inspector = Inspector()
    if start is not None:
        inspector.load_state_dict(start.state_dict())
    inspector = placed(inspector, device).train()
    ema = Ema(inspector, 0.998)
    optimizer = MuonAdamW(inspector, lr=1e-3)
    run = Run(
        directory=directory, budget=budget, learning_rate=1.5e-3, decay=0.6, on_record=on_record
    )
    sets = [_Set.of(cache)]
    if posed is not None:
        sets.append(_Set.of(posed, unsaid=("action",)))
    for step in run.steps({"inspector": inspector, "ema": ema}, optimizer):
        counts = [batch] if posed is None else [batch - batch // _POSED, batch // _POSED]
        drawn = [s.draw(n, generator, device) for s, n in zip(sets, counts, strict=True)]
        clean = torch.cat([pictures for pictures, _ in drawn])
        pictures, truth = disturbed(clean, _together([t for _, t in drawn]), where)
        with torch.autocast(device, torch.bfloat16):
            answers = inspector(pictures)
        loss, parts = _loss(answers, truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(inspector.parameters(), 1.0)
        optimizer.step()
        ema.update(inspector)
        if step % 50 == 0:
            run.record(loss=loss.item(), rate=run.rate(), **parts)
    trained = ema.module
    if not isinstance(trained, Inspector):  # for the type checker: the copy is of the same class
        raise TypeError(f"the average of an Inspector is a {type(trained).__name__}.")
    return trained.cpu()


@dataclass(frozen=True, slots=True)
class _Set:
    """Pictures with the answers that are known of all of them beforehand."""

    cache: PictureCache
    classes: Mapping[str, Tensor]
    colours: Tensor
    keypoints: Tensor

    @staticmethod
    def of(cache: PictureCache, *, unsaid: tuple[str, ...] = ()) -> _Set:
        """Of questions that are ``unsaid`` these pictures have no right answer."""
        classes = classes_of(cache.scenes)
        classes |= {q: torch.full_like(classes[q], _UNSAID) for q in unsaid}
        return _Set(cache, classes, colours_of(cache.scenes), keypoints_of(cache.scenes, SIZE))

    def draw(self, count: int, generator: torch.Generator, device: str) -> tuple[Tensor, Truth]:
        """(count, 3, SIZE, SIZE) pictures in [0, 1] and what they show."""
        index = torch.randint(len(self.cache.scenes), (count,), generator=generator)
        clean = resized((self.cache.batch(index, device) + 1) / 2)
        mask = resized(self.cache.foreground(index, device))
        colours = self.colours[index].to(device)
        classes = {q: values[index].to(device) for q, values in self.classes.items()}
        return clean, Truth(
            classes=classes,
            colours=colours,
            mask=mask,
            paint=paint_of(clean, mask, colours, classes["collar"]),
            keypoints=self.keypoints[index].to(device),
        )


def _together(parts: Sequence[Truth]) -> Truth:
    """What several batches show, one after the other."""
    return Truth(
        classes={q: torch.cat([p.classes[q] for p in parts]) for q in QUESTIONS},
        colours=torch.cat([p.colours for p in parts]),
        mask=torch.cat([p.mask for p in parts]),
        paint=torch.cat([p.paint for p in parts]),
        keypoints=torch.cat([p.keypoints for p in parts]),
    )


def _loss(answers: Answers, truth: Truth) -> tuple[Tensor, dict[str, float]]:
    """The sum of all questions, colours and mask, and figures of the batch by name."""
    parts: dict[str, float] = {}
    total = answers.colours.new_zeros(())
    for question, logits in answers.logits.items():
        right = truth.classes[question]
        total = total + F.cross_entropy(logits, right, label_smoothing=0.02, ignore_index=_UNSAID)
        said = right != _UNSAID
        parts[question] = (logits.argmax(1) == right)[said].float().mean().item()
    gap = srgb_to_lab(answers.colours) - srgb_to_lab(truth.colours)
    error = F.smooth_l1_loss(gap / _LAB_UNIT, torch.zeros_like(gap), reduction="none", beta=0.2)
    error = error.sum(-1)
    collared = truth.classes["collar"].float()
    total = total + error[:, :2].mean() * 2 + 0.5 * (error[:, 2] * collared).mean()
    parts |= {
        f"{name}_lab": gap[:, k].norm(dim=-1).mean().item() for k, name in enumerate(COLOURED[:2])
    }
    p = answers.mask.sigmoid()
    both, either = (p * truth.mask).sum((1, 2, 3)), (p + truth.mask).sum((1, 2, 3))
    dice = 1 - (2 * both / either.clamp(min=1)).mean()
    total = total + 4 * F.binary_cross_entropy_with_logits(answers.mask, truth.mask) + dice
    parts["dice"] = 1 - dice.item()
    away = (answers.keypoints - truth.keypoints) / _JOINT_UNIT
    inside = within(truth.keypoints)
    apart = F.smooth_l1_loss(away, torch.zeros_like(away), reduction="none", beta=0.5).sum(-1)
    parts["joints"] = (away.norm(dim=-1) * inside).sum().item() / inside.sum().item() * _JOINT_UNIT
    total = total + 2 * (apart * inside).sum() / inside.sum()
    return total + _paint_loss(answers.paint, truth.paint), parts


def within(keypoints: Tensor, size: float = SIZE) -> Tensor:
    """(n, joints, 2) pixels -> (n, joints) 1.0 where a joint lies in a square picture, else 0.0."""
    return ((keypoints >= 0) & (keypoints <= size)).all(-1).float()


def _paint_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Binary cross-entropy, each of `COLOURED` and its absence weighing the same."""
    error = F.binary_cross_entropy_with_logits(logits, right.clamp(min=0), reduction="none")
    total = error.new_zeros(())
    for chosen in (right == 1, right == 0):
        count = chosen.sum((0, 2, 3)).clamp(min=1)
        total = total + ((error * chosen).sum((0, 2, 3)) / count).mean()
    return total


def paint_of(pictures: Tensor, mask: Tensor, colours: Tensor, collared: Tensor) -> Tensor:
    """What clean pictures show where: the paint of `Truth`, found by colour.

    The renderer lights a base colour b to s b, with s about 0.6 to 1.1. A pixel p of the animal
    shows the b whose min over s of |p - s b| is small and clearly the smallest, in full light
    where that s is about 1.

    Args:
        pictures: (n, 3, h, w) sRGB in [0, 1]; mask: (n, 1, h, w) coverage.
        colours: (n, 3, 3) sRGB of `COLOURED`; collared: (n,) whether the last one is there.
    """
    # Squared distances from products, so that nothing larger than (n, 3, h, w) is made.
    p_b = torch.einsum("nchw,nkc->nkhw", pictures, colours)
    b_b = colours.square().sum(2)[..., None, None]
    s = (p_b / b_b.clamp(min=1e-3)).clamp_(0.62, 1.12)
    gap = (pictures.square().sum(1, keepdim=True) - 2 * s * p_b + s * s * b_b).clamp_(min=0).sqrt_()
    gap[:, 2].masked_fill_(collared[:, None, None] == 0, 9.0)
    nearest, furthest = gap.amin(1, keepdim=True), gap.amax(1, keepdim=True)
    second = gap.sum(1, keepdim=True) - nearest - furthest
    clear = (nearest < 0.05) & (second > nearest + 0.05) & (mask > 0.95)
    shows = ((gap == nearest) & (s > _FULL_LIGHT[0]) & (s < _FULL_LIGHT[1])).float()
    unknown = torch.where(mask < 0.05, torch.zeros_like(shows), torch.full_like(shows, -1))
    return torch.where(clear, shows, unknown)


def disturbed(pictures: Tensor, truth: Truth, generator: torch.Generator) -> tuple[Tensor, Truth]:
    """Pictures (n, 3, h, w) in [0, 1] as a diffusion model might make them, and what they show.

    Mirrored and moved with their masks; tinted together with their colours; blurred and made
    noisy, fine and coarse, with the truth left alone. All are drawn per picture, on the device of
    the pictures, which is the generator's.
    """
    count, side = len(pictures), pictures.shape[-1]

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, device=pictures.device)

    layers = torch.cat((pictures, truth.mask, truth.paint), 1)
    mirrored = draw() < 0.5
    layers = torch.where(mirrored[:, None, None, None], layers.flip(-1), layers)
    facing = truth.classes["facing"]
    facing = torch.where(mirrored, len(FACINGS) - 1 - facing, facing)
    x, y = truth.keypoints.unbind(-1)
    joints = torch.stack((torch.where(mirrored[:, None], side - x, x), y), -1)
    wide = F.pad(layers, (_SHIFT,) * 4, mode="replicate")
    shifts = (draw(2) * (2 * _SHIFT + 1)).long()  # down, across
    offsets = shifts.tolist()
    layers = torch.stack(
        [w[:, y : y + side, x : x + side] for w, (y, x) in zip(wide, offsets, strict=True)]
    )
    joints = joints + (_SHIFT - shifts.flip(-1))[:, None]
    gain, bias = 0.94 + 0.12 * draw(3), 0.06 * (draw(3) - 0.5)
    made = layers[:, :3] * gain[:, :, None, None] + bias[:, :, None, None]
    colours = (truth.colours * gain[:, None] + bias[:, None]).clamp(0, 1)
    device = pictures.device
    if torch.rand((), generator=generator, device=device) < 0.3:
        small = int(torch.randint(side // 2, side, (), generator=generator, device=device))
        made = F.interpolate(made, (small, small), mode="bilinear", antialias=True)
        made = F.interpolate(made, (side, side), mode="bilinear")
    soft = F.avg_pool2d(made, 3, 1, 1, count_include_pad=False)
    made = torch.lerp(made, soft, (draw(1, 1, 1) * 1.5 - 0.5).clamp(min=0))
    for scale, most in ((1, 0.06), (2, 0.04), (8, 0.03)):
        shape = (count, 3, side // scale, side // scale)
        noise = torch.randn(shape, generator=generator, device=device)
        strength = (draw(1, 1, 1) * 2 - 1).clamp(min=0) * most  # none in half of the pictures
        made = made + F.interpolate(noise, (side, side), mode="nearest") * strength
    moved = Truth(
        classes={**truth.classes, "facing": facing},
        colours=colours,
        mask=layers[:, 3:4],
        paint=layers[:, 4:],
        keypoints=joints,
    )
    return made.clamp(0, 1), moved


def accuracy(
    inspector: Inspector, count: int = 2000, *, seed: int = HELD_OUT_SEED + 4, size: int = SIZE
) -> Mapping[str, float]:
    """How often the inspector is right on held-out scenes.

    Shares in [0, 1] by question, the action also for full bodies and close-ups alone; mean CIELAB
    distance of coat, accent and collar (of animals that wear one); mean IoU of the foreground; the
    share of joints in the picture that are found within 5 % of its height (``keypoints``); and
    between pictures of one scene in two actions, what it wrongly calls another identity:
    ``same_coat_lab``, ``same_accent_lab`` and ``same_pattern`` (share that agrees).
    """
    scenes = sample_scenes(count, seed=seed)
    actions = QUESTIONS["action"]
    others = [
        s.acting(
            actions[(actions.index(s.pose.action) + 1 + k % (len(actions) - 1)) % len(actions)]
        )
        for k, s in enumerate(scenes)
    ]
    classes = classes_of(scenes)
    colours = srgb_to_lab(colours_of(scenes))
    sums: dict[str, list[Tensor]] = {}

    def note(name: str, values: Tensor) -> None:
        sums.setdefault(name, []).append(values.float())

    for at in range(0, count, 64):
        part = slice(at, at + 64)
        made = render(scenes[part], size)
        reading = inspector.read(made.image)
        again = inspector.read(render(others[part], size).image)
        said = {q: reading.probabilities[q].argmax(1) for q in QUESTIONS}
        right = {q: said[q] == classes[q][part] for q in QUESTIONS}
        for question, values in right.items():
            note(question, values)
        close = classes["shot"][part] == QUESTIONS["shot"].index("close-up")
        note("action_full_body", right["action"][~close])
        note("action_close_up", right["action"][close])
        worn = classes["collar"][part] == 1
        note("coat_lab", lab_distance(reading.coat, colours[part, 0]))
        note("accent_lab", lab_distance(reading.accent, colours[part, 1]))
        note("collar_lab", lab_distance(reading.collar_colour, colours[part, 2])[worn])
        apart = (reading.keypoints - made.keypoints).norm(dim=-1)
        note("keypoints", (apart < 0.05 * size)[within(made.keypoints, size) > 0])
        seen, there = reading.mask > 0.5, made.mask > 0.5
        note("mask_iou", (seen & there).sum((1, 2, 3)) / (seen | there).sum((1, 2, 3)).clamp(min=1))
        note("same_coat_lab", lab_distance(reading.coat, again.coat))
        note("same_accent_lab", lab_distance(reading.accent, again.accent))
        note("same_pattern", said["pattern"] == again.probabilities["pattern"].argmax(1))
    figures = {name: torch.cat(values) for name, values in sums.items()}
    return MappingProxyType(
        {n: round(v.mean().item(), 4) for n, v in figures.items() if v.numel() > 0}
    )
