//! Mutants: rules that a debug build breaks on demand, to see that a test notices.
//!
//! `KUBENOVA_MUTANT=<name>` breaks one rule. `tests/mutants.toml` says for each name what is broken and which test fails then;
//! `cargo dev mutants` runs them. Release builds contain none of it.

/// Whether the environment asks for this mutant.
#[must_use]
pub fn is_on(name: &str) -> bool {
    cfg!(debug_assertions) && wanted().is_some_and(|wanted| wanted == name)
}

fn wanted() -> Option<&'static str> {
    static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    WANTED.get_or_init(|| std::env::var("KUBENOVA_MUTANT").ok()).as_deref()
}
