"""The class of transformers that a model of bilens is an instance of, where there is one, with the
very same weights.
"""

from transformers import AutoModelForCausalLM, PreTrainedModel

from bilens.models import FAMILIES, Transformer


def stock(model: Transformer) -> PreTrainedModel | str:
    """``model`` as transformers' own class, in its dtype; or, in words, why there is none. Cost: a
    copy of the weights.
    """
    tried = [family.stock(model.config) for family in FAMILIES if family.stock is not None]
    config = next((one for one in tried if not isinstance(one, str)), tried[0])
    if isinstance(config, str):
        return f"bilens writes no model of a stock class that has {config}"
    made = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    made.load_state_dict(model.state_dict())
    return made.to(model.device).eval()
