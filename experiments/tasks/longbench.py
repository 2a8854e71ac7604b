"""LongBench (arXiv 2308.14508): 21 tasks in English, Chinese and code, with its metrics and generation lengths.

Data comes from `<subset>.jsonl` files in the data folder, in the official form, else from the hub. The prompts
have the official parts in the official order and ask for the official answer formats, in wording of our own
(`longbench_prompts.json`); with the benchmark's own `dataset2prompt.json` there its exact wording is used,
which published scores need. Differences: items are cut 80/10/10 into splits by the hash of their `_id` (the
published memory was trained and tested on the same ones), and a middle cut never leaves half a character.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType

from transformers import PreTrainedTokenizerBase

from experiments.tasks.corpora import data_file
from experiments.tasks.fitting import cut_middle
from experiments.tasks.rows import Item, pick, prompt_parts, questions
from experiments.tasks.sample import Sample, Split

HUB = "Xnhyacinth/LongBench"
PROMPTS = "dataset2prompt.json"
FIRST_LINE = frozenset({"trec", "triviaqa", "samsum", "lsht"})
PLAIN = FIRST_LINE | {"lcc", "repobench-p"}  # chat models do worse on these inside a chat template

METRIC: Mapping[str, tuple[str, int]] = MappingProxyType(  # and tokens to generate
    {
        "narrativeqa": ("qa_f1", 128), "qasper": ("qa_f1", 128), "multifieldqa_en": ("qa_f1", 64),
        "multifieldqa_zh": ("qa_f1_zh", 64), "hotpotqa": ("qa_f1", 32), "2wikimqa": ("qa_f1", 32),
        "musique": ("qa_f1", 32), "dureader": ("rouge_l_zh", 128), "gov_report": ("rouge_l", 512),
        "qmsum": ("rouge_l", 512), "multi_news": ("rouge_l", 512), "vcsum": ("rouge_l_zh", 512),
        "trec": ("classification", 64), "triviaqa": ("qa_f1", 32), "samsum": ("rouge_l", 128),
        "lsht": ("classification", 64), "passage_count": ("count", 32), "passage_retrieval_en": ("retrieval", 32),
        "passage_retrieval_zh": ("retrieval_zh", 32), "lcc": ("code_similarity", 64),
        "repobench-p": ("code_similarity", 64),
    }
)  # fmt: skip


@dataclass(frozen=True)
class LongBench:
    """One subset; needs its data at the first sample only."""

    subset: str

    @property
    def name(self) -> str:
        """`longbench/<subset>`."""
        return f"longbench/{self.subset}"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Item `index` of `split`, from the start again after the last, cut in the middle to fit `length`.

        The context ends with the document. ValueError if the split is empty or `length` holds nothing of the prompt.
        """
        item = pick(self.name, partial(load, self.subset), length, split, index)
        return cut_middle(tokenizer, length, self._sample(item))

    def _sample(self, item: Item) -> Sample:
        before, after = prompt_parts(self.subset, "longbench_prompts.json", PROMPTS, data_file(PROMPTS))
        metric, max_new_tokens = METRIC[self.subset]
        return Sample(
            task=self.name,
            context=before + item.document,
            question=after.replace("{input}", item.input),
            prefix="",
            answers=item.answers,
            target=item.answers[0],
            metric=metric,
            max_new_tokens=max_new_tokens,
            classes=item.classes,
            first_line=self.subset in FIRST_LINE,
            chat=self.subset not in PLAIN,
        )


@lru_cache(maxsize=32)
def load(subset: str, folder: str | None) -> Mapping[Split, tuple[Item, ...]]:
    """All items of a subset by split, from `folder/<subset>.jsonl` or from the hub."""
    return questions("LongBench", HUB, subset, folder)


LONGBENCH = tuple(map(LongBench, METRIC))
