#!/usr/bin/env python3
"""One measurement of one contender, in a process of its own. `bench.py` calls this; its output is one line of JSON.

python benchmarks/contenders.py train "gptbook bf16"
python benchmarks/contenders.py --list
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

START = time.perf_counter()  # of the process, as far as Python can tell
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

APART = str(Path(sys.prefix) / "apart")  # the folder for apart.txt
Result = dict[str, float]
CONTENDERS: dict[str, dict[str, Callable[[argparse.Namespace], Result]]] = {}
ROUNDS: dict[str, int] = {}  # of suites that have a number of their own


def contender(suite: str, name: str) -> Callable:
    "Register a measurement."

    def register(function: Callable[[argparse.Namespace], Result]) -> Callable:
        CONTENDERS.setdefault(suite, {})[name] = function
        return function

    return register


# --- training throughput: GPT-2's shape, 6 layers of 384 channels, context 256, batch 8, 65 characters -----------------

SHAPE = dict(vocab_size=65, block_size=256, n_layer=6, n_head=6, n_embd=384)
BATCH = 8


def timed_steps(step: Callable[[], object], options: argparse.Namespace) -> Result:
    "Median tokens per second of single steps, after a warm-up that includes compilation."
    import torch

    from gptbook.scaling import flop_utilisation, matmul_peak

    for _ in range(3):
        step()
    times = []
    for _ in range(3 if options.quick else 12):
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    tokens = BATCH * SHAPE["block_size"]
    middle = statistics.median(times)
    share = flop_utilisation(tokens * flops_of_token(), middle, matmul_peak(dtype=torch.bfloat16))
    return {
        "tokens_per_second": tokens / middle,
        "least": tokens / max(times),
        "most": tokens / min(times),
        "utilisation": share,
    }


def flops_of_token() -> int:
    "Forward and backward pass of GPT-2's shape by the ledger of chapter 08; other architectures of the same size differ by a few percent."
    from gptbook.model import GPTConfig
    from gptbook.scaling import count_costs

    return count_costs(GPTConfig.preset("gpt2", **SHAPE)).training


@contender("machine", "fp32 matrix product")
def _peak_fp32(o: argparse.Namespace) -> Result:
    from gptbook.scaling import matmul_peak

    return {"gflops": matmul_peak()}


@contender("machine", "bf16 matrix product")
def _peak_bf16(o: argparse.Namespace) -> Result:
    import torch

    from gptbook.scaling import matmul_peak

    return {"gflops": matmul_peak(dtype=torch.bfloat16)}


def random_tokens() -> object:
    "A text of random characters; speed does not depend on which."
    import torch

    from gptbook.data import TokenDataset

    return TokenDataset(
        torch.randint(SHAPE["vocab_size"], (200_000,)).numpy().astype("uint16"), SHAPE["block_size"]
    )


def train_gptbook(
    options: argparse.Namespace,
    precision: str,
    optimizer: str = "adamw",
    compiled: bool = False,
    preset: str = "gpt2",
) -> Result:
    import torch

    from gptbook.model import GPT, GPTConfig
    from gptbook.runs import keep_memory
    from gptbook.training import TrainConfig, Trainer

    torch.manual_seed(0)
    model = GPT(GPTConfig.preset(preset, **SHAPE))
    config = TrainConfig(
        steps=1000,
        batch_size=BATCH,
        precision=precision,
        optimizer=optimizer,
        compile=compiled,
        learning_rate=1e-3,
    )
    trainer = Trainer(model, random_tokens(), config=config)
    with keep_memory():  # as `fit` does
        return timed_steps(trainer.train_step, options)


for _precision in ("fp32", "bf16"):
    for _compiled in (False, True):

        def _train(o: argparse.Namespace, p: str = _precision, c: bool = _compiled) -> Result:
            return train_gptbook(o, p, compiled=c)

        contender("train", f"gptbook {_precision}" + " compiled" * _compiled)(_train)


@contender("train", "gptbook bf16 compiled, the book's blocks")
def _train_book(o: argparse.Namespace) -> Result:
    "The same size with rotary positions, RMSNorm, QK-norm and squared ReLU instead of GPT-2's parts."
    return train_gptbook(o, "bf16", compiled=True, preset="book-medium")


@contender("train", "gptbook bf16 compiled, Muon")
def _train_muon(o: argparse.Namespace) -> Result:
    return train_gptbook(o, "bf16", "muon", compiled=True)


def train_peer(
    model: object,
    loss_of: Callable,
    options: argparse.Namespace,
    precision: str,
    compiled: bool,
    fused: bool = True,
) -> Result:
    "The usual loop around somebody else's model: AdamW, clipping, the same data."
    import torch

    data, generator = random_tokens(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=fused
    )
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        x, y = data.batch(BATCH, generator)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(forward, x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return timed_steps(step, options)


def their_gpt2(shape: dict[str, int] = SHAPE, **changes: object) -> object:
    "transformers' GPT-2, to be trained."
    import transformers

    config = transformers.GPT2Config(
        vocab_size=shape["vocab_size"],
        n_positions=shape["block_size"],
        n_layer=shape["n_layer"],
        n_head=shape["n_head"],
        n_embd=shape["n_embd"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return transformers.GPT2LMHeadModel._from_config(config, **changes).train()


def loss_from_logits(forward: Callable, x: object, y: object) -> object:
    import torch

    logits = forward(x)
    logits = getattr(logits, "logits", logits)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten())


for _precision in ("fp32", "bf16"):
    for _compiled in (False, True):

        def _train(o: argparse.Namespace, p: str = _precision, c: bool = _compiled) -> Result:
            return train_peer(their_gpt2(), loss_from_logits, o, p, c)

        contender("train", f"transformers {_precision}" + " compiled" * _compiled)(
            _train
        )  # with its fused attention this is nanoGPT's recipe, too


@contender("train", "minGPT's recipe in transformers")
def _train_mingpt(o: argparse.Namespace) -> Result:
    "minGPT is not on PyPI: attention written out and AdamW without fusion, as there, around transformers' GPT-2."
    return train_peer(
        their_gpt2(attn_implementation="eager"), loss_from_logits, o, "fp32", False, fused=False
    )


def train_raschka(options: argparse.Namespace, precision: str, compiled: bool) -> Result:
    "The model of chapter 4 of `Build a Large Language Model (From Scratch)`, from its package."
    import torch
    from llms_from_scratch.ch04 import GPTModel

    torch.manual_seed(0)
    model = GPTModel(
        {
            "vocab_size": SHAPE["vocab_size"],
            "context_length": SHAPE["block_size"],
            "emb_dim": SHAPE["n_embd"],
            "n_heads": SHAPE["n_head"],
            "n_layers": SHAPE["n_layer"],
            "drop_rate": 0.0,
            "qkv_bias": True,
        }
    )
    return train_peer(model, loss_from_logits, options, precision, compiled)


contender("train", "llms-from-scratch fp32")(lambda o: train_raschka(o, "fp32", False))
contender("train", "llms-from-scratch bf16 compiled")(lambda o: train_raschka(o, "bf16", True))


@contender("train", "llms-from-scratch bf16 compiled, memory kept")
def _train_raschka_kept(o: argparse.Namespace) -> Result:
    "With what chapter 07 asks of the C library, which our trainer does by itself and others could do as well."
    from gptbook.runs import keep_memory

    with keep_memory():
        return train_raschka(o, "bf16", True)


# --- input: what a training step waits for its tokens ------------------------------------------------------------------------------


def timed_input(data: object, options: argparse.Namespace) -> Result:
    "Tokens drawn per second while the model of the suite above trains, and the share of its steps that this takes."
    import torch

    from gptbook.model import GPT, GPTConfig
    from gptbook.runs import keep_memory
    from gptbook.training import TrainConfig, Trainer

    trainer = Trainer(
        GPT(GPTConfig.preset("gpt2", **SHAPE)),
        data,
        config=TrainConfig(batch_size=BATCH, precision="bf16", learning_rate=1e-3),
    )
    draw, drawing = data.batch, []

    def batch(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        before = time.perf_counter()
        windows = draw(*arguments)
        drawing.append(time.perf_counter() - before)
        return windows

    data.batch = batch
    steps, tokens = 3 if options.quick else 30, BATCH * SHAPE["block_size"]
    before = time.perf_counter()
    with keep_memory():  # as `fit` does
        for _ in range(steps):
            trainer.train_step()
    share = sum(drawing) / (time.perf_counter() - before)
    return {
        "tokens_per_second": tokens / statistics.median(drawing),
        "least": tokens / max(drawing),
        "most": tokens / min(drawing),
        "input_share": share,
    }


@contender("input", "gptbook, tokens in memory")
def _input_memory(o: argparse.Namespace) -> Result:
    return timed_input(random_tokens(), o)


@contender("input", "gptbook, a file of 4 GB that is not in memory")
def _input_file(o: argparse.Namespace) -> Result:
    "The system is asked to forget the file's pages, so every window comes from the disk."
    import tempfile

    import numpy as np

    from gptbook.corpora import write_tokens
    from gptbook.data import TokenDataset

    blocks = (
        np.random.default_rng(i).integers(SHAPE["vocab_size"], size=2**22).astype("uint16")
        for i in range(3 if o.quick else 500)
    )
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # /tmp may be a part of memory
        path = Path(folder) / "tokens.bin"
        write_tokens(path, ((block, None) for block in blocks), np.dtype("uint16"))
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return timed_input(TokenDataset.open(path, SHAPE["block_size"]), o)


# --- time to quality: tinyshakespeare, characters, nanoGPT's split; start-up, compilation and the last evaluation count ---------

HASH = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def tinyshakespeare() -> str:
    "The text, from a file that TINYSHAKESPEARE names, a file beside the project, or its public home."
    from gptbook.corpora import load_text
    from gptbook.files import file_sha256

    named = os.environ.get("TINYSHAKESPEARE")
    for path in (
        [Path(named)]
        if named
        else sorted(Path(__file__).resolve().parents[2].glob("*/tinyshakespeare.txt"))
    ):
        if file_sha256(path) == HASH:
            return path.read_text(encoding="utf-8")
    return load_text("tinyshakespeare")


def characters(
    block_size: int,
) -> tuple:  # tokens to learn from and all held-out ones, vocabulary size
    "nanoGPT's data: its 65 characters, the first nine tenths to learn from."
    import numpy as np

    from gptbook.data import TokenDataset
    from gptbook.tokenizer import CharTokenizer

    text = tinyshakespeare()
    tokenizer = CharTokenizer.train(text)
    ids = np.array(tokenizer.encode(text), dtype=np.uint16)
    split = int(0.9 * len(ids))
    return (
        TokenDataset(ids[:split], block_size),
        TokenDataset(ids[split:], block_size),
        tokenizer.vocab_size,
    )


def until_now(loss: float, steps: int, target: float | None = None) -> Result:
    "The seconds of the process so far and the loss, and the loss that was to be reached: a run that misses it is reported like the others."
    return {"seconds_to_loss": time.perf_counter() - START, "val_loss": loss, "steps": steps} | (
        {} if target is None else {"target": target}
    )


SMALL_RUN = dict(  # LayerNorm, because without compiling it is the quicker one on a CPU
    batch_size=24,
    learning_rate=6e-3,
    warmup=10,
    momentum=0.85,
    eval_every=10**6,
)
LARGE_RUN = dict(
    steps=840,
    batch_size=16,
    learning_rate=3e-3,
    weight_decay=0.8,
    momentum=0.9,
    compile=True,
    eval_every=10**6,
)


def quality_gptbook(
    options: argparse.Namespace, preset: str, target: float, shape: dict, **train: object
) -> Result:
    "Train, then look once at all the held-out text."
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # nothing compiled in an earlier run
    import torch

    from gptbook.model import GPT, GPTConfig
    from gptbook.training import TrainConfig, Trainer, evaluate

    block_size = shape["block_size"]
    data, held_out, vocabulary = characters(block_size)
    torch.manual_seed(options.seed)
    model = GPT(GPTConfig.preset(preset, vocab_size=vocabulary, **shape))
    config = TrainConfig(
        **train
        | {"seed": options.seed, "precision": "bf16"}
        | ({"steps": 5} if options.quick else {})
    )
    Trainer(model, data, config=config).fit(progress_bar=False)
    return until_now(
        evaluate(model, held_out, batch_size=32, precision="bf16"), config.steps, target
    )


@contender("quality of nanoGPT's CPU run", "nanoGPT's CPU recipe in transformers")
def _quality_nanogpt(options: argparse.Namespace) -> Result:
    "nanoGPT is not on PyPI: its settings for a CPU (README and config/train_shakespeare_char.py) around transformers' GPT-2 in its shape."
    import torch

    data, held_out, vocabulary = characters(64)
    torch.manual_seed(options.seed)
    model = their_gpt2(dict(vocab_size=vocabulary, block_size=64, n_layer=4, n_head=4, n_embd=128))
    generator = torch.Generator().manual_seed(options.seed)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    steps = 5 if options.quick else 2000
    for step in range(steps):
        share = (
            (step + 1) / 101
            if step < 100
            else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 100) / (2000 - 100)))
        )
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * share
        x, y = data.batch(12, generator)
        optimizer.zero_grad(set_to_none=True)
        loss_from_logits(model, x, y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    total = count = 0
    with torch.no_grad():
        for x, y in held_out.windows(32):
            total += loss_from_logits(model.eval(), x, y).item() * y.numel()
            count += y.numel()
    return until_now(total / count, steps)


@contender("quality of nanoGPT's CPU run", "gptbook bf16, 2 layers of 192")
def _quality_small(o: argparse.Namespace) -> Result:
    return quality_gptbook(
        o,
        "book-micro",
        1.8857,
        dict(block_size=64, n_layer=2, n_embd=192, norm="layer"),
        **SMALL_RUN,
        steps=170,
    )


@contender("quality of nanoGPT's CPU run", "gptbook bf16, same shape")
def _quality_same(o: argparse.Namespace) -> Result:
    return quality_gptbook(
        o, "book-micro", 1.8857, dict(block_size=64, norm="layer"), **SMALL_RUN, steps=200
    )


ROUNDS["quality of nanoGPT's A100 run"] = 3  # seeds
ROUNDS["machine"] = 3


@contender("quality of nanoGPT's A100 run", "gptbook bf16 compiled, book-small")
def _quality_large(o: argparse.Namespace) -> Result:
    return quality_gptbook(o, "book-small", 1.4697, dict(block_size=256), **LARGE_RUN)


# --- generation: GPT-2 small's shape, and a small model where Python's overhead rules ---------------------------------------

SIZES: dict[str, dict[str, int]] = {
    "gpt2": {},
    "small": dict(vocab_size=2048, block_size=512, n_layer=6, n_head=4, n_embd=256),
}  # the second has 5 million parameters


def timed_generation(
    generate: Callable[[int], object], batch: int, options: argparse.Namespace
) -> Result:
    "Tokens per second of greedy decoding with a cache, the prompt's reading not counted."
    import torch

    short, long = (4, 12) if options.quick else (4, 68 if batch == 1 else 28)
    with torch.inference_mode():
        generate(short)
        generate(long)  # so that every shape has been seen, and compiled where something compiles
        rates, started = [], time.perf_counter()
        while (
            not rates or not options.quick and (len(rates) < 2 or time.perf_counter() - started < 4)
        ):
            times = []
            for n in (short, long):
                before = time.perf_counter()
                generate(n)
                times.append(time.perf_counter() - before)
            rates.append(batch * (long - short) / (times[1] - times[0]))
    return {"tokens_per_second": statistics.median(rates), "least": min(rates), "most": max(rates)}


def generation_model(size: str) -> object:
    "Ours; random weights of GPT-2's kind, or SmolLM2."
    import torch

    from gptbook.model import GPT, GPTConfig

    if size == "smollm2-135m":
        return GPT.from_pretrained(size)
    torch.manual_seed(0)
    return GPT(GPTConfig.preset("gpt2", **SIZES[size])).eval()


def prompt_of(model: object, batch: int) -> object:
    import torch

    return torch.randint(
        model.config.vocab_size, (batch, 16), generator=torch.Generator().manual_seed(0)
    )


def generate_gptbook(
    options: argparse.Namespace, size: str, precision: str, batch: int, layers_at_once: int = 0
) -> Result:
    "As it comes, or compiled by one layer or several."
    from gptbook.cli import choose_weights
    from gptbook.decoding import compile_decoding
    from gptbook.generation import generate

    model = choose_weights(precision)(generation_model(size))
    model = compile_decoding(model, layers_at_once) if layers_at_once else model
    prompt = prompt_of(model, batch)
    return timed_generation(lambda n: generate(model, prompt, n, top_k=1), batch, options)


def their_model(size: str, dtype: object) -> object:
    "The same weights in transformers' own class."
    import tempfile

    import transformers

    from gptbook.pretrained import model_folder, save_pretrained

    if size == "smollm2-135m":
        file = next(model_folder(size).glob("*.gguf"))
        return transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype
        ).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(generation_model(size), folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def generate_transformers(
    options: argparse.Namespace, size: str, precision: str, batch: int, compiled: bool = False
) -> Result:
    import torch

    model = their_model(size, torch.bfloat16 if precision == "bf16" else torch.float32)
    prompt = prompt_of(model, batch)
    settings = dict(
        attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0, eos_token_id=None
    )
    if compiled:  # with caches of one size, as their documentation advises
        model.forward = torch.compile(model.forward, dynamic=False)
        settings |= dict(
            cache_implementation="static", disable_compile=True
        )  # compiled here, not by generate, which does so on GPUs only
    return timed_generation(
        lambda n: model.generate(prompt, max_new_tokens=n, min_new_tokens=n, **settings),
        batch,
        options,
    )


def generate_without_cache(options: argparse.Namespace, size: str) -> Result:
    "nanoGPT's way, which is also chapter 06's: everything again for each token."
    model = generation_model(size)
    prompt = prompt_of(model, 1)
    return timed_generation(lambda n: model.generate(prompt, n, top_k=1), 1, options)


TITLES = {
    "gpt2": "generation, GPT-2 small's shape",
    "small": "generation, 5 million parameters",
    "smollm2-135m": "generation, SmolLM2-135M",
}
ROUNDS |= {
    f"{TITLES[size]}, batch {batch}": 1 for size in SIZES for batch in (16, 32)
}  # each takes its median of several texts
for _size, _batches in (("gpt2", (1, 16, 32)), ("small", (1, 16, 32)), ("smollm2-135m", (1,))):
    for _batch in _batches:
        for _precision in ("fp32", "bf16", "int8"):
            for _who, _measure in (
                ("gptbook", generate_gptbook),
                ("transformers", generate_transformers),
            ):
                if (_who, _precision) == ("transformers", "int8"):
                    continue

                def _generate(
                    o: argparse.Namespace,
                    m: Callable = _measure,
                    s: str = _size,
                    p: str = _precision,
                    b: int = _batch,
                ) -> Result:
                    return m(o, s, p, b)

                contender(f"{TITLES[_size]}, batch {_batch}", f"{_who} {_precision}")(_generate)
for _size in TITLES:
    for _precision in ("fp32", "bf16", "int8"):

        def _generate(o: argparse.Namespace, s: str = _size, p: str = _precision) -> Result:
            return generate_gptbook(o, s, p, 1, layers_at_once=1)

        contender(f"{TITLES[_size]}, batch 1", f"gptbook {_precision} compiled")(_generate)
for _precision in ("fp32", "bf16", "int8"):

    def _generate(o: argparse.Namespace, p: str = _precision) -> Result:
        return generate_gptbook(o, "small", p, 1, layers_at_once=SIZES["small"]["n_layer"])

    contender(f"{TITLES['small']}, batch 1", f"gptbook {_precision} compiled, six layers at once")(
        _generate
    )
for _size in SIZES:
    _suite = f"{TITLES[_size]}, batch 1"
    contender(_suite, "transformers fp32 compiled")(
        lambda o, s=_size: generate_transformers(o, s, "fp32", 1, compiled=True)
    )
    contender(_suite, "transformers bf16 compiled")(
        lambda o, s=_size: generate_transformers(o, s, "bf16", 1, compiled=True)
    )
    contender(_suite, "no cache fp32 (nanoGPT's way)")(
        lambda o, s=_size: generate_without_cache(o, s)
    )


@contender(f"{TITLES['gpt2']}, batch 1", "torchao int8 compiled, in gptbook's model")
def _generate_torchao(o: argparse.Namespace) -> Result:
    "Weights in 8 bits by PyTorch's own library for that, activations in bfloat16."
    import torch

    from gptbook.generation import generate

    sys.path.append(APART)
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = generation_model("gpt2").bfloat16()
    model.head.weight = torch.nn.Parameter(
        model.head.weight.detach().clone()
    )  # the embedding keeps its own
    quantize_(model, Int8WeightOnlyConfig())
    model.forward = torch.compile(model.forward, dynamic=True)
    prompt = prompt_of(model, 1)
    return timed_generation(lambda n: generate(model, prompt, n, top_k=1), 1, o)


def speculate_gptbook(options: argparse.Namespace, compiled: bool) -> Result:
    "Speculative decoding: the text of the fp32 model, guessed by its own rounded copy."
    import torch

    from gptbook.decoding import compile_decoding, quantize
    from gptbook.generation import speculate

    model = generation_model("smollm2-135m")
    draft, prompt, kept = quantize(model), prompt_of(model, 1), []
    draft = compile_decoding(draft) if compiled else draft
    with torch.inference_mode():
        result = timed_generation(
            lambda n: kept.append(speculate(model, draft, prompt, n, guesses=5, top_k=1)[1]),
            1,
            options,
        )
    return result | {"kept": statistics.median(kept)}


contender(f"{TITLES['smollm2-135m']}, batch 1", "gptbook fp32, its int8 copy as draft")(
    lambda o: speculate_gptbook(o, False)
)
contender(f"{TITLES['smollm2-135m']}, batch 1", "gptbook fp32, its int8 copy compiled as draft")(
    lambda o: speculate_gptbook(o, True)
)


@contender("what rounding costs SmolLM2-135M", "gptbook bf16")
def _cost_bf16(o: argparse.Namespace) -> Result:
    return rounding_cost(o, "bf16")


@contender("what rounding costs SmolLM2-135M", "gptbook int8")
def _cost_int8(o: argparse.Namespace) -> Result:
    return rounding_cost(o, "int8")


ROUNDS["what rounding costs SmolLM2-135M"] = 1  # nothing in it is left to chance


def rounding_cost(options: argparse.Namespace, precision: str) -> Result:
    "Loss on held-out plays, rounded and not."
    from gptbook.cli import choose_weights
    from gptbook.corpora import load_text
    from gptbook.data import TokenDataset, bits_per_byte
    from gptbook.pretrained import load_tokenizer
    from gptbook.training import evaluate

    model = generation_model("smollm2-135m")
    text = load_text("shakespeare", "validation")[: 2_000 if options.quick else 30_000]
    tokenizer = load_tokenizer("smollm2-135m")
    data = TokenDataset.from_text(text, tokenizer, 256)
    exact = evaluate(model, data, batch_size=4)
    rounded = evaluate(choose_weights(precision)(model), data, batch_size=4)
    return {
        "loss_change": rounded / exact - 1,
        "bits_per_byte": bits_per_byte(exact, len(data), data.n_bytes),
    }


# --- tokenizer ------------------------------------------------------------------------------------------------------------


def corpus(options: argparse.Namespace) -> str:
    from gptbook.corpora import load_text

    text = load_text("shakespeare")
    return text[:200_000] if options.quick else text


def timed(work: Callable[[], object]) -> Result:
    before = time.perf_counter()
    work()
    return {"work_seconds": time.perf_counter() - before}


def train_ours(text: str, vocab_size: int) -> object:
    from gptbook.tokenizer import BPETokenizer

    return BPETokenizer.train(text, vocab_size)


def train_tokenizers(text: str, vocab_size: int) -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    return tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)


def train_bpeasy(text: str, vocab_size: int) -> object:
    import bpeasy

    from gptbook.tokenizer import GPT2_SPLIT

    return bpeasy.train_bpe(iter([text]), GPT2_SPLIT, 128, vocab_size)


for _title, _size, _vocabulary in (
    ("1.1 MB, vocabulary 2048", 1_100_000, 2048),
    ("5 MB, vocabulary 4096", None, 4096),
):
    for _name, _train in (
        ("gptbook", train_ours),
        ("tokenizers", train_tokenizers),
        ("bpeasy", train_bpeasy),
    ):

        def _bpe(
            o: argparse.Namespace, t: Callable = _train, n: int | None = _size, v: int = _vocabulary
        ) -> Result:
            text = corpus(o)[:n]
            t(text[:10_000], 300)  # so that imports are not counted
            return timed(lambda: t(text, v))

        contender(f"bpe training, {_title}", _name)(_bpe)


def timed_encoding(encode: Callable[[str], object], text: str) -> Result:
    encode(text[:1000])
    before = time.perf_counter()
    encode(text)
    return {"megabytes_per_second": len(text.encode()) / 1e6 / (time.perf_counter() - before)}


@contender("bpe encoding", "gptbook")
def _encode_gptbook(o: argparse.Namespace) -> Result:
    from gptbook.tokenizer import BPETokenizer

    return timed_encoding(BPETokenizer.from_pretrained("gpt2").encode, corpus(o))


@contender("bpe encoding", "tiktoken")
def _encode_tiktoken(o: argparse.Namespace) -> Result:
    import tiktoken

    from gptbook.tokenizer import GPT2_SPLIT, BPETokenizer

    ranks = BPETokenizer.from_pretrained("gpt2").ranks
    return timed_encoding(
        tiktoken.Encoding(
            "gpt2", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={}
        ).encode_ordinary,
        corpus(o),
    )


@contender("bpe encoding", "tokenizers")
def _encode_tokenizers(o: argparse.Namespace) -> Result:
    import tempfile

    from tokenizers import Tokenizer

    from gptbook.tokenizer import BPETokenizer

    with tempfile.TemporaryDirectory() as folder:
        BPETokenizer.from_pretrained("gpt2").save(folder)
        tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return timed_encoding(lambda text: tokenizer.encode(text).ids, corpus(o))


# --- main ---------------------------------------------------------------------------------------------------------------


def facts() -> dict[str, object]:
    "The machine and the versions."
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    sys.path.append(APART)
    for package in (
        "torch",
        "transformers",
        "tokenizers",
        "tiktoken",
        "bpeasy",
        "llms-from-scratch",
        "torchao",
        "numpy",
    ):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    model = (
        next(
            (
                line.split(":", 1)[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        )
        if Path("/proc/cpuinfo").is_file()
        else platform.processor()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def listing() -> dict:
    "What there is to measure, and on what."
    return {
        "suites": {suite: list(found) for suite, found in CONTENDERS.items()},
        "rounds": ROUNDS,
        "facts": facts(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", nargs="?")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.list:
        print(json.dumps(listing()))
        return 0
    result = CONTENDERS[options.suite][options.name](options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    print(
        json.dumps(
            {"suite": options.suite, "name": options.name}
            | result
            | {"peak_bytes": peak, "seconds": time.perf_counter() - START}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
