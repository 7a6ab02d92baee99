"""``asu-lora audit``: attack what was forgotten. What isn't a command's name here is an adapter's, for ``run``."""

import click

from asu_lora.cli.program import LazyGroup

DEFAULT = "run"


class AuditGroup(LazyGroup):
    """``audit NAME`` is ``audit run NAME``; an adapter that is called like a command needs the ``run``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands_from and args[0] not in ctx.help_option_names:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


audit = AuditGroup(
    name="audit",
    commands_from={
        "certify": "asu_lora.cli.audit.certify:certify",
        "verify": "asu_lora.cli.audit.verify:verify",
        "page": "asu_lora.cli.audit.page:page",
        "keygen": "asu_lora.cli.audit.keygen:keygen",
    },
    short_help="Attack what an adapter made a base forget, beside controls.",
    help="""Say in a signed certificate what was forgotten, what was tried against it, and what that does not prove.

    \b
      asu-lora audit certify NAME --forget request.jsonl
      asu-lora audit verify adapters/NAME/certificate.json
    """,
)
