"""The market: OpenAI API, request queues, policy, originator, offers, executor, payments and backends."""
