"""What the cells of chapters 09 and 93 cannot test: large samples, all kinds of model, streams that meet each other, and interruption."""

import copy
import gc
import threading

import numpy as np
import pytest
import torch

import gptbook.decoding as decoding
import gptbook.generation as generation
from gptbook.decoding import Int8Linear, compile_decoding, quantize
from gptbook.generation import (
    generate,
    make_caches,
    pad_left,
    sample,
    speculate,
    stream,
    stream_text,
    warp_logits,
)
from gptbook.model import GPT, GPTConfig
from gptbook.tokenizer import CharTokenizer
from gptbook.transfer import add_lora


def tiny(seed: int, width: int = 8, **changes) -> GPT:
    torch.manual_seed(seed)
    model = GPT(
        GPTConfig(**(dict(vocab_size=3, block_size=8, n_layer=1, n_head=1, n_embd=width) | changes))
    ).eval()
    for p in model.parameters():
        p.data.normal_(std=1.0 if p.dim() == 2 else 0.3)
    return model


def exact(model: GPT, prompt: torch.Tensor, **options) -> torch.Tensor:
    "The probability of each of the 27 continuations of three tokens, when drawn with these options."
    texts = torch.cartesian_prod(*[torch.arange(3)] * 3)
    whole = torch.cat((prompt.expand(27, -1), texts), 1)
    with torch.no_grad():
        p = warp_logits(model(whole)[0][:, prompt.size(1) - 1 : -1], **options).softmax(-1)
    return p.gather(2, texts[..., None])[..., 0].prod(1)


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> tuple[float, int]:
    "The statistic and its degrees of freedom, over the cells that can occur."
    possible = p > 0
    assert counts[~possible].sum() == 0, "a text was written that cannot be"
    expected = p[possible] * counts.sum()
    return ((counts[possible] - expected) ** 2 / expected).sum().item(), int(possible.sum()) - 1


def limit(freedom: int) -> float:
    "What chi-square exceeds by chance less than once in 100,000 times (Wilson and Hilferty, 1931)."
    return freedom * (1 - 2 / (9 * freedom) + 4.265 * (2 / (9 * freedom)) ** 0.5) ** 3


@pytest.mark.parametrize(
    "options, guesses",
    [
        ({}, 1),
        ({}, 3),
        (dict(temperature=0.6, top_k=2), 2),
        (dict(top_p=0.8, temperature=1.5), 2),
        (dict(min_p=0.3), 2),
    ],
)
def test_speculation_draws_from_the_models_distribution(options, guesses):
    model, draft, prompt = tiny(1), tiny(2, 4), torch.tensor([[0]])
    counts, place = torch.zeros(27), torch.tensor([9, 3, 1])
    for seed in range(800):
        counts[
            (
                speculate(model, draft, prompt, 3, guesses, seed=seed, **options)[0][0, -3:] * place
            ).sum()
        ] += 1
    statistic, freedom = chi_square(counts, exact(model, prompt, **options))
    assert statistic < limit(freedom)


def test_that_test_fails_for_a_wrong_rule(monkeypatch):
    right = generation.accept

    def draws_from_p(p, q, guesses, generator):
        keep, _ = right(p, q, guesses, generator)
        return keep, torch.multinomial(p[keep], 1, generator=generator)

    monkeypatch.setattr(generation, "accept", draws_from_p)
    with pytest.raises(AssertionError):
        test_speculation_draws_from_the_models_distribution({}, 3)


