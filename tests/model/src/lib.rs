//! The command protocol as a model. The rules are those of `kubenova-core` and `kubenova-operator-core`; around them stand a
//! database, a broker and clusters in memory, so that a second runs through more crashes, losses and repetitions than a day of
//! scenarios.
//!
//! [`store`] does what the statements of `kubenova-store` do; `tests/store.rs` runs both side by side. [`cluster`] is what the API
//! server of a cluster holds, and [`operator`] what an Operator does with it, call by call; two work beside each other. [`world`] lets a seed decide what happens next, [`invariants`] looks after each step, and `cases` has
//! a test with a name for each known fault.

mod cases;
pub mod cluster;
pub mod invariants;
pub mod mutant;
pub mod operator;
pub mod random;
pub mod store;
pub mod world;
