"""The one schema of a run. Every recipe, keyword and command-line override ends here.

Defaults are the values of the published TTM recipe where there is one. Unknown keys are errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import reduce
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from tstune.config.names import flat_value
from tstune.config.section import AUTO, DEFAULT_FAMILY, AnyModelSection, Moment, Section, end_of, section_class

Duration = Annotated[str | Annotated[int, Field(ge=0)], Field(union_mode="left_to_right")]
"""A length of time: text such as ``45min`` or ``2h``, or a whole number of steps of the series."""

HeldOut = (
    Annotated[float, Field(gt=0, lt=1)]
    | Annotated[list[Annotated[str, Field(coerce_numbers_to_str=True)]], Field(min_length=1)]
)
"""Items by name, or the share of the items that is drawn."""

Stride = Annotated[int, Field(ge=1)] | Literal["auto"]

FOLLOW_THE_DATA = (
    *("model.context_length", "model.prediction_length", "data.max_gap", "data.split.mode"),
    *("data.train_stride", "data.validation_stride", "data.test_stride"),
    *("evaluation.horizons", "evaluation.seasonality", "evaluation.baselines"),
)
"""Keys that may be left to the data (`auto`, or null); a saved configuration holds what they became."""

Fill = Literal["interpolate", "hold", "zero", "none"]
TimeFeature = Literal["hour_of_day", "day_of_week", "day_of_year"]
TuningMode = Literal[
    "zero_shot", "skip_head", "quantile_head", "head", "decoder", "bias", "lora", "dora", "full", "from_scratch"
]


def _for_false(word: str) -> BeforeValidator:
    """YAML reads an unquoted `no` or `off` as false; true leaves the choice to the project."""
    return BeforeValidator(lambda value: (AUTO if value else word) if isinstance(value, bool) else value)


def _null_for_auto(value: object) -> object:
    return None if value == AUTO else value


class SplitSection(Section):
    """What is trained on, what chooses the weights, and what is only scored: by time, by item, or both."""

    train: float = Field(0.7, gt=0, lt=1)
    """Share of each item's time used for training."""
    validation: float = Field(0.1, gt=0, lt=1)
    """Share of each item's time used for early stopping and model choice; with `by: item`, share of the items."""
    test: float = Field(0.2, gt=0, lt=1)
    """Share of each item's time that is only scored; with `by: item` or `both`, share of the items held out."""
    borders: Literal["standard"] | tuple[int, int, int] | None = None
    """Ends of train, validation and test in steps; `standard` takes the published ones of the source."""
    borders_at: tuple[Moment, Moment, Moment | None] | None = None
    """Last day or moment of train, validation and test, as `[2023-08-17, 2023-08-31, null]`; null is the end."""
    preset: Literal["brist1d"] | None = None
    """A published split, dates and participants: `brist1d` trains to 17 Aug 2023, validates to 31 Aug, tests after,
    on participants seen in training and on others."""
    by: Literal["time", "item", "both", "none"] = "time"
    """`time` cuts each item in time, `item` holds out whole items (cold start), `both` tests the late part of items
    seen in training and of items held out. `none`: all of it is test, for models that are trained already."""
    validation_items: HeldOut | None = None
    """Items to validate on: their names, or the share that is drawn."""
    test_items: HeldOut | None = None
    """Items held out for the test: their names, or the share that is drawn; null takes the share `test`."""
    folds: int | None = Field(None, ge=2)
    """k-fold by item: number of groups the items are drawn into; `fold` is held out for the test."""
    fold: int | None = Field(None, ge=0)
    """Which group is tested, from 0; with `by: item` the next one validates."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Draw of the held-out items, apart from the run's seed: every run of a comparison has the same items."""
    purge: Duration = 0
    """Time left out between two parts of an item, taken off the end of the earlier one."""
    mode: Literal["auto", "strict", "deployment"] = AUTO
    """`strict`: a window lies in one part as a whole. `deployment`: only its targets do, the context may look back.
    `auto` is strict, unless that takes validation or test windows from half of the series or more."""
    allow_overlap: bool = False
    """Go on although two items hold the same readings, or the pretrained weights were trained on what is scored."""

    @model_validator(mode="after")
    def _one_way_to_split(self) -> SplitSection:
        shares, places = ("train", "validation", "test"), ("borders", "borders_at")
        if self.preset is not None:
            # the default is something to ask for too; a saved configuration holds every key, whoever set it
            is_saved = self.model_fields_set.issuperset(places)
            given = [] if is_saved else [name for name in shares if name in self.model_fields_set]
            fixed = (*shares, *places, "by", "validation_items", "test_items", "folds", "fold")
            given += [name for name in fixed if getattr(self, name) != type(self).model_fields[name].default]
            if given:
                raise ValueError(
                    f"preset {self.preset} says what {given[0]} would say; "
                    "leave out one of the two, or set preset to null"
                )
            return self
        if self.borders is not None and self.borders_at is not None:
            raise ValueError("borders and borders_at both place the borders; leave out one of the two")
        if self.borders is None and self.borders_at is None and self.train + self.validation + self.test > 1 + 1e-9:
            total = self.train + self.validation + self.test
            raise ValueError(f"train + validation + test is {total:g}, more than the whole series (1.0)")
        if isinstance(self.borders, tuple) and not 0 < self.borders[0] < self.borders[1] < self.borders[2]:
            raise ValueError(f"borders {list(self.borders)} must grow: [train end, validation end, test end]")
        if self.borders_at is not None:
            moments = [end_of(moment) for moment in self.borders_at if moment is not None]
            if any(later <= earlier for earlier, later in itertools.pairwise(moments)):
                raise ValueError(f"borders_at {list(self.borders_at)} must grow: [train end, validation end, test end]")
        return self

    @model_validator(mode="after")
    def _held_out_items(self) -> SplitSection:
        names = [name for name in ("validation_items", "test_items", "folds") if getattr(self, name) is not None]
        if names and self.by == "time":
            raise ValueError(f"{names[0]} holds out items, but by is time; set by to item or both")
        if self.by == "item":
            in_time = ("borders", "borders_at", "purge")
            if given := [name for name in in_time if getattr(self, name) not in (None, 0, "0")]:
                raise ValueError(f"{given[0]} is about time, but by is item; set by to both, or leave it out")
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds and fold belong together: for example folds: 5, fold: 0")
        if self.folds is not None:
            if len(names) > 1:
                raise ValueError(f"folds draws the held-out items; leave out {names[0]}")
            if self.fold >= self.folds:
                raise ValueError(f"fold {self.fold} is not one of the {self.folds} folds, which count from 0")
            if self.by == "item" and self.folds < 3:
                raise ValueError("folds must be 3 or more with by: item: one tests, one validates, the others train")
        if isinstance(self.validation_items, list) and isinstance(self.test_items, list):
            twice = sorted(set(self.validation_items) & set(self.test_items))
            if twice:
                raise ValueError(f"item {twice[0]!r} is in validation_items and in test_items")
        return self


