"""How fast encoder features are extracted, against the two obvious loops, and what they cost in memory.

    python benchmarks/extraction.py [--utterances 200] [--budget 4.0] [--record results/extraction.json]

One wav2vec2-base (random weights: speed does not depend on what they are) and utterances whose lengths are
distributed like IEMOCAP's: log-normal, mean 4.5 s, 0.6 to 34 s (our fit to 10039 utterances in 12.5 hours).
Every way runs in a process of its own and reads the same wav files:

- one by one: ``AutoModel``, one file at a time, float32;
- file order: ``AutoModel``, batches of 8 padded in file order, float32;
- ours: ``FeatureStore`` with ``PretrainedSpeech``, in float32 and in bfloat16, processes started included;
- ours, one process: the same in this process, to measure its memory.

Memory is the most that a process held while it worked, above what it held with the encoder loaded. Where
RAVDESS and the encoder Moonshine are present (``$MER_LAB_SHARED_DATA``), the last line says what bfloat16
costs a probe of eight emotions on unseen actors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mer_lab.files import write_text
from mer_lab.provenance import provenance

WAYS = ("one by one", "file order", "ours float32", "ours bfloat16", "ours float32, one process")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--utterances", type=int, default=200)
    options.add_argument("--budget", type=float, default=4.0, help="GiB for all processes of ours")
    options.add_argument("--record", type=Path, help="write the numbers there, too")
    options.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.way:
        print(json.dumps(measure(chosen.way, chosen.folder, chosen.budget)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = make(folder, chosen.utterances)
        print(f"{chosen.utterances} utterances, {seconds:.0f} s of audio, {os.cpu_count()} cores\n")
        rows = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--folder", name]
            command += ["--budget", str(chosen.budget)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            rows[way] = json.loads(done.stdout.splitlines()[-1])
            rows[way]["times real time"] = seconds / rows[way]["took"]
            memory = rows[way]["memory"]
            shown = f", {memory:.2f} GiB above the encoder's {rows[way]['weights']:.2f}" if memory else ""
            print(f"{way:26} {rows[way]['times real time']:6.1f} times real time{shown}", flush=True)
        best = min(rows[way]["took"] for way in WAYS[:2])
        gain = {way: best / rows[way]["took"] for way in WAYS[2:4]}
        for way in gain:
            print(f"{way}: {gain[way]:.2f} times the better obvious loop")
        one, full, half = (np.load(folder / f"{way}.npy") for way in (WAYS[0], *WAYS[2:4]))
        errors = {"float32": error(full, one), "bfloat16": error(half, one)}
        print("relative error of the features: " + ", ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    probed = probes()
    if probed:
        print("probe, UAR: " + ", ".join(f"{k} {v:.3f}" for k, v in probed.items()))
    if chosen.record:
        result = {"utterances": chosen.utterances, "audio_seconds": round(seconds), "budget": chosen.budget}
        took = sum(row["took"] for row in rows.values())
        result |= {"ways": rows, "gain": gain, "errors": errors, "probes": probed, **provenance(took)}
        write_text(chosen.record, json.dumps(result, indent=1) + "\n")


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
    from mer_lab.features.encoders import this_process
    from mer_lab.features.pretrained import PretrainedSpeech
    from mer_lab.features.store import FeatureStore

    corpus = load_corpus(folder)
    paths = [corpus.audio_path(u) for u in corpus.ids]
    memory = None
    if way.startswith("ours"):
        extractor = PretrainedSpeech(str(folder / "encoder"), precision=way.removesuffix(", one process")[5:])
        extractor(np.zeros(16000, np.float32))  # load, as the others have loaded before their clock starts
        store = FeatureStore(folder / way.replace(" ", "-"))
        before, start, alone = held(reset=True), time.perf_counter(), way.endswith("process")
        ragged = store.get(corpus, extractor, workers=1 if alone else None, budget=budget * 2**30)
        took = time.perf_counter() - start
        memory = held("VmHWM") - before if alone and before else None
        means, weights = [ragged[k].mean(0) for k in range(len(ragged))], extractor.weights
    else:
        from transformers import AutoFeatureExtractor, AutoModel

        device = this_process().device
        model = AutoModel.from_pretrained(folder / "encoder").eval().to(device)
        weights = sum(4 * p.numel() for p in model.parameters())
        prepare = AutoFeatureExtractor.from_pretrained(folder / "encoder")
        size, means = 1 if way == "one by one" else 8, []
        with torch.inference_mode():
            model(torch.zeros(1, 16000, device=device))  # as ours: what a device does once is not counted
        before, start = held(reset=True), time.perf_counter()
        for k in range(0, len(paths), size):
            waves = [read_audio(path) for path in paths[k : k + size]]
            given = prepare(waves, sampling_rate=16000, padding=True, return_tensors="pt").to(device)
            with torch.inference_mode():
                frames = model(**given, output_hidden_states=True).hidden_states[-1].cpu()
            counts = model._get_feat_extract_output_lengths(torch.tensor([len(w) for w in waves]))
            means += [x[:n].mean(0).numpy() for x, n in zip(frames, counts, strict=True)]
        took = time.perf_counter() - start
        memory = held("VmHWM") - before if before else None
    np.save(folder / f"{way}.npy", np.stack(means))
    return {"took": took, "memory": memory, "weights": weights / 2**30}


def held(what: str = "VmRSS", reset: bool = False) -> float | None:
    """GiB that this process holds, or ("VmHWM") held at most since the last reset; None off Linux."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 2**20


def probes() -> dict[str, float]:
    """UAR of a linear probe of Moonshine's second layer on RAVDESS, in either precision."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from mer_lab.corpora.ravdess import prepare_ravdess
    from mer_lab.features.pretrained import PretrainedSpeech
    from mer_lab.features.store import FeatureStore
    from mer_lab.metrics import scores

    data = Path(os.environ.get("MER_LAB_SHARED_DATA", "../shared/data"))
    moonshine = data / "encoders" / "moonshine-tiny-en"
    if not (data / "ravdess").is_dir() or not moonshine.is_dir():
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        clips, _ = prepare_ravdess(data / "ravdess", Path(folder) / "ravdess")
        actor = clips.table["speaker"].to_numpy()
        for precision in ("float32", "bfloat16"):
            extractor = PretrainedSpeech(str(moonshine), layer=2, pool="statistics", precision=precision)
            x, answer = FeatureStore(folder).get(clips, extractor).frames, np.zeros_like(clips.targets)
            for train, test in GroupKFold(6).split(x, clips.targets, actor):
                model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
                answer[test] = model.fit(x[train], clips.targets[train]).predict(x[test])
            found[precision] = float(scores(clips.targets, answer, clips.labels)["ua"])
    return found


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


if __name__ == "__main__":
    main()
