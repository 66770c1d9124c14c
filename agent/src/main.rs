//! The command line of Egress Warden.

use std::process::ExitCode;

fn main() -> ExitCode {
    // `exec` and `selftest` start this program again as their helpers, which must be up before anything is parsed.
    if let Some(code) = egress_warden::exec::run_helper().or_else(egress_warden::selftest::run_helper) {
        std::process::exit(code);
    }
    egress_warden::cli::main()
}
