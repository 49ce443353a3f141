"""Other APIs, written as chat completions: pure translators, without I/O.

A node answers OpenAI's Responses API and Anthropic's Messages API. It translates where the user asks: backends and
other nodes see chat completions alone. Read in this order:

1. ``dialect``: what a translator is.
2. ``fields``: reading what a user sent, and refusing by name what cannot be done.
3. ``chat``: what is read of a chat completion, whole or in events.
4. ``responses_request``, ``responses_answer``, ``responses_stream``: OpenAI's Responses API.
5. ``messages_request``, ``messages_answer``, ``messages_stream``, ``messages_errors``: Anthropic's Messages API.
"""
