"""The corpus: text to tokens, tokens to windows, windows to workers. No MPI and no model here."""
