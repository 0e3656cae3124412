"""Launchers: what is refused before a job starts, and that each runs a sweep as Hydra's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from entry_calls import SMALL_SMOKE

from rag_experiments import __main__ as entry
from rag_experiments.composition import launcher
from rag_experiments.composition.composer import Composer
from rag_experiments.contracts import UserError
from rag_experiments.sweep import outcomes

SLURM = Path(__file__).parent / "slurm"
SMOKE = [*SMALL_SMOKE, "trainer.max_steps=2"]


@pytest.fixture
def plan(monkeypatch, tmp_path):
    """Check a command line on a machine that has every program."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher.shutil, "which", lambda name: f"/usr/bin/{name}")

    def check(*overrides: str, multirun: bool = True) -> list[str]:
        try:
            Composer().plan(["+experiment=smoke", *overrides], multirun)
        except UserError as error:
            return list(error.problems)
        return []

    return check


@pytest.mark.parametrize("line", ["joblib", "slurm", "ray", "slurm hydra.launcher.exclude=node3"])
def test_a_ready_launcher_is_sound(plan, line):
    """Also with keys of the plugin that its file does not show."""
    assert plan(*f"hydra/launcher={line}".split(), "seed=1,2") == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["joblib", "hydra.launcher.n_jbs=2"],
            "hydra.launcher.n_jbs: unknown key; did you mean n_jobs? (legal here: n_jobs, backe",
        ),
        (
            ["joblib", "+hydra.launcher.n_jbs=2"],
            "hydra.launcher.n_jbs: unknown key; did you mean n_jobs? (legal here: n_jobs, backe",
        ),
        (
            ["joblib", "hydra.launcher.n_jobs=many"],
            "hydra.launcher.n_jobs=many: Value 'many' of type 'str' could not be converted to In",
        ),
        (
            ["slurm", "+hydra.launcher.gpus=2"],
            "hydra.launcher.gpus: unknown key (legal here: submitit_folder, timeout_min, cpus_p",
        ),
        (
            ["slurm", "hydra.launcher.timeout_min=long"],
            "hydra.launcher.timeout_min: Value 'long' of type 'str' could not be converted to In",
        ),
        (["ray", "+hydra.launcher.num_cpus=2"], "hydra.launcher.num_cpus: unknown key (legal here"),
    ],
)
def test_a_wrong_setting_of_a_launcher_is_one_line(plan, overrides, expected):
    name, setting = overrides
    (found,) = plan(f"hydra/launcher={name}", setting, "seed=1,2")
    assert found.startswith(expected), found
    assert "\n" not in found


def test_what_is_wrong_with_a_launcher_does_not_hide_what_is_wrong_with_a_job(plan):
    found = plan("hydra/launcher=joblib", "+hydra.launcher.n_jbs=2", "seed=1,-1", "sede=1")
    assert sorted(line.partition(":")[0] for line in found) == [
        "hydra.launcher.n_jbs",
        "sede",
        "seed",
    ]


@pytest.mark.parametrize(
    ("name", "extra"), [("joblib", "joblib"), ("slurm", "slurm"), ("ray", "ray")]
)
def test_a_launcher_that_is_not_installed_says_how_to_install_it(plan, monkeypatch, name, extra):
    monkeypatch.setattr(launcher, "find_spec", lambda _: None)
    assert plan(f"hydra/launcher={name}", "seed=1,2") == [
        f"hydra/launcher={name}: its packages are not installed: pip install -e '.[{extra}]'"
    ]


def test_slurm_away_from_its_cluster_is_refused(plan, monkeypatch):
    monkeypatch.setattr(launcher.shutil, "which", lambda name: None)
    (found,) = plan("hydra/launcher=slurm", "seed=1,2")
    assert found == (
        "hydra/launcher=slurm: no sbatch and srun here; start it on a machine of the cluster"
    )


