"""ChouBun (arXiv 2410.13166): questions on and summaries of long Japanese documents, with its generation lengths.

Data comes from `<subset>.jsonl` files in the data folder, in the form of the hub's rows (LongBench's), else from
the hub. The prompts ask for the same answers in wording of our own (`choubun_prompts.json`); with the original's file
at its own place inside it, `ChouBun/config/dataset2prompt.json`, its exact wording is used. Differences:
items, which are a test set only, are cut 80/10/10 into splits by the hash of their `_id`; splits share documents.
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

HUB = "SakanaAI/ChouBun"
PROMPTS = "ChouBun/config/dataset2prompt.json"

METRIC: Mapping[str, tuple[str, int]] = MappingProxyType(  # and tokens to generate
    {
        "wiki_qa": ("qa_f1_ja", 64),
        "edinet_qa": ("qa_f1_ja", 64),
        "corp_sec_qa": ("qa_f1_ja", 64),
        "corp_sec_sum": ("rouge_l_ja", 128),
    }
)


@dataclass(frozen=True)
class ChouBun:
    """One subset; needs its data at the first sample only."""

    subset: str

    @property
    def name(self) -> str:
        """`choubun/<subset>`."""
        return f"choubun/{self.subset}"

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Item `index` of `split`, from the start again after the last, cut in the middle to fit `length`.

        The context ends with the document. ValueError if the split is empty or `length` holds nothing of the prompt.
        """
        item = pick(self.name, partial(load, self.subset), length, split, index)
        before, after = prompt_parts(self.subset, "choubun_prompts.json", PROMPTS, data_file(PROMPTS))
        metric, max_new_tokens = METRIC[self.subset]
        sample = Sample(
            task=self.name,
            context=before + item.document,
            question=after.replace("{input}", item.input),
            prefix="",
            answers=item.answers,
            target=item.answers[0],
            metric=metric,
            max_new_tokens=max_new_tokens,
        )
        return cut_middle(tokenizer, length, sample)


@lru_cache(maxsize=4)
def load(subset: str, folder: str | None) -> Mapping[Split, tuple[Item, ...]]:
    """All items of a subset by split, from `folder/<subset>.jsonl` or from the hub."""
    return questions("ChouBun", HUB, subset, folder)


CHOUBUN = tuple(map(ChouBun, METRIC))
