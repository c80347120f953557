"""What schedulers print, and what is understood of it. Slurm and Grid Engine are also asked themselves (tests/cluster).

The outputs are in the form of OpenPBS 23.06, Torque 6.1, LSF 10.1 (IBM's command reference), Slurm 22.05 with and
without accounting, and Grid Engine 8.1.9; some of PBS are recorded.
"""

from pathlib import Path

import pytest

from agent.jobs import Closed, JobEnd, LimitReached, QueueSilent, Rejected
from agent.queue.command import Ran, refusal, run
from agent.queue.dialect import Listed, seconds
from agent.queue.lsf import Lsf
from agent.queue.pbs import Pbs
from agent.queue.sge import Sge
from agent.queue.slurm import Slurm
from agent.queue.tags import Manifests, Tag, find_tag, scope_of

TAG = Tag("7", "0123abcd")
ARRAY = Tag("a0123456789ab", "0123abcd")


def ran(stdout="", stderr="", status=0, argv=("x",)):
    return Ran(tuple(argv), status, stdout, stderr)


# --------------------------------------------------------------------------------------- the tag


@pytest.mark.parametrize("tag", [TAG, ARRAY])
def test_a_tag_is_found_again(tag):
    assert find_tag(tag.text) == find_tag(f"x.{tag.name}") == find_tag(f"a {tag.text},b") == tag
    for other in ("", "fwagent", tag.text[:-1], tag.text + "0", tag.text.replace("fw", "")):
        assert find_tag(other) is None


def test_roots_and_databases_are_told_apart(tmp_path):
    scopes = {scope_of(name, tmp_path / root) for name in "ab" for root in "cd"}
    assert len(scopes) == 4
    assert scope_of("a", tmp_path / "c/../c/") in scopes


def test_manifests(tmp_path):
    written = Manifests(tmp_path)
    name, place = written.write([(70, "/a"), (71, "/b\udcff c")])
    assert (place / "launches").read_bytes() == b"70\t/a\n71\t/b\xff c\n"
    for manifests in (written, Manifests(tmp_path)):
        assert [manifests.launch_id(name, n) for n in (0, 1, 2, 3, None)] == [
            None,
            70,
            71,
            None,
            None,
        ]
        assert manifests.elements([71, 5]) == {name: {71: 2}}
    assert Manifests(tmp_path).launch_id("a" + "0" * 12, 1) is None


# ----------------------------------------------------------------------------------------- Slurm


def test_slurm_lists():
    text = """Welcome to the cluster
fwagent|JOBID|ST|REASON|COMMENT
fwagent|1|PD|Priority|fwagent:7:0123abcd
fwagent|2|R|None|(null)
fwagent|3_4|PD|JobHeldUser|fwagent:a0123456789ab:0123abcd
fwagent|3_[5-9%2]|PD|Resources|x | y
fwagent|5|OOM|OutOfMemory|
fwagent|6|??|None|
"""
    assert Slurm().read_listing([ran(text)]) == [
        Listed("1", TAG, "PENDING", "PD", "Priority"),
        Listed("2", None, "RUNNING", "R"),
        Listed("3_4", ARRAY, "HELD", "PD", "JobHeldUser", 4),
        Listed("3_[5-9%2]", None, "PENDING", "PD", "Resources"),
        Listed("5", None, "ENDED", "OOM", "OutOfMemory"),
        Listed("6", None, "RUNNING", "??"),
    ]


@pytest.mark.parametrize(
    "silent",
    [
        ran(""),
        ran("a banner\n"),
        ran("fwagent|JOBID|ST|REASON|COMMENT\nfwagent|x\n"),
        ran("fwagent|JOBID|ST|REASON|COMMENT\n", status=1),
        ran("", "slurm_load_jobs error: Unable to contact slurm controller", 1),
        ran("fwagent|JOBID|ST|REASON|COMMENT\n", status=None),
    ],
)
def test_slurm_is_silent(silent):
    with pytest.raises(QueueSilent):
        Slurm().read_listing([silent])


