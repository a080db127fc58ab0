"""Exercises of lesson 07."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mer_lab.exercises.checking import Check, exercise


@exercise("07.1", "Who may look at whom", "easy", 10)
def visible(answer, check: Check) -> None:
    """``answer(dialogue (U,), turn (U,), past)`` → ``(U, U)``, True = the row's turn may see the column's."""
    dialogue, turn = torch.tensor([5, 2, 5, 2, 5, 2, 5]), torch.tensor([2, 0, 0, 1, 3, 2, 1])
    found = check.run(answer, dialogue, turn, 9)
    check(
        np.shape(found) == (7, 7),
        f"your mask has shape {tuple(np.shape(found))}, and (U, U) = (7, 7) is expected: a row for each turn "
        "that looks, a column for each that is looked at.",
    )
    found = torch.as_tensor(found)
    check(
        bool(((found == 0) | (found == 1)).all()),
        "your mask holds other numbers than True and False: what is added to scores, 0 or −∞, is made of it "
        "later.",
    )
    found, same = found.bool(), dialogue[:, None] == dialogue
    check(
        not bool(found[~same].any()),
        "a turn sees another dialogue: a flat batch has no border between them, so compare `dialogue`.",
    )
    check(
        not torch.equal(found, _past(dialogue, turn, 9).T),
        "your mask lies on its side: a row is the turn that looks, and yours looks at what comes after it.",
    )
    check(
        not bool((found & (turn > turn[:, None])).any()),
        "a turn sees what is said after it: which comes first is said by `turn`, and not by the place in "
        "the batch.",
    )
    check(
        bool(found.diagonal().all()),
        "a turn may see itself; else the first turn of a dialogue has nothing to look at, and its softmax "
        "is 0/0.",
    )
    for past in (9, 2, 0):
        check.equal(
            check.run(answer, dialogue, turn, past), _past(dialogue, turn, past),
            "`past` counts the turns before this one: with past = 2 a turn sees itself and up to two more, "
            "with 0 only itself.",
        )  # fmt: skip


def _past(dialogue: Tensor, turn: Tensor, past: int) -> Tensor:
    pairs = list(zip(dialogue.tolist(), turn.tolist(), strict=True))
    return torch.tensor([[d == e and 0 <= t - s <= past for e, s in pairs] for d, t in pairs])


@exercise("07.2", "Mend a co-attention", "medium", 15)
def co_attention(answer, check: Check) -> None:
    """``answer(audio, text (dialogues, turns, D), mask)`` → what each has seen, and both maps."""
    torch.manual_seed(0)
    audio, text, mask = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool)
    mask[1, 2:] = False  # the padding is not zero, as behind any linear layer with a bias
    made = check.run(answer, audio, text, mask)
    check(
        isinstance(made, tuple | list) and [np.shape(x) for x in made] == [(2, 4, 3)] * 2 + [(2, 4, 4)] * 2,
        "four things are expected: what the audio has seen and what the text has seen (dialogues, turns, "
        "D), then audio_to_text and text_to_audio (dialogues, turns, turns).",
    )
    audio_seen, text_seen, a_to_t, t_to_a = (torch.as_tensor(x).detach().float() for x in made)
    wanted = _looks(text, audio, mask)
    check(
        not torch.allclose(t_to_a[0].T, wanted[0], atol=1e-4),
        "text_to_audio lies on its side: the softmax runs over the right turns, but a row must be a turn of "
        "the text, which looks; transpose it.",
    )
    check(
        not _ones(t_to_a[0].sum(0)) or _ones(t_to_a[0].sum(1)),
        "in text_to_audio the columns sum to 1 and the rows do not: your softmax runs over the turns that "
        "look; for the text that is the other axis of the same scores.",
    )
    check(
        not _ones(a_to_t[0].sum(0)) or _ones(a_to_t[0].sum(1)),
        "now audio_to_text is normalised over the turns that look: the two directions need different axes "
        "of the same scores, and this one was right before.",
    )
    check(
        not (a_to_t.isnan().any() or t_to_a.isnan().any()),
        "a row is NaN: you mask the turns that look, and softmax of nothing but −∞ is 0/0; mask the turns "
        "that are looked at, which are other ones in each direction.",
    )
    padded = [w[1, :2, 2:].abs().max() for w in (a_to_t, t_to_a)]
    check(
        max(padded) < 1e-6,
        f"{('audio_to_text', 'text_to_audio')[padded[1] > 1e-6]} looks at padding: hide the turns that are "
        "looked at, which in each direction lie on another axis of the scores.",
    )
    check(
        all(_ones(w[mask].sum(-1)) for w in (a_to_t, t_to_a)),
        "the rows of real turns do not sum to 1: mask the scores before the softmax and not the weights "
        "after it.",
    )
    check.equal(
        a_to_t[mask], _looks(audio, text, mask)[mask],
        "the rows of audio_to_text sum to 1, but are not softmax(audio · text / sqrt(D)).",
    )  # fmt: skip
    for seen, weights, other in ((audio_seen, a_to_t, text), (text_seen, t_to_a, audio)):
        check.equal(
            seen[mask], torch.einsum("dts,dsw->dtw", weights, other)[mask],
            "each channel must take a weighted mean of the *other* one's vectors, with the weights of its "
            "own map.",
        )  # fmt: skip


def _ones(x: Tensor) -> bool:
    return torch.allclose(x, torch.ones_like(x), atol=1e-4)


def _looks(x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Weights of x on the other, turn by turn, zero where one of them is padding."""
    weights = torch.zeros(*mask.shape, mask.shape[1])
    for d, n in enumerate(mask.sum(1).tolist()):
        for t in range(n):
            scores = torch.stack([x[d, t] @ other[d, s] for s in range(n)])
            weights[d, t, :n] = (scores / x.shape[-1] ** 0.5).softmax(0)
    return weights


