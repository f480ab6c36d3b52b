//! The engine as bytes and back: levels, open windows, gaps, positions. Objects are not in it: they are listed again at
//! exactly the positions.
//!
//! A compact form of our own (a version byte, then variable-length integers and strings) because the largest sums do not
//! fit the integers of common formats. A reader refuses a version it does not know.

use super::{
    Levels,
    engine::{Engine, SOURCES},
    gap::{Gap, GapReason},
    window::{OpenWindow, OpenWindows, TenantLevels},
};
use kubenova_schema::{meters::Meter, window::Window};
use std::collections::BTreeMap;

const VERSION: u8 = 1;

/// Bytes that are not a checkpoint of a version this release reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint cannot be read at byte {at}: it is damaged or of a newer operator")]
pub struct CheckpointError {
    /// Where reading stopped.
    pub at: usize,
}

/// Writes one.
#[must_use]
pub fn to_bytes(engine: &Engine) -> Vec<u8> {
    let mut writer = Writer(vec![VERSION]);
    writer.integer(i128::from(engine.now_ms));
    writer.integer(i128::from(engine.sequence));
    writer.text(&engine.previous_manifest_sha256);
    for position in engine.positions {
        writer.integer(position.map_or(-1, i128::from));
    }
    writer.integer(i128::from(engine.windows.seconds));
    writer.length(Meter::ALL.len());
    writer.length(engine.windows.tenants.len());
    for (id, tenant) in &engine.windows.tenants {
        writer.text(id);
        writer.text(&tenant.name);
        writer.levels(tenant.levels);
    }
    writer.length(engine.windows.open.len());
    for open in &engine.windows.open {
        writer.integer(i128::from(open.window.start));
        writer.length(open.sums.len());
        for (id, sums) in &open.sums {
            writer.text(id);
            writer.levels(*sums);
        }
    }
    writer.length(engine.gaps.len());
    for gap in &engine.gaps {
        writer.integer(gap.reason as i128);
        writer.integer(i128::from(gap.start_ms));
        writer.integer(gap.end_ms.map_or(-1, i128::from));
        writer.integer(i128::from(gap.unbounded));
        writer.length(gap.bounds.len());
        for (start, bound) in &gap.bounds {
            writer.integer(i128::from(*start));
            writer.levels(*bound);
        }
    }
    writer.0
}

/// Reads one. Call [`Engine::begin`] on it next.
///
/// # Errors
/// When the bytes are damaged, or written by a newer release.
pub fn from_bytes(bytes: &[u8]) -> Result<Engine, CheckpointError> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.byte()? != VERSION {
        return Err(CheckpointError { at: 0 });
    }
    let now_ms = reader.number()?;
    let sequence = reader.number()?;
    let previous_manifest_sha256 = reader.text()?;
    let mut positions = [None; SOURCES];
    for position in &mut positions {
        *position = u64::try_from(reader.integer()?).ok();
    }
    let seconds: u32 = reader.number()?;
    let meters: usize = reader.number()?;
    if seconds == 0 || meters > Meter::ALL.len() {
        return Err(reader.error());
    }
    reader
        .times(|reader| {
            let id = reader.text()?;
            Ok((id, TenantLevels { name: reader.text()?, levels: reader.levels(meters)? }))
        })
        .and_then(|tenants| {
            let open = reader.times(|reader| {
                let window = Window { start: reader.number()?, seconds };
                let sums = reader.times(|reader| Ok((reader.text()?, reader.levels(meters)?)))?;
                Ok(OpenWindow { window, sums: sums.into_iter().collect() })
            })?;
            let gaps = reader.times(|reader| gap(reader, meters))?;
            if open.is_empty() || reader.at != bytes.len() {
                return Err(reader.error());
            }
            let windows = OpenWindows { seconds, tenants: tenants.into_iter().collect(), open };
            Ok(Engine::restored(windows, gaps, positions, now_ms, sequence, previous_manifest_sha256))
        })
}

