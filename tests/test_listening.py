"""Speech encoders: the numbers of plain transformers, whatever shares the batch; and what is refused."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModel, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from mer_lab.errors import MerLabError
from mer_lab.features.listening import SpeechNetwork

SMALL = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
)  # fmt: skip
LAYER = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)  # as the large ones
MOONSHINE = dict(
    hidden_size=32, encoder_num_hidden_layers=2, decoder_num_hidden_layers=1, encoder_num_attention_heads=4,
    decoder_num_attention_heads=4, intermediate_size=64, vocab_size=8,
)  # fmt: skip
WHISPER = dict(
    d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    decoder_start_token_id=1,
)  # fmt: skip
NO_MASK, MASK = dict(return_attention_mask=False), dict(return_attention_mask=True)
KINDS = {  # transformers' name, settings, settings of the feature extractor
    "wav2vec2": ("Wav2Vec2", SMALL, NO_MASK),
    "wav2vec2-layer": ("Wav2Vec2", SMALL | LAYER, MASK),
    "hubert": ("Hubert", SMALL, NO_MASK),
    "hubert-layer": ("Hubert", SMALL | LAYER, MASK),
    "wavlm": ("WavLM", SMALL, NO_MASK),
    "wavlm-layer": ("WavLM", SMALL | LAYER, MASK),
    "data2vec": ("Data2VecAudio", SMALL | dict(num_conv_pos_embeddings=3, conv_pos_kernel_size=5), MASK),
    "moonshine": ("Moonshine", MOONSHINE, MASK | dict(do_normalize=False)),
    "whisper": ("Whisper", WHISPER, {}),
    "sew": ("SEW", SMALL | dict(conv_dim=(16,) * 13), NO_MASK),
    "8 kHz": ("Wav2Vec2", SMALL, NO_MASK | dict(sampling_rate=8000)),
}
FAMILIES = [name for name in KINDS if name not in ("sew", "8 kHz")]
LENGTHS = [1, 250, 400, 719, 720, 1100, 1359, 16080, 16399]
"""Shorter than what a frame hears, the ends of a frame, and pairs of as many frames but not samples."""


def save_encoder(name: str, folder: Path, **changes) -> Path:
    """A tiny random encoder whose biases and products are large enough to let padding leak."""
    kind, options, prepare = KINDS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**options | changes)
    model = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
            elif parameter.ndim == 2:
                parameter.mul_(5)
    model.save_pretrained(folder)
    (WhisperFeatureExtractor if kind == "Whisper" else Wav2Vec2FeatureExtractor)(**prepare).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str], Path]:
    """Folder of the encoder of a kind."""
    root = tmp_path_factory.mktemp("speech")
    return cache(lambda name: save_encoder(name, root / name))


@pytest.fixture(scope="session")
def network(tiny) -> Callable[[str], SpeechNetwork]:
    return cache(lambda name: SpeechNetwork(tiny(name)).eval())


@pytest.fixture(scope="session")
def plain(tiny) -> Callable[[str, np.ndarray], list[Tensor]]:
    """Every hidden state of one wave by itself, straight through transformers."""
    loaded = cache(
        lambda name: (AutoModel.from_pretrained(tiny(name)), AutoFeatureExtractor.from_pretrained(tiny(name)))
    )

    def states(name: str, wave: np.ndarray) -> list[Tensor]:
        model, prepare = loaded(name)
        (given,) = (
            prepare(wave, sampling_rate=16000, return_tensors="pt")[k] for k in prepare.model_input_names[:1]
        )
        listens = (model.get_encoder() if model.config.is_encoder_decoder else model).eval()
        with torch.no_grad():
            found = listens(given, output_hidden_states=True).hidden_states
        return [x[0, : -(-len(wave) // 320)] if name == "whisper" else x[0] for x in found]

    return states


def noise(samples: int, loudness: float = 0.1, seed: int = 0) -> np.ndarray:
    wave = np.random.default_rng([samples, seed]).normal(size=samples)
    return (loudness * (wave + 0.3)).astype(np.float32)  # not centred: encoders that ask for it, do it


def listen(network: SpeechNetwork, waves: list[np.ndarray]) -> list[list[Tensor]]:
    """Hidden states of each wave, all in one batch."""
    rows = [torch.from_numpy(w) for w in waves]
    mask = [torch.ones(len(w), dtype=torch.bool) for w in waves]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    with torch.no_grad():
        states, real = network(pad(rows), pad(mask))
    assert all(x.shape[:2] == real.shape for x in states) and len(states) == network.layers + 1
    assert not (real[:, 1:] & ~real[:, :-1]).any()
    return [[x[k, real[k]] for x in states] for k in range(len(waves))]


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest of any layer, relative to the layer's largest number."""
    assert [x.shape for x in found] == [x.shape for x in expected]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_by_itself_it_is_what_transformers_computes(name, network, plain):
    for samples in (895, 9000, 16001):
        wave = noise(samples)
        assert difference(listen(network(name), [wave])[0], plain(name, wave)) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_each_by_itself(name, network):
    """Over lengths, order, and neighbours a hundred times as loud."""
    assert network(name).batches
    clip = st.tuples(st.sampled_from(LENGTHS) | st.integers(1, 20000), st.sampled_from([0.001, 0.1, 1.0]))

    @settings(max_examples=1 if name == "whisper" else 12, deadline=None, derandomize=True)
    @given(st.lists(clip, min_size=2, max_size=4))
    @example([(1100, 0.1), (1359, 1.0)])
    @example([(16080, 0.001), (16399, 1.0), (250, 0.1)])
    @example([(1, 0.1), (20000, 1.0)])
    @example([(9000, 0.001), (9000, 1.0)])
    def alike(clips):
        waves = [noise(samples, loud, k) for k, (samples, loud) in enumerate(clips)]
        for wave, together in zip(waves, listen(network(name), waves), strict=True):
            assert difference(together, listen(network(name), [wave])[0]) < 1e-4

    alike()


