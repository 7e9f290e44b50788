"What a cell of chapter 07 cannot test: signals, killed processes, full disks, other processes, notebooks, torch.compile."

import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gptbook import attention, multi_head, runs, training
from gptbook.data import TokenDataset
from gptbook.model import GPT, GPTConfig
from gptbook.runs import TensorBoard, plot_losses, read_checkpoint
from gptbook.training import Samples, TrainConfig, Trainer

# a small run that is the same in every process; dropout, so that the state of the random numbers matters
RUN = """
import signal, sys, time, torch
from gptbook.data import TokenDataset
from gptbook.model import GPT, GPTConfig
from gptbook.training import TrainConfig, Trainer

torch.set_num_threads(1)
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # this suite runs in the background

def make(folder, steps=40, callbacks=(), device="cpu", dropout=0.1, **changes):
    draw = torch.Generator().manual_seed(7)
    data = [TokenDataset((50 * torch.rand(n, generator=draw) ** 3).long(), 16, bytes=2 * n) for n in (5000, 600)]
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=32, dropout=dropout)).to(device)
    settings = dict(steps=steps, batch_size=4, warmup=5, eval_every=10, checkpoint_every=10) | changes
    return Trainer(model, *data, TrainConfig(**settings), folder, callbacks)
"""
names: dict = {}
exec(RUN, names)  # the same code here and in the processes
make = names["make"]


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    "Start a Python process that knows `make`."
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", RUN + code, *map(str, arguments)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    "Wait until something has happened in a process that should still be running."
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def lines(path: Path) -> int:
    "How many lines a file has, if it is there."
    return path.read_text().count("\n") if path.is_file() else 0


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def straight() -> Trainer:
    "The run that nobody interrupted."
    trainer = make(None)
    trainer.fit()
    return trainer


SLOWLY = """
trainer = make(sys.argv[1], callbacks=[lambda trainer, record: time.sleep(0.05)])
trainer.fit()
print("stopped:", trainer.stopped, trainer.step)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C in another way")
def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_bits(tmp_path, straight):
    process = python(SLOWLY, tmp_path)
    wait_for(lambda: lines(tmp_path / "metrics.jsonl") > 5, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert out.startswith("stopped: interrupted")
    step = int(out.split()[-1])
    assert 0 < step < 40 and read_checkpoint(tmp_path)[0]["step"] == step

    torch.manual_seed(4321)
    resumed = make(tmp_path)
    resumed.load_checkpoint()
    resumed.fit()
    assert resumed.stopped == "" and same(weights(resumed), weights(straight))
    for one, other in zip(resumed.history, straight.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == resumed.history


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C in another way")
def test_second_ctrl_c_interrupts_at_once_and_spares_the_checkpoint(tmp_path):
    process = python(
        """
def hang(trainer, record):
    if trainer.step == 15:
        print("hanging", flush=True)
        time.sleep(600)
make(sys.argv[1], callbacks=[hang]).fit()
""",
        tmp_path,
    )
    assert process.stdout.readline() == "hanging\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert read_checkpoint(tmp_path)[0]["step"] == 10


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to ignore")
def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it(tmp_path):
    process = python(
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)" + SLOWLY, tmp_path
    )
    wait_for(lambda: lines(tmp_path / "metrics.jsonl") > 5, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert out == "stopped:  40\n"


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_kill_in_mid_write_leaves_the_previous_checkpoint_whole(tmp_path, straight):
    process = python(
        """
import gptbook.runs
write = gptbook.runs.save_file

def slow_write(tensors, path, metadata):
    write(tensors, path, metadata)
    if trainer.step == 20:
        with open(path, "r+b") as file:
            file.truncate(1000)  # half of it is on the disk
        print("writing", flush=True)
        time.sleep(600)

gptbook.runs.save_file = slow_write
trainer = make(sys.argv[1])
trainer.fit()
""",
        tmp_path,
    )
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.communicate()
    assert any(
        path.name.endswith(".tmp") for path in tmp_path.iterdir()
    )  # the half that was written
    assert read_checkpoint(tmp_path)[0]["step"] == 10
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 21, "lo')  # a line that the crash cut off
    assert plot_losses(tmp_path / "metrics.jsonl") is not None

    resumed = make(tmp_path)
    resumed.load_checkpoint()
    resumed.fit()
    assert same(weights(resumed), weights(straight))
    assert len(
        [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    ) == len(straight.history)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on file sizes")
def test_full_disk_spares_the_last_checkpoint_and_the_run_goes_on_elsewhere(tmp_path, straight):
    code = """
