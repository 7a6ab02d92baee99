"""Chat templates of several families, on one tiny tokenizer."""

from dataclasses import dataclass

from tests.support.tiny_base import TEMPLATE, tiny_tokenizer


@dataclass(frozen=True)
class Family:
    """A template as its family's tokenizers carry it; ``spoken`` is how it writes a question and its answer."""

    template: str | None
    bos: str | None
    eos: str
    special: tuple[str, ...]
    end: str
    asked: str
    answered: str
    system: bool = True
    plain: tuple[str, ...] = ()  # added tokens that are not marked as special


FAMILIES = {
    "ChatML": Family(
        TEMPLATE,
        None,
        "<|im_end|>",
        ("<|im_start|>",),
        "<|im_end|>",
        "<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n",
        "A<|im_end|>",
    ),
    "Llama 3": Family(
        "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{Q}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "A<|eot_id|>",
    ),
    "Gemma": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
        "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
        "<bos>",
        "<eos>",
        (),
        "<end_of_turn>",
        "<bos><start_of_turn>user\n{Q}<end_of_turn>\n<start_of_turn>model\n",
        "A<end_of_turn>",
        system=False,
        plain=("<start_of_turn>", "<end_of_turn>"),
    ),
    "Mistral": Family(
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        (),
        "</s>",
        "<s>[INST] {Q} [/INST]",
        " A</s>",
        system=False,
    ),
    "Phi 3": Family(
        "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        None,
        "<|eos|>",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|end|>",
        "<|user|>\n{Q}<|end|>\n<|assistant|>\n",
        "A<|end|>",
    ),
    "Alpaca": Family(
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '### Response:\n' }}{% else %}"
        "{{ '### Instruction:\n' }}{% endif %}{{ message['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
        "<s>",
        "</s>",
        (),
        "</s>",
        "### Instruction:\n{Q}\n\n### Response:\n",
        "A</s>",
    ),
    "no template": Family(None, "<s>", "</s>", (), "</s>", "Question: {Q}\nAnswer:", " A</s>"),
}


def tokenizer_of(family: Family):
    from tokenizers import AddedToken

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": family.eos} | ({"bos_token": family.bos} if family.bos else {}))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain])
    tokenizer.chat_template = family.template
    return tokenizer


def adding_bos(tokenizer):
    """The tokenizer, putting its BOS before every text, as Llama's and Gemma's do."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    return tokenizer


BYTES = tokenizer_of(FAMILIES["ChatML"])
