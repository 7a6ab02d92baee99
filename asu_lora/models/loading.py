"""A base in memory: NF4 by default, on CUDA or the CPU, with the compute type that is fast there."""

import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from asu_lora.bases.quantization import NF4
from asu_lora.bases.source import BaseSource
from asu_lora.data.row_format import BaseLimits
from asu_lora.errors import BaseModelError, first_line
from asu_lora.hardware.memory import is_out_of_memory, keep_few_kernels, release_freed_memory
from asu_lora.models.decoder import number_of_layers
from asu_lora.models.output_head import FrozenHead
from asu_lora.models.prepared_base import PreparedBase, prepare_base
from asu_lora.models.weight_map import refuse_incomplete, refuse_missing

# In one of these each of transformers' tokenizers keeps its words.
_TOKENIZERS = ("*token*", "*vocab*", "*.model", "*.tiktoken", "*.bpe", "*.spm", "merges.txt")


_ONE_AT_A_TIME = threading.Lock()  # in two threads at once, transformers leaves tied weights out of both models


@dataclass
class LoadedBase:
    """A base ready for forward passes: one set of weights, whatever is done with it.

    Attributes:
        source: which checkpoint it is.
        model: the transformers causal LM, in eval mode, every weight frozen.
        tokenizer: its tokenizer, with a padding token.
        precision: "nf4", "bf16", "fp16" or "fp32"; "fp4" or "int8" where the checkpoint is stored so.
        compute_dtype: the type matrix products run in.
        quantization: bitsandbytes' settings as a manifest records them, None for floats.
        unused: tensors of the checkpoint that its class has no place for.
        stacked: the model with the adapters of the stack that is on it now (:func:`asu_lora.load`); None for none.
    """

    source: BaseSource
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    precision: str
    compute_dtype: torch.dtype
    quantization: dict[str, Any] | None = None
    unused: tuple[str, ...] = ()
    stacked: torch.nn.Module | None = field(default=None, repr=False, compare=False)

    def notes(self) -> list[str]:
        """What a person should know of how it was loaded, one sentence each."""
        if not self.unused:
            return []
        more = f" and {len(self.unused) - 1} more" if len(self.unused) > 1 else ""
        return [
            f"The base's files hold {self.unused[0]}{more}, for which {type(self.model).__name__} has no place by its "
            "config: transformers leaves that out."
        ]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id

    @cached_property
    def head(self) -> FrozenHead:
        """The output head, compared with the model's own logits once."""
        return FrozenHead(self.model)

    @cached_property
    def number_of_layers(self) -> int:
        return number_of_layers(self.model)


