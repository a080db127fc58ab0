"""Wrong answers to the exercises of lesson 07, each with words of the message that it must get."""

import torch
from torch.nn.functional import normalize

NEGATIVE = float("-inf")


def visible(dialogue, turn, past):
    back = turn[:, None] - turn
    return (dialogue[:, None] == dialogue) & (back >= 0) & (back <= past)


def by_place(dialogue, turn, past):
    return (dialogue[:, None] == dialogue) & torch.ones(len(turn), len(turn)).tril().bool()


def others_only(dialogue, turn, past):
    return visible(dialogue, turn, past) & (turn[:, None] > turn)


def one_too_few(dialogue, turn, past):
    return visible(dialogue, turn, max(past - 1, 0))


def scores(audio, text):
    return audio @ text.transpose(1, 2) / audio.shape[-1] ** 0.5


def seen(audio, text, a_to_t, t_to_a):
    return a_to_t @ text, t_to_a @ audio, a_to_t, t_to_a


def hidden(score, mask):
    return score.masked_fill(~mask[:, None], NEGATIVE).softmax(-1)


def broken(audio, text, mask):
    a_to_t = hidden(scores(audio, text), mask)
    return seen(audio, text, a_to_t, a_to_t.transpose(1, 2))


def on_its_side(audio, text, mask):
    score = scores(audio, text)
    t_to_a = score.masked_fill(~mask[:, :, None], NEGATIVE).softmax(1)
    return seen(audio, text, hidden(score, mask), t_to_a)


def other_one_broken(audio, text, mask):
    t_to_a = hidden(scores(audio, text).transpose(1, 2), mask)
    return seen(audio, text, t_to_a.transpose(1, 2), t_to_a)


def only_the_axis(audio, text, mask):
    score = scores(audio, text).masked_fill(~mask[:, None], NEGATIVE)
    return seen(audio, text, score.softmax(2), score.softmax(1).transpose(1, 2))


def one_masked(audio, text, mask):
    score = scores(audio, text)
    return seen(audio, text, hidden(score, mask), score.softmax(1).transpose(1, 2))


def no_mask(audio, text, mask):
    score = scores(audio, text)
    return seen(audio, text, score.softmax(2), score.softmax(1).transpose(1, 2))


def masked_after(audio, text, mask):
    score = scores(audio, text)
    maps = (score.softmax(2), score.softmax(1).transpose(1, 2))
    return seen(audio, text, *(w * mask[:, None] for w in maps))


def not_scaled(audio, text, mask):
    score = audio @ text.transpose(1, 2)
    return seen(audio, text, hidden(score, mask), hidden(score.transpose(1, 2), mask))


def own_values(audio, text, mask):
    score = scores(audio, text)
    a_to_t, t_to_a = hidden(score, mask), hidden(score.transpose(1, 2), mask)
    return a_to_t @ audio, t_to_a @ text, a_to_t, t_to_a


def loss(z, label, tau, scale=True, itself=False, drop=True, reduce="mean", anchors="paired", naive=False):
    """The right loss, and each way to miss it by one option."""
    if drop:
        z, label = z[label >= 0], label[label >= 0]
    z = normalize(z, dim=-1) if scale else z
    off = ~torch.eye(len(z), dtype=torch.bool)
    score = z @ z.T / tau
    score = score if itself else score.masked_fill(~off, -1e9)
    log_p = score - score.exp().sum(1, keepdim=True).log() if naive else score.log_softmax(-1)
    positive = (label[:, None] == label) & off
    count = positive.sum(1)
    if reduce == "logarithm of the mean":
        each = -((log_p.exp() * positive).sum(1) / count).log()
    elif reduce == "sum":
        each = -(log_p * positive).sum(1)
    else:
        each = -(log_p * positive).sum(1) / count.clamp(min=1)
    if anchors == "each":
        return each
    if anchors == "all":
        return each.mean() if len(each) else z.sum() * 0
    if anchors == "unguarded":
        return each[positive.any(1)].mean()
    return each[positive.any(1)].mean() if positive.any() else z.sum() * 0


def contrastive(**options):
    return lambda z, label, tau: loss(z, label, tau, **options)


