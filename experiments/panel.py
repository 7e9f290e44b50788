"""Readability, measured: words, grammar, sense, novelty, and what a better model thinks of the text.

    python -m experiments.panel --resume                       the models of the study that lack one
    python -m experiments.panel --resume --others              counting, people, shuffled words, SmolLM2
    python -m experiments.panel --examples 10                  show ten of each kind of question

The questions are made by code from the novels' books of new authors, with fixed seeds. The log is
nbs/results/panel.jsonl, one line for each writer. Intervals are 90%, by bootstrap.
"""

from __future__ import annotations

import multiprocessing
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import gptbook
from experiments.log import ROOT, Log, arguments, command_line
from experiments.study import VOCABULARY
from gptbook.corpora import load_text
from gptbook.data import NGram
from gptbook.files import cache_folder
from gptbook.generation import generate
from gptbook.model import GPT
from gptbook.scaling import readability
from gptbook.tokenizer import END_OF_TEXT, BPETokenizer, Tokenizer
from gptbook.training import autocast

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
SENTENCE_END = re.compile(  # a blank after a full stop and perhaps a quote, but not after "Mr."
    r"(?<!Mr\.)(?<!Mrs\.)(?<!Dr\.)(?<!St\.)(?:(?<=[.!?])|(?<=[.!?][\"']))\s+(?=[\"'(]*[A-Z])"
)
A_KIND = 300  # grammar questions of each kind, at most
CHOICES = 600  # questions of sense at each distance
SAMPLE_WORDS = 10_000  # that a model writes
JUDGED = 8_000  # bytes of them that the judge reads


@dataclass(frozen=True)
class Question:
    "Two texts of which one is right."

    kind: str  # of mistake, or how far away the wrong sentence stood
    context: str  # what stands before both
    right: str
    wrong: str


# the words between which the mistakes are made; each list is closed, so that a mistake is one
PAST = {  # base form: a past form that is never a base form
    "go": "went", "see": "saw", "take": "took", "give": "gave", "know": "knew", "speak": "spoke",
    "write": "wrote", "break": "broke", "eat": "ate", "fall": "fell", "forget": "forgot",
    "begin": "began", "sing": "sang", "drink": "drank", "be": "was", "do": "did", "have": "had",
    "make": "made", "say": "said", "think": "thought", "tell": "told", "keep": "kept",
    "leave": "left", "hear": "heard", "stand": "stood", "bring": "brought", "hold": "held",
}  # fmt: skip
PARTICIPLE = {  # participle: the past form, which cannot follow "had"
    "gone": "went", "seen": "saw", "taken": "took", "given": "gave", "known": "knew",
    "spoken": "spoke", "written": "wrote", "broken": "broke", "eaten": "ate", "fallen": "fell",
    "forgotten": "forgot", "begun": "began", "been": "was", "done": "did", "grown": "grew",
    "drawn": "drew", "thrown": "threw", "shaken": "shook", "risen": "rose", "driven": "drove",
}  # fmt: skip
NUMBER = {"was": "were", "is": "are", "has": "have", "were": "was", "are": "is", "have": "has"}
SUBJECT = {"him": "he", "them": "they", "me": "I", "us": "we"}
FOLLOWING = r"(?=[.,;]|\s(?:and|in|to|of|on|was|with|that|at|for|as|had|from|by|or|but)\b)"


def _agreement(
    match: re.Match[str],  # subject, and a verb in group 2
) -> str:
    return match[1] + NUMBER[match[2]]


