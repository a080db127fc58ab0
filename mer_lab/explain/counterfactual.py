"""Does the prediction follow the cue? Utterances changed in one channel alone, whose new answer is known.

An attribution says what a system looked at; a counterfactual says what it would have decided. On the Staged
corpus the right answer is known too: the planted process (:mod:`mer_lab.corpora.staged.process`) tells what
the changed utterance means, and the system is asked again. Pairs that differ in nothing but the cue are
"contrast sets" (Gardner et al., "Evaluating Models' Local Decision Boundaries", Findings of EMNLP 2020).

Of a conversation one turn is changed at a time, and the others stay as they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from mer_lab.audio import read_audio
from mer_lab.batches import CHANNELS, Dataset
from mer_lab.corpora.staged import make_line, make_voice
from mer_lab.corpora.staged.process import CLASH
from mer_lab.corpora.staged.script import LABELS, LEXICON
from mer_lab.corpora.staged.speech import RATE, speak
from mer_lab.errors import MerLabError
from mer_lab.explain.question import conversation, margin
from mer_lab.features import PROSODY_NAMES
from mer_lab.features.store import Extractor
from mer_lab.inputs import AUDIO
from mer_lab.prediction import at_once
from mer_lab.ragged import Ragged
from mer_lab.statistics import accuracy_by

FLATTENED = ("prosodic", "redundant", "accent", "lexical")
"""Cues that live on the voice, and the control, which does not."""


class MovedAccents(NamedTuple):
    """The same sentences with the stress on each of their emotional words in turn.

    Attributes:
        frame: one row a rendering, sentence after sentence; see :func:`move_accent`.
        texts: of each sentence, what all of its renderings say.
        waves: of each sentence its renderings, float32 ``(N,)`` each, in the order of ``accent``.
        rate: of the waves, in Hz.
    """

    frame: pd.DataFrame
    texts: list[str]
    waves: list[list[np.ndarray]]
    rate: int


def emotion_of(words: str, voice: str) -> str | None:
    """What words in a voice mean together by the planted process; None where it never lets them meet.

    >>> emotion_of("happy", "neutral"), emotion_of("happy", "sad"), emotion_of("neutral", "sad")
    ('happy', 'angry', None)
    """
    return words if voice in ("neutral", words) else CLASH.get(frozenset((words, voice)))


def swap_transcripts(model: nn.Module, data: Dataset, seed: int = 0) -> pd.DataFrame:
    """Give utterances whose words mean an emotion the transcript of another that means another one.

    The audio stays. The new transcript comes from another dialogue, with as many words or as nearly so as
    there are. Only such are drawn whose meaning with this voice the process knows: neutral words in an angry
    voice never occur.

    Returns:
        one row an utterance: ``utterance, dialogue, cue, partner`` (whose transcript), ``becomes`` (the cue
        of the new pair: lexical, redundant or incongruent), ``emotion`` (before the swap), ``before`` and
        ``after`` (decisions), ``changed`` (the two differ), ``expected`` (the emotion after the swap),
        ``followed`` (``after`` is ``expected``), ``chance`` (of guessing).

    Raises:
        MerLabError: no text, no planted truth, or no two utterances to be exchanged.
    """
    table = _planted(data, "text")
    rng = np.random.default_rng([seed, 61])
    means, voice = table["words_mean"].to_numpy(), table["voice_means"].to_numpy()
    length = table["text"].str.split().str.len().to_numpy()
    rows, partners = [], []
    # the meaning is drawn first: frequent ones would else be most of what is tested
    for row in np.flatnonzero(np.isin(means, LABELS)):
        possible = [w for w in LABELS if w != means[row] and emotion_of(w, voice[row])]
        foreign = data.dialogue != data.dialogue[row]
        there = [w for w in possible if (foreign & (means == w)).any()]
        if there:
            found = np.flatnonzero(foreign & (means == rng.choice(there)))
            off = np.abs(length[found] - length[row])
            rows.append(row)
            partners.append(rng.choice(found[off == off.min()]))
    if not rows:
        raise MerLabError("no utterance has a partner in another dialogue whose words mean something else.")
    words, speech = means[partners], voice[rows]
    ids = [data.corpus.ids[k] for k in partners]
    swapped = {"text": data.text.take(ids)}
    before, after = (_ask(model, data, rows, new).argmax(-1) for new in ({}, swapped))
    frame = _decisions(data, rows, before, after)
    frame.insert(3, "partner", ids)
    kinds = np.where(words == speech, "redundant", "incongruent")
    frame.insert(4, "becomes", np.where(speech == "neutral", "lexical", kinds))
    frame["expected"] = [emotion_of(w, v) for w, v in zip(words, speech, strict=True)]
    frame["followed"] = frame["after"] == frame["expected"]
    return frame.assign(chance=1 / len(data.corpus.labels))


def flatten_pitch(model: nn.Module, data: Dataset, column: str = "pitch") -> pd.DataFrame:
    """Hold the pitch at the utterance's own mean and leave everything else as it is.

    What is lost is movement: melody and accent. The height of the voice, its loudness, its tempo and the
    words stay, so the process names no new emotion for a prosodic utterance: what can be asked is whether
    the decision rested on the movement. A lexical utterance, the control, has to keep its decision, although
    it loses a stress too: every sentence has one, and a system may look for it where it means nothing.

    Args:
        column: ``"energy"`` levels the loudness in the same way.

    Returns:
        one row an utterance of :data:`FLATTENED`: ``utterance, dialogue, cue, emotion, before, after``
        (decisions), ``changed`` (the two differ), ``right_before, right_after`` (the decision is the
        emotion), ``margin_before, margin_after`` (of the class decided on before the change,
        :func:`~mer_lab.explain.question.margin`).

    Raises:
        MerLabError: no such column, audio features other than "prosody", no planted truth.
    """
    if column not in ("pitch", "energy"):
        raise MerLabError(f"there is no way to flatten {column!r}; choose pitch or energy.")
    table = _planted(data, "audio")
    meta = data.audio.meta
    if meta.get("name") != "prosody" or data.audio.width != len(PROSODY_NAMES):
        raise MerLabError(
            f"only features 'prosody' name their pitch and energy, and these are {meta.get('name')!r}; "
            "train a system on audio features 'prosody' to flatten them."
        )
    rows = np.flatnonzero(table["cue"].isin(FLATTENED))
    if not len(rows):
        raise MerLabError(f"there is no utterance of the cues {', '.join(FLATTENED)} to flatten.")
    held = bool(meta.get("settings", {}).get("interpolate"))
    level = [flattened(data.audio[k], column, held) for k in rows]
    changed = {"audio": Ragged.from_sequences(level, [data.corpus.ids[k] for k in rows], meta)}
    logits = [_ask(model, data, rows, new) for new in ({}, changed)]
    before = logits[0].argmax(-1)
    frame = _decisions(data, rows, before, logits[1].argmax(-1))
    for name, values in zip(("before", "after"), logits, strict=True):
        frame[f"right_{name}"] = frame[name] == frame["emotion"]
        frame[f"margin_{name}"] = margin(values, before).numpy()
    return frame


def flattened(frames: np.ndarray, column: str = "pitch", interpolated: bool = False) -> np.ndarray:
    """Frames ``(T, 7)`` of :class:`~mer_lab.features.Prosody` with ``column`` at its mean over voiced frames.

    Frames without a voice keep what they have: a level that filled the pauses too would be loudness where
    nobody speaks. The column of changes is what the extractor would make of the new values.

    Args:
        column: ``"pitch"`` or ``"energy"``.
        interpolated: whether the pitch runs on through unvoiced frames; there it is level too.
    """
    out = np.array(frames, np.float32)
    voiced = out[:, PROSODY_NAMES.index("voiced")] > 0.5
    values = out[:, PROSODY_NAMES.index(column)]
    if voiced.any():
        values[voiced | (interpolated and column == "pitch")] = values[voiced].mean(dtype=np.float64)
        change = np.diff(values, prepend=values[:1])
        # the pitch does not leap where a voice sets in, see Prosody
        out[:, PROSODY_NAMES.index(f"delta_{column}")] = 0 if column == "pitch" else change
    return out


def move_accent(
    model: nn.Module, data: Dataset, n: int = 40, seed: int = 0, extractor: Extractor | None = None
) -> MovedAccents:
    """Speak sentences of the accent cue anew, with the stress on each of their emotional words in turn.

    Words, invented words and voice are the same in all renderings of a sentence; only the stress moves. Each
    stands in the conversation in place of the utterance whose transcript it has, in the voice of the same
    speaker, whose habits of tempo, pitch and loudness are drawn anew.

    Args:
        n: sentences, drawn from the utterances of the accent cue.
        seed: of the draw and the voices.
        extractor: of the audio features, where they cannot be made from their own settings.

    Returns:
        in its frame ``sentence`` (the utterance), ``dialogue, accent`` (which emotional word, from 0),
        ``stressed`` (that word), ``start, end`` (s, of the stressed word), ``planted`` (the corpus stresses
        the same one), ``expected`` (what that word means), ``predicted, followed`` (the two agree),
        ``margin`` (of the expected class), ``chance`` (of a guess among the sentence's emotions).

    Raises:
        MerLabError: fewer than ``n`` sentences, no planted truth, unknown audio features, or no synthesiser.
    """
    table = _planted(data, "audio")
    extractor = extractor or _extractor(data.audio.meta)
    accents = np.flatnonzero(table["cue"] == "accent")
    if not 1 <= n <= len(accents):
        raise MerLabError(f"n is {n}, expected 1 to {len(accents)}: the utterances of the accent cue here.")
    rng = np.random.default_rng([seed, 67])
    voices = {name: make_voice(rng, name) for name in sorted(set(table["speaker"].iloc[accents]))}
    rows = np.sort(rng.choice(accents, n, replace=False))
    meaning = {word: label for label, words in LEXICON.items() for word in words}
    timed = {u: part for u, part in data.corpus.words.groupby("utterance_id", sort=False)}
    labels, lines, frame = data.corpus.labels, [], []  # a line and a row for each rendering
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            uid = data.corpus.ids[row]
            words = timed[uid]["word"].tolist()
            slots = [k for k, word in enumerate(words) if word in meaning]
            plain = make_line(rng, "", voices[table["speaker"].iloc[row]], "neutral", len(words), None)
            emotions = {meaning[words[k]] for k in slots}
            for accent, slot in enumerate(slots):
                lines.append(replace(plain, accent=slot, path=str(Path(folder) / f"{len(lines)}.wav")))
                frame.append({
                    "sentence": uid, "dialogue": table["dialogue_id"].iloc[row], "accent": accent,
                    "stressed": words[slot], "planted": str(table["accent"].iloc[row]) == str(slot),
                    "expected": meaning[words[slot]], "chance": 1 / len(emotions), "row": row,
                })  # fmt: skip
        timings = speak(lines)
        frames = [extractor(read_audio(line.path, extractor.rate)) for line in lines]
        waves = [read_audio(line.path, RATE) for line in lines]
    for entry, line, timing in zip(frame, lines, timings, strict=True):
        ends = [*timing["onsets"][1:], timing["end"]]
        entry |= {"start": timing["onsets"][line.accent], "end": ends[line.accent]}
    table = pd.DataFrame(frame)
    asked = table.pop("row").to_numpy()
    spoken = Ragged.from_sequences(frames, [line.path for line in lines], data.audio.meta)
    logits = _ask(model, data, asked, {"audio": spoken})
    table["predicted"] = [labels[k] for k in logits.argmax(-1)]
    table["followed"] = table["predicted"] == table["expected"]
    table["margin"] = margin(logits, torch.tensor([labels.index(e) for e in table["expected"]])).numpy()
    order = "sentence dialogue accent stressed start end planted expected predicted followed margin chance"
    together = [[waves[k] for k in np.flatnonzero(asked == row)] for row in rows]
    return MovedAccents(table[order.split()], data.corpus.table["text"].iloc[rows].tolist(), together, RATE)


def followed(frame: pd.DataFrame, by: str | Sequence[str] = (), column: str = "followed") -> pd.DataFrame:
    """Share of a frame's rows where ``column`` is true, such as followed or changed.

    Args:
        frame: of :func:`swap_transcripts`, :func:`flatten_pitch` or :func:`move_accent`.
        by: columns whose values are groups; ``"all"`` comes last.

    Returns:
        ``share, low, high`` (95 %, dialogues drawn; where all or none follow, Wilson's interval over
        dialogues, since resampling would give none), ``n`` (rows), and, of what is followed, ``chance``.

    Raises:
        MerLabError: no such column, or fewer than two dialogues.
    """
    by = [by] if isinstance(by, str) else [*by]
    for name in (*by, column):
        if name not in frame:
            raise MerLabError(f"there is no column {name!r}; choose among {', '.join(frame.columns)}.")
    groups = frame[by].astype(str).agg(", ".join, axis=1) if by else pd.Series("all", frame.index)
    hits = frame[column].to_numpy(bool).astype(int)
    shares = accuracy_by(groups, np.ones(len(hits), int), hits, frame["dialogue"])
    out = shares.rename(columns={"estimate": "share", "utterances": "n"})
    for name in out.index:
        member = frame[(groups == name) | (name == "all")]
        if out.at[name, "share"] in (0, 1):
            count = member["dialogue"].nunique()
            interval = binomtest(round(out.at[name, "share"] * count), count).proportion_ci(method="wilson")
            out.loc[name, ["low", "high"]] = [interval.low, interval.high]
        if column == "followed" and "chance" in frame:
            out.loc[name, "chance"] = member["chance"].mean()
    return out


def _planted(data: Dataset, channel: str) -> pd.DataFrame:
    """The corpus's table, where it says what words and voices mean."""
    table = data.corpus.table
    if {"cue", "emotion", "words_mean", "voice_means"} - {*table} or set(data.corpus.labels) != set(LABELS):
        raise MerLabError(
            f"corpus {data.corpus.name} does not say what words and voices mean; use the Staged corpus under "
            "its own labels, where the answer to a counterfactual is known."
        )
    if getattr(data, channel) is None:
        raise MerLabError(f"the {channel} is to be changed, but the data were prepared without it.")
    return table


def _extractor(meta: Mapping) -> Extractor:
    try:
        return AUDIO[meta.get("name")](**meta.get("settings", {}))
    except (KeyError, TypeError):
        raise MerLabError(
            f"the audio features {meta.get('name')!r} cannot be made anew from their settings; "
            "pass the extractor that made them."
        ) from None


def _decisions(data: Dataset, rows: Sequence[int], before: Tensor, after: Tensor) -> pd.DataFrame:
    table, labels = data.corpus.table.iloc[rows], data.corpus.labels
    frame = table.rename_axis("utterance").reset_index().rename(columns={"dialogue_id": "dialogue"})
    frame = frame[["utterance", "dialogue", "cue", "emotion"]]
    answers = {"before": [labels[k] for k in before], "after": [labels[k] for k in after]}
    return frame.assign(**answers, changed=(before != after).numpy())


def _ask(
    model: nn.Module, data: Dataset, rows: Sequence[int] | np.ndarray, changed: Mapping[str, Ragged]
) -> Tensor:
    """Logits ``(B, classes)`` of utterances, each alone ``changed``, by channel, in its conversation."""
    device = next(model.parameters()).device
    together = [np.array([row]) for row in rows]
    if getattr(model.eval(), "contextual", False):
        together = [conversation(data, row, getattr(model, "causal", False)) for row in rows]
    size = max(1, at_once(model) // max(map(len, together)))
    logits = []
    with torch.inference_mode():
        for start in range(0, len(rows), size):
            part = np.arange(start, min(start + size, len(rows)))
            turns = [together[k] for k in part]
            index = np.concatenate(turns)
            copy = np.repeat(np.arange(len(part)), [len(t) for t in turns])
            place = torch.from_numpy(np.flatnonzero(index == np.asarray(rows)[part][copy]))
            batch = replace(data.batch(index), dialogue=torch.from_numpy(copy))
            for name in CHANNELS:
                if name in changed:
                    new = [torch.from_numpy(x) for x in changed[name].padded(part)]
                    x, mask = _put(batch.channel(name), new, place)
                    batch = replace(batch, **{name: x, f"{name}_mask": mask})
            logits.append(model(batch.to(device)).logits[place.to(device)].float().cpu())
    return torch.cat(logits)


def _put(whole: Sequence[Tensor], new: Sequence[Tensor], place: Tensor) -> list[Tensor]:
    """Frames ``(U, T, D)`` and mask ``(U, T)``, the rows ``place (B,)`` exchanged for new ones."""
    out = []
    for old, given in zip(whole, new, strict=True):
        wide = old.new_zeros(len(old), max(old.shape[1], given.shape[1]), *old.shape[2:])
        wide[:, : old.shape[1]] = old
        wide[place] = 0
        wide[place, : given.shape[1]] = given.to(wide.dtype)
        out.append(wide)
    return out
