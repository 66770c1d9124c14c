//! Which connections a workload in quarantine can no longer use.

use egress_warden_common::backend::Backend;
use egress_warden_common::decide::Clock;
use egress_warden_common::names::may_open;
use egress_warden_common::reason::IPPROTO_TCP;
use egress_warden_common::ruleset::{FLAG_AUDIT, Ruleset};
use egress_warden_common::{Address, Facts, Route, decide};

use crate::kernel::OpenAddress;
use crate::kernel::diag::Connection;
use crate::ruleset::class_of_name;

/// Says of a connection whether the kernel refuses its packets in quarantine: those are to be ended, the others go on.
/// `words` are those of its ruleset, `host_namespace` is what the kernel was told of the workload, `grants` the addresses that
/// were opened to it for names: a connection outlives the grant by which it began. Under a policy of mode audit nothing is refused.
pub fn refused_in_quarantine(
    words: Vec<u64>,
    clock: impl Clock + Send + Sync,
    host_namespace: bool,
    grants: Vec<OpenAddress>,
) -> impl Fn(&Connection) -> bool + Send + Sync {
    move |connection| {
        let ruleset = Ruleset::new(words.as_slice(), 0);
        let audit = ruleset.flags().is_some_and(|flags| flags & FLAG_AUDIT != 0);
        let facts = Facts {
            destination: connection.remote.into(),
            protocol: IPPROTO_TCP,
            port: connection.remote_port,
            route: connection.route,
            host_namespace,
            // In quarantine it makes no difference who began.
            reply: false,
            to_node: false,
            quarantined: true,
            own_resolver: false,
        };
        let verdict = decide(&ruleset, &clock, &facts);
        let refused = !verdict.reason.allows();
        let may_open = connection.route == Route::Uplink && may_open(verdict.reason);
        let kept_by_name = || {
            let names = grants.iter().filter(|open| open.address == connection.remote);
            // By its right in these words, which are those that its packets are judged by from now on.
            names.filter_map(|open| open.name.as_deref()).any(|name| {
                let class = class_of_name(&ruleset, name);
                ruleset.by_name(&clock, &facts, class, verdict).reason.allows()
            })
        };
        !audit && refused && !(may_open && kept_by_name())
    }
}

/// The same where a load balancer may stand between: what is connected with the backend of a service goes on with the service.
/// `backends` may be out of date: what is ended here only hears earlier of what the kernel refuses.
pub fn refused_behind_services(
    refused: impl Fn(&Connection) -> bool + Send + Sync,
    backends: Vec<Backend>,
) -> impl Fn(&Connection) -> bool + Send + Sync {
    move |connection| {
        let remote = Address::from(connection.remote);
        let kept = |backend: &Backend| {
            let service = Connection {
                remote: Address::from_bytes(backend.service).into(),
                remote_port: backend.service_port,
                ..connection.clone()
            };
            !refused(&service)
        };
        let mut services = backends.iter().filter(|backend| {
            backend.protocol == IPPROTO_TCP
                && backend.backend_port == connection.remote_port
                && Address::from_bytes(backend.backend) == remote
        });
        refused(connection) && !services.any(kept)
    }
}

#[cfg(test)]
mod tests {
    use egress_warden_common::decide::UNSYNCHRONISED;

    use super::*;
    use crate::policy::Mode;
    use crate::ruleset::compile;
    use crate::ruleset::testing::{name_rule, policy, rule};

    struct Never;

    impl Clock for Never {
        fn unix_seconds(&self) -> u64 {
            UNSYNCHRONISED
        }
    }

    fn to(remote: &str, remote_port: u16, route: Route) -> Connection {
        Connection {
            local: "10.2.0.1".parse().unwrap(),
            local_port: 40_000,
            remote: remote.parse().unwrap(),
            remote_port,
            protocol: IPPROTO_TCP,
            cookie: 1,
            established: true,
            cgroup: 1,
            route,
            host_namespace: false,
        }
    }

