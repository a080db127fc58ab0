"""Recipes at full scale, each a step on the sine corpus with tiny encoders; and what they should cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_listening import save_encoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from mer_lab.batches import Dataset
from mer_lab.corpora import save_corpus
from mer_lab.errors import MerLabError
from mer_lab.experiments import Recipe, prepare
from mer_lab.hierarchy import train_model
from mer_lab.recipes import RECIPES, at_full_scale, full
from mer_lab.training import TrainConfig

NAMES = [recipe.name for recipe in full.RECIPES]
TUNED = ("text", "audio", "early", "krishna2021")
FROZEN = ("hcam", "cm-roberta", "text-frozen")
LAYERS = 12  # as the encoders that these stand for: recipes count them
SMALL = dict(hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32)


def save_text(kind: str, folder) -> str:
    """A random RoBERTa or BERT of twelve narrow layers, with a tokeniser of whole words."""
    words = "<s> <pad> </s> <unk> we go up down now".split()
    tokenizer = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=160, pad_token="<pad>", unk_token="<unk>",
        bos_token="<s>", eos_token="</s>",
    ).save_pretrained(folder)  # fmt: skip
    config, model = {"roberta": (RobertaConfig, RobertaModel), "bert": (BertConfig, BertModel)}[kind]
    torch.manual_seed(0)
    sizes = SMALL | dict(vocab_size=len(words), max_position_embeddings=162, pad_token_id=1)
    model(config(**sizes, initializer_range=0.3)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, str]:
    """Folder of the encoder that stands for each real one."""
    root = tmp_path_factory.mktemp("encoders")
    return {
        "facebook/wav2vec2-base": str(save_encoder("wav2vec2", root / "speech", **SMALL)),
        "roberta-base": save_text("roberta", root / "roberta"),
        "bert-base-uncased": save_text("bert", root / "bert"),
    }


@pytest.fixture(scope="module")
def folder(sine_corpus, sine_folder, tmp_path_factory) -> str:
    """The sine corpus with sessions and four classes, for recipes that ask for them."""
    table = sine_corpus.table.assign(session=[3 + k // 3 % 3 for k in range(len(sine_corpus))])
    schemes = {"four": {"map": {"high": "happy", "low": "sad"}, "labels": ["happy", "sad"]}}
    changed = replace(sine_corpus, table=table, schemes=schemes)
    return str(save_corpus(changed, tmp_path_factory.mktemp("full") / "sines").root)


def shrunk(spec: dict, tiny: dict[str, str]) -> dict:
    """The same settings over tiny encoders."""
    return {
        k: shrunk(v, tiny) if isinstance(v, dict) else tiny[v] if k == "encoder" else v
        for k, v in spec.items()
    }


def on_sines(name: str, folder: str, tiny: dict[str, str]) -> Recipe:
    recipe = RECIPES[name]
    parts = {k: shrunk(getattr(recipe, k), tiny) for k in ("audio", "text", "encoder")}
    return replace(recipe, corpus=folder, **parts)


@pytest.mark.parametrize("name", NAMES)
def test_every_full_recipe_builds_and_runs_a_step(name, folder, tiny):
    recipe = on_sines(name, folder, tiny)
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe and again.hash == recipe.hash
    data, build = prepare(again)
    torch.manual_seed(0)
    model = build().train()
    stages = [part for stage in model.parts()[:1] for part in stage] if hasattr(model, "parts") else []
    (index, *_) = data["train"].plan(recipe.train.batch_size, recipe.train.batch_by)
    batch = data["train"].batch(index)
    known = batch.label >= 0
    for part in (*stages, model):
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.train.precision == "bf16"):
            logits = part(batch).logits
        loss = torch.nn.functional.cross_entropy(logits.float()[known], batch.label[known])
        loss.backward()
        assert torch.isfinite(loss)
    grads = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert all(g is None or torch.isfinite(g).all() for g in grads.values())
    tuned = [c for c in ("audio", "text") if "train_layers" in recipe.encoder.get(c, recipe.encoder)]
    tuned = tuned if all((recipe.audio, recipe.text)) else tuned[:1]
    layers = {key for key in grads if ".net." in key}
    assert len({key.split("layer", 1)[0] for key in layers}) == len(tuned)  # one encoder a channel
    assert len({tuple(key.split(".")[:-3]) for key in layers}) >= LAYERS * len(tuned)
    assert all(grads[key].abs().max() > 0 for key in layers if grads[key].ndim > 1)
    mixed = [g for key, g in grads.items() if key.endswith(".score")]
    assert len(mixed) == ("hcam" in name) and all(g.abs().min() > 0 for g in mixed)


def test_stages_can_tune_their_encoders(folder, tiny):
    """HCAM on waveforms and tokens: stage I changes what is to learn, and answers in the end."""
    learns = on_sines("meld-full-early", folder, tiny)
    recipe = replace(
        learns, model={"name": "hcam", "width": 4, "hidden": 8, "inner": 6},
        encoder={c: spec | {"train_layers": 1, "rate": 1.0} for c, spec in learns.encoder.items()},
        train=TrainConfig(epochs=1, batch_size=12, batch_by="dialogue"),
    )  # fmt: skip
    data, build = prepare(recipe)
    few = [
        Dataset(part.corpus.select(part.corpus.ids[:6]), part.audio, part.text)
        for part in (data["train"], data["validation"])
    ]
    first = build().state_dict()
    done = train_model(build, *few, recipe.train, progress=False, cpu=True)
    last = done.model.state_dict()
    changed = {k for k in first if ".net." in k and not torch.equal(first[k], last[k])}
    assert changed and {k.split(".")[0] for k in changed} == {"audio", "text"}
    assert all(f".{LAYERS - 1}." in k for k in changed)
    assert [row["stage"] for row in done.history] == ["I audio", "I text", "II audio", "II text", "III 1"]


def test_the_three_corpora_have_the_same_systems():
    for corpus in ("iemocap", "meld", "mosi"):
        mine = [r for r in full.RECIPES if r.name.startswith(f"{corpus}-full-")]
        names = {r.name.removeprefix(f"{corpus}-full-") for r in mine}
        assert names == {*TUNED, *FROZEN}
        assert len({str(r.text) for r in mine if r.name.split("full-")[1] in FROZEN}) == 1  # a control
        assert {r.corpus for r in mine} == {corpus} and {len(r.seeds) for r in mine} == {5}
        assert len({(r.scheme, r.fold, r.train.monitor) for r in mine}) == 1
        for r in mine:
            frozen = r.name.removeprefix(f"{corpus}-full-") in FROZEN
            assert (r.train.precision == "bf16") != frozen and ("train_layers" in str(r.encoder)) != frozen
    assert len({recipe.hash for recipe in full.RECIPES}) == len(full.RECIPES)


@pytest.mark.parametrize("name", NAMES)
def test_expected_grows_with_what_is_heard_and_learnt(name, monkeypatch):
    recipe = RECIPES[name]
    hours, gib = full.expected(recipe)
    assert 0 < hours < 24 and 0 < gib < 24
    utterances, heard, longest = full.SIZES[recipe.corpus]
    monkeypatch.setitem(full.SIZES, recipe.corpus, (utterances, 2 * heard, longest))
    more = full.expected(recipe)
    listens = "wav2vec2" in str((recipe.audio, recipe.encoder))
    assert (more[0] > hours) == listens and more[0] <= 2 * hours and more[1] == gib
    monkeypatch.setitem(full.SIZES, recipe.corpus, (utterances, heard, 2 * longest))
    assert (full.expected(recipe)[1] > gib) == listens
    monkeypatch.setitem(full.SIZES, recipe.corpus, (2 * utterances, 2 * heard, longest))
    assert full.expected(recipe)[0] == pytest.approx(2 * hours)


def test_expected_by_hand():
    """The text of MELD: five seeds of ten epochs over 13,708 utterances, eight to a batch."""
    hours, gib = full.expected(RECIPES["meld-full-text"])
    work = 2 * 85e6 * 16 * 13708 * 4 / 40e12  # seconds an epoch: there, back twice, checkpoints
    assert hours == pytest.approx(50 * (work + 0.1 * 13708 / 8) / 3600)
    assert gib == pytest.approx(1 + (4 * 124.6e6 + 16 * 85e6) / 2**30)
    one = full.expected(replace(RECIPES["meld-full-text"], seeds=(0,)))
    assert one[0] == pytest.approx(hours / 5) and one[1] == gib
    heard = RECIPES["meld-full-audio"]
    kept = replace(heard, encoder=heard.encoder | {"checkpointing": False})
    assert full.expected(kept)[0] < full.expected(heard)[0]


def test_what_has_no_known_size_is_told():
    for change, needle in (({"corpus": "mine"}, "'mine'"), ({"text": {"encoder": "minilm"}}, "'minilm'")):
        with pytest.raises(MerLabError, match=f"meld-full-hcam: the size of {needle} is not known"):
            full.expected(replace(RECIPES["meld-full-hcam"], **change))
    assert np.isfinite(full.expected(replace(RECIPES["meld-full-text"], corpus="corpora/meld"))).all()


def test_the_commands_of_a_lesson_run_what_they_name():
    """As they are printed, command and recipe exist, and what is not recorded is said not to be."""
    names = ["meld-full-early", "iemocap-xu2019"]
    *lines, launched = at_full_scale(names).splitlines()
    assert [line.split()[:3] for line in lines] == [["mer-lab", "run", name] for name in names]
    hours, gib = full.expected(RECIPES["meld-full-early"])
    assert f"about {hours:.1f} h, {gib:.0f} GiB; recorded: nothing" in lines[0]
    assert launched.startswith("accelerate launch -m mer_lab run meld-full-early ")
