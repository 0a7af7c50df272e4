"""Training: data -> views -> encoder -> loss -> checkpoint -> bundle. `train.py` is the plan."""
