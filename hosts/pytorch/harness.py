"""lm-evaluation-harness under a memory: importing this module registers the model "namm" (extra: namm[harness]).

    import lm_eval, hosts.pytorch.harness
    lm_eval.simple_evaluate("namm", {"pretrained": "...", "memory": "smollm2", "budget": 0.25}, tasks=["ruler"])
"""

from typing import Any, NoReturn

from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports] (an extra: namm[harness])
from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

from hosts.pytorch.attach import attach


@register_model("namm")
class MemoryLM(HFLM):
    """The harness's Hugging Face model with a memory attached, for tasks that generate.

    memory, budget, interval, chunk: see `attach`. Everything else goes to the harness's own model. Tasks scored
    without generation are a ValueError: they read each answer with its prompt at once, so that nothing a memory
    drops can change what they measure.
    """

    def __init__(
        self,
        memory: str,
        budget: int | float | None = None,
        interval: int | None = None,
        chunk: int | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        attach(self.model, memory, budget, interval, chunk)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> NoReturn:
        self._refuse(requests)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> NoReturn:
        self._refuse(requests)

    def _refuse(self, requests: list[Any]) -> NoReturn:
        names = sorted({request.task_name for request in requests if request.task_name})
        raise ValueError(
            f"tasks {names} are scored by likelihood, without generation: no eviction would act. "
            "Choose tasks of output_type generate_until, or detach the memory"
        )
