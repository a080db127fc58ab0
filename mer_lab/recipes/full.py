"""Recipes at full scale, for IEMOCAP, MELD and CMU-MOSI on an accelerator, and what each should cost.

``CORPUS-full-SYSTEM``: text, audio, early and krishna2021 tune RoBERTa and wav2vec 2.0 along with the system;
hcam and cm-roberta, and text-frozen, their control, read frozen frames: stages can tune encoders too, but to
hear a conversation of waveforms at once takes more than 24 GB, by estimate. Sizes, rates and layers are ours
where the system's preset says no more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mer_lab.errors import MerLabError
from mer_lab.records import Recipe
from mer_lab.training import TrainConfig

_W2V, _ROBERTA, _BERT = "facebook/wav2vec2-base", "roberta-base", "bert-base-uncased"
_TUNED = {"name": "pretrained", "train_layers": 12, "rate": 0.02, "checkpointing": True}
_HEARS, _READS = _TUNED | {"encoder": _W2V}, _TUNED | {"encoder": _ROBERTA}
_WAVES, _TOKENS = {"name": "waveform"}, {"name": "tokens", "encoder": _ROBERTA}
_BOTH = {"audio": _WAVES, "text": _TOKENS, "encoder": {"audio": _HEARS, "text": _READS}}
_FRAMES, _VECTORS = ({"name": "pretrained", "encoder": name} for name in (_W2V, _ROBERTA))
_LAST = {"text": _VECTORS | {"layer": [9, 10, 11, 12]}}
_HCAM = {"name": "hcam", "stride": 5, "fusion_rate": 0.1}
_MIXED = {"audio": _FRAMES | {"layer": [4, 8, 12]}, "encoder": {"audio": {"name": "mix", "layers": 3}}}
_FIVE = (0, 1, 2, 3, 4)
_TUNE = TrainConfig(epochs=10, lr=1e-3, batch_size=8, precision="bf16")
_TURNS = TrainConfig(epochs=20, lr=1e-3, batch_size=32, batch_by="dialogue")
_SYSTEMS = {  # its settings, what it reads and with what, how it is trained
    "text": ({"name": "pooling"}, {"text": _TOKENS, "encoder": _READS}, _TUNE),
    "audio": ({"name": "statistics"}, {"audio": _WAVES, "encoder": _HEARS}, _TUNE),
    "early": ({"name": "early", "width": 128, "hidden": 256}, _BOTH, _TUNE),
    "krishna2021": ({"name": "krishna2021"}, _BOTH, _TUNE),
    "hcam": (_HCAM, _MIXED | _LAST, replace(_TURNS, contrastive=0.1)),
    "cm-roberta": ({"name": "cm-roberta", "stride": 5}, {"audio": _FRAMES | {"layer": 8}} | _LAST, _TURNS),
    "text-frozen": ({"name": "pooling"}, _LAST, replace(_TURNS, batch_by="length")),
}
_SESSION = {"corpus": "iemocap", "scheme": "four", "fold": "session=5"}
_CORPORA = {  # where, and what chooses the epoch
    "iemocap": (_SESSION, {"monitor": "ua"}),
    "meld": ({"corpus": "meld"}, {"monitor": "weighted_f1", "class_weights": 0.5}),
    "mosi": ({"corpus": "mosi"}, {"monitor": "weighted_f1"}),
}
RECIPES = tuple(
    Recipe(f"{corpus}-full-{name}", model, **where, **reads, train=replace(train, **how), seeds=_FIVE)
    for corpus, (where, how) in _CORPORA.items()
    for name, (model, reads, train) in _SYSTEMS.items()
) + (
    Recipe(  # with the paper's encoders
        "iemocap-krishna2021", {"name": "krishna2021"}, **_SESSION, audio=_WAVES,
        text=_TOKENS | {"encoder": _BERT}, encoder={"audio": _HEARS, "text": _READS | {"encoder": _BERT}},
        train=replace(_TUNE, batch_size=16, monitor="ua"),
    ),
    Recipe(
        "iemocap-xu2019", {"name": "xu2019"}, **_SESSION, audio={"name": "lowlevel34"},
        text={"name": "words", "width": 300, "min_count": 2, "drop": 0.1},
        train=TrainConfig(epochs=30, lr=1e-3, batch_size=32, monitor="ua"),
    ),
)  # fmt: skip

SIZES = {"iemocap": (10039, 12.4, 34), "meld": (13708, 12.1, 41), "mosi": (2199, 2.6, 50)}
"""Utterances, hours of audio, seconds of the longest. MELD's are counted from its tables (one row of 305 s
left out), and so are all utterances; the rest, by mean lengths of 4.5 and 4.2 s, is general knowledge."""
_MILLIONS = {_W2V: 94.4, _ROBERTA: 124.6, _BERT: 109.5}  # parameters; 85 of them in the 12 layers


def expected(recipe: Recipe) -> tuple[float, float]:
    """Hours of all seeds and GiB on ONE accelerator of 24 GB or more: ESTIMATES by arithmetic, not measured.

    Hours, perhaps right within a factor of three: 2 FLOP a step and parameter of the layers, 50 steps and 4.9
    GFLOP of convolutions a second of audio, 16 tokens an utterance; back costs twice, checkpoints once more.
    At 40 TFLOP/s tuned (40 % of 100), 10 frozen, and 0.1 s a batch for all else; no epoch is spared, and all
    utterances are learnt from. GiB: 4 bytes a parameter, 16 more where it learns (gradient, AdamW, the best
    epoch); five copies of the longest batch's widest layer, which no checkpoint spares; 1 for the rest.

    Raises:
        MerLabError: the size of the corpus or of an encoder is not in the tables above.
    """
    try:
        utterances, hours, longest = SIZES[Path(recipe.corpus).name]
        rounds, parts = len(recipe.seeds) * recipe.train.epochs, 5 if recipe.model["name"] == "hcam" else 1
        seconds, gib = 0.1 * rounds * parts * utterances / recipe.train.batch_size, 1.0
        for channel, spec in (("audio", recipe.audio), ("text", recipe.text)):
            own = recipe.encoder.get(channel, recipe.encoder) if spec else {}
            tuned, heard = "train_layers" in own, 3600 * hours * (channel == "audio")
            if (name := (own if tuned else spec).get("encoder")) is None:
                continue
            work = 2 * 85e6 * (50 * heard if heard else 16 * utterances)
            back = 2 + own["checkpointing"] if tuned else 0
            once = (4.9e9 * heard + work * (1 + back)) / (40e12 if tuned else 10e12)
            seconds += once * rounds if tuned else once
            gib += (4e6 * _MILLIONS[name] + 16 * 85e6 * tuned) / 2**30
            layers = len(spec["layer"]) if isinstance(spec.get("layer"), list) else 1
            widest = recipe.train.batch_size * 512 * 3200 if tuned else 128 * 768 * 50 * layers
            gib += 5 * 4 * widest * longest / 2**30 * (heard > 0)
    except KeyError as unknown:
        raise MerLabError(f"recipe {recipe.name}: the size of {unknown} is not known here.") from None
    return seconds / 3600, gib
