"""One vLLM engine on a Ray actor: its settings, the service around it, and its death."""
