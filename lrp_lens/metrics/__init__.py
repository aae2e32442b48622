"""Metrics: logits → one number per example, the quantity that relevance explains."""

from lrp_lens.metrics.functions import CallableMetric, MetricLike, as_metric
from lrp_lens.metrics.metric import BoundMetric, Metric
from lrp_lens.metrics.sequences import SequenceLogit, SequenceLogitDiff, SequenceLogProb
from lrp_lens.metrics.tokens import Logit, LogitDiff, LogProb, MeanContrast, RunnerUp, TopKContrast

__all__ = [
    "BoundMetric",
    "CallableMetric",
    "LogProb",
    "Logit",
    "LogitDiff",
    "MeanContrast",
    "Metric",
    "MetricLike",
    "RunnerUp",
    "SequenceLogProb",
    "SequenceLogit",
    "SequenceLogitDiff",
    "TopKContrast",
    "as_metric",
]
