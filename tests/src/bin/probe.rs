//! One attempt to reach a place, from whatever cgroup and namespace it is started in: `KIND ADDRESS:PORT MILLISECONDS`.
//! Prints the outcome on one line and exits with 0 if the attempt succeeded, 1 if not.
//!
//! Or datagrams made by hand: `frame SOURCE ADDRESS:PORT COUNT`, `packet SOURCE ADDRESS:PORT COUNT`, see
//! [`Forgery::send`].
//!
//! Or very many attempts from every processor at once: `flood REFUSED ALLOWED ATTEMPTS`, see [`flood::run`]; or the
//! near end of the benchmark: `bench PROCESSOR`, see [`bench::serve_commands`]; or attempts as they are asked for on
//! standard input: `prober`, see [`prober::serve`].

use std::env::args;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use egress_warden_tests::forge::Forgery;
use egress_warden_tests::probe::Attempt;
use egress_warden_tests::{bench, flood, prober};

fn main() -> Result<ExitCode> {
    let args: Vec<String> = args().skip(1).collect();
    if let [flood, refused, allowed, attempts] = &args[..]
        && flood == "flood"
    {
        flood::run(refused.parse()?, allowed.parse()?, attempts.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let [forgery, source, to, count] = &args[..] {
        forgery.parse::<Forgery>()?.send(source.parse()?, to.parse()?, count.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let [bench, cpu] = &args[..]
        && bench == "bench"
    {
        bench::serve_commands(cpu.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args == ["prober"] {
        prober::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let [attempt, to, timeout] = &args[..] else {
        bail!(
            "usage: KIND ADDRESS:PORT MILLISECONDS, frame|packet SOURCE ADDRESS:PORT COUNT, \
             flood REFUSED ALLOWED ATTEMPTS, bench PROCESSOR, or prober"
        )
    };
    let outcome = attempt.parse::<Attempt>()?.make(to.parse()?, Duration::from_millis(timeout.parse()?));
    println!("{outcome}");
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