def test_slurm_accounts():
    text = """sacct: a warning
1|TIMEOUT|0:15|3605|60
2|OUT_OF_MEMORY|0:125|12|Partition_Limit
3_1|CANCELLED by 1000|0:0|0|60
4|RUNNING|0:0|5|60
5|NODE_FAIL|1:0|7|60
5.batch|CANCELLED||7|
"""
    assert list(Slurm().read_ends(ran(text, argv=["sacct"]))) == [
        JobEnd("1", "TIMEOUT", 0, 15, 3605, 3600, "TIMEOUT"),
        JobEnd("2", "OUT_OF_MEMORY", 0, 125, 12, None, "OUT_OF_MEMORY"),
        JobEnd("3_1", "CANCELLED", 0, None, 0, 3600, "CANCELLED by 1000"),
        JobEnd("5", "NODE_FAIL", 1, None, 7, 3600, "NODE_FAIL"),
    ]
    assert not list(Slurm().read_ends(ran("Slurm accounting storage is disabled", status=1)))


# ------------------------------------------------------------------------------------------- PBS

QSTAT = """Job Id: 14.pbs
    Job_Name = myscript_1
    Job_Owner = testu@f41a0fbae027
    job_state = Q
    queue = workq
    Submit_arguments = -v FWAGENT_LAUNCH=fwagent:9:0123abcd FW_submit.script
    Variable_List = PBS_O_HOME=/home/testu,PBS_O_LANG=C.UTF-8,
\tPBS_O_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bi
\tn:/usr/games,FWAGENT_LAUNCH=fwagent:7:0123
\tabcd,PBS_O_QUEUE=workq
    comment = Not Running: Insufficient amount of resource: ncpus

Job Id: 15[].pbs
    job_state = B
    array = True

Job Id: 15[2].pbs
    job_state = R
    Variable_List = A=1,FWAGENT_LAUNCH=fwagent:a0123456789ab:0123abcd

Job Id: 16.pbs
    job_state = H
"""


def test_pbs_lists():
    pbs = Pbs()
    first = ran("14.pbs\n15[].pbs\n16.pbs\n", argv=["qselect"])
    (details,) = pbs.details(first)
    assert details == ["qstat", "-f", "-t", "14.pbs", "15[].pbs", "16.pbs"]
    told = "Not Running: Insufficient amount of resource: ncpus"
    assert pbs.read_listing([ran(QSTAT, argv=details)]) == [
        Listed("14.pbs", TAG, "PENDING", "Q", told),
        Listed("15[2].pbs", ARRAY, "RUNNING", "R", "", 2),
        Listed("16.pbs", None, "HELD", "H"),
    ]
    # One that has left between the two.
    gone = ran(QSTAT, "qstat: Unknown Job Id 17.pbs", 153, details)
    assert len(pbs.read_listing([gone])) == 3


def test_pbs_lists_nothing():
    none = ran("", argv=["qselect"])
    assert Pbs().details(none) == []
    assert Pbs().read_listing([none]) == []


@pytest.mark.parametrize(
    "silent",
    [
        ran("", "pbs_iff: cannot connect to host", 1, ["qselect"]),
        ran("", "Connection refused", 0, ["qselect"]),
        ran(QSTAT, "qstat: cannot connect to server pbs (errno=111)", 111, ["qstat"]),
        ran("Job Id: 5.pbs\n    Job_Name = x\n", argv=["qstat"]),
    ],
)
def test_pbs_is_silent(silent):
    with pytest.raises(QueueSilent):
        Pbs().read_listing([silent])