MISTAKES: dict[str, list[tuple[str, Callable[[re.Match[str]], str]]]] = {
    "agreement": [
        (r"(?<![Ii]f )(?<![Tt]hough )(?<!and )(?<!wish )(?<!that )\b((?:[Hh]e|[Ss]he|[Ii]t) )(was|is|has)\b", _agreement),
        (r"\b([Tt]here )(was|is)(?= (?:a|an|no)\b)", _agreement),
        (r"\b((?:[Tt]hey|[Ww]e|[Tt]hese|[Tt]hose) )(were|are|have)\b", _agreement),
    ],
    "article": [
        (r"\b(a) (?=[bcdfgjklmnpqrstvwxyz]\w\w)", lambda m: "an "),
        (r"\b(an) (?=[aei]\w\w)", lambda m: "a "),
    ],
    "verb form": [
        (
            r"\b((?:could|would|should|must|might|will|can|shall|did) )(" + "|".join(PAST) + r")\b",
            lambda m: m[1] + PAST[m[2]],
        ),
        (r"\b(had )(" + "|".join(PARTICIPLE) + r")\b", lambda m: m[1] + PARTICIPLE[m[2]]),
    ],
    "word order": [
        (r"\b(the|his|her|my|their|our|your) ([a-z]{3,})" + FOLLOWING, lambda m: f"{m[2]} {m[1]}"),
        (r"\b(of|in|on|with|from|into) (the|his|her|a|their|my)(?= [a-z]{3,})",
         lambda m: f"{m[2]} {m[1]}"),
    ],
    "pronoun": [
        (r"\b((?:to|with|for|from|at|by|upon|after) )(him|them|me|us)" + FOLLOWING,
         lambda m: m[1] + SUBJECT[m[2]]),
    ],
    "reflexive": [
        (r"\b([Hh]e |[Hh]is )([^.;:?!]* )(himself)\b", lambda m: f"{m[1]}{m[2]}herself"),
        (r"\b([Ss]he |[Hh]er )([^.;:?!]* )(herself)\b", lambda m: f"{m[1]}{m[2]}himself"),
        (r"\b(I )([^.;:?!]* )(myself)\b", lambda m: f"{m[1]}{m[2]}themselves"),
    ],
}  # fmt: skip
BOTH_SEXES = re.compile(
    r"\b(?:he|him|his)\b.*\b(?:she|her)\b|\b(?:she|her)\b.*\b(?:he|him|his)\b", re.I
)
AFTER_NOUN = r"(?=[.,;:!?]| (?:of|and|was|had|that|which|in|with|were|to)\b)"
NEAR = ("near", "behind", "beside", "beyond", "with", "from")
NO_PLURALS = {"new", "good", "mean", "other", "his", "her", "doe", "thank", "it", "one", "day"}
ACROSS = {"one noun": 1, "two nouns": 2}  # between the subject and its verb
VERBS = {False: ("was", "is", "has"), True: ("were", "are", "have")}  # one, many


def sentences(
    text: str,  # of one book
) -> list[str]:
    "Cut prose into sentences; verse is left out."
    prose = (paragraph for paragraph in text.split("\n\n") if "\n" not in paragraph)
    return [sentence for paragraph in prose for sentence in SENTENCE_END.split(paragraph)]


def is_whole(
    sentence: str,
    longest: int,  # words
) -> bool:  # neither a cry nor a page
    "Whether a sentence is fit for a question."
    ends = sentence[0].isupper() and sentence[-1] in ".!?"
    return ends and 6 <= len(sentence.split()) <= longest


def grammar_questions(
    books: Sequence[str],  # held-out books
    a_kind: int = A_KIND,  # questions of each kind, at most
    seed: int = 0,
) -> list[Question]:  # a sentence, and its twin with one mistake
    "Change one place of a sentence so that it is wrong, whatever was meant."
    chance = random.Random(seed)
    pool = [s for book in books for s in sentences(book) if is_whole(s, 35)]
    chance.shuffle(pool)
    made: list[Question] = []
    for kind, rules in MISTAKES.items():
        found: list[Question] = []
        for sentence in pool:
            if kind == "reflexive" and BOTH_SEXES.search(sentence):
                continue  # who knows whom the writer meant
            places = [(m, change) for p, change in rules for m in re.finditer(p, sentence)]
            if places:
                place, change = chance.choice(places)
                wrong = sentence[: place.start()] + change(place) + sentence[place.end() :]
                found.append(Question(kind, "", sentence, wrong))
            if len(found) == a_kind:
                break
        made += found
    return made


def distance_questions(
    books: Sequence[str],  # held-out books
    a_kind: int = A_KIND,  # questions of each kind, at most
    seed: int = 0,
) -> list[Question]:  # a beginning that ends with its verb, and its twin with the wrong verb
    """The verb agrees with a noun that is not the one before it (Linzen et al., 2016).

    The nouns are the books' own, drawn at random; each is what the one before is not, one or many,
    and the subject is as often one as many: who always says "was" is right half of the time.
    """
    chance, text = random.Random(seed), "\n".join(books)
    counts = Counter(re.findall(rf"\b[Tt]he ([a-z]{{3,}}){AFTER_NOUN}", text))
    known = (w for w, n in counts.items() if n > 4 and counts[w + "s"] > 4)
    nouns = sorted(w for w in known if w[-1] != "s" and w not in NO_PLURALS)
    made: list[Question] = []
    for kind, others in ACROSS.items():
        for number in range(a_kind):
            start, many = "The", number % 2 == 1
            for place, noun in enumerate(chance.sample(nouns, others + 1)):
                plural = many == (place == 0)
                between = f" {chance.choice(NEAR)} the" if place else ""
                start += f"{between} {noun}{'s' if plural else ''}"
            verb = chance.randrange(3)
            right, wrong = f"{start} {VERBS[many][verb]}", f"{start} {VERBS[not many][verb]}"
            made.append(Question(kind, "", right, wrong))
    return made


