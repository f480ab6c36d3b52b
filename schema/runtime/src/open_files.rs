//! How many files, sockets among them, this process may have open at once.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// The limit in force: the soft one of `RLIMIT_NOFILE`.
///
/// # Errors
/// When it cannot be read.
pub fn limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// Raises the soft limit to the hard one, as a process may by itself: the usual soft limit of 1024 is there for programs that use
/// `select(2)`. The limit in force afterwards.
///
/// # Errors
/// When it cannot be read or set.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let lower = hard.min(512);
        setrlimit(Resource::RLIMIT_NOFILE, lower, hard).unwrap();
        assert_eq!(limit().unwrap(), lower);
        assert_eq!(raise_limit().unwrap(), hard);
        assert_eq!(limit().unwrap(), hard);
    }
}
