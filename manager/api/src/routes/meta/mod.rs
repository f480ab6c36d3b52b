//! The Manager itself: health, documentation, and who the caller is.

pub mod document;
pub mod front;
pub mod health;
pub mod me;
pub mod problem;
