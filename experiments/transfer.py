"""The long runs of chapter 10: what is pre-training worth? One JSON line for each evaluation.

    python -m experiments.transfer compare    five ways to a model of Shakespeare at equal compute
    python -m experiments.transfer seeds      the same with three seeds each, an eighth of the compute
    python -m experiments.transfer chat       two models learn to answer, from real conversations
    python -m experiments.transfer ranks      LoRA at several ranks, a quarter of the compute
    python -m experiments.transfer speakers   who is speaking? with 10, 100 and 1000 examples

    python -m experiments.transfer compare --arm lora --seed 1 --out again.jsonl

The results are nbs/results/speakers.jsonl, nbs/results/chat.jsonl, and transfer.jsonl for the rest.
With --resume,
what a log holds is not made again; --quick takes a tiny random model in place of SmolLM2.
Learning rates are chosen first, by runs with seed 0 and an eighth of the compute, judged on
training text that is kept apart for it. Where the best of them is the lowest or the highest, one
beyond it is tried, too.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

import gptbook
from experiments.log import Log, arguments, command_line
from gptbook.corpora import load_text
from gptbook.data import NGram, TokenDataset, bits_per_byte
from gptbook.generation import generate, stream_text
from gptbook.model import GPT, GPTConfig
from gptbook.pretrained import chat_prompt
from gptbook.tokenizer import BPETokenizer, Tokenizer
from gptbook.training import TrainConfig, autocast, evaluate, training_flops
from gptbook.transfer import (
    ReplyDataset,
    add_lora,
    exchanges,
    finetune,
    lora_layers,
    pad_batches,
    reply_bits,
    speeches,
    train_only,
    untie_head,
)

CONTEXT = 128  # tokens in a window
BUDGET = 1e13  # FLOPs of an arm
MARKS = (1 / 8, 3 / 8, 1)  # shares of the budget at which to look
PROMPT, SAMPLE_TOKENS = "ROMEO:\n", 120
RATES = {  # learning rates to choose from
    "small": (5e-3, 1e-2, 2e-2),
    "large": (1e-3, 3e-3, 1e-2),
    "full": (5e-5, 1e-4, 2e-4, 4e-4),
    "lora": (1e-3, 2e-3, 4e-3, 8e-3),
    "head": (1e-4, 3e-4, 1e-3, 3e-3),
}
MODERN = """\
The bus was late again this morning, so I walked the last two stops and still got to the office before nine. On the way I \
listened to a podcast about batteries. The guest had spent ten years trying to make them charge faster without wearing out, and \
she said that the hardest part was never the chemistry. It was the paperwork, the testing, and convincing a factory to change a \
machine that already worked.

Our own week has been like that. We moved the customer database to a new server on Tuesday night, which took twenty minutes, and \
then spent three days finding the scripts that still pointed to the old one. One of them only runs on the first Friday of the \
month. Nobody remembered who wrote it. If you ever wonder why software teams write so many documents, this is the reason.

For dinner I made the lentil soup that my sister sent me. You fry two onions slowly in olive oil, add garlic, cumin and a spoon \
of tomato paste, then the lentils and about a litre of water. After half an hour it is done. A little lemon juice at the end makes \
a big difference. The kids wanted pizza, of course, but they finished their bowls, and the youngest asked if there would be more \
tomorrow.

