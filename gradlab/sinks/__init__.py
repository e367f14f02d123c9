"""Sinks, which a watch writes to: files, dashboards and functions of rows. Their libraries are loaded when needed."""

from gradlab.sinks.csv import CSV
from gradlab.sinks.jsonl import JSONL
from gradlab.sinks.mlflow import MLflow
from gradlab.sinks.parquet import Parquet
from gradlab.sinks.row import Row, scalar_name, scalars_by_step
from gradlab.sinks.sink import AnySink, FunctionSink, Sink, sink_of
from gradlab.sinks.tensorboard import TensorBoard
from gradlab.sinks.trackio import Trackio
from gradlab.sinks.wandb import WandB

__all__ = [
    "CSV",
    "JSONL",
    "AnySink",
    "FunctionSink",
    "MLflow",
    "Parquet",
    "Row",
    "Sink",
    "TensorBoard",
    "Trackio",
    "WandB",
    "scalar_name",
    "scalars_by_step",
    "sink_of",
]
