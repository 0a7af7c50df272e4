"""What is looked at while a run goes, kept of it and drawn; and when it is stopped."""

from training.watch.checking import Checker
from training.watch.comparing import BELOW, Comparison, compare
from training.watch.curves import draw_curves, read_log, threads_used
from training.watch.evaluation import features, knn_accuracy, patch_features
from training.watch.health import Health
from training.watch.monitor import Monitor
from training.watch.score import LAMBDA_POWER, over_lambda
from training.watch.trackers import check, open_trackers

__all__ = [
    "BELOW",
    "LAMBDA_POWER",
    "Checker",
    "Comparison",
    "Health",
    "Monitor",
    "check",
    "compare",
    "draw_curves",
    "features",
    "knn_accuracy",
    "open_trackers",
    "over_lambda",
    "patch_features",
    "read_log",
    "threads_used",
]