fn gap(reader: &mut Reader<'_>, meters: usize) -> Result<Gap, CheckpointError> {
    let number: usize = reader.number()?;
    let reason = GapReason::ALL.get(number).copied().ok_or_else(|| reader.error())?;
    let start_ms = reader.number()?;
    let end_ms = i64::try_from(reader.integer()?).ok().filter(|end_ms| *end_ms >= 0);
    let unbounded = reader.number()?;
    let bounds: BTreeMap<i64, Levels> =
        reader.times(|reader| Ok((reader.number()?, reader.levels(meters)?)))?.into_iter().collect();
    Ok(Gap { reason, start_ms, end_ms, bounds, unbounded })
}

struct Writer(Vec<u8>);

impl Writer {
    /// Seven bits a byte, sign in the lowest bit.
    fn integer(&mut self, value: i128) {
        let mut rest = ((value << 1) ^ (value >> 127)).cast_unsigned();
        while rest >= 0x80 {
            self.0.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    fn length(&mut self, length: usize) {
        self.integer(length as i128);
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn levels(&mut self, levels: Levels) {
        for value in levels.0 {
            self.integer(value);
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    const fn error(&self) -> CheckpointError {
        CheckpointError { at: self.at }
    }

    fn byte(&mut self) -> Result<u8, CheckpointError> {
        let byte = self.bytes.get(self.at).copied().ok_or_else(|| self.error())?;
        self.at += 1;
        Ok(byte)
    }

    fn integer(&mut self) -> Result<i128, CheckpointError> {
        let mut value: u128 = 0;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
        }
        Err(self.error())
    }

    fn number<T: TryFrom<i128>>(&mut self) -> Result<T, CheckpointError> {
        let value = self.integer()?;
        T::try_from(value).map_err(|_| self.error())
    }

    fn text(&mut self) -> Result<String, CheckpointError> {
        let length: usize = self.number()?;
        let end = self.at.checked_add(length).ok_or_else(|| self.error())?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(|| self.error())?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.error())?.to_owned();
        self.at = end;
        Ok(text)
    }

    fn levels(&mut self, meters: usize) -> Result<Levels, CheckpointError> {
        let mut levels = Levels::ZERO;
        for value in levels.0.iter_mut().take(meters) {
            *value = self.integer()?;
        }
        Ok(levels)
    }

    fn times<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, CheckpointError>,
    ) -> Result<Vec<T>, CheckpointError> {
        let count: usize = self.number()?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(read(self)?);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::step_function::{Cause, Step};
    use proptest::prelude::*;

    fn engine(change: i128, position: Option<u64>) -> Engine {
        let mut engine = Engine::fresh(12_345, 10);
        engine.windows.name("t", "acme");
        engine.windows.apply(&Step {
            tenant_id: "t".into(),
            at_ms: 11_000,
            change: Levels([change; Meter::ALL.len()]),
            cause: Cause::Changed,
        });
        engine.advance(31_000);
        engine.positions = [position, Some(7), None];
        engine.previous_manifest_sha256 = "ab".into();
        let mut gap = Gap::begin(GapReason::WatchInterrupted, 12_000);
        gap.learned(Levels::only(Meter::Pods, change), 25_000, &engine.windows.open);
        gap.unbound(Meter::Namespaces);
        engine.gaps.push(gap);
        engine
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(change in -(1_i128 << 90)..(1_i128 << 90), position in proptest::option::of(any::<u64>())) {
            let engine = engine(change, position);
            prop_assert_eq!(from_bytes(&to_bytes(&engine)), Ok(engine));
        }

        #[test]
        fn damage_is_refused_and_never_panics(cut in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..64)) {
            let bytes = to_bytes(&engine(5, Some(3)));
            prop_assert!(from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
            let _either = from_bytes(&noise);
        }

        #[test]
        fn every_integer_reads_back(value in any::<i128>()) {
            let mut writer = Writer(Vec::new());
            writer.integer(value);
            let mut reader = Reader { bytes: &writer.0, at: 0 };
            prop_assert_eq!(reader.integer(), Ok(value));
        }
    }
}
