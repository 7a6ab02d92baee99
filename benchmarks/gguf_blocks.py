"""The 4-bit weights that an audit attacks against those that llama.cpp's own quantisation writes, matrix by matrix.

    python benchmarks/gguf_blocks.py BASE [--ggml libggml-base.so]

Without --ggml it is that of llama-cpp-python. Writes docs/results/gguf_blocks.md and data/gguf_blocks.json.
"""

import argparse
import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asu_lora.audit.gguf_blocks import SUPER, to_q4_0, to_q4_k, to_q5_0
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader
from common.results import write_data, write_table

OURS = {"q4_K": to_q4_k, "q4_0": to_q4_0, "q5_0": to_q5_0}
BYTES = {"q4_K": (256, 144), "q4_0": (32, 18), "q5_0": (32, 22)}  # of a block: weights, bytes


def packaged_library() -> Path:
    """libggml-base.so of llama-cpp-python."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("Install llama-cpp-python, or name libggml-base.so of a build of llama.cpp with --ggml.")
    return Path(found.submodule_search_locations[0]) / "lib" / "libggml-base.so"


def through_ggml(library: ctypes.CDLL, weight: torch.Tensor, kind: str) -> torch.Tensor:
    """(rows, width) in fp32, quantised and read back by ggml."""
    source = np.ascontiguousarray(weight.numpy(), dtype=np.float32)
    rows, width = source.shape
    weights, size = BYTES[kind]
    file, back = np.zeros(rows * width // weights * size, np.uint8), np.zeros_like(source)
    quantize, dequantize = getattr(library, f"quantize_{kind}"), getattr(library, f"dequantize_row_{kind}")
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    dequantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    assert quantize(source.ctypes.data, file.ctypes.data, rows, width, None) == file.nbytes
    dequantize(file.ctypes.data, back.ctypes.data, source.size)
    return torch.from_numpy(back)


def compared(library: ctypes.CDLL, weight: torch.Tensor, kind: str) -> dict[str, Any]:
    """One matrix: the share of equal weights, and both errors relative to the weights' norm."""
    theirs, ours = through_ggml(library, weight, kind), OURS[kind](weight)
    size = float(weight.norm())
    return {
        "kind": kind,
        "weights": weight.numel(),
        "equal": int((theirs == ours).sum()),
        "between": float((theirs - ours).norm()) / size,
        "error of ggml": float((theirs - weight).norm()) / size,
        "error": float((ours - weight).norm()) / size,
    }


def overall(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All matrices of a format: the share of equal weights, and the worst of each distance."""
    equal, weights = (sum(run[figure] for run in runs) for figure in ("equal", "weights"))
    worst = {figure: max(run[figure] for run in runs) for figure in ("between", "error of ggml", "error")}
    return {"kind": runs[0]["kind"], "matrices": len(runs), "equal": equal / weights, **worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--ggml", type=Path)
    asked = parser.parse_args()
    library, found = ctypes.CDLL(str(asked.ggml or packaged_library())), []
    with LazyTensorReader(asked.base) as reader:
        for name in sorted(reader.tensors):
            if ".layers." not in name or not name.endswith("_proj.weight"):
                continue
            weight = reader.read(name).float()
            kinds = [kind for kind in OURS if kind != "q4_K" or weight.shape[1] % SUPER == 0]
            found += [compared(library, weight, kind) for kind in kinds]
    totals = [overall([run for run in found if run["kind"] == kind]) for kind in OURS]
    write_data("gguf_blocks", totals)
    lines = [
        f"| {it['kind'].upper()} | {it['matrices']} | {it['equal']:.2%} | {it['between']:.5f} | "
        f"{it['error of ggml']:.5f} | {it['error']:.5f} |"
        for it in totals
    ]
    head = "| format | matrices | equal weights | most between them | most off, llama.cpp | most off, asu-lora |"
    write_table(
        "gguf_blocks",
        "# What an audit takes for a GGUF file's weights\n\n`python benchmarks/gguf_blocks.py BASE`: all projections "
        "of the base, rounded by asu-lora's audit and by llama.cpp's own code (`libggml-base`). Distances are relative "
        f"to the weights' norm, the worst matrix of each.\n\n{head}\n|---|---:|---:|---:|---:|---:|\n"
        + "\n".join(lines),
    )


if __name__ == "__main__":
    main()
