"""The ``asu-lora`` program. A file per command; none of them computes anything."""

import click

from asu_lora.cli.program import Program

main = Program(
    name="asu-lora",
    commands_from={
        "demo": "asu_lora.cli.demo:demo",
        "forget": "asu_lora.cli.forget:forget",
        "init": "asu_lora.cli.init:init",
        "requests": "asu_lora.cli.requests:requests",
        "continual": "asu_lora.cli.continual:continual",
        "ask": "asu_lora.cli.ask:ask",
        "adapters": "asu_lora.cli.adapters:adapters",
        "merge": "asu_lora.cli.merge:merge",
        "evaluate": "asu_lora.cli.evaluate:evaluate",
        "audit": "asu_lora.cli.audit:audit",
        "report": "asu_lora.cli.report:report",
        "compare": "asu_lora.cli.compare:compare",
        "probe": "asu_lora.cli.probe:probe",
    },
    help="""Make a language model forget: one forget request in, one small LoRA adapter out.

    To see it work on a real model, without a GPU or a download:

    \b
      asu-lora demo

    To forget your own questions and answers, while keeping others:

    \b
      asu-lora forget request.jsonl --base meta-llama/Llama-3.1-8B-Instruct --retain keep.jsonl
      asu-lora ask "Who wrote it?" --base meta-llama/Llama-3.1-8B-Instruct --adapter request

    The adapter is a plain PEFT folder in the adapter store (adapters/, or ASU_LORA_STORE): see
    'asu-lora adapters --help'. Every command explains itself with --help.
    """,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _say_version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from asu_lora.version import __version__  # looked up where it is asked for

        click.echo(f"asu-lora, version {__version__}")
        context.exit()


main.params.append(
    click.Option(
        ["-V", "--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_say_version,
        help="Show the version and exit.",
    )
)
