"""Wrong answers to the exercises of lesson 08, each with words of the message that it must get."""

import torch
from torch import nn


def influence(system, turns, others, half=0.5, absolute=True, keep=False, start=False, last=True):
    """The right answer, and each way to miss it by one option."""
    before, changed, shares = system(turns), turns.clone(), []
    for k in range(len(turns)):
        if not keep:
            changed = turns.clone()
        place = k if start else -1 - k
        changed[place] = others[place]
        moved = system(changed) - before
        moved = moved.abs() if absolute else moved
        shares.append(half * (moved[-1].sum() if last else moved.sum(-1).max()))
    return torch.stack(shares)


def wrong(**options):
    return lambda *given: influence(*given, **options)


def shares(*given):
    found = influence(*given)
    return found / found.sum()


def asks(unit, x, mask, other, other_mask, place=0, rows=slice(1, None), find=lambda z, maps: maps["cross"]):
    changed = x.clone()
    changed[:, place] += 3
    before, after = (find(*unit(words, mask, other, other_mask)) for words in (x, changed))
    return torch.allclose(before[..., rows, :], after[..., rows, :], atol=1e-5)


def instrument(**options):
    return lambda *given: asks(*given, **options)


def changes_voice(unit, x, mask, other, other_mask):
    before, after = (unit(x, mask, frames, other_mask)[1]["cross"] for frames in (other, other + 1))
    return torch.allclose(before, after, atol=1e-5)


def word_by_word(unit, x, mask, other, other_mask):
    return torch.ones(x.shape[1]).bool()


def quiet(unit):
    for last in (unit.f, unit.ffn[-1]):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return unit


def zero(*chosen):
    """Sets all parameters to 0 whose name begins so."""

    def change(unit):
        with torch.no_grad():
            for name, p in unit.named_parameters():
                if name.startswith(chosen):
                    p.zero_()
        return unit

    return change


def walk(cell, u, speaker, mask, by_dialogue=True, before=False, padded=False, detach=False, first=0.0):
    """The right answer, and each way to miss it by one option; loops throughout."""
    out, memory = [], {}
    for d in range(len(u)):
        memory, row = ({} if by_dialogue else memory), []
        for t in range(u.shape[1]):
            who = int(speaker[d, t])
            old = memory.get(who, u.new_full((cell.hidden_size,), first))
            new = cell(u[d, t], old)
            memory[who] = new.detach() if detach else new
            row.append((old if before else new) * float(padded or bool(mask[d, t])))
        out.append(torch.stack(row))
    return torch.stack(out)


def memory(**options):
    return lambda *given: walk(*given, **options)


def overwritten(cell, u, speaker, mask):
    """Keeps the memories in one tensor and writes each over the view that the cell has read."""
    number, out = speaker.unique(return_inverse=True)[1], []
    memories = u.new_zeros(len(u), int(number.max()) + 1, cell.hidden_size)
    for d in range(len(u)):
        for t in range(u.shape[1]):
            memories[d, number[d, t].item()] = cell(u[d, t], memories[d, number[d, t].item()])
            out.append(memories[d, number[d, t].item()] * mask[d, t])
    return torch.stack(out).unflatten(0, mask.shape)


def two_back(cell, u, speaker, mask):
    """Takes it that speakers always alternate."""
    return walk(cell, u, torch.arange(u.shape[1]).expand_as(speaker) % 2, mask)


def one_for_all(cell, u, speaker, mask):
    return walk(cell, u, torch.zeros_like(speaker), mask)


MISTAKES = {
    "cm_roberta.influence": [
        ("(T,) = (6,)", lambda *given: influence(*given)[:-1]),
        ("no influence at all", wrong(absolute=False)),
        ("take half of it", wrong(half=1.0)),
        ("as it was", wrong(keep=True)),
        ("count from the start", wrong(start=True)),
        ("the *last* turn only", wrong(last=False)),
        ("are no shares", shares),
    ],
    "cm_roberta.asks_alone": [
        ("for all words together", word_by_word),
        ("at least twice", lambda *given: True),
        ("changed the voice", changes_voice),
        ("changed padding", instrument(place=-1, rows=slice(0, 3))),
        ("a parallel unit for a serial one", instrument(find=lambda z, maps: z)),
        ("a parallel unit for a serial one", instrument(rows=slice(None))),
        ("sums and means", instrument(find=lambda z, maps: maps["cross"].sum(-1, keepdim=True))),
    ],
    "cm_roberta.quiet": [
        ("give the unit back", lambda unit: quiet(unit).state_dict()),
        ("gives 0 whatever comes in", zero("")),
        ("still changes X", zero("f.weight", "ffn.2.weight")),
        ("still changes X", zero("f.")),
        ("switched off", lambda unit: quiet(unit).requires_grad_(False)),
        ("waits for the other", zero("f.", "ffn.")),
        ("waits for the other", zero("self_attention", "cross_attention", "f.", "ffn.2")),
    ],
    "cm_roberta.speaker_memory": [
        ("(3, 5, 4) is expected", lambda *given: walk(*given)[:, -1]),
        ("detached", memory(detach=True)),
        ("written over in place", overwritten),
        ("may change theirs", one_for_all),
        ("A, B, A, B", two_back),
        ("a dialogue changes another", memory(by_dialogue=False)),
        ("before its speaker has spoken", memory(before=True)),
        ("padding has a memory", memory(padded=True)),
        ("the memories are others", memory(first=1.0)),
    ],
}  # fmt: skip