def test_stream_draws_from_the_models_distribution():
    model, prompt = tiny(1), torch.tensor([[0, 2]])
    rows = generate(model, prompt.repeat(20_000, 1), 3, seed=0)[
        :, -3:
    ]  # every row has chance of its own
    counts = (rows * torch.tensor([9, 3, 1])).sum(1).bincount(minlength=27).float()
    statistic, freedom = chi_square(counts, exact(model, prompt))
    assert statistic < limit(freedom)


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal", "alibi", "none"])
@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
def test_cached_equals_recomputed_for_every_kind_of_model(position, n_kv_head):
    shape = dict(
        vocab_size=50,
        block_size=64,
        n_layer=2,
        n_head=4,
        n_embd=32,
        position=position,
        n_kv_head=n_kv_head,
    )
    model, draft = tiny(0, **shape), tiny(1, **(shape | dict(n_layer=1)))
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(generate(model, ids, 40, top_k=1), model.generate(ids, 40, top_k=1))
    torch.manual_seed(5)
    assert torch.equal(
        generate(model, ids, 40, temperature=2.0, top_k=9, seed=5), model.generate(ids, 40, 2.0, 9)
    )
    assert torch.equal(
        speculate(model, draft, ids[:1], 40, top_k=1)[0], generate(model, ids[:1], 40, top_k=1)
    )


def test_two_streams_of_one_model_do_not_disturb_each_other():
    model = tiny(0, vocab_size=50, block_size=32, n_embd=16, dropout=0.5).train()
    ids = torch.tensor([[1, 2, 3]])
    alone = [generate(model, ids, 50, seed=seed)[0, 3:].tolist() for seed in (0, 1)]
    both = zip(stream(model, ids, 50, seed=0), stream(model, ids, 50, seed=1))
    assert [list(map(int, row)) for row in zip(*both)] == alone


def test_the_mode_survives_an_error_and_a_stream_that_is_left():
    model = tiny(0, dropout=0.5).train()
    begun = stream(model, torch.tensor([[0]]), 50)
    next(begun)
    assert model.training
    begun.close()
    assert model.training
    model.blocks[0].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for start in (
        lambda: generate(model, torch.tensor([[0]]), 5),
        lambda: speculate(model, model, torch.tensor([[0]]), 5),
    ):
        with pytest.raises(KeyboardInterrupt):
            start()
        assert model.training


def test_a_long_stream_keeps_no_more_memory_than_its_context():
    model = tiny(0, vocab_size=10, block_size=16)
    kept = set()

    def note(block, inputs, x):
        kept.add(inputs[3].keys.untyped_storage().nbytes())

    model.blocks[0].register_forward_hook(note)
    assert sum(1 for _ in stream(model, torch.zeros(1, 3, dtype=torch.long), 400, seed=0)) == 400
    assert kept == {16 * 8 * 4}  # one cache, used again and again
    gc.collect()