@exercise("07.3", "A contrastive loss that meets real batches", "medium", 15)
def contrastive(answer, check: Check) -> None:
    """``answer(z (U, D), label (U,), tau)`` → the mean over the anchors that have a partner."""
    torch.manual_seed(0)
    z, label = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 0])
    loss = check.run(answer, z, label, 0.5)
    check(np.prod(np.shape(loss)) == 1, "a loss is one number: take the mean over the anchors.")
    check.equal(
        check.run(answer, 3 * z, label, 0.5), loss,
        "longer vectors change your loss, so it can be had by growing and not by turning: scale each z to "
        "length 1.",
    )  # fmt: skip
    check(
        not _close(loss, _contrastive(z, label, 0.5, alone=False)),
        "you compare each vector with itself: nobody is closer to i than i, so leave i out of the "
        "denominator.",
    )
    check(
        not _close(loss, _contrastive(z, label, 0.5, outside=False)),
        "you take the logarithm of the mean over P(i): the formula takes the mean of the logarithms, so "
        "that a partner who is far away counts most.",
    )
    check(
        _close(loss, _contrastive(z, label, 0.5)),
        "another number is expected: each anchor counts once, so divide its sum by |P(i)|, and every score "
        "by τ.",
    )
    more, hidden = torch.cat([z, torch.randn(3, 4)]), torch.cat([label, torch.tensor([-1, -1, -1])])
    check.equal(
        check.run(answer, more, hidden, 0.5), loss,
        "rows labelled −1 change your loss: they are no class of their own, and nobody is compared with "
        "them.",
    )  # fmt: skip
    single = torch.cat([label[:-1], torch.tensor([2])])
    check(
        _close(check.run(answer, z, single, 0.5), _contrastive(z, single, 0.5)),
        "an utterance without a partner counts in your mean, as 0 or NaN: it is no anchor, though the "
        "others are still compared with it.",
    )
    nobody = check.run(answer, z[:3], torch.tensor([0, 1, -1]), 0.5)
    check(
        _close(nobody, 0.0),
        "where no two utterances share a class your loss is NaN, a mean of nothing: give 0, or one small "
        "batch spoils all weights.",
    )
    check(
        _close(check.run(answer, z, label, 0.005), _contrastive(z, label, 0.005), 1e-2),
        "at τ = 0.005 your loss is no number: exp(1 / τ) is larger than a float can hold; use log_softmax "
        "or logsumexp.",
    )


