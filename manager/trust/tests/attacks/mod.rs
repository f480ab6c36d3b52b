//! Attacks on the broker, each with its case of the matrix (`tests/attacks`).

mod accounts;
mod clusters;
mod login;
mod roles;
mod streams;
