//! The command line of Egress Warden.

use std::process::ExitCode;

fn main() -> ExitCode {
    // `exec` starts this program again as its helpers, which must be up before anything is parsed.
    if let Some(code) = egress_warden::exec::run_helper() {
        std::process::exit(code);
    }
    egress_warden::cli::main()
}
