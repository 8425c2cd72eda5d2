"""Which token of a target corresponds to which of its source, from the features of a step before.

Features are the normalised hidden states that enter one layer, in the guidance branch that carries
the prompts. They are kept at every step and matched at the next, so that all layers of a step use
the same correspondences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from masactrl.attention.control_hooks import PlainHook
from masactrl.attention.positions import correspondences
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from masactrl.attention.features import SourceFeatures
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.rows import Rows
    from masactrl.attention.steps import StepInfo

__all__ = ["FeatureHook", "Matcher"]

_KEY = -1  # the layer number under which a recording holds features that are no layer's keys


class FeatureHook(PlainHook):
    """Keeps the picture's tokens (rows, tokens, channels) that enter a joint attention."""

    def __init__(self, *, joined: bool) -> None:
        super().__init__()
        self._joined = joined
        self.text = 0
        self.wanted = False
        self.kept: Tensor | None = None

    def pre_forward(self, _module: nn.Module, *args: object, **kwargs: object) -> object:
        """Keep the input and hand it on."""
        if self.wanted:
            hidden: Any = args[0] if args else kwargs["hidden_states"]
            self.kept = hidden[:, self.text if self._joined else 0 :]
        return args, kwargs


class Matcher:
    """Correspondences of an attachment, step by step."""

    def __init__(
        self,
        layer: AttentionLayer,
        rows: Rows,
        *,
        source: SourceFeatures | None,
        record: SourceFeatures | None,
    ) -> None:
        self.layer = layer
        self.hook = FeatureHook(joined=layer.place == "single")
        self.table: Tensor | None = None
        self._rows, self._source, self._record = rows, source, record
        self._features: Tensor | None = None
        self._before: tuple[int, float] = (0, 0.0)

    def before(self, info: StepInfo, call: int, text: int, active: bool) -> None:
        """Match what was kept at the step before, at the first denoiser call of a step."""
        self.hook.text, self.hook.wanted = text, call == 0
        if info.new_run:
            self._features = self.table = None
        if active and call == 0 and self._features is not None and self._rows.targets:
            self.table = self._matched(self._features)

    def after(self, info: StepInfo, call: int) -> None:
        """Keep the features of the denoiser call that has just ended."""
        if call == 0 and self.hook.kept is not None:
            images = self._rows.images
            self._features = self.hook.kept[-images:].detach().clone()
            self._before = (info.step, info.timestep)
            if self._record is not None:
                self._record.put_map(info.step, _KEY, self._features, info.timestep)
        self.hook.wanted, self.hook.kept = False, None

    def _matched(self, features: Tensor) -> Tensor:
        """M (images, sources of each, tokens); images that read themselves get their own places."""
        bank = features
        if self._source is not None:
            bank = torch.cat([features, self._recorded(self._source).to(features)])
        most = max(len(entry) for entry in self._rows.reads)
        own = torch.arange(features.shape[1], device=features.device)
        table = own.repeat(self._rows.images, most, 1)
        for image in self._rows.targets:
            for k, source in enumerate(self._rows.reads[image]):
                table[image, k] = correspondences(bank[source], features[image])
        return table

    def _recorded(self, source: SourceFeatures) -> Tensor:
        step, timestep = self._before
        try:
            return source.get_map(step, timestep, _KEY)
        except ConfigError as error:
            raise ConfigError(
                f"The features that positions='matched' needs were not recorded at step {step}. "
                "Record with the same positions as are used now."
            ) from error
