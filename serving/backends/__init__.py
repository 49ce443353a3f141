"""Where answers come from: any OpenAI-compatible server, the embedded model, or a modelled GPU."""
