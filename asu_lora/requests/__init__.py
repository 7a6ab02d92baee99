"""Requests as people get them: a ledger with due dates, an encrypted text each, and runners that train what is due."""