Next weekend we are taking the train to the coast. The forecast says rain on Saturday and sun on Sunday, so we have booked tickets \
for the aquarium and packed swimsuits as well. I have promised to leave my laptop at home. My phone is coming with me, because it \
has the tickets on it, but I have deleted the email app until Monday.
"""
TEN = {  # the ten single persons with the most speeches of at least MIN_WORDS words
    "FALSTAFF",
    "HAMLET",
    "IAGO",
    "KING HENRY VI",
    "PRINCE HENRY",
    "ROSALIND",
    "OTHELLO",
    "DUKE VINCENTIO",
    "MARK ANTONY",
    "TIMON",
}
MIN_WORDS = 8
BLOCK = 1000  # bytes of held-out text in a block
TEST_EACH, POOL_EACH = (
    30,
    120,
)  # speeches of a character to test on, and at most so many to draw examples from
SIZES, SEEDS, MAX_TOKENS = (10, 100, 1000), (0, 1, 2), 64
CHAT_RATES = {"book": (3e-4, 1e-3, 3e-3), "smollm2": (1e-3, 2e-3, 4e-3)}
CHAT_HOW = {  # one whole, one by LoRA
    "book": TrainConfig(steps=60, batch_size=16, optimizer="adamw", warmup=5, weight_decay=0.0),
    "smollm2": TrainConfig(steps=24, batch_size=4, optimizer="adamw", warmup=3, weight_decay=0.0),
}
MESSAGES = (  # of nobody; what the models are to answer
    "hey, how is your day going?",
    "What is your favourite food?",
    "I have an exam tomorrow and I am scared.",
    "do you like dogs or cats better?",
    "We are going to the beach on Saturday!",
)
EPOCHS = {10: 20, 100: 6, 1000: 1}  # of LoRA training: more examples, fewer times


@dataclass
class World:
    "What the runs work on: the pretrained model, or a stand-in for tests."

    base: GPT
    tokenizer: Tokenizer
    train: str  # text to learn from
    tuning: str  # text to choose learning rates by
    held_out: str  # text to be measured on
    context: int = CONTEXT


def pieces(text: str, size: int) -> str:
    "Four stretches of about `size` characters, spread evenly, each from a blank line on."
    starts = (text.index("\n\n", len(text) * k // 8) + 2 for k in (1, 3, 5, 7))
    return "\n".join(text[start : start + size] for start in starts)


def make_world(quick: bool) -> World:
    "Load everything that the runs share."
    train = load_text("shakespeare", split="train")
    held_out = pieces(load_text("shakespeare", split="validation"), 300 if quick else 10_000)
    cut = train.rindex("\n\n", 0, len(train) - 8000)
    if not quick:
        base, tokenizer = gptbook.load("smollm2-135m")
        return World(base, tokenizer, train[:cut], train[cut:], held_out)
    torch.manual_seed(0)
    tokenizer = BPETokenizer.train(train[:20_000], 300)
    shape = GPTConfig(
        vocab_size=300,
        block_size=128,
        n_layer=4,
        n_head=2,
        n_embd=32,
        n_kv_head=1,
        activation="swiglu",
    )
    return World(GPT(shape), tokenizer, train[:20_000], train[cut:][:500], held_out, 32)


def small_world(world: World, quick: bool) -> World:
    "The book's own recipe: a tokenizer of Shakespeare, and a model that suits the budget."
    tokenizer = BPETokenizer.train(world.train, 300 if quick else 2048)
    size = dict(n_layer=1, n_head=1, n_embd=32) if quick else dict(n_layer=3, n_head=3, n_embd=96)
    shape = GPTConfig.preset(
        "book-nano", vocab_size=tokenizer.vocab_size, block_size=world.context, **size
    )
    return World(GPT(shape), tokenizer, world.train, world.tuning, world.held_out, world.context)


def start(arm: str, world: World, seed: int, rank: int = 8) -> GPT:
    "The model of an arm before its training, frozen as it should be."
    torch.manual_seed(seed)
    if arm in ("small", "large"):
        return GPT(world.base.config)
    model = copy.deepcopy(world.base)
    if arm == "lora":
        return add_lora(model, rank)
    if arm == "head":
        train_only(untie_head(model), "head")
    return model


def bits(model: GPT, world: World, text: str) -> float:  # bits per byte
    "How well a model predicts a text, in windows of the context."
    data = TokenDataset.from_text(text, world.tokenizer, world.context)
    loss = evaluate(model, data, batch_size=8, precision="bf16")
    return bits_per_byte(loss, len(data), data.n_bytes)


def settings(arm: str, rate: float, seed: int) -> TrainConfig:
    "How an arm is trained; the budget comes in `train`."
    if arm == "small":
        return TrainConfig(
            batch_size=8, learning_rate=rate, momentum=0.95, warmup=50, precision="bf16", seed=seed
        )
    decay = 0.1 if arm == "large" else 0.0
    return TrainConfig(
        batch_size=2,
        optimizer="adamw",
        learning_rate=rate,
        warmup=5,
        weight_decay=decay,
        precision="bf16",
        seed=seed,
    )


def train(
    arm: str,
    world: World,
    rate: float,
    seed: int,
    budget: float,
    look: Callable[[GPT, float], dict],
    marks: tuple[float, ...] = MARKS,
    rank: int = 8,
) -> list[dict]:  # one record for each mark
    "Train an arm for a budget of FLOPs, and look at it on the way."
    model, how = start(arm, world, seed, rank), settings(arm, rate, seed)
    data = TokenDataset.from_text(world.train, world.tokenizer, world.context)
    steps = max(
        8, round(budget / training_flops(model, how.batch_size * world.context, world.context))
    )
    how = replace(how, steps=steps, warmup=min(how.warmup, steps // 8))
    due, records, losses = {max(1, round(share * steps)): share for share in marks}, [], []

    def watch(trainer, record: dict) -> None:
        if "loss" not in record:
            return
        losses.append(record["loss"])
        if trainer.step in due:
            facts = {key: record[key] for key in ("step", "tokens", "flops", "seconds")}
            records.append(
                facts
                | {"share": due[trainer.step], "train_loss": sum(losses) / len(losses)}
                | look(model, due[trainer.step])
            )
            losses.clear()

    if finetune(model, data, None, how, progress_bar=False, callbacks=[watch]).stopped:
        raise KeyboardInterrupt  # asked to stop: a run that is not finished is not logged
    model_facts = {
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameters": sum(p.numel() for p in model.parameters()),
        "rank": rank if arm == "lora" else None,
    }
    return [r | model_facts | {"training": asdict(how)} for r in records]


def floor(log: Log, world: World) -> None:
    "What is known before any training: the 5-gram model, and SmolLM2 as it comes."
    if not log.find(experiment="floor", arm="5-gram"):
        ngram = NGram(5, "witten-bell").fit(world.train)
        log.add(
            {
                "experiment": "floor",
                "arm": "5-gram",
                "held_out_bytes": len(world.held_out.encode()),
                "tuning_bytes": len(world.tuning.encode()),
                "bits_per_byte": ngram.bits_per_byte(world.held_out),
            }
        )
    if not log.find(experiment="floor", arm="smollm2"):
        facts = {"experiment": "floor", "arm": "smollm2", "modern_text": MODERN}
        parameters = sum(p.numel() for p in world.base.parameters())
        log.add(facts | {"parameters": parameters} | look_closely(world.base, world))


def glance(model: GPT, world: World) -> dict:
    "Bits per byte on the held-out plays and on modern English."
    return {
        "bits_per_byte": bits(model, world, world.held_out),
        "modern_bits_per_byte": bits(model, world, MODERN),
    }


def look_closely(model: GPT, world: World) -> dict:
    "The same, and a sample."
    with torch.no_grad():
        ids = torch.tensor([world.tokenizer.encode(PROMPT)])
        length = min(SAMPLE_TOKENS, world.context - ids.size(1))
        ids = generate(model, ids, length, temperature=0.8, seed=0)
    return glance(model, world) | {"sample": world.tokenizer.decode(ids[0].tolist())}


def bracket(
    rates: tuple[float, ...],  # to begin with
    measure: Callable[[float], float],  # a rate to what should be small
) -> float:  # the best
    "Choose a learning rate that has tried neighbours on both sides."
    found = {rate: measure(rate) for rate in rates}
    for _ in range(3):
        best = min(found, key=found.__getitem__)
        if best not in (min(found), max(found)):
            break
        beyond = float(f"{best * 3 if best == max(found) else best / 3:.1g}")
        found[beyond] = measure(beyond)
    return min(found, key=found.__getitem__)


def best_rate(log: Log, arm: str, world: World, budget: float) -> float:
    "Choose a learning rate, with runs that are short."

    def look(model: GPT, share: float) -> dict:
        return {"bits_per_byte": bits(model, world, world.tuning)}

    def measure(rate: float) -> float:
        facts = {"experiment": "sweep", "arm": arm, "seed": 0, "learning_rate": rate}
        if not log.find(**facts):
            records = train(arm, world, rate, 0, budget / 8, look, (1,))
            log.add(*(facts | record for record in records))
        return log.find(**facts)[0]["bits_per_byte"]

    return bracket(RATES[arm], measure)


@torch.no_grad()
def block_bits(model: GPT, world: World, text: str) -> list[float]:  # bits per byte of each block
    "What each block of BLOCK bytes costs, so that two models can be compared block by block."
    ids = world.tokenizer.encode(text)
    nats = []
    for x, y in TokenDataset(ids, world.context).windows(8):
        with autocast(torch.device("cpu"), "auto"):
            logits = model(x)[0]
        flat = logits.flatten(0, 1).float()
        nats.append(nn.functional.cross_entropy(flat, y.flatten(), reduction="none"))
    ends = torch.tensor([len(world.tokenizer.token_bytes(i)) for i in ids]).cumsum(0)
    place = (ends[1:] - 1) // BLOCK
    sums = torch.zeros(int(place.max()) + 1).index_add(0, place, torch.cat(nats)) / math.log(2)
    return [round(total / BLOCK, 4) for total in sums[: int(ends[-1]) // BLOCK].tolist()]


def ngram_blocks(ngram: NGram, text: str) -> list[float]:  # bits per byte of each block
    "The same for a model that counts characters."
    ends = torch.tensor([len(character.encode()) for character in text]).cumsum(0)
    place = (ends - 1) // BLOCK
    nats = -torch.tensor(ngram.probabilities(text)).float().log()
    sums = torch.zeros(int(place.max()) + 1).index_add(0, place, nats) / math.log(2)
    return [round(total / BLOCK, 4) for total in sums[: int(ends[-1]) // BLOCK].tolist()]


def seeds(options: argparse.Namespace, log: Log) -> None:
    "The comparison again: three seeds each, and what every block of the held-out text costs."
    world = make_world(options.quick)
    small = small_world(world, options.quick)

    def known(arm: str, measure: Callable[[], list[float]]) -> None:
        if not log.find(experiment="blocks", arm=arm):
            log.add({"experiment": "blocks", "arm": arm, "block_bytes": BLOCK, "blocks": measure()})

    known("smollm2", lambda: block_bits(world.base, world, world.held_out))
    order = 3 if options.quick else 8
    counts = NGram(order)
    known(f"{order}-gram", lambda: ngram_blocks(counts.fit(world.train), world.held_out))
    if not options.quick:
        book, tokenizer = gptbook.load("shakespeare")
        other = replace(world, base=book, tokenizer=tokenizer)
        known("book", lambda: block_bits(book, other, world.held_out))
    arms = [options.arm] if options.arm else ["lora", "full", "head", "small", "large"]
    for seed in SEEDS if options.seed is None else [options.seed]:
        for arm in arms:
            if log.find(experiment="seeds", arm=arm, seed=seed):
                continue
            own = small if arm == "small" else world
            rate = best_rate(log, arm, own, options.budget)

            def look(model: GPT, share: float, own: World = own) -> dict:
                return {"blocks": block_bits(model, own, own.held_out)}

            records = train(arm, own, rate, seed, options.budget / 8, look, (1,))
            facts = {"experiment": "seeds", "arm": arm, "seed": seed}
            facts |= {"learning_rate": rate, "budget": options.budget / 8}
            log.add(*(facts | record for record in records))


def compare(options: argparse.Namespace, log: Log) -> None:
    "Five ways to a model of Shakespeare, for the same FLOPs."
    world = make_world(options.quick)
    small = small_world(world, options.quick)
    floor(log, world)
    for arm in [options.arm] if options.arm else RATES:
        if log.find(experiment="arm", arm=arm, seed=options.seed, share=1):
            continue
        own = small if arm == "small" else world
        rate = best_rate(log, arm, own, options.budget)

        def look(model: GPT, share: float, own: World = own) -> dict:
            return look_closely(model, own) if share == 1 else glance(model, own)

        records = train(arm, own, rate, options.seed, options.budget, look)
        facts = {"experiment": "arm", "arm": arm, "seed": options.seed}
        facts |= {"learning_rate": rate, "budget": options.budget}
        log.add(*(facts | record for record in records))


def ranks(options: argparse.Namespace, log: Log) -> None:
    "LoRA at several ranks, for a quarter of the FLOPs."
    world = make_world(options.quick)
    floor(log, world)
    rate = best_rate(log, "lora", world, options.budget)
    for rank in (1, 8, 32):
        if not log.find(experiment="rank", rank=rank, seed=options.seed):
            budget = options.budget / 4

            def look(model: GPT, share: float) -> dict:
                return glance(model, world)

            records = train("lora", world, rate, options.seed, budget, look, (1,), rank)
            facts = {"experiment": "rank", "seed": options.seed}
            facts |= {"learning_rate": rate, "budget": budget}
            log.add(*(facts | record for record in records))


# ---------------------------------------------------------------- who is speaking?


@dataclass
class Speeches:
    "Labelled texts: a pool to draw examples from, and a test set that never changes."

    names: list[str]
    texts: list[str]
    labels: Tensor  # (texts,)
    test: list[int]  # which texts
    pool: list[int]

    def draw(self, n: int, seed: int) -> list[int]:  # which texts, as many of each character
        "Labelled examples."
        order = torch.randperm(
            len(self.pool), generator=torch.Generator().manual_seed(seed)
        ).tolist()
        left, chosen = (
            Counter({label: n // len(self.names) for label in range(len(self.names))}),
            [],
        )
        for i in (self.pool[k] for k in order):
            if left[int(self.labels[i])]:
                left[int(self.labels[i])] -= 1
                chosen.append(i)
        return chosen


def find_speeches(quick: bool) -> Speeches:
    "The speeches of ten characters, out of the training plays."
    text = load_text("shakespeare", split="train")
    other = text.index("King John\n\nACT I")  # another Prince Henry has seven speeches there
    text = text[:other] + text[text.index("King Lear\n\nACT I") :]
    said = [
        (who, words)
        for who, words in speeches(text)
        if who in TEN and len(words.split()) >= MIN_WORDS
    ]
    order = torch.randperm(len(said), generator=torch.Generator().manual_seed(0)).tolist()
    names, limit, seen = sorted(TEN), 12 if quick else TEST_EACH + POOL_EACH, Counter()
    texts, labels, test, pool = [], [], [], []
    for who, words in (said[k] for k in order):
        seen[who] += 1
        if seen[who] <= limit:
            (test if seen[who] <= (2 if quick else TEST_EACH) else pool).append(len(texts))
            texts.append(words)
            labels.append(names.index(who))
    return Speeches(names, texts, torch.tensor(labels), test, pool)


class Reader:
    "A model whose lower blocks have read all texts once; the upper ones are left to train."

    def __init__(self, model: GPT, tokenizer: Tokenizer, texts: list[str]):
        self.cut = len(model.blocks) * 5 // 6
        self.upper = copy.deepcopy(model)
        self.upper.blocks = self.upper.blocks[self.cut :]
        self.rotary, self.lower_states = model.rotary, [torch.empty(0)] * len(texts)
        with torch.no_grad(), autocast(torch.device("cpu"), "bf16"):
            for which, ids, real in pad_batches(
                [tokenizer.encode(text) for text in texts], max_tokens=MAX_TOKENS
            ):
                x, rotary = model.embedding(ids), model.rotary(torch.arange(ids.size(1)))
                for block in model.blocks[: self.cut]:
                    x = block(x, rotary, None, None)
                for i, row, length in zip(which.tolist(), x, real.sum(1).tolist()):
                    self.lower_states[i] = row[:length].clone()
            self.features = torch.cat(
                [
                    self.read(self.upper, range(i, min(i + 32, len(texts))))
                    for i in range(0, len(texts), 32)
                ]
            )
        self.mean, self.spread = (
            self.features.mean(0),
            self.features.std(0),
        )  # over all texts; no label is needed for that

    def read(
        self, upper: GPT, which
    ) -> Tensor:  # texts to (texts, C): the mean of the last hidden state
        rows = [self.lower_states[i] for i in which]
        x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real = nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)[
            :, :, None
        ]
        rotary = self.rotary(torch.arange(x.size(1)))
        with autocast(torch.device("cpu"), "bf16"):
            for block in upper.blocks:
                x = block(x, rotary, None, None)
            x = upper.norm(x).float()
        return (x * real).sum(1) / real.sum(1)

    def scaled(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread


def logistic(n: int, c: float):
    "Logistic regression, its penalty chosen by cross-validation where examples suffice."
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    model = LogisticRegression(C=c, max_iter=2000)
    return model if n < 100 else GridSearchCV(model, {"C": [c / 10, c, 10 * c]}, cv=3)


def counting(data: Speeches, chosen: list[int]) -> Tensor:  # guesses for the test set
    "The baseline: words, pairs of words, and runs of letters, weighted by rarity."
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union

    counts = make_union(
        TfidfVectorizer(ngram_range=(1, 2), max_features=20_000, sublinear_tf=True),
        TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 5), max_features=20_000, sublinear_tf=True
        ),
    )
    model = make_pipeline(counts, logistic(len(chosen), 10.0))
    model.fit([data.texts[i] for i in chosen], data.labels[chosen].numpy())
    return torch.tensor(model.predict([data.texts[i] for i in data.test]))


def frozen(
    data: Speeches, chosen: list[int], reader: Reader
) -> tuple[Tensor, nn.Linear]:  # guesses, and the layer that guesses
    "Logistic regression on what a frozen model makes of the texts."
    x = reader.scaled(reader.features)
    model = logistic(len(chosen), 0.01)
    model.fit(x[chosen].numpy(), data.labels[chosen].numpy())
    model = getattr(model, "best_estimator_", model)
    layer = nn.Linear(x.size(1), len(data.names))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(model.coef_))
        layer.bias.copy_(torch.tensor(model.intercept_))
    return layer(x[data.test]).argmax(1), layer


def adapted(
    data: Speeches,
    chosen: list[int],
    reader: Reader,
    seed: int,
    rate: float = 1e-3,
    batch: int = 16,
) -> Tensor:  # guesses
    "LoRA in the upper sixth of the blocks, on the frozen method's layer (Kumar et al., 2022)."
    _, layer = frozen(data, chosen, reader)
    torch.manual_seed(seed)
    upper = add_lora(copy.deepcopy(reader.upper))
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for x in lora_layers(upper).values() for p in (x.a, x.b)]},
            {"params": layer.parameters()},
        ],
        lr=rate,
        weight_decay=0.0,
    )
    epochs = EPOCHS[len(chosen)]
    steps, done = epochs * math.ceil(len(chosen) / batch), 0
    for _ in range(epochs):
        order = [chosen[k] for k in torch.randperm(len(chosen)).tolist()]
        for i in range(0, len(order), batch):
            which = order[i : i + batch]
            loss = nn.functional.cross_entropy(
                layer(reader.scaled(reader.read(upper, which))), data.labels[which]
            )
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (done + 1) / 5) * (1 - done / steps)
            optimizer.step()
            done += 1
    with torch.no_grad():
        return torch.cat(
            [
                layer(reader.scaled(reader.read(upper, data.test[i : i + 32]))).argmax(1)
                for i in range(0, len(data.test), 32)
            ]
        )


def speakers(options: argparse.Namespace, log: Log) -> None:
    "Who is speaking? Five methods, three numbers of labelled examples, three seeds."
    data = find_speeches(options.quick)
    sizes = SIZES[:1] if options.quick else SIZES
    facts = {
        "names": data.names,
        "test": len(data.test),
        "pool": len(data.pool),
        "max_tokens": MAX_TOKENS,
        "min_words": MIN_WORDS,
    }

    def record(method: str, guess: Callable[[list[int], int], Tensor]) -> None:
        for seed in SEEDS if options.seed is None else [options.seed]:
            for n in sizes:
                if options.arm not in (None, method) or log.find(method=method, n=n, seed=seed):
                    continue
                clock = time.perf_counter()
                guesses, truth = guess(data.draw(n, seed), seed), data.labels[data.test]
                table = torch.bincount(
                    truth * len(data.names) + guesses, minlength=len(data.names) ** 2
                ).view(len(data.names), -1)
                result = {
                    "accuracy": (guesses == truth).float().mean().item(),
                    "seconds": time.perf_counter() - clock,
                    "confusion": table.tolist(),
                }
                key = {"experiment": "speakers", "method": method, "n": n, "seed": seed}
                log.add(key | facts | result)

    record("counting", lambda chosen, seed: counting(data, chosen))
    for kind in ("smollm2", "random"):
        wanted = [f"{kind} frozen", f"{kind} lora"]
        seeds = SEEDS if options.seed is None else [options.seed]
        if all(
            options.arm not in (None, m)
            or all(log.find(method=m, n=n, seed=s) for n in sizes for s in seeds)
            for m in wanted
        ):
            continue
        world = make_world(options.quick)
        torch.manual_seed(0)
        clock = time.perf_counter()
        reader = Reader(
            world.base if kind == "smollm2" else GPT(world.base.config), world.tokenizer, data.texts
        )
        seconds, read = time.perf_counter() - clock, sum(map(len, reader.lower_states))
        print(f"{kind}: {len(data.texts)} texts, {read} tokens read in {seconds:.0f} s", flush=True)
        record(f"{kind} frozen", partial(guess_frozen, data, reader))
        record(f"{kind} lora", partial(guess_adapted, data, reader))


def guess_frozen(data: Speeches, reader: Reader, chosen: list[int], seed: int) -> Tensor:
    "The guesses of a frozen model; no chance is in them."
    return frozen(data, chosen, reader)[0]


def guess_adapted(data: Speeches, reader: Reader, chosen: list[int], seed: int) -> Tensor:
    "The guesses of a model with detours."
    return adapted(data, chosen, reader, seed)


# ---------------------------------------------------------------- to answer


@dataclass
class Learner:
    "A model that is to learn to answer, and how it marks who speaks."

    model: GPT
    tokenizer: Tokenizer
    before: str  # what stands before a message
    after: str  # and after it
    end: int  # the token that ends a reply

    def prompt(self, message: str) -> list[int]:
        return self.tokenizer.encode(f"{self.before}{message}{self.after}", "all")

    def data(self, pairs: list[tuple[str, str]], masked: bool = True) -> ReplyDataset:
        "With the loss on the replies; or on all but the first token, as in any other text."
        prompts = [self.prompt(message) for message, _ in pairs]
        replies = [self.tokenizer.encode(reply) + [self.end] for _, reply in pairs]
        if not masked:
            replies = [prompt[1:] + reply for prompt, reply in zip(prompts, replies)]
            prompts = [prompt[:1] for prompt in prompts]
        return ReplyDataset(prompts, replies, min(256, self.model.config.block_size))


def learner(name: str, quick: bool) -> Learner:
    "A model, fresh."
    if quick:
        world = make_world(True)
        end = world.tokenizer.encode("\n")[0]
        return Learner(world.base, world.tokenizer, "A:\n", "\n\nB:\n", end)
    if name == "book":
        model, tokenizer = gptbook.load("shakespeare")
        return Learner(model, tokenizer, "A:\n", "\n\nB:\n", tokenizer.stop_ids[0])
    model, tokenizer = gptbook.load("smollm2-135m")
    before, after = chat_prompt("smollm2-135m", "MESSAGE").split("MESSAGE")
    return Learner(model, tokenizer, before, after, tokenizer.stop_ids[0])


def draw_pairs(quick: bool) -> tuple[list[tuple[str, str]], ...]:
    "To learn from, to choose rates by, to be measured on."
    longest = 30 if quick else 100  # bytes: any such pair fits into the context
    ordered = {
        s: list(exchanges(load_text("chitchat", s), longest)) for s in ("train", "validation")
    }
    for pairs in ordered.values():
        random.Random(0).shuffle(pairs)
    sizes = (60, 6, 6) if quick else (4000, 60, 120)
    train_pairs = ordered["train"]
    return (
        train_pairs[: sizes[0]],
        train_pairs[-sizes[1] :],
        ordered["validation"][: sizes[2]],
    )


def examine(who: Learner, pairs: list[tuple[str, str]], talk: bool) -> dict:
    "What the held-out replies cost, in bits per byte, each and together; and some answers."
    size = [len(reply.encode()) for _, reply in pairs]
    costs = reply_bits(who.model, who.data(pairs)).tolist()
    record: dict = {
        "bits_per_byte": sum(costs) / sum(size),
        "reply_bytes": size,
        "reply_bits": [round(cost, 1) for cost in costs],
    }
    if talk:
        told = []
        for message in MESSAGES:
            pieces = stream_text(
                who.model,
                who.tokenizer,
                who.prompt(message),
                40,
                temperature=0.7,
                seed=0,
                stop_ids=(who.end,),
            )
            told.append([message, "".join(pieces)])
        record["answers"] = told
    return record


def chat(options: argparse.Namespace, log: Log) -> None:
    "The book's model, all of it, and SmolLM2 by LoRA learn to answer; loss on the replies, or on all."
    parts = draw_pairs(options.quick)
    for name in ["book", "smollm2"] if options.arm is None else [options.arm]:
        how = replace(CHAT_HOW[name], precision="auto")
        if options.quick:
            how = replace(how, steps=2, batch_size=2, warmup=0)

        def run(rate: float, seed: int, masked: bool, how: TrainConfig = how, name: str = name):
            who = learner(name, options.quick)
            torch.manual_seed(seed)
            if name == "smollm2":
                add_lora(who.model)
            own = replace(how, learning_rate=rate, seed=seed)
            trainer = finetune(who.model, who.data(parts[0], masked), None, own, False)
            if trainer.stopped:
                raise KeyboardInterrupt
            return who, {"seconds": round(trainer.seconds, 1), "training": asdict(own)}

        if not log.find(arm=name, kind="before"):
            facts = {"experiment": "chat", "arm": name, "kind": "before"}
            facts |= {"pairs": list(map(len, parts))}
            log.add(facts | examine(learner(name, options.quick), parts[2], True))

        def measure(rate: float, name: str = name, run=run) -> float:
            facts = {"experiment": "chat", "arm": name, "kind": "sweep", "learning_rate": rate}
            if not log.find(**facts):
                who, made = run(rate, 0, True)
                found = examine(who, parts[1], False)
                log.add(facts | {"bits_per_byte": found["bits_per_byte"]} | made)
            return log.find(**facts)[0]["bits_per_byte"]

        rate = bracket(CHAT_RATES[name], measure)
        for seed in SEEDS if options.seed is None else [options.seed]:
            for kind in ("replies", "everything"):
                facts = {"experiment": "chat", "arm": name, "kind": kind, "seed": seed}
                if not log.find(**facts):
                    who, made = run(rate, seed, kind == "replies")
                    found = examine(who, parts[2], kind == "replies" and seed == SEEDS[0])
                    log.add(facts | {"learning_rate": rate} | found | made)


def main() -> None:
    parser = arguments(__doc__, threads=2)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    arm = f"this one only: {', '.join(RATES)}; book or smollm2 of chat; or a method of speakers, such as 'smollm2 lora'"
    parser.add_argument("--arm", help=arm)
    seed = "of weights and windows (default: 0), or of the examples (default: 0, 1 and 2)"
    parser.add_argument("--seed", type=int, help=seed)
    budget = "FLOPs of an arm (default: %(default)g)"
    parser.add_argument("--budget", type=float, default=BUDGET, help=budget)
    options = parser.parse_args()
    arms = {"compare": RATES, "seeds": RATES, "chat": CHAT_RATES}.get(options.experiment)
    if arms and options.arm not in (None, *arms):
        parser.error(f"no arm {options.arm!r}; choose one of {', '.join(arms)}")
    if options.experiment in ("compare", "ranks") and options.seed is None:
        options.seed = 0
    if options.quick:
        options.budget = min(options.budget, 1e8)
    own = {"speakers", "chat"}  # have a log of their own
    name = options.experiment if options.experiment in own else "transfer"
    log = Log(name, options, command_line("transfer", sys.argv[1:]))
    log.begin()
    EXPERIMENTS[options.experiment](options, log)
    log.finish()


EXPERIMENTS = {
    "compare": compare,
    "seeds": seeds,
    "ranks": ranks,
    "speakers": speakers,
    "chat": chat,
}

if __name__ == "__main__":
    main()
