"""An adapter in llama.cpp against the same adapter in PEFT: greedy answers, token by token.

    python benchmarks/gguf_answers.py STORE NAME

NAME is an adapter of the embedded base, such as 'harry-potter' of 'asu-lora demo'. Needs llama-cpp-python. Writes
docs/results/gguf.md and data/gguf.json.
"""

import argparse
import tempfile
from pathlib import Path

from asu_lora.adapters.gguf_export import export_gguf
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.base_config import base_config
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.demo.harry_potter import packaged_rows
from common.llama_cpp_answers import dequantised, llama_answers, peft_answers
from common.results import write_data, write_table


def alike(one: list[int], other: list[int]) -> int:
    """How many tokens are equal before the first that is not."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("name")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=20)
    asked = parser.parse_args()
    quiet_libraries()
    import llama_cpp

    parts = [packaged_rows(part) for part in ("forget", "heldout", "controls")]
    questions = [row["question"] for rows in zip(*parts, strict=False) for row in rows][: asked.questions]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file, base = dequantised(Path(folder))
        config = base_config(str(base))
        plain = llama_answers(file, None, base, questions, asked.tokens)
        wanted = peft_answers(base, asked.store / asked.name, questions, asked.tokens)
        for precision in ("fp32", "fp16"):
            place = Path(folder) / f"{precision}.gguf"
            export_gguf(AdapterStore(asked.store), asked.name, place, config, precision)
            served = llama_answers(file, place, base, questions, asked.tokens)
            equal = [alike(one, other) for one, other in zip(served, wanted, strict=True)]
            changed = sum(one != other for one, other in zip(served, plain, strict=True))
            found.append({"precision": precision, "bytes": place.stat().st_size, "alike": equal, "changed": changed})
    write_data("gguf", {"llama_cpp": llama_cpp.__version__, "tokens": asked.tokens, "runs": found})
    rows = [
        f"| {run['precision']} | {run['bytes'] / 1e6:.1f} MB | {sum(n == asked.tokens for n in run['alike'])} of "
        f"{len(questions)} | {min(run['alike'])} | {run['changed']} of {len(questions)} |"
        for run in found
    ]
    command = f"python benchmarks/gguf_answers.py STORE {asked.name} --questions {asked.questions}"
    head = ("GGUF adapter", "size", f"first {asked.tokens} tokens are PEFT's", "fewest equal", "changed by the adapter")
    write_table(
        "gguf",
        f"# An adapter in llama.cpp\n\n`{command} --tokens {asked.tokens}`: the embedded base in fp32, dequantised by "
        "llama.cpp; the adapter as `asu-lora adapters export --format gguf` writes it. llama-cpp-python "
        f"{llama_cpp.__version__} against PEFT on the same weights in fp32, greedy answers.\n\n"
        f"| {' | '.join(head)} |\n|---|---|---|---|---|\n" + "\n".join(rows),
    )


if __name__ == "__main__":
    main()