# Recorded by others, some attributes left out. Torque's is of 2.5.7; of PBS Pro the years are known, 2016 and 2023
# (after what a login had printed), and of OpenPBS that it ran in a container of 2024, where ids have no server.
PBS_PRO_2023 = """junk that was printed
at the login

Job Id: 7013474.pbs
    Job_Name = job-01.pbs
    Job_Owner = user@cx3-2-29.cx3.hpc.ic.ac.uk
    job_state = Q
    queue = v1_gpu72
    Error_Path = cx3-2-29.cx3.hpc.ic.ac.uk:/rds/general/user/user/home/project-
\tdirectory/scripts/job-01.pbs.e7013474
    Resource_List.select = 1:ncpus=4:mem=8gb:ngpus=1:gpu_type=RTX6000:mpiprocs=
\t4:ompthreads=1
    Resource_List.walltime = 72:00:00
    substate = 10
    Variable_List = PBS_O_SYSTEM=Linux,PBS_O_SHELL=/bin/bash,
\tPBS_O_HOME=/rds/general/user/user/home,PBS_O_LOGNAME=user,
\tPBS_O_PATH=/rds/general/user/user/home/anaconda3/envs/tsk/bin:/rds/ge
\tneral/user/user/home/anaconda3/condabin,
\tPBS_O_MAIL=/var/spool/mail/user,PBS_O_QUEUE=v1_gpu72,
\tPBS_O_HOST=cx3-2-29.cx3.hpc.ic.ac.uk
    comment = Not Running: Insufficient amount of resource: ncpus
    eligible_time = 01:10:51
    Submit_arguments = -W group_list=hpc-gstan /rds/general/user/user/home/pro
\tject-directory/pbs_scripts/job-01.pbs
    estimated.exec_vnode = (cx3-10-8.cx3.hpc.ic.ac.uk:ncpus=4:mem=8388608kb:ngp
\tus=1)
    project = _pbs_project_default

"""
PBS_PRO_2016 = """Job Id: 7600424.pbs02
    resources_used.walltime = 00:00:04
    job_state = F
    Resource_List.walltime = 00:05:00
    stime = Tue Dec 13 14:09:33 2016
    session_id = 2708
    substate = 92
    Variable_List = PBS_O_SYSTEM=Linux,PBS_O_SHELL=/bin/bash,
\tPBS_O_PATH=/software/examples/:/home/user/local/bin:/usr/lib64/qt-3
\t.3/bin:/opt/pbs/default/bin,PBS_O_QUEUE=c1_workq
    comment = Job run at Tue Dec 13 at 14:09 on (node0088:ncpus=2:mem=1048576kb
\t:ngpus=0:nphis=0)+(node0094:ncpus=2:mem=1048576kb:ngpus=0:nphis=0) and finished
    run_count = 1
    Stageout_status = 1
    Exit_status = 0
    Submit_arguments = job.sh
    history_timestamp = 1481656302
"""
TORQUE_2_5_7 = """Job Id: 01.cert-34.pd.infn.it
    Job_Name = cream_921657923
    job_state = R
    queue = cert
    Resource_List.walltime = 36:00:00
    stagein = CREAM921657923_jobWrapper.sh.18190.15697.1377077844@cert-34.pd.infn.it
    substate = 11
    Variable_List = PBS_O_QUEUE=cert,PBS_O_HOME=/home/user,
\tPBS_O_LANG=en_US.UTF-8,PBS_O_LOGNAME=user,
\tPBS_O_HOST=cert-34.pd.infn.it,PBS_SERVER=cert-34.pd.infn.it,
\tPBS_O_WORKDIR=/var/tmp
    queue_rank = 23
    fault_tolerant = False

"""
OPENPBS_2024 = """Job Id: 14
    Job_Name = myscript_1
    resources_used.walltime = 00:00:00
    job_state = R
    exec_vnode = (f41a0fbae027:ncpus=1)
    Resource_List.walltime = 01:00:00
    Variable_List = PBS_O_HOME=/home/testu,PBS_O_LANG=C.UTF-8,
    PBS_O_LOGNAME=testu,
    PBS_O_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bi
    n:/usr/games:/usr/local/games:/snap/bin:/opt/pbs/bin,
    PBS_O_QUEUE=workq,PBS_O_HOST=f41a0fbae027
    comment = Job run at Sun Dec 29 at 20:13 on (f41a0fbae027:ncpus=1)
    run_count = 1
    Submit_arguments = test_submit.sh
"""


def with_tag(recorded):
    """A recorded job, as if it were ours: the tag is folded, as the last variable is cut at the width of a line."""
    head, last, rest = recorded.partition("PBS_O_QUEUE=")
    return f"{head}FWAGENT_LAUNCH=fwagent:7:01\n\t23abcd,{last}{rest}"


@pytest.mark.parametrize(
    ("recorded", "job_id", "state", "word", "reason"),
    [
        (PBS_PRO_2023, "7013474.pbs", "PENDING", "Q", "Not Running: Insufficient amount"),
        (PBS_PRO_2016, "7600424.pbs02", "ENDED", "F", "Job run at Tue Dec 13"),
        (TORQUE_2_5_7, "01.cert-34.pd.infn.it", "RUNNING", "R", ""),
        (OPENPBS_2024, "14", "RUNNING", "R", "Job run at Sun Dec 29"),
    ],
)
def test_pbs_as_it_was_recorded(recorded, job_id, state, word, reason):
    details = ["qstat", "-f", "-t", job_id]
    assert Pbs().details(ran(f"{job_id}\n", argv=["qselect"])) == [details]
    (found,) = Pbs().read_listing([ran(recorded, argv=details)])
    assert (found.job_id, found.tag, found.state, found.scheduler_state) == (
        job_id,
        None,
        state,
        word,
    )
    assert found.reason.startswith(reason)
    (ours,) = Pbs().read_listing([ran(with_tag(recorded), argv=details)])
    assert ours.tag == TAG
    assert Pbs().job_id(f"{job_id}\n") == job_id