class DataSection(Section):
    """Where the series come from and how they are cut into windows."""

    source: str = "cgm_sample"
    """Name of a data source (scripts/describe_data.py --list-sources), or your function as package.module:function."""
    path: str | None = None
    """File the source reads; for csv also a folder or a pattern such as `data/P*.csv.gz`, one series per file (with
    item_id_column: parts of one table)."""
    validation_path: str | None = None
    """File of the same source that validates, instead of a part of `path`."""
    test_path: str | None = None
    """File of the same source that is the whole test, instead of a part of `path`: other people, or a later time."""
    cache: str | None = None
    """Folder for prepared series, by the content of their files: prepared once, whoever asks, then mapped into memory,
    so that they may be larger than it. Parquet tables and local `datasets` are also prepared piece by piece. Null keeps
    everything in memory."""
    source_options: dict[str, bool | int | float | str | list[str | int]] = {}
    """What only this source understands, as `{people: 20}`; scripts/describe_data.py --list-sources names it."""
    skip_rows: int = Field(0, ge=0)
    """Lines at the top of a text file that are not looked at; titles, comments and units are found without it."""
    keep_rows: str | None = Field(None, pattern=r"^\s*\S.*?(==|!=)")
    """Only these rows of a table: `type == cgm`, or `type != manual`."""
    missing_values: list[str | int | float] = []
    """What stands for no reading, besides `?`, `--`, `NA` and the like: words, or numbers such as -999."""
    rename: dict[str, str] = {}
    """Names that a saved model or a recipe knows, and the columns of this table that they are:
    `{glucose: glucose_value_mg_dl}`."""
    timestamp_column: str | list[str] = "timestamp"
    """Column with the time of each row, or several that hold its parts: `[date, time]`. Where there is no `timestamp`,
    the only column of times is taken."""
    timestamp_format: str | None = None
    """strptime format of the timestamps, for example `%d/%m/%Y %H:%M` or `%Y`; null reads ISO 8601, time since 1970 by
    its size, and dates of a country where they leave no doubt."""
    item_id_column: str | None = None
    """Column that tells the series apart; null means the table holds one series."""
    item_from: Literal["folder", "file", "device"] | None = None
    """Exports of sensors (cgm_export), whose a file is. `folder`: all below one folder is one person's; `file`: each is
    somebody's; `device`: each sensor's or receiver's. Null takes the folder, and stops if it seems to be of several."""
    columns_as: Literal["channels", "items"] = "channels"
    """Without an item column: value columns are channels of one series, or each is a series of its own."""
    target_columns: list[str] | None = Field(None, min_length=1)
    """Columns to forecast; null takes every numeric column without another role."""
    conditional_columns: list[str] = []
    """Columns known in the past only (insulin, carbs): inputs, never forecast."""
    control_columns: list[str] = []
    """Columns known in the future too (a plan, a tariff): inputs, never forecast."""
    time_features: list[TimeFeature] = []
    """Computed from the timestamps and so known in the future, as sine and cosine; `predict` computes them itself."""
    static_categorical_columns: list[str] = []
    """Columns with one name per series (a device, a sex): inputs. A name that training never saw is `unknown`."""
    static_real_columns: list[str] = []
    """Columns with one number per series (an age, a weight): inputs, known in the future too."""
    targets_only: bool = False
    """Leave out every input, whatever the source holds: the targets are forecast from their own past alone, on the same
    windows as with inputs."""
    on_duplicate: Literal["error", "mean"] = "error"
    """Several rows with one timestamp: stop, or take their mean."""
    frequency: str | None = None
    """Grid of the series (`5min`, `h`, `D`, `MS`); null takes the most common step."""
    max_gap: Annotated[Duration | None, BeforeValidator(_null_for_auto)] = None
    """Longest gap that is interpolated inside a context; longer ones cut the series. Null (or `auto`) takes the
    source's own, for tables 45 min of steps below an hour, 3 hours or days, 1 week, month or quarter."""
    fill: dict[str, Fill] = {}
    """What stands where a channel has no reading, for example `{dose: zero}`: `interpolate` a line (levels), `hold` the
    last reading, both up to max_gap; `zero` no reading is a 0, however long; `none` masked. It overrides the source."""
    min_context: Duration | None = None
    """Shortest history that makes a training window or a forecast: the context is padded on the left with masked
    steps. Null asks for a whole context. Windows of validation and test are whole (see evaluation.context_steps), but
    for a part that has no whole one."""
    unit: str | None = None
    """Unit of the targets as they are read; null takes the source's, or for glucose what names and values say."""
    convert_to: Literal["mg/dL", "mmol/L"] | None = None
    """Unit that glucose is converted to before anything else; null leaves it as it is."""
    valid_range: tuple[float, float] | None = None
    """Lowest and highest reading that can be true, in the unit that is read; null takes 20 to 600 mg/dL
    (1.1 to 33.3 mmol/L) for glucose, else no limit."""
    out_of_range: Literal["keep", "drop"] = "keep"
    """Readings outside valid_range: count them, or make them missing too."""
    conflicting_readings: Literal["keep", "drop"] = "keep"
    """Glucose readings of one person that lie too close in time to differ so much (two sensors in one file):
    count them, or make them missing too; kept ones that fall on one grid step are averaged."""
    interpolated_readings: Literal["keep", "drop"] = "keep"
    """Readings on straight lines between others, where a series was interpolated before it was published (a line holds
    readings of the future): count them, or make them missing too."""
    timezone: str | None = None
    """Zone of local clock times (`Europe/London`): they become UTC, so that the hour repeated in autumn and the one
    left out in spring are read right; null takes the times as they are."""
    scaling: Literal["standard", "none"] = "standard"
    """Scale channels to mean 0 and deviation 1 of the training part before the model sees them."""
    split: SplitSection = SplitSection()
    train_fraction: float = Field(1.0, gt=0, le=1)
    """Few-shot: share of the training windows that is used."""
    train_fraction_from: Literal["first", "last", "uniform"] = "first"
    """Which share: the oldest windows, the latest, or a seeded draw without replacement."""
    mirror_train_windows: bool = False
    """Train on every window upside down too (2 x mean - value): twice the windows, and no trend to learn by heart.
    Helps when few windows come from one season; needs data without conditional and control columns."""
    train_stride: Stride = AUTO
    """Steps between the starts of two training windows; `auto` is 1 up to 131,072 windows."""
    validation_stride: Stride = AUTO
    """Steps between the starts of two validation windows; `auto` is 1 up to 8,192 windows."""
    test_stride: Stride = AUTO
    """Steps between the starts of two test windows; `auto` is 1 up to 16,384 windows."""

    @model_validator(mode="after")
    def _valid_range_grows(self) -> DataSection:
        if self.valid_range is not None and not self.valid_range[0] < self.valid_range[1]:
            raise ValueError(f"valid_range {list(self.valid_range)} must grow: [lowest, highest]")
        return self

    @model_validator(mode="after")
    def _min_context_is_something(self) -> DataSection:
        if self.min_context in (0, "0"):
            raise ValueError("min_context 0 is no history; give at least one step, or null for whole contexts")
        if twice := [name for name in self.time_features if self.time_features.count(name) > 1]:
            raise ValueError(f"time_features names {twice[0]} twice; name it once")
        return self


