"""Exercises of lesson 03."""

from __future__ import annotations

import numpy as np
import torch

from mer_lab.exercises.checking import Check, exercise
from mer_lab.metrics import from_confusion
from mer_lab.statistics import cluster_bootstrap
from mer_lab.training import class_weights


@exercise("03.1", "Three scores from one table", "easy", 10)
def three_scores(answer, check: Check) -> None:
    """``answer(confusion (K, K))``, rows the true classes → WA, UA and weighted F1, in 0..1."""
    table = np.array([[54, 2, 4], [12, 6, 2], [9, 0, 11]])
    right, true, said = np.diag(table), table.sum(1), table.sum(0)
    found = check.run(answer, table)
    check(np.shape(found) == (3,), "return three numbers: WA, UA and weighted F1.")
    wa, ua, f1 = map(float, found)
    expected = [float(from_confusion(metric, table)) for metric in ("wa", "ua", "weighted_f1")]
    check(
        not np.allclose([ua, wa], expected[:2]),
        "WA and UA are swapped: the field's weighted accuracy is the plain share of right answers, since a "
        "large class weighs more in it.",
    )
    check(
        abs(ua - (right / said).mean()) > 1e-6,
        "you divide by what the model said, which is precision: the rows are the true classes, and recall "
        "divides by them.",
    )
    check.equal(wa, expected[0], "WA is the diagonal by the whole table.")
    check.equal(ua, expected[1], "UA is the mean of the classes' recalls, every class counting the same.")
    each = 2 * right / (true + said)
    check(
        abs(f1 - each.mean()) > 1e-6,
        "every class counts the same in your F1, which is then the macro F1: weigh each by its true "
        "utterances.",
    )
    check(
        abs(f1 - each @ said / said.sum()) > 1e-6,
        "you weigh each class by how often the model says it, and the model should not choose its own "
        "weights: take the true utterances.",
    )
    precision, recall = true @ (right / said) / true.sum(), true @ (right / true) / true.sum()
    check(
        abs(f1 - 2 * precision * recall / (precision + recall)) > 1e-6,
        "you average precision and recall first, and the F1 of means is not the mean of F1s: first F1, "
        "class by class.",
    )
    check.equal(
        f1, expected[2],
        "weighted F1 is the mean of the classes' F1, weighted by their true utterances.",
    )  # fmt: skip
    lazy = np.array([[6, 0, 0], [2, 0, 0], [2, 0, 0]])
    check.equal(
        check.run(answer, lazy), [float(from_confusion(m, lazy)) for m in ("wa", "ua", "weighted_f1")],
        "a class that the model never says has precision 0/0, and it makes your score NaN or drops out of "
        "it: its F1 is 0.",
    )  # fmt: skip
    absent = np.array([[6, 1, 1], [1, 3, 0], [0, 0, 0]])
    check.equal(
        check.run(answer, absent), [float(from_confusion(m, absent)) for m in ("wa", "ua", "weighted_f1")],
        "a class without a true utterance has no recall, and you count it as 0 or NaN: UA is the mean over "
        "the classes that occur.",
    )  # fmt: skip


@exercise("03.2", "Weigh the rare classes", "easy", 10)
def weigh(answer, check: Check) -> None:
    """``answer(labels, classes)``, names, ``""`` = no label → weights ``(K,)``, ordered as ``classes``."""
    classes = ["neutral", "joy", "fear"]
    labels = ["joy"] * 3 + ["neutral"] * 6 + [""] * 2 + ["fear"]
    index = np.array([classes.index(x) if x else -1 for x in labels])
    right = class_weights(index, 3)
    found = check.run(answer, labels, classes)
    check(
        np.shape(found) == (3,),
        "there is one weight for each class of the model, and no label is not a class.",
    )
    found = np.asarray(found, float)
    check(
        not np.allclose(np.sort(found), np.sort(right)) or np.allclose(found, right),
        "your weights are right and stand in another order than the model's classes: no error will tell, "
        "joy is then pushed as if it were rare; look each up by its name.",
    )
    check(
        not found[0] > found[2],
        "the frequent class gets the largest weight, and rare ones drown still more: weigh by one over the "
        "frequency.",
    )
    check(
        not np.allclose(found, 1.2 * right),
        "you count utterances without a label among those that the weights are spread over: nothing is "
        "learnt from them.",
    )
    check(
        np.allclose(found / found[0], right / right[0]),
        "each class should pull as hard as any other: weight times utterances must be the same for all.",
    )
    check.equal(
        found, right,
        "your weights are right up to a factor, and a factor on the loss acts like another learning rate: "
        "let the mean weight of a labelled utterance be 1.",
    )  # fmt: skip
    more = check.run(answer, labels, ["neutral", "disgust", "joy", "fear"])
    check.equal(
        more, right[[0, 0, 1, 2]] * [1, 0, 1, 1],
        "a class that training lacks gets a weight of 1/0, or changes that of the others: it has nothing to "
        "weigh, so give it 0.",
    )  # fmt: skip


