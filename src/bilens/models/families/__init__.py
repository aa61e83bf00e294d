"""Families of checkpoints, one declarative file each (``family`` says what one declares)."""

from bilens.models.families.dooms import DOOMS
from bilens.models.families.family import Family, Pairing, paired, renamed
from bilens.models.families.llama import LLAMA
from bilens.models.families.own import CLASSIFIER, TRANSFORMER

FAMILIES: tuple[Family, ...] = (CLASSIFIER, TRANSFORMER, LLAMA, DOOMS)

__all__ = ["FAMILIES", "Family", "Pairing", "paired", "renamed"]
