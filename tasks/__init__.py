"""What a flow is made of: plan, prepare, run a stage, evaluate, report. Prefect, MLflow and launching meet here."""

from tasks.environment import prepare

prepare()
