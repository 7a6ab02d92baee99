"""``asu-lora audit``: attack what was forgotten, and say how far it holds. A file per command."""

from asu_lora.cli.program import LazyGroup

audit = LazyGroup(
    name="audit",
    commands_from={
        "verify": "asu_lora.cli.audit.verify:verify",
        "certify": "asu_lora.cli.audit.certify:certify",
        "page": "asu_lora.cli.audit.page:page",
        "keygen": "asu_lora.cli.audit.keygen:keygen",
    },
    help="""Say in a signed certificate what was forgotten, what was tried against it, and what that does not prove.

    \b
      asu-lora audit certify NAME --forget request.jsonl
      asu-lora audit verify adapters/NAME/certificate.json
    """,
)
