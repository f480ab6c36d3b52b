//! What the Manager says of itself.

pub mod document;
pub mod front;
pub mod health;
pub mod me;
