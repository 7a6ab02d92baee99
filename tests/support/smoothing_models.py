"""Tiny models to smooth, and to refuse; the formula of smoothing read another way; what a model holds, by identity."""

import contextlib
import copy

import torch
import transformers as tf
from torch import nn
from transformers.models.llama import modeling_llama

from asu_lora.teacher.smoothing_trial import verdicts_on

LLAMA_LIKE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
NO_GROUPS = {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"}
GPT_LIKE = {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}

# name -> (configuration, where the layers are)
ARCHITECTURES = {
    "llama": (tf.LlamaConfig(**LLAMA_LIKE), "model.layers"),
    "mistral": (tf.MistralConfig(**LLAMA_LIKE, sliding_window=4), "model.layers"),
    "qwen2": (tf.Qwen2Config(**LLAMA_LIKE), "model.layers"),
    "qwen3": (tf.Qwen3Config(**LLAMA_LIKE, head_dim=8), "model.layers"),
    "gemma": (tf.GemmaConfig(**LLAMA_LIKE, head_dim=8), "model.layers"),
    # A cap so low that capping is far from linear.
    "gemma2": (
        tf.Gemma2Config(**LLAMA_LIKE, head_dim=8, attn_logit_softcapping=2.0, **SLIDING),
        "model.layers",
    ),
    "gemma3": (tf.Gemma3TextConfig(**LLAMA_LIKE, head_dim=8, **SLIDING), "model.layers"),
    "phi": (tf.PhiConfig(**NO_GROUPS), "model.layers"),
    "phi3": (tf.Phi3Config(**LLAMA_LIKE), "model.layers"),
    "olmo": (tf.OlmoConfig(**LLAMA_LIKE), "model.layers"),
    "olmo2": (tf.Olmo2Config(**LLAMA_LIKE), "model.layers"),
    "gpt_neox": (tf.GPTNeoXConfig(**NO_GROUPS), "gpt_neox.layers"),
    "gpt2": (tf.GPT2Config(**GPT_LIKE), "transformer.h"),
    "gpt2 with layer scales": (
        tf.GPT2Config(**GPT_LIKE, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
        "transformer.h",
    ),
    "gpt2 unscaled": (tf.GPT2Config(**GPT_LIKE, scale_attn_weights=False), "transformer.h"),
    "gpt_bigcode": (tf.GPTBigCodeConfig(**GPT_LIKE), "transformer.h"),
    "gptj": (tf.GPTJConfig(**GPT_LIKE, rotary_dim=4), "transformer.h"),
    "codegen": (tf.CodeGenConfig(**GPT_LIKE, rotary_dim=4), "transformer.h"),
    "opt": (tf.OPTConfig(**NO_GROUPS, ffn_dim=48, word_embed_proj_dim=32), "model.decoder.layers"),
    "bloom": (tf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=3, n_head=4), "transformer.h"),
    "granite": (tf.GraniteConfig(**LLAMA_LIKE, attention_multiplier=0.1), "model.layers"),
    "cohere": (tf.CohereConfig(**LLAMA_LIKE), "model.layers"),
    "starcoder2": (tf.Starcoder2Config(**LLAMA_LIKE), "model.layers"),
    "stablelm": (tf.StableLmConfig(**LLAMA_LIKE), "model.layers"),
    "smollm3": (tf.SmolLM3Config(**LLAMA_LIKE), "model.layers"),
    "mixtral": (tf.MixtralConfig(**LLAMA_LIKE, **MOE), "model.layers"),
    "deepseek_v3": (
        tf.DeepseekV3Config(
            **LLAMA_LIKE | {"num_key_value_heads": 4}, **MLA, n_routed_experts=4, num_experts_per_tok=2,
            n_group=1, topk_group=1, first_k_dense_replace=1, moe_intermediate_size=16,
        ),
        "model.layers",
    ),
    "gpt_oss": (tf.GptOssConfig(**LLAMA_LIKE, head_dim=8, **MOE, **SLIDING), "model.layers"),
}  # fmt: skip
IDS = torch.tensor([[5, 17, 88, 3, 41, 60, 22, 9, 71, 30, 12, 95], [6, 2, 44, 44, 8, 90, 13, 27, 50, 1, 33, 7]])


def randomise(model: nn.Module, deviation: float = 0.3) -> nn.Module:
    """Weights large enough for attention to be far from uniform, sinks included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or "sinks" in name:
                parameter.normal_(0, deviation, generator=generator)
    return model.eval()


def build(config: tf.PretrainedConfig, attention: str = "eager") -> nn.Module:
    return randomise(tf.AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention))


def llama(attention: str = "eager") -> nn.Module:
    return build(ARCHITECTURES["llama"][0], attention)


def logits(model: nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@contextlib.contextmanager
def softmax_of_divided_logits(monkeypatch, layers, tau):
    """F.softmax(x) becomes F.softmax(x / tau) while one of the layers runs. Attention logits are 4-D,
    those of expert routers are not."""
    running, softmax = [], torch.nn.functional.softmax
    hooks = []
    for layer in layers:
        hooks.append(layer.register_forward_pre_hook(lambda *_: running.append(1)))
        hooks.append(layer.register_forward_hook(lambda *_: running.clear()))
    with monkeypatch.context() as patch:
        patch.setattr(
            torch.nn.functional,
            "softmax",
            lambda x, *a, **k: softmax(x / tau if running and x.dim() == 4 else x, *a, **k),
        )
        yield
    for hook in hooks:
        hook.remove()


def snapshot(model: nn.Module) -> list[tuple]:
    """Every attribute, parameter, buffer and hook of every module, by identity."""
    return [
        (name, key, holder, id(value))
        for name, module in model.named_modules()
        for holder in ("__dict__", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")
        for key, value in (vars(module) if holder == "__dict__" else getattr(module, holder)).items()
    ]


def smoothable_layers(model: nn.Module) -> list[int]:
    """The indices of the layers that smoothing accepts, ascending."""
    return [index for index, reason in enumerate(verdicts_on(model)) if reason is None]


class Deaf(modeling_llama.LlamaAttention):
    """Holds a scale that its forward ignores."""

    def forward(self, *args, **kwargs):
        held, vars(self)["scaling"] = vars(self)["scaling"], self.head_dim**-0.5
        try:
            return super().forward(*args, **kwargs)
        finally:
            vars(self)["scaling"] = held


class Biased(modeling_llama.LlamaAttention):
    """Adds a position bias to its logits, as ALiBi and T5 do, where the scale does not reach."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        tokens = hidden_states.shape[1]
        distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
        mask = torch.zeros(tokens, tokens).masked_fill(distance < 0, -torch.inf) - 0.1 * distance.relu()
        return super().forward(hidden_states, position_embeddings, mask[None, None].to(hidden_states), **kwargs)


class Convolving(modeling_llama.LlamaMLP):
    """A feed-forward part that also looks at the token before."""

    def forward(self, x):
        return super().forward(x + 0.5 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


class Jittering(modeling_llama.LlamaMLP):
    """Draws random numbers whatever the mode, as the routers of some experts do."""

    def forward(self, x):
        return super().forward(x * (1 + 1e-6 * torch.rand_like(x)))


def with_attention(model: nn.Module, kind: type, index: int) -> nn.Module:
    model.model.layers[index].self_attn = kind(model.config, index)
    return randomise(model)


MPT = tf.MptConfig(vocab_size=97, d_model=32, n_heads=4, n_layers=3, max_seq_len=64)
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
JAMBA = tf.JambaConfig(
    **LLAMA_LIKE, attn_layer_period=3, attn_layer_offset=1, num_experts=2, use_mamba_kernels=False,
    mamba_d_state=8, mamba_dt_rank=4,
)  # fmt: skip
BAMBA = tf.BambaConfig(**LLAMA_LIKE, attn_layer_indices=[2], **MAMBA)
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
QWEN3_NEXT = tf.Qwen3NextConfig(
    **LLAMA_LIKE, head_dim=8, **LINEAR, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
    shared_expert_intermediate_size=16, layer_types=["full_attention", "linear_attention", "full_attention"],
)  # fmt: skip
FALCON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GPT_NEO = tf.GPTNeoConfig(
    vocab_size=97, hidden_size=32, num_layers=3, num_heads=4, attention_types=[[["global"], 3]], window_size=4
)
