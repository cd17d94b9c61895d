//! The clock in the CMOS memory (MC146818): reads as the host's wall-clock time, UTC. Alarms and the CMOS memory
//! itself do not exist; writes are ignored.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::PortEffect;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// Divider and rate of a running clock; update-in-progress never set, since a reading is of one moment.
const STATUS_A_RUNNING: u8 = 0x26;
/// 24-hour mode, binary-coded decimal.
const STATUS_B_24_HOURS: u8 = 0x02;
/// The battery is well.
const STATUS_D_VALID: u8 = 0x80;
/// Bit 7 of the index port masks NMIs and is not part of the index.
const INDEX_MASK: u8 = 0x7f;

const SECONDS_PER_DAY: u64 = 86_400;

/// The clock: its index register is all that it remembers.
#[derive(Debug, Default)]
pub(super) struct Rtc {
    index: AtomicU8,
}

impl Rtc {
    pub(super) fn select(&self, data: &[u8]) -> PortEffect {
        if let Some(index) = data.first() {
            self.index.store(index & INDEX_MASK, Ordering::Relaxed);
        }
        PortEffect::None
    }

    /// The register that is read next.
    pub(super) fn index(&self) -> u8 {
        self.index.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> u8 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        register(self.index.load(Ordering::Relaxed), since_epoch.as_secs())
    }
}

/// The register's content `now` seconds after 1970-01-01.
fn register(index: u8, now: u64) -> u8 {
    let (days, second_of_day) = (now / SECONDS_PER_DAY, now % SECONDS_PER_DAY);
    let (year, month, day) = civil_date(days);
    match index {
        SECONDS => decimal(second_of_day % 60),
        MINUTES => decimal(second_of_day / 60 % 60),
        HOURS => decimal(second_of_day / 3600),
        // 1970-01-01 was a Thursday; Sunday is 1.
        DAY_OF_WEEK => decimal((days + 4) % 7 + 1),
        DAY_OF_MONTH => decimal(day),
        MONTH => decimal(month),
        YEAR => decimal(year % 100),
        CENTURY => decimal(year / 100),
        STATUS_A => STATUS_A_RUNNING,
        STATUS_B => STATUS_B_24_HOURS,
        STATUS_D => STATUS_D_VALID,
        _ => 0,
    }
}

/// Two decimal digits in one byte.
fn decimal(value: u64) -> u8 {
    (((value / 10 % 10) << 4) | (value % 10)) as u8
}

/// Year, month and day of the proleptic Gregorian calendar, by counting in 400-year eras that begin on a 1 March, so
/// that the leap day is a year's last.
fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    let days = days_since_1970 + 719_468;
    let era = days / DAYS_PER_ERA;
    let day_of_era = days % DAYS_PER_ERA;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(now: u64) -> Vec<u8> {
        let registers = [CENTURY, YEAR, MONTH, DAY_OF_MONTH, HOURS, MINUTES, SECONDS, DAY_OF_WEEK];
        registers.iter().map(|index| register(*index, now)).collect()
    }

    #[test]
    fn registers_show_the_date_in_decimal() {
        // `date -u -d @1709210096`: Thu 2024-02-29 12:34:56.
        assert_eq!(read_all(1_709_210_096), [0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x56, 5]);
        // `date -u -d @4102444799`: Thu 2099-12-31 23:59:59.
        assert_eq!(read_all(4_102_444_799), [0x20, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59, 5]);
        assert_eq!(read_all(0), [0x19, 0x70, 0x01, 0x01, 0x00, 0x00, 0x00, 5]);
    }

    #[test]
    fn the_nmi_bit_is_no_part_of_the_index() {
        let rtc = Rtc::default();
        rtc.select(&[0x80 | STATUS_D]);
        assert_eq!(rtc.read(), STATUS_D_VALID);
    }
}
