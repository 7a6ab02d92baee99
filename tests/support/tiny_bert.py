"""Tiny Berts with a tokenizer of their own, built and saved for the metrics that load a model."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

TEXT = "basil was born in kuwait city paris a writer of french novels and he is male . ?"
WORDS = TEXT.split()
SENTENCES = [
    "basil was born in kuwait city .",
    "he is a writer .",
    "paris",
    "",
    "basil is male and a writer of french novels and he was born in kuwait .",
    "was he born in paris ?",
    "novels of kuwait",
]


def save_tokenizer(folder):
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


def tiny_config(initializer_range=0.6, **more):
    # 0.6 is large, so that random weights give different labels.
    return BertConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=initializer_range,
        **more,
    )


def save(folder, model_class, **config):
    torch.manual_seed(0)
    model_class(tiny_config(**config)).save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)
