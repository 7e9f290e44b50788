"A user's own script, for mypy: what a type checker knows about the package from outside."

import torch
from torch import Tensor

import gptbook
from gptbook.data import TokenDataset, split_text
from gptbook.generation import generate, stream_text
from gptbook.model import GPT, GPTConfig
from gptbook.tokenizer import BPETokenizer, CharTokenizer
from gptbook.training import TrainConfig, Trainer


def train(text: str) -> GPT:
    "A small model of a text, trained for a few steps."
    tokenizer = CharTokenizer.train(text)
    parts = [TokenDataset.from_text(part, tokenizer, block_size=32) for part in split_text(text)]
    config = GPTConfig.preset("book-nano", vocab_size=tokenizer.vocab_size, block_size=32)
    model = GPT(config)
    trainer = Trainer(model, parts[0], parts[1], TrainConfig(steps=3, eval_every=3))
    history = trainer.fit()
    print(history[-1]["val_loss"], config.head_size + config.kv_heads)
    return model


def use(model: GPT, ids: Tensor) -> Tensor:
    "Scores, a loss, and a continuation."
    logits, loss = model(ids, ids)
    if loss is not None:
        print(loss.item() / 0.69, logits.shape)
    longer: Tensor = model.generate(ids, max_new_tokens=4)
    faster: Tensor = generate(model, ids, max_new_tokens=4)
    return torch.cat([longer, faster], dim=1)


def main() -> None:
    "Load, encode, generate, train."
    model, tokenizer = gptbook.load("shakespeare")
    ids: list[int] = tokenizer.encode("ROMEO:")
    text: str = tokenizer.decode(use(model, torch.tensor([ids]))[0].tolist())
    print(text, "".join(stream_text(model, tokenizer, "ROMEO:", max_new_tokens=8)))
    pieces = BPETokenizer.train(text, vocab_size=260)
    print(pieces.encode(text)[:3], len(ids))
    small = train(text * 20)
    print(sum(parameter.numel() for parameter in small.parameters()))


if __name__ == "__main__":
    main()
