//! `cargo xtask vm`: the same cases on every supported kernel, each in a virtual machine.
//!
//! The way of a run: [`kernel`] fetches Debian's kernels, [`build`] makes static binaries, [`image`] packs them with
//! [`INIT`] into an initramfs, [`machine`] boots it, and inside, this very program runs the [`cases`]. What comes out
//! on the serial line is a [`report`], which is compared with the list of cases that had to come.

mod archive;
mod build;
mod cases;
mod guest;
mod image;
mod kernel;
mod machine;
mod module;
mod node;
mod packages;
mod report;
mod scenario;
mod scratch;

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::setup;
use kernel::{KERNELS, Kernel};
use report::Report;
use scratch::Scratch;

/// Help of the task.
pub(crate) const HELP: &str = "\
Usage: cargo xtask vm [--only VERSION]... [--refresh] [--verbose]

Boots Debian's kernels in virtual machines and checks on each that `egress-warden exec` enforces, counts, quarantines
and keeps its command inside, and that the agent enforces with a backstop, is taken over and is detached; on a kernel
that is too old, that both refuse and run nothing. Prints a table; fails
where a case fails or is missing, and where a kernel cannot be had.

  5.10   bullseye-security                must refuse
  6.1    bookworm-security or bookworm    must work
  6.12   bookworm-backports or trixie     must work

  --only VERSION   this kernel only; may be repeated
  --refresh        fetch the kernels again instead of taking those in target/vm
  --verbose        print all that the machines say

The kernels come by apt from the mirrors that this machine is set up for, with other suites, from an apt root of its
own: nothing is installed, and the machine's lists stay as they are. They are cached in target/vm. Needs no root and no
KVM once QEMU and busybox-static are installed (`cargo xtask setup build vm`). Takes about two minutes once the kernels are
there and the static binaries are built. A machine that does not power off within 180 s is ended.";

/// Makes the file systems of the test machine and starts the cases.
const INIT: &str = include_str!("init.sh");

/// How long one machine may take, from start to power-off. On two busy cores it took 15 to 87 s.
const DEADLINE: Duration = Duration::from_secs(180);

/// Runs the task.
pub(crate) fn task(args: &[String]) -> Result<()> {
    if let Some((guest::ARGUMENT, rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return guest::main(rest);
    }
    let options = Options::parse(args)?;
    setup::ensure(&[setup::Group::Build, setup::Group::Vm])?;
    let programs = build::programs()?;
    let mut reports = Vec::new();
    for kernel in &options.kernels {
        let report = try_kernel(kernel, &options, &programs);
        // The other kernels have something to say even where one cannot be had.
        reports.push(report.unwrap_or_else(|error| Report::none(kernel, &format!("{error:#}"))));
    }
    println!("\n{}", report::table(&reports));
    let problems: Vec<String> = reports.iter().flat_map(Report::problems).collect();
    if !problems.is_empty() {
        bail!("not every kernel passed\n  {}", problems.join("\n  "));
    }
    Ok(())
}

/// What the caller wants.
struct Options {
    kernels: Vec<&'static Kernel>,
    refresh: bool,
    verbose: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let (mut only, mut refresh, mut verbose) = (Vec::new(), false, false);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--refresh" => refresh = true,
                "--verbose" => verbose = true,
                "--only" => only.push(args.next().map_or("", String::as_str)),
                _ => bail!("unexpected argument `{arg}`; see `cargo xtask vm --help`"),
            }
        }
        if let Some(unknown) = only.iter().find(|name| KERNELS.iter().all(|kernel| kernel.version != **name))
        {
            let known: Vec<&str> = KERNELS.iter().map(|kernel| kernel.version).collect();
            bail!("--only `{unknown}`: the kernels are {}", known.join(", "));
        }
        let chosen = KERNELS.iter().filter(|kernel| only.is_empty() || only.contains(&kernel.version));
        Ok(Options { kernels: chosen.collect(), refresh, verbose })
    }
}

fn try_kernel(kernel: &'static Kernel, options: &Options, programs: &build::Programs) -> Result<Report> {
    let files = kernel.files(options.refresh)?;
    let scratch = Scratch::below(&kernel::cache_directory(), "boot")?;
    let image = scratch.path().join("initramfs");
    fs::write(&image, image::pack(&files, programs)?)?;
    println!("boot     {:<6} {}", kernel.version, files.release);
    let output = machine::boot(&files.vmlinuz, &image, kernel.expectation, DEADLINE)?;
    if options.verbose {
        output.lines.iter().for_each(|line| println!("  {line}"));
    }
    Ok(Report::new(kernel, &output))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(line: &str) -> Result<Vec<&'static str>> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Ok(Options::parse(&args)?.kernels.iter().map(|kernel| kernel.version).collect())
    }

    #[test]
    fn kernels_are_chosen_by_version() {
        assert_eq!(versions("").unwrap(), ["5.10", "6.1", "6.12"]);
        assert_eq!(versions("--only 6.12 --only 5.10 --refresh").unwrap(), ["5.10", "6.12"]);
        assert!(versions("--only 6.2").unwrap_err().to_string().contains("5.10, 6.1, 6.12"));
        assert!(versions("--only").is_err());
        assert!(versions("6.1").is_err());
    }
}
