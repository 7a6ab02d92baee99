"""The first schema: history and its head, the requests' states, claims, sealed texts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables, and the head of an empty history."""
    _history()
    _work()


def _history() -> None:
    op.create_table(
        "history",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("request", sa.String(100)),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("history_of_request", "history", ["request", "number"])
    head = op.create_table(
        "head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("lines", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("sealed_lines", sa.Integer, nullable=False),
        sa.Column("sealed_hash", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.Column("seal", sa.String(64)),
    )
    op.bulk_insert(head, [{"id": 1, "lines": 0, "hash": "0" * 64, "sealed_lines": 0, "sealed_hash": "0" * 64}])


def _work() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("received", sa.String(32), nullable=False),
        sa.Column("due", sa.String(32), nullable=False),
        sa.Column("changed", sa.String(32), nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("basis", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("adapter", sa.String(100)),
        sa.Column("sentence", sa.Text),
        sa.Column("text", sa.String(20), nullable=False),
        sa.Column("audits", sa.Integer, nullable=False),
    )
    op.create_index("requests_by_due", "requests", ["state", "due", "id"])
    op.create_table(
        "claims",
        sa.Column("request", sa.String(100), primary_key=True),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("runner", sa.String(200), nullable=False),
        sa.Column("machine", sa.String(200), nullable=False),
        sa.Column("process", sa.Integer, nullable=False),
        sa.Column("began", sa.Float, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_table(
        "texts",
        sa.Column("request", sa.String(100), primary_key=True),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("commitments", sa.Text, nullable=False),
    )
