//! What is in `deploy/` fits the program that it deploys: its flags, its configuration, its allowlists; and those who read
//! it, systemd and Kubernetes, understand it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::FromArgMatches;
use egress_warden::allowlist::Format;
use egress_warden::cli::check::{CheckArgs, check, compiled_size};
use egress_warden::cli::run::RunArgs;
use egress_warden::config::{Config, Flags};
use egress_warden::policy::Mode;
use serde::Deserialize;
use serde_yaml::Value;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy").join(file)
}

fn text(file: &str) -> String {
    fs::read_to_string(deploy(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn manifest() -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(&text("daemonset.yaml"))
        .map(|document| Value::deserialize(document).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(documents.len(), 4);
    documents
}

fn document<'v>(manifest: &'v [Value], kind: &str, name: &str) -> &'v Value {
    let found =
        manifest.iter().find(|document| document["kind"] == kind && document["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Writes the files of a ConfigMap into a directory, as a kubelet would.
fn written(config_map: &Value) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in config_map["data"].as_mapping().expect("data") {
        let path = directory.path().join(name.as_str().expect("a name"));
        fs::write(path, text.as_str().expect("a text")).unwrap();
    }
    directory
}

/// What a command line means to `run`.
fn run_args<'a>(words: impl IntoIterator<Item = &'a str>) -> RunArgs {
    let command = <RunArgs as clap::Args>::augment_args(clap::Command::new("run"));
    let words: Vec<&str> = words.into_iter().collect();
    let matches = command.try_get_matches_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    RunArgs::from_arg_matches(&matches).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_sequence().expect("a list").iter().map(|item| item.as_str().expect("a text")).collect()
}

#[test]
fn the_manifests_allowlists_are_good() {
    let manifest = manifest();
    let files = written(document(&manifest, "ConfigMap", "egress-warden-allowlists"));
    let args = CheckArgs { paths: vec![files.path().to_owned()], format: Format::Text };
    let outcome = check(&args, &compiled_size);
    assert!(outcome.good && outcome.errors.is_empty(), "{}", outcome.errors);
    let set = egress_warden::allowlist::load(&args.paths).unwrap();
    let policy = set.policy("training").expect("the policy");
    assert_eq!(policy.mode, Mode::Audit, "who applies the manifest as it is must not cut off a cluster");
}

#[test]
fn the_manifests_configuration_is_good_and_its_paths_are_mounted() {
    let manifest = manifest();
    let agent = document(&manifest, "ConfigMap", "egress-warden-config");
    let pod = &document(&manifest, "DaemonSet", "egress-warden")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let run = run_args(strings(&container["args"]));
    let file = run.config.expect("--config");
    let files = written(agent);
    let config = Config::load(Some(&files.path().join(file.file_name().unwrap())), Flags::default()).unwrap();
    let mounts: Vec<(&Path, &str)> = container["volumeMounts"]
        .as_sequence()
        .expect("mounts")
        .iter()
        .map(|mount| (Path::new(mount["mountPath"].as_str().unwrap()), mount["name"].as_str().unwrap()))
        .collect();
    let volume = |path: &Path| mounts.iter().find(|(at, _)| path.starts_with(at)).map(|(_, name)| *name);
    assert_eq!(volume(&file), Some("agent"));
    assert_eq!(volume(&config.allowlists[0]), Some("allowlists"));
    assert_eq!(volume(&config.state_dir), Some("state"));
    assert_eq!(volume(&config.control_socket), Some("run"));
    assert_eq!(volume(&config.pin_directory), Some("bpffs"));
    let port = container["ports"][0]["containerPort"].as_u64().unwrap();
    assert_eq!(u64::from(config.metrics_listen.port()), port);
    assert!(config.metrics_listen.ip().is_unspecified(), "a pod is scraped and probed at its own address");
    let volumes: Vec<&str> =
        pod["volumes"].as_sequence().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    assert!(mounts.iter().all(|(_, name)| volumes.contains(name)));
}

/// The value of each `key=` line of the unit.
fn unit_values<'t>(unit: &'t str, key: &str) -> Vec<&'t str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn unit_and_manifest_give_the_same_capabilities() {
    let manifest = manifest();
    let pod = &document(&manifest, "DaemonSet", "egress-warden")["spec"]["template"]["spec"];
    let capabilities = &pod["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(strings(&capabilities["drop"]), ["ALL"]);
    let unit = text("egress-warden.service");
    let bounding = unit_values(&unit, "CapabilityBoundingSet").concat();
    let of_unit: Vec<&str> =
        bounding.split(' ').map(|name| name.strip_prefix("CAP_").expect("its prefix")).collect();
    assert_eq!(strings(&capabilities["add"]), of_unit);
}

#[test]
fn the_units_command_line_and_example_configuration_are_good() {
    let unit = text("egress-warden.service");
    let [command] = unit_values(&unit, "ExecStart")[..] else { panic!("one ExecStart") };
    let (program, words) = command.split_once(' ').unwrap();
    assert!(program.starts_with('/'), "{program}");
    let config = run_args(words.split(' ')).config.expect("--config");
    assert_eq!(config, Path::new("/etc/egress-warden/config.yaml"));

    let example = Config::load(Some(&deploy("config.yaml")), Flags::default()).unwrap();
    assert_eq!(example.allowlists, [deploy("allowlists")]);
    // What stands behind a # is what is there without it.
    let uncommented: String = text("config.yaml")
        .lines()
        .filter(|line| !line.contains("the default is"))
        .map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line).to_owned() + "\n")
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    fs::write(&path, &uncommented).unwrap();
    let written_out = Config::load(Some(&path), Flags::default()).unwrap();
    assert_eq!(Config { allowlists: example.allowlists.clone(), ..written_out }, example, "{uncommented}");
}

