"""The parts of the command line that `cli.py` puts together. Each command imports its program when it is called.

group.py    what is answered to no command, and to one that there is not
flags.py    settings as flags, merged with a configuration file
models.py   commands that use a model: fill, finetune, predict, compare, evaluate
exports.py  commands that give a model, or its vectors, to other programs
looks.py    the page of runs, and a page to play with a model
console.py  what the user sees: a live line on a terminal, plain lines elsewhere
"""
