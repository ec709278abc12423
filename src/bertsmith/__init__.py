"""Your text in, your own BERT out."""
