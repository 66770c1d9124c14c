//! docs/metrics.md is what the catalogue says. `cargo xtask codegen` writes it anew.

use std::fs;
use std::path::Path;

#[test]
fn the_page_is_that_of_the_catalogue() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let expected = egress_warden::metrics::docs::markdown();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&page, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(&page).unwrap_or_default();
    assert!(
        found == expected,
        "docs/metrics.md is stale: run `cargo xtask codegen` and commit what it writes"
    );
}
