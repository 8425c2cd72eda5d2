"""What stands on the tab "Edit a photo"."""

from __future__ import annotations

from masactrl.app.fields import (
    SUBJECT,
    Field,
    Limits,
    control_fields,
    declared_field,
    inversion_field,
    method_field,
    run_fields,
)
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest


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
        declared_field(
            InversionRequest,
            "source_prompt",
            label="What is in the picture (optional)",
            info="Empty is the paper's choice; words help where parts are to be named.",
            fold=False,
        ),
        declared_field(
            EditRequest,
            "target_prompts",
            label="What you want instead, one a line",
            info="Say the whole picture, not only the change.",
            value="",
            fold=False,
        ),
        *_subject_fields(),
        inversion_field(),
        declared_field(InversionRequest, "noise_shift", value=0),
        *run_fields(limits),
        *control_fields(limits),
        declared_field(EditRequest, "fresh_noise"),
        declared_field(
            EditRequest,
            "negative_prompt",
            info="Guidance leads away from it; empty is what the inversion has.",
            value="",
        ),
        method_field("Masks belong to masactrl alone."),
    )


def _subject_fields() -> tuple[Field, ...]:
    """Return the fields that say where the subject is: painted, by a file, or by words."""
    return (
        Field(
            name="painted",
            label="Paint the subject",
            info="Paint over the subject of the picture above.",
            widget="paint",
            group=SUBJECT,
        ),
        Field(
            name="mask",
            label="Or a mask file",
            info="White is the subject; of the picture's proportions.",
            widget="picture",
            group=SUBJECT,
        ),
        Field(
            name="source_word",
            label="Or a word of what is in the picture",
            info="Together with the word below: the model finds the subject by itself.",
            widget="text",
            value="",
            group=SUBJECT,
        ),
        Field(
            name="target_word",
            label="The word of what you want",
            info="Must stand in every line of what you want.",
            widget="text",
            value="",
            group=SUBJECT,
        ),
        Field(
            name="mask_threshold",
            label="Threshold of the words",
            info="Attention above it is the subject, 0 to 1; lower makes the subject larger.",
            widget="slider",
            value=0.1,
            low=0.01,
            high=1,
            step=0.01,
            group=SUBJECT,
        ),
        declared_field(
            EditRequest,
            "keep_background",
            info="Needs a mask or words; outside of both subjects nothing changes.",
            group=SUBJECT,
        ),
    )
