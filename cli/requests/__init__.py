"""``asu-lora requests``: requests with due dates, from the first to the hundredth. A file per command."""

from asu_lora.cli.program import LazyGroup

requests = LazyGroup(
    name="requests",
    commands_from={
        "add": "asu_lora.cli.requests.add:add",
        "list": "asu_lora.cli.requests.list:list_",
        "show": "asu_lora.cli.requests.show:show",
        "run": "asu_lora.cli.requests.run:run",
        "retry": "asu_lora.cli.requests.retry:retry",
        "withdraw": "asu_lora.cli.requests.withdraw:withdraw",
        "deploy": "asu_lora.cli.requests.deploy:deploy",
        "forget-text": "asu_lora.cli.requests.forget_text:forget_text",
        "export": "asu_lora.cli.requests.export:export",
        "log": "asu_lora.cli.requests.log:log",
        "verify": "asu_lora.cli.requests.verify:verify",
        "key": "asu_lora.cli.requests.key:key",
    },
    short_help="Take forget requests in, and train what is due.",
    help="""Take forget requests in, train what is due, and say at any time where each stands.

    A request has an id, a due date and a text. The ledger keeps the first two, and every step with its time and its
    actor. The text is sealed with a key, and can be destroyed once its adapter is audited:

    \b
      asu-lora requests add anna.jsonl --id TICKET-1 --due 30d
      asu-lora requests run --base Qwen/Qwen2.5-7B-Instruct
      asu-lora requests list

    The ledger is a file in the store, or any database named by ASU_LORA_DATABASE. docs/operators_guide.md goes from
    the first request to the hundredth.
    """,
)