def test_an_end_of_pbs_as_it_was_recorded():
    (end,) = Pbs().read_ends(ran(PBS_PRO_2016))
    assert (end.job_id, end.state, end.exit_code, end.elapsed, end.limit) == (
        "7600424.pbs02",
        "COMPLETED",
        0,
        4,
        300,
    )


@pytest.mark.parametrize(
    ("lines", "state", "code", "signal"),
    [
        ("Exit_status = 0", "COMPLETED", 0, None),
        ("Exit_status = 3", "FAILED", 3, None),
        ("Exit_status = -29", "TIMEOUT", -29, None),
        ("Exit_status = -27", "OUT_OF_MEMORY", -27, None),
        ("Exit_status = 271\n    resources_used.walltime = 01:00:05", "TIMEOUT", 271, 15),
        ("Exit_status = 265\n    resources_used.walltime = 00:00:05", "FAILED", 265, 9),
        ("Exit_status = 271\n    substate = 91", "CANCELLED", 271, 15),
        ("substate = 91", "CANCELLED", None, None),
    ],
)
def test_pbs_ends(lines, state, code, signal):
    text = f"Job Id: 5.pbs\n    job_state = F\n    Resource_List.walltime = 01:00:00\n    {lines}\n"
    (end,) = Pbs().read_ends(ran(text))
    assert (end.job_id, end.state, end.exit_code, end.signal, end.limit) == (
        "5.pbs",
        state,
        code,
        signal,
        3600,
    )
    torque = text.replace("= F", "= C").replace("Exit_status", "exit_status")
    assert [end.state for end in Pbs().read_ends(ran(torque))] == [state]
    assert list(Pbs().read_ends(ran(text.replace("= F", "= R")))) == []


def test_pbs_keeps_the_variables_of_a_script(tmp_path):
    text = "#!/bin/bash\n#PBS -N x -v A=1,B\n#PBS -V\necho -v no\n"
    submit = Pbs().submit(tmp_path, TAG, "n", text, 3)
    assert submit.argv == [
        "qsub",
        "-v",
        f"A=1,B,FWAGENT_LAUNCH={TAG.text}",
        "-J",
        "1-3",
        str(tmp_path),
    ]


# ------------------------------------------------------------------------------------------- LSF


def test_lsf_lists():
    text = """A banner | with a bar
JOBID|JOBINDEX|STAT|JOB_DESCRIPTION
101|0|PEND|fwagent:7:0123abcd
102|3|RUN|fwagent:a0123456789ab:0123abcd
103|0|PSUSP|-
104|0|EXIT|a | b
105|0|ZOMBI|-
"""
    assert Lsf().read_listing([ran(text)]) == [
        Listed("101", TAG, "PENDING", "PEND"),
        Listed("102[3]", ARRAY, "RUNNING", "RUN", "", 3),
        Listed("103", None, "HELD", "PSUSP"),
        Listed("104", None, "ENDED", "EXIT"),
        Listed("105", None, "RUNNING", "ZOMBI"),
    ]
    assert Lsf().read_listing([ran("", "No job found\n", 255)]) == []
    assert Lsf().read_listing([ran("No unfinished job found\n")]) == []


@pytest.mark.parametrize(
    "silent",
    [
        ran(""),
        ran("", "LSF is down. Please wait ...", 255),
        ran("JOBID|JOBINDEX|STAT|JOB_DESCRIPTION\nx|0|RUN|-\n"),
        ran("JOBID|JOBINDEX|STAT|JOB_DESCRIPTION\n1|0\n"),
        ran("", "No job found", None),
    ],
)
def test_lsf_is_silent(silent):
    with pytest.raises(QueueSilent):
        Lsf().read_listing([silent])


def test_lsf_ends():
    text = """JOBID|JOBINDEX|STAT|EXIT_CODE|RUN_TIME|EXIT_REASON
1|0|DONE|-|12 second(s)|-
2|3|EXIT|140|61 second(s)|TERM_RUNLIMIT: job killed after reaching LSF run time limit
3|0|EXIT|7|0.0 second(s)|-
4|0|RUN|-|5 second(s)|-
5|0|EXIT|130|5 second(s)|TERM_OWNER: job killed by owner
"""
    assert list(Lsf().read_ends(ran(text))) == [
        JobEnd("1", "COMPLETED", 0, None, 12),
        JobEnd(
            "2[3]",
            "TIMEOUT",
            140,
            12,
            61,
            None,
            "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
        ),
        JobEnd("3", "FAILED", 7, None, 0),
        JobEnd("5", "CANCELLED", 130, 2, 5, None, "TERM_OWNER: job killed by owner"),
    ]


