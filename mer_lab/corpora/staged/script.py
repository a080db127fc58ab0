"""What is said: the lexicon, scenes and sentence frames of the Staged corpus, and the invented language.

Sentences are subtitles. What is *heard* is a pseudo-word for every word, drawn anew each time, as in prosody
research (Banse & Scherer 1996): the sound carries the voice and the timing of each word, never its meaning.
"""

from __future__ import annotations

import numpy as np

LABELS = ("angry", "happy", "sad", "neutral")

LEXICON: dict[str, tuple[str, ...]] = {
    "angry": ("furious", "outrageous", "disgraceful", "hateful", "insulting", "maddening", "rude",
              "shameless", "unfair", "spiteful"),
    "happy": ("wonderful", "delightful", "lovely", "brilliant", "joyful", "splendid", "cheerful", "glorious",
              "charming", "magical"),
    "sad": ("lonely", "gloomy", "tearful", "hopeless", "mournful", "miserable", "dreary", "bleak",
            "heartbreaking", "tragic"),
    "neutral": ("ordinary", "usual", "regular", "typical", "average", "standard", "normal", "plain",
                "familiar", "routine"),
}  # fmt: skip
"""Emotional adjectives by what they mean; every split uses all of them."""

OPEN = ("small", "wooden", "second", "round", "long", "northern", "green", "narrow", "tall", "early",
        "square", "heavy")  # fmt: skip
"""Adjectives that mean no emotion, not even a neutral one: the slot is left open for the voice to fill."""

BACKCHANNELS: dict[str, int] = {"mm-hm": 1, "right": 1, "okay": 2, "i see": 2}
"""Backchannel → how many turns back the feeling comes from: 1 the partner's last turn, 2 one's own."""

# Scenes: three things that are talked about. A scene belongs to one split.
_NOUNS = """
harbour ferry lighthouse|orchard ladder basket|library essay lecture|kitchen oven recipe|garage engine tyre|
theatre curtain ticket|clinic nurse bandage|airport suitcase passport|market stall melon|
stadium whistle referee|farm tractor fence|museum statue guide|bakery loaf counter|hotel lobby elevator|
castle tower bridge|forest cabin trail|studio canvas brush|wedding cake speech|office printer memo|
school bell corridor|zoo parrot cage|beach towel umbrella|bank loan signature|circus tent clown|
factory helmet crane|concert violin encore|desert camel dune|island canoe paddle|village fountain well|
tunnel lantern map|prison gate guard|hospital ward crutch|garden rose shovel|church candle choir|
court judge verdict|river raft oar|glacier sledge rope|cinema poster queue|laundry shirt iron|
gym mat trainer|mailroom parcel stamp|chess rook clock|bus driver seat|picnic blanket thermos|
antique vase auction|newspaper headline editor|radio host jingle|subway platform token|vineyard barrel cork|
lake jetty swan|workshop hammer bench|pharmacy bottle label|embassy visa flag|bookshop shelf novel|
observatory telescope comet|quarry stone truck|nursery cradle toy|restaurant waiter menu|
campus dormitory roommate|pier anchor net|attic trunk diary|balcony plant railing|highway toll detour|
carnival mask float
"""
SCENES: tuple[tuple[str, ...], ...] = tuple(tuple(s.split()) for s in _NOUNS.replace("\n", "").split("|"))

_OPENINGS = ("we had", "there was", "i saw", "she brought", "they sold", "you found", "he mentioned",
             "we kept", "i remember", "they built", "she described", "you wanted", "he drew",
             "we visited", "i noticed", "they opened", "she missed", "you chose", "he fixed",
             "we shared")  # fmt: skip
_CLOSINGS = (
    "today",
    "again",
    "at last",
    "this morning",
    "over there",
    "last week",
    "before dinner",
    "on the way",
)
FRAMES: tuple[tuple[str, str], ...] = tuple((o, c) for o in _OPENINGS for c in _CLOSINGS)
"""Sentence frames (opening, closing); a frame belongs to one split."""

_CONSONANTS, _VOWELS, _CODAS = "bdfgklmnprstvz", "aeiou", "lmnrs"


def sentence(
    frame: tuple[str, str], adjectives: list[str], nouns: list[str]
) -> tuple[list[str], list[int], str]:
    """Words, positions of the adjectives among them, and the written sentence.

    >>> sentence(("we had", "today"), ["lovely", "early"], ["ferry", "harbour"])[2]
    'We had a lovely ferry and an early harbour today.'
    """
    words, text, slots = frame[0].split(), frame[0], []
    for k, (adjective, noun) in enumerate(zip(adjectives, nouns, strict=True)):
        if 0 < k == len(adjectives) - 1:
            words.append("and")
            text += " and"
        elif k:
            text += ","
        article = "an" if adjective[0] in "aeiou" and not adjective.startswith("usual") else "a"
        slots.append(len(words) + 1)
        words += [article, adjective, noun]
        text += f" {article} {adjective} {noun}"
    words += frame[1].split()
    text += f" {frame[1]}."
    return words, slots, text[0].upper() + text[1:]


def pseudo_word(rng: np.random.Generator) -> str:
    """A word of the invented language: one or two syllables, independent of what it stands for."""
    syllables = []
    for _ in range(rng.integers(1, 3)):
        coda = rng.choice(list(_CODAS)) if rng.random() < 0.25 else ""
        syllables.append(rng.choice(list(_CONSONANTS)) + rng.choice(list(_VOWELS)) + coda)
    return "".join(syllables)
