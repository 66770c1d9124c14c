//! The DNS walker on messages that are built here, whole, cut and changed.

#[path = "dns/answers.rs"]
mod answers;
#[path = "dns/build.rs"]
mod build;
#[path = "dns/chains.rs"]
mod chains;
#[path = "dns/names.rs"]
mod names;
#[path = "dns/query.rs"]
mod query;
#[path = "dns/services.rs"]
mod services;
