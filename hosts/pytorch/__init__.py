"""Hugging Face models as hosts: `attach` a memory to any Llama-like decoder of `transformers`."""

from hosts.pytorch.attach import attach as attach
from hosts.pytorch.attach import detach as detach
from hosts.pytorch.attach import memory_report as memory_report
from hosts.pytorch.attach import settle as settle
from hosts.pytorch.cache import NammCache as NammCache
from hosts.pytorch.report import Report as Report
