# Which notebook, with which parameters, makes which artefact. The stages are listed in
# dollkit/workflow/stages.py; each instance of a profile becomes one rule here. `make reproduce` calls
# this; on a cluster, stages whose work can be shared get further rules, one for each share.
import os
import shlex
import sys

sys.path.insert(0, workflow.basedir)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (workflow.basedir, os.environ.get("PYTHONPATH")))
)

from pathlib import Path

from dollkit.common import paths
from dollkit.common.machine import cores, sha256
from dollkit.workflow import stages

PROFILE = str(config.get("profile", "laptop"))
DATA = Path(str(config["data"])).resolve() if config.get("data") else None
WORKDIR = paths.runs() / PROFILE
PLAN = stages.plan(PROFILE, DATA)
CLUSTER = config.get("executor", "local") != "local"
DATA_STATE = {"d_0": f"files in the data folder {stages.tree_state(DATA)}"} if DATA else {}


def quoted(text):
    return shlex.quote(str(text)).replace("{", "{{").replace("}", "}}")


PYTHON = quoted(sys.executable)
KNOBS = f"--profile {quoted(PROFILE)}" + (f" --data {quoted(DATA)}" if DATA else "")


# Relative to the run's folder: a clone that is moved, runs and all, needs no rerun.
def relative(file):
    return os.path.relpath(file, WORKDIR)


# Memory and minutes are in the workflow profile of a cluster; a GPU is for stages with networks.
def resources(instance):
    needs = instance.stage.family not in ("data", "tables", "figures", "claims")
    return {"gpu": 1} if CLUSTER and config.get("device") == "cuda" and needs else {}


def parts(instance):
    count = int(config.get("parts", 1))
    if count < 2 or not instance.stage.shared:
        return []
    return [f"parts/{instance.slug}-{number}-of-{count}" for number in range(1, count + 1)]


# What a stage is made by, beside the inputs that Snakemake watches.
def made_by(instance):
    files = (instance.notebook, *instance.files)
    # Text, so that Snakemake's reason reads "epochs = 4" -> "epochs = 5".
    own = {f"p_{key}": f"{key} = {value!r}" for key, value in instance.parameters.items()}
    # Snakemake takes checksums of inputs when a job ends, and compares them only for files newer
    # than the output: a file edited while the job ran, or put back with an older date, is noticed
    # by these.
    own |= {f"f_{i}": f"{relative(file)} {sha256(file)[:16]}" for i, file in enumerate(files)}
    # Nor does Snakemake see into the data folder: a film added there is noticed by this.
    return own | ({} if instance.inputs else DATA_STATE)


workdir: str(WORKDIR)


localrules:
    all,


rule all:
    input:
        [f"{instance.name}/manifest.json" for instance in PLAN],


for instance, done in [(i, d) for i in PLAN for d in parts(i)]:

    rule:
        name:
            Path(done).name.replace("-", "_").replace(".", "_")
        input:
            [f"{name}/manifest.json" for name in instance.inputs],
        output:
            temp(touch(done)),
        params:
            instance=instance.name,
            part=Path(done).name.removeprefix(f"{instance.slug}-").replace("-of-", "/"),
            **made_by(instance),
        log:
            f"logs/{Path(done).name}.log",
        message:
            "{params.instance}, part {params.part}"
        threads: int(config.get("threads", 1))
        resources:
            **resources(instance),
        shell:
            f"{PYTHON} -m dollkit run {{params.instance}} --with-parent --part {{params.part}} {KNOBS} --log {{log}} --threads {{threads}}"


for instance in PLAN:

    rule:
        name:
            instance.slug.replace("-", "_").replace(".", "_")
        input:
            upstream=[f"{name}/manifest.json" for name in instance.inputs],
            parts=parts(instance),
            notebook=relative(instance.notebook),
            files=[relative(file) for file in instance.files],
        output:
            f"{instance.name}/manifest.json",
        params:
            instance=instance.name,
            # Not by the files above: parts come and go with the place where a stage runs.
            inputs=" ".join(instance.inputs),
            **made_by(instance),
        log:
            f"logs/{instance.slug}.log",
        # In place of Snakemake's list of a hundred inputs.
        message:
            "{params.instance}"
        # A stage that runs alone gets every core; of those with several instances each its share.
        threads: int(config.get("threads", 1)) if instance.stage.over or CLUSTER else min(workflow.cores or 1, cores())
        # What others wait for goes first: else the cost of explanations would keep the labels waiting.
        priority: sum(instance.name in other.inputs for other in PLAN)
        resources:
            **resources(instance),
        # Minutes of work that follow each other: on a cluster one job.
        group:
            "evidence" if CLUSTER and instance.name in ("tables", "figures", "claims") else None
        shell:
            # Evaluated when the job runs: only what is the same for all rules may stand here.
            f"{PYTHON} -m dollkit run {{params.instance}} --with-parent {KNOBS} --log {{log}} --threads {{threads}}"