def sense_questions(
    books: Sequence[str],  # held-out books
    choices: int = CHOICES,  # questions at each distance
    seed: int = 0,
) -> list[Question]:  # what came next, and what stood elsewhere in the book
    "Three sentences of a book; which one goes on?"
    chance, made = random.Random(seed), []
    cut = [sentences(book) for book in books]
    for kind, (nearest, farthest) in {"near": (5, 15), "far": (500, 2000)}.items():
        found: list[Question] = []
        while len(found) < choices:
            book = chance.choice(cut)
            if len(book) <= farthest + 10:
                continue
            here = chance.randrange(3, len(book) - farthest)
            there = here + chance.randrange(nearest, farthest)
            right, wrong = book[here], book[there]
            alike = 0.8 < len(right) / len(wrong) < 1.25
            if alike and is_whole(right, 40) and is_whole(wrong, 40):
                found.append(Question(kind, " ".join(book[here - 3 : here]) + " ", right, wrong))
        made += found
    return made


Scorer = Callable[[Sequence[tuple[str, str]]], np.ndarray]  # (context, text) -> log p, (pairs,)


def model_scorer(
    model: GPT,
    tokenizer: Tokenizer,
    batch_size: int = 64,
) -> Scorer:
    "The log-probability of a text after a context, by a model."
    start = [tokenizer.eos_id] if tokenizer.eos_id is not None else tokenizer.encode("\n")

    @torch.no_grad()
    def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        rows: list[tuple[list[int], int]] = []  # ids, and how many of them are the context
        for context, text in pairs:
            before = start + tokenizer.encode(context)
            ids = (before + tokenizer.encode(text))[-model.config.block_size - 1 :]
            rows.append((ids, max(1, len(ids) - len(tokenizer.encode(text)))))
        result = np.empty(len(rows))
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        for k in range(0, len(rows), batch_size):
            which = by_length[k : k + batch_size]
            ids = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(rows[i][0]) for i in which], batch_first=True
            )
            with autocast(ids.device, "auto"):
                logits = model(ids[:, :-1])[0].float()
            chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            for row, i in zip(chosen, which):
                length, known = len(rows[i][0]), rows[i][1]
                result[i] = float(row[known - 1 : length - 1].sum())
        return result

    return score


def ngram_scorer(
    ngram: NGram,  # of tokens
    tokenizer: Tokenizer,
) -> Scorer:
    "The same by counting."

    def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        result = []
        for context, text in pairs:
            ids = tokenizer.encode(text)
            chances = ngram.probabilities(tokenizer.encode(context) + ids)[-len(ids) :]
            result.append(np.log(chances).sum())
        return np.array(result)

    return score


def interval(
    values: Sequence[float] | np.ndarray,  # one for each question or piece
    seed: int = 0,
) -> tuple[float, float, float]:  # mean, and 90% of the means of as many drawn with replacement
    "How sure a mean is."
    values = np.asarray(values, float)
    drawn = np.random.default_rng(seed).integers(len(values), size=(1000, len(values)))
    low, high = np.quantile(values[drawn].mean(1), (0.05, 0.95))
    return float(values.mean()), float(low), float(high)


def answers(
    questions: Sequence[Question],
    score: Scorer,
) -> np.ndarray:  # 1 where the right one is the likelier, ½ where they are equal
    "Grammar: which text is likelier. Sense: which one gains more by its context."
    right = score([(q.context, q.right) for q in questions])
    wrong = score([(q.context, q.wrong) for q in questions])
    if any(q.context for q in questions):
        right -= score([("", q.right) for q in questions])
        wrong -= score([("", q.wrong) for q in questions])
    return (right > wrong) + 0.5 * (right == wrong)


