//! Sockets and pipes handed through `exec` by number.
//!
//! Guarantees: a number that is not an open descriptor is an error, not a crash.
//! Must not: take the same number twice (each is taken once, by the code that read its name).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Lets `fd` survive the next `exec`.
pub(crate) fn keep_through_exec(fd: &impl AsRawFd) -> Result<RawFd> {
    let raw = fd.as_raw_fd();
    fcntl(borrow(raw), FcntlArg::F_SETFD(FdFlag::empty()))
        .with_context(|| format!("could not make descriptor {raw} survive exec"))?;
    Ok(raw)
}

/// Takes over a descriptor that the process before `exec` left open.
pub(crate) fn take(raw: RawFd) -> Result<OwnedFd> {
    if raw < 3 {
        bail!("descriptor {raw} is a standard stream, not something handed over");
    }
    fcntl(borrow(raw), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .with_context(|| format!("descriptor {raw} was promised but is not open"))?;
    #[expect(unsafe_code, reason = "the number came from the process before exec, is open, and is taken once")]
    let owned = unsafe { OwnedFd::from_raw_fd(raw) };
    Ok(owned)
}

fn borrow(raw: RawFd) -> BorrowedFd<'static> {
    #[expect(unsafe_code, reason = "only handed to fcntl, which answers EBADF for a closed number")]
    unsafe {
        BorrowedFd::borrow_raw(raw)
    }
}
