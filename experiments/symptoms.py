"""What a mistake looks like in the loss: one small run for each, beside a healthy one.

    python -m experiments.symptoms

The default model of chapter 07's comparisons (two layers of 64 channels) on Shakespeare, 300 steps,
three seeds. The log is nbs/results/symptoms.jsonl; the page nbs/symptoms.md quotes it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor, nn

import gptbook.multi_head
from experiments.log import Log, arguments, command_line
from experiments.runs import NANO
from experiments.shakespeare import new_model, plays, quickened
from gptbook.attention import attention
from gptbook.data import TokenDataset
from gptbook.model import GPT
from gptbook.training import TrainConfig, Trainer

HOW = TrainConfig(steps=300, batch_size=16, learning_rate=2e-2, momentum=0.95, precision="auto")
HOW = replace(HOW, warmup=30, eval_every=50, eval_windows=128)
SEEDS = (0, 1, 2)


class Unshifted(TokenDataset):
    "Asks for the token that is there, not for the one that follows."

    def batch(self, *args, **kwargs):
        x, _ = super().batch(*args, **kwargs)
        return x, x


class Shuffled(TokenDataset):
    "Asks for the tokens that follow, in another order."

    def batch(self, *args, **kwargs):
        x, y = super().batch(*args, **kwargs)
        order = torch.randperm(y.numel(), generator=torch.Generator().manual_seed(int(x.sum())))
        return x, y.flatten()[order].view_as(y)


def seeing_all(q: Tensor, k: Tensor, v: Tensor, **ignored) -> Tensor:
    "Attention without its mask."
    return nn.functional.scaled_dot_product_attention(q, k, v)


def loud(model: GPT) -> None:
    "First weights fifty times too large."
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(50)


def train(
    seed: int,
    data: tuple[TokenDataset, TokenDataset],
    how: TrainConfig,
    prepare: Callable[[GPT], None] = lambda model: None,
) -> list[dict]:  # its history
    "One run."
    model = new_model(NANO, seed)
    prepare(model)
    run = Trainer(model, *data, config=replace(how, seed=seed))
    try:
        run.fit(progress_bar=False)
    except FloatingPointError:
        pass  # it stops at a loss that is no number, and the history ends there
    return run.history


def summary(
    history: list[dict],
) -> dict:
    "The numbers that somebody looks at."
    losses = [r["loss"] for r in history if "loss" in r]
    looks = [r["val_loss"] for r in history if "val_loss" in r]
    found = {"first": losses[0], "train": sum(losses[-20:]) / len(losses[-20:])}
    return found | {
        "validation": looks[-1] if looks else None,
        "best": min(looks) if looks else None,
    }


def main() -> None:
    o = arguments(__doc__).parse_args()
    log = Log("symptoms", o, command_line("symptoms", sys.argv[1:]))
    how = quickened(HOW) if o.quick else HOW
    tokenizer, train_data, val_data = plays(NANO.vocab_size, NANO.block_size)
    log.begin(steps=how.steps)
    size = NANO.block_size
    few = TokenDataset(train_data.ids[:4000], size, None)
    names = torch.randperm(NANO.vocab_size, generator=torch.Generator().manual_seed(0))
    held_out = torch.as_tensor(val_data.ids[:].astype("int64"))
    other = TokenDataset(names[held_out], size, val_data.n_bytes)  # as by another tokenizer
    whole = (train_data, val_data)
    cases: dict[str, Callable[[int], list[dict]]] = {
        "healthy": lambda seed: train(seed, whole, how),
        "rate 30 times too high": lambda s: train(s, whole, replace(how, learning_rate=0.6)),
        "rate 30 times too low": lambda s: train(s, whole, replace(how, learning_rate=2e-2 / 30)),
        "targets not shifted": lambda s: train(s, (Unshifted(train_data.ids, size), val_data), how),
        "targets shuffled": lambda s: train(s, (Shuffled(train_data.ids, size), val_data), how),
        "loud first weights": lambda s: train(s, whole, how, loud),
        "little text": lambda s: train(s, (few, val_data), how),
        "another tokenizer held out": lambda s: train(s, (train_data, other), how),
    }
    for name, make in cases.items():
        for seed in SEEDS:
            if not log.find(case=name, seed=seed):
                log.add({"case": name, "seed": seed} | summary(make(seed)))
    for seed in SEEDS:  # the mask is left out in training and in testing: the loss looks wonderful
        if not log.find(case="no causal mask", seed=seed):
            with ExitStack() as stack:
                stack.enter_context(patch.object(gptbook.multi_head, "attention", seeing_all))
                history = train(seed, whole, how)
            log.add({"case": "no causal mask", "seed": seed} | summary(history))
    assert gptbook.multi_head.attention is attention
    log.finish()


if __name__ == "__main__":
    main()