def examination(
    score: Scorer,
    grammar: Sequence[Question],
    sense: Sequence[Question],
) -> dict[str, float]:
    "Scores of nearby grammar, of agreement across nouns, and of sense, with intervals, and by kind."
    record: dict[str, float] = {}
    groups = {
        "nearby": [q for q in grammar if q.kind not in ACROSS],
        "across": [q for q in grammar if q.kind in ACROSS],
        "sense": list(sense),
    }
    for name, questions in groups.items():
        values = answers(questions, score)
        record |= dict(zip((name, f"{name}_low", f"{name}_high"), interval(values)))
        for kind in dict.fromkeys(q.kind for q in questions):
            chosen = [v for v, q in zip(values, questions) if q.kind == kind]
            record[f"{name}: {kind}"] = float(np.mean(chosen))
    return record


@lru_cache(maxsize=1)
def known_words() -> frozenset[str]:  # in lower case
    "Words: what the training books have three times, and the 100,000 most frequent of English."
    from wordfreq import top_n_list

    counts = Counter(WORD.findall(load_text("novels", "train").lower()))
    return frozenset(w for w, n in counts.items() if n > 2) | frozenset(top_n_list("en", 100_000))


def reading(
    text: str,  # that somebody wrote
    compare: str,  # the training text, for novelty
    pieces: int = 40,  # into which it is cut for the intervals
) -> dict[str, float]:
    "Scores of a text: words that are words, and 8-word runs that are new."
    words = WORD.findall(text.lower())
    good = [word in known_words() for word in words]
    size = max(1, len(words) // pieces)
    shares = [float(np.mean(good[i : i + size])) for i in range(0, len(words), size)]
    record = dict(zip(("words", "words_low", "words_high"), interval(shares)))
    return record | {"n_words": len(words), "novelty": readability(text, compare).novelty}


def write(
    model: GPT,
    tokenizer: Tokenizer,
    words: int = SAMPLE_WORDS,
    streams: int = 64,  # texts written side by side
) -> str:
    "Let a model write, from the start of a text, at temperature 1."
    start = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.encode("\n")[0]
    torch.manual_seed(0)
    length = min(model.config.block_size - 1, int(1.7 * words / streams) + 16)
    texts: list[str] = []
    while sum(len(text.split()) for text in texts) < words:
        ids: Tensor = generate(model, torch.full((streams, 1), start), length)
        texts += [tokenizer.decode(row[1:].tolist()) for row in ids]
    return "\n\n".join(texts).replace(END_OF_TEXT, "\n\n")


def judge(
    text: str,  # that somebody wrote
) -> float:  # bits per byte under SmolLM2-135M
    "What a far better model thinks of a text."
    if not text.strip():
        return float("nan")
    model, tokenizer = gptbook.load("smollm2-135m")
    pieces = [text[i : i + 1000] for i in range(0, min(JUDGED, len(text)), 1000)]
    score = model_scorer(model, tokenizer, batch_size=4)([("", piece) for piece in pieces])
    return float(-score.sum() / np.log(2) / sum(len(piece.encode()) for piece in pieces))


def books() -> list[str]:
    "The held-out books of new authors."
    return load_text("novels", "new_authors").split(END_OF_TEXT)[:-1]


def measure(
    model: GPT,
    tokenizer: Tokenizer,
    compare: str,  # the training text, for novelty
    grammar: Sequence[Question],
    sense: Sequence[Question],
    words: int = SAMPLE_WORDS,
) -> dict[str, float | str]:
    "The whole panel for a model."
    model.eval()
    record: dict[str, float | str] = {}
    record |= examination(model_scorer(model, tokenizer), grammar, sense)
    text = write(model, tokenizer, words)
    return record | reading(text, compare) | {"judge": judge(text), "sample": text[:600]}


def shuffled(
    text: str,
    seed: int = 0,
) -> str:
    "The same words in another order."
    words = text.split(" ")
    random.Random(seed).shuffle(words)
    return " ".join(words)


def others(
    log: Log,
    compare: str,
    grammar: Sequence[Question],
    sense: Sequence[Question],
    quick: bool,
) -> None:
    "Everything that is not a model of the study."
    human = "\n\n".join(book[20_000:30_000] for book in books())
    for name, text in (("people", human), ("shuffled words", shuffled(human))):
        if not log.find(name=name):
            log.add({"name": name} | reading(text, compare) | {"judge": judge(text)})
    tokenizer = BPETokenizer.load(cache_folder() / f"novels-{VOCABULARY}")
    ids = tokenizer.encode(compare[: 10**5 if quick else None], allowed_special="all")
    ngram = NGram(5, vocab_size=tokenizer.vocab_size).fit(ids)
    for order in (1, 2, 3, 4, 5):
        if not log.find(name=f"{order}-gram of tokens"):
            counted = ngram.shorten(order)
            record = examination(ngram_scorer(counted, tokenizer), grammar, sense)
            text = tokenizer.decode(counted.sample(200 if quick else 16_000))
            held_out = load_text("novels", "new_authors")
            held_ids = tokenizer.encode(held_out, allowed_special="all")
            record["new_authors_bits"] = counted.bits_per_byte(held_ids, len(held_out.encode()))
            record |= reading(text, compare) | {"judge": judge(text)}
            log.add({"name": f"{order}-gram of tokens", "sample": text[:600]} | record)
    if not log.find(name="SmolLM2-135M"):
        smollm, its_own = gptbook.load("smollm2-135m")
        log.add({"name": "SmolLM2-135M"} | measure(smollm, its_own, compare, grammar, sense, 2000))


def questions(
    quick: bool,  # few
) -> tuple[list[Question], list[Question]]:  # of grammar, of sense
    "The same for every writer."
    few = {"a_kind": 20} if quick else {}
    grammar = grammar_questions(books(), **few) + distance_questions(books(), **few)
    return grammar, sense_questions(books(), 20 if quick else CHOICES)


def measure_folder(
    folder: Path,  # of a model of the study
    quick: bool,
    threads: int,  # cores
) -> dict[str, float | str]:  # the line to log
    "The panel of one model, in a process of its own."
    torch.set_num_threads(threads)
    model, tokenizer = gptbook.load(str(folder))
    words = 300 if quick else SAMPLE_WORDS
    compare = load_text("novels", "train")
    return {"name": folder.name} | measure(model, tokenizer, compare, *questions(quick), words)


KINDS = {  # of question: what is wrong in the wrong one
    "agreement": "the verb does not agree with its subject",
    "article": "a for an, an for a",
    "verb form": "the wrong form of a verb",
    "word order": "two words have changed places",
    "pronoun": "a pronoun in the wrong case",
    "reflexive": "himself, herself, themselves: the wrong one",
    "one noun": "the verb agrees with the noun before it, not with its subject",
    "two nouns": "the same, with two nouns in between",
    "near": "the wrong sentence stands 5 to 15 sentences later",
    "far": "the wrong sentence stands 500 to 2,000 sentences later",
}


def show(
    questions: Iterable[Question],
    count: int,  # of each kind
) -> None:
    "Print the first of each kind, as a page."
    print(
        "---\ntitle: The panel's questions\ndescription: ten of each kind, as chapter 08 asks them\n---\n"
    )
    print(
        f"The first {count} of each kind, unselected, from books of authors that no model of the study"
    )
    print(
        "has read. Made and printed by `python -m experiments.panel --examples 10`; right first.\n"
    )
    seen: Counter[str] = Counter()
    for q in questions:
        seen[q.kind] += 1
        if seen[q.kind] == 1:
            print(f"## {q.kind}: {KINDS[q.kind]}\n")
        if seen[q.kind] <= count:
            after = f"*{q.context.strip()}*<br>" if q.context else ""
            print(f"{seen[q.kind]}. {after}{q.right}<br>✗ {q.wrong}\n")


def main() -> None:
    parser = arguments(__doc__)
    home = ROOT / "runs" / "study"
    parser.add_argument(
        "--models", type=Path, default=home, help="where the study keeps its models"
    )
    parser.add_argument("--others", action="store_true", help="measure what is not of the study")
    parser.add_argument("--which", default="grid-*", help="models of these names")
    parser.add_argument("--workers", type=int, default=1, help="models measured at the same time")
    parser.add_argument("--examples", type=int, help="show so many questions of each kind")
    o = parser.parse_args()
    grammar, sense = questions(o.quick)
    if o.examples:
        return show(grammar + sense, o.examples)
    log = Log("panel", o, command_line("panel", sys.argv[1:]))
    log.begin(grammar=len(grammar), sense=len(sense))
    if o.others:
        others(log, load_text("novels", "train"), grammar, sense, o.quick)
    folders = [path.parent for path in sorted(o.models.glob(f"{o.which}/model.safetensors"))]
    left = [folder for folder in folders if not log.find(name=folder.name)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(o.workers, spawn) as pool:
        made = [pool.submit(measure_folder, folder, o.quick, o.threads) for folder in left]
        for done in as_completed(made):
            log.add(done.result())
    log.finish()


if __name__ == "__main__":
    main()