# --------------------------------------------------------------------------------------- Grid Engine


def sge_job(word, name="x", task=""):
    task = f"<tasks>{task}</tasks>" if task else ""
    return f"<job_list><JB_job_number>4</JB_job_number><JB_name>{name}</JB_name><state>{word}</state>{task}</job_list>"


def sge_list(*jobs):
    return f"hello\n<?xml version='1.0'?>\n<job_info>{''.join(jobs)}</job_info>\nbye\n"


def test_sge_lists():
    words = {"qw": "PENDING", "hqw": "HELD", "Eqw": "HELD", "r": "RUNNING", "Rr": "RUNNING"}
    words |= {"t": "RUNNING", "dr": "ENDING", "dT": "ENDING", "T": "RUNNING", "S": "RUNNING"}
    words |= {"hRwq": "HELD", "EhRqw": "HELD", "z": "ENDED"}
    jobs = [sge_job(word) for word in words]
    assert [job.state for job in Sge().read_listing([ran(sge_list(*jobs))])] == list(words.values())
    text = sge_list(sge_job("r", f"n.{TAG.name}"), sge_job("qw", f"n.{ARRAY.name}", "2"))
    assert Sge().read_listing([ran(text)]) == [
        Listed("4", TAG, "RUNNING", "r"),
        Listed("4.2", ARRAY, "PENDING", "qw", "", 2),
    ]
    assert Sge().read_listing([ran(sge_list())]) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "<?xml version='1.0'?>\n<job_info>",
        "<?xml version='1.0'?><job_info><job_list></job_info>",
        "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]><job_info></job_info>",
        sge_list("<job_list><state>r</state></job_list>"),
    ],
)
def test_sge_is_silent(text):
    with pytest.raises(QueueSilent):
        Sge().read_listing([ran(text)])


# ------------------------------------------------------------------------------ what a submit says


@pytest.mark.parametrize(
    ("dialect", "stdout", "job_id"),
    [
        (Slurm(), "a banner 5\nSubmitted batch job 123 on cluster c\n", "123"),
        (Slurm(), "123\n", None),
        (Pbs(), "Welcome to node 7\n123.pbs-m1.example.org\n", "123.pbs-m1.example.org"),
        (Pbs(), "123[].pbs\n", "123[].pbs"),
        (Pbs(), "123\n", "123"),
        (Pbs(), "queued, 5 ahead\n", None),
        (Sge(), 'note 5\nYour job 44275 ("x") has been submitted\n', "44275"),
        (Sge(), 'Your job-array 7.1-3:1 ("x") has been submitted\n', "7"),
        (Sge(), "5\n", "5"),
        (Sge(), "7.1-3:1\n", "7"),
        (Sge(), '5\nYour job 44275 ("x") has been submitted\n', "44275"),
        (Sge(), "note 5\n", None),
        (Lsf(), "Welcome <5>!\nJob <101> is submitted to default queue <normal>.\n", "101"),
        (Lsf(), "Job <101> is submitted to default queue <normal>.\n", "101"),
        (Lsf(), "5\n", None),
    ],
)
def test_job_ids(dialect, stdout, job_id):
    assert dialect.job_id(stdout) == job_id


@pytest.mark.parametrize(
    ("dialect", "job_id", "element"),
    [
        (Slurm(), "5", "5_2"),
        (Pbs(), "5[].pbs", "5[2].pbs"),
        (Sge(), "5", "5.2"),
        (Lsf(), "5", "5[2]"),
    ],
)
def test_elements(dialect, job_id, element):
    assert dialect.element(job_id, 2) == element


