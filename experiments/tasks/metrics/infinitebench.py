"""InfiniteBench's metrics (arXiv 2402.13718, appendix; the benchmark's scorer), defects included.

One thing differs: where the original's number parsing stops with an error, the prediction scores 0.
"""

import re
from collections import Counter
from collections.abc import Sequence

from experiments.tasks.metrics.longbench import WIDE_PUNCTUATION
from experiments.tasks.metrics.texts import overlap

LETTERS = ("A", "B", "C", "D")


def first_integer(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the first run of digits is the answer, digit by digit (Retrieve.PassKey, Retrieve.Number)."""
    found = re.search("[0-9]+", prediction)
    return float(found is not None and found[0] in answers)


def word_match(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the answer is a word of the prediction between white space and punctuation (Retrieve.KV; case matters)."""
    return float(any(answer in _words(prediction) for answer in answers))


def name_match(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the answer is a word of the upper-cased prediction (En.Dia), which a name of two words never is."""
    return word_match(prediction.upper(), answers)


def char_f1_zh(prediction: str, answers: tuple[str, ...]) -> float:
    """F1 of characters, lower-cased, without punctuation and white space (Zh.QA)."""
    return max(overlap(_characters(prediction), _characters(answer)) for answer in answers)


def option_letter(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the option chosen is right (En.MC); the answers are its text and its letter.

    What counts is a first character A to D; else the whole prediction; else what follows "answer is:" and the like;
    else the first word that is a run of the letters ABCD.
    """
    text = prediction.strip()
    if text[:1] in LETTERS:
        return float(text[0] in answers)
    if text in answers:
        return 1.0
    text = _spaced(text, "\n\"'.,?!{}")
    after = _after(text, ("answer is:", "answer:", "answer is", "option is"))
    if after is not None:
        return float(after.startswith(answers))
    word = next((word for word in text.split() if word in "ABCD"), "")
    return float(word in answers)


def option_named(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the option chosen is right (Code.Debug); the answers are the function's name and the option's letter.

    The prediction begins with the letter and a full stop or colon, or letter or name follow "answer is:" or the like;
    a bare letter scores 0.
    """
    text, letter = prediction.strip(), answers[-1]
    if text[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    for word in ("Option", "option"):
        text = text.replace(word, " ")
    after = _after(_spaced(text, "\n`'\"-*"), ("answer is:", "is:", "answer:"))
    return float(after is not None and after.startswith(answers))


def last_integer(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the last word, full stops and quotes taken off, is the whole number (Code.Run)."""
    words = re.sub("[\n.`'\":]", " ", prediction).split()
    return float(bool(words) and any(_equals(words[-1], str(int(answer))) for answer in answers))


def first_number(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the first number, its sign left out, equals the answer (Math.Find)."""
    found = re.search(r"\d+\.\d+|\d+", prediction)
    return float(found is not None and any(_equals(found[0], answer) for answer in answers))


def prefix_share(prediction: str, answers: tuple[str, ...]) -> float:
    """Share of a list of whole numbers that is right before the first wrong one, signs left out (Math.Calc).

    Here `answers` is the list, in order.
    """
    given = re.findall("[0-9]+", prediction)
    right = 0
    for one, answer in zip(given, answers, strict=False):
        if int(one) != int(answer):
            break
        right += 1
    return right / len(answers)


def rouge_lsum(prediction: str, answers: tuple[str, ...]) -> float:
    """F of ROUGE-L at summary level, sentences being lines, on runs of a-z and 0-9 in lower case (En.Sum).

    For every line of the answer, the words of its longest common subsequences with all lines of the prediction are
    united; a word counts at most as often as it stands on each side (ROUGE 1.5.5, as Google's rouge_score has it).
    """
    return max(_rouge_lsum(_lines(prediction), _lines(answer)) for answer in answers)


def _words(text: str) -> list[str]:
    return _spaced(text, "\n:\"'.,?!{}").split()


def _spaced(text: str, characters: str) -> str:
    """The text with each of these characters a space, and single spaces only."""
    return re.sub(" +", " ", re.sub(f"[{re.escape(characters)}]", " ", text))


def _after(text: str, markers: Sequence[str]) -> str | None:
    """What follows the first of the markers that stands in the text, one character on; None without any."""
    marker = next((marker for marker in markers if marker in text), None)
    return None if marker is None else text[text.find(marker) + len(marker) + 1 :]


def _characters(text: str) -> list[str]:
    return [char for char in text.lower() if char not in WIDE_PUNCTUATION and not char.isspace()]


def _equals(word: str, answer: str) -> bool:
    """Whether the word is the number, read as the answer is: whole, or with a decimal point."""
    read = int if re.fullmatch("-?[0-9]+", answer) else float
    try:
        return read(word) == read(answer)
    except ValueError:
        return False


def _lines(text: str) -> list[list[str]]:
    return [re.findall("[a-z0-9]+", line.lower()) for line in text.split("\n")]


def _rouge_lsum(predicted: list[list[str]], expected: list[list[str]]) -> float:
    left = [Counter(word for line in lines for word in line) for lines in (predicted, expected)]
    sizes = [counts.total() for counts in left]
    hits = 0
    for line in expected:
        united = set[int]().union(*(_common(line, other) for other in predicted))
        for word in (line[place] for place in sorted(united)):
            if all(counts[word] for counts in left):
                hits += 1
                for counts in left:
                    counts[word] -= 1
    return 2 * hits / sum(sizes) if hits else 0.0


def _common(line: Sequence[str], other: Sequence[str]) -> set[int]:
    """Places in `line` of its longest common subsequence with `other`; of several, the one found from the ends."""
    table = [[0] * (len(other) + 1)]
    for word in line:
        above, row = table[-1], [0]
        for column, candidate in enumerate(other):
            row.append(above[column] + 1 if word == candidate else max(above[column + 1], row[column]))
        table.append(row)
    places, i, j = set[int](), len(line), len(other)
    while i and j:
        if line[i - 1] == other[j - 1]:
            places.add(i - 1)
            i, j = i - 1, j - 1
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places
