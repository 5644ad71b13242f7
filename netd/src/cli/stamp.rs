//! Moments as they are printed.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// With date and zone: it is compared with the logs of other machines.
pub(super) fn stamp(time: Timestamp) -> String {
    let time = time.to_zoned(TimeZone::system());
    time.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}
