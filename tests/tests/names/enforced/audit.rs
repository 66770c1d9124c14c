//! Audit: everything passes, and everything is counted.

use anyhow::{Result, ensure};
use egress_warden_tests::dns::{Client, Family, Resolver, Target};

use crate::ground::{FILES, Ground, RESOLVERS};

#[test]
fn names_pass_and_are_counted() -> Result<()> {
    let ground = Ground::new(&[FILES], &["mode: audit", RESOLVERS])?;
    for client in Client::CONNECTING {
        for name in ["files.index.test", "refused.test"] {
            let target = Target::new(name, 443, Some(Family::V4));
            let lookup = ground.lookup(client, &target, Resolver::Dnsmasq.address(Family::V4))?;
            ensure!(lookup.connected(), "{client:?} {name}: {lookup:?}");
        }
    }
    let counted = ground.violations()?;
    ensure!(counted.contains_key("dns_name") && counted.contains_key("not_allowlisted"), "{counted:?}");
    Ok(())
}
