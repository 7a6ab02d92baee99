"""``asu-lora audit``: attack what was forgotten. What isn't a command's name here is an adapter's, for ``run``."""

import click
from click.shell_completion import CompletionItem

from asu_lora.cli.options import adapter_names
from asu_lora.cli.program import LazyGroup

DEFAULT = "run"
_NAME = click.Argument(["name"])  # what stands where a command's name could


class AuditGroup(LazyGroup):
    """``audit NAME`` is ``audit run NAME``; an adapter that is called like a command needs the ``run``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands_from and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [] if incomplete.startswith("-") else adapter_names(ctx, _NAME, incomplete)
        return [*super().shell_complete(ctx, incomplete), *map(CompletionItem, names)]


audit = AuditGroup(
    name="audit",
    commands_from={
        "run": "asu_lora.cli.audit.run:run",
        "certify": "asu_lora.cli.audit.certify:certify",
        "verify": "asu_lora.cli.audit.verify:verify",
        "page": "asu_lora.cli.audit.page:page",
        "keygen": "asu_lora.cli.audit.keygen:keygen",
    },
    short_help="Attack what an adapter made a base forget, beside controls.",
    help="""Attack what an adapter made a base forget, the way a motivated person would, and certify what was found.

    \b
      asu-lora audit NAME --forget request.jsonl --retain keep.jsonl --base BASE
      asu-lora audit NAME --forget request.jsonl --quick --fail-over 0.1
      asu-lora audit certify NAME --forget request.jsonl
      asu-lora audit verify adapters/NAME/certificate.json

    'asu-lora audit run --help' shows the options of the first two, and with --help-all all of them. Their result,
    audit.json beside the adapter, holds numbers and no word of the request: evidence against the attacks that were
    made, and no proof against others.
    """,
)
