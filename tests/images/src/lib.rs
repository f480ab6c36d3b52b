//! The images of Operator and Manager: what goes into each ([`contents`]), a list of it ([`bill`]), and how buildah makes an OCI layout of it
//! ([`build`]) that can be unpacked again ([`layout`]).
//!
//! Guarantees: nothing is pulled unless a base is named; the recipes in `deploy/images` are the only ones.

pub mod bill;
pub mod build;
pub mod contents;
pub mod layout;

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// An image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// `kubenova/operator`.
    Operator,
    /// `kubenova/manager`.
    Manager,
}

impl Image {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Operator, Self::Manager];

    /// Its short name, of the recipe and of folders.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Manager => "manager",
        }
    }

    /// Its program, which is also the name of the package.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Operator => "kubenova-operator",
            Self::Manager => "kubenova-manager",
        }
    }
}

/// The version of both.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a program prints; an error has what it said.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
