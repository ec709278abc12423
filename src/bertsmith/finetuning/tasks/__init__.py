"""Tasks with labels: from the user's file to batches, an objective and scores.

rows.py       files -> rows with fields; which field is what; cells.py: what a cell spells
examples.py   rows -> labelled examples; the kind of task and its labels
split.py      which rows are held out
encoding.py   examples -> token ids
dataset.py    all of that for a run, and labels -> numbers
batches.py    which inputs a step has, and its tensors
objective.py  what is minimised; scoring.py: a model's answers
scores.py     how good they are; row_sums.py: the same of resampled rows
"""
