"""Judging audio: figures of one clip, anchors to compare with, pictures and the report folder."""

from wavflow.evaluation.metrics import (
    Interval,
    bits_per_sample,
    flac_bits,
    griffin_lim,
    level_db,
    log_spectral_distance,
    mean_interval,
    mel_l1,
    random_phase,
    rms_ratio,
    voicing_f1,
)
from wavflow.evaluation.pictures import curves_picture, spectrogram_picture
from wavflow.evaluation.report import write_report
from wavflow.evaluation.tables import markdown_table

__all__ = [
    "Interval",
    "bits_per_sample",
    "curves_picture",
    "flac_bits",
    "griffin_lim",
    "level_db",
    "log_spectral_distance",
    "markdown_table",
    "mean_interval",
    "mel_l1",
    "random_phase",
    "rms_ratio",
    "spectrogram_picture",
    "voicing_f1",
    "write_report",
]
