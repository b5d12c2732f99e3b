"""What is kept: outcomes and heartbeats in Redis, the ledger in SQLite."""
