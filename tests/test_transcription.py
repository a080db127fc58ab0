"""A recogniser on this machine writes what it hears: as its own greedy decoding says, or one sentence."""

import json

import numpy as np
import pytest
import torch

from mer_lab.audio import read_audio
from mer_lab.errors import MerLabError
from mer_lab.features import write_audio
from mer_lab.transcription import transcribe

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    """A tiny wav2vec 2.0 with a CTC head and random weights, as save_pretrained() writes it."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("recogniser")
    (folder / "vocab.json").write_text(json.dumps({c: k for k, c in enumerate(LETTERS)}), encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(4)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, conv_dim=(16, 16), conv_stride=(10, 8), conv_kernel=(10, 8),
        num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    net = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        net.lm_head.bias[1:4] -= 1e4  # no <s>, </s>, <unk>
    net.save_pretrained(folder)
    return folder


class Mute:
    type = "ctc"

    def __call__(self, given):
        return {"text": " "}


def noise(seconds=1.0, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=round(16000 * seconds))).astype(np.float32)


def by_hand(folder, wave):
    """The likeliest letter of every frame, repetitions and blanks taken out."""
    from transformers import Wav2Vec2ForCTC

    net = Wav2Vec2ForCTC.from_pretrained(folder).eval()
    x = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    with torch.no_grad():
        best = net(torch.from_numpy(x)[None].float()).logits[0].argmax(-1).tolist()
    kept = [k for k, before in zip(best, [None, *best], strict=False) if k != before]
    return "".join(" " if k == 4 else LETTERS[k] for k in kept if k > 3).strip()


def test_it_writes_what_greedy_decoding_gives(recogniser, tmp_path):
    write_audio(tmp_path / "clip.wav", noise(), 16000)
    expected = by_hand(recogniser, read_audio(tmp_path / "clip.wav"))
    assert expected, "the random weights should write something"
    assert transcribe(tmp_path / "clip.wav", recogniser) == expected
    assert transcribe(read_audio(tmp_path / "clip.wav"), recogniser) == expected


def test_an_encoder_is_no_recogniser(recogniser, tmp_path):
    from transformers import Wav2Vec2Model

    Wav2Vec2Model.from_pretrained(recogniser).save_pretrained(tmp_path)
    for path in recogniser.glob("*.json"):
        if path.name != "config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(MerLabError, match="Wav2Vec2Model, which writes no words"):
        transcribe(noise(), tmp_path)


def test_no_word_no_recogniser_and_no_clip_are_a_sentence_each(recogniser, tmp_path, monkeypatch):
    monkeypatch.setattr("mer_lab.transcription._pipeline", lambda *_: Mute())
    with pytest.raises(MerLabError, match="hears no words"):
        transcribe(noise(), recogniser)
    with pytest.raises(MerLabError, match="no config.json"):
        transcribe(noise(), tmp_path)
    with pytest.raises(MerLabError, match="no such audio file"):
        transcribe(tmp_path / "no.wav", recogniser)
