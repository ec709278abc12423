"""From token shards to the batch of a step, as a pure function of (data, seed, step).

shards.py    prepared text on disk, mapped into memory
cutting.py   sections -> pieces that fill a row; packing.py: which lengths share one
pairing.py   pieces -> sentence pairs
keyed.py     randomness without state, which all of this uses
masking.py   which tokens are predicted, and what they become
examples.py  row n of a run, for any n; rows.py: what a row holds
batch.py     rows -> the tensors of one forward pass
"""
