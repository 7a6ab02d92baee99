"""What alembic runs: the missing steps, on the connection and in the transaction that ``database.py`` opened."""

from alembic import context

from asu_lora.requests.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
