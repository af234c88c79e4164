"""Recipes and overrides that do not say one clear thing."""

from __future__ import annotations

from bad_input import Case, write_file

CASES = (
    Case(
        "unknown key",
        "unknown key",
        ("1 problem", "training.learning_rte", "unknown key", "did you mean training.learning_rate?"),
        ("training.learning_rte=1",),
    ),
    Case(
        "key in the wrong section",
        "unknown key",
        ("training.context_length", "unknown key", "did you mean model.context_length?"),
        ("training.context_length=32",),
    ),
    Case(
        "unknown section",
        "unknown key",
        ("trainning", "unknown key", "did you mean training?"),
        ("trainning.max_steps=1",),
    ),
    Case(
        "text for a number",
        "wrong type",
        ("training.learning_rate", "number", "'fast'"),
        ("training.learning_rate=fast",),
    ),
    Case("half a step", "wrong type", ("training.max_steps", "valid integer", "2.5"), ("training.max_steps=2.5",)),
    Case("number for a section", "wrong type", ("training", "dictionary", "3"), ("training=3",)),
    Case(
        "null for a list", "wrong type", ("evaluation.baselines", "valid list", "None"), ("evaluation.baselines=null",)
    ),
    Case(
        "negative learning rate",
        "wrong value",
        ("training.learning_rate", "greater than 0", "-1"),
        ("training.learning_rate=-1",),
    ),
    Case(
        "unknown tuning mode",
        "wrong value",
        ("tuning.mode", "'zero_shot'", "'decoder'", "'full'", "'from_scratch'", "'heads'"),
        ("tuning.mode=heads",),
    ),
    Case("seed too large for NumPy", "wrong value", ("seed", "4294967296"), ("seed=4294967296",)),
    Case(
        "three problems in one line",
        "all errors at once",
        ("3 problems", "training.max_steps", "data.pth", "did you mean data.path?", "model.context_length"),
        ("training.max_steps=0", "data.pth=x.csv", "model.context_length=2"),
    ),
    Case(
        "shares above the whole",
        "wrong value",
        ("data.split", "train + validation + test is 1.3", "1.0"),
        ("data.split.train=0.9",),
    ),
    Case(
        "borders that fall",
        "wrong value",
        ("data.split", "[300, 200, 100]", "must grow"),
        ("data.split.borders=[300,200,100]",),
    ),
    Case(
        "zero shot without weights",
        "zero_shot without weights",
        ("tuning.mode=zero_shot", "model.pretrained", "set model.pretrained", "from_scratch"),
        ("tuning.mode=zero_shot", "model.pretrained=null"),
    ),
    Case("override without equals sign", "wrong value", ("'training.max_steps'", "key=value"), ("training.max_steps",)),
    Case(
        "override that is not YAML",
        "wrong value",
        ("override", "data.target_columns=[load"),
        ("data.target_columns=[load",),
    ),
    Case(
        "interpolation of a key that is not there",
        "unknown key",
        ("recipe.yaml", "'nowhere'", "not found"),
        ("data.path=${nowhere}",),
    ),
    Case(
        "no such recipe",
        "missing file",
        ("nowhere.yaml", "does not exist", "recipes/"),
        ("--config", "{folder}/nowhere.yaml"),
    ),
    Case(
        "recipe that is not YAML",
        "wrong type",
        ("recipe.yaml", "not valid YAML"),
        spoil=write_file("recipe.yaml", "model: [unclosed\ndata: {"),
    ),
    Case(
        "recipe that is a list",
        "wrong type",
        ("recipe.yaml", "sections", "list"),
        spoil=write_file("recipe.yaml", "- model\n- data\n"),
    ),
    Case(
        "recipe that is no text",
        "wrong type",
        ("recipe.yaml", "not valid YAML"),
        spoil=write_file("recipe.yaml", b"\xff\xfe\x00\x81"),
    ),
)
