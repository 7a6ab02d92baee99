"""A merge to NF4, rounded to nearest and durably: what the merged model has got back of what was forgotten.

    python benchmarks/merge_durable.py BASE TOFU ADAPTER --task 1 --variant nearest durable residual

BASE is the checkpoint that ../shared/tofu_smollm2/build_base.py writes, TOFU the folder of TOFU's JSON files, ADAPTER
the folder of an adapter trained by benchmarks/forget_tofu.py's request of that task. The durable variants look at
all of the request's questions; measured are 16 of them, and 16 of the retain questions that they did not look at.
Writes docs/results/data/merge_durable.json, a line a variant.
"""

import argparse
import json
import tempfile
from pathlib import Path

from asu_lora.bases.source import resolve_base
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.sampling import sample
from asu_lora.merging.check import check
from asu_lora.merging.durable.durable_rounding import DurableSettings
from asu_lora.merging.merge import merge
from common.results import read_data, write_data
from common.tofu_request import request_for

QUESTIONS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--task", default="1")
    parser.add_argument(
        "--variant", nargs="+", default=["nearest", "durable", "residual"], choices=["nearest", "durable", "residual"]
    )
    parser.add_argument("--aim", type=float, help="how much of the update to do along its own direction")
    arguments = parser.parse_args()
    quiet_libraries()
    request, _ = request_for(arguments.tofu, arguments.task, False)
    looked_at = sample(request.retain, 80)
    unseen = [example for example in request.retain if example not in looked_at]
    source, adapters = resolve_base(str(arguments.base)), [(arguments.adapter, 1.0)]
    found = read_data("merge_durable", {})
    for variant in arguments.variant:
        durable = (
            None
            if variant == "nearest"
            else DurableSettings(
                request.forget,
                looked_at,
                residual_rank=2 if variant == "residual" else 0,
                **({"aim": arguments.aim} if arguments.aim else {}),
            )
        )
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "merged"
            report = merge(source, adapters, out, "nf4", durable=durable)
            checked = check(source, adapters, out, "nf4", sample(request.forget, QUESTIONS), sample(unseen, QUESTIONS))
        count = max(1, len(report.durability))
        key = variant + (f", aim {arguments.aim:g}" if arguments.aim and durable else "")
        found[key] = {
            "passed": checked.passed,
            "kept by weights": round(report.overall.kept, 4),
            "left undone": {
                key: round(sum(getattr(m, key) or 0 for m in report.durability) / count, 4)
                for key in ("nearest", "durable", "with_residual", "moved")
            },
            "rows": checked.as_dict()["rows"],
        }
        write_data("merge_durable", found)
        print(key, json.dumps(found[key], indent=1))


if __name__ == "__main__":
    main()
