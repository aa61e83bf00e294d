"""Families of checkpoints, one declarative file each (``family`` says what one declares)."""

from bilens.models.families.bilinear_vpd import BILINEAR_VPD
from bilens.models.families.dooms import DOOMS
from bilens.models.families.elriggs import ELRIGGS
from bilens.models.families.family import Family, Pairing, Weight, paired, renamed
from bilens.models.families.gemma import GEMMA, GEMMA2, GEMMA3
from bilens.models.families.gpt2 import GPT2
from bilens.models.families.gpt_neo import GPT_NEO
from bilens.models.families.gpt_neox import GPT_NEOX
from bilens.models.families.llama import LLAMA
from bilens.models.families.melephant import MELEPHANT
from bilens.models.families.mixtures import MIXTRAL, OLMOE, QWEN3_MOE
from bilens.models.families.olmo import OLMO, OLMO2
from bilens.models.families.own import CLASSIFIER, TRANSFORMER
from bilens.models.families.phi3 import PHI3
from bilens.models.families.stablelm import STABLELM
from bilens.models.families.tdooms_image import TDOOMS_IMAGE
from bilens.models.families.tensor_language import TENSOR_LANGUAGE
from bilens.models.families.tensor_similarity import TENSOR_SIMILARITY
from bilens.models.families.tensor_similarity_language import TENSOR_SIMILARITY_LANGUAGE

FAMILIES: tuple[Family, ...] = (
    CLASSIFIER, TRANSFORMER, LLAMA, GPT2, GPT_NEO, GPT_NEOX, GEMMA, GEMMA2, GEMMA3, OLMO, OLMO2,
    PHI3, STABLELM, MIXTRAL, QWEN3_MOE, OLMOE, DOOMS, BILINEAR_VPD, ELRIGGS, MELEPHANT,
    TENSOR_LANGUAGE, TENSOR_SIMILARITY_LANGUAGE, TDOOMS_IMAGE, TENSOR_SIMILARITY,
)  # fmt: skip
NAMES = {name: family for family in FAMILIES for name in (*family.kinds, family.name) if name}

__all__ = ["FAMILIES", "NAMES", "Family", "Pairing", "Weight", "paired", "renamed"]
