"""The tables of the ledger, as ``migrations/`` makes them.

``history`` is the ledger. ``requests`` is what follows from it, kept so that a list needs no walk over all lines.
``claims`` say who is at work right now, ``texts`` holds what is sealed with the key.
"""

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

SCHEMA = "0001"  # the newest step of migrations/versions

metadata = MetaData()

history = Table(
    "history",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("request", String(100)),
    Column("event", String(40), nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("history_of_request", "request", "number"),
)

# one line: whoever changes it first has the history to itself until the end of the transaction
head = Table(
    "head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("lines", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("sealed_lines", Integer, nullable=False),
    Column("sealed_hash", String(64), nullable=False),
    Column("key_id", String(16)),
    Column("seal", String(64)),
)

requests = Table(
    "requests",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("received", String(32), nullable=False),
    Column("due", String(32), nullable=False),
    Column("changed", String(32), nullable=False),
    Column("owner", Text),
    Column("basis", Text),
    Column("note", Text),
    Column("rows", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("adapter", String(100)),
    Column("sentence", Text),
    Column("text", String(20), nullable=False),
    Column("audits", Integer, nullable=False),
    Index("requests_by_due", "state", "due", "id"),
)

claims = Table(
    "claims",
    metadata,
    Column("request", String(100), primary_key=True),
    Column("token", String(32), nullable=False),
    Column("runner", String(200), nullable=False),
    Column("machine", String(200), nullable=False),
    Column("process", Integer, nullable=False),
    Column("began", Float, nullable=False),
    Column("until", Float, nullable=False),
)

texts = Table(
    "texts",
    metadata,
    Column("request", String(100), primary_key=True),
    Column("key_id", String(16), nullable=False),
    Column("sealed", LargeBinary),
    Column("salt", LargeBinary, nullable=False),
    Column("commitments", Text, nullable=False),
)