class PretrainingSection(Section):
    """Pre-training on generated series, by `scripts/pretrain_ttm.py` only."""

    validation_windows: int = Field(4096, ge=1)
    """Generated windows, never trained on, that choose the weights."""
    series: dict[str, float] = {}
    """What the series are made of, where it differs from the defaults of `tstune.data.synthetic.SeriesRecipe`."""
    saved_dropout: float = Field(0.2, ge=0, lt=1)
    """`dropout` and `head_dropout` written into the checkpoint, for those who tune it: an endless stream of series
    needs none, a few windows of one person do."""


class TuningSection(Section):
    """Which parameters learn."""

    mode: TuningMode | None = None
    """`zero_shot` none · `skip_head` what goes past the network, see model.skip_steps · `quantile_head` the quantiles
    of a forecast that stays · `head` the forecast head · `decoder` decoder and head on a frozen backbone · `bias` all
    biases · `lora`, `dora` low-rank adapters · `full` all, from the pretrained weights · `from_scratch` all, from
    random weights. Null: lora or dora if lora.enabled, else full with pretrained weights and from_scratch without."""
    interpolate: Annotated[Literal["off", "auto"], _for_false("off")] = "off"
    """`auto` ends with the share of the change from the untuned to the tuned weights (25, 50, 75 or 100 %) that has the
    lowest validation loss; it costs three validations and often loses less on other data (Wortsman et al. 2022)."""
    soup: int = Field(1, ge=1)
    """Train so often from the same weights, each time with the next seed, and average the tuned weights: from the best
    on, those that lower the validation loss (the greedy soup of Wortsman et al. 2022)."""
    noise_start: float = Field(0.0, ge=0, lt=1)
    """Share of random weights mixed into the pretrained ones before tuning.mode=full, for example 0.3 ("shrink and
    perturb", Ash & Adams 2020); the pretrained ones stay if validation prefers them. 0 mixes in none."""
    per_item: bool = False
    """Tune one shared base in `mode`, then one small LoRA adapter per item on top."""
    per_item_epochs: int = Field(5, ge=1)
    """Passes over an item's own windows for its adapter."""
    per_item_learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the adapters."""


class LoRAConfig(Section):
    """Low-rank adapters, through peft."""

    enabled: bool = False
    """Tune adapters; the same as tuning.mode=lora."""
    rank: int = Field(8, ge=1)
    """Rank of the update of each layer."""
    alpha: float = Field(16.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    target_modules: Literal["auto"] | list[str] = "auto"
    """Linear layers to adapt, by full name or last part; `auto` takes the ones that suit the model family."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases that learn too."""
    modules_to_save: list[str] = []
    """Layers trained in full and stored with the adapter; fresh layers join by themselves."""
    use_dora: bool = False
    """Split each update into direction and magnitude (DoRA); the same as tuning.mode=dora."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead."""
    cap_rank: bool = True
    """Cap each layer's rank at half its smaller side: TTM has 8 to 16 wide layers, where rank 8 is full rank."""