@pytest.mark.parametrize(
    ("stderr", "kind", "doubtful"),
    [
        (("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates"
         " accounting/QOS policy (job submit limit, user's size and/or time limits)"), LimitReached, False),
        ("sbatch: error: AssocMaxSubmitJobLimit", LimitReached, False),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", LimitReached, False),
        ("qsub: would exceed queue generic's per-user limit", LimitReached, False),
        ("qsub: would exceed complex's per-user limit of jobs in 'Q' state", LimitReached, False),
        ("qsub: Maximum number of jobs already in queue", LimitReached, False),
        (("qsub: submit error (Maximum number of jobs already in queue for user MSG=total number of current user's"
         " jobs exceeds the queue limit: user x, queue y)"), LimitReached, False),
        ("Unable to run job: job rejected: only 2 jobs are allowed per user (current job count: 2).\nExiting.",
         LimitReached, False),
        ("User <u>: Pending job threshold reached. Retrying in 60 seconds...", LimitReached, False),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
         QueueSilent, False),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", QueueSilent, True),
        ("error: commlib error: got select error (Connection refused)", QueueSilent, False),
        ("error: commlib error: got read error (closing)", QueueSilent, True),
        ("qsub: cannot connect to server pbs (errno=15010)", QueueSilent, False),
        ("LSF is down. Please wait ...", QueueSilent, False),
        ("sbatch: error: invalid partition specified: x", Rejected, False),
        ("qsub: Unknown queue", Rejected, False),
        ("qsub: Job violates queue and/or server resource limits", Rejected, False),
        ("Unable to run job: unknown resource \"nope\".\nExiting.", Rejected, False),
        ("normal: No such queue. Job not submitted.", Rejected, False),
        (("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some"
         " limit)"), Rejected, False),
        # One job alone is over the limit, today and tomorrow.
        (("sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates"
         " accounting/QOS policy (job submit limit, user's size and/or time limits)"), Rejected, False),
        (("sbatch: error: AssocMaxCpuPerJobLimit\nsbatch: error: Batch job submission failed: Job violates"
         " accounting/QOS policy (job submit limit, user's size and/or time limits)"), Rejected, False),
        (("sbatch: error: QOSMinGRES\nsbatch: error: QOSMinCpuNotSatisfied\nsbatch: error: Batch job submission"
         " failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"),
         Rejected, False),
        # Nobody may submit now.
        ("sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)",
         Closed, False),
        ("sbatch: error: Batch job submission failed: I/O error writing script/environment to file",
         Closed, False),
        ("qsub: Queue is not enabled", Closed, False),
        ("normal: Queue has been closed. Job not submitted.", Closed, False),
        # The request has left, whatever failed before.
        ("sbatch: error: connect: Connection refused\nsbatch: error: Socket timed out on send/recv operation",
         QueueSilent, True),
        ("Unable to run job: Error reading answer list from qmaster\nExiting.", QueueSilent, True),
        # No word of the scheduler's.
        ("", QueueSilent, True),
    ],
)  # fmt: skip
def test_refusals(stderr, kind, doubtful):
    error, may_be_there = refusal(ran("", stderr, 1, ["/usr/bin/qsub", "x"]))
    assert type(error) is kind
    assert may_be_there is doubtful
    assert stderr.split("\n", 1)[0] in error.title


@pytest.mark.parametrize("status", [-9, -15, 137, 143])
def test_a_command_that_was_killed_has_refused_nothing(status):
    """Login nodes kill processes: the scheduler may have taken the job before."""
    for words in ("", "sbatch: line 3: 17 Killed  sbatch.real"):
        error, may_be_there = refusal(ran("", words, status))
        assert isinstance(error, QueueSilent)
        assert may_be_there
    assert isinstance(refusal(ran("", "qsub: Unknown queue", 170))[0], Rejected)


def test_a_name_for_grid_engine():
    """Of its own letters, and not too long; `-N` on the command line replaces the script's."""
    for name in ("a\x01b", "ünï", "a\x00b", "a:b/c", "\u2028", "1", "x" * 600):
        named = Sge().submit(Path("/s"), TAG, name, "").argv[3]
        assert named.isascii()
        assert named.isprintable()
        assert len(named) < 512
        assert named.endswith(TAG.name)
    assert Sge().submit(Path("/s"), TAG, "n", "#$ -N mine\n#$ -q x").argv[3] == f"mine.{TAG.name}"


def test_a_limit_that_is_waited_for_is_a_limit():
    late = ran("", "Pending job threshold reached. Retrying in 60 seconds...", None)
    error, may_be_there = refusal(late)
    assert isinstance(error, LimitReached)
    assert may_be_there
    assert refusal(ran("", "", None))[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5),
        ("5s", 5),
        ("1.5", 1.5),
        ("02:03", 123),
        ("1:02:03", 3723),
        ("1-02:03:04", 93784),
        ("1:02:03:04", 93784),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_times(text, expected):
    assert seconds(text) == expected


def test_what_no_command_can_be_given_is_no_crash():
    with pytest.raises(QueueSilent, match="sbatch cannot be run: embedded null byte"):
        run(["sbatch", "--comment=\0"], timeout=1)
