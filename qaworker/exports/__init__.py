"""Files made from a run's ledger."""
