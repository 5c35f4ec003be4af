"""The readable recipe that joins the stages, its settings, and the result."""

from roireg.pipeline.config import PRESETS, Config, preset
from roireg.pipeline.pairing import find_pairs
from roireg.pipeline.prompting import PromptSession, prompt, prompt_session
from roireg.pipeline.recipe import register
from roireg.pipeline.registration import Registration
from roireg.pipeline.saved import SavedRegistration, load

__all__ = [
    "PRESETS",
    "Config",
    "PromptSession",
    "Registration",
    "SavedRegistration",
    "find_pairs",
    "load",
    "preset",
    "prompt",
    "prompt_session",
    "register",
]
