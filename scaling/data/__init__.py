"""From documents to batches of tokens: reading, division, tokenizer, cached tokens."""
