"""How fast encoder features are extracted, against the two obvious loops, and what they cost in memory.

    python benchmarks/extraction.py [--utterances 200] [--budget 2.0]

One wav2vec2-base (random weights: speed does not depend on what they are) and utterances whose lengths are
distributed like IEMOCAP's: log-normal, mean 4.5 s, 0.6 to 34 s [D: 10039 utterances, 12.5 hours]. Every way
runs in a process of its own and reads the same wav files:

- one by one: ``AutoModel``, one file at a time, float32;
- file order: ``AutoModel``, batches of 8 padded in file order, float32;
- ours: ``FeatureStore`` with ``PretrainedSpeech``, in float32 and in bfloat16.

Memory is the peak of what a process holds above what it held with the weights loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WAYS = ("one by one", "file order", "ours float32", "ours bfloat16")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--utterances", type=int, default=200)
    options.add_argument("--budget", type=float, default=2.0, help="GiB for all processes of ours")
    options.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.way:
        print(json.dumps(measure(chosen.way, chosen.folder, chosen.budget)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = make(folder, chosen.utterances)
        print(f"{chosen.utterances} utterances, {seconds:.0f} s of audio\n")
        rows = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--folder", name, "--budget", str(chosen.budget)]
            rows[way] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
            speed = seconds / rows[way]["took"]
            print(f"{way:14} {speed:6.1f} times real time, {rows[way]['memory']:.2f} GiB", flush=True)
        best = min(rows[way]["took"] for way in WAYS[:2])
        for way in WAYS[2:]:
            print(f"{way}: {best / rows[way]['took']:.2f} times the better obvious loop")
        one, full, half = (np.load(folder / f"{way}.npy") for way in (WAYS[0], *WAYS[2:]))
        print(f"relative error of the features: float32 {error(full, one):.1e}, bfloat16 {error(half, one):.1e}")


def make(folder: Path, utterances: int) -> float:
    """A corpus of noise and an encoder; returns seconds of audio."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    from mer_lab.audio import write_audio

    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(3.6), 0.67, utterances), 0.6, 34)
    rows = ["utterance_id,audio"]
    for k, seconds in enumerate(lengths):
        write_audio(folder / "audio" / f"u{k}.wav", 0.05 * rng.normal(size=int(16000 * seconds)), 16000)
        rows.append(f"u{k},audio/u{k}.wav")
    (folder / "utterances.csv").write_text("\n".join(rows) + "\n")
    (folder / "corpus.toml").write_text('name = "noise"\nlabels = ["none"]\n')
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder / "encoder")
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder / "encoder")
    return float(lengths.sum())


def measure(way: str, folder: Path, budget: float) -> dict:
    """Seconds and GiB of one way; it leaves the mean vector of every utterance behind."""
    import torch

    from mer_lab.audio import read_audio
    from mer_lab.corpora import load_corpus
    from mer_lab.features.pretrained import PretrainedSpeech
    from mer_lab.features.store import FeatureStore

    corpus = load_corpus(folder)
    paths = [corpus.audio_path(u) for u in corpus.ids]
    if way.startswith("ours"):
        extractor = PretrainedSpeech(str(folder / "encoder"), precision=way.split()[1])
        extractor(np.zeros(16000, np.float32))  # load, as the others have loaded before their clock starts
        store = FeatureStore(folder / way.replace(" ", "-"))
        before, start = peak(), time.perf_counter()
        ragged = store.get(corpus, extractor, budget=budget * 2**30)
        took = time.perf_counter() - start
        memory = peak(resource.RUSAGE_CHILDREN) * 2 or peak() - before
        means = [ragged[k].mean(0) for k in range(len(ragged))]
    else:
        from transformers import AutoFeatureExtractor, AutoModel

        model = AutoModel.from_pretrained(folder / "encoder").eval()
        prepare = AutoFeatureExtractor.from_pretrained(folder / "encoder")
        size, means = (1, [])if way == "one by one" else (8, [])
        before, start = peak(), time.perf_counter()
        for k in range(0, len(paths), size):
            waves = [read_audio(path) for path in paths[k : k + size]]
            given = prepare(waves, sampling_rate=16000, padding=True, return_tensors="pt")
            with torch.inference_mode():
                frames = model(**given, output_hidden_states=True).hidden_states[-1]
            counts = model._get_feat_extract_output_lengths(torch.tensor([len(w) for w in waves]))
            means += [x[:n].mean(0).numpy() for x, n in zip(frames, counts, strict=True)]
        took, memory = time.perf_counter() - start, peak() - before
    np.save(folder / f"{way}.npy", np.stack(means))
    return {"took": took, "memory": memory}


def peak(who: int = resource.RUSAGE_SELF) -> float:
    """GiB that a process held at most so far."""
    return resource.getrusage(who).ru_maxrss * 1024 / 2**30


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


if __name__ == "__main__":
    main()
