"""HCAM: its attention by hand, the contrastive loss by its formula, and stages that stay what they became."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mer_lab.batches import Dataset
from mer_lab.hierarchy import train_model
from mer_lab.models import HCAM, HCAMConfig
from mer_lab.models.hcam import Context
from mer_lab.models.layers import Conversation, FrameEncoder, WordEncoder
from mer_lab.training import TrainConfig

SMALL = HCAMConfig(width=4, layers=1, heads=2, inner=6, hidden=8, reach=2)
CONFIG = TrainConfig(epochs=2, batch_size=8, lr=0.01, contrastive=0.2)
NAMES = ["I audio", "I text", "II audio", "II text", "III 1"]


@pytest.fixture(scope="module")
def data(sines) -> tuple[Dataset, Dataset]:
    return sines.select("train"), sines.select("validation")


def build(**changes) -> HCAM:
    return HCAM(FrameEncoder(3), WordEncoder(7, 4, drop=0.2), 2, replace(SMALL, **changes))


def train(data, folder=None, **changes):
    return train_model(lambda: build(**changes), *data, CONFIG, 0, folder, progress=False, cpu=True)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hcam")
    return train(data, folder), folder


# ---------------------------------------------------------------- attention over turns, by hand


def test_the_conversations_self_attention_is_its_sum_over_turns(data):
    torch.manual_seed(0)
    stage, batch = Context(2, SMALL).eval(), data[0].batch(np.array([4, 0, 5, 1, 2]))  # dialogues of 2 and 3
    u, conversation = torch.randn(5, 8), Conversation.of(batch)
    out = stage(u, conversation)
    for members in ([1, 3, 4], [0, 2]):  # the rows of each dialogue in the batch, turns in order
        alone = u[members][None]
        h = stage.gru(alone, torch.ones(1, len(members), dtype=torch.bool))[0]  # (turns, 8)
        q, k, v = (layer(h) for layer in (stage.attend.query, stage.attend.key, stage.attend.value))
        for t in range(len(members)):
            r = stage.distance.say(alone[0, t])  # a score for each distance from -2 to 2
            score = [float(q[t] @ k[s]) / math.sqrt(8) + float(r[s - t + 2]) for s in range(len(members))]
            weight = [math.exp(x) / sum(math.exp(y) for y in score) for x in score]
            seen = sum(w * v[s] for s, w in enumerate(weight))
            c = stage.norm(alone[0, t] + h[t] + stage.attend.out(seen))
            assert torch.allclose(out.embedding[members[t]], c, atol=1e-5)
            row = out.attention["II turns"][[1, 0][members[0]], 0, t] if False else None
            assert row is None
