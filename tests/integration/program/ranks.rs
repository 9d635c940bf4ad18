//! `mpirun -n N dmd distill`: the bits of one process, and jobs that end when a rank does. Open MPI's options.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::distillation::{distillation, pictures, whole_and_shared};
use super::{dmd, losses};
use crate::support::tiny_model;

/// Longest time from the loss of a rank to the end of the job.
const END: Duration = Duration::from_secs(10);

/// Tells the processes of one job from those of others.
const JOB: &str = "DMD_TEST_JOB";

/// A job in a folder: ranks for each command line. It is killed where it hangs.
fn job(folder: &Path, lines: &[(usize, &[&str])]) -> Command {
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=5",
        "300",
        "mpirun",
        "--allow-run-as-root",
        "--oversubscribe",
        "--bind-to",
        "none",
    ]);
    for (i, (ranks, arguments)) in lines.iter().enumerate() {
        command.args((i > 0).then_some(":"));
        command.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_dmd")]).args(*arguments);
    }
    // Containers refuse copies across processes; Open MPI prints that and goes another way.
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    command.env(JOB, folder).current_dir(folder);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// The processes of a job: `None` is `mpirun`, a number a rank.
fn processes(folder: &Path) -> BTreeMap<Option<usize>, u32> {
    let job = format!("{JOB}={}", folder.display());
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let variables: Vec<_> = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if !variables.iter().any(|variable| *variable == job) || !["mpirun", "dmd"].contains(&name.trim()) {
            continue;
        }
        let rank = variables
            .iter()
            .find_map(|variable| variable.strip_prefix("OMPI_COMM_WORLD_RANK=")?.parse().ok());
        found.insert(rank, id);
    }
    found
}

/// Starts a job and sends a signal to one of its processes when the run has logged some steps. What it printed, and how
/// long it took to end.
fn interrupted(
    folder: &Path,
    ranks: usize,
    steps: usize,
    signal: &str,
    rank: Option<usize>,
) -> (Output, Duration) {
    let mut command = job(folder, &[(ranks, &["distill", "shared.toml"])]);
    let mut child: Child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while losses(&folder.join("shared")).len() < steps {
        assert!(start.elapsed().as_secs() < 280, "the run does not reach step {steps}");
        assert!(
            child.try_wait().unwrap().is_none(),
            "the job ended early: {}",
            text(&child.wait_with_output().unwrap())
        );
        sleep(Duration::from_millis(2));
    }
    let id = processes(folder)[&rank].to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    let sent = Instant::now();
    (child.wait_with_output().unwrap(), sent.elapsed())
}

/// A distillation of a generator of four steps with a critic, into `whole` and into `shared`.
fn four_steps(here: &Path, teacher: &tempfile::TempDir) {
    let mut config = distillation(teacher);
    config.remove("regression");
    config["data"] = pictures(here);
    let adversarial = toml::toml! { generator_weight = 1e-3
    critic_weight = 1e-2
    reals = 3 };
    config.insert("adversarial".to_owned(), adversarial.into());
    let generator = config["generator"].as_table_mut().unwrap();
    generator.insert("batch".to_owned(), 1.into());
    generator.insert("accumulate".to_owned(), 4.into());
    generator.insert("timesteps".to_owned(), toml::Value::from(vec![999, 749, 499, 249]));
    config["fake"]["steps_per_generator_step"] = 2.into();
    // An objective with random numbers of its own, and a fake score that is mixed with the generator.
    config["fake"].as_table_mut().unwrap().insert("alignment".to_owned(), 0.01.into());
    let objective = toml::toml! { decoupled_guidance = { first_timestep = 20, last_timestep = 500 } };
    config["matching"].as_table_mut().unwrap().insert("objective".to_owned(), objective.into());
    let pace = config["pace"].as_table_mut().unwrap();
    for (name, value) in [("steps", 12), ("log_every", 1), ("checkpoint_every", 2), ("grid_every", 100)] {
        pace.insert(name.to_owned(), value.into());
    }
    for output in ["whole", "shared"] {
        config["output"] = output.into();
        fs::write(here.join(format!("{output}.toml")), config.to_string()).unwrap();
    }
}