class TrainingSection(Section):
    """The training loop."""

    num_epochs: int = Field(10, ge=1)
    """Passes over the training windows."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps, whatever the epoch."""
    per_device_batch_size: int = Field(64, ge=1)
    """Windows per device and step."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Batches per optimizer step."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "sgd", "adafactor"] = "adamw"
    """8-bit ones are bitsandbytes'; they pay from about 100 M parameters on."""
    learning_rate: Annotated[float, Field(gt=0, lt=1e38)] | Literal["auto"] = 1e-3
    """Peak learning rate; `auto` runs a learning-rate finder first."""
    backbone_lr_factor: float = Field(1.0, gt=0)
    """Factor on the learning rate of the backbone."""
    decoder_lr_factor: float = Field(1.0, gt=0)
    """Factor on the learning rate of the decoder."""
    head_lr_factor: float = Field(1.0, gt=0)
    """Factor on the learning rate of the head."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Validate and keep an exponential moving average of the weights with this decay; null keeps the weights."""
    cache_frozen_features: Literal["auto", "on", "off"] = "auto"
    """Run the frozen part of the model once per window and train on its stored outputs."""
    feature_cache_gb: float = Field(4.0, gt=0)
    """Features beyond this size are kept in a memory-mapped file instead of memory."""
    compile: bool = False
    """torch.compile the part that is trained; pays on GPUs and long runs."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW weight decay; biases and normalisation weights are left out."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW second moment."""
    scheduler: Literal["constant", "warmup_cosine", "one_cycle"] = "one_cycle"
    """Shape of the learning rate over the run."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Clip the gradient's norm to this; null does not clip."""
    loss: Literal["mse", "mae", "huber"] = "mse"
    """Loss on scaled values, over observed targets only."""
    huber_delta: float = Field(1.0, gt=0)
    """Where the Huber loss turns from square to linear, in scaled units."""
    step_decay: float = Field(0.0, ge=0, le=4)
    """How fast the steps of a forecast lose weight in the loss, the h-th weighs h^-step_decay: 0 counts all alike; 1.25
    makes up for how errors of glucose grow with the lead time."""
    mixed_precision: Annotated[Literal["no", "fp16", "bf16", "auto"], _for_false("no")] | None = None
    """Null takes what `accelerate launch` was given; `auto` what the hardware does best (bf16, fp16 or no)."""
    precision_fallback: bool = False
    """Where the machine has no fp16, or only emulates bf16, run what `auto` picks, and say so; false stops at fp16 and
    warns of the slow bf16."""
    early_stopping_patience: int | None = Field(None, ge=1)
    """Stop after this many validations without improvement; null never stops early."""
    eval_every_steps: int | None = Field(None, ge=1)
    """Validate every so many optimizer steps; null validates after each epoch."""
    log_every_steps: int = Field(10, ge=1)
    """Write a row of the history every so many optimizer steps."""
    auto_batch_size: bool = False
    """Try the batch size before training and, where memory runs out, halve the windows per forward pass until they
    fit on every process; the step still sees per_device_batch_size windows."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them, for models that can."""
    tf32: bool = True
    """Let GPUs of the Ampere generation and later multiply float32 with 10 bits of mantissa; nothing on a CPU."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Write a checkpoint every so many optimizer steps; null writes one only when the run is preempted (SIGTERM)."""
    checkpoint_every_minutes: float | None = Field(None, gt=0)
    """Write a checkpoint every so many minutes."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that are kept, beside the one with the best weights."""
    resume_from_checkpoint: str | None = None
    """`auto` goes on from the newest whole checkpoint of this output_dir, or begins anew if there is none; a path
    names a checkpoint; null begins anew."""
    context_dropping: float = Field(0.0, ge=0, le=1)
    """Share of the training windows whose oldest part is masked, so that the model can do with a short history. Which
    ones and how much depends on the seed and the window alone."""
    context_dropping_range: tuple[Duration, Duration] | None = None
    """Shortest and longest history that is left, drawn evenly on a logarithmic scale; null takes data.min_context (or
    evaluation.context_steps) to model.context_length."""
    callbacks: list[str] = []
    """Classes that look on while it trains, each `package.module:Class`; see docs/contributing.md."""
    num_workers: int = Field(0, ge=0)
    """Loader processes; 0 is fastest, a batch is one gather."""

    _lora_rank: int | None = None

    @property
    def batch_size(self) -> int:
        """Another name of `per_device_batch_size`."""
        return self.per_device_batch_size

    @property
    def lora_rank(self) -> int | None:
        """Rank of the run's adapters; None where it tunes none."""
        return self._lora_rank


