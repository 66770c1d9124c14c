//! Clients for the tests of names that no package brings: `java RESOLVER NAME PORT 4|6|any`, see [`dns::java`], and
//! `insider`, see [`dns::Insider`].

use std::env::args;

use anyhow::{Result, bail};
use egress_warden_tests::dns::{self, Family};

fn main() -> Result<()> {
    let args: Vec<String> = args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["java", resolver, name, port, family] => {
            let family = match *family {
                "4" => Some(Family::V4),
                "6" => Some(Family::V6),
                _ => None,
            };
            dns::java::lookup(resolver.parse()?, name, port.parse()?, family)
        }
        ["insider"] => dns::serve(),
        _ => bail!("usage: java RESOLVER NAME PORT 4|6|any, or insider"),
    }
}
