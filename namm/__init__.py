"""Neural Attention Memory Models: tiny evolved networks that decide which tokens of a KV cache stay."""

from namm.artefact import Memory as Memory
from namm.artefact import load as load
from namm.artefact import make as make
from namm.artefact import shipped as shipped
from namm.artefact import training_free as training_free
from namm.config import MemoryConfig as MemoryConfig
from namm.config import ScorerConfig as ScorerConfig
from namm.features import SpectrumConfig as SpectrumConfig
from namm.original import from_original as from_original
from namm.selection import SelectionConfig as SelectionConfig
