"""The steps from one schema of the ledger to the next, for alembic. ``database.py`` runs them."""
