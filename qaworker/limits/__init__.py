"""What all workers share of a provider and of a run's money: rate limits and budgets."""
