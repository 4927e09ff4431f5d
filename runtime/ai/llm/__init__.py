"""LLM servers: Ollama, and whatever speaks OpenAI's chat completions."""
