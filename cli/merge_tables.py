"""What ``asu-lora merge`` prints: what rounding took, the check's table, and a summary."""

import shlex
from pathlib import Path
from statistics import fmean

import click

from asu_lora.adapters.adapter_spec import weighted
from asu_lora.cli.console import print_table

LOST_TOO_MUCH = 0.1  # of the update: said aloud, because forgotten facts may return


def convert_command(out: Path, precision: str) -> str:
    """What turns a merged folder into GGUF: the ``gguf`` package reads and writes the format, and converts no model."""
    out, outtype = out.absolute(), {"bf16": "bf16", "fp16": "f16", "fp32": "f32"}[precision]
    return shlex.join(
        ["python", "convert_hf_to_gguf.py", str(out), "--outtype", outtype, "--outfile", f"{out}.{outtype}.gguf"]
    )


def tell(report, checked=None, convert: str | None = None) -> None:
    """Print a :class:`~asu_lora.merging.report.MergeReport` and a :class:`~asu_lora.merging.check.CheckReport`."""
    if report.durability:
        worst = sorted(report.durability, key=lambda module: -module.durable)[:5]
        columns = ("Module", "nearest", "durable", "+ residual", "moved")
        print_table(
            "Least durable: left undone on the questions",
            columns,
            [
                (
                    m.module,
                    f"{m.nearest:.1%}",
                    f"{m.durable:.1%}",
                    "" if m.with_residual is None else f"{m.with_residual:.1%}",
                    f"{m.moved:.2%}",
                )
                for m in worst
            ],
            right=(1, 2, 3, 4),
            wrap=(0,),
        )
    else:
        print_table(
            "Most lost to rounding",
            ("Module", "update (norm)", "lost", "noise"),
            [(m.module, f"{m.update_norm:.4g}", f"{m.lost:.2%}", f"{m.error:.3g}") for m in report.worst(5)],
            right=(1, 2, 3),
            wrap=(0,),
        )
    if checked:
        print_table(
            "Check",
            ("Model", "precision", "forget p", "ROUGE", "retain p", "ROUGE", "came back", ""),
            [_check_row(row, checked) for row in checked.rows],
            right=(2, 3, 4, 5, 6),
            wrap=(0, 1, 7),
        )
    for line in _summary(report):
        click.echo(line)
    for row in checked.rows if checked else ():
        if row.note:
            click.echo(f"Merged, {row.precision}: {row.note}.")
        if any(row.back[figure] > checked.tolerance for figure in row.chance):
            click.echo(
                f"Merged, {row.precision}: {row.back['rouge']:.1%} of ROUGE came back, which so few questions can't "
                "tell from chance: it decides nothing."
            )
    if checked:
        click.echo(
            _stays_forgotten(report, checked)
            if checked.passed
            else f"Check: more than {checked.tolerance:.0%} of what was forgotten came back (exit code 3). "
            + (
                "Use --durable, or merge to bf16 and serve it so."
                if not report.durability
                else "Use --residual-rank, or merge to bf16 and serve it so."
            )
        )
    if convert:
        click.echo(f"As GGUF, in a checkout of llama.cpp:\n  {convert}")


def _stays_forgotten(report, checked) -> str:
    """That the check passed, and where what was written must not be loaded otherwise."""
    back = [row.precision for row in checked.rows if checked.verdict(row) == "came back"]
    if not checked.told:
        return "Check: these questions are too few to tell whether what was forgotten came back. Ask more of them."
    if not back:
        return "Check: what was forgotten stays forgotten."
    return (
        f"Check: what was forgotten stays forgotten in {report.written_as}, as it was written. Loaded in "
        f"{' or '.join(back)} it comes back: serve it as it is."
    )


def _check_row(row, checked) -> tuple:
    def figures(values) -> list[str]:
        return list(f"{values[name]:.3f}" if values and name in values else "-" for name in ("probability", "rouge"))

    back = f"{max(row.sure.values()):.1%}" if row.sure else ""
    verdict = checked.verdict(row)
    return (
        row.model,
        row.precision,
        *figures(row.forget),
        *figures(row.retain),
        back,
        f"{verdict} (written)" if row.judged else verdict,
    )


def _summary(report) -> list[str]:
    names = " + ".join(weighted(name, weight) for name, weight in report.adapters)
    total = report.overall
    files = f"{report.shards} file{'s' * (report.shards > 1)}"
    lines = [
        f"{report.base} + {names} -> {report.out}: {report.written_as}, {report.bytes / 1e9:.2f} GB in "
        f"{files}, {report.seconds:.1f} s."
    ]
    if report.onto == "quantized":
        lines.append(
            f"Merged onto the weights as {report.four_bit.upper()} shows them"
            + (
                f", which differ from the original ones by {report.onto_difference:.1%}."
                if report.onto_difference
                else "."
            )
        )
    elif report.onto_difference:
        lines.append(
            f"Merged onto the original weights, which differ by {report.onto_difference:.1%} from "
            "the NF4 ones that an adapter was trained on."
        )
    lines.append(
        f"Lost to rounding: {total.lost:.2%} of the update over {len(report.modules)} modules, "
        f"with a noise of {total.error:.3g} times the update."
    )
    if report.durability:
        left = fmean(module.durable for module in report.durability)
        nearest = fmean(module.nearest for module in report.durability)
        lines[-1] = (
            f"On the questions, {left:.1%} of the layers' update is left undone ({nearest:.1%} by rounding "
            f"to nearest), mean over {len(report.durability)} modules."
        )
        if report.residual_rank:
            rest = fmean(module.with_residual for module in report.durability)
            lines.append(
                f"With {report.out}/residual-adapter on, rank {report.residual_rank}: {rest:.1%}. Serve it "
                "with that adapter, always."
            )
    elif total.lost > LOST_TOO_MUCH or total.error > 1:
        lines.append(
            "Warning: rounding undoes a good part of what the adapters do, and what was forgotten "
            "may return. Use --durable, merge to bf16, or serve the adapters beside the 4-bit base."
        )
    beside = f" --adapter {shlex.quote(f'{report.out}/residual-adapter')}" if report.residual_rank else ""
    lines.append(
        f'Next: asu-lora ask "..." --base {shlex.quote(str(report.out))}{beside}   (in Python: '
        f'AutoModelForCausalLM.from_pretrained("{report.out}"){", then that adapter" if beside else ""})'
    )
    return lines
