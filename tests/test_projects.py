"Chapter 12 with other seeds than its own: what the data ask for, what a split keeps apart, and one run from start to end."

import pytest
import torch

from gptbook.model import GPT, GPTConfig
from gptbook.projects import (
    AdditionDataset,
    QuestionDataset,
    SortDataset,
    answer,
    exact_match,
    in_split,
)
from gptbook.training import TrainConfig, Trainer, evaluate


def number(digits: torch.Tensor) -> int:
    "The number that digits, highest first, stand for."
    return int("".join(map(str, digits.tolist())))


def small_model(data: QuestionDataset, vocab_size: int, seed: int = 0, **changes) -> GPT:
    "As in the chapter."
    torch.manual_seed(seed)
    settings = dict(vocab_size=vocab_size, block_size=data.block_size, n_head=4) | changes
    return GPT(GPTConfig.preset("book-nano", **settings))


@pytest.mark.parametrize("n_digits, below", [(1, None), (2, None), (3, 40), (5, 100), (3, 300)])
@pytest.mark.parametrize("order", ["reversed", "plain"])
def test_sums_are_right(n_digits, below, order):
    data = AdditionDataset(n_digits, "validation", held_out=0.2, seed=17, order=order, below=below)
    assert data.questions.shape[1] == 2 * n_digits and data.answers.shape[1] == n_digits + 1
    for i in range(0, len(data), max(1, len(data) // 50)):
        a, b = number(data.questions[i, :n_digits]), number(data.questions[i, n_digits:])
        total = data.answers[i].flip(0) if order == "reversed" else data.answers[i]
        assert (a, b) == (data.a[i], data.b[i]) and number(total) == a + b


@pytest.mark.parametrize("seed", [5, 23, 101])
def test_no_sum_is_on_both_sides(seed):
    sides = [
        AdditionDataset(2, split, held_out=0.07, seed=seed) for split in ("train", "validation")
    ]
    pairs = [
        {tuple(sorted(pair)) for pair in zip(side.a.tolist(), side.b.tolist())} for side in sides
    ]
    assert not pairs[0] & pairs[1]
    assert sum(map(len, sides)) == 10_000 and 500 <= len(sides[1]) <= 900


@pytest.mark.parametrize(
    "length, n_symbols, unseen",
    [(6, 3, "sequence"), (6, 3, "answer"), (9, 7, "sequence"), (12, 10, "answer")],
)
def test_sorted_sequences(length, n_symbols, unseen):
    sides = [
        SortDataset(length, n_symbols, split, seed=31, unseen=unseen, examples=5000)
        for split in ("train", "validation")
    ]
    for side in sides:
        assert side.answers.equal(side.questions[:, :length].sort(dim=1).values)
        assert (side.questions[:, length] == n_symbols).all()
    table = "answers" if unseen == "answer" else "questions"
    rows = [{tuple(row) for row in getattr(side, table).tolist()} for side in sides]
    assert not rows[0] & rows[1]


def test_batches_ask_for_the_answer_only():
    data = SortDataset(5, 4, seed=3)
    x, y = data.batch(64, torch.Generator().manual_seed(1))
    again = data.batch(64, torch.Generator().manual_seed(1))
    assert x.equal(again[0]) and y.equal(again[1]) and x.shape == y.shape == (64, data.block_size)
    assert (y[:, :5] == -100).all() and y[:, 5:].equal(x[:, :5].sort(dim=1).values)
    assert x[:, 6:].equal(y[:, 5:-1])  # what was just answered is read next
    assert (
        data.questions[0, -1] == 4 and (data.questions != -100).all()
    )  # the table itself is not touched


def test_windows_show_every_example_once():
    data = AdditionDataset(1, "train", seed=9)
    x = torch.cat([x for x, _ in data.windows(7)])
    assert x[:, :2].equal(data.questions) and x[:, 2:].equal(data.answers[:, :-1])
    assert sum(len(x) for x, _ in data.windows(7, max_windows=10)) == 10


def test_the_loss_does_not_depend_on_how_questions_are_batched():
    data = AdditionDataset(2, "validation", seed=4)
    model = small_model(data, 10)
    assert evaluate(model, data, batch_size=1000) == pytest.approx(
        evaluate(model, data, batch_size=64), rel=1e-4
    )


def test_groups_stay_together():
    groups = torch.arange(1000) // 4
    held = in_split(groups, "validation", 0.3, seed=8)
    assert (
        held.view(-1, 4).float().mean(1).unique().tolist() == [0.0, 1.0] and 200 < held.sum() < 400
    )
    assert (held ^ in_split(groups, "train", 0.3, seed=8)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdditionDataset(2, "all"),
        lambda: AdditionDataset(2, held_out=0),
        lambda: AdditionDataset(7),
        lambda: AdditionDataset(2, below=1),
        lambda: AdditionDataset(2, order="up"),
        lambda: SortDataset(0),
        lambda: SortDataset(3, 1),
        lambda: SortDataset(unseen="none"),
        lambda: QuestionDataset(torch.zeros(2), torch.zeros(2)),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(ValueError, match="must be|expected"):
        make()


def test_an_answer_that_does_not_fit_is_refused():
    data = AdditionDataset(3, below=50)
    with pytest.raises(ValueError, match="context is 5"):
        answer(small_model(data, 10, block_size=5), data.questions[:2], 4)


def test_the_adder_learns_sums_it_has_not_seen():
    "From start to end: at least 99 % of the held-out sums, all digits right, with a seed that the chapter does not use."
    train, validation = (AdditionDataset(2, split, seed=1234) for split in ("train", "validation"))
    model = small_model(train, 10, seed=1234, position="learned")
    config = TrainConfig(steps=300, batch_size=128, learning_rate=0.01, warmup=20, seed=1234)
    Trainer(model, train, config=config).fit(progress_bar=False)
    assert len(validation) >= 500 and exact_match(model, validation) >= 0.99


def test_the_sorter_sorts_sequences_it_has_not_seen():
    "From start to end: at least 99 % of the held-out sequences."
    train, validation = (SortDataset(6, 3, split, seed=77) for split in ("train", "validation"))
    model = small_model(train, 4, seed=77, dropout=0.1)
    config = TrainConfig(steps=300, batch_size=64, learning_rate=0.01, warmup=20, seed=77)
    Trainer(model, train, config=config).fit(progress_bar=False)
    assert exact_match(model, validation) >= 0.99
