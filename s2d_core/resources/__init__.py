"""What a stage will need, known before it starts: memory by part, tokens, hours. Loads no weights, imports no torch."""
