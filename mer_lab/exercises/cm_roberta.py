"""Exercises of lesson 08."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mer_lab.exercises.checking import Check, exercise
from mer_lab.models.cm_roberta import CoreUnit


@exercise("08.1", "Which turn did it listen to?", "easy", 10)
def influence(answer, check: Check) -> None:
    """``answer(system, turns (T, D), others (T, D))`` → ``(T,)``, change of the last answer by turns back."""
    emotion, seen = torch.tensor([0, 1, 2, 3, 0, 1]), []
    turns, others = (9 * torch.eye(4)[e % 4] for e in (emotion, emotion + 1))

    def own(x: Tensor) -> Tensor:  # answers what was felt two back, as an "okay" does
        seen.append(x.clone())
        return torch.cat([torch.zeros(2, 4), x[:-2]]).softmax(-1)

    def three(x: Tensor) -> Tensor:  # mixes a turn with the two before
        past = torch.cat([torch.zeros(2, 4), x])
        return ((past[2:] + past[1:-1] / 2 + past[:-2] / 3) / 9).softmax(-1)

    def deaf(x: Tensor) -> Tensor:
        return x.softmax(-1)

    found = check.run(answer, own, turns, others)
    check(
        np.shape(found) == (6,),
        f"your result has shape {tuple(np.shape(found))}, and (T,) = (6,) is expected: a number a turn.",
    )
    found = torch.as_tensor(found).detach()
    check(
        all((x != turns).any(-1).sum() <= 1 for x in seen),
        "you leave the turns exchanged that you tried before: begin each time with the conversation as it "
        "was, or you measure all of them together.",
    )
    check(
        float(found.abs().max()) > 1e-4,
        "you find no influence at all: probabilities sum to 1 before and after, so their differences sum to "
        "0; take absolute values first.",
    )
    check(
        float(found.max()) <= 1 + 1e-6,
        "an influence is above 1: what one emotion loses another wins, so the sum counts everything twice; "
        "take half of it.",
    )
    check(
        not (found[3] > 0.5 > found[2]),
        "you count from the start: place k is the turn k *back*, so place 0 is the last turn itself.",
    )
    check.equal(
        check.run(answer, deaf, turns, others)[1:], torch.zeros(5),
        "this system knows nothing but the turn itself, and you find that earlier turns matter: look at the "
        "answer to the *last* turn only.",
    )  # fmt: skip
    check.equal(
        check.run(answer, three, turns, others), _influence(three, turns, others),
        "influences are no shares, and need not sum to 1 as attention does: give each turn its own "
        "distance, half of the sum over all classes.",
    )  # fmt: skip


def _influence(system, turns: Tensor, others: Tensor) -> list[float]:
    shares, n = [], len(turns)
    for k in range(n):
        one = torch.stack([others[t] if t == n - 1 - k else turns[t] for t in range(n)])
        p, q = system(turns)[-1].tolist(), system(one)[-1].tolist()
        shares.append(sum(max(a - b, 0) for a, b in zip(p, q, strict=True)))
    return shares


@exercise("08.2", "Tell parallel from serial", "medium", 15)
def asks_alone(answer, check: Check) -> None:
    """``answer(unit, x (U, Tm, D), mask, other (U, To, D), other_mask)`` → True where a word asks alone."""
    torch.manual_seed(0)
    units = {core: CoreUnit(8, 2, core).eval() for core in ("parallel", "serial")}
    x, mask = torch.randn(2, 5, 8), torch.arange(5).expand(2, 5) < 3  # three words, and padding
    other, other_mask = torch.randn(2, 7, 8), torch.ones(2, 7).bool()
    calls = []

    def says(core: str) -> bool:
        def unit(*given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            calls.append(tuple(g.clone() for g in given))
            return units[core](*given)

        said = check.run(answer, unit, x, mask, other, other_mask)
        check(np.prod(np.shape(said)) == 1, "answer with one True or False, for all words together.")
        return bool(said)

    parallel = says("parallel")
    check(
        len(calls) > 1,
        "ask the unit at least twice, with the sentence as it is and with a word of it changed; a name or a "
        "map alone does not say what depends on what.",
    )
    check(
        all(torch.equal(given[2], other) for given in calls),
        "you changed the voice as well: of course a word then finds something else; change a word of x, "
        "nothing else.",
    )
    check(
        any(((given[0] != x).any(-1) & mask).any() for given in calls),
        "you changed padding, which no unit looks at: change a word where the mask is True.",
    )
    check(
        parallel,
        "you take a parallel unit for a serial one: Z mixes in what self-attention found, and the changed "
        'word itself asks something new; compare the rows of maps["cross"] that belong to the *other* '
        "words.",
    )
    check(
        not says("serial"),
        "you take a serial unit for a parallel one: compare its weights one by one, because their sums and "
        "means are the same whatever is asked.",
    )


@exercise("08.3", "A deep stack that begins as none", "medium", 15)
def quiet(answer, check: Check) -> None:
    """``answer(unit)`` → the same core unit, which at first gives ``LN(X)`` and can still learn."""
    torch.manual_seed(0)
    unit = check.run(answer, CoreUnit(8, 2, clock=10.0))
    check(isinstance(unit, nn.Module), f"give the unit back, and not {type(unit).__name__}.")
    x, other = torch.randn(4, 5, 8), torch.randn(4, 7, 8)
    given = (x, torch.ones(4, 5).bool(), other, torch.ones(4, 7).bool())
    z = unit(*given)[0].detach()
    check(
        float(z.abs().max()) > 1e-6,
        "your unit gives 0 whatever comes in: you took the layer norms' weights too, and X goes through "
        "them.",
    )
    check.equal(
        z, nn.functional.layer_norm(x, (8,)),
        "your unit still changes X: whatever is added to it must be 0, from both attentions and from the "
        "feed-forward network, and a linear layer adds its bias as well.", atol=1e-3,
    )  # fmt: skip
    check(
        all(p.requires_grad for p in unit.parameters()),
        "your unit is switched off for good: it should begin as nothing and learn, so leave requires_grad "
        "alone.",
    )
    start = {name: p.detach().clone() for name, p in unit.named_parameters() if name.endswith("weight")}
    target = torch.randn(4, 5, 8)
    for _ in range(6):
        unit.zero_grad()
        nn.functional.mse_loss(unit(*given)[0], target).backward()
        with torch.no_grad():
            for p in unit.parameters():
                p -= 0.1 * (0 if p.grad is None else p.grad)
    asleep = [name for name, p in unit.named_parameters() if name in start and torch.equal(p, start[name])]
    check(
        not asleep,
        f"after six steps these weights have not moved: {', '.join(asleep[:3])}. Where two layers in a row "
        "are 0, each waits for the other; set the *last* one to 0 and leave those before it as they were.",
    )


@exercise("08.4", "A memory for each speaker", "hard", 20)
def speaker_memory(answer, check: Check) -> None:
    """``answer(cell, u (dialogues, turns, D), speaker, mask)`` → memories ``(dialogues, turns, H)``."""
    torch.manual_seed(0)
    carried = []

    class Cell(nn.GRUCell):
        def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
            carried.append(h is not None and h.requires_grad)
            return super().forward(x, h)

    cell, u = Cell(3, 4), torch.randn(3, 5, 3)
    speaker = torch.tensor([[7, 2, 2, 7, 2], [7, 5, 7, -1, -1], [2, 7, 2, 7, -1]])
    mask = speaker >= 0

    def change(d: int, t: int) -> Tensor:
        """How much each place moves when turn t of dialogue d says something else, ``(dialogues, turns)``."""
        other = u.clone()
        other[d, t] += 2
        new, old = (torch.as_tensor(check.run(answer, cell, v, speaker, mask)).detach() for v in (other, u))
        return (new - old).abs().amax(-1)

    found = check.run(answer, cell, u, speaker, mask)
    check(
        np.shape(found) == (3, 5, 4),
        f"your result has shape {tuple(np.shape(found))}, and (dialogues, turns, H) = (3, 5, 4) is expected.",
    )
    check(
        any(carried),
        "no memory hangs on an earlier one: a state was detached, or every turn starts anew, so that no "
        "gradient can teach the cell what to keep.",
    )
    check(
        _flows_back(found),
        "no gradient comes back through your memories: one is written over in place while autograd still "
        "needs it; write into a clone.",
    )
    moved = change(0, 1)  # turn 1 is 2's; 7 speaks in turns 0 and 3
    check(
        float(moved[0, [0, 3]].max()) < 1e-6,
        "what one speaker says changes the other's memory: only the one who speaks may change theirs, and "
        "people do not always take turns A, B, A, B.",
    )
    check(
        float(change(0, 0)[1:].max()) < 1e-6,
        "a dialogue changes another one: speaker 7 of one dialogue and speaker 7 of the next share no "
        "memory, so begin each dialogue with zeros.",
    )
    check(
        float(moved[0, 1]) > 1e-6,
        "place t lacks what is said in turn t: you hand out the memory before its speaker has spoken; "
        "update it first.",
    )
    check(
        float(torch.as_tensor(found).detach()[~mask].abs().max()) < 1e-6,
        "padding has a memory: where the mask is False nobody speaks, so give zeros there.",
    )
    check.equal(
        found, _memories(cell, u, speaker, mask),
        "the memories are others: each begins a dialogue at 0, and its speaker's turns change it one after "
        "the other.",
    )  # fmt: skip


def _flows_back(result: Tensor) -> bool:
    try:
        result.sum().backward()
    except RuntimeError:
        return False
    return True


def _memories(cell: nn.GRUCell, u: Tensor, speaker: Tensor, mask: Tensor) -> Tensor:
    out = torch.zeros(*mask.shape, cell.hidden_size)
    for d in range(len(u)):
        memory = {}
        for t in range(int(mask[d].sum())):
            who = int(speaker[d, t])
            memory[who] = cell(u[d, t], memory.get(who, torch.zeros(cell.hidden_size)))
            out[d, t] = memory[who].detach()
    return out