def test_threads_with_generators_of_their_own_repeat_their_text():
    model = tiny(0, vocab_size=50, block_size=64, n_embd=16)
    ids, found = torch.tensor([[1, 2]]), {}
    work = [
        threading.Thread(target=lambda s=s: found.update({s: generate(model, ids, 40, seed=s)}))
        for s in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert all(torch.equal(found[seed], generate(model, ids, 40, seed=seed)) for seed in range(4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    model = tiny(0, vocab_size=50, block_size=32, n_embd=16).to(dtype)
    assert make_caches(model, 1)[0].keys.dtype == dtype
    assert generate(model, torch.tensor([[1, 2]]), 40, top_p=0.9, seed=0).shape == (1, 42)


def test_autocast():
    model = tiny(0, vocab_size=50, block_size=32, n_embd=16)
    with torch.autocast("cpu", torch.bfloat16):
        assert generate(model, torch.tensor([[1, 2]]), 40, seed=0).shape == (1, 42)


def test_a_large_vocabulary_is_shaped_exactly():
    logits = torch.randn(4, 128_000, generator=torch.Generator().manual_seed(0)) * 3
    p = logits.softmax(-1)
    for top_p in (0.1, 0.5, 0.99):
        kept = warp_logits(logits, top_p=top_p).isfinite()
        held = (p * kept).sum(-1)
        smallest = p.masked_fill(~kept, 2).amin(-1)
        assert (held > top_p - 1e-4).all() and (held - smallest < top_p + 1e-4).all()
    assert (warp_logits(logits, top_k=40).isfinite().sum(-1) == 40).all()
    assert sample(logits, top_k=1).flatten().tolist() == logits.argmax(-1).tolist()


SHAPES = [
    {},
    dict(position="learned", norm="layer", activation="gelu", bias=True),
    dict(n_kv_head=1, activation="swiglu", tie_weights=False),
    dict(position="alibi"),
    dict(
        vocab_size=33, n_embd=48, n_head=2
    ),  # sizes that the kernel for 8 bits does not take as they are
]


@pytest.mark.parametrize("changes", SHAPES)
def test_eight_bits_change_little_and_keep_the_original(changes):
    torch.manual_seed(0)
    model = GPT(GPTConfig.preset("book-nano", **(dict(vocab_size=100, block_size=32) | changes)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small, ids = quantize(model), torch.randint(model.config.vocab_size, (20, 9))
    with torch.no_grad():
        exact = model.eval()(ids)[0]
        for rows in (1, 20):  # by the kernel, and unpacked
            assert (
                small(ids[:rows])[0].float() - exact[:rows]
            ).abs().max() < 0.05 * exact.abs().max()
    assert not small.training and not any(isinstance(m, torch.nn.Linear) for m in small.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    bits = sum(t.nbytes for t in small.buffers()) / sum(
        m.weight.nbytes for m in model.modules() if isinstance(m, torch.nn.Linear)
    )
    assert (
        bits < 0.4
    )  # of four bytes each; the scales, and rows of zeros in so small a model, come on top
    text = generate(small, ids[:1], 12, seed=0)
    assert text.shape == (1, 21) and torch.equal(text, generate(small, ids[:1], 12, seed=0))


def test_a_rounded_copy_as_draft_writes_the_models_own_text():
    torch.manual_seed(0)
    model = GPT(GPTConfig.preset("book-nano", vocab_size=100)).eval()
    text, kept = speculate(
        model, quantize(model), torch.tensor([[1, 2, 3]]), 40, guesses=4, top_k=1
    )
    assert torch.equal(text, generate(model, torch.tensor([[1, 2, 3]]), 40, top_k=1)) and kept > 0.5


def test_a_quantised_model_is_not_saved_or_quantised_again(tmp_path):
    small = quantize(GPT(GPTConfig.preset("book-nano", vocab_size=100)))
    with pytest.raises(ValueError, match="quantised already"):
        quantize(small)
    with pytest.raises(ValueError, match="has not the weights of a GPT"):
        small.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_rows_of_zeros_stay_zero():
    linear = torch.nn.Linear(32, 5, bias=False)
    linear.weight.data[2] = 0
    assert (Int8Linear(linear)(torch.randn(3, 32).bfloat16())[:, 2] == 0).all()


def test_memory_is_reserved_once(monkeypatch):
    model, made = GPT(GPTConfig.preset("book-nano", vocab_size=100)).eval(), []
    init = generation.KVCache.__init__
    monkeypatch.setattr(
        generation.KVCache,
        "__init__",
        lambda self, *a, **k: (made.append(self), init(self, *a, **k))[1],
    )
    steps = stream(model, torch.tensor([[1, 2, 3]]), 50, seed=0)
    next(steps)
    places = [(cache.keys.data_ptr(), cache.values.data_ptr()) for cache in made]
    for _ in steps:
        pass
    assert len(made) == model.config.n_layer and places == [
        (cache.keys.data_ptr(), cache.values.data_ptr()) for cache in made
    ]


def token_by_token(model: GPT, ids: torch.Tensor) -> torch.Tensor:  # scores of one text, (T, V)
    caches = make_caches(model, 1)
    with torch.no_grad():
        return torch.cat(
            [model(ids[None, t : t + 1], caches=caches)[0][0].float() for t in range(len(ids))]
        )


@pytest.fixture
def not_translated(monkeypatch):
    "The functions that would be compiled, as they are: what they compute is the same."
    monkeypatch.setattr(decoding, "translate", lambda step: step)


MORE = [
    dict(position="sinusoidal"),
    dict(position="none"),
    dict(position="alibi", n_embd=96, n_head=6, n_kv_head=2),
    dict(qk_norm=False, dropout=0.5),
]


@pytest.mark.parametrize("changes", SHAPES + MORE)
def test_the_step_for_compilers_is_the_model(changes, not_translated):
    torch.manual_seed(0)
    model = GPT(
        GPTConfig.preset("book-nano", **(dict(vocab_size=100, block_size=32, n_layer=3) | changes))
    ).eval()
    for p in model.parameters():
        p.data.add_(torch.randn_like(p) * 0.1)
    ids = torch.randint(model.config.vocab_size, (32,))
    with torch.no_grad():
        whole = model(ids[None])[0][0]
    for layers in (1, 2, 99):
        fast = compile_decoding(model, layers)
        assert torch.allclose(token_by_token(fast, ids), whole, atol=1e-4, rtol=1e-4)
    scale = whole.abs().max()
    for rounded in (
        copy.deepcopy(model).bfloat16(),
        quantize(model),
    ):  # the same weights, rounded; activations are not
        assert (token_by_token(compile_decoding(rounded), ids) - whole).abs().max() < 0.05 * scale
    assert torch.equal(
        generate(fast, ids[None, :5], 60, top_k=1), generate(model, ids[None, :5], 60, top_k=1)
    )  # past the context, too
    model.train()
    assert torch.equal(
        generate(compile_decoding(model), ids[None, :5], 9, top_k=1),
        generate(model, ids[None, :5], 9, top_k=1),
    )
    assert model.training


def test_a_compiled_model_shares_weights_and_leaves_the_rest_to_chapter_06(
    not_translated, tmp_path
):
    torch.manual_seed(0)
    model, ids = (
        GPT(GPTConfig.preset("book-nano", vocab_size=100, block_size=32)).eval(),
        torch.randint(100, (3, 9)),
    )
    fast = compile_decoding(model)
    assert fast.model is model
    written = [p for layer in (*fast.blocks, fast.norm, fast.head) for p in layer.parameters()]
    assert all(
        a is b
        for a, b in zip(
            [fast.embedding.weight, *written], (*model.parameters(), model.head.weight), strict=True
        )
    )
    for rows in (1, 3):
        assert torch.equal(fast(ids[:rows])[0], model(ids[:rows])[0])
        assert torch.equal(generate(fast, ids, 9, seed=0), generate(model, ids, 9, seed=0))
    loss = fast(ids, ids)[1]
    loss.backward()
    assert model.embedding.weight.grad is not None and type(model) is GPT
    caches = make_caches(fast, 1, 1)
    with torch.no_grad():
        fast(ids[:1, :1], caches=caches)
        with pytest.raises(ValueError, match="make a larger one"):
            fast(ids[:1, 1:2], caches=caches)
        with pytest.raises(ValueError, match="token id 100"):
            fast(torch.tensor([[100]]), caches=make_caches(fast, 1))
    with pytest.raises(ValueError, match="layers_at_once is 0"):
        compile_decoding(model, layers_at_once=0)
    text, _ = speculate(model, compile_decoding(quantize(model)), ids[:1], 12, guesses=3, top_k=1)
    assert torch.equal(text, generate(model, ids[:1], 12, top_k=1))
    fast.model.save_pretrained(tmp_path / "model")
    assert torch.equal(GPT.from_pretrained(tmp_path / "model")(ids)[0], model(ids)[0])
    double = GPT(model.config).double().eval()
    assert token_by_token(compile_decoding(double), ids[0]).equal(token_by_token(double, ids[0]))


def test_adapters_are_not_left_out(not_translated):
    torch.manual_seed(0)
    model, ids = (
        GPT(GPTConfig.preset("book-nano", vocab_size=100, block_size=32)).eval(),
        torch.randint(100, (9,)),
    )
    before = token_by_token(compile_decoding(model), ids)
    add_lora(model, 4)
    for name, p in model.named_parameters():
        if name.endswith(".b"):
            p.data.normal_()
    after = token_by_token(compile_decoding(model), ids)
    assert torch.allclose(after, token_by_token(model, ids), atol=1e-4) and not torch.allclose(
        after, before, atol=1e-2
    )


def test_compiled_by_a_compiler():
    @torch.compile
    def works(x):
        return (x * x).sum(-1)

    try:
        works(torch.ones(3, 3))
    except RuntimeError as error:
        pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0]}")
    torch.manual_seed(0)
    for changes in ({}, dict(n_kv_head=1, activation="swiglu"), dict(position="alibi")):
        model = GPT(GPTConfig.preset("book-nano", vocab_size=100, block_size=300, **changes)).eval()
        ids = torch.randint(100, (1, 7))
        for version in (model, quantize(model)):
            texts = [generate(m, ids, 12, top_k=1) for m in (version, compile_decoding(version))]
            assert version is not model or torch.equal(*texts)
            truth = token_by_token(version, ids[0])
            for fast in (compile_decoding(version), compile_decoding(version, layers_at_once=2)):
                assert (token_by_token(fast, ids[0]) - truth).abs().max() < (
                    1e-4 if version is model else 0.05 * truth.abs().max()
                )


def test_temperature_zero_takes_the_likeliest():
    model, draft = tiny(1), tiny(2, 4)
    ids = torch.tensor([[0, 2]])
    greedy = generate(model, ids, 5, top_k=1)
    assert torch.equal(generate(model, ids, 5, temperature=0), greedy)
    assert torch.equal(generate(model, ids, 5, temperature=0.0, top_p=0.5, seed=1), greedy)
    assert torch.equal(speculate(model, draft, ids, 5, temperature=0)[0], greedy)
    for below in (-1, 1e-9, float("nan")):
        with pytest.raises(ValueError, match="temperature"):
            generate(model, ids, 5, temperature=below)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_others_are_whole_numbers(kind):
    model, ids = tiny(1), torch.tensor([[0, 2]])
    plain = dict(max_new_tokens=5, top_k=2, seed=3, stop_ids=[1])
    foreign = dict(max_new_tokens=kind(5), top_k=kind(2), seed=kind(3), stop_ids=[kind(1)])
    assert torch.equal(generate(model, ids, **foreign), generate(model, ids, **plain))
    texts = [
        speculate(model, tiny(2), ids, guesses=n, **o)[0]
        for n, o in ((2, plain), (kind(2), foreign))
    ]
    assert torch.equal(*texts)


def test_any_whole_number_is_a_seed():
    model, ids = tiny(1), torch.tensor([[0, 2]])
    texts = {
        seed: generate(model, ids, 6, seed=seed) for seed in (0, -1, 2**63, 2**64, 2**64 + 5, 5)
    }
    assert torch.equal(texts[2**64], texts[0]) and torch.equal(texts[2**64 + 5], texts[5])
    for wrong in (0.5, "1"):
        with pytest.raises(ValueError, match="seed"):
            generate(model, ids, 6, seed=wrong)


@pytest.mark.parametrize("length", [31, 32, 33, 90])
def test_of_a_long_prompt_the_tokens_that_fit_are_read(length):
    model = tiny(
        0, vocab_size=50, block_size=32, n_layer=2, n_head=4, n_embd=32, position="learned"
    )
    draft = tiny(1, vocab_size=50, block_size=24, n_embd=16)
    ids = torch.randint(50, (1, length), generator=torch.Generator().manual_seed(0))
    text = generate(model, ids, 70, temperature=0)
    assert torch.equal(text[:, :length], ids)
    assert torch.equal(text[:, length:], generate(model, ids[:, -32:], 70, temperature=0)[:, -70:])
    for guesses in (1, 3, 40):  # also past the context of either, as the model would alone
        assert torch.equal(speculate(model, draft, ids, 70, guesses, temperature=0)[0], text)
    with pytest.raises(ValueError, match="token id 77"):  # also where it would not be read
        generate(model, torch.tensor([[77] + [1] * 60]), 3)


def test_speculation_past_the_context_keeps_every_guess_of_the_same_model():
    model = tiny(0, vocab_size=50, block_size=32, n_embd=16)
    ids = torch.randint(50, (1, 5), generator=torch.Generator().manual_seed(0))
    text, kept = speculate(model, model, ids, 100, guesses=3, seed=0)
    assert text.shape == (1, 105) and kept > 0.95


def test_speculation_stops_where_the_stream_stops():
    model, draft = tiny(0, vocab_size=50, block_size=64), tiny(1, vocab_size=50, block_size=64)
    ids = torch.tensor([[1, 2, 3]])
    whole = generate(model, ids, 30, temperature=0)
    for stop in sorted({*whole[0, 3:].tolist()}):
        ended = generate(model, ids, 30, temperature=0, stop_ids=[stop])
        assert ended[0, -1] == stop
        for guesses in (1, 4, 20):
            text, kept = speculate(model, draft, ids, 30, guesses, temperature=0, stop_ids=[stop])
            assert torch.equal(text, ended) and 0 <= kept <= 1
    text, _ = speculate(model, model, ids, 30, 4, stop_ids=range(50), seed=0)
    assert text.shape == (1, 4)  # the first token is one, although more were guessed and kept


def test_tokens_that_the_tokenizer_does_not_know_are_never_drawn():
    tokenizer = CharTokenizer.train("abcdef")
    padded = tiny(0, vocab_size=64, block_size=16)  # 58 rows more than characters
    for seed in range(5):
        assert set("".join(stream_text(padded, tokenizer, "abc", 40, seed=seed))) <= set("abcdef")
    ids = torch.tensor([[0, 1]])
    options = dict(vocab_size=6, temperature=3.0, seed=0)
    assert generate(padded, ids, 40, **options).max() < 6
    draft = tiny(1, vocab_size=7, block_size=16)  # padded to another size
    assert speculate(padded, draft, ids, 40, **options)[0].max() < 6
    with pytest.raises(ValueError, match="same tokenizer"):
        speculate(padded, draft, ids, 5)


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal", "alibi", "none"])
@pytest.mark.parametrize("n_kv_head", [4, 1])
def test_prompts_of_different_length_in_one_batch(position, n_kv_head):
    shape = dict(vocab_size=50, block_size=32, n_layer=2, n_head=4, n_embd=32, n_kv_head=n_kv_head)
    model = tiny(0, position=position, **shape)
    prompts = [[1, 2, 3, 4, 5, 6, 7], [4], [9, 8, 7]]
    ids, padding = pad_left(prompts)
    assert ids.shape == (3, 7) and padding.tolist() == [0, 6, 4]
    for options in ({}, dict(repetition_penalty=1.3), dict(top_k=1, stop_ids=[5])):
        together = generate(model, ids, 20, temperature=0, padding=padding, **options)
        for prompt, row in zip(prompts, together, strict=True):
            alone = generate(model, torch.tensor([prompt]), 20, temperature=0, **options)[0]
            assert torch.equal(row[7 : 7 + len(alone) - len(prompt)], alone[len(prompt) :])
    assert generate(model, ids, 90, padding=padding, seed=0).shape == (3, 97)  # past the context
    half = copy.deepcopy(model).bfloat16()
    assert generate(half, ids, 9, padding=padding, seed=0).shape == (3, 16)


def test_padding_that_cannot_be_is_refused():
    model, ids = tiny(0), torch.tensor([[0, 1], [1, 2]])
    for wrong in ([0], [0, 2], [-1, 0]):
        with pytest.raises(ValueError, match="padding"):
            generate(model, ids, 2, padding=torch.tensor(wrong))
    for wrong in ([], [[1], []]):
        with pytest.raises(ValueError, match="a prompt is empty"):
            pad_left(wrong)


def test_the_compilers_settings_are_as_they_were(not_translated):
    model, ids = tiny(0, block_size=300), torch.tensor([[0, 1]])
    before = torch._dynamo.config.recompile_limit
    inside = []
    fast = compile_decoding(model)
    step, fast.head_step = (
        fast.head_step,
        lambda *a: (inside.append(torch._dynamo.config.recompile_limit), step(*a))[1],
    )
    generate(fast, ids, 5)
    assert torch._dynamo.config.recompile_limit == before
    assert inside[0] > before and inside[1:] == [before] * 3