/// All files of a run by name, but for the clock and its own path.
fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false
                    if path
                        .extension()
                        .is_some_and(|ending| ["safetensors", "png"].iter().any(|e| ending == *e)) =>
                {
                    found.insert(path.strip_prefix(run).unwrap().to_owned(), fs::read(&path).unwrap());
                }
                false => {}
            }
        }
    }
    found
}

fn assert_equal_runs(here: &Path, which: &str) {
    let (whole, shared) = (here.join("whole"), here.join("shared"));
    assert_eq!(losses(&whole), losses(&shared), "{which}");
    let (whole, shared) = (files(&whole), files(&shared));
    assert_eq!(whole.keys().collect::<Vec<_>>(), shared.keys().collect::<Vec<_>>(), "{which}");
    assert!(whole.len() > 5, "{:?}", whole.keys());
    for (path, bytes) in &whole {
        assert!(*bytes == shared[path], "{which}: {} differs", path.display());
    }
}

/// 1, 2 and 4 ranks write, byte for byte, what one process does. Killed without warning and asked to stop by a signal, a
/// run goes on with another number of ranks.
#[test]
fn ranks_write_what_one_process_does() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    four_steps(here.path(), &model);
    let output = dmd(here.path(), &["distill", "whole.toml"]);
    assert!(output.status.success(), "{}", text(&output));
    for ranks in [1, 2, 4] {
        let output = job(here.path(), &[(ranks, &["distill", "shared.toml"])]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(text(&output).matches("draw with it").count(), 1, "one rank is heard: {}", text(&output));
        assert_equal_runs(here.path(), &format!("{ranks} ranks"));
        fs::remove_dir_all(here.path().join("shared")).unwrap();
    }

    let (output, took) = interrupted(here.path(), 2, 3, "-KILL", Some(1));
    assert!(!output.status.success() && took < END, "{took:?}: {}", text(&output));
    assert!(text(&output).contains("rank 1"), "{}", text(&output));
    let (output, took) = interrupted(here.path(), 4, 6, "-USR1", None);
    assert!(output.status.success() && took < END, "{took:?}: {}", text(&output));
    assert!(text(&output).contains("the same command resumes"), "{}", text(&output));
    assert!((6..12).contains(&losses(&here.path().join("shared")).len()), "the run was not stopped");
    let output = dmd(here.path(), &["distill", "shared.toml"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_equal_runs(here.path(), "killed, stopped, resumed");
}

/// Ranks that cannot train together end within seconds, and say which one differs.
#[test]
fn a_rank_that_differs_ends_the_job() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    four_steps(here.path(), &model);
    let text_of = |lines: &[(usize, &[&str])]| {
        let start = Instant::now();
        let output = job(here.path(), lines).output().unwrap();
        assert!(
            !output.status.success() && start.elapsed() < END,
            "{:?}: {}",
            start.elapsed(),
            text(&output)
        );
        text(&output)
    };
    let said = text_of(&[(1, &["distill", "shared.toml"]), (1, &["distill", "whole.toml"])]);
    assert!(said.contains("rank 1 was started with another configuration than rank 0"), "{said}");
    let said = text_of(&[(2, &["distill", "shared.toml"]), (1, &["distill", "nowhere.toml"])]);
    assert!(said.contains("rank 2: error: ") && said.contains("nowhere.toml"), "{said}");
    let said = text_of(&[(3, &["distill", "shared.toml"])]);
    assert!(said.contains("3 ranks cannot share 4 micro-batches"), "{said}");
    assert!(!here.path().join("whole").exists(), "a rank other than the first writes");
}

/// The ranks of a job share the pairs without an option.
#[test]
fn ranks_share_the_pairs() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    whole_and_shared(here.path(), &model);
    assert!(dmd(here.path(), &["pairs", "whole.toml"]).status.success());
    let output = job(here.path(), &[(2, &["pairs", "shared.toml"])]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("share 2/2"), "{}", text(&output));
    let (whole, shared) = (files(&here.path().join("whole")), files(&here.path().join("shared")));
    assert_eq!(whole.len(), 3);
    assert!(whole == shared, "shares differ from the whole");
}
