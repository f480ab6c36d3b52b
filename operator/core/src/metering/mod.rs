//! Usage, computed without a client: what counts, how much of it, and for how long.
//!
//! Watch events become steps of a function of time, one function a tenant and meter; windows hold its exact integral.
//! Everything is an integer: millicore·ms, byte·ms, count·ms in `i128`. What could not be observed becomes a stated gap.
//! Before this: `operator/src/metering` (watches, clock). After it: sealing and publishing there.

pub mod pod_requests;

pub mod counted;

pub mod step_function;

pub mod window;

pub mod gap;

pub mod observed;

pub mod engine;

pub mod checkpoint;

pub mod receipts;

pub mod seal;

use kubenova_schema::meters::Meter;

/// One integer per meter, in the order of [`Meter::ALL`]: levels (millicores, bytes, counts) or sums of level × ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Levels(pub [i128; Meter::ALL.len()]);

impl Levels {
    /// Nothing of anything.
    pub const ZERO: Self = Self([0; Meter::ALL.len()]);

    /// One meter's value, the others zero.
    #[must_use]
    pub fn only(meter: Meter, value: i128) -> Self {
        Self::ZERO.with(meter, value)
    }

    /// The same with one meter's value replaced.
    #[must_use]
    pub fn with(mut self, meter: Meter, value: i128) -> Self {
        self.0[meter as usize] = value;
        self
    }

    /// One meter's value.
    #[must_use]
    pub fn get(&self, meter: Meter) -> i128 {
        self.0[meter as usize]
    }

    /// True when every meter is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// Each value by itself. Overflow would need 2^63 bytes held for 2^63 ms; it stops at the type's end.
    #[must_use]
    pub fn zip(self, other: Self, f: impl Fn(i128, i128) -> i128) -> Self {
        let mut result = self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = f(*value, other);
        }
        result
    }

    /// Sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, i128::saturating_add)
    }

    /// Difference.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.zip(other, i128::saturating_sub)
    }

    /// Held for so many milliseconds.
    #[must_use]
    pub fn for_ms(self, ms: i64) -> Self {
        self.zip(Self::ZERO, |value, _| value.saturating_mul(i128::from(ms)))
    }

    /// Without signs.
    #[must_use]
    pub fn magnitude(self) -> Self {
        self.zip(Self::ZERO, |value, _| value.saturating_abs())
    }

    /// The larger of the two, meter by meter.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.zip(other, Ord::max)
    }

    /// Meter names with values in text, as messages carry them.
    #[must_use]
    pub fn to_texts(self) -> std::collections::BTreeMap<String, String> {
        Meter::ALL.into_iter().map(|meter| (meter.as_str().to_owned(), self.get(meter).to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_stand_in_the_order_of_their_numbers() {
        for (index, meter) in Meter::ALL.into_iter().enumerate() {
            assert_eq!(meter as usize, index);
        }
    }
}
