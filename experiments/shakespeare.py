"What the runs share: the plays, ready to train on, and models with fresh weights."

from __future__ import annotations

import re
from dataclasses import replace

import torch

from gptbook.corpora import load_text
from gptbook.data import TokenDataset
from gptbook.model import GPT, GPTConfig
from gptbook.tokenizer import BPETokenizer
from gptbook.training import TrainConfig


def plays(
    vocab_size: int,  # of a tokenizer trained on the training plays
    block_size: int,  # tokens in a window
) -> tuple[BPETokenizer, TokenDataset, TokenDataset]:  # with the training and the validation plays
    "All of Shakespeare, ready to train on."
    text, held_out = (load_text("shakespeare", split=split) for split in ("train", "validation"))
    tokenizer = BPETokenizer.train(text, vocab_size)
    train = TokenDataset.from_text(text, tokenizer, block_size)
    return tokenizer, train, TokenDataset.from_text(held_out, tokenizer, block_size)


def one_play(
    title: str,  # as it stands above the first act
) -> str:  # the play, without its title
    "Cut one play out of the training plays."
    text = load_text("shakespeare", split="train")
    rest = text[text.index(f"{title}\n\nACT I\n") + len(title) :].lstrip()
    return re.split(r"\n\n[^\n]+\n\n(?:ACT I|INDUCTION)\n", rest)[0] + "\n"


def new_model(
    config: GPTConfig,  # the shape
    seed: int,  # of the first weights
) -> GPT:
    "A model with fresh weights."
    torch.manual_seed(seed)
    return GPT(config)


def quickened(
    config: TrainConfig,  # how to train
) -> TrainConfig:  # the same, a few steps of it
    "Settings for a run that only shows that it works."
    seconds = config.max_seconds and 0.2
    few = {"steps": 4, "warmup": 1, "eval_every": 2, "eval_windows": 4, "max_seconds": seconds}
    return replace(config, **few)
