"""What a server would refuse of an adapter, or serve otherwise than it was trained, told before it is deployed.

Each rule has its source:

- vLLM: docs.vllm.ai, ``features/lora`` and ``api/vllm/config/lora`` (``max_lora_rank``, 16 unless set; its largest
  value is 512); ``vllm/lora/peft_helper.py`` refuses DoRA and modules_to_save, and scales every module by lora_alpha/r
  of the config. Biases of LoRA layers are gone since its pull request 25807. ``vllm/lora/utils.py`` skips copies of
  the base's embeddings by two names and calls every other "unsupported LoRA weight".
- TGI: huggingface.co/docs/text-generation-inference, ``conceptual/lora``. Its ``adapters/lora.py`` leaves a kind of
  module out unless every layer has factors for it, stacks the layers' factors (one rank), scales them all by
  lora_alpha/r, and only warns of weights that it doesn't use.
- llama.cpp: ``src/llama-adapter.cpp`` wants a pair of factors for a weight that the base has, and nothing else; what
  :mod:`~asu_lora.adapters.gguf_export` can't write is refused here in its words.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asu_lora.adapters.adapter_config import more_than_lora
from asu_lora.adapters.gguf_names import gguf_base
from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.errors import AdapterError, SettingError

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_DEFAULT_RANK = 16
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_COMBINE = "'asu-lora adapters combine {name} --name NEW' writes it with one scaling"
_MERGE = "'asu-lora merge' bakes it into the weights"

REFUSES, DIFFERS, NEEDS, SERVES = "refuses", "serves it wrongly", "needs a setting", "serves it"


@dataclass(frozen=True)
class Finding:
    """What one server does with one adapter.

    Attributes:
        verdict: :data:`REFUSES`, :data:`DIFFERS`, :data:`NEEDS` or :data:`SERVES`.
        why: a sentence with the way out; empty where it simply serves it.
    """

    adapter: str
    server: str
    verdict: str
    why: str = ""

    @property
    def bad(self) -> bool:
        return self.verdict in (REFUSES, DIFFERS)

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def serving_findings(
    loras: Sequence[LoraFolder], weights: Sequence[float], servers: Sequence[str], config: Mapping[str, Any] | None
) -> list[Finding]:
    """What each server does with each adapter.

    Args:
        weights: of the adapters, 1 each unless the user gave others.
        servers: of :data:`SERVERS`.
        config: of their base; None where it isn't known.

    Raises:
        SettingError: an unknown server.
    """
    found = []
    for server in servers:
        if server not in SERVERS:
            raise SettingError(f"'{server}' is no server that is known here; known are {', '.join(SERVERS)}.")
        for lora, weight in zip(loras, weights, strict=True):
            own = [Finding(lora.name, server, verdict, why) for verdict, why in SERVERS[server](lora, config)]
            own += [Finding(lora.name, server, REFUSES, why) for why in _not_alone(server, lora, len(loras), weight)]
            found += own or [Finding(lora.name, server, SERVES)]
    return found


def _not_alone(server: str, lora: LoraFolder, together: int, weight: float) -> list[str]:
    """Servers that put one adapter on a request, whole: only llama.cpp adds several up, each at its scale."""
    if server == "llama.cpp" or (together == 1 and weight == 1):
        return []
    what = "several adapters at once" if together > 1 else f"the weight {weight:g}"
    return [f"it puts one adapter on a request, not {what}: 'asu-lora adapters combine' makes one of them."]


def _vllm(lora: LoraFolder, config: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    found = []
    if why := more_than_lora(lora.config):
        found.append((REFUSES, f"{why}: {_MERGE}, where that is possible."))
    skipped = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
    if copy := next((info.name for info in lora.copies.values() if not info.name.endswith(skipped)), None):
        found.append((REFUSES, f"its file also holds {copy}: save it anew with save_embedding_layers=False."))
    rank = max([int(lora.config["r"]), *(module.rank for module in lora.modules.values())])
    if rank > VLLM_RANKS[-1]:
        found.append((REFUSES, f"its rank {rank} is above {VLLM_RANKS[-1]}: 'adapters combine --rank' lowers it."))
    elif rank > VLLM_DEFAULT_RANK:
        fits = next(each for each in VLLM_RANKS if each >= rank)
        found.append((NEEDS, f"its rank is {rank}: start vLLM with --max-lora-rank {fits}."))
    return found + _scaled_otherwise(lora)


def _tgi(lora: LoraFolder, config: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    found = []
    if why := more_than_lora(lora.config):
        found.append((DIFFERS, f"{why}, and TGI leaves that out: {_MERGE}, where that is possible."))
    kinds: dict[str, dict[int, int]] = defaultdict(dict)
    for name, module in lora.modules.items():
        place = _LAYER.search(name)
        if place and not module.embedding:
            kinds[name.rpartition(".")[2]][int(place[1])] = module.rank
        else:
            found.append((DIFFERS, f"it changes {name}, which TGI leaves out: {_MERGE}."))
    number = _layers(config) or max((max(layers) for layers in kinds.values()), default=-1) + 1
    if left_out := sorted(kind for kind, layers in kinds.items() if len(layers) < number):
        found.append(
            (
                DIFFERS,
                f"TGI leaves {_listed(left_out)} out, for it wants them in every layer: train with --adapter-layers "
                f"all, or {_MERGE}.",
            )
        )
    if several := sorted(kind for kind, layers in kinds.items() if len(set(layers.values())) > 1):
        found.append((REFUSES, f"the ranks of {_listed(several)} differ from layer to layer: {_MERGE}."))
    return found + _scaled_otherwise(lora)


def _llama_cpp(lora: LoraFolder, config: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if why := more_than_lora(lora.config):
        return [(REFUSES, f"{why}, which no GGUF adapter can hold.")]
    if config is None:
        return [(NEEDS, "its base's config can't be read, so its architecture isn't known: say it with --base.")]
    if lora.copies:
        copy = next(iter(lora.copies))
        return [(REFUSES, f"its file also holds {copy}: save it anew with save_embedding_layers=False.")]
    try:
        base = gguf_base(config)
        base.tensor_names(lora.modules)
        for name, module in lora.modules.items():
            if module.embedding:
                return [(REFUSES, f"it changes the embedding {name}: 'asu-lora merge --format gguf'.")]
            base.row_order(name, module.out_features)
    except AdapterError as error:
        return [(REFUSES, str(error))]
    return [(NEEDS, f"it reads GGUF: 'asu-lora adapters export {lora.name} --format gguf'.")]


SERVERS: dict[str, Callable[[LoraFolder, Mapping[str, Any] | None], list[tuple[str, str]]]] = {
    "vllm": _vllm,
    "tgi": _tgi,
    "llama.cpp": _llama_cpp,
}


def _scaled_otherwise(lora: LoraFolder) -> list[tuple[str, str]]:
    """vLLM and TGI scale every module by the config's own alpha and r, whatever its patterns say."""
    rank, alpha = float(lora.config["r"]), float(lora.config.get("lora_alpha", 8))
    everywhere = alpha / (math.sqrt(rank) if lora.config.get("use_rslora") else rank)
    other = next((name for name, each in lora.modules.items() if not math.isclose(each.scaling, everywhere)), None)
    if other is None:
        return []
    scaling = lora.modules[other].scaling
    way_out = _COMBINE.format(name=lora.name)
    return [(DIFFERS, f"{other} is scaled by {scaling:g}, and the server scales all by {everywhere:g}: {way_out}.")]


def _layers(config: Mapping[str, Any] | None) -> int | None:
    text = (config or {}).get("text_config")
    inner = text if isinstance(text, Mapping) else (config or {})
    number = inner.get("num_hidden_layers", inner.get("n_layer"))
    return number if isinstance(number, int) else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
