"""The metrics, each declared once: name in MLflow, unit, direction, column and format, requirements, provenance.

Tables, reports, sweeps, promotions and evaluations all read these declarations. To add a metric, declare it here and
compute it; a metric of images needs a function in ``engine/evaluation/feature_metrics``. This module does not import
torch.
"""

from gen_ray.metric_declaration import Metric, ProvenancePart

MODELLED_VALUES = ProvenancePart(
    attribute="family.modelled_values", keys=("family", "family.likelihood", "family.binarise", "family.name")
)

LIKELIHOOD_ROWS = ProvenancePart(attribute="evaluation.likelihood_rows", keys=("evaluation.likelihood_rows",))

BITS_PER_DIM = Metric(
    name="eval/bits_per_dim",
    unit="bits per dimension",
    label="bits per dimension",
    title="bits/dim",
    form="{:.3f}",
    objective=True,
    provenance={"values": MODELLED_VALUES, "rows": LIKELIHOOD_ROWS},
)
FRECHET_DISTANCE = Metric(
    name="eval/frechet_distance",
    unit="squared distance of features",
    label="Fréchet distance",
    title="Fréchet",
    form="{:.2f}",
    objective=True,
    needs_features=True,
    provenance={
        "samples": ProvenancePart(attribute="evaluation.samples", keys=("evaluation.samples",)),
        "neighbours": ProvenancePart(attribute="evaluation.neighbours", keys=("evaluation.neighbours",)),
    },
)
FRECHET_AT_FLOOR_ROWS = Metric(
    name="eval/frechet_distance_at_floor_rows",
    unit=FRECHET_DISTANCE.unit,
    label="Fréchet distance of as many samples as held-out images",
    title="Fréchet of",  # tables add the number of samples
    form=FRECHET_DISTANCE.form,
)
FRECHET_FLOOR = Metric(
    name="eval/frechet_floor",
    unit=FRECHET_DISTANCE.unit,
    label="Fréchet distance of held-out images",
    form=FRECHET_DISTANCE.form,
    needs_features=True,
    needs_held_out=True,
)
FRECHET_FLOOR_ROWS = f"{FRECHET_FLOOR.name}_rows"
"""The number of samples and of held-out images of both floor figures; recorded with them, not itself a metric."""
PRECISION = Metric(
    name="eval/precision",
    unit="share of samples",
    label="precision",
    higher_is_better=True,
    title="precision",
    form="{:.3f}",
    objective=True,
    needs_features=True,
    provenance_of=FRECHET_DISTANCE.name,
)
RECALL = Metric(
    name="eval/recall",
    unit="share of data",
    label="recall",
    higher_is_better=True,
    title="recall",
    form="{:.3f}",
    objective=True,
    needs_features=True,
    provenance_of=FRECHET_DISTANCE.name,
)
BITS_PER_ROW = Metric(
    name="eval/bits_per_row",
    unit="bits per row of a table",
    label="bits per row",
    title="bits/row",
    form="{:.3f}",
    provenance_of=BITS_PER_DIM.name,
)
BITS_BEYOND_MARGINALS = Metric(
    name="eval/bits_beyond_marginals",
    unit="bits per row minus those of independent columns",
    label="bits per row beyond marginals",
    title="beyond marginals",
    form="{:.3f}",
    objective=True,
    needs_table=True,
    in_any_coding=True,
    provenance={"values": MODELLED_VALUES, "rows": LIKELIHOOD_ROWS},
)
BITS_GAP = Metric(
    name="eval/bits_gap",
    unit="bits per dimension",
    label="gap in bits between held-out and training rows",
    title="gap",
    form="{:.3f}",
    provenance_of=BITS_PER_DIM.name,
)
NEAREST_TRAIN_SHARE = Metric(
    name="eval/nearest_train_share",
    unit="share of samples; 0.5 without copies",
    label="share of samples nearer to training than to held-out rows",
    title="copies",
    form="{:.3f}",
)
COLUMN_SHAPE_ERROR = Metric(
    name="eval/column_shape_error",
    unit="%",
    label="column-shape error",
    title="shape %",
    form="{:.2f}",
    objective=True,
    needs_table=True,
    provenance={
        "table_rows": ProvenancePart(attribute="evaluation.table_rows", keys=("evaluation.table_rows",)),
    },
)
PAIR_TREND_ERROR = Metric(
    name="eval/pair_trend_error",
    unit="%",
    label="pair-trend error",
    title="trend %",
    form="{:.2f}",
    objective=True,
    needs_table=True,
    provenance_of=COLUMN_SHAPE_ERROR.name,
)
DETECTION_AUC = Metric(
    name="eval/detection_auc",
    unit="AUC of a classifier of samples and held-out rows; 0.5 if it cannot tell them apart",
    label="detection AUC",
    title="detection",
    form="{:.3f}",
    objective=True,
    needs_table=True,
    provenance_of=COLUMN_SHAPE_ERROR.name,
)
DETECTION_FLOOR = Metric(
    name="eval/detection_floor",
    unit="AUC of a classifier of training and held-out rows",
    label="detection AUC of real rows",
    form="{:.3f}",
    provenance_of=COLUMN_SHAPE_ERROR.name,
)
PREDICTION_OF_SAMPLES = Metric(
    name="eval/prediction_of_samples",
    unit="AUC, accuracy or R² of the target in held-out rows",
    label="score of a predictor trained on samples",
    higher_is_better=True,
    title="prediction",
    form="{:.3f}",
    objective=True,
    needs_table=True,
    provenance_of=COLUMN_SHAPE_ERROR.name,
)
PREDICTION_OF_REAL = Metric(
    name="eval/prediction_of_real",
    unit=PREDICTION_OF_SAMPLES.unit,
    label="score of a predictor trained on as many real rows",
    higher_is_better=True,
    title="of real",
    form="{:.3f}",
    provenance_of=COLUMN_SHAPE_ERROR.name,
)
PREDICTION_GAP = Metric(
    name="eval/prediction_gap",
    unit=PREDICTION_OF_SAMPLES.unit,
    label="prediction lost by training on samples",
    form="{:.3f}",
    objective=True,
    needs_table=True,
    provenance_of=COLUMN_SHAPE_ERROR.name,
)
SECONDS_PER_IMAGE = Metric(
    name="sample/seconds_per_image",
    unit="seconds",
    label="seconds per sample",
    title="s/image",
    form="{:.2g}",
    objective=True,
    in_any_coding=True,
)
TRAINING_LOSS = Metric(name="train/loss_nats", unit="nats per example", label="training loss", progress="loss {:.4g}")
VALIDATION_LOSS = Metric(
    name="validation/loss_nats",
    unit="nats per example",
    label="validation loss",
    progress="validation {:.4g}",
    objective=True,
    provenance={"values": MODELLED_VALUES},  # where the loss is a bound on the likelihood
)
IMAGES_PER_SECOND = Metric(
    name="train/images_per_second",
    unit="examples per second",
    label="training throughput",
    higher_is_better=True,
    progress="{:,.0f}/s",
)
STEPS = Metric(name="train/steps", unit="steps", label="optimizer steps", title="steps", form="{:,.0f}")
TRAINING_MINUTES = Metric(name="train/minutes", unit="minutes", label="duration of the training")
EVALUATION_MINUTES = Metric(name="eval/minutes", unit="minutes", label="duration of the evaluation")
NGRAM_GAP = Metric(name="ngram_gap_bits", unit="bits per symbol", label="gap of the n-gram model")
"""Measured at promotions only."""

