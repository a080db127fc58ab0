"""What every system shares: two encoders before it, and a folder to live in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn

from mer_lab.batches import CHANNELS, Batch
from mer_lab.checkpoints import learnt, load_tensors, restore_weights, save_tensors
from mer_lab.errors import MerLabError
from mer_lab.models import layers
from mer_lab.models.output import Output

_WEIGHTS = "model.safetensors"
_CARD = """---
{{ card_data }}
---

# {{ system }}

{{ summary }}

Made with mer_lab. {{ made }}

## Settings

```json
{{ settings }}
```

{{ trained }}

## Limits

It has learnt from the corpus above and from nothing else; other speakers, languages, microphones and ways to
label will lower its scores. What people show is not what they feel, and no score here is evidence that it is.
Do not use it to judge a person.
"""


class System(nn.Module, ModelHubMixin, library_name="mer_lab", model_card_template=_CARD, tags=["emotion"]):
    """Reads two channels; each system adds its own layers in ``__init__`` and its equations in ``forward``.

    Args:
        audio, text: encoders, ``encoder(x, mask) -> (vectors (U, T, width), mask (U, T))``; frozen features
            behind a :class:`~mer_lab.models.layers.FrameEncoder`, or a network that learns along.
        classes: of the corpus.
        config: the system's own settings, a dataclass.

    Attributes:
        Config: the class of its settings.
        contextual: whether it reads whole dialogues.
        paper: where it was published.
        about: what is saved with it: recipe, labels, vocabulary, scores.
    """

    Config: ClassVar[type]
    contextual: ClassVar[bool] = False
    paper: ClassVar[str] = ""

    def __init__(self, audio: nn.Module, text: nn.Module, classes: int, config: Any) -> None:
        super().__init__()
        self.audio, self.text = audio, text
        self.classes, self.config = classes, config
        self.about: dict[str, Any] = {}

    @property
    def causal(self) -> bool:
        """Whether no turn sees a later one."""
        return False

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames ``(U, Ta, Da)`` and their mask ``(U, Ta)``, words ``(U, Tt, Dt)`` and theirs ``(U, Tt)``."""
        return *self.encode_channel(batch, "audio"), *self.encode_channel(batch, "text")

    def encode_channel(self, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        """Vectors ``(U, T, D)`` of one channel and their mask ``(U, T)``.

        A channel that the batch calls absent is one vector of zeros, which is the mean of standardised
        frames and no word at all.
        """
        x, mask = getattr(self, name)(*batch.channel(name))
        return (x, mask) if batch.absent is None else _without(x, mask, batch.absent[:, CHANNELS.index(name)])

    def save_pretrained(self, folder: str | Path, **options) -> None:
        """Write ``config.json``, ``model.safetensors`` (what was learnt) and a model card to a folder.

        Args:
            options: as of huggingface_hub's mixin; ``push_to_hub=True`` and ``repo_id`` also upload them.
        """
        encoders = {name: _describe(getattr(self, name)) for name in ("audio", "text")}
        spec = {"system": type(self).__name__, "classes": self.classes, "config": asdict(self.config)}
        spec |= {"encoders": encoders, "about": self.about}
        (Path(folder) / "README.md").unlink(missing_ok=True)  # the mixin would keep an older card
        card = {
            "system": type(self).__name__,
            "summary": (type(self).__doc__ or "").partition("\n")[0],
            "made": f"After {self.paper}." if self.paper else "",
            "settings": json.dumps(spec["config"] | {"encoders": _short(encoders)}, indent=2),
            "trained": _trained(self.about),
        }
        super().save_pretrained(folder, config={"mer_lab": spec}, model_card_kwargs=card, **options)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options) -> System:
        """A saved system, in evaluation mode: from a folder, or by name from the hub.

        Called on :class:`System` it returns whichever system was saved.

        Args:
            options: as of huggingface_hub's mixin, such as ``revision`` and ``local_files_only``.

        Raises:
            MerLabError: nothing there, a file that is cut off, or another system than the class asked for.
        """
        try:
            return super().from_pretrained(folder, **options)
        except (HFValidationError, HfHubHTTPError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise MerLabError(
                f"{folder} is neither a folder with a saved system nor one that the hub gives: {reason}"
            ) from None

    def _save_pretrained(self, save_directory: Path) -> None:
        save_tensors(save_directory / _WEIGHTS, learnt(self), {"system": type(self).__name__})

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: dict | None = None, revision=None, cache_dir=None,
        force_download=False, local_files_only=False, token=None, **_,
    ) -> System:  # fmt: skip
        try:
            spec = config["mer_lab"]
            system = next(kind for kind in _kinds(System) if kind.__name__ == spec["system"])
            settings = system.Config(**spec["config"])
            audio, text = (_rebuild(spec["encoders"][name]) for name in ("audio", "text"))
        except (KeyError, TypeError, StopIteration):
            raise MerLabError(
                f"{model_id}: its config.json is missing or describes no system of this mer_lab."
            ) from None
        if not issubclass(system, cls):
            raise MerLabError(f"{model_id} holds {system.__name__}, not {cls.__name__}.")
        model = system(audio, text, spec["classes"], settings)
        model.about = spec.get("about", {})
        path = Path(model_id) / _WEIGHTS
        if not Path(model_id).is_dir():
            path = Path(hf_hub_download(
                model_id, _WEIGHTS, revision=revision, cache_dir=cache_dir, token=token,
                force_download=force_download, local_files_only=local_files_only,
            ))  # fmt: skip
        restore_weights(load_tensors(path)[0], model)
        return model.eval()


class Part(nn.Module):
    """What is trained at a time, as a model of its own.

    Args:
        name: such as ``"I audio"``.
        channels: those that it reads, and whose vectors it makes for the next stage.
        answer: its :class:`Output` for a batch: raw features for stage I, later the vectors of the stage
            before as sequences of one step.
        rate: share of the learning rate that it takes.
        learns: the modules behind ``answer``.
    """

    def __init__(
        self, name: str, channels: tuple[str, ...], contextual: bool, rate: float,
        answer: Callable[[Batch], Output], *learns: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.name, self.channels, self.contextual, self.rate = name, channels, contextual, rate
        self.answer = answer
        self.learns = nn.ModuleList(learns)

    def forward(self, batch: Batch) -> Output:
        return self.answer(batch)


def _without(x: Tensor, mask: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """``x (U, T, D)`` and ``mask (U, T)``, where ``absent (U,)`` a single step of zeros."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return x * ~absent[:, None, None], torch.where(absent[:, None], first, mask)


def _kinds(of: type) -> list[type]:
    return [of, *(deeper for kind in of.__subclasses__() for deeper in _kinds(kind))]


def _describe(encoder: nn.Module) -> dict[str, Any]:
    return {"kind": type(encoder).__name__, **encoder.settings}


def _rebuild(spec: dict[str, Any]) -> nn.Module:
    settings = dict(spec)
    return getattr(layers, settings.pop("kind"))(**settings)


def _short(encoders: dict[str, dict]) -> dict[str, dict]:
    return {name: {k: v for k, v in e.items() if k != "vocabulary"} for name, e in encoders.items()}


def _trained(about: dict[str, Any]) -> str:
    """The card's section on what it has learnt from; nothing is claimed that was not recorded."""
    if not about:
        return "Where and how it was trained is not recorded."
    labels = ", ".join(about.get("labels", []))
    parts = [f"## Training\n\nIt tells apart: {labels}. The recipe:\n\n```toml\n{about.get('recipe', '')}```"]
    if scores := about.get("validation"):
        parts.append("Validation: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()) + ".")
    return "\n\n".join(parts)
