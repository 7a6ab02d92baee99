"""What a run would do, before anything heavy is loaded: ``asu-lora forget --dry-run``.

Shapes come from the config, on the meta device; tokens from the tokenizer. No weight is read.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM

from asu_lora.adapters.staging import disk_errors
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases import resolve_base
from asu_lora.data.encoding import Encoder
from asu_lora.data.request import ForgetRequest
from asu_lora.decoder import number_of_layers
from asu_lora.ground import check_ground
from asu_lora.head import CHUNK_ELEMENTS
from asu_lora.loading import causal_lm_config, choose_device, compute_dtype, load_tokenizer
from asu_lora.settings import ForgetConfig
from asu_lora.student import add_adapter
from asu_lora.training import check_optimizer

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a weight: 4 bits, an 8-bit scale each 64, a 32-bit one each 256 of those


def plan_run(request: ForgetRequest, base: str, config: ForgetConfig, name: str, store: str | Path,
             on_top_of: Iterable[str] = ()) -> dict[str, str]:
    """Check everything that can be checked, and say what the run would do.

    Raises:
        AsuLoraError: whatever the run itself would refuse before training.
    """
    check_optimizer(config)
    with disk_errors(Path(store)):
        AdapterStore(store).check_name(name)
    source = resolve_base(base)
    ground = check_ground(source, on_top_of, store)
    model_config = causal_lm_config(source, config.trust_remote_code)
    tokenizer = load_tokenizer(source, config.trust_remote_code)
    encoder = Encoder(tokenizer, config.max_length)
    forget = encoder.encode_all(request.forget, "forget row")
    retain = encoder.encode_all(request.retain, "retain row")
    device = choose_device(config.device)
    compute = compute_dtype(config.precision, device)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(model_config, dtype=compute,
                                                 trust_remote_code=config.trust_remote_code)
    layers = config.layers(number_of_layers(model))
    weights = weight_bytes(model, config.precision, compute)
    student = add_adapter(model, config)
    adapter = sum(p.numel() for p in student.parameters() if p.requires_grad)
    per_forget = config.retain_per_forget if retain and config.retain_loss != "none" else 0
    steps = math.ceil(len(forget) / (config.batch_size * config.grad_accum)) * config.epochs
    cut = sum(item.cut for item in (*forget, *retain))
    cache = sum(len(i.answer_ids) for i in (*forget, *retain)) * model_config.get_text_config().hidden_size
    optimizer = 2 if config.optimizer in ("auto",) and device.type == "cuda" else 8
    return {
        "adapter": f"{name}, in {store}",
        "base": f"{source.name} ({model_config.architectures[0] if model_config.architectures else '?'}), "
                f"{config.precision} on {device}, arithmetic in {str(compute).removeprefix('torch.')}",
        **({"on top of": ", ".join(f"{below.name}:{below.weight:g}" for below in ground)} if ground else {}),
        "forget rows": f"{len(request.forget)} ({sum(map(len, forget))} tokens)",
        "retain rows": f"{len(request.retain)} ({sum(map(len, retain))} tokens), {request.retain_source}",
        "answers cut off": str(cut),
        "method": f"{config.objective} with {config.retain_loss}, tau {config.tau}, "
                  f"layers {'all' if layers is None else config.smooth_layers}",
        "steps": f"{steps:.0f}, each of {config.batch_size * config.grad_accum} forget and "
                 f"{config.batch_size * config.grad_accum * per_forget} retain rows",
        "memory: weights": _size(weights),
        "memory: adapter and its gradients": _size(adapter * 8) + f" ({adapter:,} parameters)",
        "memory: optimizer": _size(adapter * optimizer),
        "memory: logits, a chunk at a time": _size(CHUNK_ELEMENTS * 4 * 3),
        "memory: targets of teacher and base": _size(cache * compute.itemsize),
    }


def weight_bytes(model: torch.nn.Module, precision: str, compute: torch.dtype) -> float:
    """Memory of the base's weights; in NF4 the linear layers but the head are 4-bit, as bitsandbytes loads them."""
    head = model.get_output_embeddings()
    linear = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head}
    return sum(p.numel() * (NF4_BYTES if precision == "nf4" and id(p) in linear else compute.itemsize)
               for p in model.parameters())


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
