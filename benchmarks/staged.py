"""How long do the Staged corpus and its features take from nothing?

    python benchmarks/staged.py

Generates the corpus at its default size and extracts prosody and log-mel frames, in a fresh cache. The aim is
less than 90 seconds on two cores for all of it.
"""

import os
import tempfile
import time


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MER_LAB_CACHE"] = folder
        from mer_lab.corpora.staged import staged
        from mer_lab.features import LogMel, Prosody
        from mer_lab.features.store import FeatureStore

        begin = start = time.perf_counter()
        corpus = staged()
        seconds = (corpus.table["end"] - corpus.table["start"]).sum()
        took = time.perf_counter() - start
        print(f"{'spoken':10} {took:6.1f} s   {len(corpus)} utterances, {seconds / 60:.0f} minutes")
        for extractor in (Prosody(hop=0.02), LogMel(hop=0.02)):
            start = time.perf_counter()
            FeatureStore().get(corpus, extractor)
            took = time.perf_counter() - start
            print(f"{extractor.name:10} {took:6.1f} s   {seconds / took:.0f} times real time")
        print(f"{'all':10} {time.perf_counter() - begin:6.1f} s")


if __name__ == "__main__":
    main()