class ForecastSection(Section):
    """What a forecast consists of."""

    quantiles: list[Annotated[float, Field(gt=0, lt=1)]] = []
    """Levels to forecast beside the point forecast, for example `[0.1, 0.5, 0.9]`; none by default."""
    method: Literal["split_conformal", "weighted_conformal", "adaptive_conformal", "quantile_head", "residual"] = (
        "split_conformal"
    )
    """Where the quantiles come from. `residual`: quantiles of the validation errors at each step · `split_conformal`:
    the same in units of each context's spread, corrected for the number of windows · `weighted_conformal`: recent
    errors weigh more · `adaptive_conformal`: levels follow what was covered, in a backtest · `quantile_head`: the
    network learns them with the pinball loss, whatever training.loss is."""
    calibration_windows: int = Field(2000, ge=1)
    """Validation windows that intervals are calibrated and alarm thresholds are chosen on, at most. A run that trains
    and has quantiles chooses its weights on the earlier half of each series' validation windows and calibrates on the
    later half, which chose nothing."""
    half_life: float = Field(1.0, gt=0)
    """`weighted_conformal`: an error weighs half as much for each such share of the calibration time it is older."""
    adaptation_rate: float = Field(0.01, gt=0, lt=1)
    """`adaptive_conformal`: how far each reading moves the level; higher follows faster and wavers more."""
    conformalize_head: bool = True
    """`quantile_head`: correct the network's quantiles on the validation part (CQR); false takes them as they are."""

    @model_validator(mode="after")
    def _levels_grow(self) -> ForecastSection:
        if any(later <= earlier for earlier, later in itertools.pairwise(self.quantiles)):
            raise ValueError(f"quantiles {self.quantiles} must grow")
        return self


