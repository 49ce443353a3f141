"""The market: OpenAI API, request queues, policy, router, offers, executor, payments and backends."""
