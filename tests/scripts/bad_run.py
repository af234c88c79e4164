"""Places that cannot be written, launchers that give something else, training that blows up."""

from __future__ import annotations

from bad_input import Case, leave, write_file

CASES = (
    # where it goes
    Case(
        "folder with files in it",
        "existing non-empty output folder without overwrite",
        ("output_dir=", "taken", "already holds files", "overwrite=true", "another output_dir"),
        ("output_dir={folder}/taken",),
        write_file("taken/notes.txt", "mine"),
    ),
    Case(
        "file in its place",
        "output folder not writable",
        ("output_dir=", "taken", "is a file", "another output_dir"),
        ("output_dir={folder}/taken", "overwrite=true"),
        write_file("taken", "mine"),
    ),
    Case(
        "file in its way",
        "output folder not writable",
        ("output_dir=", "taken/sub", "cannot be written", "Not a directory"),
        ("output_dir={folder}/taken/sub",),
        write_file("taken", "mine"),
    ),
    Case(
        "file far up its way",
        "output folder not writable",
        ("output_dir=", "taken/a/b", "cannot be written", "Not a directory"),
        ("output_dir={folder}/taken/a/b",),
        write_file("taken", "mine"),
    ),
    Case(
        "name no file system takes",
        "output folder not writable",
        ("output_dir=", "cannot be written", "name too long"),
        ("output_dir={folder}/deep/" + 300 * "x",),
    ),
    Case(
        "the current folder",
        "output folder not writable",
        ("output_dir=.", "cannot be written"),
        ("output_dir=.", "overwrite=true"),
    ),
    Case(
        "overwriting the checkpoint it starts from",
        "output folder not writable",
        ("output_dir=", "checkpoint", "model.pretrained", "another output_dir"),
        ("output_dir={folder}/checkpoint", "overwrite=true"),
    ),
    Case(
        "overwriting the data it reads",
        "output folder not writable",
        ("output_dir=", "data.path", "another output_dir"),
        ("data.path={folder}/taken/series.csv", "output_dir={folder}/taken", "overwrite=true"),
        lambda folder: write_file("taken/series.csv", (folder / "series.csv").read_bytes())(folder),
    ),
    # what it runs on
    Case(
        "half precision on a CPU",
        "fp16 on CPU",
        ("fp16", "GPU", "training.mixed_precision to bf16 or no"),
        ("training.mixed_precision=fp16",),
    ),
    Case(
        "several processes asked for",
        "fewer processes than asked",
        ("distributed.enabled=true", "one process", "accelerate launch", "--num_processes"),
        ("distributed.enabled=true",),
    ),
    Case(
        "four processes asked for",
        "fewer processes than asked",
        ("distributed.world_size=4", "1 process(es)", "accelerate launch --num_processes 4"),
        ("distributed.world_size=4",),
    ),
    Case(
        "a strategy nobody runs",
        "fewer processes than asked",
        ("distributed.strategy=fsdp", "none", "accelerate_configs/"),
        ("distributed.strategy=fsdp",),
    ),
    # what it counts
    Case(
        "misspelt baseline",
        "wrong value",
        ("'persistance'", "did you mean persistence?", "persistence, ridge, seasonal_naive"),
        ("evaluation.baselines=[persistance]",),
    ),
    Case(
        "model for a baseline",
        "wrong value",
        ("evaluation.baselines", "ttm is not a baseline"),
        ("evaluation.baselines=[ttm]",),
    ),
    Case(
        "horizon beyond the forecast",
        "wrong value",
        ("evaluation.horizons", "99h", "8 steps", "model.prediction_length"),
        ("evaluation.horizons=[99h]",),
    ),
    Case(
        "horizon off the grid",
        "wrong value",
        ("evaluation.horizons='30min'", "no multiple", "step h"),
        ("evaluation.horizons=[30min]",),
    ),
    # where it ends
    Case(
        "training loss that explodes",
        "NaN loss",
        ("training loss is", "at step", "training.learning_rate (now 1e+30)", "training.max_grad_norm"),
        ("training.learning_rate=1e30", "training.eval_every_steps=6"),
    ),
    Case(
        "validation loss that explodes",
        "NaN loss",
        ("validation loss is", "at step 1", "training.learning_rate (now 1e+30)"),
        ("training.learning_rate=1e30", "training.eval_every_steps=1", "training.log_every_steps=6"),
        leave,
    ),
    Case(
        "learning rate beyond float32",
        "NaN loss",
        ("training.learning_rate", "1e+300"),
        ("training.learning_rate=1e300",),
    ),
)
