"""A model in the forms that other programs load.

folder.py     the output folder: there whole or not at all
graph.py      ONNX: the graph, held against our own outputs; runtime.py: running it
int8.py       the same with 8-bit weights, and what that costs
onnx.py       the folder of both
sentences.py  a folder of sentence-transformers
hub.py        a folder for the hub, and its upload
"""
