"""What is decided before the first step, and kept with the run.

decisions.py       settings that nobody gave, from the text and the preset; sizing.py: from the budget
from_settings.py   the model and the rows of a run, as its settings say
measuring.py       settings that this machine decides
making.py          the plan of a run is made of all these; plan.py: what it holds
stages.py          how long rows are, and how many make a step, from which step on
duration.py        how long a run takes, and the steps that fit into a budget
pace.py            whether a run with a budget is on time, and what it does about it
overview.py        what a run says before its first step; expectation.py: the loss to expect
"""
