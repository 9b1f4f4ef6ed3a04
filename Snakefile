# Which notebook, with which parameters, makes which artefact. The stages stand in
# dollkit/pipeline.py; each instance of a profile becomes one rule here. `make reproduce` calls
# this; on a cluster: snakemake --config profile=paper data=DIR --executor slurm --jobs 20
import os
import shlex
import sys

sys.path.insert(0, workflow.basedir)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (workflow.basedir, os.environ.get("PYTHONPATH")))
)

from pathlib import Path

from dollkit import paths, pipeline
from dollkit.machine import cores
from dollkit.sources import sha256, tree_state

PROFILE = str(config.get("profile", "laptop"))
DATA = Path(str(config["data"])).resolve() if config.get("data") else None
WORKDIR = paths.runs() / PROFILE
PLAN = pipeline.plan(PROFILE, DATA)
DATA_STATE = {"d_0": f"files in the data folder {tree_state(DATA)}"} if DATA else {}


def quoted(text):
    return shlex.quote(str(text)).replace("{", "{{").replace("}", "}}")


PYTHON = quoted(sys.executable)
KNOBS = f"--profile {quoted(PROFILE)}" + (f" --data {quoted(DATA)}" if DATA else "")


# Relative to the run's folder: a clone that is moved, runs and all, needs no rerun.
def relative(file):
    return os.path.relpath(file, WORKDIR)


workdir: str(WORKDIR)


localrules:
    all,


rule all:
    input:
        [f"{instance.name}/manifest.json" for instance in PLAN],


for instance in PLAN:

    rule:
        name:
            instance.slug.replace("-", "_").replace(".", "_")
        input:
            upstream=[f"{name}/manifest.json" for name in instance.inputs],
            notebook=relative(instance.notebook),
            files=[relative(file) for file in instance.files],
        output:
            f"{instance.name}/manifest.json",
        params:
            instance=instance.name,
            # Text, so that Snakemake's reason reads "epochs = 4" -> "epochs = 5".
            **{f"p_{key}": f"{key} = {value!r}" for key, value in instance.parameters.items()},
            # Snakemake takes checksums of inputs when a job ends, and compares them only for files
            # newer than the output: a file edited while the job ran, or put back with an older
            # date, is noticed by these.
            **{
                f"f_{number}": f"{relative(file)} {sha256(file)[:16]}"
                for number, file in enumerate((instance.notebook, *instance.files))
            },
            # Nor does Snakemake see into the data folder: a film added there is noticed by this.
            **({} if instance.inputs else DATA_STATE),
        log:
            f"logs/{instance.slug}.log",
        # A stage that runs alone gets every core; of those with several instances each its share.
        threads: int(config.get("threads", 1)) if instance.stage.over else min(workflow.cores or 1, cores())
        shell:
            # Evaluated when the job runs: only what is the same for all rules may stand here.
            f"{PYTHON} -m dollkit.run {{params.instance}} {KNOBS} --log {{log}} --threads {{threads}}"