    #[test]
    fn what_is_open_for_a_name_that_is_kept_goes_on() {
        let mut policy = policy(Vec::new());
        policy.names = vec![
            name_rule("kept", 1, &["kept.example"], &[443]),
            name_rule("allowed", 2, &["allowed.example"], &[443]),
        ];
        policy.names[0].keep = true;
        policy.dns.judged = true;
        let open = |address: &str, name: Option<&str>| OpenAddress {
            address: address.parse().unwrap(),
            name: name.map(str::to_owned),
            since: 1,
            until: 2,
            generation: 1,
        };
        let grants = vec![
            open("93.184.216.1", Some("allowed.example")),
            open("93.184.216.1", Some("kept.example")),
            open("93.184.216.2", Some("allowed.example")),
            open("93.184.216.3", None),
            open("10.0.0.1", Some("kept.example")),
            open("93.184.216.4", Some("former.example")),
        ];
        let words = compile(&policy).unwrap().words;
        let judge = refused_in_quarantine(words, Never, false, grants);
        for (remote, port, ended) in [
            ("93.184.216.1", 443, false),
            ("93.184.216.1", 80, true),
            ("93.184.216.2", 443, true),
            ("93.184.216.3", 443, true),
            ("93.184.216.4", 443, true),
            ("93.184.216.5", 443, true),
            // Where no name may point by default.
            ("10.0.0.1", 443, true),
        ] {
            assert_eq!(judge(&to(remote, port, Route::Uplink)), ended, "{remote} {port}");
        }
    }

    #[test]
    fn what_is_kept_and_loopback_goes_on() {
        let mut policy = policy(vec![
            rule("allowed", 1, &["10.0.0.0/8"], &[]),
            rule("kept", 2, &["10.1.0.0/16", "fd00::/8"], &[]),
        ]);
        for rule in &mut policy.rules {
            rule.ports = vec![crate::policy::PortRange { protocol: IPPROTO_TCP, first: 443, last: 443 }];
        }
        policy.rules[1].keep = true;
        let cases = [
            (to("10.0.0.1", 443, Route::Uplink), true),
            (to("10.1.0.1", 443, Route::Uplink), false),
            (to("10.1.0.1", 444, Route::Uplink), true),
            (to("fd00::1", 443, Route::Uplink), false),
            (to("2001:db8::1", 443, Route::Uplink), true),
            (to("127.0.0.1", 80, Route::Loopback), false),
            (to("10.2.0.1", 80, Route::Loopback), false),
        ];
        let compiled = compile(&policy).unwrap();
        let judge = refused_in_quarantine(compiled.words.clone(), Never, false, Vec::new());
        for (connection, ended) in &cases {
            assert_eq!(judge(connection), *ended, "{connection:?}");
        }
        let on_host = refused_in_quarantine(compiled.words.clone(), Never, true, Vec::new());
        assert!(on_host(&cases[5].0), "loopback of the host is not the workload's own");
        let stands_for = |service: &str| Backend {
            backend: Address::from("2001:db8::1".parse::<std::net::IpAddr>().unwrap()).to_bytes(),
            service: Address::from(service.parse::<std::net::IpAddr>().unwrap()).to_bytes(),
            backend_port: 443,
            service_port: 443,
            protocol: IPPROTO_TCP,
            ..Backend::default()
        };
        for (service, ended) in [("10.1.0.7", false), ("10.0.0.7", true)] {
            let refused = refused_in_quarantine(compiled.words.clone(), Never, false, Vec::new());
            let judge = refused_behind_services(refused, vec![stands_for(service)]);
            assert_eq!(judge(&cases[4].0), ended, "the backend of a service that is kept, or is not");
            assert!(judge(&cases[2].0), "what stands for no service");
        }
        policy.mode = Mode::Audit;
        let compiled = compile(&policy).unwrap();
        let audit = refused_in_quarantine(compiled.words.clone(), Never, false, Vec::new());
        assert!(cases.iter().all(|(connection, _)| !audit(connection)));
    }
}