def test_a_naive_batch_is_not(tiny, plain):
    """What the tests above could not see, they could not test: with plain padding, neighbours are heard."""
    model, waves = AutoModel.from_pretrained(tiny("wav2vec2")).eval(), [noise(9000), noise(16000)]
    prepare = AutoFeatureExtractor.from_pretrained(tiny("wav2vec2"))
    given = prepare(waves, sampling_rate=16000, return_tensors="pt", padding=True, return_attention_mask=True)
    with torch.no_grad():
        states = model(**given, output_hidden_states=True).hidden_states
    alone = plain("wav2vec2", waves[0])
    assert difference([x[0, : len(alone[0])] for x in states], alone) > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_frames_are_counted_as_the_model_counts_them(name, network):
    reach = 1 if name == "whisper" else network(name).reach
    lengths = torch.tensor([*range(reach, reach + 800, 319 if name == "whisper" else 53), 5000, 9999])
    with torch.no_grad():
        _, real = network(name)(torch.zeros(len(lengths), 9999), torch.arange(9999) < lengths[:, None])
    steps = -(-lengths // 160) if name == "whisper" else lengths  # Whisper counts frames of its spectrum
    count = network(name).net._get_feat_extract_output_lengths
    assert real.sum(1).tolist() == [int(count(n)) for n in steps]


@pytest.mark.parametrize(
    ("name", "stride", "reach"), [("hubert", 320, 400), ("moonshine", 384, 895), ("whisper", 320, 1)]
)
def test_the_clock(name, stride, reach, network):
    assert (network(name).stride, network(name).reach) == (stride, reach)
    assert network(name).first == (reach - 1) / 2


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "whisper"])
def test_a_mask_only_where_there_is_padding(name, network):
    seen = []
    hook = network(name).net.register_forward_pre_hook(
        lambda module, inputs, options: seen.append(options["attention_mask"]), with_kwargs=True
    )
    try:
        listen(network(name), [noise(9000)])
        listen(network(name), [noise(9000), noise(9000, seed=1)])
        listen(network(name), [noise(200), noise(300)])
        assert seen == [None] * 3
        listen(network(name), [noise(9000), noise(5000)])
        assert seen[3].sum(1).tolist()[0] > seen[3].sum(1).tolist()[1] > 0
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("name", "hook"),
    [("wav2vec2", "_normalise_real"), ("moonshine", "_normalise_real"), ("data2vec", "_silence_padding")],
)
def test_one_that_mixes_rows_is_asked_one_by_one(name, hook, tiny, plain, monkeypatch):
    """Whatever leaks is found when the network is loaded, and does no harm."""
    monkeypatch.setattr(SpeechNetwork, hook, lambda *_: None)
    leaky = SpeechNetwork(tiny(name)).eval()
    assert not leaky.batches
    waves = [noise(16399), noise(1100), noise(16080), noise(9000)]
    for wave, states in zip(waves, listen(leaky, waves), strict=True):
        assert difference(states, plain(name, wave)) < 1e-5


def test_layers_are_neither_dropped_nor_masked_in_training(tmp_path):
    off = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0)
    loud = dict(layerdrop=0.9, apply_spec_augment=True, mask_time_prob=0.5, mask_time_length=2)
    net = SpeechNetwork(save_encoder("wav2vec2", tmp_path, **off, **loud))
    still = listen(net.eval(), [noise(9000)])[0]
    assert difference(listen(net.train(), [noise(9000)])[0], still) == 0


def test_memory_grows_with_the_length_and_counts_the_weights(network):
    net = network("wav2vec2")
    assert net.size == 4 * sum(p.numel() for p in net.parameters())
    assert net.memory(20) > 2 * net.memory(10) > 0  # attention costs the square
    assert network("whisper").memory(1) == network("whisper").memory(30)


@pytest.mark.parametrize(
    ("name", "sentence"), [("sew", "does not know the frames of a sew"), ("8 kHz", "hears 8000 Hz")]
)
def test_encoders_that_are_refused(name, sentence, tiny):
    with pytest.raises(MerLabError, match=sentence) as error:
        SpeechNetwork(tiny(name))
    assert str(tiny(name)) in str(error.value) and "\n" not in str(error.value)


def test_no_preprocessor(tmp_path):
    (save_encoder("wav2vec2", tmp_path) / "preprocessor_config.json").unlink()
    with pytest.raises(MerLabError, match="cannot be loaded") as error:
        SpeechNetwork(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_whisper_hears_no_more_than_it_was_trained_on(network):
    with pytest.raises(MerLabError, match=r"Whisper reads 30 s; 30\.0 s were given"):
        listen(network("whisper"), [np.zeros(480001, np.float32)])


def test_moonshine_on_real_speech(shared_data):
    from mer_lab.audio import read_audio

    folder = shared_data / "encoders" / "moonshine-tiny-en"
    clips = sorted((shared_data / "ravdess").glob("03-01-0[1-4]-01-01-01-0[1-2].flac"))
    if not folder.is_dir() or not clips:
        pytest.skip("encoder or clips not present: moonshine-tiny-en, ravdess")
    net = SpeechNetwork(folder).eval()
    assert net.batches and net.layers == 6 and net.stride / 16000 == 0.024
    waves = [read_audio(path)[8000 * k :] for k, path in enumerate(clips[:4])]
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).get_encoder().eval()
    for wave, states in zip(waves, listen(net, waves), strict=True):
        with torch.no_grad():
            alone = model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states
        assert len(states) == 7 and difference(states, [x[0] for x in alone]) < 1e-4
