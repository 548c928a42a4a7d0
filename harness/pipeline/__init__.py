"""The run: preflight, training, evaluation, adjudication and the ledger of attempts."""
