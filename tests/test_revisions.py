"""A recorded result belongs to the code that made it: a system whose answers changed needs another revision.

``python tests/test_revisions.py`` writes the answers anew, after the revision was raised in
``mer_lab.models.REVISIONS`` and what was recorded of the system was run again.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mer_lab import records
from mer_lab.models import REVISIONS, SYSTEMS
from mer_lab.models.layers import FrameEncoder, WordEncoder
from mer_lab.recipes import RECIPES

ANSWERS = Path(__file__).with_name("revisions.json")


def answers(name: str) -> list[list[float]]:
    """Logits of three utterances of one dialogue, from weights that are all drawn from one seed."""
    from test_systems import CLASSES, SMALL, made_up

    system, config = SYSTEMS[name]
    fewer = {k: v for k, v in SMALL.items() if getattr(config, k, 0)}
    model = system(FrameEncoder(5), WordEncoder(11, 6), CLASSES, replace(config, **fewer)).eval()
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):  # not as torch draws them: that may change too
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
        return model(made_up().batch(range(3))).logits.tolist()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_answers_as_it_did_when_its_results_were_recorded(name):
    known = json.loads(ANSWERS.read_text(encoding="utf-8"))[name]
    assert known["revision"] == REVISIONS.get(name, 1), "raised: run tests/test_revisions.py as a program"
    torch.testing.assert_close(
        torch.tensor(answers(name)), torch.tensor(known["answers"]), atol=1e-3, rtol=1e-3,
        msg=f"{name} answers otherwise than it did: raise its revision in mer_lab.models.REVISIONS",
    )  # fmt: skip


def test_a_revision_changes_the_hash_of_its_recipes_alone(monkeypatch):
    before = {name: recipe.hash for name, recipe in RECIPES.items()}
    monkeypatch.setitem(records.REVISIONS, "hcam", 2)
    changed = {name for name, recipe in RECIPES.items() if recipe.hash != before[name]}
    assert changed == {name for name, recipe in RECIPES.items() if recipe.model["name"] == "hcam"}


if __name__ == "__main__":
    rows = {n: {"revision": REVISIONS.get(n, 1), "answers": answers(n)} for n in SYSTEMS}
    ANSWERS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