def cross_fit(train, x, label, fold, folds, swap=False, mode=True, back=True):
    answers, rows = None, []
    for k in range(folds):
        held_out = fold == k
        learn, ask = (held_out, ~held_out) if swap else (~held_out, held_out)
        stage = train(x[learn], label[learn])
        stage = stage.eval() if mode else stage
        with torch.no_grad():
            logits = stage(x[ask])
        answers = torch.zeros(len(x), logits.shape[1]) if answers is None else answers
        answers[ask] = logits
        rows.append(logits)
    return answers if back else torch.cat(rows)


def numbered(dialogue):
    return dialogue.unique(return_inverse=True)[1]


def in_order(train, x, label, dialogue, folds):
    return cross_fit(train, x, label, numbered(dialogue) % folds, folds, back=False)


def by_number(train, x, label, dialogue, folds):
    return cross_fit(train, x, label, dialogue % folds, folds)


def each_dialogue(train, x, label, dialogue, folds):
    fold = numbered(dialogue)
    return cross_fit(train, x, label, fold, int(fold.max()) + 1)


def by_utterance(train, x, label, dialogue, folds):
    return cross_fit(train, x, label, torch.arange(len(x)) % folds, folds)


def learn_from_one(train, x, label, dialogue, folds):
    return cross_fit(train, x, label, numbered(dialogue) % folds, folds, swap=True)


def in_training(train, x, label, dialogue, folds):
    return cross_fit(train, x, label, numbered(dialogue) % folds, folds, mode=False)


def by_heart(train, x, label, dialogue, folds):
    with torch.no_grad():
        return [train(x, label).eval()(x) for _ in range(folds)][-1]


def hanging(train, x, label, dialogue, folds):
    return train(x, label).eval()(x)


MISTAKES = {
    "hierarchy.visible": [
        ("a row for each turn that looks", lambda dialogue, turn, past: turn <= past),
        ("other numbers than True", lambda *given: torch.zeros(7, 7).masked_fill(~visible(*given), NEGATIVE)),
        ("another dialogue", lambda dialogue, turn, past: turn[:, None] >= turn),
        ("lies on its side", lambda *given: visible(*given).T),
        ("said after it", by_place),
        ("said after it", lambda dialogue, turn, past: dialogue[:, None] == dialogue),
        ("may see itself", others_only),
        ("`past` counts", one_too_few),
        ("`past` counts", lambda dialogue, turn, past: visible(dialogue, turn, 99)),
    ],
    "hierarchy.co_attention": [
        ("four things", lambda audio, text, mask: broken(audio, text, mask)[:2]),
        ("text_to_audio lies on its side", on_its_side),
        ("the columns sum to 1", broken),
        ("now audio_to_text", other_one_broken),
        ("a row is NaN", only_the_axis),
        ("text_to_audio looks at padding", one_masked),
        ("looks at padding", no_mask),
        ("do not sum to 1", masked_after),
        ("are not softmax", not_scaled),
        ("the *other* one's vectors", own_values),
    ],
    "hierarchy.contrastive": [
        ("a loss is one number", contrastive(anchors="each")),
        ("scale each z to length 1", contrastive(scale=False)),
        ("compare each vector with itself", contrastive(itself=True)),
        ("logarithm of the mean", contrastive(reduce="logarithm of the mean")),
        ("divide its sum", contrastive(reduce="sum")),
        ("divide its sum", lambda z, label, tau: loss(z, label, 1.0)),
        ("labelled −1 change your loss", contrastive(drop=False)),
        ("without a partner", contrastive(anchors="all")),
        ("a mean of nothing", contrastive(anchors="unguarded")),
        ("larger than a float", contrastive(naive=True)),
    ],
    "hierarchy.out_of_fold": [
        ("the logits of every utterance", lambda *given: by_heart(*given)[:, 0]),
        ("still hang on the stages", hanging),
        ("in training mode", in_training),
        ("in the order of the folds", in_order),
        ("into one fold", by_number),
        ("5 stages were trained", each_dialogue),
        ("learnt by heart", by_heart),
        ("cuts a dialogue in two", by_utterance),
        ("learns from less", learn_from_one),
    ],
}  # fmt: skip