class EvaluationSection(Section):
    """How forecasts are judged."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Windows per forward pass when nothing is trained; `auto` fits the processor's cache, or fills a GPU."""
    context_steps: Duration | None = None
    """Judge on short histories: all but the last so many steps of a context are masked, in validation and test windows,
    for every model; ridge is fitted on as many. Null shows the whole context."""
    horizons: list[Duration] | Literal["auto"] = AUTO
    """Lead times with a metric of their own, for example `[30min, 60min]`; `auto` takes a few by the frequency."""
    seasonality: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_null_for_auto)] = None
    """Steps of a season, for MASE and the seasonal naive forecast; null (or `auto`) takes a day below a day, a week of
    days, a year of weeks, months or quarters."""
    baselines: list[str] | Literal["auto"] = AUTO
    """Models every run is compared with, trained and scored on the same windows; your own as `package.module:Class`.
    `auto`: persistence, seasonal_naive where a season fits into the context, context_mean and ridge."""
    refit: str = "none"
    """Fit anew as the test goes on: `each_month`, or a pandas offset (`W`, `14D`, `MS`). Each fit sees what lies before
    its moment and forecasts until the next; rows `<model>_refit` stand beside those that were fitted once, with what
    each fit cost in `environment.json`. `none`: once, before the test."""
    metrics: list[str] = []
    """Further metrics, by name (`mard`, `smape`, `clarke`, `wql`, …) or your own as `package.module:function`."""
    keep_forecasts: bool = False
    """Write every test forecast into `forecasts.parquet` of the run folder: a stack, or a metric thought of later
    (`--forecasts` of `scripts/eval_forecast.py`), then needs no rerun."""
    num_plots: int = Field(3, ge=0)
    """Windows in the forecast plot (good, typical, bad); 0 draws no plots."""
    report: bool = True
    """Write `report.html` and `report.md` into the run folder."""
    keep_best: bool = True
    """The weights tuning started from, or the base of an item's adapter, are kept where no step has a lower validation
    loss; false keeps the best step."""


