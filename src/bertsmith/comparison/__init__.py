"""The parts of `compare.py`.

baselines.py    plain methods that a model must beat
contenders.py   predictions of the same test rows -> scores and verdicts
differences.py  is one better, given a few seeds and one set of rows?
table.py        the comparison for a person
"""
