"The panel's questions are what they should be, and texts of known quality are told apart."

import random

import numpy as np
import pytest
import torch

from experiments import panel
from gptbook.data import NGram
from gptbook.model import GPT, GPTConfig
from gptbook.tokenizer import BPETokenizer

SUBJECTS = ("The captain", "My sister", "The old man", "A stranger", "His aunt")
VERBS = ("walked to", "looked at", "was afraid of", "had gone to", "could see", "came from")
PLACES = ("the house", "her garden", "the river", "a boat", "his room", "the woods")
ENDS = (
    "with him, and it was late",
    "in the evening",
    "and she was glad",
    "for them, as they were old",
)


@pytest.fixture(scope="module")
def book() -> str:
    chance = random.Random(0)
    parts = (SUBJECTS, VERBS, PLACES, ENDS)
    lines = (" ".join(chance.choice(part) for part in parts) + "." for _ in range(4000))
    return "\n\n".join(" ".join(next(lines) for _ in range(5)) for _ in range(800))


def test_a_mistake_changes_one_place_and_nothing_else(book):
    questions = panel.grammar_questions([book], 50)
    assert {q.kind for q in questions} >= {"agreement", "article", "verb form", "word order"}
    for q in questions:
        assert q.right != q.wrong and abs(len(q.right) - len(q.wrong)) <= 4
        same_start = len([1 for a, b in zip(q.right, q.wrong) if a == b])
        assert same_start > 0
    again = panel.grammar_questions([book], 50)
    assert questions == again and questions != panel.grammar_questions([book], 50, seed=1)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("He was there when the clock struck.", "He were there when the clock struck."),
        ("It took an evening before they came.", "It took a evening before they came."),
        ("They have seen nothing of all this.", "They has seen nothing of all this."),
        ("She had hurt herself on the way home.", "She had hurt himself on the way home."),
    ],
)
def test_known_mistakes_are_made(right, wrong):
    made = [panel.grammar_questions([right], 5, seed) for seed in range(40)]
    assert any(q.wrong == wrong for questions in made for q in questions)


def test_the_verb_agrees_with_a_noun_that_stands_farther_away():
    nouns = ("garden", "river", "letter", "window", "horse")
    text = " ".join(f"The {noun} was here, the {noun}s were there." for noun in nouns * 9)
    made = panel.distance_questions([text], 60)
    assert made == panel.distance_questions([text], 60) and len(made) == 120
    for q in made:
        *words, verb = q.right.split()
        many = [word.endswith("s") for word in words if word.rstrip("s") in nouns]
        assert (verb in panel.VERBS[True]) == many[0] and set(many[1:]) == {not many[0]}
        assert q.wrong.split()[:-1] == words and q.wrong.split()[-1] in panel.VERBS[not many[0]]
        assert len(many) == 1 + panel.ACROSS[q.kind]
    assert sum(q.right.split()[-1] in panel.VERBS[True] for q in made) == 60  # as often one as many


def test_what_may_be_right_is_left_alone():
    for text in ("If he was here we would know all about it.", "He took one of the horses home."):
        for seed in range(20):
            for q in panel.grammar_questions([text], 5, seed):
                assert "he were" not in q.wrong and " an one" not in q.wrong


def test_abbreviations_end_no_sentence():
    text = 'He met Mr. Brown in St. Albans. "So it is!" said Dr. Smith. They left.'
    assert panel.sentences(text) == [
        "He met Mr. Brown in St. Albans.",
        '"So it is!" said Dr. Smith.',
        "They left.",
    ]


def test_sense_asks_for_the_sentence_that_followed(book):
    whole = panel.sentences(book)
    for q in panel.sense_questions([book], 30):
        before = q.context.strip()
        assert f"{before} {q.right}" in " ".join(whole) and q.kind in ("near", "far")


def test_counting_beats_chance_and_one_letter_does_not(book):
    tokenizer = BPETokenizer.train(book, 400)
    ids = tokenizer.encode(book)
    questions = panel.grammar_questions([book], 60)
    ngram = NGram(4, vocab_size=400).fit(ids)
    knows = panel.answers(questions, panel.ngram_scorer(ngram, tokenizer)).mean()
    assert knows > 0.9
    order = [q for q in questions if q.kind == "word order"]
    alone = panel.answers(order, panel.ngram_scorer(ngram.shorten(1), tokenizer))
    assert np.mean(alone) == pytest.approx(0.5, abs=0.2)


def test_a_model_scores_what_it_would_score_alone(book):
    tokenizer = BPETokenizer.train(book, 400)
    torch.manual_seed(0)
    model = GPT(GPTConfig.preset("book-nano", vocab_size=400, block_size=64)).eval()
    pairs = [("", "The captain walked."), ("My sister looked. ", "She was glad of it.")]
    together = panel.model_scorer(model, tokenizer)(pairs)
    for (context, text), expected in zip(pairs, together):
        ids = [tokenizer.eos_id, *tokenizer.encode(context)]
        n = len(ids)
        ids += tokenizer.encode(text)
        logits = model(torch.tensor([ids]))[0][0].log_softmax(-1)
        alone = sum(logits[i - 1, ids[i]].item() for i in range(n, len(ids)))
        assert expected == pytest.approx(alone, abs=1e-3)


def test_an_interval_holds_the_mean_and_narrows():
    few, many = (panel.interval(np.arange(n) % 2) for n in (20, 2000))
    assert few[1] < few[0] < few[2] and many[2] - many[1] < (few[2] - few[1]) / 3