class DistributedConfig(Section):
    """What the run needs from the launcher; a mismatch stops the run."""

    enabled: bool | None = None
    """True: several processes must be running. False: nothing is required, `strategy` and `world_size` are notes."""
    strategy: Literal["ddp", "fsdp", "deepspeed"] | None = None
    """Kind of parallelism that must be active; null takes any."""
    world_size: int | None = Field(None, ge=1)
    """Exact number of processes; null takes any."""


class TrackingSection(Section):
    """Where a run is written down, beside its own folder. Credentials come from the environment only."""

    trackers: list[str] = []
    """Any of `file`, `mlflow`, `wandb`, `tensorboard`, or your own class as `package.module:Class`."""
    experiment: str = Field("tstune", min_length=1)
    """Name the runs are grouped under."""
    run_name: str | None = None
    """Name people read; null takes the name of the output folder."""
    folder: str = "runs/tracking"
    """Where trackers that write files put them, and what a dead tracker missed."""
    log_model: bool = True
    """Send the run folder's model to the trackers too."""
    required: bool = True
    """Stop before training if a tracker cannot start; false trains on and keeps what it missed."""
    retry_seconds: float = Field(30.0, ge=0)
    """How long a failing tracker is left alone before it is tried again."""
    parent_run: str | None = None
    """Run this one is a part of, for example the sweep of a trial."""
    mlflow_uri: str | None = None
    """Server or database of MLflow; null takes MLFLOW_TRACKING_URI, else a SQLite file in `folder`."""
    wandb_project: str | None = None
    """Project of Weights & Biases; null takes `experiment`."""
    wandb_entity: str | None = None
    """User or team of Weights & Biases."""
    wandb_mode: Literal["online", "offline", "disabled"] | None = None
    """Null takes WANDB_MODE, else online."""
    register_as: str | None = None
    """Put the finished run into the model registry under this name, and into MLflow's own with the `mlflow` tracker."""
    registry: str | None = None
    """Folder of the model registry; null takes TSTUNE_REGISTRY, else `registry`."""


