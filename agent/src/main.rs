//! Temporary entry point.
use egress_warden::exec::{self, Cgroup, Jail};
use std::ffi::OsString;

fn main() {
    if let Some(code) = exec::run_helper() {
        std::process::exit(code);
    }
    std::process::exit(run().unwrap_or_else(|error| {
        eprintln!("egress-warden: {error:#}");
        exec::FAILED
    }));
}

fn run() -> anyhow::Result<i32> {
    let mut arguments = std::env::args_os().skip(2);
    let mut keep = exec::CapabilitySet::default();
    let mut command: Vec<OsString> = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "--keep-caps" {
            keep = arguments.next().unwrap_or_default().to_string_lossy().parse()?;
        } else if argument == "--" {
            command = arguments.by_ref().collect();
        }
    }
    Jail::check()?;
    let cgroup = Cgroup::create()?;
    let mut running = Jail::spawn(&cgroup, &command, &keep)?;
    let code = running.wait(&mut ());
    drop(running);
    cgroup.remove()?;
    Ok(code?)
}
