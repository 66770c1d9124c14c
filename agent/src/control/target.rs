//! Which workload an operator means.

use std::fmt::Write as _;
use std::path::Path;

use crate::enforce::snapshot::WorkloadStatus;

/// Workloads that an error lists.
const LISTED: usize = 5;

/// The one workload that this names: by label, by path or by pod, or else by the end of one of them.
pub(super) fn find<'w>(wanted: &str, workloads: &'w [WorkloadStatus]) -> Result<&'w WorkloadStatus, String> {
    if wanted.is_empty() {
        return Err("no workload is named".into());
    }
    // The exact name of one workload may be the end of another's.
    let ways: [fn(&WorkloadStatus, &str) -> bool; 3] = [is, ends_with_components, ends_with];
    for way in ways {
        let found: Vec<&WorkloadStatus> = workloads.iter().filter(|one| way(one, wanted)).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(one),
            _ => return Err(format!("{wanted} could be any of {}:{}", found.len(), list(&found))),
        }
    }
    let close: Vec<&WorkloadStatus> = workloads.iter().filter(|one| contains(one, wanted)).collect();
    let all: Vec<&WorkloadStatus> = workloads.iter().collect();
    Err(match (close.is_empty(), all.is_empty()) {
        (false, _) => format!("no workload is called {wanted}; close ones:{}", list(&close)),
        (true, false) => format!("no workload is called {wanted}; there are:{}", list(&all)),
        (true, true) => format!("no workload is called {wanted}: no policy selects any on this node"),
    })
}

/// By what it is called: label, path, `namespace/name`, name.
fn names(workload: &WorkloadStatus) -> Vec<String> {
    let mut names = vec![workload.label.clone(), workload.path.display().to_string()];
    if let Some(pod) = &workload.pod {
        names.extend([format!("{}/{}", pod.namespace, pod.name), pod.name.clone()]);
    }
    names
}

fn is(workload: &WorkloadStatus, wanted: &str) -> bool {
    names(workload).iter().any(|name| name == wanted)
}

fn ends_with_components(workload: &WorkloadStatus, wanted: &str) -> bool {
    workload.path.ends_with(Path::new(wanted))
}

fn ends_with(workload: &WorkloadStatus, wanted: &str) -> bool {
    names(workload).iter().any(|name| name.ends_with(wanted))
}

fn contains(workload: &WorkloadStatus, wanted: &str) -> bool {
    let wanted = wanted.trim_matches('/').to_lowercase();
    !wanted.is_empty() && names(workload).iter().any(|name| name.to_lowercase().contains(&wanted))
}

fn list(workloads: &[&WorkloadStatus]) -> String {
    let mut text = String::new();
    for workload in workloads.iter().take(LISTED) {
        // Writing into a string cannot fail.
        let _ = write!(text, "\n  {}", workload.label);
        if let Some(pod) = &workload.pod {
            let _ = write!(text, " ({}/{})", pod.namespace, pod.name);
        }
    }
    if workloads.len() > LISTED {
        let _ = write!(text, "\n  and {} more: egress-warden status", workloads.len() - LISTED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing::workload;
    use super::*;

    fn found<'w>(wanted: &str, workloads: &'w [WorkloadStatus]) -> Result<&'w str, String> {
        find(wanted, workloads).map(|workload| workload.label.as_str())
    }

    #[test]
    fn a_workload_is_found_by_what_identifies_it() {
        let all = [workload("/jobs/a"), workload("/jobs/xa"), workload("/other/b"), workload("/jobs/a/b")];
        assert_eq!(found("/jobs/a", &all), Ok("/jobs/a"));
        assert_eq!(found("a", &all), Ok("/jobs/a"));
        assert_eq!(found("xa", &all), Ok("/jobs/xa"));
        assert_eq!(found("other/b", &all), Ok("/other/b"));
        assert_eq!(found("er/b", &all), Ok("/other/b"));
        assert_eq!(found("b", &all), Err("b could be any of 2:\n  /other/b\n  /jobs/a/b".into()));
        assert_eq!(found("othe", &all), Err("no workload is called othe; close ones:\n  /other/b".into()));
        assert!(found("nothing", &all).unwrap_err().contains("there are:\n  /jobs/a\n"));
        assert!(found("a", &[]).unwrap_err().contains("no policy selects any"));
        assert!(found("", &all).is_err());
    }
}
