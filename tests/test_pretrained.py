"""Frozen text encoders: parity with transformers, no neighbours, hostile folders, the store; pooling."""

import ast
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    PreTrainedTokenizerFast,
)

from mer_lab.batches import Dataset
from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.features import encoders, pretrained
from mer_lab.features.encoders import find_encoder
from mer_lab.features.pretrained import PretrainedText, extractor_of
from mer_lab.features.store import FeatureStore
from mer_lab.models import UnimodalPooling
from mer_lab.models.layers import FrameEncoder
from mer_lab.ragged import Ragged

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] i am so happy sad you are here ! ? . ##ly ##ness".split()
TEXTS = [
    "I am so happy!",
    "You?",
    "",
    "sad",
    "so so so sadness. you are here",
    "happily",
    "I am here!",
    "You.",
]


def save_bert(folder: Path) -> Path:
    """A random BERT of 3 layers, width 32, with a WordPiece tokeniser."""
    tokenizer = Tokenizer(models.WordPiece({w: k for k, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=160, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=160, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoders") / "tiny-bert")


@pytest.fixture
def copy(encoder, tmp_path) -> Path:
    """The same encoder in a folder that a test may damage."""
    return Path(shutil.copytree(encoder, tmp_path / "copy"))


@pytest.fixture
def no_hub(tmp_path, monkeypatch) -> Path:
    """No network, and an empty hub cache, whose folder it returns."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("MER_LAB_DATA", raising=False)
    monkeypatch.delenv("MER_LAB_SHARED_DATA", raising=False)
    return tmp_path / "hub"


def corpus_of(texts) -> Corpus:
    columns = {
        "dialogue_id": "d", "turn": range(len(texts)), "speaker": "s", "split": "train", "label": "a",
        "text": list(texts), "audio": "", "start": np.nan, "end": np.nan,
    }  # fmt: skip
    return Corpus("little", ("a",), pd.DataFrame(columns, index=[f"u{k}" for k in range(len(texts))]))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def reference(folder: Path, text: str, layer: int) -> np.ndarray:
    """One text by itself, straight through transformers."""
    ids = PreTrainedTokenizerFast.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").float().eval()
    with torch.no_grad():
        return model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0].numpy()


def test_one_vector_a_token(encoder):
    extractor = PretrainedText(str(encoder))
    assert extractor.tokens("I am sadness!") == ["[CLS]", "i", "am", "sad", "##ness", "!", "[SEP]"]
    frames = extractor("I am sadness!")
    assert frames.shape == (7, 32) == (7, len(extractor.names)) and frames.dtype == np.float32
    assert extractor("").shape == (2, 32)
    assert extractor.extract_many([]) == []


@pytest.mark.parametrize("layer", [0, 1, 3, -1, -4])
def test_layers_are_those_of_transformers(encoder, layer):
    for text in TEXTS:
        assert relative(PretrainedText(str(encoder), layer)(text), reference(encoder, text, layer)) < 1e-5


def test_several_layers_stand_side_by_side(encoder):
    several = PretrainedText(str(encoder), [1, -1])  # a list, as TOML gives
    assert several == PretrainedText(str(encoder), (1, -1)) and hash(several)
    singles = [PretrainedText(str(encoder), k)(TEXTS[0]) for k in (1, 3)]
    np.testing.assert_array_equal(several(TEXTS[0]), np.concatenate(singles, axis=1))
    assert several.names[0] == "layer1_0" and several.names[32] == "layer3_0" and len(several.names) == 64


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_neighbours_change_nothing(encoder, data):
    texts = data.draw(
        st.lists(st.sampled_from(TEXTS + ["so " * 40, "\N{GRINNING FACE}", "happy " * 7]), max_size=12)
    )
    extractor = PretrainedText(str(encoder), (0, 2, 3))
    for text, together in zip(texts, extractor.extract_many(texts), strict=True):
        assert relative(together, extractor(text)) < 1e-6


def test_a_batch_larger_than_the_limit_keeps_its_order(encoder, monkeypatch):
    monkeypatch.setattr("mer_lab.features.pretrained._BATCH", 3)
    texts = [f"{word} {mark}" for word in ("happy", "sad", "you", "i") for mark in "!?."] + TEXTS
    extractor = PretrainedText(str(encoder))
    for text, together in zip(texts, extractor.extract_many(texts), strict=True):
        assert relative(together, extractor(text)) < 1e-6


def test_half_precision_weights_are_computed_in_single(encoder, tmp_path):
    half = Path(shutil.copytree(encoder, tmp_path / "half"))
    AutoModel.from_pretrained(encoder).half().save_pretrained(half)
    assert json.loads((half / "config.json").read_text())["dtype"] == "float16"
    frames = PretrainedText(str(half))(TEXTS[0])
    assert frames.dtype == np.float32
    assert relative(frames, reference(half, TEXTS[0], -1)) < 1e-5  # a product in half precision errs by 1e-3
    assert relative(frames, PretrainedText(str(encoder))(TEXTS[0])) > 1e-5  # and it is the half that was read


def test_long_texts_are_cut(encoder):
    assert len(PretrainedText(str(encoder))("so " * 200)) == 128
    cut = PretrainedText(str(encoder), max_tokens=10)
    assert cut.tokens("so " * 40) == ["[CLS]", *["so"] * 8, "[SEP]"]
    for size in (2, 161):
        with pytest.raises(MerLabError, match=rf"max_tokens is {size}; .* takes 3 to 160"):
            PretrainedText(str(encoder), max_tokens=size)("so")


def test_one_vector_a_word_is_the_mean_of_its_tokens(encoder):
    text = "  I am\tsadness!  you "
    tokens, words = PretrainedText(str(encoder)), PretrainedText(str(encoder), words=True)
    assert tokens.tokens(text) == ["[CLS]", "i", "am", "sad", "##ness", "!", "you", "[SEP]"]
    x = tokens(text)
    by_hand = np.stack([x[1], x[2], x[3:6].mean(0), x[6]])
    np.testing.assert_allclose(words(text), by_hand, atol=1e-6)
    assert words.settings != tokens.settings
    both = PretrainedText(str(encoder), (1, 3), words=True)
    np.testing.assert_allclose(both(text)[:, 32:], by_hand, atol=1e-6)


def test_words_that_were_cut_off_and_no_words(encoder):
    """A word of which something was read is the mean of that; one of which nothing was, the first token."""
    text = "you are sadness here so"
    tokens = PretrainedText(str(encoder), max_tokens=5)
    assert tokens.tokens(text) == ["[CLS]", "you", "are", "sad", "[SEP]"]
    x = tokens(text)
    words = replace(tokens, words=True)
    np.testing.assert_allclose(words(text), x[[1, 2, 3, 0, 0]], atol=1e-6)
    for empty in ("", " \n "):
        np.testing.assert_allclose(words(empty), tokens(empty)[:1], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.text(
        st.sampled_from("aso !?\t\n\x1f\xa0\u2003\u200bé\u0301\N{GRINNING FACE}[]")
        | st.characters(codec="utf-8"),
        max_size=30,
    )
)
def test_as_many_vectors_as_words(encoder, text):
    found = PretrainedText(str(encoder), words=True)(text)
    assert found.shape == (max(1, len(text.split())), 32) and np.isfinite(found).all()


def test_words_of_a_corpus_are_another_file(encoder, tmp_path):
    corpus, words = corpus_of(TEXTS), PretrainedText(str(encoder), words=True)
    ragged = FeatureStore(tmp_path).get(corpus, words, workers=1)
    assert ragged.lengths.tolist() == [max(1, len(text.split())) for text in TEXTS]
    whole = FeatureStore(tmp_path).get(corpus, replace(words, words=False), workers=1)
    assert whole.lengths.sum() > ragged.lengths.sum()


@pytest.mark.parametrize("layer", [4, -5, (0, 4), ()])
def test_a_layer_that_is_not_there(encoder, layer):
    with pytest.raises(MerLabError, match="has the layers 0 to 3; choose"):
        PretrainedText(str(encoder), layer)("so")


@pytest.mark.parametrize("name", ["nobody/no-such-encoder", "no-such-folder/below/it", "not a name"])
def test_an_absent_encoder_names_three_ways_to_get_one(no_hub, name):
    with pytest.raises(MerLabError) as error:
        PretrainedText(name)("hello")
    assert str(error.value).count("\n") == 0
    for way in ("download it by name", "a local folder", "copy the hub's cache"):
        assert way in str(error.value)


def test_a_copied_hub_cache_and_a_data_folder_are_found(encoder, no_hub, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = no_hub / "models--nobody--tiny-bert"
    shutil.copytree(encoder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    named = PretrainedText("nobody/tiny-bert")
    np.testing.assert_array_equal(named("so sad"), PretrainedText(str(encoder))("so sad"))

    shutil.copytree(encoder, tmp_path / "data" / "encoders" / "mine")
    monkeypatch.setenv("MER_LAB_DATA", str(tmp_path / "data"))
    assert PretrainedText("mine").settings == named.settings


def test_a_cache_without_tokeniser_is_completed_from_the_hub(encoder, no_hub, tmp_path, monkeypatch):
    """Another program may have cached the weights alone; offline, they are all there is."""
    snapshot = no_hub / "models--nobody--tiny-bert" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(encoder / name, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    assert find_encoder("nobody/tiny-bert") == snapshot
    asked = []

    def hub(name, allow_patterns, ignore_patterns, local_files_only):
        asked.append(local_files_only)
        return str(snapshot if local_files_only else encoder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert find_encoder("nobody/tiny-bert") == encoder and asked == [True, False]


def test_deberta_comes_with_a_sentencepiece_model_and_nothing_else(tmp_path):
    texts, folder = tmp_path / "texts.txt", tmp_path / "deberta"
    texts.write_text("\n".join(["i am so happy", "you are sad", "no way", "what a day it was"] * 50))
    config = DebertaV2Config(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, position_buckets=16, relative_attention=True, pos_att_type=["p2c", "c2p"],
        type_vocab_size=0,
    )  # fmt: skip
    DebertaV2Model(config).save_pretrained(folder)
    pieces = dict(pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]")
    places = dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, vocab_size=26, minloglevel=2)
    train = sentencepiece.SentencePieceTrainer.train
    train(input=str(texts), model_prefix=str(folder / "spm"), **pieces, **places)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    extractor = extractor_of(str(folder), max_tokens=32)
    tokens = extractor.tokens("i am so happy")
    assert isinstance(extractor, PretrainedText) and (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert extractor("i am so happy").shape == (len(tokens), 32)


def test_half_a_download_is_not_an_encoder(encoder, no_hub):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = no_hub / "models--nobody--tiny-bert" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    shutil.copy(encoder / "config.json", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    with pytest.raises(MerLabError, match="no model.safetensors; if a download was not finished"):
        find_encoder("nobody/tiny-bert")


def damage_nothing_but_weights(folder: Path) -> None:
    (folder / "config.json").unlink()


class Evil:
    """What unpickling would run: it leaves a file behind."""

    def __init__(self, folder: Path) -> None:
        self.code = f"open({str(folder / 'ran')!r}, 'w')"

    def __reduce__(self):
        return exec, (self.code,)


def damage_evil_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings": Evil(folder)}, folder / "pytorch_model.bin")


def damage_cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def damage_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{'model_type': bert")


def damage_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def damage_wider_config(folder: Path) -> None:
    edit_config(folder, hidden_size=64)


def damage_deeper_config(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=5)


def damage_own_code(folder: Path) -> None:
    """A model type that only the folder's own code knows."""
    auto = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    edit_config(folder, model_type="evil", auto_map=auto)
    (folder / "evil.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (damage_nothing_but_weights, "there is no config.json"),
        (damage_evil_pickle, "a pickle that holds more than tensors"),
        (damage_cut_off, "cannot be loaded"),
        (damage_not_json, "cannot be loaded"),
        (damage_list, "cannot be loaded"),
        (damage_wider_config, "cannot be loaded"),
        (damage_deeper_config, "the weights lack 32 tensors"),
        (damage_own_code, "cannot be loaded"),
    ],
)
def test_a_damaged_folder_is_told_in_one_sentence(copy, damage, sentence):
    damage(copy)
    with pytest.raises(MerLabError, match=sentence) as error:
        PretrainedText(str(copy))("so sad")
    assert str(copy) in str(error.value) and "\n" not in str(error.value)
    assert not (copy / "ran").exists()


def test_weights_that_are_only_there_as_a_pickle_are_read_by_the_restricted_loader(encoder, copy):
    model = AutoModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    assert relative(PretrainedText(str(copy))(TEXTS[0]), PretrainedText(str(encoder))(TEXTS[0])) < 1e-6


def test_importing_it_does_not_import_transformers():
    top = ast.parse(Path(pretrained.__file__).read_text()).body
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.startswith(("transformers", "huggingface_hub"))}


def test_store_equals_one_at_a_time(encoder, tmp_path):
    corpus, extractor = corpus_of(TEXTS * 3), PretrainedText(str(encoder))
    ragged = FeatureStore(tmp_path).get(corpus, extractor, workers=1)
    assert ragged.ids == corpus.ids and ragged.frames.dtype == np.float32
    assert ragged.meta["channel"] == "text" and ragged.meta["hop"] is None
    assert ragged.meta["columns"] == extractor.names
    for k, text in enumerate(TEXTS * 3):
        assert relative(ragged[k], extractor(text)) < 1e-6
    (file,) = tmp_path.glob("*.safetensors")
    assert str(encoder).encode() not in file.read_bytes()


def test_store_goes_by_content(encoder, copy, tmp_path, monkeypatch):
    texts, folder = FeatureStore(tmp_path / "store"), tmp_path / "store"

    def files() -> int:
        return len(list(folder.glob("*.safetensors")))

    first = texts.get(corpus_of(TEXTS), PretrainedText(str(encoder)), workers=1)
    assert files() == 1
    with monkeypatch.context() as patch:  # the same weights elsewhere: nothing to do
        patch.setattr(PretrainedText, "extract_many", None)
        patch.setattr(encoders, "_auto", None)  # nor to import transformers for
        again = texts.get(corpus_of(TEXTS), PretrainedText(str(copy)), workers=1)
    np.testing.assert_array_equal(first.frames, again.frames)
    texts.get(corpus_of([*TEXTS[:-1], "other"]), PretrainedText(str(encoder)), workers=1)
    assert files() == 2
    texts.get(corpus_of(TEXTS), PretrainedText(str(encoder), layer=2), workers=1)
    assert files() == 3
    model = BertModel.from_pretrained(copy)
    model.embeddings.word_embeddings.weight.data[7] += 1
    model.save_pretrained(copy)  # same process, same path, other weights
    changed = texts.get(corpus_of(TEXTS), PretrainedText(str(copy)), workers=1)
    assert files() == 4 and not np.array_equal(changed.frames, first.frames)


def test_a_killed_extraction_goes_on_and_ends_with_the_same_bytes(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_BATCH", 1)
    corpus, extractor, whole = corpus_of(TEXTS * 2), PretrainedText(str(encoder)), PretrainedText.extract_many
    FeatureStore(tmp_path / "a").get(corpus, extractor, workers=1)
    calls = []

    def dies(self, texts):
        calls.append(len(texts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, texts)

    monkeypatch.setattr(PretrainedText, "extract_many", dies)
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path / "b").get(corpus, extractor, workers=1)
    FeatureStore(tmp_path / "b").get(corpus, extractor, workers=1)
    assert calls == [4, 4, 4, 4, 4]  # the fourth batch twice, no other
    (a,), (b,) = ((tmp_path / k).glob("*.safetensors") for k in "ab")
    assert a.name == b.name and a.read_bytes() == b.read_bytes()


@dataclass(frozen=True)
class Letters:
    """A text extractor with nothing optional: the code of each letter."""

    name: ClassVar[str] = "letters"
    version: ClassVar[int] = 1
    channel: ClassVar[str] = "text"
    hop: ClassVar[None] = None
    names: ClassVar[list[str]] = ["code"]

    def __call__(self, text: str) -> np.ndarray:
        return np.array([[ord(letter)] for letter in text or " "], np.float32)


def test_store_takes_any_text_extractor(tmp_path):
    ragged = FeatureStore(tmp_path).get(corpus_of(["ab", "", "c"]), Letters(), workers=1)
    assert [ragged[k].ravel().tolist() for k in range(3)] == [[97, 98], [32], [99]]
    with pytest.raises(MerLabError, match="corpus little has no text"):
        FeatureStore(tmp_path).get(corpus_of(["", " "]), Letters(), workers=1)


def test_minilm_reads_meaning(shared_data):
    folder = shared_data / "encoders" / "minilm-l6-v2"
    if not folder.is_dir():
        pytest.skip("encoder not present: minilm-l6-v2")
    extractor = PretrainedText(str(folder))
    texts = ["I am so happy today!", "What a joyful, wonderful day.", "The invoice is attached.", "Yes."]
    frames = extractor.extract_many(texts * 3)
    assert all(f.shape[1] == 384 and np.isfinite(f).all() for f in frames)
    for text, f in zip(texts * 3, frames, strict=True):
        assert relative(f, extractor(text)) < 1e-5
        assert relative(f, reference(folder, text, -1)) < 1e-5
    happy, joyful, invoice = (f.mean(0) / np.linalg.norm(f.mean(0)) for f in frames[:3])
    assert happy @ joyful > 0.5 > 0.3 > happy @ invoice
    words = PretrainedText(str(folder), words=True)
    assert [len(f) for f in words.extract_many(texts)] == [len(text.split()) for text in texts]


def frames_of(lengths, width=6, channel="text") -> Dataset:
    rng = np.random.default_rng(0)
    ragged = Ragged.from_sequences(
        [rng.normal(size=(n, width)).astype(np.float32) for n in lengths],
        [f"u{k}" for k in range(len(lengths))],
    )
    return Dataset(corpus_of(["x"] * len(lengths)), **{channel: ragged})


@pytest.mark.parametrize("channel", ["audio", "text"])
def test_pooling_ignores_padding_and_shows_its_weights(channel):
    torch.manual_seed(0)
    data = frames_of([1, 9, 4], channel=channel)
    model = UnimodalPooling(FrameEncoder(6).fit(getattr(data, channel)), channel, 3, width=8).eval()
    with torch.no_grad():
        together = model(data.batch([0, 1, 2]), need_attention=True)
        assert together.logits.shape == (3, 3) and together.embedding.shape == (3, 16)
        for k in range(3):
            alone = model(data.batch([k]))
            torch.testing.assert_close(alone.logits[0], together.logits[k], atol=1e-6, rtol=0)
            assert alone.attention == {}
    weights = together.attention["pooling"]
    assert weights.shape == (3, 1, 1, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 1, 1))
    assert (weights[2, 0, 0, 4:] == 0).all()


def test_pooling_survives_an_utterance_without_frames():
    data = frames_of([0, 3])
    model = UnimodalPooling(FrameEncoder(6), "text", 3).eval()
    assert torch.isfinite(model(data.batch([0, 1])).logits).all()


def test_pooling_does_not_care_for_order_but_for_single_steps():
    """No step is mixed with its neighbours, and one strong step among many is not averaged away."""
    torch.manual_seed(0)
    model = UnimodalPooling(FrameEncoder(6), "text", 3, width=8).eval()
    batch = frames_of([20]).batch([0])
    shuffled = replace(batch, text=batch.text.flip(1))
    torch.testing.assert_close(model(shuffled).logits, model(batch).logits, atol=1e-6, rtol=0)
    peak = batch.text.clone()
    peak[0, 11] *= 50
    assert (model(replace(batch, text=peak)).embedding - model(batch).embedding).abs().max() > 1
