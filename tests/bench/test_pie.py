"""The PIE-Bench runner, end to end on a data set of the test's own, with tiny random networks."""

from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

pytest.importorskip("torchmetrics")
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from masactrl.bench.pie_data import decode_mask, read_pie
from masactrl.bench.pie_editors import pie_editors, published_scheduler
from masactrl.bench.pie_metrics import METRICS, PieMetrics, clip_score, key_similarity
from masactrl.bench.pie_run import cropped, run_pie, scored_folder
from masactrl.bench.pie_table import PUBLISHED, table_text
from masactrl.errors import ConfigError, MasaCtrlError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WHOLE = [0, 512 * 512]
PART = [512 * 100 + 100, 50, 512 * 512 - 10, 400]  # the second run reaches beyond the end


class Processor:
    """CLIP's preprocessing in a few lines: 32 pixels, ids of the tiny tokenizer."""

    def __init__(self) -> None:
        self.words = tiny_models.tokenizer()

    def __call__(self, text: Any = None, images: Any = None, **_: Any) -> dict[str, Any]:
        if images is not None:
            batch = torch.stack([image.float() / 255 for image in images])
            return {"pixel_values": torch.nn.functional.interpolate(batch, (32, 32)) * 4 - 2}
        return dict(self.words(text, return_tensors="pt", padding=True))


def lpips(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A perceptual distance with random features."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(4, 3, 8, 8, generator=generator)
    a, b = (torch.nn.functional.conv2d(one, kernel, stride=8) for one in (x, y))
    return (a - b).square().mean()


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    torch.manual_seed(0)
    text = tiny_models._text_config(len(tiny_models.tokenizer())).to_dict()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


@pytest.fixture(scope="module")
def dino() -> ViTModel:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=224,
        patch_size=56,
    )
    return ViTModel(config, add_pooling_layer=False).eval()


@pytest.fixture(scope="module")
def metrics(clip: CLIPModel, dino: ViTModel) -> PieMetrics:
    return PieMetrics(clip=clip_score(clip, Processor()), lpips=lpips, dino=dino)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC)