class _Counting(torch.nn.Module):
    """Its one weight counts the epochs that it was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = torch.nn.Parameter(torch.zeros(1))


@exercise("03.3", "Keep the best epoch", "medium", 20)
def train(answer, check: Check) -> None:
    """``answer(model, step, validate, epochs, patience)`` → the best epoch, from 0, and its model."""

    def trained(scores: list[float], patience: int) -> tuple[int, float, int, list[tuple[str, bool]]]:
        """Best epoch, weight of the model, epochs run, and what was called in which mode."""
        calls: list[tuple[str, bool]] = []

        def step(model: _Counting) -> None:
            calls.append(("step", model.training))
            with torch.no_grad():
                model.epochs += 1

        def validate(model: _Counting) -> float:
            calls.append(("validate", model.training))
            return scores[min(int(model.epochs.item()), len(scores)) - 1]

        result = check.run(answer, _Counting(), step, validate, len(scores), patience)
        if not (isinstance(result, tuple | list) and len(result) == 2 and hasattr(result[1], "epochs")):
            return -1, np.nan, 0, []
        steps = sum(name == "step" for name, _ in calls)
        return int(result[0]), float(result[1].epochs.item()), steps, calls

    best, weight, steps, calls = trained([0.3, 0.6, 0.5, 0.4, 0.3, 0.2], 2)
    check(best >= 0, "return two things: the number of the best epoch, and the model.")
    check(
        not (best == 1 and weight == steps and steps > 2),
        "you know the best epoch, and the model has the weights of the last one: `state_dict()` hands out "
        "the live tensors, and training goes on in them; keep a deep copy, and load it in the end.",
    )
    check(
        best == 1,
        "epoch 1 scores highest on validation, and you return another one, counted from 0.",
    )
    check(
        weight == 2,
        "the model that you return does not have the weights that it had after the best epoch.",
    )
    check(
        steps < 6,
        "you train to the end: after `patience` epochs without a new best, further ones only learn the "
        "training utterances by heart.",
    )
    check(
        steps == 4,
        "with patience 2 and the best in epoch 1, epochs 2 and 3 are waited for and epoch 4 is not begun.",
    )
    check(
        not any(training for name, training in calls if name == "validate"),
        "you validate in training mode, where dropout is on, and so the score is partly a lottery: call "
        "`model.eval()` before.",
    )
    check(
        all(training for name, training in calls if name == "step"),
        "after the first validation the model stays in evaluation mode, and the rest of the training goes "
        "without dropout: call `model.train()` before every epoch.",
    )
    check(
        trained([0.3, 0.2, 0.6, 0.5, 0.7, 0.6], 2)[0] == 4,
        "you add up all epochs without a new best: patience begins anew with every best one.",
    )
    check(
        trained([0.8, 0.4, 0.5, 0.6, 0.7], 3)[2] == 4,
        "you compare with the epoch before, and climbing out of a hole is no progress: compare with the "
        "best so far.",
    )
    check(
        trained([0.5, 0.5, 0.5, 0.4], 2)[0] == 0,
        "an equal score counts as better with you, and training drags on: of equal epochs keep the earliest.",
    )
    check(
        trained([np.nan, 0.4, 0.5, 0.3], 3)[0] == 2,
        "a first score of NaN stays your best for ever, since nothing compares as larger: begin from minus "
        "infinity.",
    )


@exercise("03.4", "Draw dialogues, not utterances", "hard", 20)
def interval(answer, check: Check) -> None:
    """``answer(right (U,), dialogue (U,), draws, seed)`` → ends of the 95 % bootstrap interval of WA."""
    rng = np.random.default_rng(0)

    def width(right: np.ndarray, dialogue: np.ndarray) -> float:
        return float(np.ptp(check.run(answer, right, dialogue, 400, 0)))

    names = np.repeat([f"d{k}" for k in rng.permutation(20)], 30)  # 20 dialogues of 30 utterances
    whole = np.repeat(np.arange(20) % 2 == 0, 30)  # each is right throughout, or wrong throughout
    found = check.run(answer, whole, names, 400, 0)
    check(
        np.shape(found) == (2,) and found[0] <= found[1],
        "return the two ends of the interval, low and high.",
    )
    apart = found[1] - found[0]
    check(
        apart > 1e-9,
        "every draw is the same test set in another order: draw with replacement, some dialogues twice and "
        "some not.",
    )
    check(
        apart > 0.2,
        "you draw utterances as if they were independent: here every dialogue is right or wrong as a whole, "
        "and twenty of them tell little, however many utterances each has.",
    )
    check(
        apart < 0.7,
        "you draw fewer dialogues than there are, and a smaller test set varies more: draw as many as there "
        "are.",
    )
    check(
        width(np.tile([True, False], 300), names) < 1e-9,
        "you also draw utterances inside the dialogues: these dialogues all score the same, so whichever "
        "are drawn, nothing varies; keep each as it is.",
    )
    order = rng.permutation(600)
    check(
        width(whole[order], names[order]) > 0.2,
        "you take rows that stand together for a dialogue: its name says what belongs together, in whatever "
        "order.",
    )
    lengths = rng.integers(4, 60, 40)
    dialogue = np.repeat(np.arange(40), lengths)
    right = rng.random(len(dialogue)) < np.repeat(0.95 - lengths / 70, lengths)  # long ones are hard
    ends = np.asarray(check.run(answer, right, dialogue, 3000, 0), float)
    low, high, _ = cluster_bootstrap(lambda rows: right[rows].mean(), dialogue, n=3000)
    check(
        abs(ends.mean() - (low + high) / 2) < 0.04,
        "you average the dialogues' scores, and a dialogue of four utterances then counts as much as one of "
        "sixty: WA is over all utterances drawn.",
    )
    check(
        abs(np.ptp(ends) / (high - low) - 1) < 0.09,
        "your interval is not one of 95 %: cut off 2.5 % of the drawn scores at each end.",
    )
    check(
        np.array_equal(ends, np.asarray(check.run(answer, right, dialogue, 3000, 0), float)),
        "the same seed gives another interval the second time: draw from one generator that the seed begins.",
    )
