"""The parts of `finetune.py`, and of `bertsmith predict`.

tasks/             the user's rows: their labels, what is learnt from them, how good answers are
config.py          everything a run can be told; folder.py: the run's folder
any_classifier.py  any model that can be fine-tuned: ours, or one of transformers
tries.py           what distinguishes the tries of a run
tuning.py          one try: steps, validations, the best weights
outcome.py         metrics.json, mistakes.csv, the card
classify.py        a whole file through a fine-tuned model
"""