def entry(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "image_path": f"5_pose/{number:012d}.jpg",
        "original_prompt": "a [cat] sitting",
        "editing_prompt": "a [dog] running",
        "editing_instruction": "",
        "editing_type_id": "5",
        "blended_word": "cat dog",
        "mask": PART,
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good rows (one with a whole-image mask) and one of every bad kind."""
    rows = {
        "000000000000": entry(0),
        "000000000001": entry(1, mask=WHOLE, editing_type_id="8"),
        "000000000002": entry(2, blended_word=""),
        "000000000003": entry(3, image_path="5_pose/none.jpg"),
        "000000000004": entry(0, mask=[1, 2, 3]),
        "000000000005": entry(0, mask=[512 * 512, 3]),
        "000000000006": entry(0, editing_prompt="[]"),
        "000000000007": entry(0, image_path="../../etc/passwd"),
        "000000000008": "no object",
        "000000000009": entry(0, editing_type_id=5),
        "000000000010": entry(10),
    }
    images = tmp_path / "data" / "annotation_images" / "5_pose"
    images.mkdir(parents=True)
    for number in range(3):
        picture(number).save(images / f"{number:012d}.jpg")
    (images / f"{10:012d}.jpg").write_bytes(b"no picture")
    (tmp_path / "data" / "mapping_file.json").write_text(json.dumps(rows))
    return tmp_path / "data"


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


def test_figures_are_those_of_the_published_evaluation(
    metrics: PieMetrics, clip: CLIPModel, dino: ViTModel
) -> None:
    """Written out with numpy: the same arrays, masks multiplied in, nothing divided by areas."""
    source, edited, mask = picture(1), picture(2), decode_mask(PART)
    found = metrics.measure(
        source, edited, mask, source_prompt="a cat", target_prompt="a dog running"
    )
    x, y = (np.array(one).astype(np.float32) for one in (source, edited))
    keep = (1 - mask)[:, :, None]
    a, b = x / 255 * keep, y / 255 * keep
    mse = float(((a - b) ** 2).mean())
    assert found["mse_unedit_part"] == pytest.approx(mse, rel=1e-4)
    assert found["psnr_unedit_part"] == pytest.approx(10 * math.log10(1 / mse), rel=1e-4)
    tensors = [torch.from_numpy(one).permute(2, 0, 1)[None] * 2 - 1 for one in (b, a)]
    assert found["lpips_unedit_part"] == pytest.approx(float(lpips(*tensors)), rel=1e-4)

    def similarity(pixels: np.ndarray[Any, Any], text: str) -> float:
        processor = Processor()
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        with torch.no_grad():
            out = clip(
                **processor(text=[text]), pixel_values=processor(images=[image])["pixel_values"]
            )
        return max(0.0, 100 * float((out.image_embeds * out.text_embeds).sum()))

    whole, part = np.uint8(y), np.uint8(y * mask[:, :, None])
    names = ("clip_similarity_target_image", "clip_similarity_target_image_edit_part")
    for name, pixels in zip(names, (whole, part), strict=True):
        assert found[name] == pytest.approx(similarity(pixels, "a dog running"), abs=1e-3)

    def self_similarity(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image = torch.nn.functional.interpolate(image, (224, 224), mode="bilinear")
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        h = dino.embeddings((image - mean) / std)
        for layer in dino.layers[:-1]:
            h = layer(h)
        last = dino.layers[-1]
        keys = last.attention.k_proj(last.layernorm_before(h))[0]
        unit = keys / keys.norm(dim=1, keepdim=True)
        return unit @ unit.T

    with torch.no_grad():
        quirk = float((self_similarity(x) - self_similarity(y)).square().mean())
        right = float((self_similarity(x / 255) - self_similarity(y / 255)).square().mean())
    assert found["structure_distance"] == pytest.approx(quirk, rel=1e-3)
    assert found["structure_distance_corrected"] == pytest.approx(right, rel=1e-3)
    assert set(found) == set(METRICS)


def test_a_mask_over_everything_has_no_unedited_part(metrics: PieMetrics) -> None:
    found = metrics.measure(
        picture(1), picture(2), decode_mask(WHOLE), source_prompt="a", target_prompt="a"
    )
    missing = {name for name, value in found.items() if math.isnan(value)}
    assert missing == {name for name in METRICS if name.endswith("_unedit_part")}


def test_a_network_without_keys_is_refused() -> None:
    with pytest.raises(MasaCtrlError, match="no key projections"):
        key_similarity(torch.nn.Linear(3, 3), torch.zeros(1, 3))


def test_end_to_end_with_resuming(folder: Path, metrics: PieMetrics, tmp_path: Path) -> None:
    data, out, made = read_pie(folder), tmp_path / "out", []

    def editor(item: Any, source: Image.Image) -> Image.Image:
        made.append(item.key)
        if item.key.endswith("2") and len(made) < 4:
            raise MasaCtrlError("the words cannot be aligned")
        return Image.eval(source, lambda value: 255 - value)

    editors = {"inverted": editor, **pie_editors(None, ["nothing"])}
    first = run_pie(data, editors, metrics, out)
    assert first.done == 5
    reasons = [problem.reason for problem in first.problems]
    assert "inverted: the words cannot be aligned" in reasons
    assert len(reasons) == len(data.problems) + 1
    assert len(made) == 3

    # Cut the last line short, as a stop does; only what is missing is done again.
    lines = (out / "items.jsonl").read_text().splitlines()
    (out / "items.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    second = run_pie(data, editors, metrics, out)
    assert second.done == 6
    assert len(made) == 4
    assert len(second.problems) == len(data.problems)

    rows = {(row.label, row.type_id): row for row in second.table}
    assert set(rows) == {(n, t) for n in ("inverted", "nothing") for t in (None, "5", "8")}
    whole = rows["inverted", None]
    assert whole.items == 3
    assert whole.counts["psnr_unedit_part"] == 2  # the whole-image mask is left out
    assert whole.counts["structure_distance"] == 3
    assert math.isnan(rows["inverted", "8"].values["psnr_unedit_part"])
    with (out / "items.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 6
    by_key = {(row["file_id"], row["label"]): row for row in table}
    assert by_key["000000000001", "inverted"]["mse_unedit_part"] == "nan"
    text = second.table_path.read_text()
    assert "type 5 (change pose)" in text
    assert all(row.label in text for row in PUBLISHED)
    assert text == table_text(second.table)
    kept = out / "inverted" / "annotation_images" / "5_pose" / "000000000000.jpg"
    with Image.open(kept) as image:
        assert (image.format, image.size) == ("JPEG", (512, 512))

    scored = run_pie(data, {"x": scored_folder(kept.parent.parent)}, metrics, tmp_path / "other")
    assert scored.done == 3
    with pytest.raises(ConfigError, match="another"):
        run_pie(data, editors, metrics, out, settings={"benchmark": "pie-2"})


def test_strips_are_cropped_to_the_last_square() -> None:
    strip = Image.new("RGB", (4 * 512, 512))
    strip.paste(picture(3), (3 * 512, 0))
    assert cropped(strip).tobytes() == picture(3).tobytes()
    with pytest.raises(MasaCtrlError, match="64 x 64 was found"):
        cropped(Image.new("RGB", (64, 64)))


def test_the_published_timesteps() -> None:
    scheduler = published_scheduler(tiny_models.scheduler())
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(980, -1, -20))
    with pytest.raises(ConfigError, match="no editor 'magic'"):
        pie_editors(None, ["magic"])
    with pytest.raises(ConfigError, match="needs a model"):
        pie_editors(None, ["prompt-only"])
