//! The command protocol as a model. The rules are those of `kubenova-core` and `kubenova-operator-core`; around them stand a
//! database, a broker and clusters in memory, so that a second runs through more crashes, losses and repetitions than a day of
//! scenarios.
//!
//! [`store`] does what the statements of `kubenova-store` do; `tests/store.rs` runs both side by side. [`cluster`] is the inbox and
//! what is applied from it. [`world`] lets a seed decide what happens next, [`invariants`] looks after each step, and `cases` has
//! a test with a name for each known fault.

mod cases;
pub mod cluster;
pub mod invariants;
pub mod random;
pub mod store;
pub mod world;
