"""The best model of a comparison as a model to be served; `flows.champion` is the command.

- `choice`: which model of a finished comparison to deploy;
- `model_files`: the model as MLflow has it: its files, signature, an example, and its card (`model_card.md`);
- `registry`: its versions in MLflow's registry, and which of them is the champion;
- `learned`: a model from its checkpoint, calibrated; `source`: that, or one from the registry;
- `pictures`: many picture files and what a model says of each; `judgement`, `confusion`: how right it is on labels;
- `final`: the same of a final model on its test images, for the report;
- `challenge`: champion and challenger on the same pictures;
- `pyfunc_model.py`: what MLflow runs where the model is served; it needs `cl` alone, and nothing here imports it.
"""
