"""The pocket host's tokenizer: bytes, digits one by one, the words of its tasks whole, frequent pieces of English."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from experiments.tasks.haystack import NOISE, pieces
from experiments.tasks.recall import ADJECTIVES, FILLER, NOUNS

BEGIN, END = "<s>", "</s>"
PROMPT_WORDS = (
    "A Some The One magic number numbers word words uuid uuids is are hidden in the following text Keep it mind "
    "question about this follows What all for mentioned above pass key Find and remember Remember"
)
ENGLISH = 240  # pieces learned from the bundled text


def learned_pieces() -> list[tuple[str, float]]:
    """Frequent pieces of the training text with their log-probabilities (unigram model, Kudo 2018)."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.UnigramTrainer(vocab_size=ENGLISH, show_progress=False)
    backend.train_from_iterator(pieces("text", "train"), trainer)
    return [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]


def task_words() -> list[str]:
    """Words that must be one token each, with the space before them and, where a line may begin, without."""
    recall = [*ADJECTIVES, *NOUNS, *(word for group in FILLER for word in group), "set", "get", "saw", "near"]
    noise = " ".join(NOISE).replace(".", "").split()
    within = [f"Ġ{word}" for word in [*recall, *noise, *PROMPT_WORDS.split(), *"0123456789"]]
    return [*within, "Read", "What", "The", "A", "Some"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A lossless fast tokenizer: any text falls back to bytes; a text begins with the begin token."""
    scores = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()), -15.0)
    scores |= dict(learned_pieces())
    scores |= dict.fromkeys(task_words(), -1.0)  # above any way of putting the word together
    special = [(BEGIN, 0.0), (END, 0.0)]
    backend = Tokenizer(models.Unigram([*special, *scores.items()]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BEGIN, eos_token=END)