def load_base(
    name: str | Path | BaseSource,
    precision: str = "nf4",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedBase:
    """Load a base, frozen, in the given precision.

    Args:
        name: hub id, folder, or ``smollm2-135m``; or what :func:`asu_lora.bases.source.resolve_base` gave.
        precision: ``nf4`` is bitsandbytes' 4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314).
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; the best there is by default.

    Raises:
        BaseModelError: what :func:`~asu_lora.models.prepared_base.prepare_base` refuses, or too large for the memory.
        SettingError: an unknown precision or device.
    """
    prepared = prepare_base(name, precision, device, revision, trust_remote_code)
    source, target = prepared.source, prepared.device
    if target.type == "cpu":
        keep_few_kernels()
    tokenizer = load_tokenizer(source, trust_remote_code, BaseLimits.of(prepared.config).vocabulary)
    with _ONE_AT_A_TIME:
        model, unused = _load_weights(prepared, trust_remote_code)
    model.requires_grad_(False)
    model.eval()
    compute_in(model, prepared.compute_dtype)
    if prepared.stored_quantized:
        hold_in(model, prepared.compute_dtype)
    keep_trainable_layout(model)
    feed_head_contiguously(model)
    release_freed_memory()
    return LoadedBase(
        source,
        model,
        tokenizer,
        prepared.precision,
        prepared.compute_dtype,
        quantization=prepared.quantization,
        unused=unused,
    )


def _load_weights(prepared: PreparedBase, trust_remote_code: bool) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model, and the tensors that it has no place for."""
    source, compute = prepared.source, prepared.compute_dtype
    options: dict[str, Any] = {"dtype": compute, "device_map": {"": prepared.device}}
    if prepared.precision == "nf4" and not prepared.stored_quantized:
        options["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=compute, **NF4)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # its own types leave out what it returns here
            source.path,
            config=prepared.config,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,  # no pickle is opened
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # a model's own code and its quantiser raise errors of every kind
        if is_out_of_memory(error):
            raise BaseModelError(
                f"'{source.name}' does not fit into the memory of {prepared.device} as {prepared.precision}: use nf4, "
                "or a smaller base."
            ) from error
        # tells which tensor, where transformers only says that there is one
        _refuse_misfit(prepared, trust_remote_code)
        raise BaseModelError(f"'{source.name}' can't be loaded: {first_line(error)}") from error
    model, info = loaded
    refuse_missing(source.name, set(info["missing_keys"]) & {name for name, _ in model.named_parameters()})
    return model, tuple(sorted(info["unexpected_keys"]))


def _refuse_misfit(prepared: PreparedBase, trust_remote_code: bool) -> None:
    """Refuse a tensor of another shape than the config says; silent where the base can't be built at all."""
    try:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(prepared.config, trust_remote_code=trust_remote_code)
    except Exception:  # a model's own code raises errors of every kind
        return
    refuse_incomplete(empty, prepared.infos, prepared.source.name)


def load_tokenizer(
    source: BaseSource, trust_remote_code: bool = False, vocabulary: int | None = None
) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with a padding token (masked wherever it stands, so any token will do).

    Args:
        vocabulary: rows of the base's embedding. A padding token that was added to the tokenizer alone, and that the
            base can't look up, is replaced.

    Raises:
        BaseModelError: there is none, or a broken one.
    """
    if not trust_remote_code and not any(next(source.path.glob(pattern), None) for pattern in _TOKENIZERS):
        raise BaseModelError(
            f"'{source.name}' holds no tokenizer: put its files (tokenizer.json, tokenizer_config.json) beside the "
            "weights."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=trust_remote_code)
        tokenizer("a")  # one that is damaged may load, and fail at the first word
        if None in tokenizer.all_special_ids:
            raise ValueError("a special token of it is not in its vocabulary.")
    except Exception as error:  # the tokenizers' own library raises bare Exceptions
        raise BaseModelError(f"The tokenizer of '{source.name}' can't be loaded: {first_line(error)}") from error
    if tokenizer.pad_token_id is None or (vocabulary is not None and tokenizer.pad_token_id >= vocabulary):
        spares = (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
        spare = next((at for at in spares if at is not None and (vocabulary is None or at < vocabulary)), 0)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(spare)
    return tokenizer


def compute_in(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """A base that is stored in 4 bit brings a compute type of its own, which may be slow or unknown here."""
    for module in model.modules():
        if hasattr(module, "compute_dtype") and hasattr(module, "compute_type_is_set"):
            vars(module).update(compute_dtype=dtype, compute_type_is_set=True)


def hold_in(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast what isn't quantised (embeddings, norms, head) out of another 16-bit type than the compute type.

    A base that is stored quantised comes with these in the type that its config names, whatever type was asked for: in
    fp16, say, which no CPU is made for, and in which large activations overflow. What is stored in fp32 stays so.
    """
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16) and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def keep_trainable_layout(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference.

    On CPUs with AVX512-BF16, the first forward pass in eval mode rewrites the weights in place for a kernel
    that has no gradient: a student trained after a teacher's pass would get silently wrong gradients, and
    teacher and student would round differently.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def feed_head_contiguously(model: PreTrainedModel) -> None:
    """Hand the output head its input in one piece.

    ``generate`` cuts the last position out of a prompt's states. Torch multiplies such a strided batch row by
    row with a copy of the head's weight for each row: 57 MB a row on SmolLM2-135M, gigabytes a batch.
    """

    def in_one_piece(module, args, kwargs):
        return (tuple(map(_contiguous, args)), {name: _contiguous(value) for name, value in kwargs.items()})

    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(in_one_piece, with_kwargs=True)


def _contiguous(value):
    return value.contiguous() if isinstance(value, torch.Tensor) else value
