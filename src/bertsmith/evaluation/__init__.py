"""The parts of `evaluate.py`: each function gives a plain dataclass.

any_model.py      a run, a folder or a hub id as a model; foreign.py: other architectures, through transformers
held_out.py       a fixed sample of a text
token_scores.py   masked tokens and next sentences
pll.py            pseudo-log-likelihoods, bits per byte
minimal_pairs.py  pairs in the format of BLiMP
results.py        all of that for one model; table.py: for a person
"""
