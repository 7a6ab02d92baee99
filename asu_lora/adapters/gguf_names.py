"""What llama.cpp calls the weights of a base, and in which order it keeps their rows.

Names come from the ``gguf`` package (its ``TensorNameMap``). The package doesn't say which of transformers' model
types are which of its architectures, nor which of them have their rows moved: both stand in :data:`ARCHITECTURES`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from asu_lora.adapters.tensor_names import without_layout
from asu_lora.errors import AdapterError

INSTALL = "pip install gguf"


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures.

    Attributes:
        name: of the member of ``gguf.MODEL_ARCH``.
        paired: rotary positions turn neighbouring rows there (``LLAMA_ROPE_TYPE_NORM``), where transformers turns
            row j of a head together with row j + d/2. Then the rows of q and k stand in another order.
    """

    name: str
    paired: bool = False


# By transformers' model_type. Here are those whose linear layers llama.cpp keeps one by one and unchanged, but for
# the order of rows; it splits, joins or mixes the weights of others (falcon, gpt_neox, bloom, experts).
ARCHITECTURES = {
    "llama": Architecture("LLAMA", paired=True),
    "mistral": Architecture("LLAMA", paired=True),
    "mixtral": Architecture("LLAMA", paired=True),
    "smollm3": Architecture("SMOLLM3", paired=True),
    "granite": Architecture("GRANITE", paired=True),
    "olmo": Architecture("OLMO", paired=True),
    "olmo2": Architecture("OLMO2"),
    "qwen2": Architecture("QWEN2"),
    "qwen2_moe": Architecture("QWEN2MOE"),
    "qwen3": Architecture("QWEN3"),
    "qwen3_moe": Architecture("QWEN3MOE"),
    "gemma": Architecture("GEMMA"),
    "gemma2": Architecture("GEMMA2"),
    "gemma3_text": Architecture("GEMMA3"),
    "phi": Architecture("PHI2"),
    "phi3": Architecture("PHI3"),
    "starcoder2": Architecture("STARCODER2"),
    "stablelm": Architecture("STABLELM"),
    "cohere": Architecture("COMMAND_R"),  # pairs neighbouring rows in transformers too
    "cohere2": Architecture("COHERE2"),
    "gpt2": Architecture("GPT2"),
}
_ROTARY = re.compile(r"(?:^|\.)(q|k)_proj$")


@dataclass(frozen=True)
class GgufBase:
    """A base as llama.cpp sees it, from its ``config.json``.

    Attributes:
        layers: number of decoder layers.
        heads, key_value_heads: of the attention; 0 where the rows of q and k keep their order.
        head_size: rows of a head; 0 where they keep their order.
        tied: the output head is the token embedding.
    """

    architecture: Architecture
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    tied: bool

    @property
    def label(self) -> str:
        """What ``general.architecture`` says."""
        gguf = import_gguf()
        return gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[self.architecture.name]]

    def tensor_names(self, modules: Iterable[str]) -> dict[str, str]:
        """{module of transformers: weight of llama.cpp}.

        Raises:
            AdapterError: one has no weight of its own there.
        """
        gguf = import_gguf()
        known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[self.architecture.name], self.layers)
        found = {}
        for module in modules:
            inner = without_layout(module)
            ways = (module, f"model.{inner}", f"transformer.{inner}", inner)
            name = next((name for way in ways if (name := known.get_name(way))), None)
            if name is None or (self.tied and name == "output"):
                why = "is its token embedding" if name else "has no weight of its own"
                raise AdapterError(
                    f"The adapter changes {module}, which {why} in llama.cpp's {self.label}: bake the adapter into "
                    "the weights with 'asu-lora merge --format gguf'."
                )
            found[module] = f"{name}.weight"
        return found

    def row_order(self, module: str, rows: int) -> list[int] | None:
        """Which of transformers' rows stands at each place in llama.cpp; None where they stand alike.

        Args:
            rows: of the weight, heads * d. Of each head's d rows, transformers turns j with j + d/2, llama.cpp
                2j with 2j + 1.

        Raises:
            AdapterError: the heads of the base's config don't have these rows.
        """
        kind = _ROTARY.search(module) if self.architecture.paired else None
        if kind is None:
            return None
        heads = self.heads if kind[1] == "q" else self.key_value_heads
        half, rest = divmod(self.head_size, 2)
        if rest or rows != heads * self.head_size:
            raise AdapterError(
                f"The adapter's {module} has {rows} rows, and {heads} heads of {self.head_size} rows have others: it "
                "belongs to another base; say with --base which."
            )
        return [
            head * 2 * half + side * half + pair for head in range(heads) for pair in range(half) for side in (0, 1)
        ]


def gguf_base(config: Mapping[str, Any]) -> GgufBase:
    """What llama.cpp makes of a base.

    Args:
        config: the base's config with its defaults (``PretrainedConfig.to_dict``).

    Raises:
        AdapterError: an architecture that isn't exported here, or numbers that make no sense.
    """
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else config
    kind = inner.get("model_type")
    architecture = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if architecture is None or architecture.name not in import_gguf().MODEL_ARCH.__members__:
        raise AdapterError(
            f"LoRA adapters of the architecture '{kind}' aren't written as GGUF here: bake the adapter into the "
            "weights with 'asu-lora merge --format gguf', and llama.cpp's own converter takes them."
        )
    heads = _count(inner, "num_attention_heads") if architecture.paired else 0
    shared = inner.get("num_key_value_heads") is not None
    return GgufBase(
        architecture=architecture,
        layers=_count(inner, "n_layer" if kind == "gpt2" else "num_hidden_layers"),
        heads=heads,
        key_value_heads=_count(inner, "num_key_value_heads") if heads and shared else heads,
        head_size=_head_size(inner, heads) if heads else 0,
        # where nobody says so, the head is taken for tied: then an adapter on it is refused, not written wrongly
        tied=bool(inner.get("tie_word_embeddings", config.get("tie_word_embeddings", True))),
    )


def _head_size(config: Mapping[str, Any], heads: int) -> int:
    named = config.get("head_dim") is not None
    return _count(config, "head_dim") if named else _count(config, "hidden_size") // heads


def _count(config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AdapterError(f"The base's config.json gives {field} as {value!r}, which is no number of anything.")
    return value


def import_gguf() -> Any:
    """The ``gguf`` package.

    Raises:
        AdapterError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise AdapterError(f"Writing GGUF needs the package gguf, which is not installed: '{INSTALL}'.") from error
    return gguf
