//! Usage: what each tenant used, from the ledger.

pub mod list;
