//! Names, in the laboratory of `egress_warden_tests::dns`: real resolvers, real clients, and every address that a name
//! leads to.
//!
//! What is here now is what the tests of names stand on: that without a policy each attempt succeeds and each forgery
//! arrives, so that a refusal later is the policy's doing.

#[path = "names/answers.rs"]
mod answers;
#[path = "names/clients.rs"]
mod clients;
#[path = "names/load.rs"]
mod load;
#[path = "names/packages.rs"]
mod packages;
#[path = "names/poison.rs"]
mod poison;
#[path = "names/search.rs"]
mod search;

#[expect(dead_code, reason = "of what the tests of the agent need, this needs a part")]
#[path = "agent/support.rs"]
mod support;

#[path = "names/ground.rs"]
mod ground;

#[path = "names/enforced"]
mod enforced {
    mod answers;
    mod audit;
    mod clients;
    mod exec;
    mod grants;
    mod ground;
    mod load;
    mod poison;
    mod search;
    mod tunnel;
}
