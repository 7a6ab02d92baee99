"""Where each request stands, and a history that can't be changed unnoticed. Read ``ledger.py`` first."""
