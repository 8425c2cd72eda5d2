"""Layouts from pictures: real classes of transformers at tiny size, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)

from masactrl.cli import main
from masactrl.errors import ConfigError, ModelNotFound
from masactrl.layouts.making import MAKERS, downloads, draw_person, make_layout


def picture(size: tuple[int, int] = (48, 32)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("makers")
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=28,
        patch_size=14, out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    depth = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14,
        neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, head_hidden_size=4,
    )  # fmt: skip
    DepthAnythingForDepthEstimation(depth).save_pretrained(folder / "depth")
    DPTImageProcessor(
        size={"height": 28, "width": 28}, ensure_multiple_of=14, keep_aspect_ratio=False
    ).save_pretrained(folder / "depth")
    body = VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, mlp_ratio=2, num_experts=1, out_indices=[2],
    )  # fmt: skip
    pose = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=body, num_labels=17))
    pose.save_pretrained(folder / "pose")
    return folder


def test_depth_is_of_the_picture_s_size_and_near_is_bright(makers: Path) -> None:
    made = make_layout("depth", picture(), str(makers / "depth"))
    assert (made.size, made.mode) == ((48, 32), "RGB")
    values = np.asarray(made)
    assert (values.min(), values.max()) == (0, 255)
    assert (values[..., 0] == values[..., 1]).all()


def test_a_pose_is_drawn_where_the_heat_is(makers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sure: list[torch.Tensor] = []

    def heat(self: VitPoseForPoseEstimation, pixels: torch.Tensor) -> object:
        maps = torch.zeros(1, 17, 16, 12)
        for joint in range(17):  # a window of 12 x 16 cells, 4 pixels each
            maps[0, joint, 4 + joint % 8, 2 + joint // 2] = 0.9
        sure.append(pixels)
        return type("Found", (), {"heatmaps": maps})

    plain = VitPoseForPoseEstimation.from_pretrained(makers / "pose")
    assert plain(torch.zeros(1, 3, 64, 48)).heatmaps.shape[:2] == (1, 17)
    monkeypatch.setattr(VitPoseForPoseEstimation, "forward", heat)
    made = make_layout("pose", picture((48, 64)), str(makers / "pose"))
    assert sure[0].shape == (1, 3, 64, 48)
    shown = np.asarray(made).max(-1)
    for joint in range(17):  # the picture fills the window, so pixels are those of the window
        x, y = (2 + joint // 2) * 4 + 2, (4 + joint % 8) * 4 + 2
        assert shown[y, x] > 100, joint
    assert not shown[:10].any()
    monkeypatch.setattr(
        VitPoseForPoseEstimation,
        "forward",
        lambda *_: type("Found", (), {"heatmaps": torch.zeros(1, 17, 16, 12)}),
    )
    with pytest.raises(ConfigError, match="Nobody was found"):
        make_layout("pose", picture(), str(makers / "pose"))


def test_a_person_without_sure_joints_is_nobody() -> None:
    joints = torch.rand(17, 2) * 60
    with pytest.raises(ConfigError, match="Nobody was found"):
        draw_person(joints, torch.zeros(17), (64, 64))
    with pytest.raises(ConfigError, match="17 joints"):
        draw_person(joints[:5], torch.ones(5), (64, 64))
    half = torch.ones(17)
    half[11:] = 0.0  # the lower body is outside
    assert np.asarray(draw_person(joints, half, (64, 64))).any()


def test_what_cannot_be_made_is_said(makers: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layouts can be made of edges, depth, pose"):
        make_layout("mood", picture())
    with pytest.raises(ConfigError, match="without a model"):
        make_layout("edges", picture(), "some/model")
    with pytest.raises(ModelNotFound, match="No model for depth can be read from"):
        make_layout("depth", picture(), str(tmp_path))
    with pytest.raises(ModelNotFound, match="No model for pose"):
        make_layout("pose", picture())  # offline
    assert downloads("edges", None) is None
    assert downloads("depth", str(makers / "depth")) is None
    assert "Apache-2.0), about 100 MB" in (downloads("depth", None) or "")
    assert "some/model, which is downloaded" in (downloads("pose", "some/model") or "")
    assert set(MAKERS) == {"depth", "pose"}


def test_the_command_makes_one_or_a_folder(
    makers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(2):
        picture().save(frames / f"{number}.jpg")
    words = ["layout", "depth", str(frames), "-o", str(tmp_path / "out")]
    assert main([*words, "--model", str(makers / "depth")]) == 0
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]
    assert main([*words, "--model", str(makers / "depth")]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["layout", "pose", str(frames / "0.jpg"), "-o", str(tmp_path / "p.png")]) == 1
    told = capsys.readouterr().err
    assert "usyd-community/vitpose-base-simple" in told
    assert "downloaded from the Hub once" in told


def test_edges_are_made_by_the_command(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="edges need the extra layout")
    drawn = Image.new("RGB", (64, 64))
    drawn.paste((255, 255, 255), (16, 16, 48, 48))
    drawn.save(tmp_path / "a.png")
    assert main(["layout", "edges", str(tmp_path / "a.png"), "-o", str(tmp_path / "e.png")]) == 0
    with Image.open(tmp_path / "e.png") as made:
        assert (made.size, made.mode) == ((64, 64), "RGB")
        assert np.asarray(made)[..., 0].mean() > 2