def _close(found, expected: float, atol: float = 1e-4) -> bool:
    return abs(float(found) - expected) < atol


def _contrastive(z: Tensor, label: Tensor, tau: float, alone: bool = True, outside: bool = True) -> float:
    """The formula in loops; ``alone``: i is not compared with itself; ``outside``: the mean of logarithms."""
    z, each = z.double() / z.double().norm(dim=1, keepdim=True), []
    for i in range(len(z)):
        rest = [a for a in range(len(z)) if a != i or not alone]
        total = torch.stack([z[i] @ z[a] / tau for a in rest]).logsumexp(0)
        log_p = [z[i] @ z[p] / tau - total for p in range(len(z)) if p != i and label[p] == label[i]]
        if log_p:
            p = torch.stack(log_p)
            each.append(-p.mean() if outside else -p.exp().mean().log())
    return float(torch.stack(each).mean())


@exercise("07.4", "What the stage has not learnt by heart", "hard", 25)
def out_of_fold(answer, check: Check) -> None:
    """``answer(train_stage, x (U, D), label (U,), dialogue (U,), folds)`` → logits ``(U, classes)``."""
    stages = []

    class Stage(nn.Module):
        """Remembers whom it was trained on, and answers with: its number, and whom it was asked about."""

        def __init__(self, seen: list[int]) -> None:
            super().__init__()
            self.seen, self.number, self.weight = seen, len(stages), nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            noise = 100.0 * self.training
            return self.weight * torch.stack([x[:, 0] * 0 + self.number + noise, x[:, 0]], dim=-1)

    def train_stage(x: Tensor, label: Tensor) -> Stage:
        stages.append(Stage(x[:, 0].int().tolist()))
        return stages[-1].train()

    dialogue = torch.tensor([9, 9, 3, 3, 3, 6, 6, 3, 0, 0, 12, 12, 9, 0])
    x = torch.stack([torch.arange(14.0), torch.zeros(14)], dim=-1)
    found = check.run(answer, train_stage, x, torch.arange(14) % 2, dialogue, 3)
    check(
        np.shape(found) == (14, 2),
        f"your result has shape {tuple(np.shape(found))}, and (U, classes) = (14, 2) is expected: the logits "
        "of every utterance.",
    )
    check(
        not getattr(found, "requires_grad", False),
        "your logits still hang on the stages that made them: frozen means that no gradient goes back, so "
        "use torch.no_grad().",
    )
    logits = torch.as_tensor(found).float()
    check(
        float(logits[:, 0].max()) < 100,
        "a stage answers in training mode, with dropout, and the next stage would read noise: call eval() "
        "first.",
    )
    check(
        torch.allclose(logits[:, 1], torch.arange(14.0)),
        "the logits stand in the order of the folds: row i must answer for utterance i, so put each fold's "
        "rows back where they belong.",
    )
    check(
        all(stage.seen for stage in stages),
        "a stage was trained on nothing, because all dialogues fell into one fold: their numbers may be "
        "any, so deal out the list of *different* numbers.",
    )
    check(len(stages) == 3, f"{len(stages)} stages were trained, and folds = 3 are expected, one a fold.")
    by = [stages[int(k)] for k in logits[:, 0]]
    check(
        not any(i in stage.seen for i, stage in enumerate(by)),
        "a stage answers for utterances that it was trained on, and has learnt by heart: ask it about those "
        "of the fold that it has not seen.",
    )
    check(
        not any(set(dialogue[stage.seen].tolist()) & {int(dialogue[i])} for i, stage in enumerate(by)),
        "a fold cuts a dialogue in two: what a stage has learnt of a scene helps it with the rest of that "
        "scene, so hold out whole dialogues.",
    )
    check(
        all(len(stage.seen) + by.count(stage) == 14 for stage in stages),
        "a stage learns from less than it may: train it on *all* folds but the one that it answers for.",
    )
