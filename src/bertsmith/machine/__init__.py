"""What this machine has, and what a training step makes of it.

limits.py     processor cores and memory that this process may use; containers are looked into
device.py     where a command computes, with how many threads
memory.py     what a run will need, found out before it is taken
work.py       how much work a step is; the share of the machine's peak
kinds.py      where the time of a step goes
measure.py    what is measured before step 1: precision and micro-batch
compiling.py  whether there is a compiler, and whether it pays
"""
