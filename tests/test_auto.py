"""S and L chosen by a judge: scores that mean what they say, and a choice that follows them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from masactrl.errors import ConfigError, ModelNotFound
from masactrl.pictures.images import read_recipe, tensor_to_image
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.renderer import render
from masactrl.puppets.scene import sample_scenes
from masactrl.runs.invert import EditRequest, InversionRequest, invert
from masactrl.runs.recipe import Recipe
from masactrl.studies import scoring
from masactrl.studies.auto import AutoResult, auto_axes, auto_rows, edit_auto
from masactrl.studies.scoring import InspectorScorer, PairScorer, Score, Trial, load_scorer
from masactrl.studies.sweep import Axes

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel
    from masactrl.runs.session import EditSession

TARGETS = ("a dog running", "a red horse")
AXES = Axes(start_steps=(0, 1), start_layers=(9, 10))


def noise_picture(seed: int, size: int = 64) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(values)


# ------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize(
    ("edit", "subject", "total"),
    [(1, 1, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0), (0.5, 1, 2 / 3), (0.4, 0.4, 0.4)],
)
def test_a_score_rewards_both_and_neither_alone(edit: float, subject: float, total: float) -> None:
    assert Score(edit=edit, subject=subject).total == pytest.approx(total)


def test_the_inspector_tells_the_right_answer_from_the_others() -> None:
    inspector = Inspector.load()
    (scene,) = sample_scenes(1, seed=1_000_002, close_up=0.0)
    (other,) = sample_scenes(1, seed=1_000_009, close_up=0.0)
    action = "sitting" if scene.pose.action != "sitting" else "running"
    stranger = replace(scene.acting(action), identity=other.identity)
    drawn = render([scene, scene.acting(action), stranger], 128).image
    nothing, right, lost = (tensor_to_image(one, signed=False) for one in drawn)
    trial = Trial(
        source=nothing,
        uncontrolled=lost,
        prompt=f"a {scene.identity.species} {action}",
        candidates=(nothing, right, lost),
    )
    scores = InspectorScorer(inspector).score(trial)
    assert max(range(3), key=lambda k: scores[k].total) == 1
    assert scores[0].subject > 0.99 > scores[2].subject
    assert scores[1].edit > 0.5 > scores[0].edit
    assert f"{action} with probability" in scores[1].words


def test_the_inspector_is_asked_what_the_prompt_names() -> None:
    torch.manual_seed(0)
    scorer = InspectorScorer(Inspector().requires_grad_(False).eval())
    pictures = noise_picture(0), noise_picture(1)
    trial = Trial(
        source=pictures[0],
        uncontrolled=pictures[1],
        prompt="a cat in the snow",
        candidates=pictures,
    )
    assert "cat and snow with probability" in scorer.score(trial)[0].words
    with pytest.raises(ConfigError, match="names nothing that the inspector knows"):
        scorer.score(replace(trial, prompt="an elegant chair"))


def tiny_clip() -> CLIPModel:
    torch.manual_seed(0)
    words = len(tiny_models.tokenizer())
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text = CLIPTextConfig(
        vocab_size=words, num_attention_heads=2, bos_token_id=0, eos_token_id=1, **shape
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=8, num_attention_heads=2, **shape)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return CLIPModel(config).eval()


def tiny_dino() -> Dinov2Model:
    torch.manual_seed(1)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    return Dinov2Model(config).eval()


@pytest.fixture(scope="module")
def pairs() -> PairScorer:
    return PairScorer(tiny_clip(), tiny_models.tokenizer(), tiny_dino())


def test_pairs_are_laid_between_doing_nothing_and_the_prompt_alone(pairs: PairScorer) -> None:
    pictures = [noise_picture(k) for k in range(6)]
    source, plain, *others = pictures
    trial = Trial(source=source, uncontrolled=plain, prompt="a dog", candidates=tuple(pictures))
    scores = pairs.score(trial)
    assert (scores[0].edit, scores[0].subject) == (pytest.approx(0, abs=1e-4), pytest.approx(1))
    assert scores[1].subject == pytest.approx(0, abs=1e-4)
    assert all(0 <= s.edit <= 1 and 0 <= s.subject <= 1 for s in scores)
    assert max(s.edit for s in scores) in (pytest.approx(1, abs=1e-4), 0)
    reversed_scores = pairs.score(replace(trial, candidates=tuple(reversed(pictures))))
    for one, other in zip(scores, reversed(reversed_scores), strict=True):
        assert one.edit == pytest.approx(other.edit, abs=1e-4)
        assert one.subject == pytest.approx(other.subject, abs=1e-4)
    # An uncontrolled picture that is the source itself leaves nothing to lose.
    same = pairs.score(replace(trial, uncontrolled=source, candidates=(source, *others)))
    assert same[0].subject == 1


def test_judges_are_loaded_from_folders(model: LoadedModel, tmp_path: Path) -> None:
    tiny_clip().save_pretrained(tmp_path / "clip")
    tiny_models.tokenizer().save_pretrained(tmp_path / "clip")
    tiny_dino().save_pretrained(tmp_path / "dino")
    clip, dino = str(tmp_path / "clip"), str(tmp_path / "dino")
    scorer = load_scorer(model, clip=clip, dino=dino)
    assert isinstance(scorer, PairScorer)
    assert scorer.named == {"judge_clip": "clip", "judge_dino": "dino"}, "no folder of anybody's"
    pictures = noise_picture(0), noise_picture(1)
    trial = Trial(source=pictures[0], uncontrolled=pictures[1], prompt="a dog", candidates=pictures)
    own = PairScorer(tiny_clip(), tiny_models.tokenizer(), tiny_dino()).score(trial)
    for one, other in zip(scorer.score(trial), own, strict=True):
        assert one.edit == pytest.approx(other.edit, abs=1e-4)
        assert one.subject == pytest.approx(other.subject, abs=1e-4)
    with pytest.raises(ModelNotFound, match=r"The CLIP model .* cannot be read"):
        load_scorer(model, clip=str(tmp_path / "none"), dino=dino)
    with pytest.raises(ModelNotFound, match=r"The DINO model .* choose S and L yourself"):
        load_scorer(model, clip=clip, dino=str(tmp_path / "none"))


def test_the_embedded_model_has_its_own_judge(model: LoadedModel) -> None:
    puppets = replace(model, family="puppets")
    assert isinstance(load_scorer(puppets), InspectorScorer)
    with pytest.raises(ConfigError, match="judged by its inspector"):
        load_scorer(puppets, clip="some/clip")


# ------------------------------------------------------------------------------------- choice


class Fixed:
    """Gives these scores, in order: no control first, then the cells."""

    def __init__(self, *totals: float) -> None:
        self.totals = totals
        self.trials: list[Trial] = []

    def score(self, trial: Trial) -> tuple[Score, ...]:
        self.trials.append(trial)
        return tuple(Score(edit=one, subject=one, words=f"worth {one}") for one in self.totals)


@pytest.fixture(scope="module")
def session(model_folder: Path) -> EditSession:
    from masactrl.models import load_pipeline

    model = load_pipeline(model_folder, device="cpu")
    return invert(model, noise_picture(3), InversionRequest(steps=2))


def chosen(session: EditSession, judge: Any, **change: Any) -> AutoResult:
    request = EditRequest(target_prompts=TARGETS, **change)
    return edit_auto(session, request, judge, axes=AXES)


def test_the_best_cell_is_edited(session: EditSession, tmp_path: Path) -> None:
    judge = Fixed(0.1, 0.2, 0.3, 0.9, 0.4)
    found = chosen(session, judge)
    assert found.chosen == (1, 9)
    assert (found.edit.request.start_step, found.edit.request.start_layer) == (1, 9)
    assert found.edit.passes["source"] == 0  # the grid's recording served it
    assert found.reason.startswith("S=1, L=9 scored best of 4 with 0.90 (worth 0.9; worth 0.9)")
    assert "no control has 0.10" in found.reason
    assert "the model's own S=0, L=10 0.30" in found.reason
    assert [trial.prompt for trial in judge.trials] == list(TARGETS)
    for number, trial in enumerate(judge.trials):
        assert trial.source == session.picture
        assert trial.candidates[0] == trial.uncontrolled
        target = found.edit.targets[number]
        difference = np.asarray(trial.candidates[3], float) - np.asarray(target.controlled, float)
        assert np.abs(difference).mean() < 0.005
    paths = found.save(tmp_path, metadata=False)
    assert paths[-1].name == "auto.png"
    assert read_recipe(paths[-1]) is None
    assert not list(tmp_path.glob("*.json")), "pixels only"
    found.save(tmp_path, overwrite=True)
    recipe = Recipe.parse(read_recipe(paths[-1]))
    assert (recipe.kind, recipe.picture) == ("auto", "auto")
    assert recipe.request["scores"][2] == [1, 9, "0.90, chosen"]
    assert found._repr_png_()[1:4] == b"PNG"
    assert "0.90, chosen" in (tmp_path / "auto.svg").read_text()
    written = json.loads((tmp_path / "auto.json").read_text())
    assert written["chosen"] == {"start_step": 1, "start_layer": 9}
    assert [cell["score"] for cell in written["cells"]] == [0.2, 0.3, 0.9, 0.4]
    assert written["reason"] == found.reason


def test_of_equal_cells_the_model_s_own_is_taken(session: EditSession) -> None:
    assert chosen(session, Fixed(0.5, 0.7, 0.7, 0.7, 0.7)).chosen == (0, 10)
    worthless = chosen(session, Fixed(0, 0, 0, 0, 0), compare=False)
    assert worthless.chosen == (0, 10)
    assert worthless.edit.targets[0].uncontrolled is None
    assert "which is better: control" in chosen(session, Fixed(0.8, 0.7, 0.7, 0.7, 0.7)).reason
    assert "No cell both did the edit and kept the subject" in worthless.reason


def test_what_cannot_be_chosen_is_said(session: EditSession) -> None:
    for change in ({"start_step": 1}, {"start_layer": 9}):
        with pytest.raises(ConfigError, match="auto chooses both"):
            chosen(session, Fixed(), **change)
    with pytest.raises(ConfigError, match="mode='joint'"):
        chosen(session, Fixed(), mode="joint")


@pytest.mark.parametrize(
    ("steps", "starts"), [(50, (2, 4, 8)), (20, (1, 2, 3)), (2, (0,)), (1, (0,))]
)
def test_the_grid_is_around_the_model_s_own(
    model: LoadedModel, steps: int, starts: tuple[int, ...]
) -> None:
    axes = auto_axes(model, steps)
    assert axes.start_steps == starts
    assert axes.start_layers == (8, 10, 12)


def test_the_rows_are_counted_before(session: EditSession) -> None:
    session.forget()
    request = EditRequest(target_prompts=TARGETS)
    rows, cells = auto_rows(session.plan, request, AXES)
    plan = session.plan(request)
    found = chosen(session, Fixed(0.5, 0.7, 0.7, 0.7, 0.7))
    assert cells == 4
    passes = found.sweep.passes - session.passes + sum(found.edit.passes.values())
    assert passes - session.passes == rows + plan.source + plan.edit
    assert scoring.CLIP
