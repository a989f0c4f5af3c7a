"""The families of foreign checkpoints, one a module, found by the module's name.

A family defines:

* `MODEL_TYPES`: what `model_type` in config.json says; `MODEL` and `OBJECTIVE`: what it becomes;
* `PREFIX`: what may stand before the names of the base model, the class's own first where there are several; names in
  `RULES` are without it;
* `RULES`: a table (`hf.rules.Rule`): pattern of names -> paths, and how one becomes the other;
* `COPIES`: names that repeat another tensor where weights are tied; `UNUSED`: names that the class has all the same
  where they are not tied, and the tensor that it uses instead;
* `HEADS`: regular expressions of names of other heads; these are kept beside the run and named, not used;
* `settings_from(config) -> (model, objective)`: the settings of a HuggingFace config;
* `config_to(model, objective) -> config`: what a HuggingFace config says of these settings, or an InputError where it
  cannot; `check_born()`, if there is one, raises where only a checkpoint that came can go out as this family;
* `ARCHITECTURES`: `model_type` -> the classes with ("head") and without ("base") its own head; `REMOTE` names the file
  of `hf/remote` that goes with a model that transformers does not have, `AUTO_MAP` what is in it.

One of a PyTorch project has no config. Instead of the last three and `MODEL_TYPES` it defines `SIGNATURE`, a name by
which it is known, `SPECIALS_AT`, ids of specials where no vocabulary says them, and `settings_of(shapes, told,
num_heads)`, the settings from the shapes and from what else the file holds. `rules_for(model)` may stand for `RULES`.
"""
