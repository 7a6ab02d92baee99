"""``asu-lora adapters``: what is in the store, and changing it. A file per command."""

from asu_lora.cli.program import LazyGroup

adapters = LazyGroup(
    name="adapters",
    commands_from={
        "list": "asu_lora.cli.adapters.list:list_",
        "show": "asu_lora.cli.adapters.show:show",
        "verify": "asu_lora.cli.adapters.verify:verify",
        "rename": "asu_lora.cli.adapters.rename:rename",
        "remove": "asu_lora.cli.adapters.remove:remove",
        "import": "asu_lora.cli.adapters.import_:import_",
        "export": "asu_lora.cli.adapters.export:export",
        "push": "asu_lora.cli.adapters.push:push",
        "pull": "asu_lora.cli.adapters.pull:pull",
        "check": "asu_lora.cli.adapters.check:check",
        "combine": "asu_lora.cli.adapters.combine:combine",
    },
    help="""See, check, keep and pass on the adapters in the store.

    The store is a folder (adapters/, --store, or ASU_LORA_STORE) with one plain PEFT folder an adapter. Begin
    with what is there, and whether it is whole:

    \b
      asu-lora adapters list
      asu-lora adapters verify

    Any number of processes may use one store at once; a change happens whole or not at all.
    """,
)