/// Is this line a key with its value, and no sentence?
fn is_setting(line: &str) -> bool {
    line.split_once(": ").is_some_and(|(key, _)| !key.contains(' '))
}

#[test]
fn the_images_command_line_is_good() {
    let dockerfile = text("Dockerfile");
    let words = |key: &str| -> Vec<String> {
        let value = dockerfile.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        serde_json::from_str(value).unwrap()
    };
    let installed =
        dockerfile.lines().find_map(|line| line.strip_prefix("COPY --from=build ")).expect("COPY");
    assert_eq!(installed.split(' ').next_back(), Some(words("ENTRYPOINT")[0].as_str()));
    let command = words("CMD");
    assert!(run_args(command.iter().map(String::as_str)).config.is_some());
    let last = dockerfile.lines().rfind(|line| line.starts_with("FROM"));
    assert_eq!(last, Some("FROM scratch"), "only the agent is in the image");
}

#[test]
fn systemd_understands_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("egress-warden.service");
    // systemd wants the program to be there; any will do.
    let here = std::env::current_exe().unwrap();
    let unit = text("egress-warden.service").replace("/usr/local/bin/egress-warden", here.to_str().unwrap());
    fs::write(&path, unit).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .expect("systemd-analyze, of Debian's package systemd");
    let told = String::from_utf8_lossy(&output.stderr);
    // It looks at the units of the machine as well, which are not ours to judge.
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("egress-warden")).collect();
    assert!(output.status.success() && ours.is_empty(), "{told}");
}

/// A Python of the tests' own, with the schemas of Kubernetes in it.
fn validator() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-validate");
    let validator = directory.join("bin/kubernetes-validate");
    if !validator.exists() {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&directory));
        succeed(Command::new(directory.join("bin/pip")).args(["install", "--quiet", "kubernetes-validate"]));
    }
    validator
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}

#[test]
fn kubernetes_understands_the_manifest() {
    succeed(Command::new(validator()).arg("--strict").arg(deploy("daemonset.yaml")));
}
