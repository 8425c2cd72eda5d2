from __future__ import annotations

import json
import shutil
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from masactrl.puppets.captions import caption, known_words
from masactrl.puppets.scene import sample_scenes
from masactrl.puppets.training.tokenizer import (
    END,
    MAX_LENGTH,
    START,
    build_tokenizer,
    byte_symbols,
    learn_merges,
    save_tokenizer,
)

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = (
    "",
    "a cat sitting in the meadow, facing left",
    "A Zebra's 1234 nights... at the caf\u00e9, CLOSE-UP!",
    "\u732b\u304c\u8d70\u308b \u0421\u043e\u0431\u0430\u043a\u0430",
    "\U0001f600\U0001f408\u200d\u2b1b",
    "\x00 \x7f \u00a0 \t\n",
    "<b>|&|</b>",
    "supercalifragilistic",
)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


def ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer(text).input_ids
    return found


def test_words_and_punctuation_are_single_tokens(tokenizer: CLIPTokenizer) -> None:
    for word in (*known_words(), ",", ".", "-", "!"):
        for text in (word, word.upper(), f" {word} "):
            assert tokenizer.tokenize(text) == [f"{word}</w>"]


def test_a_caption_takes_one_token_per_word(tokenizer: CLIPTokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    for scene in sample_scenes(300, seed=1, close_up=0.5):
        text = caption(scene, generator)
        words = text.replace(",", " ,").replace("-", " - ").split()
        assert tokenizer.tokenize(text) == [f"{word}</w>" for word in words]
        assert len(words) + 2 <= MAX_LENGTH


def test_special_tokens(tokenizer: CLIPTokenizer) -> None:
    last = len(tokenizer) - 1
    assert tokenizer.convert_tokens_to_ids(START) == tokenizer.bos_token_id == last - 1
    # The highest id ends the text: CLIPTextModel's older pooling takes the argmax of the ids.
    assert tokenizer.convert_tokens_to_ids(END) == tokenizer.eos_token_id == last
    assert tokenizer.pad_token_id == tokenizer.unk_token_id == last
    assert ids(tokenizer, "") == [last - 1, last]
    assert tokenizer.model_max_length == MAX_LENGTH == 77


@pytest.mark.parametrize("text", TEXTS)
def test_anything_tokenises_without_unknowns(tokenizer: CLIPTokenizer, text: str) -> None:
    inner = ids(tokenizer, text)[1:-1]
    assert tokenizer.unk_token_id not in inner
    assert bool(inner) == bool(text.strip())


def test_decode(tokenizer: CLIPTokenizer) -> None:
    for text in ("a cat in the snow", "zebra caf\u00e9 \U0001f600"):
        assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=True) == text


def test_padding_and_truncation(tokenizer: CLIPTokenizer) -> None:
    batch = tokenizer(
        ["a cat", "very " * 100],
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    assert batch.shape == (2, 77)
    assert batch[0, 0] == batch[1, 0] == tokenizer.bos_token_id
    assert (batch[0, 3:] == tokenizer.eos_token_id).all()
    assert batch[1, -1] == tokenizer.eos_token_id


def test_deterministic(tokenizer: CLIPTokenizer) -> None:
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    "kept",
    [
        ("tokenizer.json", "tokenizer_config.json"),
        ("vocab.json", "merges.txt", "tokenizer_config.json"),
        ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    ],
)
def test_save_and_load(tokenizer: CLIPTokenizer, tmp_path: Path, kept: tuple[str, ...]) -> None:
    save_tokenizer(tokenizer, tmp_path / "all")
    part = tmp_path / "part"
    part.mkdir()
    for name in kept:
        shutil.copy(tmp_path / "all" / name, part / name)
    loaded = CLIPTokenizer.from_pretrained(str(part))
    assert type(loaded) is CLIPTokenizer
    assert loaded.model_max_length == 77
    assert loaded.pad_token == END
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in TEXTS:
        assert ids(loaded, text) == ids(tokenizer, text)


def test_auto_tokenizer_loads_the_folder(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    assert loaded(TEXTS[1]).input_ids == ids(tokenizer, TEXTS[1])


def test_stable_diffusion_pipeline_loads_it(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    network = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    StableDiffusionPipeline(
        vae=AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=network,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipeline.tokenizer) is CLIPTokenizer
    assert ids(pipeline.tokenizer, TEXTS[2]) == ids(tokenizer, TEXTS[2])
    prompts, _ = pipeline.encode_prompt(TEXTS[1], "cpu", 1, False)
    assert prompts.shape == (1, 77, 8)


def test_older_readers(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    """Read the pair of files as CLIP's original Python tokenizer does: by rank of merges."""
    save_tokenizer(tokenizer, tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").strip().split("\n")
    assert lines[0].startswith("#version")
    ranks = {tuple(line.split()): rank for rank, line in enumerate(lines[1:])}
    assert len(vocabulary) == 512 + len(ranks) + 2
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    for word in known_words():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            at = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        assert vocabulary[pieces[0]] == ids(tokenizer, word)[1]


def test_byte_symbols() -> None:
    symbols = byte_symbols()
    assert len(set(symbols)) == 256
    assert symbols[:3] == ("!", '"', "#")
    assert not any(symbol.isspace() for symbol in symbols)


def test_repeats_within_a_word() -> None:
    merges = learn_merges(["aa", "aaaa", "banana", "ban"])
    assert len(set(merges)) == len(merges)
    assert ("a", "a</w>") in merges
