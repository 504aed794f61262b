"""The paper's figures and tables, measured again."""

from keras_fim.experiments.paper.bench import FULL, QUICK, PaperBench, Scale
from keras_fim.experiments.paper.reproduce import TARGETS, reproduce

__all__ = ["FULL", "QUICK", "TARGETS", "PaperBench", "Scale", "reproduce"]