class RunConfig(Section):
    """Everything that defines a run."""

    model: AnyModelSection = Field(default_factory=lambda: section_class(DEFAULT_FAMILY)())
    data: DataSection = DataSection()
    pretraining: PretrainingSection = PretrainingSection()
    tuning: TuningSection = TuningSection()
    lora: LoRAConfig = LoRAConfig()
    training: TrainingSection = TrainingSection()
    forecast: ForecastSection = ForecastSection()
    evaluation: EvaluationSection = EvaluationSection()
    distributed: DistributedConfig = DistributedConfig()
    tracking: TrackingSection = TrackingSection()
    output_dir: str = "runs/latest"
    """Folder the run is written to, as a whole, when it is done."""
    overwrite: bool = False
    """Replace an existing output folder."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of weights, window order and dropout."""

    def __getattr__(self, name: str) -> object:
        """Flat names too, as `TTMConfig` has them: `config.model_path` is `config.model.pretrained`."""
        return super().__getattr__(name) if name.startswith("_") else flat_value(self, name)

    def setting(self, key: str) -> object:
        """Value of a dotted key."""
        return reduce(getattr, key.split("."), self)

    def open_settings(self) -> list[str]:
        """Keys that are left to the data."""
        return [key for key in FOLLOW_THE_DATA if self.setting(key) in (AUTO, None)]

    def changing(self, section: str, **values: object) -> RunConfig:
        """The same with other values of a section, which are not checked again."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})

    def settled(self, became: Callable[[str], object]) -> RunConfig:
        """The same with values for the keys that it leaves open."""
        values = self.model_dump()
        for key in self.open_settings():
            *sections, name = key.split(".")
            reduce(dict.__getitem__, sections, values)[name] = became(key)
        return self.model_validate(values)

    @model_validator(mode="after")
    def _quantiles_fit_the_head(self) -> RunConfig:
        """The head of granite-tsfm forecasts a median and as many quantiles on either side of it."""
        levels = self.forecast.quantiles
        if self.forecast.method != "quantile_head" or not levels:
            return self
        if len(levels) % 2 == 0 or abs(levels[len(levels) // 2] - 0.5) > 1e-12:
            raise ValueError(
                f"forecast.method=quantile_head needs 0.5 in the middle of forecast.quantiles {levels}, with as many "
                "levels below as above it, for example [0.1, 0.5, 0.9]"
            )
        if self.tuning.per_item:
            raise ValueError(
                "forecast.method=quantile_head with tuning.per_item=true: the adapters of the items change the point "
                "forecast only; use split_conformal"
            )
        if self.model.prediction_length == 1:
            raise ValueError(
                "forecast.method=quantile_head normalises over the steps of a forecast and needs "
                "model.prediction_length of 2 or more; use split_conformal"
            )
        return self

    @model_validator(mode="after")
    def _one_tuning_mode(self) -> RunConfig:
        """Resolve `tuning.mode` and `lora.enabled`, and refuse settings that contradict each other."""
        mode, lora = self.tuning.mode, self.lora
        if mode is None:
            plain = "full" if self.model.pretrained is not None else "from_scratch"
            mode = ("dora" if lora.use_dora else "lora") if lora.enabled else plain
        if lora.enabled and mode not in ("lora", "dora") and not self.tuning.per_item:
            raise ValueError(
                f"lora.enabled=true but tuning.mode={mode}; set tuning.mode to lora or dora, or leave it out"
            )
        adapts = mode in ("lora", "dora")
        update = {"enabled": adapts or lora.enabled, "use_dora": mode == "dora" or (lora.use_dora and not adapts)}
        object.__setattr__(self, "tuning", self.tuning.model_copy(update={"mode": mode}))
        object.__setattr__(self, "lora", lora.model_copy(update=update))
        object.__setattr__(self, "training", self.training.model_copy())
        self.training._lora_rank = lora.rank if adapts else None
        if mode == "zero_shot" and self.model.pretrained is None:
            raise ValueError(
                "tuning.mode=zero_shot needs weights but model.pretrained is null; "
                "set model.pretrained to a folder or Hub id, or tuning.mode to from_scratch"
            )
        if mode == "zero_shot" and self.tuning.soup > 1:
            raise ValueError(
                f"tuning.soup={self.tuning.soup} averages tuned weights, and tuning.mode=zero_shot tunes none; "
                "leave it out"
            )
        if self.tuning.noise_start and (mode != "full" or self.model.pretrained is None):
            raise ValueError(
                f"tuning.noise_start={self.tuning.noise_start:g} mixes noise into pretrained weights that all learn: "
                f"it needs model.pretrained and tuning.mode=full, not tuning.mode={mode}; leave it out"
            )
        if self.model.quantization != "none" and not (adapts or mode == "zero_shot"):
            raise ValueError(
                f"model.quantization={self.model.quantization} freezes the base in few bits, which "
                f"tuning.mode={mode} would train; use tuning.mode lora, dora or zero_shot"
            )
        return self
