"""FireWorks' templates of submit scripts: their variables are what users' my_qadapter.yaml files are written in.

As 2.1.4 has them (``fireworks/user_objects/queue_adapters``, (c) 2013 The Regents of the University of California,
through Lawrence Berkeley National Laboratory). ``$$name`` is a variable; a line with one that has no value goes.
"""

from __future__ import annotations

_BODY = """
$${pre_rocket}
cd $${launch_dir}
$${rocket_launch}
$${post_rocket}
"""
_LOGS = ("-o FW_job.out", "-e FW_job.error")

_SLURM = (
    ("nodes", "nodes"),
    ("ntasks", "ntasks"),
    ("ntasks-per-node", "ntasks_per_node"),
    ("ntasks-per-core", "ntasks_per_core"),
    ("core-spec", "core_spec"),
    ("exclude", "exclude_nodes"),
    ("cpus-per-task", "cpus_per_task"),
    ("gpus-per-task", "gpus_per_task"),
    ("gpus-per-node", "gpus_per_node"),
    ("gres", "gres"),
    ("gpus", "gpus"),
    ("gpu-bind", "gpu-bind"),
    ("qos", "qos"),
    ("time", "walltime"),
    ("time-min", "time_min"),
    ("partition", "queue"),
    ("account", "account"),
    ("job-name", "job_name"),
    ("license", "license"),
    ("output", "job_name}-%j.out"),
    ("error", "job_name}-%j.error"),
    ("constraint", "constraint"),
    ("signal", "signal"),
    ("mem", "mem"),
    ("mem-per-cpu", "mem_per_cpu"),
    ("mail-type", "mail_type"),
    ("mail-user", "mail_user"),
    ("image", "image"),
    ("volume", "volume"),
)


def _lines(prefix: str, *directives: str) -> str:
    return "".join(f"{prefix} {directive}\n" for directive in directives)


def _slurm() -> str:
    values = (value if "}" in value else f"{value}}}" for _option, value in _SLURM)
    options = (f"--{option}=$${{{value}" for (option, _), value in zip(_SLURM, values, strict=True))
    return _lines("#SBATCH", *options)


def _end(name: str) -> str:
    return f"\n# CommonAdapter ({name}) completed writing Template\n"


#: By ``_fw_q_type``.
TEMPLATES: dict[str, str] = {
    "PBS": "#!/bin/bash\n\n"
    + _lines(
        "#PBS",
        "-l mppwidth=$${mppwidth}",
        "-l nodes=$${nnodes}:ppn=$${ppnode}",
        "-l walltime=$${walltime}",
        "-q $${queue}",
        "-A $${account}",
        "-G $${group_name}",
        "-N $${job_name}",
        *_LOGS,
        "-V $${env}",
        "-M $${email} -m $${notification_options}",
        "-l pmem=$${pmem}",
        "-l filesystems=$${filesystems}",
    )
    + _BODY
    + _end("PBS"),
    "SGE": "#!/bin/bash\n\n"
    + _lines("#$", "-q $${queue}", "-A $${account}", "-N $${job_name}", *_LOGS)
    + _BODY
    + _end("SGE"),
    "Cobalt": "#!/bin/bash\n"
    + _lines(
        "#COBALT",
        "-n $${nnodes}",
        "-t $${walltime}",
        "-q $${queue}",
        "-A $${account}",
        "--jobname $${job_name}",
        *_LOGS,
    )
    + _BODY
    + _end("COBALT"),
    "SLURM": "#!/bin/bash -l\n\n" + _slurm() + "\n" + _BODY + _end("SLURM"),
    "LoadLeveler": "# @ shell=/bin/bash\n\n"
    + _lines(
        "# @",
        "class = $${queue}",
        "account_no = $${account}",
        "job_name = $${job_name}",
        "output = FW_job.out",
        "error = FW_job.error",
        "job_type = $${job_type}",
        "node_usage = $${node_usage}",
        "node = $${nnodes}",
        "tasks_per_node = $${ppnode}",
        "resources = $${resources}",
        "network.MPI = sn_all,not_shared,us",
        "wall_clock_limit = $${walltime}",
        "notification = $${notification}",
        "queue",
    )
    + _BODY
    + _end("LoadLeveler"),
    "LoadSharingFacility": _lines(
        "#BSUB",
        "-n $${ntasks}",
        "-W $${walltime}",
        "-q $${queue}",
        "-J $${job_name}",
        "-o $${job_name}-%J.out",
        "-e $${job_name}-%J.error",
    )
    + _BODY
    + _end("SLURM"),
    "MOAB": "#!/bin/bash\n\n"
    + _lines(
        "#MOAB",
        "-l nodes=$${nodes}:ppn=$${ppn}",
        "-l walltime=$${walltime}",
        "-N $${job_name}",
        "-j $${stdout_stderr}",
        "-q $${queue}",
        "-A $${account}",
    )
    + _BODY,
}
