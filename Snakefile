# From configuration to tables and figures:
#   snakemake --cores all [--config experiment=NAME root=FOLDER wandb=MODE]
# Hydra's files under conf/ say what is computed; nothing here does.
import os
import shlex
import sys

from snakemake.exceptions import WorkflowError

from pahq.errors import PahqError
from pahq.experiment import groups

EXPERIMENT = str(config.get("experiment", "default"))
ROOT = str(config.get("root", "results"))
ENVIRONMENT = workflow.source_path("environment.yml")
# Rules say `python`, and mean the one that runs Snakemake, whether or not its environment is activated.
os.environ["PATH"] = os.pathsep.join(
    [os.path.dirname(sys.executable), os.environ["PATH"]]
)
try:
    GROUPS = groups(EXPERIMENT)
except PahqError as error:
    raise WorkflowError(str(error)) from None


include: "workflow/rules/models.smk"
include: "workflow/rules/acdc.smk"
include: "workflow/rules/pahq.smk"
include: "workflow/rules/analysis.smk"


rule all:
    default_target: True
    input:
        rules.tables.output,
        rules.figures.output,
