//! The attack matrix: what an attacker holds, what it tries, and what stops it.
//!
//! Each case is tried by one test, against the real broker, bridge, database, endpoint or code of the Operator: the test does what the
//! attacker does, passes on what came of it to [`stopped`], and lets the rightful party do the same beside it, which works. So a case
//! fails when its defence is gone, and when another part than the named one refuses. `docs/attacks.md` is written from here and from
//! the tests (`tests/gen`), so that neither has a case that the other lacks.

mod broker;
pub mod cluster;
mod clusters;
mod endpoint;
mod manager;

/// Attacks on one part of the product.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Heading of its table.
    pub title: &'static str,
    /// The source with the tests of its cases, from the root of the repository.
    pub test: &'static str,
    /// What stops them.
    pub defences: &'static [Defence],
}

/// What stops some attacks of one attacker.
#[derive(Debug, Clone, Copy)]
pub struct Defence {
    /// What the attacker has.
    pub holds: &'static str,
    /// Who stops it, and by what.
    pub stopped_by: &'static str,
    /// Part of what that says; upper and lower case are the same.
    pub says: &'static str,
    /// Id of each case, and what is tried.
    pub tried: &'static [(&'static str, &'static str)],
}

/// All of them, in the order of the page.
pub const TARGETS: [&[Target]; 4] = [broker::TARGETS, endpoint::TARGETS, clusters::TARGETS, manager::TARGETS];

/// Every target.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    TARGETS.into_iter().flatten()
}

/// The defence of a case.
///
/// # Panics
/// When there is no such case.
#[must_use]
#[track_caller]
pub fn defence(id: &str) -> &'static Defence {
    let mut defences = targets().flat_map(|target| target.defences);
    let found = defences.find(|defence| defence.tried.iter().any(|(known, _)| *known == id));
    found.unwrap_or_else(|| panic!("there is no case {id}"))
}

/// Asserts that what came of a case is the refusal that stops it.
///
/// # Panics
/// When something else came of it.
#[track_caller]
pub fn stopped(id: &str, said: &str) {
    let says = defence(id).says;
    assert!(
        said.to_lowercase().contains(&says.to_lowercase()),
        "{id} is stopped by {says:?}, and what came of it is {said:?}"
    );
}