import resource
trainer = make(sys.argv[1] + "/full", steps=40)

def fill(trainer, record):
    if record["step"] == 15:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))  # from now on, no larger file

trainer.callbacks.append(fill)
try:
    trainer.fit()
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
trainer.folder = sys.argv[1] + "/empty"
trainer.fit()
print(trainer.step)
"""
    out, err = python(code, tmp_path).communicate(timeout=120)
    message, step = out.strip().split("\n")
    assert (
        "cannot write" in message
        and "full/checkpoint.safetensors" in message
        and "untouched" in message
    ), out + err
    assert step == "40"
    assert read_checkpoint(tmp_path / "full")[0]["step"] == 10
    assert [path.name for path in (tmp_path / "full").iterdir() if path.name.endswith(".tmp")] == []
    moved = make(tmp_path / "empty")
    moved.load_checkpoint()
    assert moved.step == 40 and same(weights(moved), weights(straight))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_metrics_that_cannot_be_written_say_so(tmp_path):
    trainer = make(tmp_path)
    trainer.history.append({"step": 0, "val_loss": 1.0})
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="metrics.jsonl.*No space left.*still in memory"):
        trainer.log({"loss": 1.0})


def test_unwritable_folder_is_found_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (
        tmp_path / "file",
        tmp_path / "file" / "deeper",
        "/proc/nowhere" if Path("/proc/self").exists() else tmp_path / "file",
    ):
        with pytest.raises(
            OSError, match="cannot write to the run's folder .* Choose another folder"
        ):
            make(folder)
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OSError, match="Permission denied"):
            make(tmp_path / "locked")


def test_a_run_is_not_written_over(tmp_path):
    make(tmp_path, steps=2).fit()
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    again = make(tmp_path)
    with pytest.raises(FileExistsError, match="load_checkpoint"):
        again.fit()
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_loss_that_is_not_finite_stops_before_any_weight_changes(tmp_path):
    trainer = make(tmp_path)
    trainer.fit()
    longer = make(tmp_path, steps=60)
    longer.load_checkpoint()
    before, forward = weights(longer), longer.forward
    longer.forward = lambda x, y: (None, forward(x, y)[1] * float("nan"))
    with pytest.raises(
        FloatingPointError, match="step 41.*nan.*those of step 40.*Lower learning_rate"
    ):
        longer.fit()
    assert (
        same(weights(longer), before)
        and longer.step == 40
        and read_checkpoint(tmp_path)[0]["step"] == 40
    )
    longer.forward = forward  # and the run goes on once the cause is gone
    longer.fit()
    assert longer.step == 60 and all(p.isfinite().all() for p in weights(longer))


@pytest.mark.parametrize(
    "changes", [{"warmup": 3}, {"optimizer": "adamw"}, {"seed": 1}, {"batch_size": 8}]
)
def test_another_run_cannot_be_resumed(tmp_path, changes):
    make(tmp_path, steps=2).fit()
    before = (tmp_path / "metrics.jsonl").read_text()
    other = make(tmp_path, **{"steps": 4} | changes)
    start = weights(other)
    with pytest.raises(ValueError, match=f"its training has {next(iter(changes))} .*now"):
        other.load_checkpoint()
    assert (
        same(weights(other), start)
        and other.step == 0
        and (tmp_path / "metrics.jsonl").read_text() == before
    )


def test_other_data_and_other_models_cannot_be_resumed(tmp_path):
    make(tmp_path, steps=2).fit()
    short = make(tmp_path)
    short.train_data = TokenDataset(short.train_data.ids[:4000], 16)
    with pytest.raises(ValueError, match="its data has tokens 5000 .now 4000"):
        short.load_checkpoint()
    wide = make(tmp_path)
    wide.model = GPT(GPTConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=64))
    with pytest.raises(ValueError, match="its model has n_embd 32 .now 64"):
        wide.load_checkpoint()


def test_patience_restores_the_best_weights_also_after_resuming(tmp_path):
    settings = dict(
        steps=300,
        eval_every=5,
        patience=3,
        learning_rate=0.02,
        decay="constant",
        checkpoint_every=7,
    )
    whole = make(tmp_path / "a", **settings)
    whole.fit()  # random tokens: soon there is nothing to learn but the training text by heart
    assert whole.stopped == "patience" and whole.best_step == whole.step - 15
    best = min(r["val_loss"] for r in whole.history if "val_loss" in r)
    assert abs(training.evaluate(whole.model, whole.val_data, 64) - best) < 1e-5

    def stop(trainer, record):
        if record["step"] == whole.best_step + 2:
            trainer.stopped = "interrupted"

    first = make(tmp_path / "b", callbacks=[stop], **settings)
    first.fit()
    assert first.stopped == "interrupted" and first.step == whole.best_step + 2
    second = make(tmp_path / "b", **settings)
    second.load_checkpoint()
    second.fit()
    assert (
        second.stopped == "patience"
        and second.step == whole.step
        and same(weights(second), weights(whole))
    )


def test_time_budget_counts_training_only_and_ends_at_rate_zero():
    trainer = make(
        None, steps=10**6, max_seconds=0.5, callbacks=[lambda trainer, record: time.sleep(0.01)]
    )
    trainer.fit()
    rates = [r["learning_rate"] for r in trainer.history if "loss" in r]
    assert 0.5 <= trainer.seconds < 2 and trainer.progress == 1 and trainer.step > 3
    assert rates[-1] < 0.3 * max(rates)


def test_a_thread_can_train():
    import threading

    trainer = make(None, steps=3)
    thread = threading.Thread(target=trainer.fit)
    thread.start()
    thread.join()
    assert trainer.step == 3


def test_half_precision_and_pieces_train_too():
    for changes in (
        {"precision": "bf16"},
        {"accumulation_steps": 4},
        {"precision": "bf16", "accumulation_steps": 2, "optimizer": "adamw"},
    ):
        trainer = make(None, **changes)
        trainer.fit()
        assert trainer.history[-1]["val_loss"] < trainer.history[0]["val_loss"]
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_run_resumes(tmp_path):
    whole = make(None, device="cuda", precision="bf16")
    whole.fit()
    make(
        tmp_path,
        device="cuda",
        precision="bf16",
        callbacks=[
            lambda trainer, record: setattr(
                trainer, "stopped", "interrupted" if trainer.step == 13 else ""
            )
        ],
    ).fit()
    second = make(tmp_path, device="cuda", precision="bf16")
    second.load_checkpoint()
    second.fit()
    assert abs(whole.history[-1]["val_loss"] - second.history[-1]["val_loss"]) < 1e-3


def test_compiled_run_gives_the_same_losses(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model: compile(model, backend="aot_eager")
    )  # all but the C++ compiler
    plain, compiled = (
        make(None, steps=5, dropout=0.0, optimizer="adamw", compile=c) for c in (False, True)
    )
    plain.fit()
    compiled.fit()
    assert compiled.forward is not compiled.model
    assert abs(plain.history[-1]["val_loss"] - compiled.history[-1]["val_loss"]) < 1e-4


def reply(kernel, request: str, seconds: float = 240) -> dict:
    "What a kernel answers to one request; answers to earlier ones, and to nothing, are passed over."
    end = time.monotonic() + seconds
    while True:
        message = kernel.get_shell_msg(timeout=max(0.1, end - time.monotonic()))
        if message["parent_header"].get("msg_id") == request:
            return message["content"]


def test_stop_button_of_a_notebook(tmp_path):
    client = pytest.importorskip("jupyter_client")
    pytest.importorskip("ipykernel")
    manager, kernel = client.manager.start_new_kernel(
        kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=40"]
    )
    try:
        run = f"trainer = make({str(tmp_path)!r}, callbacks=[lambda t, r: time.sleep(0.05)])\ntrainer.fit()"
        training = kernel.execute(RUN + run)
        end = time.monotonic() + 120
        while lines(tmp_path / "metrics.jsonl") < 5:
            assert time.monotonic() < end
            time.sleep(0.05)
        manager.interrupt_kernel()
        assert reply(kernel, training)["status"] == "ok"
        question = kernel.execute(
            "", user_expressions={"stopped": "trainer.stopped", "step": "trainer.step"}
        )
        found = reply(kernel, question)["user_expressions"]
        assert found["stopped"]["data"]["text/plain"] == "'interrupted'"
        assert read_checkpoint(tmp_path)[0]["step"] == int(found["step"]["data"]["text/plain"]) < 40
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


def test_progress_bar_counts_towards_the_budget_that_ends_the_run(monkeypatch):
    class Terminal:
        text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    flops = make(None).flops_per_step
    make(None, steps=1000, max_flops=20 * flops).fit()
    assert "20/20" in terminal.text and "tokens/s" in terminal.text and "val=" in terminal.text
    terminal.text = ""
    make(None, steps=3).fit(progress_bar=False)
    assert terminal.text == ""


def test_tensorboard_reads_what_the_callback_writes(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make(None, steps=3, callbacks=[TensorBoard(tmp_path)]).fit()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]


def test_samples_do_not_change_the_run(straight):
    class Tokenizer:
        def encode(self, text):
            return [1, 2, 3]

        def decode(self, ids):
            return " ".join(map(str, ids))

    sampled = make(None, callbacks=[Samples(Tokenizer(), "x", every=7, max_new_tokens=3)])
    sampled.fit()
    assert same(weights(sampled), weights(straight))
    texts = [r["sample"] for r in sampled.history if "sample" in r]
    assert len(texts) == 6 and all(len(text.split()) == 6 for text in texts)


@pytest.mark.parametrize(
    "changes", [{}, dict(position="alibi"), dict(position="learned", norm="layer", bias=True)]
)
def test_attention_written_out_learns_like_the_kernel(monkeypatch, changes):
    "In bfloat16 on a CPU the weights of attention are written out (chapter 03): the gradients are those of the fused kernel."
    torch.manual_seed(0)
    model = GPT(GPTConfig.preset("book-nano", **(dict(vocab_size=50, block_size=64) | changes)))
    ids = torch.randint(50, (4, 65))
    written = []
    weights_of = attention.attention_weights
    monkeypatch.setattr(
        attention, "attention_weights", lambda *a: (written.append(1), weights_of(*a))[1]
    )

    def gradient() -> torch.Tensor:
        model.zero_grad()
        with training.autocast(torch.device("cpu"), "bf16"):
            model(ids[:, :-1], ids[:, 1:])[1].backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    by_hand = gradient()
    assert len(written) == model.config.n_layer

    def fused(q, k, v, bias=None, causal=True, dropout=0.0):
        mask = (
            None
            if bias is None
            else bias.to(q.dtype).masked_fill(~attention.causal_mask(q.size(-2)), float("-inf"))
        )
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None
        )

    monkeypatch.setattr(multi_head, "attention", fused)
    by_kernel = gradient()
    assert len(written) == model.config.n_layer
    assert (by_hand - by_kernel).norm() < 0.02 * by_kernel.norm()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to keep memory"
)
def test_a_step_finds_its_memory_where_the_last_one_left_it():
    "On a CPU, training causes next to no page faults after its first steps, where it would cause thousands a step (chapter 07)."
    program = """if True:
        import contextlib, resource, sys, torch
        from gptbook import data, model, training
        if sys.argv[1] == "given back":
            training.keep_memory = contextlib.nullcontext
        torch.manual_seed(0)
        gpt = model.GPT(model.GPTConfig.preset("book-nano", vocab_size=50, block_size=128, n_embd=256))
        tokens = data.TokenDataset(torch.randint(50, (5000,)).tolist(), 128)
        faults = []
        def count(trainer, record):
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        config = training.TrainConfig(batch_size=32, steps=9)
        training.Trainer(gpt, tokens, config=config, callbacks=[count]).fit(progress_bar=False)
        print((faults[-1] - faults[3]) // 5)"""
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", program, way], check=True, capture_output=True, text=True
            ).stdout
        )
        for way in ("kept", "given back")
    ]
    assert 10 * faults[0] < faults[1], faults


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to keep memory"
)
def test_memory_goes_back_to_the_system_after_a_run():
    "What a process frees after `fit` is as free as before it: making a Trainer, and fitting it, leaves the allocator as it was."
    program = """if True:
        import gc, torch
        from gptbook import data, model, training
        def held():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        def kept_of_a_large_tensor():
            before = held()
            x = torch.ones(50_000_000)
            del x
            gc.collect()
            return (held() - before) // 1_000_000
        gpt = model.GPT(model.GPTConfig.preset("book-nano", vocab_size=50, block_size=8))
        trainer = training.Trainer(gpt, data.TokenDataset(list(range(50)), 8), config=training.TrainConfig(steps=2))
        print(kept_of_a_large_tensor())
        trainer.fit(progress_bar=False)
        print(kept_of_a_large_tensor())"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert all(int(megabytes) < 100 for megabytes in done.stdout.split()), done.stdout


def test_making_and_fitting_a_trainer_leaves_the_random_state_of_others_alone():
    trainer = make(None, steps=2, dropout=0.5, callbacks=[lambda trainer, record: torch.rand(3)])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Trainer(trainer.model, trainer.train_data, config=TrainConfig(seed=5))
    assert torch.equal(before, torch.get_rng_state())
    quiet = make(None, steps=2, dropout=0.5)
    state = torch.get_rng_state()
    quiet.fit()
    assert torch.equal(state, torch.get_rng_state())
    trainer.fit()
    assert same(weights(trainer), weights(quiet))  # and a callback that draws changes nothing


def test_evaluate_refuses_less_than_a_window():
    trainer = make(None)
    for wrong in ({"max_windows": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            training.evaluate(trainer.model, trainer.val_data, **wrong)


def test_a_compiled_models_run_is_taken_up_by_the_plain_model(tmp_path):
    first = make(None, steps=4)
    compiled = torch.compile(first.model, backend="eager")
    a = Trainer(compiled, first.train_data, first.val_data, first.config, tmp_path)
    a.fit()
    b = make(None, steps=4)
    b.load_checkpoint(tmp_path)
    assert same(weights(a), weights(b)) and b.step == 4


def test_a_checkpoint_with_other_tensors_is_refused_before_anything_changes(tmp_path):
    make(tmp_path, steps=4).fit()
    facts, tensors = read_checkpoint(tmp_path)
    history = facts.pop("history")
    for change in (
        lambda t: t.pop("model.norm.weight"),
        lambda t: t.__setitem__("model.nprm.weight", t.pop("model.norm.weight")),
        lambda t: t.__setitem__("optimizer.0.0.exp_avg", t["optimizer.0.0.exp_avg"][:1]),
        lambda t: t.pop("optimizer.1.0.momentum_buffer"),
        lambda t: t.pop("random.torch"),
    ):
        changed = dict(tensors)
        change(changed)
        runs.write_checkpoint(tmp_path, facts, changed, history)
        other = make(None, steps=4)
        before = [p.clone() for p in other.model.parameters()]
        with pytest.raises(ValueError, match="checkpoint in .* does not fit"):
            other.load_checkpoint(tmp_path)
        assert all(map(torch.equal, before, other.model.parameters())) and other.step == 0


def test_a_run_of_version_0_1_is_taken_up(tmp_path):
    "Two settings had other names then."
    make(tmp_path, steps=4).fit()
    facts, tensors = read_checkpoint(tmp_path)
    history = facts.pop("history")
    old = {"accumulation_steps": "accumulate", "end_factor": "final_share"}
    facts["training"] = {old.get(name, name): value for name, value in facts["training"].items()}
    runs.write_checkpoint(tmp_path, facts, tensors, history)
    again = make(None, steps=4)
    again.load_checkpoint(tmp_path)
    assert again.step == 4


def test_the_learning_rate_may_change_and_the_log_says_so(tmp_path):
    first = make(tmp_path, steps=4, learning_rate=1e-2)
    first.fit()
    again = make(tmp_path, steps=8, learning_rate=1e-3)
    again.load_checkpoint()
    again.fit()
    (told,) = [r for r in again.history if "changed" in r]
    assert told["step"] == 4 and list(told["changed"]["learning_rate"]) == [1e-2, 1e-3]
    rates = [r["learning_rate"] for r in again.history if "learning_rate" in r]
    assert len(rates) == 8 and max(rates[4:]) <= 1e-3
    assert '"changed"' in (tmp_path / "metrics.jsonl").read_text()