METRICS = (
    BITS_PER_DIM,
    FRECHET_DISTANCE,
    FRECHET_AT_FLOOR_ROWS,
    FRECHET_FLOOR,
    PRECISION,
    RECALL,
    BITS_PER_ROW,
    BITS_BEYOND_MARGINALS,
    COLUMN_SHAPE_ERROR,
    PAIR_TREND_ERROR,
    DETECTION_AUC,
    DETECTION_FLOOR,
    PREDICTION_OF_SAMPLES,
    PREDICTION_OF_REAL,
    PREDICTION_GAP,
    BITS_GAP,
    NEAREST_TRAIN_SHARE,
    SECONDS_PER_IMAGE,
    TRAINING_LOSS,
    VALIDATION_LOSS,
    IMAGES_PER_SECOND,
    STEPS,
    TRAINING_MINUTES,
    EVALUATION_MINUTES,
)
"""The metrics of runs. Tables have their columns in this order."""
HEADLINE = (BITS_PER_DIM, FRECHET_DISTANCE, COLUMN_SHAPE_ERROR)
"""The metrics that measure a model as a whole. Runs whose headline figures differ in provenance are not ranked."""


def declared(name: str) -> Metric:
    """Return the declaration of a metric. A metric without one has the defaults: lower is better, no column."""
    return next((metric for metric in METRICS if metric.name == name), Metric(name=name, unit="", label=name))


def label_of(key: str) -> str:
    """Return the noun for a metric of samples, given its name without prefix, as promotions record it."""
    return next((metric.label for metric in (*METRICS, NGRAM_GAP) if metric.key == key), key.replace("_", " "))


def sign(name: str) -> int:
    """Return 1 if lower is better, -1 if higher is better, so that sign × figure is to be minimised."""
    return -1 if declared(name).higher_is_better else 1


def standard_error_of(name: str) -> str:
    """Return the name under which the standard error of a metric is recorded, where it has one."""
    return f"{name}_standard_error"


def provenance_of(name: str) -> str:
    """Return the name of the metric under which the provenance of a metric is recorded."""
    return declared(name).provenance_of or name


def objectives() -> tuple[str, ...]:
    """Return the names of the metrics that a sweep can optimise."""
    return tuple(metric.name for metric in METRICS if metric.objective)