def test_a_launcher_without_a_sweep_is_refused(plan):
    assert plan("hydra/launcher=joblib", multirun=False) == [
        "hydra/launcher=joblib: a launcher runs the jobs of a sweep: add -m"
    ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, dict]:
    """What the jobs of the sweep leave with the basic launcher, one after the other, here."""
    folder = tmp_path_factory.mktemp("basic")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["rag_experiments", "-m", *SMOKE, "seed=1,2", "tracking=none"])
        with pytest.raises(SystemExit) as exit_:
            entry.main()
        assert not exit_.value.code
    return jobs(folder)


def jobs(folder: Path) -> dict[str, dict]:
    """Metrics, curves and predictions of the jobs of the only sweep in a folder, by number."""
    (swept,) = folder.glob("outputs/sweeps/smoke/*")
    found = {}
    for number, outcome in outcomes.read(swept).items():
        assert not outcome.problems, outcome.problems
        job = swept / number
        values = json.loads((job / "metrics.json").read_text("utf-8"))
        del values["seconds"]
        rows = (job / "predictions_trained.jsonl").read_text("utf-8").splitlines()
        curves = [json.loads(line) for line in (job / "curves.jsonl").open()]
        assert len([point for point in curves if "train/loss" in point]) == 2
        found[number] = {
            "overrides": outcome.overrides,
            "metrics": values,
            "curves": curves,
            "answers": [json.loads(row)["prediction"] for row in rows],
            "passages": [json.loads(row)["passage_ids"] for row in rows],
        }
    assert list(found) == ["0", "1"]
    return found


def assert_same(found: dict[str, dict], expected: dict[str, dict]) -> None:
    """The same to the last digit but for the curves, which depend on the number of threads."""
    for number, job in expected.items():
        for name, value in job.items():
            if name != "curves":
                assert found[number][name] == value, (number, name)
        for point, other in zip(found[number]["curves"], job["curves"], strict=True):
            assert point == pytest.approx(other, rel=1e-3), number


def start(folder: Path, *overrides: str) -> str:
    """Run the sweep as a user starts it; return what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "rag_experiments", "-m", *SMOKE, "seed=1,2", *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_joblib_gives_what_the_basic_launcher_gives(expected, tmp_path, lay_store, monkeypatch):
    joblib = pytest.importorskip("joblib")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_store(tmp_path / "outputs" / "mlflow.db")
    start(tmp_path, "hydra/launcher=joblib")
    found = jobs(tmp_path)
    for job in found.values():
        job["overrides"] = (*job["overrides"], "tracking=none")
    assert_same(found, expected)
    recorded = [json.loads(p.read_text()) for p in tmp_path.rglob("environment.json")]
    assert [run["threads"] for run in recorded] == [max(1, joblib.cpu_count() // 2)] * 2


@pytest.mark.slow
def test_ray_gives_what_the_basic_launcher_gives(expected, tmp_path):
    pytest.importorskip("ray")
    cores = "hydra.launcher.ray.init.num_cpus=2"
    start(tmp_path, "tracking=none", "hydra/launcher=ray", cores)
    assert_same(jobs(tmp_path), expected)


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[None]:
    """A Slurm of this one machine."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if not all(shutil.which(name, path=path) for name in ("munged", "slurmctld", "slurmd")):
        pytest.skip("no Slurm (Debian: apt-get install slurm-wlm munge)")
    folder = tmp_path / "slurm"
    try:
        started = subprocess.run([SLURM / "start.sh", folder], capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
    finally:
        subprocess.run([SLURM / "stop.sh", folder])


@pytest.mark.slow
def test_slurm_gives_what_the_basic_launcher_gives(expected, cluster, tmp_path):
    small = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"]
    start(tmp_path, "tracking=none", "hydra/launcher=slurm", *small)
    assert_same(jobs(tmp_path), expected)
    (script,) = tmp_path.glob("outputs/sweeps/smoke/*/.submitit/*/*_submission.sh")
    assert "#SBATCH --array=0-1%2" in script.read_text()
