"""What stands on the tab "Edit a photo"."""

from __future__ import annotations

from masactrl.app.fields import Field, Limits, control_fields, run_fields
from masactrl.inversion import INVERSIONS


def edit_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the tab "Edit a photo"."""
    return (
        Field(
            name="picture",
            label="The picture",
            info="PNG or JPEG.",
            widget="picture",
            fold=False,
        ),
        Field(
            name="prompt",
            label="What is in the picture (optional)",
            info="Empty is the paper's choice; words help where parts are to be named.",
            widget="text",
            value="",
            fold=False,
        ),
        Field(
            name="target_prompts",
            label="What you want instead, one a line",
            info="Say the whole picture, not only the change.",
            widget="lines",
            value="",
            fold=False,
        ),
        Field(
            name="source_word",
            label="Subject, by a word of the first text",
            info="With the word below: keeps subject and background apart.",
            widget="text",
            value="",
        ),
        Field(
            name="target_word",
            label="Subject, by a word of the second text",
            info="Must stand in every line of what you want.",
            widget="text",
            value="",
        ),
        Field(
            name="mask",
            label="Subject, by a mask",
            info="White is the subject; of the picture's proportions. Instead of words.",
            widget="picture",
        ),
        Field(
            name="keep_background",
            label="Keep the background as it is",
            info="Needs a mask or words; outside of both subjects nothing changes.",
            widget="tick",
            value=False,
        ),
        Field(
            name="inversion",
            label="Inversion",
            info="How the noise is found that the picture comes from.",
            widget="choice",
            value="direct",
            choices=tuple(INVERSIONS),
        ),
        *run_fields(limits),
        *control_fields(limits),
        Field(
            name="negative_prompt",
            label="What no target should show",
            info="Guidance leads away from it; empty is what the inversion has.",
            widget="text",
            value="",
        ),
    )
