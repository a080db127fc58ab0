"""What a system costs: parameters, seconds, memory, and how fast it answers."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from mer_lab.batches import Dataset
from mer_lab.prediction import predict

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def peak_memory() -> Iterator[dict]:
    """Memory in use at the peak of a block, in MiB above what was in use when it began.

    On an accelerator the tensors that torch allocates there; else the resident memory of this process, which
    Linux tells. The dict that is yielded holds ``"peak_mib"`` afterwards, None where the system does not say.
    """
    found: dict = {"peak_mib": None}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found["peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
        return
    gc.collect()
    _trim()
    before = _resident("VmRSS") if _reset() else None
    yield found
    if before is not None:
        found["peak_mib"] = round((_resident("VmHWM") - before) / 2**10, 1)


def _trim() -> None:
    """What earlier work has freed goes back to the system, so that it is not taken for room already held."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset() -> bool:
    try:
        _RESET.write_text("5")  # "5" sets the high-water mark to what is resident now: proc(5)
        return True
    except OSError:
        return False


def _resident(line: str) -> int:
    """KiB."""
    return int(next(x for x in _STATUS.read_text().splitlines() if x.startswith(line)).split()[1])


def costs(model: nn.Module, data: Dataset, history: Sequence[dict], memory: dict) -> dict:
    """Parameters, seconds an epoch (mean; of staged training the sum over its parts), peak MiB of the
    training, and utterances a second when ``data`` is answered once."""
    predict(model, data)  # the first time also allocates
    start = time.perf_counter()
    predict(model, data)
    seconds = time.perf_counter() - start
    parts: dict[str, list[float]] = {}
    for row in history:
        parts.setdefault(row.get("stage", ""), []).append(row["seconds"])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_epoch": round(sum(sum(s) / len(s) for s in parts.values()), 3),
        "utterances_per_second": round(len(data) / seconds, 1),
        **memory,
    }
