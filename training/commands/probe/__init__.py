"""The work of `jepack probe`, and its parts for others: encoders, labelled images, splits, scores."""

from training.commands.probe.command import run_probe
from training.commands.probe.opening import open_encoder, opened
from training.commands.probe.reading import read_images, read_labelled
from training.commands.probe.scoring import Score, logistic, score
from training.commands.probe.splitting import split_words, splits_of

__all__ = [
    "Score",
    "logistic",
    "open_encoder",
    "opened",
    "read_images",
    "read_labelled",
    "run_probe",
    "score",
    "split_words",
    "splits_of",
]
